"""Makes the goldens of linear attention, the delta rules and the element-wise recurrences: the written equations, in float64, token
by token, and their gradients by torch's autograd.

    pip install torch==2.13.0 safetensors
    python matrix.py

It writes matrix.safetensors next to itself. The keys are CASE.NAME; the entry `cases` of the metadata is the JSON of
{CASE: {"op": OP, "params": {...}}}. A case holds the inputs, `state` (the initial one), `do` and `dstate` (cotangents of the output
and of the final state), and then `o`, `end` (the final state), `dNAME` for every input NAME, and `dstate0` for the initial state: the
gradients of sum(o * do) + sum(end * dstate). All tensors are float32. The inputs are the numbers that were used; the results are
rounded from float64. Made with torch 2.13.0 on a CPU.

q k g a b kappa: [B, T, H, K], v: [B, T, H, V], beta: [B, T, H], x r i: [B, T, D]. The default scale is 1 / sqrt(K).
"""

import json
import math

import torch

from make import HERE, save, softplus, uniform

B, H, K, V = 2, 2, 5, 7
D = 6  # channels of the element-wise ones
M = 8  # random features
T, LONG = 9, 70
LENGTH = 32  # of cosFormer's positions


def outer(k, v):
    return k[..., :, None] * v[..., None, :]


def recall(state, q):
    """The transposed state times q."""
    return (state * q[..., None]).sum(-2)


def default(scale, q):
    return q.shape[-1] ** -0.5 if scale is None else scale


def gla(q, k, v, g, state, scale=None):
    out = []
    for t in range(q.shape[1]):
        state = torch.exp(g[:, t])[..., None] * state + outer(k[:, t], v[:, t])
        out.append(default(scale, q) * recall(state, q[:, t]))
    return torch.stack(out, 1), state


def hgrn2(q, g, v, state, scale=None):
    return gla(q, 1 - torch.exp(g), v, g, state, scale)


def retention(q, k, v, state, scale=None):
    """Head h keeps 1 - 2^(-5-h) of its state."""
    heads = torch.arange(q.shape[2], dtype=torch.float64)
    g = torch.log(1 - 2 ** (-5 - heads))
    return gla(q, k, v, g[:, None].expand_as(q), state, scale)


def lightning(q, k, v, state, layer, layers):
    """The slopes of MiniMax: geometric in the head, smaller in later layers."""
    heads = torch.arange(q.shape[2], dtype=torch.float64)
    slope = 2 ** (-8 * (heads + 1) / q.shape[2]) * (1 - layer / (layers - 1 + 1e-5) + 1e-5)
    return gla(q, k, v, -slope[:, None].expand_as(q), state, 1.0)


def rwkv6(q, k, v, g, u, state, scale=None):
    """u: [H, K]. The state is read before it is written; the token itself has the factor u."""
    out = []
    for t in range(q.shape[1]):
        write = outer(k[:, t], v[:, t])
        out.append(default(scale, q) * recall(state + u[..., None] * write, q[:, t]))
        state = torch.exp(g[:, t])[..., None] * state + write
    return torch.stack(out, 1), state


def rwkv5(q, k, v, g, u, state, scale=None):
    """g: [H, K]."""
    return rwkv6(q, k, v, g.expand_as(q), u, state, scale)


def dplr(q, k, v, a, b, g, state, scale=None):
    """`a` reads the state before it decays."""
    out = []
    for t in range(q.shape[1]):
        erase = outer(b[:, t], recall(state, a[:, t]))
        state = torch.exp(g[:, t])[..., None] * state + erase + outer(k[:, t], v[:, t])
        out.append(default(scale, q) * recall(state, q[:, t]))
    return torch.stack(out, 1), state


def rwkv7(q, g, k, v, kappa, a, state, scale=None):
    return dplr(q, k, v, -kappa, kappa * a, g, state, scale)


