"""A language model of Performer blocks."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor, nn

from longreach.nn.performer import Performer, PerformerState


class PerformerLM(nn.Module):
    """Tokens to logits: embeddings of tokens and positions, a :class:`Performer`, a norm, and the embeddings again.

    The arguments are those of performer-pytorch. ``stabilizer`` is that of :class:`FastAttention`.

    >>> import torch
    >>> model = PerformerLM(num_tokens=50, max_seq_len=128, dim=32, depth=1, heads=2, causal=True)
    >>> model(torch.randint(0, 50, (1, 100))).shape
    torch.Size([1, 100, 50])
    """

    token_emb: nn.Embedding
    pos_emb: nn.Embedding
    dropout: nn.Dropout
    performer: Performer
    norm: nn.LayerNorm

    def __init__(
        self,
        *,
        num_tokens: int,
        max_seq_len: int,
        dim: int,
        depth: int,
        heads: int,
        local_attn_heads: int = 0,
        local_window_size: int = 256,
        causal: bool = False,
        ff_mult: int = 4,
        nb_features: int | None = None,
        reversible: bool = False,
        ff_chunks: int = 1,
        ff_glu: bool = False,
        emb_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        attn_dropout: float = 0.0,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] = nn.ReLU(),
        qr_uniform_q: bool = False,
        use_scalenorm: bool = False,
        use_rezero: bool = False,
        cross_attend: bool = False,
        amp_enabled: bool = False,
        dim_head: int | None = None,
        feature_redraw_interval: int | None = 1000,
        stabilizer: str | None = None,
    ) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.pos_emb = nn.Embedding(max_seq_len, dim)
        self.dropout = nn.Dropout(emb_dropout)
        for embedding in (self.token_emb, self.pos_emb):
            nn.init.normal_(embedding.weight, std=0.02)
        self.performer = Performer(
            dim,
            depth,
            heads,
            local_attn_heads,
            local_window_size,
            causal,
            ff_mult,
            nb_features,
            reversible,
            ff_chunks,
            generalized_attention,
            kernel_fn,
            qr_uniform_q,
            use_scalenorm,
            use_rezero,
            ff_glu,
            ff_dropout,
            attn_dropout,
            cross_attend,
            amp_enabled,
            dim_head=dim_head,
            feature_redraw_interval=feature_redraw_interval,
            stabilizer=stabilizer,
        )
        self.norm = nn.LayerNorm(dim)

    def fix_projection_matrices_(self) -> None:
        """Never draws the projections again."""
        self.performer.fix_projection_matrices_()

    def forward(self, x: Tensor, return_encodings: bool = False, **given: Any) -> Tensor:
        """Tokens ``[batch, seq]`` to logits ``[batch, seq, num_tokens]``, or to what they are made of if ``return_encodings``.

        The other arguments are those of :class:`Performer`.
        """
        if x.ndim != 2 or x.shape[1] > self.max_seq_len:
            raise ValueError(f"PerformerLM: tokens have shape {list(x.shape)}, want [batch, at most {self.max_seq_len}]")
        hidden: Tensor = self.token_emb(x) + self.pos_emb(torch.arange(x.shape[1]))
        hidden = self.norm(self.performer(self.dropout(hidden), **given))
        return hidden if return_encodings else hidden @ self.token_emb.weight.T

    def state(self, batch: int = 1) -> PerformerState:
        """The state before the first token."""
        return self.performer.state(batch)

    def step(self, x: Tensor, state: PerformerState) -> tuple[Tensor, PerformerState]:
        """One token of each text, ``[batch]``, of a causal module: the logits ``[batch, num_tokens]`` and the state after it."""
        if state.tokens >= self.max_seq_len:
            raise ValueError(f"PerformerLM: the state has {state.tokens} tokens, want fewer than {self.max_seq_len}")
        hidden: Tensor = self.dropout(self.token_emb(x) + self.pos_emb.weight[state.tokens])
        hidden, state = self.performer.step(hidden, state)
        return self.norm(hidden) @ self.token_emb.weight.T, state
