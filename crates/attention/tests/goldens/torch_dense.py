"""Makes the goldens of dense attention: outputs of PyTorch's attention, and gradients by its autograd, in float64.

    pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
    python torch_dense.py

It writes next to itself, for tests/laws/peers.rs, dense.json, a list of cases with their options, and dense.safetensors with CASE/NAME:
q do out [B, T, H, D or E], k v [B, S, G, D or E], lse dlse [B, T, H]; where they are options bias, sinks [H], slopes [H], keep [B, S] of 0
and 1; and `dNAME` for q, k, v, bias and sinks: the gradient of sum(out * do) + sum(lse * dlse). `out` is that of
scaled_dot_product_attention, or with a soft-cap that of transformers' Gemma 2, or with sinks that of its gpt-oss; slopes are those of its
Bloom. `lse` is the logarithm of the sum of the exponentials of the scores and of the sink. A query without a key has the output 0, lse
-inf, and no dlse. Inputs and cotangents are values that float32 holds exactly; everything is stored as float32.
"""
import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from make import save, uniform
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss

HERE = Path(__file__).parent
SIZES = dict(b=1, t=33, s=None, h=2, g=None, d=8, e=None)
OPTIONS = dict(causal=False, scale=None, softcap=None, bias=None, alibi=False, sinks=False, keep=None, packed=None)
# Sequences that are padded on the right, and on the left with a hole.
PADDED = [list(range(20)), [j for j in range(9, 33) if j != 25]]
CASES = {
    "plain": dict(),
    "causal": dict(t=70, h=1, causal=True),
    "late": dict(s=70, h=1, causal=True),
    "grouped": dict(h=4, g=2, causal=True),
    "one_group": dict(h=4, g=1),
    "scaled": dict(s=70, h=1, scale=0.25),
    "bias": dict(b=2, d=5, bias=(2, 2)),
    "bias_of_heads": dict(b=2, bias=(1, 2), causal=True),
    "bias_of_sequences": dict(b=2, bias=(2, 1)),
    "bias_of_all": dict(b=2, bias=(1, 1), s=47, causal=True),
    "alibi": dict(h=6, d=2, causal=True, alibi=True),
    "alibi_both_ways": dict(h=4, d=4, g=2, alibi=True),
    "softcap": dict(h=4, g=2, causal=True, softcap=2.0),
    "softcap_bias": dict(bias=(1, 2), softcap=1.5),
    "sinks": dict(h=4, g=2, causal=True, sinks=True),
    "sinks_padded": dict(b=2, g=1, causal=True, sinks=True, keep=PADDED),
    "padded": dict(b=2, h=1, causal=True, keep=PADDED),
    "packed": dict(t=70, h=1, causal=True, packed=[0, 10, 10, 33, 70]),
    "packed_both_ways": dict(t=70, h=1, packed=[0, 1, 34, 70]),
    "odd": dict(s=70, d=5, e=3),
    "wide": dict(h=1, d=80, causal=True),
}


def visible(b, t, s, causal, keep, packed):
    """Which keys are seen, [B or 1, 1, T, S]; None for all."""
    i, j = torch.arange(s - t, s)[:, None], torch.arange(s)
    seen = (j <= i if causal else torch.ones(t, s, dtype=torch.bool))[None, None]
    if packed:
        own = torch.bucketize(torch.arange(s), torch.tensor(packed[1:]), right=True)
        seen = seen & (own[i] == own)
    if keep:
        kept = torch.tensor([[j in row for j in range(s)] for row in keep])
        seen = seen & kept[:, None, None]
    return None if seen.all() else seen


