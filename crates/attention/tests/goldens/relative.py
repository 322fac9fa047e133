"""Makes the goldens of attention with relative positions, Transformer-XL's: the written equation, in float64, and its gradients by
torch's autograd.

    pip install torch==2.13.0 transformers==4.46.3 safetensors
    python relative.py

It writes relative.safetensors next to itself. The keys are CASE.NAME; the entry `cases` of the metadata is the JSON of
{CASE: {"op": "relative", "params": {...}}}. A case holds the inputs, `do` (the cotangent of the output), and then `o` and `dNAME` for
every input NAME: the gradients of sum(o * do). All tensors are float32. The inputs are the numbers that were used; the results are
rounded from float64. Made with torch 2.13.0 on a CPU.

q: [B, T, H, D], k: [B, S, H, D], v: [B, S, H, E], r: [S, H, D], u w: [H, D], o: [B, T, H, E]. The first M = S - T keys are memory. Row
n of r is of distance n, from a query to itself in row 0. Where a case has no u and no w (the learned positions of the Compressive
Transformer) they are zero. A scale that is not given is 1 / sqrt(D); with `left`, a query attends to nothing further away.

The script checks the equation against transformers 4.46.3: positions, mask, shift and all.
"""

import json
import math
import unittest.mock

import torch
import transformers

from make import HERE, save, uniform

B, T, H, D, E = 2, 9, 3, 5, 7
LONG, MEMORY = 70, 33


def relative(q, k, v, r, u=0.0, w=0.0, scale=None, left=None):
    t, s = q.shape[1], k.shape[1]
    distance = torch.arange(s - t, s)[:, None] - torch.arange(s)
    hidden = (distance < 0) | (distance > (s if left is None else left))
    content = torch.einsum("bihd,bjhd->bhij", q + u, k)
    position = torch.einsum("bihd,ijhd->bhij", q + w, r[distance.clamp(min=0)])
    score = (content + position) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return torch.einsum("bhij,bjhe->bihe", torch.softmax(score.masked_fill(hidden, -math.inf), -1), v)


def cases():
    """CASE: (params, memory, tokens, sizes, whether u and w are present)."""
    sizes = (B, H, D, E)
    yield "plain", {}, 0, T, sizes, True
    yield "memory", {}, 6, T, sizes, True
    yield "memory_scale", {"scale": 0.75}, 6, T, sizes, True
    yield "memory_left", {"left": 7}, 6, T, sizes, True
    yield "memory_left_near", {"left": 2}, 6, T, sizes, True
    yield "plain_left", {"left": 4}, 0, T, sizes, True
    yield "token", {}, 11, 1, sizes, True
    yield "token_left", {"left": 8}, 11, 1, sizes, True
    yield "learned", {}, 6, T, sizes, False
    yield "learned_left", {"left": 7}, 6, T, sizes, False
    yield "square", {}, 27, 37, (1, 2, 16, 16), True
    yield "long", {}, MEMORY, LONG, (1, 2, 8, 6), True
    yield "long_left", {"left": 40}, MEMORY, LONG, (1, 2, 8, 6), True


def make(seed, params, memory, tokens, sizes, biased):
    """The tensors of one case."""
    generator = torch.Generator().manual_seed(seed)
    (b, h, d, e), s = sizes, memory + tokens
    shapes = {"q": (b, tokens, h, d), "k": (b, s, h, d), "v": (b, s, h, e), "r": (s, h, d)}
    shapes |= {"u": (h, d), "w": (h, d)} if biased else {}
    tensors = {key: uniform(generator, -1.5, 1.5, *shape) for key, shape in shapes.items()}
    leaves = {key: x.clone().requires_grad_() for key, x in tensors.items()}
    out = relative(**leaves, **params)
    d_out = uniform(generator, -1.0, 1.0, *out.shape)
    grads = torch.autograd.grad((out * d_out).sum(), list(leaves.values()))
    tensors |= {"do": d_out, "o": out.detach()} | {f"d{key}": x for key, x in zip(leaves, grads)}
    assert all(x.dtype == torch.float64 and x.isfinite().all() and 0 < x.abs().max() < 1e3 for x in tensors.values())
    return {key: x.float() for key, x in tensors.items()}


def prove(memory, tokens, left):
    """The attention of a layer of transformers is the equation; `left` is its mem_len less one, with same_length."""
    config = transformers.TransfoXLConfig(
        vocab_size=3, cutoffs=[], d_model=H * D + 1, d_embed=H * D + 1, n_head=H, d_head=D, d_inner=2, div_val=1, n_layer=1,
        mem_len=memory + 1 if left is None else left + 1, same_length=left is not None, clamp_len=-1, dropout=0.0, init_std=0.3,
    )  # fmt: skip
    torch.manual_seed(memory)
    model = transformers.TransfoXLModel(config).double().eval()
    attention = model.layers[0].dec_attn
    x, mem = torch.randn(B, tokens, H * D + 1).double(), torch.randn(B, memory, H * D + 1).double()
    seen = []
    attention.register_forward_hook(lambda _, args, out: seen.append((args[1], out[0])))
    attention.layer_norm = torch.nn.Identity()
    # This version makes the positions by `type_as(dtype=...)`, which no tensor has, and rounds masked scores to float32.
    patch = unittest.mock.patch.object
    with (
        patch(torch.Tensor, "type_as", lambda x, other=None, dtype=None: x.to(dtype or other.dtype)),
        patch(torch.Tensor, "float", lambda x: x),
    ):
        model(inputs_embeds=x, mems=[mem.transpose(0, 1)])
    (positions, out) = seen[0]
    q, k, v = (y.unflatten(-1, (H, D)) for y in attention.qkv_net(torch.cat([mem, x], 1)).chunk(3, -1))
    r = attention.r_net(positions)[:, 0].unflatten(-1, (H, D)).flip(0)
    o = relative(q[:, memory:], k, v, r, attention.r_w_bias, attention.r_r_bias, left=left)
    error = (attention.o_net(o.flatten(-2)) + x - out.transpose(0, 1)).abs().max().item()
    # Each of these changes the equation.
    others = (
        relative(q[:, memory:], k, v, r.flip(0), attention.r_w_bias, attention.r_r_bias, left=left),
        relative(q[:, memory:], k, v, r, attention.r_r_bias, attention.r_w_bias, left=left),
        relative(q[:, memory:], k, v, r, attention.r_w_bias, attention.r_r_bias, left=3 if left is None else left - 1),
    )
    least = min((o - other).abs().max().item() for other in others)
    assert error < 1e-13 < 1e-3 < least, f"memory {memory}, tokens {tokens}, left {left}: {error} {least}"


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    with torch.no_grad():
        for memory, tokens in (6, 9), (13, 4), (13, 1), (0, 7):
            prove(memory, tokens, None)
        # Memory that is full and memory that is not, and segments shorter and longer than it.
        for memory, tokens in (8, 5), (5, 3), (4, 9), (8, 15), (8, 1), (0, 12):
            prove(memory, tokens, 7)
    tensors, about = {}, {}
    for seed, (name, params, *case) in enumerate(cases(), 1):
        tensors |= {f"{name}.{key}": x for key, x in make(seed, params, *case).items()}
        about[name] = {"op": "relative", "params": params}
    save(HERE / "relative.safetensors", tensors, {"cases": json.dumps(about)})


if __name__ == "__main__":
    main()
