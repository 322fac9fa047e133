"""An encoder of this engine as a module of sentence-transformers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Sequence

from longreach._needs import needs

needs("longreach.sentence_transformers", "torch", "sentence_transformers")

from sentence_transformers.base.modules import InputModule  # noqa: E402
from torch.utils.dlpack import from_dlpack  # noqa: E402

from longreach._encoder import Encoder as Core  # noqa: E402
from longreach._model import load  # noqa: E402

# Where `save` writes the files of the encoder, beside those of sentence-transformers.
_FOLDER = "encoder"


class Encoder(InputModule):
    """Everything between texts and vectors, as the only module of a ``SentenceTransformer``.

    Texts are cut into tokens, packed without padding, read and pooled by this engine. Vectors are those of the same model in
    sentence-transformers, and have no gradients.

    Parameters
    ----------
    model : str or path
        A directory, or an id of the Hugging Face Hub.
    dtype : str, optional
        The type of the matrices in memory, as of :func:`longreach.load`.
    batch_tokens : int
        The size of a packed batch.

    Examples
    --------
    ``SentenceTransformer(modules=[Encoder("sentence-transformers/all-MiniLM-L6-v2")]).encode(["a text"])``
    """

    encoder: Core
    model: str
    dtype: str | None
    batch_tokens: int

    config_file_name = "longreach.json"
    config_keys: list[str] = ["dtype", "batch_tokens"]

    def __init__(self, model: str | os.PathLike[str], dtype: str | None = None, batch_tokens: int = 8192) -> None:
        initialise: Any = super().__init__  # the library gives it no types
        initialise()
        encoder = load(os.fspath(model), dtype=dtype)
        if not isinstance(encoder, Core):
            raise ValueError(f"{os.fspath(model)} generates text, want an encoder")
        if encoder._core.late:
            raise ValueError(f"{os.fspath(model)} has a vector for each token, want a model with one for a text")
        self.encoder, self.model = encoder, os.fspath(model)
        self.dtype, self.batch_tokens = dtype, batch_tokens

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The texts themselves: :meth:`forward` does the rest. Without a prompt, the model's own for ``task`` is taken."""
        for one in inputs:
            if not isinstance(one, str):
                raise TypeError(f"longreach.sentence_transformers.Encoder: an input is {type(one).__name__}, want str")
        return {"texts": list(inputs), "prompt": prompt, "task": task}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds ``sentence_embedding``, ``[texts, width]``."""
        prompt, task = features.get("prompt"), features.get("task")
        kind = task if task in ("query", "document") else None
        if kind is not None and not prompt:
            prompt = None  # what a SentenceTransformer without prompts of its own gives for a task is empty
        found = self.encoder._core.vectors(features["texts"], prompt, None, kind, self.batch_tokens)
        features["sentence_embedding"] = from_dlpack(found)
        return features

    def get_embedding_dimension(self) -> int:
        """The number of dimensions of a vector."""
        return self.encoder.width

    @property
    def max_seq_length(self) -> int:
        """The longest text in tokens, which is the model's; longer texts are cut."""
        return self.encoder.limit

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if value not in (None, self.encoder.limit):
            raise ValueError(f"max_seq_length is {value}, want {self.encoder.limit}: it is a property of the model's files")

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Writes the configuration, and a copy of the model's files if they are a directory."""
        out = Path(output_path)
        copied = Path(self.model).is_dir()
        if copied:
            shutil.copytree(self.model, out / _FOLDER, dirs_exist_ok=True)
        fields = {**self.get_config_dict(), "model": None if copied else self.model}
        written = out / f"{self.config_file_name}.{os.getpid()}"
        written.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        written.replace(out / self.config_file_name)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Encoder:
        """The module that :meth:`save` wrote."""
        where: dict[str, Any] = {
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **where)
        if config.get("model") is None:
            config["model"] = cls.load_dir_path(model_name_or_path, subfolder=os.path.join(subfolder, _FOLDER), **where)
        return cls(**config)