def attention(q, k, v, bias, sinks, slopes, *, seen, causal, scale, softcap):
    """What others compute, and the log-sum-exp. Everything [B, H, T, D] here."""
    groups, t, s = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    added = bias
    if slopes is not None:
        i, j = torch.arange(s - t, s)[:, None], torch.arange(s)
        added = -slopes[:, None, None] * (i - j).abs()
    # The scores again, for their log-sum-exp.
    y = q @ k.repeat_interleave(groups, 1).transpose(2, 3) * scale
    y = softcap * torch.tanh(y / softcap) if softcap else y
    y = y if added is None else y + added
    y = y if seen is None else y.masked_fill(~seen, -math.inf)
    if sinks is not None:
        y = torch.cat([y, sinks[None, :, None, None].expand(*y.shape[:3], 1)], -1)
    blind = (y == -math.inf).all(-1)
    lse = y.masked_fill(blind[..., None], 0).logsumexp(-1).masked_fill(blind, -math.inf)

    mask = added
    if seen is not None:
        mask = (torch.zeros(()).double() if mask is None else mask).masked_fill(~seen, -math.inf)
    module = SimpleNamespace(num_key_value_groups=groups, training=False, sinks=sinks)
    if softcap:
        out = gemma2(module, q, k, v, mask, scaling=scale, softcap=softcap)[0].transpose(1, 2)
    elif sinks is not None:
        out = gpt_oss(module, q, k, v, mask, scaling=scale)[0].transpose(1, 2)
    elif causal == "alone":
        form = dict(is_causal=True) if t == s else dict(attn_mask=causal_lower_right(t, s))
        out = scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True, **form)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return out, lse, blind


def make(name, seed, of):
    """The tensors of a case, and its options."""
    sizes = {key: of.get(key, default) for key, default in SIZES.items()}
    options = {key: of.get(key, default) for key, default in OPTIONS.items()}
    b, t, h, d = (sizes[key] for key in "bthd")
    s, g, e = sizes["s"] or t, sizes["g"] or h, sizes["e"] or d
    generator = torch.Generator().manual_seed(seed)
    inputs = {"q": uniform(generator, -2, 2, b, t, h, d), "k": uniform(generator, -2, 2, b, s, g, d)}
    inputs["v"] = uniform(generator, -2, 2, b, s, g, e)
    if options["bias"]:
        inputs["bias"] = uniform(generator, -3, 3, *options["bias"], t, s)
    if options["sinks"]:
        inputs["sinks"] = uniform(generator, -1, 3, h)
    slopes = _get_alibi_slopes(h, "cpu").double() if options["alibi"] else None
    leaves = {key: x.clone().requires_grad_() for key, x in inputs.items()}
    seen = visible(b, t, s, options["causal"], options["keep"], options["packed"])
    alone = not (options["keep"] or options["packed"] or options["bias"] or options["alibi"])
    out, lse, blind = attention(
        *(leaves[key].transpose(1, 2) for key in "qkv"), leaves.get("bias"), leaves.get("sinks"), slopes, seen=seen,
        causal="alone" if options["causal"] and alone else None, scale=options["scale"] or d**-0.5,
        softcap=options["softcap"],
    )  # fmt: skip
    do, dlse = uniform(generator, -1, 1, b, t, h, e), uniform(generator, -1, 1, b, t, h)
    out, lse, blind = out.transpose(1, 2), lse.transpose(1, 2), blind.transpose(1, 2)
    dlse = dlse.masked_fill(blind, 0)
    loss = (out * do).sum() + (lse.masked_fill(blind, 0) * dlse).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    tensors = inputs | {"do": do, "dlse": dlse, "out": out, "lse": lse.masked_fill(blind, 0)}
    tensors |= {f"d{key}": grad for key, grad in zip(leaves, grads)}
    assert all(x.isfinite().all() and x.abs().max() > 0 and x.dtype == torch.float64 for x in tensors.values())
    tensors["lse"] = lse
    if slopes is not None:
        tensors["slopes"] = slopes
    if options["keep"]:
        tensors["keep"] = torch.tensor([[j in row for j in range(s)] for row in options["keep"]])
    given = dict(name=name, causal=options["causal"], offset=s - t if options["causal"] or options["alibi"] else 0)
    given |= {key: options[key] for key in ["scale", "softcap", "packed"]}
    given |= {key: key in tensors for key in ["bias", "sinks", "slopes", "keep"]}
    return {f"{name}/{key}": x.detach().float().contiguous() for key, x in tensors.items()}, given


def main():
    torch.set_num_threads(1)
    made = [make(name, seed, of) for seed, (name, of) in enumerate(CASES.items())]
    tensors = {key: x for case, _ in made for key, x in case.items()}
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    save(HERE / "dense.safetensors", tensors, {"made_by": "torch_dense.py", **versions})
    lines = ",\n".join(json.dumps(given) for _, given in made)
    (HERE / "dense.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
