"""Language models: generation, scores, sessions."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, Sequence, TextIO, Union

import numpy as np

from longreach import _arrays, _core
from longreach._loaded import Loaded

if TYPE_CHECKING:
    from longreach._encoder import Encoder

Prompt = Union[str, Sequence[int], TextIO]

#: Tokens that are read at once.
CHUNK = 512


def load(
    model: str | os.PathLike[str] | None = None, *, dtype: Any = None, progress: bool = False
) -> Model | Encoder:
    """Loads a language model or an encoder.

    Parameters
    ----------
    model : str or path, optional
        A directory, a weights file (safetensors, GGUF) or an id of the Hub; the model that is built in if None.
    dtype : str or torch.dtype, optional
        ``"float32"``, ``"bfloat16"`` or ``"int8"`` for the matrices in memory; that of the files if None.
    progress : bool
        Whether a download shows its progress.

    Examples
    --------
    >>> import longreach
    >>> longreach.load().vocabulary > 0
    True
    """
    from longreach._encoder import Encoder

    source = (None if model is None else os.fspath(model), _dtype(dtype))
    core = _core.load(source[0], source[1], progress)
    return Model(core, source) if isinstance(core, _core.Model) else Encoder(core, source)


def _dtype(dtype: Any) -> str | None:
    """The engine's name of a dtype."""
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    known = {"float32": "f32", "f32": "f32", "bfloat16": "bf16", "bf16": "bf16", "int8": "int8"}
    if name not in known:
        raise ValueError(f"load: `dtype` is {name}, want one of float32, bfloat16, int8")
    return known[name]


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text: of all tokens but the first, which nothing predicts."""

    #: The number of tokens that were scored.
    tokens: int
    #: The sum of their logarithms of probability, in nats.
    log_likelihood: float
    #: Bits per byte of the text, which models with different tokenizers share.
    bits_per_byte: float
    #: The logarithm of probability of each token, ``[tokens]``.
    per_token: np.ndarray[Any, Any]

    @property
    def perplexity(self) -> float:
        """The perplexity per scored token."""
        return float(np.exp(-self.log_likelihood / self.tokens))


class Model(Loaded[_core.Model]):
    """A language model with its tokenizer. Threads may share it."""

    def __repr__(self) -> str:
        return f"<longreach.Model {self.name}: {self.parameters:,} parameters, {self.dtype}>"

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return self._core.parameters

    @property
    def vocabulary(self) -> int:
        """The number of tokens that it knows."""
        return self._core.vocabulary

    @property
    def longest(self) -> int | None:
        """The longest text in tokens; None if there is no limit."""
        return self._core.longest

    @property
    def eos(self) -> list[int]:
        """The tokens that end a text."""
        return self._core.eos

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text, with the special ones that the tokenizer adds around every text if ``special``."""
        return self._core.encode(text, special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return self._core.decode(list(ids))

    def generate(self, prompt: Prompt, max_tokens: int | None = None, **options: Any) -> str:
        """Continues a prompt and returns the new text.

        Parameters
        ----------
        prompt : str, list of int, or open text file
            A text, tokens, or a file of any length, which is read in constant memory.
        max_tokens : int, optional
            The most tokens to generate; the model's default, or 256.
        temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, seed
            As the options of ``longreach generate``; those of the model's ``generation_config.json`` if not given.
        logit_bias : list of (int, float), optional
            What is added to the logits of tokens.
        stop : str or list of str, optional
            Strings before which the text ends.
        ignore_eos : bool
            Whether the text goes on after a token that ends it.

        Raises
        ------
        ValueError
            If an option is out of range, or the prompt is empty or longer than the model reads.
        """
        session = self.session()
        session.read(prompt)
        return session.write(max_tokens, **options)

    def stream(self, prompt: Prompt, max_tokens: int | None = None, **options: Any) -> Iterator[str]:
        """As :meth:`generate`, piece by piece. A piece has whole characters; closing the iterator ends the work."""
        session = self.session()
        session.read(prompt)
        yield from session.stream(max_tokens, **options)

    def session(self) -> Session:
        """A new session: a text that is read and continued step by step."""
        return Session(self, self._core.session())

    def resume(self, path: str | os.PathLike[str]) -> Session:
        """The session of a saved state, to the bit. ``ValueError`` if it is of another model, dtype or tokenizer."""
        return Session(self, self._core.resume(os.fspath(path)))

    def from_bytes(self, data: bytes) -> Session:
        """The session of :meth:`Session.to_bytes`."""
        return Session(self, self._core.resume_bytes(bytes(data)))

    def score(self, texts: str | Sequence[str]) -> Any:
        """How well the model predicts a text, as a :class:`Score`, or several, as a list."""
        if isinstance(texts, str):
            return self._score(texts)
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> Score:
        ids = self.tokenize(text)
        if len(ids) < 2:
            raise ValueError("score: the text has a single token: a score needs one that predicts and one that is predicted")
        nats = _arrays.numpy(self._core.losses(ids))
        bits = float(nats.sum()) / np.log(2) / max(len(text.encode()), 1)
        return Score(len(nats), -float(nats.sum()), bits, -nats)

    def logits(self, ids: Sequence[int], *, chunk: int | None = None) -> np.ndarray[Any, Any]:
        """The logits after each token, ``[tokens, vocabulary]``, read ``chunk`` tokens at a time."""
        return _arrays.numpy(self._core.logits(list(ids), chunk or CHUNK))

    def hidden(self, ids: Sequence[int], *, chunk: int | None = None) -> np.ndarray[Any, Any]:
        """The hidden states after the last norm, ``[tokens, d]``."""
        return _arrays.numpy(self._core.hidden(list(ids), chunk or CHUNK))


class Session:
    """A text that a model reads and continues. One thread works on it at a time.

    >>> import longreach
    >>> session = longreach.load().session()
    >>> session.read("A trait is")
    >>> fork = session.fork()
    >>> session.write(5, seed=1) == fork.write(5, seed=1)
    True
    """

    def __init__(self, model: Model, core: _core.Session) -> None:
        self.model = model
        self._core = core

    def __copy__(self) -> Session:
        return self.fork()

    def __deepcopy__(self, memo: Any) -> Session:
        return self.fork()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.tokens == 0:
            return Model.session, (self.model,)
        return Model.from_bytes, (self.model, self.to_bytes())

    def read(self, prompt: Prompt) -> None:
        """Reads a text, tokens, or an open text file of any length. Ctrl-C leaves what was read before."""
        if isinstance(prompt, str):
            self._core.read_text(prompt)
        elif isinstance(prompt, io.TextIOBase) or hasattr(prompt, "read"):
            self._core.read_file(prompt, str(getattr(prompt, "name", "the prompt")))
        else:
            self._core.read_ids(_ids(prompt))

    def write(self, max_tokens: int | None = None, **options: Any) -> str:
        """Generates up to ``max_tokens`` tokens and returns their text; see :meth:`Model.generate`."""
        return self._stream(max_tokens, options).rest()

    def stream(self, max_tokens: int | None = None, **options: Any) -> Iterator[str]:
        """As :meth:`write`, piece by piece."""
        stream = self._stream(max_tokens, options)
        try:
            yield from stream
        finally:
            stream.close()

    def _stream(self, max_tokens: int | None, options: dict[str, Any]) -> _core.Stream:
        most, _, stops = self.model._core.defaults()
        stop = options.pop("stop", None)
        stop = stops if stop is None else [stop] if isinstance(stop, str) else list(stop)
        ignore_eos = bool(options.pop("ignore_eos", False))
        if max_tokens is None:
            max_tokens = 256 if most is None else most
        if max_tokens < 0:
            raise ValueError(f"`max_tokens` is {max_tokens}, want at least 0")
        if self.tokens == 0:
            self._core.read_start()
        return self._core.stream(max_tokens, stop, ignore_eos, options)

    def next_token(self, **options: Any) -> int:
        """Samples the next token, reads it, and returns it."""
        return self._core.next_token(options)

    @property
    def logits(self) -> np.ndarray[Any, Any]:
        """The logits after the last token, ``[vocabulary]``."""
        return _arrays.numpy(self._core.logits())

    @property
    def tokens(self) -> int:
        """The number of tokens read and generated so far."""
        return self._core.tokens

    @property
    def state_bytes(self) -> int:
        """The size of its state. It is constant for recurrent models, and grows with the text for softmax attention."""
        return self._core.state_bytes

    def fork(self) -> Session:
        """Another session that goes on from here."""
        return Session(self.model, self._core.fork())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves its state to a file, which ``longreach generate --load-state`` reads, too."""
        self._core.save(os.fspath(path))

    def to_bytes(self) -> bytes:
        """Its state; :meth:`Model.from_bytes` continues it."""
        return self._core.to_bytes()


def _ids(prompt: Any) -> list[int]:
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    return [int(id) for id in prompt]