def kda(q, k, v, beta, g, state, scale=None):
    """The key reads the state after it has decayed."""
    out = []
    for t in range(q.shape[1]):
        state = torch.exp(g[:, t])[..., None] * state
        miss = v[:, t] - recall(state, k[:, t])
        state = state + outer(beta[:, t, :, None] * k[:, t], miss)
        out.append(default(scale, q) * recall(state, q[:, t]))
    return torch.stack(out, 1), state


def gated_delta(q, k, v, beta, g, state, scale=None):
    """g: [B, T, H]."""
    return kda(q, k, v, beta, g[..., None], state, scale)


def delta_rule(q, k, v, beta, state, scale=None):
    return gated_delta(q, k, v, beta, torch.zeros_like(beta), state, scale)


def sums(q, k, v, state, causal):
    """S' q where S is the initial state plus the sum of k v', up to each token or over all of them; and the last S."""
    states = []
    for t in range(q.shape[1]):
        state = state + outer(k[:, t], v[:, t])
        states.append(state)
    return torch.stack([recall(s if causal else state, q[:, t]) for t, s in enumerate(states)], 1), state


def with_ones(v):
    """A column of ones after the values: its sum is that of the keys."""
    return torch.cat([v, torch.ones_like(v[..., :1])], -1)


def taylor(x):
    """phi(x)' phi(y) = 1 + x'y + (x'y)^2 / 2."""
    return torch.cat([torch.ones_like(x[..., :1]), x, outer(x, x).flatten(-2) / math.sqrt(2)], -1)


MAPS = {
    "elu": lambda x: torch.where(x > 0, x + 1, torch.exp(x)),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x) ** 2,
    "exp": torch.exp,
    "identity": lambda x: x,
    "taylor": taylor,
}


def linear_attention(q, k, v, state, map, normalize, causal, scale):
    phi = MAPS[map]
    out, state = sums(scale * phi(q), phi(k), with_ones(v) if normalize else v, state, causal)
    return (out[..., :-1] / (out[..., -1:] + 1e-6) if normalize else out), state


def performer(q, k, v, w, state, kernel, causal, epsilon):
    """w: [M, K]. No maximum is subtracted, so that the sums can be continued by the next call."""

    def phi(x):
        x = x.shape[-1] ** -0.25 * x
        if kernel == "relu":
            return torch.relu(x @ w.T) + epsilon
        rows = torch.cat([w, -w]) if kernel == "hyperbolic" else w
        half = (x * x).sum(-1, keepdim=True) / 2
        return rows.shape[0] ** -0.5 * (torch.exp(x @ rows.T - half) + epsilon)

    out, state = sums(phi(q), phi(k), with_ones(v), state, causal)
    return out[..., :-1] / out[..., -1:], state


def cosformer(q, k, v, state, length, causal):
    """q k: before the relu."""
    t = torch.arange(1, q.shape[1] + 1, dtype=torch.float64)
    angle = (math.pi / 2 * t / length)[:, None, None]

    def phi(x):
        x = torch.relu(x)
        return torch.cat([x * torch.sin(angle), x * torch.cos(angle)], -1)

    out, state = sums(phi(q), phi(k), with_ones(v), state, causal)
    return out[..., :-1] / out[..., -1:].clamp(min=1e-6), state


def rwkv4(k, v, w, u, state):
    """k v: [B, T, D], w u: [D], state: [B, 3, D]: numerator and denominator over e^m, and m, a constant to the gradient."""
    num, den, m = state.unbind(1)
    m = m.detach()
    out = []
    for t in range(k.shape[1]):
        q = torch.maximum(m, u + k[:, t]).detach()
        old, new = torch.exp(m - q), torch.exp(u + k[:, t] - q)
        out.append((old * num + new * v[:, t]) / (old * den + new))
        top = torch.maximum(m + w, k[:, t]).detach()
        old, new = torch.exp(m + w - top), torch.exp(k[:, t] - top)
        num, den, m = old * num + new * v[:, t], old * den + new, top
    return torch.stack(out, 1), torch.stack([num, den, m], 1)


