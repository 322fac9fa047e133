"""Makes the goldens of the mechanisms: outputs and gradients of the written equations, in float64, by torch's autograd.

    pip install torch==2.13.0 safetensors
    python make.py

It writes next to itself mamba.safetensors, mamba2.safetensors and short_conv.safetensors. Each holds the inputs, `out` and
`final_state`, the cotangents `d_out` and `d_final_state`, and `grad.NAME` for every input NAME: the gradient of
sum(out * d_out) + sum(final_state * d_final_state). All tensors are float64; inputs and cotangents are values that float32
holds exactly, and so are the limits of the step in the metadata of mamba2. Made with torch 2.13.0 on a CPU.
"""

import json
import pathlib

import safetensors.torch
import torch

HERE = pathlib.Path(__file__).resolve().parent
B, T = 2, 70


def softplus(u):
    return torch.logaddexp(u, torch.zeros_like(u))


def silu(u):
    return u * torch.sigmoid(u)


def mamba(x, dt, dt_bias, a, b, c, d, z, state):
    """x dt z: [B, T, D], dt_bias d: [D], a: [N, D], b c: [B, T, N], state: [B, N, D]."""
    delta = softplus(dt + dt_bias)
    out = []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, None, :] * a)
        state = decay * state + b[:, t, :, None] * (delta[:, t] * x[:, t])[:, None, :]
        y = (c[:, t, :, None] * state).sum(1) + d * x[:, t]
        out.append(y * silu(z[:, t]))
    return torch.stack(out, 1), state


def mamba2(x, dt, dt_bias, a, b, c, d, state, low, high):
    """x: [B, T, H, P], dt: [B, T, H], dt_bias a d: [H], b c: [B, T, G, N], state: [B, H, N, P].

    Head h reads group h // (H / G) of b and c."""
    heads, groups = x.shape[2], b.shape[2]
    group = torch.arange(heads) // (heads // groups)
    delta = torch.clamp(softplus(dt + dt_bias), low, high)
    out = []
    for t in range(x.shape[1]):
        k, q = b[:, t, group], c[:, t, group]
        decay = torch.exp(delta[:, t] * a)
        write = k[..., :, None] * (delta[:, t, :, None] * x[:, t])[..., None, :]
        state = decay[..., None, None] * state + write
        out.append((q[..., :, None] * state).sum(2) + d[:, None] * x[:, t])
    return torch.stack(out, 1), state


def short_conv(x, w, bias, state):
    """x: [B, T, D], w: [W, D] (the last tap is multiplied by the current token), bias: [D], state: [B, W - 1, D], oldest first."""
    line = torch.cat([state, x], 1)
    taps, t = w.shape[0], x.shape[1]
    out = sum(w[j] * line[:, j : j + t] for j in range(taps)) + bias
    return silu(out), line[:, t:]


def uniform(generator, low, high, *shape):
    """Uniform in low..high, rounded to float32, held in float64."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * u).float().double()


def save(path, tensors, metadata):
    """As safetensors saves, with the metadata in order, so that the bytes are the same each time."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def make(name, seed, function, sample, **constants):
    """Samples the inputs, runs the function and its gradient, and saves everything."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: uniform(generator, *args) for key, args in sample.items()}
    leaves = {key: x.clone().requires_grad_() for key, x in tensors.items()}
    out, final = function(**leaves, **constants)
    d_out = uniform(generator, -1.0, 1.0, *out.shape)
    d_final = uniform(generator, -1.0, 1.0, *final.shape)
    grads = torch.autograd.grad((out * d_out).sum() + (final * d_final).sum(), list(leaves.values()))
    tensors |= {"out": out.detach(), "final_state": final.detach(), "d_out": d_out, "d_final_state": d_final}
    tensors |= {f"grad.{key}": g for key, g in zip(leaves, grads)}
    assert all(x.dtype == torch.float64 and x.isfinite().all() and x.abs().max() > 0 for x in tensors.values())
    metadata = {"made_by": "make.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    metadata |= {f"dt_limit_{key}": str(value) for key, value in constants.items()}
    save(HERE / f"{name}.safetensors", tensors, metadata)


def main():
    torch.set_num_threads(1)
    d, n = 24, 16
    make("mamba", 1, mamba, {
        "x": (-1, 1, B, T, d), "dt": (-4, 1, B, T, d), "dt_bias": (-1, 1, d), "a": (-4, -0.1, n, d), "b": (-1, 1, B, T, n),
        "c": (-1, 1, B, T, n), "d": (-1, 1, d), "z": (-2, 2, B, T, d), "state": (-1, 1, B, n, d),
    })  # fmt: skip
    h, p, g, n = 4, 8, 2, 12
    make("mamba2", 2, mamba2, {
        "x": (-1, 1, B, T, h, p), "dt": (-4, 1, B, T, h), "dt_bias": (-1, 1, h), "a": (-4, -0.1, h), "b": (-1, 1, B, T, g, n),
        "c": (-1, 1, B, T, g, n), "d": (-1, 1, h), "state": (-1, 1, B, h, n, p),
    }, low=0.0625, high=0.75)  # fmt: skip
    d, w = 24, 4
    make("short_conv", 3, short_conv, {
        "x": (-2, 2, B, T, d), "w": (-1, 1, w, d), "bias": (-1, 1, d), "state": (-1, 1, B, w - 1, d),
    })  # fmt: skip


if __name__ == "__main__":
    main()
