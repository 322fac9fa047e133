"""The self-attention of Longformer and of BigBird, with the names of parameters that transformers has."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from longreach import _torch
from longreach.nn._heads import sequence, width


class LongformerSelfAttention(nn.Module):
    """Windows, and global tokens that see all and are seen by all (Beltagy et al. 2020), on ``[batch, seq, dim]``.

    A token sees ``window // 2`` tokens on either side. Global tokens have projections of their own. There is no projection of
    the output: parameters are those of ``LongformerSelfAttention`` of transformers.

    >>> import torch
    >>> LongformerSelfAttention(64, 4, window=32)(torch.randn(1, 100, 64)).shape
    torch.Size([1, 100, 64])
    """

    heads: int
    window: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    query_global: nn.Linear
    key_global: nn.Linear
    value_global: nn.Linear

    def __init__(self, dim: int, heads: int = 8, *, window: int = 512) -> None:
        super().__init__()
        width("LongformerSelfAttention", dim, heads)
        if window < 2 or window % 2:
            raise ValueError(f"LongformerSelfAttention: window={window}, want an even number of at least 2")
        self.heads, self.window = heads, window
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.query_global, self.key_global, self.value_global = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        """Masks are ``[batch, seq]``: where a token is there, and which tokens are global."""
        keep = sequence("LongformerSelfAttention", x, mask)
        layers, seen = [self.query, self.key, self.value], None
        if global_mask is not None:
            seen = sequence("LongformerSelfAttention", x, global_mask)
            layers += [self.query_global, self.key_global, self.value_global]
        tensors = [layer(x).unflatten(2, (self.heads, -1)) for layer in layers]
        given: dict[str, Any] = {"global": seen, **dict(zip(("gq", "gk", "gv"), tensors[3:]))}
        out: Tensor = _torch.call("longformer", *tensors[:3], window=self.window // 2, keep=keep, **given)[0]
        return out.flatten(2)


class BigBirdSelfAttention(nn.Module):
    """Blocks of a window, the first and the last block, and random blocks (Zaheer et al. 2020), on ``[batch, seq, dim]``.

    ``seed`` draws the random blocks in training, as the number of the layer does in transformers. Outside training they are
    the first block, as there. A last block that is not full is padded. There is no projection of the output: parameters are
    those of ``BigBirdBlockSparseAttention``.

    >>> import torch
    >>> BigBirdSelfAttention(64, 4, block=16, random_blocks=1)(torch.randn(1, 120, 64)).shape
    torch.Size([1, 120, 64])
    """

    heads: int
    block: int
    random_blocks: int
    seed: int
    max_length: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        block: int = 64,
        random_blocks: int = 3,
        seed: int = 0,
        max_length: int = 4096,
        bias: bool = True,
    ) -> None:
        super().__init__()
        width("BigBirdSelfAttention", dim, heads)
        if block < 1 or random_blocks < 0:
            raise ValueError(f"BigBirdSelfAttention: block={block} and random_blocks={random_blocks}, want 1 and 0 at least")
        self.heads, self.block, self.random_blocks = heads, block, random_blocks
        self.seed, self.max_length = seed, max_length
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=bias) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``, ``[batch, seq]``, is True where a token is there."""
        keep = sequence("BigBirdSelfAttention", x, mask)
        length = x.shape[1]
        if more := -length % self.block:
            keep = x.new_ones(x.shape[:2]).bool() if keep is None else keep
            x, keep = nn.functional.pad(x, (0, 0, 0, more)), nn.functional.pad(keep, (0, more))
        tensors = [layer(x).unflatten(2, (self.heads, -1)) for layer in (self.query, self.key, self.value)]
        given: dict[str, Any] = {"block": self.block, "random_blocks": self.random_blocks, "max_length": self.max_length}
        seed = self.seed if self.training else None
        out: Tensor = _torch.call("bigbird", *tensors, keep=keep, seed=seed, **given)[0]
        return out.flatten(2)[:, :length]
