"""Makes the goldens of Longformer, BigBird and Reformer: the inputs, outputs and gradients of the modules in transformers.

    pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
    python hugging_face.py

It writes next to itself, for tests/laws/peers.rs, longformer.safetensors, bigbird.safetensors and reformer.safetensors: of the
attention modules of small random models, the projections (queries not scaled), the output before the output's projection,
a cotangent `do`, and the gradient `dNAME` of sum(out * do) to every projection. All are cut to the true length; `out` and `do` are zero
at padding; masks are 0 or 1. Reformer is run in float64: in float32 a token that attends only to itself, several times with the score -10^5,
gets 0.998 of its value because of rounding. All is stored as float32. Names are CASE/NAME:

- longformer: q k v [B, T, H, D], keep global [B, T], window [1] (one-sided); where there are global tokens also gq gk gv.
- bigbird: q k v, keep, parameters [3]: the block, random blocks, and the seed, or -1 outside training.
- reformer: x v, keep, buckets [B, H, rounds, T], rotations.N [H, D, rounds, n / 2] of each factor, parameters [4]: the chunk, chunks
  before and after, and whether it is causal. A case as short as a chunk is not hashed: its buckets are zeros.
"""
from pathlib import Path

import torch
import transformers
from make import save
from transformers import BigBirdConfig, BigBirdModel, LongformerConfig, LongformerModel, ReformerConfig
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

HERE = Path(__file__).parent
HEADS, D = 2, 8
TINY = dict(
    hidden_size=HEADS * D, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=16, vocab_size=50,
    max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
)  # fmt: skip


def heads(x):
    """[B, T, H D] as [B, T, H, D]."""
    return x.unflatten(-1, (-1, D))


def watch(module, names):
    """Keeps the inputs of a module, the outputs of the projections it makes of them, as leaves, and its own output."""
    seen = {}

    def projected(name):
        def hook(_, args, output):
            seen[name] = output.detach().requires_grad_()
            return seen[name].clone()

        return hook

    def attended(_, args, kwargs, output):
        seen["hidden"] = args[0] if args else kwargs["hidden_states"]
        seen["out"] = output[0]
        seen["output"] = output

    for name in names:
        getattr(module, name).register_forward_hook(projected(name))
    module.register_forward_hook(attended, with_kwargs=True)
    return seen


def pull(seen, names, keep, generator):
    """A cotangent, and the gradient to each of the projections, by its name."""
    t = keep.shape[1]
    do = torch.rand((*seen["out"][:, :t].shape,), generator=generator) * 2 - 1
    do = heads(do * keep[..., None])
    grads = torch.autograd.grad((heads(seen["out"])[:, :t] * do).sum(), [seen[name] for name in names])
    return do, dict(zip(names, grads))


def padded(t, length, generator):
    """Tokens and which are there: the second sequence is shorter."""
    keep = torch.ones(2, t)
    keep[1, length:] = 0
    tokens = torch.randint(3, 50, (2, t), generator=generator)
    return torch.where(keep > 0, tokens, 1), keep


def longformer(name, layers, marks, length):
    """`layers` are those that are kept, `marks` the global tokens of each sequence."""
    torch.manual_seed(1)
    generator, t = torch.Generator().manual_seed(2), 37
    config = LongformerConfig(**TINY, attention_window=[8, 16], pad_token_id=1)
    model = LongformerModel(config).eval()
    local, projections = ["query", "key", "value"], ["query_global", "key_global", "value_global"]
    modules = [layer.attention.self for layer in model.encoder.layer]
    any_global = any(marks)
    names = local + projections * any_global
    seen = [watch(module, names) for module in modules]
    tokens, keep = padded(t, length, generator)
    mark = torch.zeros(2, t)
    for b, row in enumerate(marks):
        mark[b, row] = 1
    model(input_ids=tokens, attention_mask=keep.long(), global_attention_mask=mark.long())
    tensors = {}
    for i in layers:
        module, saw = modules[i], seen[i]
        do, grads = pull(saw, names, keep, generator)
        # These projections have the time axis first.
        first = lambda x: heads(x.transpose(0, 1)[:, :t])
        case = {short: first(saw[long]) for short, long in zip("qkv", local)}
        case |= {f"d{short}": first(grads[long]) for short, long in zip("qkv", local)}
        if any_global:
            # Only the rows of global tokens are projected, [most of them, B, H D].
            case["gq"] = torch.zeros_like(case["q"])
            case["dgq"] = torch.zeros_like(case["q"])
            for b, row in enumerate(marks):
                for n, at in enumerate(row):
                    case["gq"][b, at] = heads(saw["query_global"][n, b])
                    case["dgq"][b, at] = heads(grads["query_global"][n, b])
            for short, long in zip("kv", projections[1:]):
                case[f"g{short}"], case[f"dg{short}"] = first(saw[long]), first(grads[long])
        case |= {"keep": keep, "global": mark, "out": heads(saw["out"][:, :t] * keep[..., None]), "do": do}
        case["window"] = torch.tensor([module.one_sided_attn_window_size])
        tensors |= {f"{name}.{i}/{key}": x for key, x in case.items()}
    return tensors


