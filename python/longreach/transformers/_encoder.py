"""Encoders with transformers' calls, on this engine."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from longreach._encoder import Encoder
from longreach.transformers._causal import Output, _kept, _known, _rows
from longreach.transformers._load import dtype_of, loaded, warn_of


class AutoModel:
    """An encoder, or the hidden states of a language model."""

    config: Any
    device: torch.device

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(
        cls, model_id: str | os.PathLike[str], *, torch_dtype: Any = None, dtype: Any = None, device_map: Any = None, **kwargs: Any
    ) -> AutoModel:
        """Loads a model of a directory or an id of the Hub. Options that concern devices and files are ignored."""
        if isinstance(device_map, (str, torch.device)):
            warn_of(device_map)
        return cls(loaded(model_id, dtype_of(torch_dtype, dtype)))

    def to(self, device: Any = None, **kwargs: Any) -> AutoModel:
        """Itself: the engine works on the CPU."""
        if isinstance(device, (str, torch.device)):
            warn_of(device)
        return self

    def eval(self) -> AutoModel:
        """Itself: models of this engine have no other mode."""
        return self

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Output:
        """The last hidden states, ``[batch, seq, d]``, and the pooled output if the model has one."""
        _known("forward", kwargs, set())
        rows = _rows(input_ids)
        if isinstance(self.model, Encoder):
            given = (rows, attention_mask, global_attention_mask, token_type_ids)
            hidden, pooled = self.model._hidden(*given)
            return Output(
                last_hidden_state=from_dlpack(hidden),
                pooler_output=None if pooled is None else from_dlpack(pooled),
            )
        if global_attention_mask is not None:
            raise ValueError("forward: `global_attention_mask`: the model is not an encoder")
        found = [torch.from_numpy(self.model.hidden(rows[i, mask].tolist())) for i, mask in enumerate(_kept(rows, attention_mask))]
        out = torch.zeros(*rows.shape, found[0].shape[1])
        for i, mask in enumerate(_kept(rows, attention_mask)):
            out[i, mask] = found[i]
        return Output(last_hidden_state=out)


LongformerModel = AutoModel
