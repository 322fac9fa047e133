"""Tokenizers with transformers' calls, on the tokenizers of this engine."""

from __future__ import annotations

import os
from typing import Any, Iterator, Sequence

import numpy as np
import torch

from longreach._encoder import Encoder
from longreach._model import Model
from longreach.transformers._load import loaded, warn_of


class BatchEncoding(dict[str, Any]):
    """The tensors of texts by name, which are also attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any, **kwargs: Any) -> BatchEncoding:
        """Itself: the engine works on the CPU."""
        warn_of(device)
        return self


class AutoTokenizer:
    """The tokenizer of a model."""

    def __init__(self, source: Model | Encoder) -> None:
        self._source = source
        config = source.config
        eos = config.get("eos_token_id")
        self.eos_token_id: int | None = eos[0] if isinstance(eos, list) else eos
        pad = config.get("pad_token_id")
        self.pad_token_id: int | None = self.eos_token_id if pad is None else pad
        self.padding_side = "right"

    @classmethod
    def from_pretrained(cls, model_id: str | os.PathLike[str], **kwargs: Any) -> AutoTokenizer:
        """Loads the tokenizer of a directory or an id of the Hub; options that concern the files' kind are ignored."""
        return cls(loaded(model_id))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text."""
        if isinstance(self._source, Model):
            return self._source.tokenize(text, special=add_special_tokens)
        ids = self._source.tokenize(text)
        return ids

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        return_tensors: str | None = None,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """``input_ids`` and ``attention_mask`` of a text or several."""
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f"tokenizer: `return_tensors` is {return_tensors!r}, want 'pt', 'np' or None")
        alone = isinstance(text, str)
        texts: list[str] = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(one, add_special_tokens) for one in texts]
        if truncation and max_length is not None:
            behind = self._behind() if add_special_tokens else 0
            rows = [_cut(row, max_length, behind) for row in rows]
        longest = max((len(row) for row in rows), default=0)
        if padding == "max_length" and max_length is not None:
            longest = max(longest, max_length)
        masks = [[1] * len(row) for row in rows]
        if padding:
            if self.pad_token_id is None and any(len(row) < longest for row in rows):
                raise ValueError("tokenizer: the model has no `pad_token_id`, which padding needs")
            rows, masks = zip(*(self._padded(row, longest) for row in rows)) if rows else ([], [])  # type: ignore[assignment]
        if return_tensors is None:
            return BatchEncoding(input_ids=rows[0] if alone else list(rows), attention_mask=masks[0] if alone else list(masks))
        if len({len(row) for row in rows}) > 1:
            raise ValueError("tokenizer: the texts have different lengths: give padding=True")
        arrays = np.asarray(rows, np.int64), np.asarray(masks, np.int64)
        if return_tensors == "np":
            return BatchEncoding(input_ids=arrays[0], attention_mask=arrays[1])
        return BatchEncoding(input_ids=torch.from_numpy(arrays[0]), attention_mask=torch.from_numpy(arrays[1]))

    def _behind(self) -> int:
        """How many special tokens stand behind a text: those of an empty one that are not before it."""
        if isinstance(self._source, Model):
            return 0
        empty, one = self.encode(""), self.encode("a")
        before = 0
        while before < len(empty) and empty[before] == one[before]:
            before += 1
        return len(empty) - before

    def _padded(self, row: list[int], longest: int) -> tuple[list[int], list[int]]:
        more = longest - len(row)
        pads, mask = [self.pad_token_id or 0] * more, [1] * len(row)
        if self.padding_side == "left":
            return pads + row, [0] * more + mask
        return row + pads, mask + [0] * more

    def decode(self, ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> str:
        """The text of tokens, without special ones."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if ids and isinstance(ids[0], list):
            ids = ids[0]
        if isinstance(self._source, Model):
            return self._source.detokenize(ids)
        return self._source._core.decode(ids)

    def batch_decode(self, rows: Any, **kwargs: Any) -> list[str]:
        """The texts of rows of tokens."""
        return [self.decode(row, **kwargs) for row in rows]

    def __len__(self) -> int:
        return int(self._source.config.get("vocab_size", 0))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a tokenizer has no elements")


def _cut(row: list[int], length: int, behind: int) -> list[int]:
    """At most ``length`` tokens, with the special ones behind the text."""
    return row if len(row) <= length else row[: max(length - behind, 0)] + row[len(row) - min(behind, length) :]


LongformerTokenizer = AutoTokenizer