def bigbird(name, layers, t, length, random_blocks, training):
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    config = BigBirdConfig(
        **TINY, attention_type="block_sparse", block_size=16, num_random_blocks=random_blocks, pad_token_id=0
    )
    model = BigBirdModel(config).train(training)
    names = ["query", "key", "value"]
    modules = [layer.attention.self for layer in model.encoder.layer]
    seen = [watch(module, names) for module in modules]
    tokens, keep = padded(t, length, generator)
    model(input_ids=tokens, attention_mask=keep.long())
    assert model.attention_type == "block_sparse"
    tensors = {}
    for i in layers:
        saw = seen[i]
        do, grads = pull(saw, names, keep, generator)
        case = {short: heads(saw[long][:, :t]) for short, long in zip("qkv", names)}
        case |= {f"d{short}": heads(grads[long][:, :t]) for short, long in zip("qkv", names)}
        case |= {"keep": keep, "out": heads(saw["out"][:, :t] * keep[..., None]), "do": do}
        case["parameters"] = torch.tensor([16, random_blocks, modules[i].seed if training else -1])
        tensors |= {f"{name}.{i}/{key}": x for key, x in case.items()}
    return tensors


def reformer(name, t, chunk, causal, buckets, length=None, before=1, after=0, rounds=2):
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(6)
    config = ReformerConfig(
        hidden_size=HEADS * D, num_attention_heads=HEADS, attention_head_size=D, num_hashes=rounds, num_buckets=buckets,
        lsh_attn_chunk_length=chunk, lsh_num_chunks_before=before, lsh_num_chunks_after=after, is_decoder=causal, hash_seed=7,
        lsh_attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = LSHSelfAttention(config, layer_idx=0).double().eval()
    names = ["query_key", "value"]
    seen = watch(module, names)
    keep = torch.ones(2, t)
    keep[1, length or t :] = 0
    hidden = torch.randn(2, t, HEADS * D, generator=generator, dtype=torch.float64) * 3
    module(hidden_states=hidden, attention_mask=keep if length else None)
    do, grads = pull(seen, names, keep, generator)
    case = {short: heads(seen[long]) for short, long in zip("xv", names)}
    case |= {f"d{short}": heads(grads[long]) for short, long in zip("xv", names)}
    case |= {"keep": keep, "out": heads(seen["out"] * keep[..., None]), "do": do}
    hashed = seen["output"].buckets
    case["buckets"] = torch.zeros(2, HEADS, rounds, t).long() if hashed is None else hashed
    case["parameters"] = torch.tensor([chunk, before, after, int(causal)])
    factors = [buckets] if isinstance(buckets, int) else buckets
    torch.manual_seed(config.hash_seed)
    rotations = torch.randn(HEADS, D, rounds, sum(factors) // 2, dtype=torch.float64).split([n // 2 for n in factors], -1)
    for n, rotation in enumerate(rotations):
        case[f"rotations.{n}"] = rotation
        # No bucket depends on the rounding of a sum.
        turned = torch.einsum("bthd,hdnr->bhtnr", case["x"].detach(), rotation)
        highest = torch.cat([turned, -turned], -1).topk(2).values
        assert (highest[..., 0] - highest[..., 1]).min() > 1e-4
    return {f"{name}/{key}": x for key, x in case.items()}


def write(file, tensors):
    assert all(x.isfinite().all() for x in tensors.values())
    tensors = {name: (x.detach().float() if x.is_floating_point() else x).clone() for name, x in tensors.items()}
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    save(HERE / file, tensors, {"made_by": "hugging_face.py", **versions})


if __name__ == "__main__":
    torch.set_num_threads(1)
    write("longformer.safetensors", {
        **longformer("both", [0, 1], [[0, 20, 36], [3]], 26),
        **longformer("one", [1], [[5, 6, 22], []], 37),
        **longformer("none", [0, 1], [[], []], 30),
    })  # fmt: skip
    write("bigbird.safetensors", {
        **bigbird("evaluated", [1], 149, 100, 2, False),
        **bigbird("trained", [1], 181, 150, 3, True),
    })  # fmt: skip
    write("reformer.safetensors", {
        **reformer("whole", 64, 16, False, 8),
        **reformer("causal", 64, 16, True, 8),
        **reformer("padded", 64, 16, True, 8, length=45),
        **reformer("around", 48, 8, False, [2, 4], after=1, rounds=3),
        **reformer("short", 13, 16, True, 8, length=9),
    })  # fmt: skip
