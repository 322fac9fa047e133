"""Makes the goldens of Infini-attention, Linformer, Nystromformer, the recall of HMT and the compression of the Compressive Transformer:
the written equations, in float64, and their gradients by torch's autograd.

    pip install torch==2.13.0 transformers==5.23.0 safetensors
    python memory.py

It writes memory.safetensors next to itself. The keys are CASE.NAME; the entry `cases` of the metadata is the JSON of
{CASE: {"op": OP, "params": {...}}}. A case holds the inputs, the output `o`, its cotangent `do`, and `dNAME`, the gradient of
sum(o * do), for every input NAME that has one; a mask, and what a function detaches or only sorts, has none. All tensors are float32.
The inputs are the numbers that were used; the results are rounded from float64. Made with torch 2.13.0 on a CPU. A scale that is not
given is 1 / sqrt of the width of the keys.

- infini: q k, and where they are given ql kl [B, T, H, K], v [B, T, H, V], gate [H], `state` [B, H, K, V + 1], the memory: sums of
  phi(k) v', and of phi(k) in the last column. Segments begin at token 0. Besides `o` there are `end`, the last memory, and `pending`,
  what the tokens after the last whole segment are going to add to it; their cotangents are `dstate` and `dpending`, and `dstate0` is
  the gradient of the initial memory.
- linformer: q [B, T, H, D], k [B, S, G, D], v [B, S, G, E], e, and where it is given f [L, R]. Head h reads group h / (H / G).
- nystrom: q k [B, T, H, D], v [B, T, H, E], and where they are given conv [H, width] and keep [B, T], 1 for a token. `init`: Z begins
  as A' over the largest column sum of A, of all samples and heads ("original") or of its own head ("own"). `padding`: "neutral", as
  if a sample had none, or "seen", as transformers has it. Each of the cases of HUGGING_FACE is that module's too, which is asserted.
- hmt: s [B, Q, D], m [B, N, D], wq wk [D, R].
- compress: x [B, N, C]. Kind "conv": w [C, C, taps], out by in by time, and b [C]. Kind "used": p [B, H, Q, N], the attention weights of x.
- reconstruction: x w b as above, q [B, T, H, D], wk [C, H D], wv [C, H E]; the compressed memory `c` and its gradient `dc`; `o` [1].
"""

import json

import torch
from transformers import NystromformerConfig
from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

from make import HERE, save, uniform
from matrix import MAPS, default, with_ones

B, H, K, V = 2, 2, 5, 7
D, E = 6, 7
LANDMARKS = 8
COTANGENTS = {"o": "do", "end": "dstate", "pending": "dpending"}
HUGGING_FACE = {"nystrom_original", "nystrom_own", "nystrom_seen", "nystrom_exact"}

phi = MAPS["elu"]


def attend(q, k, v, scale, hidden=None):
    """Softmax attention, [B, T, H, D] by [B, S, H, D]; `hidden` [T, S] masks pairs."""
    scores = scale * torch.einsum("bihd,bjhd->bhij", q, k)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.einsum("bhij,bjhe->bihe", scores.softmax(-1), v)


def read(x, memory, epsilon):
    """phi(x)' M / max(phi(x)' z, epsilon)."""
    sums = torch.einsum("bthk,bhkv->bthv", phi(x), memory)
    return sums[..., :-1] / sums[..., -1:].clamp(min=epsilon)


def infini(q, k, v, gate, state, segment, delta, epsilon, scale=None, ql=None, kl=None):
    """A memory with a token has a nonzero z; an empty one is read neither by queries nor by keys."""
    ql, kl = q if ql is None else ql, k if kl is None else kl
    far = torch.sigmoid(gate)[:, None]
    out, pending = [], torch.zeros_like(state)
    for start in range(0, q.shape[1], segment):
        qs, ks, vs, qn, kn = (x[:, start : start + segment] for x in (q, k, v, ql, kl))
        t = qs.shape[1]
        written = (state[..., -1] != 0).any(-1)[:, None, :, None]
        near = attend(qn, kn, vs, default(scale, q), torch.ones(t, t, dtype=torch.bool).triu(1))
        out.append(torch.where(written, far * read(qs, state, epsilon) + (1 - far) * near, near))
        if delta:
            vs = vs - torch.where(written, read(ks, state, epsilon), 0)
        pending = torch.einsum("bthk,bthv->bhkv", phi(ks), with_ones(vs))
        if t == segment:
            state, pending = state + pending, torch.zeros_like(state)
    return {"o": torch.cat(out, 1), "end": state, "pending": pending}