def rg_lru(x, r, i, **rest):
    """lambda: [D], state: [B, D]."""
    state, softness = rest["state"], softplus(rest["lambda"])
    out = []
    for t in range(x.shape[1]):
        log_a = -8 * softness * torch.sigmoid(r[:, t])
        state = torch.exp(log_a) * state + torch.sqrt(-torch.expm1(2 * log_a)) * torch.sigmoid(i[:, t]) * x[:, t]
        out.append(state)
    return torch.stack(out, 1), state


def gate(generator, *shape):
    """The logarithms of decays, from weak to nearly complete."""
    return -torch.exp(uniform(generator, -4.0, 1.2, *shape)).float().double()


def arrow(generator, low, high, *shape):
    """Vectors with norms in low..high."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    length = uniform(generator, low, high, *shape[:-1], 1)
    return (length * x / x.norm(dim=-1, keepdim=True)).float().double()


def off_zero(generator, *shape):
    """Of either sign and not small: far from the kink of relu, and sums of squares are not near zero."""
    x = uniform(generator, -1.0, 1.0, *shape)
    return (torch.sign(x) * (0.25 + 0.75 * x.abs())).float().double()


def memory(generator, *shape):
    """A state whose last column, a sum of keys, is positive."""
    x = uniform(generator, -1.0, 1.0, *shape)
    x[..., -1] = 1.5 + x[..., -1]
    return x.float().double()


def orthogonal(generator, rows, columns):
    """FAVOR+: rows that are orthogonal in blocks, with the norms of normal vectors."""
    blocks = [torch.randn(columns, columns, generator=generator, dtype=torch.float64) for _ in range(-(-rows // columns))]
    q = torch.cat([torch.linalg.qr(x)[0].T for x in blocks])[:rows]
    length = torch.randn(rows, columns, generator=generator, dtype=torch.float64).norm(dim=-1, keepdim=True)
    return (length * q).float().double()


def exponents(generator, *shape):
    """A state of RWKV-4: the denominator is positive, the greatest exponent of either sign."""
    x = uniform(generator, -1.0, 1.0, *shape)
    x[:, 1] = 1.25 + x[:, 1]
    return x.float().double()


def cases():
    """CASE: (the function, its params, the sampler of each of its inputs)."""

    def sample(t, b=B, h=H):
        unit = (uniform, -1.0, 1.0)
        keys, state = (b, t, h, K), (*unit, b, h, K, V)
        q, k, v, g = (*unit, *keys), (*unit, *keys), (*unit, b, t, h, V), (gate, *keys)
        beta = (uniform, 0.1, 1.0, b, t, h)
        per_head, per_channel = (uniform, -2.0, -0.05, h, K), (*unit, h, K)
        qkv = {"q": q, "k": k, "v": v}
        delta = qkv | {"k": (arrow, 0.5, 1.0, *keys), "beta": beta}
        mild = (uniform, -0.6, -0.01, *keys)
        rwkv = {"q": q, "g": mild, "k": k, "v": v, "kappa": (arrow, 1.0, 1.0, *keys), "a": (uniform, 0.05, 0.95, *keys)}
        low_rank = qkv | {"a": (arrow, 0.5, 1.0, *keys), "b": (arrow, 0.1, 0.5, *keys), "g": mild}
        return {
            gla: qkv | {"g": g, "state": state},
            hgrn2: {"q": q, "g": g, "v": v, "state": state},
            rwkv5: qkv | {"g": per_head, "u": per_channel, "state": state},
            rwkv6: qkv | {"g": g, "u": per_channel, "state": state},
            rwkv7: rwkv | {"state": state},
            delta_rule: delta | {"state": state},
            gated_delta: delta | {"g": (gate, b, t, h), "state": state},
            kda: delta | {"g": g, "state": state},
            dplr: low_rank | {"state": state},
            retention: qkv | {"state": state},
            lightning: qkv | {"state": state},
        }

    one = {"scale": 1.0}
    params = {rwkv5: one, rwkv6: one, rwkv7: one, lightning: {"layer": 3, "layers": 12}}
    for function, draws in sample(T).items():
        yield function.__name__, function, params.get(function, {}), draws
    long = sample(LONG, 1, 1)
    for function, scale in (gla, {"scale": 0.75}), (delta_rule, {}), (kda, {"scale": 0.75}):
        yield f"{function.__name__}_long", function, scale, long[function]

    def kernel(width, x, state, columns):
        return {"q": (*x, B, T, H, K), "k": (*x, B, T, H, K), "v": (uniform, -1.0, 1.0, B, T, H, V)} | {
            "state": (*state, B, H, width, columns)
        }

    plain = (uniform, -1.0, 1.0)
    for map, normalize, causal, scale in (
        ("elu", True, True, 1.0), ("relu", True, True, 1.0), ("relu2", True, True, 1.0), ("exp", True, True, 0.75),
        ("identity", False, True, 1.0), ("taylor", False, True, 1.0), ("elu", True, False, 1.0), ("relu2", False, False, 1.0),
    ):  # fmt: skip
        x, width = (off_zero,) if map.startswith("relu") else plain, 1 + K + K * K if map == "taylor" else K
        draws = kernel(width, x, (memory,) if normalize else plain, V + 1 if normalize else V)
        name = f"linear_attention_{map}" + ("" if causal else "_whole")
        yield name, linear_attention, {"map": map, "normalize": normalize, "causal": causal, "scale": scale}, draws

    for map, causal, epsilon in (
        ("softmax", True, 1e-4), ("softmax", False, 1e-4), ("hyperbolic", True, 1e-4), ("hyperbolic", False, 1e-4),
        ("relu", True, 1e-3), ("relu", False, 1e-3),
    ):  # fmt: skip
        draws = kernel(2 * M if map == "hyperbolic" else M, plain, (memory,), V + 1) | {"w": (orthogonal, M, K)}
        name = f"performer_{map}" + ("" if causal else "_whole")
        yield name, performer, {"kernel": map, "causal": causal, "epsilon": epsilon}, draws

    for causal in True, False:
        name = "cosformer" + ("" if causal else "_whole")
        yield name, cosformer, {"length": LENGTH, "causal": causal}, kernel(2 * K, (off_zero,), (memory,), V + 1)

    x = (uniform, -2.0, 2.0, B, T, D)
    yield "rwkv4", rwkv4, {}, {"k": x, "v": x, "w": (uniform, -2.0, -0.05, D), "u": (*plain, D), "state": (exponents, B, 3, D)}
    yield "rg_lru", rg_lru, {}, {"x": x, "r": x, "i": x, "lambda": (uniform, -4.0, 0.0, D), "state": (*plain, B, D)}


def make(seed, function, params, draws):
    """The tensors of one case."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: draw(generator, *args) for key, (draw, *args) in draws.items()}
    leaves = {key: x.clone().requires_grad_() for key, x in tensors.items()}
    out, end = function(**leaves, **params)
    d_out, d_end = uniform(generator, -1.0, 1.0, *out.shape), uniform(generator, -1.0, 1.0, *end.shape)
    if function is rwkv4:
        d_end[:, 2] = 0  # of the greatest exponent, a constant
    grads = torch.autograd.grad((out * d_out).sum() + (end * d_end).sum(), list(leaves.values()))
    tensors |= {"do": d_out, "dstate": d_end, "o": out.detach(), "end": end.detach()}
    tensors |= {"dstate0" if key == "state" else f"d{key}": x for key, x in zip(leaves, grads)}
    assert all(x.dtype == torch.float64 and x.isfinite().all() and 0 < x.abs().max() < 1e3 for x in tensors.values())
    return {key: x.float() for key, x in tensors.items()}


def main():
    torch.set_num_threads(1)
    tensors, about = {}, {}
    for seed, (name, function, params, draws) in enumerate(cases(), 1):
        tensors |= {f"{name}.{key}": x for key, x in make(seed, function, params, draws).items()}
        about[name] = {"op": function.__name__, "params": params}
    save(HERE / "matrix.safetensors", tensors, {"cases": json.dumps(about)})


if __name__ == "__main__":
    main()
