"""Attention functions on tensors ``[batch, heads, seq, dim]``, as torch's own; differentiable.

Keys and values may have fewer heads than queries: groups of heads then share them. Tensors of fewer axes are taken as if the
axes before were 1.
"""

from __future__ import annotations

from typing import Any

from longreach._needs import needs

needs("longreach.nn.functional", "torch")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from longreach import _torch  # noqa: E402


def _run(name: str, q: Tensor, k: Tensor, v: Tensor, *more: Any, **parameters: Any) -> Tensor:
    """The output of a mechanism, in the rank of ``q``."""
    rank = q.ndim
    if not 2 <= rank <= 4:
        raise ValueError(f"{name}: `q` has shape {list(q.shape)}, want [batch, heads, seq, dim], or fewer axes")
    q, k, v = (_four(x) for x in (q, k, v))
    out: Tensor = _torch.call(name, q, k, v, *more, heads_first=True, **parameters)[0]
    for _ in range(4 - rank):
        out = out.squeeze(1 if out.ndim == 4 else 0)
    return out


def _four(x: Tensor) -> Tensor:
    """``[batch, heads, seq, dim]`` of ``[batch, seq, dim]`` or ``[seq, dim]``."""
    if x.ndim == 2:
        x = x[None]
    return x[:, None] if x.ndim == 3 else x


def _square(mask: Tensor, rank: int) -> Tensor:
    """A mask of queries and keys with four axes, the first two of which may be 1."""
    if mask.ndim == 3 and rank == 3:
        return mask[:, None]
    while mask.ndim < 4:
        mask = mask[None]
    return mask


def sparse_attention(Q: Tensor, K: Tensor, V: Tensor, sparsity_mask: Tensor) -> Tensor:
    """Softmax attention over the pairs that a mask keeps: those that are not 0.

    ``sparsity_mask`` is ``[seq, keys]``, or ``[batch or 1, heads or 1, seq, keys]``. The cost is proportional to the kept
    pairs. A query that sees nothing has an output of zero.

    >>> import torch
    >>> q = torch.randn(1, 2, 8, 4)
    >>> sparse_attention(q, q, q, torch.ones(8, 8).tril()).shape
    torch.Size([1, 2, 8, 4])
    """
    return _run("masked", Q, K, V, mask=_square(sparsity_mask != 0, Q.ndim))


def local_attention(Q: Tensor, K: Tensor, V: Tensor, window_size: int) -> Tensor:
    """Softmax attention over keys at a distance of at most ``window_size // 2``. Linear in the length."""
    if window_size < 1:
        raise ValueError(f"local_attention: `window_size` is {window_size}, want at least 1")
    return _run("window", Q, K, V, left=window_size // 2, right=window_size // 2)


def optimized_attention(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Softmax attention over all keys, without the matrix of all pairs in memory."""
    return _run("dense", Q, K, V)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As ``torch.nn.functional.scaled_dot_product_attention``, without the matrix of all pairs in memory.

    A mask of booleans costs what it keeps. Groups of heads are taken by their shapes, whatever ``enable_gqa``. Dropout of
    attention weights is not supported. A query that sees nothing has an output of zero.
    """
    if dropout_p:
        raise ValueError(f"scaled_dot_product_attention: `dropout_p` is {dropout_p}, want 0: weights are not kept")
    if attn_mask is None:
        return _run("dense", query, key, value, causal=is_causal, scale=scale)
    if is_causal:
        raise ValueError("scaled_dot_product_attention: `attn_mask` and `is_causal` are given, want one of them")
    mask = _square(attn_mask, query.ndim)
    if mask.dtype == torch.bool:
        return _run("masked", query, key, value, mask=mask, scale=scale)
    return _run("dense", query, key, value, bias=mask.to(torch.float32), scale=scale)


def window_attention(q: Tensor, k: Tensor, v: Tensor, left: int, right: int = 0, **options: Any) -> Tensor:
    """Softmax attention over ``left`` keys before each query, its own, and ``right`` behind it."""
    return _run("window", q, k, v, left=left, right=right, **options)


def dilated_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int = 0, dilation: int | list[int] = 1, **options: Any
) -> Tensor:
    """As :func:`window_attention`, over every ``dilation``-th key; one number, or one for each head."""
    dilation = [dilation] if isinstance(dilation, int) else dilation
    return _run("dilated", q, k, v, left=left, right=right, dilation=dilation, **options)


def longformer_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, global_tokens: Tensor | None = None, **options: Any
) -> Tensor:
    """Attention within windows, and between all tokens and those that ``global_tokens``, ``[batch or 1, seq]``, marks."""
    given = {} if global_tokens is None else {"global": global_tokens}
    return _run("longformer", q, k, v, window=window, **given, **options)


def bigbird_attention(q: Tensor, k: Tensor, v: Tensor, block: int = 64, random_blocks: int = 3, **options: Any) -> Tensor:
    """BigBird's attention: blocks of the window, of the first and last block, and random ones."""
    return _run("bigbird", q, k, v, block=block, random_blocks=random_blocks, **options)


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, map: str = "elu", causal: bool = False, normalize: bool = True, **options: Any
) -> Tensor:
    """Linear attention with a feature map of queries and keys in place of the exponential of softmax."""
    return _run("linear_attention", q, k, v, map=map, causal=causal, normalize=normalize, **options)