def linformer(q, k, v, e, f=None, scale=None):
    rows, heads = k.shape[1], q.shape[2] // k.shape[2]

    def project(x, w):
        return torch.einsum("bsgd,sr->brgd", x, w[:rows]).repeat_interleave(heads, 2)

    return {"o": attend(q, project(k, e), project(v, e if f is None else f), default(scale, q))}


def segments(n, m):
    """Where m segments of n tokens begin, and the end: the shorter ones first, none longer than another by more than a token."""
    short = m - n % m
    return [j * (n // m) + max(0, j - short) for j in range(m + 1)]


def pseudoinverse(a, iterations, c):
    z, one = a.transpose(-1, -2) / c, torch.eye(a.shape[-1], dtype=a.dtype)
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
    return z


def nystrom(q, k, v, landmarks, iterations, init, padding="neutral", conv=None, keep=None):
    """With no more tokens than landmarks it is softmax attention itself."""
    b, t, _, d = q.shape
    q, k = d**-0.25 * q, d**-0.25 * k
    keep = torch.ones(b, t) if keep is None else keep.detach()
    seen = padding == "seen"
    samples, inner = [], []
    for i in range(b):
        there = torch.arange(t) if seen else keep[i].nonzero()[:, 0]
        qi, ki, vi = (x[i, there].transpose(0, 1) for x in (q, k, v))  # [H, n, .]
        hidden = keep[i, there] == 0
        n = len(there)
        if n > landmarks:
            at = segments(n, landmarks)
            ql, kl = (torch.stack([x[:, s:e].mean(1) for s, e in zip(at, at[1:])], 1) for x in (qi, ki))
            a = (ql @ kl.transpose(1, 2)).softmax(-1)
            inner.append(a.sum(-2).amax(-1))
            to, of = (qi @ kl.transpose(1, 2)).softmax(-1), (ql @ ki.transpose(1, 2)).masked_fill(hidden, -torch.inf).softmax(-1)
        else:
            to, a, of = None, None, (qi @ ki.transpose(1, 2)).masked_fill(hidden, -torch.inf).softmax(-1)
        samples.append((i, there, to, a, of @ vi))
    most = torch.stack(inner).max() if inner else None
    out = torch.zeros_like(v)
    for i, there, to, a, values in samples:
        if a is not None:
            c = most if init == "original" else a.sum(-2).amax(-1)[:, None, None]
            values = to @ pseudoinverse(a, iterations, c) @ values
        out = out.index_put((torch.tensor(i), there), values.transpose(0, 1))
    if conv is not None:
        half = conv.shape[1] // 2
        line = v if seen else keep[:, :, None, None] * v
        line = torch.nn.functional.pad(line, (0, 0, 0, 0, half, half))
        out = out + sum(conv[:, j, None] * line[:, j : j + t] for j in range(conv.shape[1]))
    return {"o": out if seen else keep[:, :, None, None] * out}


def hmt(s, m, wq, wk):
    scores = (s @ wq) @ (m @ wk).transpose(1, 2) * wq.shape[1] ** -0.5
    return {"o": scores.softmax(-1) @ m}


def shrink(x, kind, ratio, dilation=1, w=None, b=None, p=None):
    """The groups of `ratio` tokens end at the last token; the first group may be shorter."""
    n = x.shape[1]
    ends = range((n - 1) % ratio, n, ratio)
    if kind == "used":
        most = p.mean((1, 2)).topk(len(ends)).indices.sort().values
        return torch.stack([row[at] for row, at in zip(x, most)])
    if kind == "conv":
        taps = w.shape[2]
        reads = [[(i, e - (taps - 1 - i) * dilation) for i in range(taps)] for e in ends]
        return torch.stack([b + sum(x[:, t] @ w[:, :, i].T for i, t in read if t >= 0) for read in reads], 1)
    groups = [x[:, max(0, e + 1 - ratio) : e + 1] for e in ends]
    return torch.stack([g.mean(1) if kind == "mean" else g.amax(1) for g in groups], 1)


def compress(**inputs):
    return {"o": shrink(**inputs)}


def reconstruction(x, q, wk, wv, w, b, ratio):
    """The reconstruction loss of attention, whose gradient reaches the compression only."""
    x, q, wk, wv = x.detach(), q.detach(), wk.detach(), wv.detach()
    heads, scale = q.shape[2], q.shape[3] ** -0.5

    def seen(x):
        return attend(q, (x @ wk).unflatten(-1, (heads, -1)), (x @ wv).unflatten(-1, (heads, -1)), scale)

    c = shrink(x, "conv", ratio, w=w, b=b)
    return {"o": ((seen(x) - seen(c)) ** 2).mean().reshape(1), "c": c}


def remembered(generator, tokens, *samples):
    """A memory of the given number of tokens per sample, which may be 0."""
    shape = len(samples), H, tokens
    k, v = uniform(generator, -1.0, 1.0, *shape, K), uniform(generator, -1.0, 1.0, *shape, V)
    state = phi(k).transpose(2, 3) @ with_ones(v)
    return (torch.tensor(samples)[:, None, None, None] * state).float().double()


def given(_, tensor):
    return tensor.double()


def usage(generator, *shape):
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1).float().double()


def cases():
    """CASE: (the function, its params, the sampler of each of its inputs)."""
    unit, wide = (uniform, -1.0, 1.0), (uniform, -2.0, 2.0)

    segment, epsilon = 4, 1e-10
    for name, delta, local, whole, start in (
        ("linear", False, False, False, (1, 1)), ("linear_local", False, True, True, (1, 1)),
        ("linear_empty", False, False, True, (0, 0)), ("linear_local_empty", False, True, False, (0, 0)),
        ("delta", True, False, True, (1, 1)), ("delta_local", True, True, False, (1, 1)),
        ("delta_empty", True, False, False, (0, 0)), ("delta_local_empty", True, True, True, (0, 0)),
        ("delta_some", True, True, False, (0, 1)),
    ):  # fmt: skip
        t = 5 * segment if whole else 4 * segment + segment // 2
        keys = (*wide, B, t, H, K)
        draws = {"q": keys, "k": keys, "v": (*unit, B, t, H, V), "gate": (*wide, H), "state": (remembered, 3 * segment, *start)}
        params = {"segment": segment, "delta": delta, "epsilon": epsilon}
        yield f"infini_{name}", infini, params, draws | ({"ql": keys, "kl": keys} if local else {})
    t = 72
    draws = {"q": (*wide, 1, t, H, K), "k": (*wide, 1, t, H, K), "v": (*unit, 1, t, H, V), "gate": (*unit, H)}
    params = {"segment": 16, "delta": True, "epsilon": epsilon, "scale": 0.75}
    yield "infini_delta_long", infini, params, draws | {"state": (remembered, 16, 1)}

    for name, t, s, g, shared in (("", 9, 9, H, False), ("_cross", 7, 11, H, False), ("_shared", 9, 9, H, True), ("_one", 9, 9, 1, True)):
        draws = {"q": (*wide, B, t, H, D), "k": (*wide, B, s, g, D), "v": (*unit, B, s, g, E), "e": (*unit, 11, 4)}
        yield f"linformer{name}", linformer, {}, draws | ({} if shared else {"f": (*unit, 11, 4)})

    def nystrom_case(name, t, e, width, keep=None, **params):
        b = B if keep is None else len(keep)
        draws = {"q": (*wide, b, t, H, D), "k": (*wide, b, t, H, D), "v": (*unit, b, t, H, e)}
        draws |= {"conv": (*unit, H, width)} if width else {}
        draws |= {} if keep is None else {"keep": (given, keep)}
        return f"nystrom_{name}", nystrom, {"landmarks": LANDMARKS, "iterations": 6} | params, draws

    def kept(t, *samples):
        keep = torch.zeros(len(samples), t)
        for row, there in zip(keep, samples):
            row[list(there)] = 1
        return keep

    ragged = kept(37, range(37), range(16, 37), (2, 3, 4, 8, 9))
    yield nystrom_case("original", 32, D, 5, init="original")
    yield nystrom_case("own", 32, D, 0, init="own")
    yield nystrom_case("uneven", 37, E, 5, init="own", iterations=4)
    yield nystrom_case("keep", 37, E, 5, ragged, init="own")
    yield nystrom_case("keep_original", 37, E, 0, ragged, init="original")
    yield nystrom_case("seen", 32, D, 5, kept(32, range(32), range(21)), init="original", padding="seen")
    yield nystrom_case("exact", LANDMARKS, D, 5, init="own")

    for name, n in ("hmt", 5), ("hmt_one", 1):
        yield name, hmt, {}, {"s": (*wide, B, 2, D), "m": (*unit, B, n, D), "wq": (*wide, D, 4), "wk": (*wide, D, 4)}

    c, ratio = 6, 4
    for name, n, params in (
        ("conv", 10, {}), ("conv_whole", 12, {}), ("dilated", 14, {"dilation": 2}), ("mean", 10, {}), ("max", 10, {}), ("used", 10, {}),
    ):  # fmt: skip
        kind = name if name in ("mean", "max", "used") else "conv"
        draws = {"x": (*wide, B, n, c)}
        draws |= {"w": (*unit, c, c, 4), "b": (*unit, c)} if kind == "conv" else {"p": (usage, B, H, 5, n)} if kind == "used" else {}
        yield f"compress_{name}", compress, {"kind": kind, "ratio": ratio} | params, draws
    draws = {"x": (*wide, B, 10, c), "w": (*unit, c, c, ratio), "b": (*unit, c), "q": (*wide, B, 5, H, 3)}
    yield "reconstruction", reconstruction, {"ratio": ratio}, draws | {"wk": (*unit, c, H * 3), "wv": (*unit, c, H * 4)}


def run(function, leaves, params, cotangents):
    """The outputs, and the gradients of the inputs and of what is between them and the outputs."""
    out = function(**leaves, **params)
    total = sum((x * cotangents(key, x)).sum() for key, x in out.items() if key in COTANGENTS)
    wanted = leaves | {key: x for key, x in out.items() if key not in COTANGENTS}
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    grads = {key: x for key, x in zip(wanted, grads) if x is not None}
    return {key: x.detach() for key, x in out.items()}, grads


class Given(torch.nn.Module):
    """A projection that has been applied already."""

    def __init__(self, x):
        super().__init__()
        self.x = x.flatten(2)

    def forward(self, _):
        return self.x


def hugging_face(q, k, v, landmarks, iterations, init, padding="neutral", conv=None, keep=None):
    b, t, h, d = q.shape
    assert iterations == 6 and v.shape == q.shape
    config = NystromformerConfig(
        hidden_size=h * d, num_attention_heads=h, num_landmarks=landmarks, segment_means_seq_len=t, attention_probs_dropout_prob=0.0,
        conv_kernel_size=1 if conv is None else conv.shape[1],
    )  # fmt: skip
    module = NystromformerSelfAttention(config).double()
    # Its option names a key that the config lacks.
    module.init_option = {"original": "original", "own": "exact"}[init]
    module.query, module.key, module.value = Given(q), Given(k), Given(v)
    del module.conv.weight
    module.conv.weight = torch.zeros(h, 1, 1, 1).double() if conv is None else conv[:, None, :, None]
    mask = None if keep is None else (1 - keep.detach())[:, None, None] * torch.finfo(torch.float64).min
    out = module(torch.zeros(b, t, h * d, dtype=torch.float64), mask)[0].unflatten(-1, (h, d))
    return {"o": out}


def make(name, seed, function, params, draws):
    """The tensors of one case."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: draw(generator, *args) for key, (draw, *args) in draws.items()}
    leaves = {key: x.clone().requires_grad_() for key, x in tensors.items()}

    def cotangent(key, x):
        if COTANGENTS[key] not in tensors:
            tensors[COTANGENTS[key]] = uniform(generator, -1.0, 1.0, *x.shape)
        return tensors[COTANGENTS[key]]

    out, grads = run(function, leaves, params, cotangent)
    if name in HUGGING_FACE:
        theirs = run(hugging_face, leaves, params, cotangent)
        for mine, other in (out, theirs[0]), (grads, theirs[1]):
            assert mine.keys() == other.keys()
            for key, x in mine.items():
                error = (x - other[key]).abs().max().item()
                print(f"{name}: {key} differs from transformers' by {error:.1e}")
                assert error < 1e-12
    if "p" in tensors:
        ranked = tensors["p"].mean((1, 2)).sort(descending=True).values
        assert (ranked[:, :-1] - ranked[:, 1:]).min() > 1e-4
    tensors |= out | {"dstate0" if key == "state" else f"d{key}": x for key, x in grads.items()}
    assert all(x.dtype == torch.float64 and x.isfinite().all() and x.abs().max() < 1e3 for x in tensors.values())
    blank = {key for key, x in tensors.items() if not x.any()}
    allowed = {"state"} if name.endswith("_empty") else {"ds", "dwq", "dwk"} if name == "hmt_one" else set()
    if function is infini and tensors["q"].shape[1] % params["segment"] == 0:
        allowed |= {"pending"}
    assert blank == allowed, (name, blank)
    return {key: x.float() for key, x in tensors.items()}


def main():
    torch.set_num_threads(1)
    tensors, about = {}, {}
    for seed, (name, function, params, draws) in enumerate(cases(), 1):
        tensors |= {f"{name}.{key}": x for key, x in make(name, seed, function, params, draws).items()}
        about[name] = {"op": function.__name__, "params": params}
    save(HERE / "memory.safetensors", tensors, {"cases": json.dumps(about)})


if __name__ == "__main__":
    main()
