"""Language models with transformers' calls, on this engine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longreach._model import Model
from longreach.transformers._load import dtype_of, loaded, warn_of


@dataclass
class Output:
    """The outputs of a model, by name, by key and by number."""

    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None

    def _given(self) -> list[Any]:
        return [x for x in (self.logits, self.last_hidden_state, self.pooler_output) if x is not None]

    def __getitem__(self, key: int | str) -> Any:
        return getattr(self, key) if isinstance(key, str) else self._given()[key]


#: Arguments of transformers that change no result here.
IGNORED = {"use_cache", "return_dict", "output_attentions", "output_hidden_states", "return_dict_in_generate", "cache_implementation"}


class AutoModelForCausalLM:
    """A language model of this engine."""

    config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype

    def __init__(self, model: Model) -> None:
        self.model = model
        self.config = model.config
        self.device = torch.device("cpu")
        self.dtype = torch.float32

    @classmethod
    def from_pretrained(
        cls, model_id: str | os.PathLike[str], *, torch_dtype: Any = None, dtype: Any = None, device_map: Any = None, **kwargs: Any
    ) -> AutoModelForCausalLM:
        """Loads a model of a directory or an id of the Hub. Options that concern devices and files are ignored."""
        if isinstance(device_map, (str, torch.device)):
            warn_of(device_map)
        model = loaded(model_id, dtype_of(torch_dtype, dtype))
        if not isinstance(model, Model):
            raise ValueError(f"{model_id} is an encoder, want a language model: AutoModel loads it")
        return cls(model)

    def to(self, device: Any = None, **kwargs: Any) -> AutoModelForCausalLM:
        """Itself: the engine works on the CPU."""
        if isinstance(device, (str, torch.device)):
            warn_of(device)
        return self

    def eval(self) -> AutoModelForCausalLM:
        """Itself: models of this engine have no other mode."""
        return self

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Output:
        """The logits after each token, ``[batch, seq, vocabulary]``; zero at padding."""
        _known("forward", kwargs, set())
        rows = _rows(input_ids)
        kept = _kept(rows, attention_mask)
        logits = torch.zeros(*rows.shape, self.model.vocabulary)
        for i, mask in enumerate(kept):
            if bool(mask.any()):
                logits[i, mask] = torch.from_numpy(self.model.logits(rows[i, mask].tolist()))
        return Output(logits=logits)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        repetition_penalty: float | None = None,
        streamer: Any = None,
        seed: int = 0,
        pad_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The tokens of prompts and what continues them, ``[batch, seq]``, with transformers' defaults: greedy, 20 new tokens."""
        _known("generate", kwargs, set())
        most, samples, _ = self.model._core.defaults()
        rows = _rows(input_ids)
        if max_new_tokens is None:
            max_new_tokens = max_length - rows.shape[1] if max_length is not None else 20 if most is None else most
        if max_new_tokens < 1:
            raise ValueError(f"generate: `max_new_tokens` is {max_new_tokens}, want at least 1")
        given = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "typical_p": typical_p,
            "repetition_penalty": repetition_penalty,
        }
        options = {name: value for name, value in given.items() if value is not None}
        if not (bool(samples) if do_sample is None else do_sample):
            kept_options = {"repetition_penalty"} & options.keys()
            options = {"temperature": 0.0, **{name: options[name] for name in kept_options}}
        elif not samples:
            options = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, **options}
        ends = self.model.eos if eos_token_id is None else [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id
        if streamer is not None:
            streamer.put(rows.cpu())
        new = []
        for i, mask in enumerate(_kept(rows, attention_mask)):
            new.append(self._continued(rows[i, mask].tolist(), max_new_tokens, ends, {**options, "seed": seed + i}, streamer))
        if streamer is not None:
            streamer.end()
        return self._joined(rows, new, pad_token_id)

    def _continued(self, ids: list[int], most: int, ends: list[int], options: dict[str, Any], streamer: Any) -> list[int]:
        session = self.model.session()
        session.read(ids)
        out: list[int] = []
        seed = options.pop("seed")
        for n in range(most):
            first = {"seed": seed} if n == 0 else {}
            out.append(session.next_token(**options, **first))
            if streamer is not None:
                streamer.put(torch.tensor(out[-1:]))
            if out[-1] in ends:
                break
        return out

    def _joined(self, rows: Tensor, new: list[list[int]], pad: int | None) -> Tensor:
        longest = max(len(row) for row in new)
        if pad is None:
            pad = self.config.get("pad_token_id")
        if pad is None:
            pad = self.model.eos[0] if self.model.eos else 0
        out = torch.full((len(new), longest), pad, dtype=torch.long)
        for i, row in enumerate(new):
            out[i, : len(row)] = torch.tensor(row)
        return torch.cat([rows, out], dim=1)


def _known(function: str, given: dict[str, Any], more: set[str]) -> None:
    """``ValueError`` for an argument that would change the result."""
    unknown = [name for name, value in given.items() if name not in IGNORED | more and value is not None]
    if unknown:
        raise ValueError(f"{function}: the arguments {unknown} are not supported")


def _rows(input_ids: Any) -> Tensor:
    rows = torch.as_tensor(input_ids)
    return rows[None] if rows.ndim == 1 else rows


def _kept(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Which tokens are there."""
    if mask is None:
        return torch.ones_like(rows, dtype=torch.bool)
    if mask.shape != rows.shape:
        raise ValueError(f"`attention_mask` has shape {list(mask.shape)}, want {list(rows.shape)}")
    return mask.bool()
