"""This engine's attention in models of transformers, with masks that take no memory of queries times keys."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from longreach import _torch
from longreach._needs import needs


class Seen:
    """What queries see: how far to either side, and which keys are there. Layers hand it on unread in place of a mask."""

    ndim = 0
    dtype = torch.bool

    def __init__(self, left: int | None, right: int | None, offset: int, keep: Tensor | None) -> None:
        self.left, self.right, self.offset, self.keep = left, right, offset, keep

    def contiguous(self) -> Seen:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Seen:
        return self


def register(name: str = "longreach") -> None:
    """Registers the attention and its masks in transformers under a name.

    Models are then loaded with ``attn_implementation=name``. Attention weights are not kept, so that dropout on them is an
    error.

    >>> import longreach.transformers  # doctest: +SKIP
    >>> longreach.transformers.register()  # doctest: +SKIP
    >>> AutoModel.from_pretrained(..., attn_implementation="longreach")  # doctest: +SKIP
    """
    needs("longreach.transformers.register", "transformers")
    from transformers import AttentionInterface, AttentionMaskInterface

    if "flash" in name:
        raise ValueError(f"register: the name {name!r} has `flash` in it, which transformers treats as flash attention")
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Seen | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function: queries ``[B, H, T, D]``, keys and values ``[B, G, S, D]``; the output is ``[B, T, H, D]``."""
    if dropout:
        raise ValueError(f"longreach attention: dropout of attention weights is {dropout}, want 0: weights are not kept")
    # In memory, projections are [B, T, H, D], and so are the outputs that layers go on with.
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    given: dict[str, Any] = {"scale": scaling, "softcap": softcap, "sinks": s_aux}
    given = {name: x for name, x in given.items() if x is not None}
    name, bias = "dense", position_bias
    if isinstance(attention_mask, Seen):
        seen = attention_mask
        given.update(keep=seen.keep, offset=seen.offset)
        if seen.left is None:
            given["causal"] = seen.right == 0
        else:
            name = "window"
            given.update(left=seen.left, right=seen.right)
    elif attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        given["causal"] = bool(causal) and query.shape[2] > 1
    elif attention_mask.dtype == torch.bool:
        name = "masked"
        given["mask"] = attention_mask[..., : key.shape[2]]
    else:
        square = attention_mask[..., : key.shape[2]].float()
        bias = square if bias is None else bias + square
    if bias is not None:
        given["bias"] = bias.expand(*bias.shape[:2], query.shape[2], key.shape[2]).float()
    out: Tensor = _torch.call(name, q, k, v, **given)[0]
    return out, None


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Any = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    device: Any = "cpu",
    **kwargs: Any,
) -> Any:
    """The mask function: a small object where a window or causality say it all, and otherwise transformers' square."""
    if isinstance(attention_mask, Seen):
        return attention_mask
    from transformers.masking_utils import causal_mask_function, prepare_padding_mask, sdpa_mask

    start, first = int(q_offset), int(kv_offset)
    known = allow_is_causal_skip or allow_is_bidirectional_skip
    if known and (not allow_is_causal_skip or kv_length <= start - first + q_length):
        padding = prepare_padding_mask(attention_mask, kv_length, first)
        keep = None if padding is None else padding[:, first : first + kv_length].bool()
        if keep is not None and bool(keep.all()):
            keep = None
        if allow_is_bidirectional_skip:
            seen = Seen(local_size, local_size, start - first, keep)
        else:
            seen = Seen(None if local_size is None else local_size - 1, 0, start - first, keep)
        if mask_function is None or _agrees(seen, mask_function, batch_size, q_length, kv_length, start, first):
            return seen
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function or causal_mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=False,
        allow_is_bidirectional_skip=False,
        device=device,
        **{name: value for name, value in kwargs.items() if name == "use_vmap"},
    )


def _agrees(seen: Seen, function: Callable[..., Any], batch: int, queries: int, keys: int, start: int, first: int) -> bool:
    """Whether the last two queries see what the mask function says: attention in chunks has a size, too, but is no window."""
    rows = torch.arange(max(0, queries - 2), queries) + start
    columns = torch.arange(keys) + first
    q, k = rows[None, None, :, None], columns[None, None, None, :]
    said = function(torch.arange(batch)[:, None, None, None], torch.zeros(1, 1, 1, 1, dtype=torch.long), q, k)
    own = torch.ones(1, 1, len(rows), keys, dtype=torch.bool)
    if seen.right is not None:
        own = own & (k <= q + seen.right)
    if seen.left is not None:
        own = own & (k >= q - seen.left)
    if not isinstance(said, Tensor):
        said = torch.as_tensor(said)
    return bool((said.expand(batch, 1, len(rows), keys) == own).all())
