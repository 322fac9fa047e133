"""Padding to whole blocks, as DeepSpeed's utilities do it."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

Padded = tuple[int, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class SparseAttentionUtils:
    """The utilities of DeepSpeed that sparse attention needs around a model's embeddings and outputs."""

    @staticmethod
    def pad_to_block_size(
        block_size: int,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        pad_token_id: int,
        model_embeddings: Callable[[Tensor], Tensor] | None,
    ) -> Padded:
        """Pads the inputs of a model to a multiple of the block; those that are None stay None.

        Tokens and positions are padded with ``pad_token_id``, masks and types with 0, and ``inputs_embeds`` with
        ``model_embeddings`` of the padding. Returns how many tokens were added, and the inputs in their order.

        >>> ids = torch.ones(1, 5, dtype=torch.long)
        >>> added, ids, mask, *_ = SparseAttentionUtils.pad_to_block_size(4, ids, ids, None, None, None, 0, None)
        >>> added, ids.shape, mask.tolist()
        (3, torch.Size([1, 8]), [[1, 1, 1, 1, 1, 0, 0, 0]])
        """
        if block_size < 1:
            raise ValueError(f"pad_to_block_size: `block_size` is {block_size}, want at least 1")
        first = input_ids if input_ids is not None else inputs_embeds
        if first is None:
            raise ValueError("pad_to_block_size: `input_ids` and `inputs_embeds` are None, want one of them")
        batch, length = first.shape[:2]
        added = -length % block_size
        if added == 0:
            return 0, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        if inputs_embeds is not None:
            if model_embeddings is None:
                raise ValueError("pad_to_block_size: `model_embeddings` is None, want the embeddings for `inputs_embeds`")
            padding = torch.full((batch, added), pad_token_id, dtype=torch.long)
            inputs_embeds = torch.cat([inputs_embeds, model_embeddings(padding)], dim=1)

        def padded(x: Tensor | None, value: int) -> Tensor | None:
            return None if x is None else pad(x, (0, added), value=value)

        return (
            added,
            padded(input_ids, pad_token_id),
            padded(attention_mask, 0),
            padded(token_type_ids, 0),
            padded(position_ids, pad_token_id),
            inputs_embeds,
        )

    @staticmethod
    def unpad_sequence_output(pad_len: int, sequence_output: Tensor) -> Tensor:
        """The output, ``[batch, seq, …]``, without the last ``pad_len`` tokens."""
        return sequence_output[:, : sequence_output.shape[1] - pad_len]
