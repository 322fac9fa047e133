"""Makes the goldens of H-Transformer-1D: outputs and gradients in float64, by torch's autograd, of the method as its authors organise it.

    pip install torch safetensors
    python h_transformer_1d.py

It writes next to itself h_transformer_1d.safetensors. Every level is coarsened from the one below (queries and keys by the mean of the halves that hold a token,
values and the count of tokens by sums; a query by its first half if causal), cut into blocks of N, and multiplied out block by block: a block with
itself at the finest level, with its left and its right neighbour at all, without the quadrant adjacent to the block above the finest level. Numerators and denominators
are repeated down to the tokens and summed. The crate's definition differs: it computes the level of every pair of tokens.
Zhu and Soricut 2021. Made with torch 2.15 on a CPU.
"""

import pathlib

import safetensors.torch
import torch

HERE = pathlib.Path(__file__).resolve().parent
N = 4


def halves(x):
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])


def blocks(x):
    return x.reshape(x.shape[0], x.shape[1] // N, N, *x.shape[2:])


def shifted(x, by):
    """The block before (by = -1) or after (1) each block, zeros beyond the ends."""
    zero = torch.zeros_like(x[:, :1])
    return torch.cat([zero, x[:, :-1]], 1) if by < 0 else torch.cat([x[:, 1:], zero], 1)


def attention(q, k, v, keep, causal):
    """q k: [B, T, H, D], v: [B, T, H, E], keep: [B, T] of 0 and 1; T is N times a power of two."""
    scale, tokens = q.shape[-1] ** -0.5, q.shape[1]
    count, there = keep, keep
    v = v * keep[..., None, None]
    levels = (tokens // N).bit_length() - 1
    top, low = 0, 0
    for level in range(levels):
        if level > 0:
            share = halves(there)
            means = share.sum(2).clamp(min=1.0)[..., None, None]
            q = halves(q)[:, :, 0] if causal else (halves(q) * share[..., None, None]).sum(2) / means
            k = (halves(k) * share[..., None, None]).sum(2) / means
            v, count = halves(v).sum(2), halves(count).sum(2)
            there = (count > 0).double()
        qb, kb, vb, cb = blocks(q), blocks(k), blocks(v), blocks(count)
        numerator, denominator = 0, 0
        for by in [0, -1, 1]:
            if by == 0 and level > 0 or by == 1 and causal:
                continue
            mask = torch.ones(N, N).double()
            if by == 0 and causal:
                mask = mask.tril()
            if by == -1 and level > 0:
                mask[: N // 2, N // 2 :] = 0
            if by == 1 and level > 0:
                mask[N // 2 :, : N // 2] = 0
            kn, vn, cn = (x if by == 0 else shifted(x, by) for x in (kb, vb, cb))
            weights = torch.exp(scale * torch.einsum("bnihd,bnjhd->bnhij", qb, kn)) * mask
            numerator = numerator + torch.einsum("bnhij,bnjhe->bnihe", weights, vn)
            denominator = denominator + torch.einsum("bnhij,bnj->bnih", weights, cn)
        up = 2**level
        top = top + numerator.flatten(1, 2).repeat_interleave(up, 1)
        low = low + denominator.flatten(1, 2).repeat_interleave(up, 1)
    return top / low[..., None]


def main():
    torch.manual_seed(0)
    tensors = {}
    for name, causal, padded in [("plain", False, False), ("causal", True, False), ("padded", False, True)]:
        shape = (2, 64, 2)
        q, k = (torch.randn(*shape, 5).double().requires_grad_() for _ in range(2))
        v = torch.randn(*shape, 3).double().requires_grad_()
        keep = torch.ones(2, 64).double()
        if padded:
            keep[0, 50:], keep[1, 7], keep[1, 20:30] = 0, 0, 0
        out = attention(q, k, v, keep, causal)
        # Outputs at padding are undefined.
        d = torch.randn(out.shape).double() * keep[..., None, None]
        (out * d).sum().backward()
        of = {"q": q, "k": k, "v": v, "keep": keep, "out": out, "d_out": d, "grad.q": q.grad, "grad.k": k.grad, "grad.v": v.grad}
        tensors |= {f"{name}.{key}": x.detach().contiguous() for key, x in of.items()}
    safetensors.torch.save_file(tensors, HERE / "h_transformer_1d.safetensors")


main()
