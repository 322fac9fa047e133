"""Written by ``python -m longreach._stubs``. Do not edit."""

from typing import Any, Generic, Literal, NamedTuple, Protocol, Sequence, TypeVar

class _DLPack(Protocol):
    """An array of numpy, torch, or another library that knows DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

A = TypeVar("A", bound=_DLPack)

class Mamba(NamedTuple, Generic[A]):
    """The outputs of ``mamba``."""

    o: A
    state: A

class MambaGradients(tuple[A, ...]):
    """The gradients of the inputs of ``mamba`` that were given."""

    @property
    def x(self) -> A: ...
    @property
    def dt(self) -> A: ...
    @property
    def dt_bias(self) -> A: ...
    @property
    def a(self) -> A: ...
    @property
    def b(self) -> A: ...
    @property
    def c(self) -> A: ...
    @property
    def d(self) -> A: ...
    @property
    def z(self) -> A: ...
    @property
    def state(self) -> A: ...

class _MambaFunction(Protocol):
    def __call__(
        self,
        x: A,
        dt: _DLPack,
        dt_bias: _DLPack,
        a: _DLPack,
        b: _DLPack,
        c: _DLPack,
        d: _DLPack,
        z: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Mamba[A]: ...
    def backward(
        self,
        x: A,
        dt: _DLPack,
        dt_bias: _DLPack,
        a: _DLPack,
        b: _DLPack,
        c: _DLPack,
        d: _DLPack,
        z: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> MambaGradients[A]: ...
    def step_(
        self,
        x: A,
        dt: _DLPack,
        dt_bias: _DLPack,
        a: _DLPack,
        b: _DLPack,
        c: _DLPack,
        d: _DLPack,
        z: _DLPack | None = None,
        *,
        state: _DLPack,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

mamba: _MambaFunction

class Rwkv4(NamedTuple, Generic[A]):
    """The outputs of ``rwkv4``."""

    o: A
    state: A

class Rwkv4Gradients(tuple[A, ...]):
    """The gradients of the inputs of ``rwkv4`` that were given."""

    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def w(self) -> A: ...
    @property
    def u(self) -> A: ...
    @property
    def state(self) -> A: ...

class _Rwkv4Function(Protocol):
    def __call__(
        self,
        k: A,
        v: _DLPack,
        w: _DLPack,
        u: _DLPack,
        state: _DLPack | None = None,
        *,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv4[A]: ...
    def backward(
        self,
        k: A,
        v: _DLPack,
        w: _DLPack,
        u: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv4Gradients[A]: ...
    def step_(
        self,
        k: A,
        v: _DLPack,
        w: _DLPack,
        u: _DLPack,
        *,
        state: _DLPack,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

rwkv4: _Rwkv4Function

class RgLru(NamedTuple, Generic[A]):
    """The outputs of ``rg_lru``."""

    o: A
    state: A

class RgLruGradients(tuple[A, ...]):
    """The gradients of the inputs of ``rg_lru`` that were given."""

    @property
    def x(self) -> A: ...
    @property
    def r(self) -> A: ...
    @property
    def i(self) -> A: ...
    @property
    def lambda_(self) -> A: ...
    @property
    def state(self) -> A: ...

class _RgLruFunction(Protocol):
    def __call__(
        self,
        x: A,
        r: _DLPack,
        i: _DLPack,
        lambda_: _DLPack,
        reset: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> RgLru[A]: ...
    def backward(
        self,
        x: A,
        r: _DLPack,
        i: _DLPack,
        lambda_: _DLPack,
        reset: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> RgLruGradients[A]: ...
    def step_(
        self,
        x: A,
        r: _DLPack,
        i: _DLPack,
        lambda_: _DLPack,
        reset: _DLPack | None = None,
        *,
        state: _DLPack,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

rg_lru: _RgLruFunction

class Scan(NamedTuple, Generic[A]):
    """The outputs of ``scan``."""

    o: A
    state: A

class ScanGradients(tuple[A, ...]):
    """The gradients of the inputs of ``scan`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def beta(self) -> A: ...
    @property
    def skip(self) -> A: ...
    @property
    def state(self) -> A: ...

class _ScanFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack | None = None,
        beta: _DLPack | None = None,
        skip: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        scale: float = 1.0,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Scan[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack | None = None,
        beta: _DLPack | None = None,
        skip: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float = 1.0,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> ScanGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack | None = None,
        beta: _DLPack | None = None,
        skip: _DLPack | None = None,
        *,
        state: _DLPack,
        scale: float = 1.0,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

scan: _ScanFunction

class Mamba2(NamedTuple, Generic[A]):
    """The outputs of ``mamba2``."""

    o: A
    state: A

class Mamba2Gradients(tuple[A, ...]):
    """The gradients of the inputs of ``mamba2`` that were given."""

    @property
    def x(self) -> A: ...
    @property
    def dt(self) -> A: ...
    @property
    def dt_bias(self) -> A: ...
    @property
    def a(self) -> A: ...
    @property
    def b(self) -> A: ...
    @property
    def c(self) -> A: ...
    @property
    def d(self) -> A: ...
    @property
    def state(self) -> A: ...

class _Mamba2Function(Protocol):
    def __call__(
        self,
        x: A,
        dt: _DLPack,
        dt_bias: _DLPack,
        a: _DLPack,
        b: _DLPack,
        c: _DLPack,
        d: _DLPack,
        state: _DLPack | None = None,
        *,
        dt_min: float = 0.0,
        dt_max: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Mamba2[A]: ...
    def backward(
        self,
        x: A,
        dt: _DLPack,
        dt_bias: _DLPack,
        a: _DLPack,
        b: _DLPack,
        c: _DLPack,
        d: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        dt_min: float = 0.0,
        dt_max: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Mamba2Gradients[A]: ...
    def step_(
        self,
        x: A,
        dt: _DLPack,
        dt_bias: _DLPack,
        a: _DLPack,
        b: _DLPack,
        c: _DLPack,
        d: _DLPack,
        *,
        state: _DLPack,
        dt_min: float = 0.0,
        dt_max: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

mamba2: _Mamba2Function

class LinearAttention(NamedTuple, Generic[A]):
    """The outputs of ``linear_attention``."""

    o: A
    state: A

class LinearAttentionGradients(tuple[A, ...]):
    """The gradients of the inputs of ``linear_attention`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def state(self) -> A: ...

class _LinearAttentionFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        state: _DLPack | None = None,
        *,
        map: Literal["elu", "relu", "relu2", "exp", "identity", "taylor", "based"] = 'elu',
        normalize: bool = True,
        epsilon: float = 1e-06,
        causal: bool = True,
        scale: float = 1.0,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> LinearAttention[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        map: Literal["elu", "relu", "relu2", "exp", "identity", "taylor", "based"] = 'elu',
        normalize: bool = True,
        epsilon: float = 1e-06,
        causal: bool = True,
        scale: float = 1.0,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> LinearAttentionGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        *,
        state: _DLPack,
        map: Literal["elu", "relu", "relu2", "exp", "identity", "taylor", "based"] = 'elu',
        normalize: bool = True,
        epsilon: float = 1e-06,
        causal: bool = True,
        scale: float = 1.0,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

linear_attention: _LinearAttentionFunction

class Performer(NamedTuple, Generic[A]):
    """The outputs of ``performer``."""

    o: A
    state: A

class PerformerGradients(tuple[A, ...]):
    """The gradients of the inputs of ``performer`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def w(self) -> A: ...
    @property
    def state(self) -> A: ...

class _PerformerFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        w: _DLPack,
        state: _DLPack | None = None,
        *,
        kernel: Literal["softmax", "hyperbolic", "relu"] = 'softmax',
        epsilon: float = 0.0001,
        causal: bool = True,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Performer[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        w: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        kernel: Literal["softmax", "hyperbolic", "relu"] = 'softmax',
        epsilon: float = 0.0001,
        causal: bool = True,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> PerformerGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        w: _DLPack,
        *,
        state: _DLPack,
        kernel: Literal["softmax", "hyperbolic", "relu"] = 'softmax',
        epsilon: float = 0.0001,
        causal: bool = True,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

performer: _PerformerFunction

class Cosformer(NamedTuple, Generic[A]):
    """The outputs of ``cosformer``."""

    o: A
    state: A

class CosformerGradients(tuple[A, ...]):
    """The gradients of the inputs of ``cosformer`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def state(self) -> A: ...

class _CosformerFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        positions: _DLPack,
        state: _DLPack | None = None,
        *,
        length: int,
        causal: bool = True,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Cosformer[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        positions: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        length: int,
        causal: bool = True,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> CosformerGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        positions: _DLPack,
        *,
        state: _DLPack,
        length: int,
        causal: bool = True,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

cosformer: _CosformerFunction

class Retention(NamedTuple, Generic[A]):
    """The outputs of ``retention``."""

    o: A
    state: A

class RetentionGradients(tuple[A, ...]):
    """The gradients of the inputs of ``retention`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def state(self) -> A: ...

class _RetentionFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Retention[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> RetentionGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

retention: _RetentionFunction

class Lightning(NamedTuple, Generic[A]):
    """The outputs of ``lightning``."""

    o: A
    state: A

class LightningGradients(tuple[A, ...]):
    """The gradients of the inputs of ``lightning`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def state(self) -> A: ...

class _LightningFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Lightning[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> LightningGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

lightning: _LightningFunction

class Gla(NamedTuple, Generic[A]):
    """The outputs of ``gla``."""

    o: A
    state: A

class GlaGradients(tuple[A, ...]):
    """The gradients of the inputs of ``gla`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def state(self) -> A: ...

class _GlaFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Gla[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> GlaGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

gla: _GlaFunction

class Hgrn2(NamedTuple, Generic[A]):
    """The outputs of ``hgrn2``."""

    o: A
    state: A

class Hgrn2Gradients(tuple[A, ...]):
    """The gradients of the inputs of ``hgrn2`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def state(self) -> A: ...

class _Hgrn2Function(Protocol):
    def __call__(
        self,
        q: A,
        g: _DLPack,
        v: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Hgrn2[A]: ...
    def backward(
        self,
        q: A,
        g: _DLPack,
        v: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Hgrn2Gradients[A]: ...
    def step_(
        self,
        q: A,
        g: _DLPack,
        v: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

hgrn2: _Hgrn2Function

class Rwkv5(NamedTuple, Generic[A]):
    """The outputs of ``rwkv5``."""

    o: A
    state: A

class Rwkv5Gradients(tuple[A, ...]):
    """The gradients of the inputs of ``rwkv5`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def u(self) -> A: ...
    @property
    def state(self) -> A: ...

class _Rwkv5Function(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        u: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv5[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        u: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv5Gradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        u: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

rwkv5: _Rwkv5Function

class Rwkv6(NamedTuple, Generic[A]):
    """The outputs of ``rwkv6``."""

    o: A
    state: A

class Rwkv6Gradients(tuple[A, ...]):
    """The gradients of the inputs of ``rwkv6`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def u(self) -> A: ...
    @property
    def state(self) -> A: ...

class _Rwkv6Function(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        u: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv6[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        u: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv6Gradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        u: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

rwkv6: _Rwkv6Function

class DeltaRule(NamedTuple, Generic[A]):
    """The outputs of ``delta_rule``."""

    o: A
    state: A

class DeltaRuleGradients(tuple[A, ...]):
    """The gradients of the inputs of ``delta_rule`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def beta(self) -> A: ...
    @property
    def state(self) -> A: ...

class _DeltaRuleFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        beta: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> DeltaRule[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        beta: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> DeltaRuleGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        beta: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

delta_rule: _DeltaRuleFunction

class GatedDelta(NamedTuple, Generic[A]):
    """The outputs of ``gated_delta``."""

    o: A
    state: A

class GatedDeltaGradients(tuple[A, ...]):
    """The gradients of the inputs of ``gated_delta`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def beta(self) -> A: ...
    @property
    def state(self) -> A: ...

class _GatedDeltaFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        beta: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> GatedDelta[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        beta: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> GatedDeltaGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        beta: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

gated_delta: _GatedDeltaFunction

class Kda(NamedTuple, Generic[A]):
    """The outputs of ``kda``."""

    o: A
    state: A

class KdaGradients(tuple[A, ...]):
    """The gradients of the inputs of ``kda`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def beta(self) -> A: ...
    @property
    def state(self) -> A: ...

class _KdaFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        beta: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Kda[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        beta: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> KdaGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        beta: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

kda: _KdaFunction

class Dplr(NamedTuple, Generic[A]):
    """The outputs of ``dplr``."""

    o: A
    state: A

class DplrGradients(tuple[A, ...]):
    """The gradients of the inputs of ``dplr`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def a(self) -> A: ...
    @property
    def b(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def state(self) -> A: ...

class _DplrFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        a: _DLPack,
        b: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Dplr[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        a: _DLPack,
        b: _DLPack,
        g: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> DplrGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        a: _DLPack,
        b: _DLPack,
        g: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

dplr: _DplrFunction

class Rwkv7(NamedTuple, Generic[A]):
    """The outputs of ``rwkv7``."""

    o: A
    state: A

class Rwkv7Gradients(tuple[A, ...]):
    """The gradients of the inputs of ``rwkv7`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def g(self) -> A: ...
    @property
    def kappa(self) -> A: ...
    @property
    def a(self) -> A: ...
    @property
    def state(self) -> A: ...

class _Rwkv7Function(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        kappa: _DLPack,
        a: _DLPack,
        state: _DLPack | None = None,
        *,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "recurrent", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv7[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        kappa: _DLPack,
        a: _DLPack,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rwkv7Gradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        g: _DLPack,
        kappa: _DLPack,
        a: _DLPack,
        *,
        state: _DLPack,
        scale: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

rwkv7: _Rwkv7Function

class Dense(NamedTuple, Generic[A]):
    """The outputs of ``dense``."""

    o: A
    lse: A | None

class DenseGradients(tuple[A, ...]):
    """The gradients of the inputs of ``dense`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _DenseFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        causal: bool = False,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Dense[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        causal: bool = False,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> DenseGradients[A]: ...

dense: _DenseFunction

class Masked(NamedTuple, Generic[A]):
    """The outputs of ``masked``."""

    o: A
    lse: A | None

class MaskedGradients(tuple[A, ...]):
    """The gradients of the inputs of ``masked`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _MaskedFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        mask: _DLPack | None = None,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        start: Sequence[int] | _DLPack | None = None,
        indices: Sequence[int] | _DLPack | None = None,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Masked[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        mask: _DLPack | None = None,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        start: Sequence[int] | _DLPack | None = None,
        indices: Sequence[int] | _DLPack | None = None,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> MaskedGradients[A]: ...

masked: _MaskedFunction

class Window(NamedTuple, Generic[A]):
    """The outputs of ``window``."""

    o: A
    lse: A | None

class WindowGradients(tuple[A, ...]):
    """The gradients of the inputs of ``window`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _WindowFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        left: int,
        right: int = 0,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Window[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        left: int,
        right: int = 0,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> WindowGradients[A]: ...

window: _WindowFunction

class Dilated(NamedTuple, Generic[A]):
    """The outputs of ``dilated``."""

    o: A
    lse: A | None

class DilatedGradients(tuple[A, ...]):
    """The gradients of the inputs of ``dilated`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _DilatedFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        left: int,
        right: int = 0,
        dilation: Sequence[int],
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Dilated[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        left: int,
        right: int = 0,
        dilation: Sequence[int],
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> DilatedGradients[A]: ...

dilated: _DilatedFunction

class Longformer(NamedTuple, Generic[A]):
    """The outputs of ``longformer``."""

    o: A
    lse: A | None

class LongformerGradients(tuple[A, ...]):
    """The gradients of the inputs of ``longformer`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def gq(self) -> A: ...
    @property
    def gk(self) -> A: ...
    @property
    def gv(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _LongformerFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        global_: Any = None,
        gq: _DLPack | None = None,
        gk: _DLPack | None = None,
        gv: _DLPack | None = None,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        window: int,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Longformer[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        global_: Any = None,
        gq: _DLPack | None = None,
        gk: _DLPack | None = None,
        gv: _DLPack | None = None,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        window: int,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> LongformerGradients[A]: ...

longformer: _LongformerFunction

class Bigbird(NamedTuple, Generic[A]):
    """The outputs of ``bigbird``."""

    o: A
    lse: A | None

class BigbirdGradients(tuple[A, ...]):
    """The gradients of the inputs of ``bigbird`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _BigbirdFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        block: int = 64,
        random_blocks: int = 3,
        seed: int | None = None,
        max_length: int = 4096,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Bigbird[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        block: int = 64,
        random_blocks: int = 3,
        seed: int | None = None,
        max_length: int = 4096,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> BigbirdGradients[A]: ...

bigbird: _BigbirdFunction

class SparseTransformer(NamedTuple, Generic[A]):
    """The outputs of ``sparse_transformer``."""

    o: A
    lse: A | None

class SparseTransformerGradients(tuple[A, ...]):
    """The gradients of the inputs of ``sparse_transformer`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _SparseTransformerFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        kind: Literal["strided", "fixed"],
        stride: int,
        columns: int = 1,
        positions: int = 1,
        which: Literal["merged", "near", "far", "alternating"] = 'merged',
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> SparseTransformer[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        kind: Literal["strided", "fixed"],
        stride: int,
        columns: int = 1,
        positions: int = 1,
        which: Literal["merged", "near", "far", "alternating"] = 'merged',
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> SparseTransformerGradients[A]: ...

sparse_transformer: _SparseTransformerFunction

class Deepspeed(NamedTuple, Generic[A]):
    """The outputs of ``deepspeed``."""

    o: A
    lse: A | None

class DeepspeedGradients(tuple[A, ...]):
    """The gradients of the inputs of ``deepspeed`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _DeepspeedFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        mode: Literal["dense", "fixed", "variable", "bigbird", "bslongformer", "localslidingwindow"] = 'fixed',
        block: int = 16,
        attention: Literal["bidirectional", "unidirectional"] | None = None,
        hidden: Literal["tokens", "blocks"] = 'tokens',
        different_layout_per_head: bool = False,
        num_local_blocks: int | None = None,
        num_global_blocks: int | None = None,
        num_different_global_patterns: int | None = None,
        horizontal_global_attention: bool | None = None,
        num_random_blocks: int | None = None,
        local_window_blocks: Sequence[int] | None = None,
        global_block_indices: Sequence[int] | None = None,
        global_block_end_indices: Sequence[int] | None = None,
        num_sliding_window_blocks: int | None = None,
        seed: int = 0,
        enabled: bool = True,
        sparsity_structure: str | None = None,
        block_size: int | None = None,
        local_window_size: int | None = None,
        random_blocks: bool | int | None = None,
        sparse_attention: dict[str, Any] | None = None,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        config: str | dict[str, Any] | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Deepspeed[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        mode: Literal["dense", "fixed", "variable", "bigbird", "bslongformer", "localslidingwindow"] = 'fixed',
        block: int = 16,
        attention: Literal["bidirectional", "unidirectional"] | None = None,
        hidden: Literal["tokens", "blocks"] = 'tokens',
        different_layout_per_head: bool = False,
        num_local_blocks: int | None = None,
        num_global_blocks: int | None = None,
        num_different_global_patterns: int | None = None,
        horizontal_global_attention: bool | None = None,
        num_random_blocks: int | None = None,
        local_window_blocks: Sequence[int] | None = None,
        global_block_indices: Sequence[int] | None = None,
        global_block_end_indices: Sequence[int] | None = None,
        num_sliding_window_blocks: int | None = None,
        seed: int = 0,
        enabled: bool = True,
        sparsity_structure: str | None = None,
        block_size: int | None = None,
        local_window_size: int | None = None,
        random_blocks: bool | int | None = None,
        sparse_attention: dict[str, Any] | None = None,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        config: str | dict[str, Any] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> DeepspeedGradients[A]: ...

deepspeed: _DeepspeedFunction

class Streaming(NamedTuple, Generic[A]):
    """The outputs of ``streaming``."""

    o: A
    lse: A | None

class StreamingGradients(tuple[A, ...]):
    """The gradients of the inputs of ``streaming`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _StreamingFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: Any = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        recent: int,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Streaming[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: Any = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        recent: int,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> StreamingGradients[A]: ...

streaming: _StreamingFunction

class Longnet(NamedTuple, Generic[A]):
    """The outputs of ``longnet``."""

    o: A
    lse: A | None

class LongnetGradients(tuple[A, ...]):
    """The gradients of the inputs of ``longnet`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...

class _LongnetFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        keep: _DLPack | None = None,
        *,
        segments: Sequence[int],
        dilations: Sequence[int],
        causal: bool = False,
        gradient: Literal["exact", "detached"] = 'exact',
        scale: float | None = None,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Longnet[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        segments: Sequence[int],
        dilations: Sequence[int],
        causal: bool = False,
        gradient: Literal["exact", "detached"] = 'exact',
        scale: float | None = None,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> LongnetGradients[A]: ...

longnet: _LongnetFunction

class Lsh(NamedTuple, Generic[A]):
    """The outputs of ``lsh``."""

    o: A
    lse: A | None

class LshGradients(tuple[A, ...]):
    """The gradients of the inputs of ``lsh`` that were given."""

    @property
    def x(self) -> A: ...
    @property
    def v(self) -> A: ...

class _LshFunction(Protocol):
    def __call__(
        self,
        x: A,
        v: _DLPack,
        buckets: _DLPack | None = None,
        rotations: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        chunk: int = 64,
        before: int = 1,
        after: int = 0,
        causal: bool = False,
        padding: Literal["own", "last"] = 'own',
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Lsh[A]: ...
    def backward(
        self,
        x: A,
        v: _DLPack,
        buckets: _DLPack | None = None,
        rotations: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        chunk: int = 64,
        before: int = 1,
        after: int = 0,
        causal: bool = False,
        padding: Literal["own", "last"] = 'own',
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> LshGradients[A]: ...

lsh: _LshFunction

class Moba(NamedTuple, Generic[A]):
    """The outputs of ``moba``."""

    o: A
    lse: A | None

class MobaGradients(tuple[A, ...]):
    """The gradients of the inputs of ``moba`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _MobaFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        block: int,
        top: int,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Moba[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        block: int,
        top: int,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> MobaGradients[A]: ...

moba: _MobaFunction

class InfllmV2(NamedTuple, Generic[A]):
    """The outputs of ``infllm_v2``."""

    o: A
    lse: A | None

class InfllmV2Gradients(tuple[A, ...]):
    """The gradients of the inputs of ``infllm_v2`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _InfllmV2Function(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        kernel: int = 32,
        stride: int = 16,
        block: int = 64,
        init_blocks: int = 1,
        window: int = 2048,
        top: int = 64,
        dense_below: int = 8192,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> InfllmV2[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        bias: _DLPack | None = None,
        alibi: _DLPack | None = None,
        sinks: _DLPack | None = None,
        weights: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        kernel: int = 32,
        stride: int = 16,
        block: int = 64,
        init_blocks: int = 1,
        window: int = 2048,
        top: int = 64,
        dense_below: int = 8192,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> InfllmV2Gradients[A]: ...

infllm_v2: _InfllmV2Function

class Hierarchical(NamedTuple, Generic[A]):
    """The outputs of ``hierarchical``."""

    o: A
    lse: A | None

class HierarchicalGradients(tuple[A, ...]):
    """The gradients of the inputs of ``hierarchical`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def sinks(self) -> A: ...

class _HierarchicalFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        sinks: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        block: int = 64,
        causal: bool = False,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Hierarchical[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        sinks: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        block: int = 64,
        causal: bool = False,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> HierarchicalGradients[A]: ...

hierarchical: _HierarchicalFunction

class HTransformer1d(NamedTuple, Generic[A]):
    """The outputs of ``h_transformer_1d``."""

    o: A
    lse: A | None

class HTransformer1dGradients(tuple[A, ...]):
    """The gradients of the inputs of ``h_transformer_1d`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...

class _HTransformer1dFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        keep: _DLPack | None = None,
        *,
        block: int = 16,
        causal: bool = False,
        scale: float | None = None,
        softcap: float | None = None,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> HTransformer1d[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        block: int = 16,
        causal: bool = False,
        scale: float | None = None,
        softcap: float | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> HTransformer1dGradients[A]: ...

h_transformer_1d: _HTransformer1dFunction

class Nsa(NamedTuple, Generic[A]):
    """The outputs of ``nsa``."""

    o: A

class NsaGradients(tuple[A, ...]):
    """The gradients of the inputs of ``nsa`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def gates(self) -> A: ...

class _NsaFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        gates: _DLPack,
        *,
        block: int = 64,
        top: int = 16,
        window: int = 512,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Nsa[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        gates: _DLPack,
        *,
        do: _DLPack,
        o: _DLPack | None = None,
        block: int = 64,
        top: int = 16,
        window: int = 512,
        scale: float | None = None,
        offset: int = 0,
        softcap: float | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> NsaGradients[A]: ...

nsa: _NsaFunction

class Linformer(NamedTuple, Generic[A]):
    """The outputs of ``linformer``."""

    o: A
    lse: A | None

class LinformerGradients(tuple[A, ...]):
    """The gradients of the inputs of ``linformer`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def e(self) -> A: ...
    @property
    def f(self) -> A: ...

class _LinformerFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        e: _DLPack,
        f: _DLPack | None = None,
        *,
        scale: float | None = None,
        causal: bool = False,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Linformer[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        e: _DLPack,
        f: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        scale: float | None = None,
        causal: bool = False,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> LinformerGradients[A]: ...

linformer: _LinformerFunction

class Nystrom(NamedTuple, Generic[A]):
    """The outputs of ``nystrom``."""

    o: A

class NystromGradients(tuple[A, ...]):
    """The gradients of the inputs of ``nystrom`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def conv(self) -> A: ...

class _NystromFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        conv: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        landmarks: int = 64,
        iterations: int = 6,
        init: Literal["own", "original"] = 'own',
        padding: Literal["neutral", "seen"] = 'neutral',
        scale: float | None = None,
        causal: bool = False,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Nystrom[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        conv: _DLPack | None = None,
        keep: _DLPack | None = None,
        *,
        do: _DLPack,
        o: _DLPack | None = None,
        landmarks: int = 64,
        iterations: int = 6,
        init: Literal["own", "original"] = 'own',
        padding: Literal["neutral", "seen"] = 'neutral',
        scale: float | None = None,
        causal: bool = False,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> NystromGradients[A]: ...

nystrom: _NystromFunction

class TransformerXl(NamedTuple, Generic[A]):
    """The outputs of ``transformer_xl``."""

    o: A
    lse: A | None

class TransformerXlGradients(tuple[A, ...]):
    """The gradients of the inputs of ``transformer_xl`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def r(self) -> A: ...
    @property
    def u(self) -> A: ...
    @property
    def w(self) -> A: ...

class _TransformerXlFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        r: _DLPack,
        u: _DLPack | None = None,
        w: _DLPack | None = None,
        *,
        scale: float | None = None,
        left: int | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> TransformerXl[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        r: _DLPack,
        u: _DLPack | None = None,
        w: _DLPack | None = None,
        *,
        do: _DLPack,
        dlse: _DLPack | None = None,
        o: _DLPack | None = None,
        lse: _DLPack | None = None,
        scale: float | None = None,
        left: int | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> TransformerXlGradients[A]: ...

transformer_xl: _TransformerXlFunction

class Compressive(NamedTuple, Generic[A]):
    """The outputs of ``compressive``."""

    o: A

class CompressiveGradients(tuple[A, ...]):
    """The gradients of the inputs of ``compressive`` that were given."""

    @property
    def x(self) -> A: ...
    @property
    def w(self) -> A: ...
    @property
    def b(self) -> A: ...

class _CompressiveFunction(Protocol):
    def __call__(
        self,
        x: A,
        w: _DLPack | None = None,
        b: _DLPack | None = None,
        p: _DLPack | None = None,
        *,
        kind: Literal["mean", "max", "conv", "used"] | None = None,
        ratio: int = 4,
        dilation: int = 1,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Compressive[A]: ...
    def backward(
        self,
        x: A,
        w: _DLPack | None = None,
        b: _DLPack | None = None,
        p: _DLPack | None = None,
        *,
        do: _DLPack,
        o: _DLPack | None = None,
        kind: Literal["mean", "max", "conv", "used"] | None = None,
        ratio: int = 4,
        dilation: int = 1,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> CompressiveGradients[A]: ...

compressive: _CompressiveFunction

class Infini(NamedTuple, Generic[A]):
    """The outputs of ``infini``."""

    o: A
    state: A
    pending: A | None
    keys: A | None
    values: A | None

class InfiniGradients(tuple[A, ...]):
    """The gradients of the inputs of ``infini`` that were given."""

    @property
    def q(self) -> A: ...
    @property
    def k(self) -> A: ...
    @property
    def v(self) -> A: ...
    @property
    def gate(self) -> A: ...
    @property
    def ql(self) -> A: ...
    @property
    def kl(self) -> A: ...
    @property
    def state(self) -> A: ...
    @property
    def pending(self) -> A: ...
    @property
    def keys(self) -> A: ...
    @property
    def values(self) -> A: ...

class _InfiniFunction(Protocol):
    def __call__(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        gate: _DLPack,
        ql: _DLPack | None = None,
        kl: _DLPack | None = None,
        state: _DLPack | None = None,
        pending: _DLPack | None = None,
        keys: _DLPack | None = None,
        values: _DLPack | None = None,
        *,
        segment: int = 2048,
        delta: bool = False,
        epsilon: float = 1e-10,
        scale: float | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Infini[A]: ...
    def backward(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        gate: _DLPack,
        ql: _DLPack | None = None,
        kl: _DLPack | None = None,
        state: _DLPack | None = None,
        pending: _DLPack | None = None,
        keys: _DLPack | None = None,
        values: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        dpending: _DLPack | None = None,
        o: _DLPack | None = None,
        segment: int = 2048,
        delta: bool = False,
        epsilon: float = 1e-10,
        scale: float | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> InfiniGradients[A]: ...
    def step_(
        self,
        q: A,
        k: _DLPack,
        v: _DLPack,
        gate: _DLPack,
        ql: _DLPack | None = None,
        kl: _DLPack | None = None,
        pending: _DLPack | None = None,
        keys: _DLPack | None = None,
        values: _DLPack | None = None,
        *,
        state: _DLPack,
        segment: int = 2048,
        delta: bool = False,
        epsilon: float = 1e-10,
        scale: float | None = None,
    ) -> A: ...

infini: _InfiniFunction

class Hmt(NamedTuple, Generic[A]):
    """The outputs of ``hmt``."""

    o: A

class HmtGradients(tuple[A, ...]):
    """The gradients of the inputs of ``hmt`` that were given."""

    @property
    def s(self) -> A: ...
    @property
    def m(self) -> A: ...
    @property
    def wq(self) -> A: ...
    @property
    def wk(self) -> A: ...

class _HmtFunction(Protocol):
    def __call__(
        self,
        s: A,
        m: _DLPack,
        wq: _DLPack,
        wk: _DLPack,
        *,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Hmt[A]: ...
    def backward(
        self,
        s: A,
        m: _DLPack,
        wq: _DLPack,
        wk: _DLPack,
        *,
        do: _DLPack,
        o: _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> HmtGradients[A]: ...

hmt: _HmtFunction

class Rotary(NamedTuple, Generic[A]):
    """The outputs of ``rotary``."""

    o: A

class RotaryGradients(tuple[A, ...]):
    """The gradients of the inputs of ``rotary`` that were given."""

    @property
    def x(self) -> A: ...

class _RotaryFunction(Protocol):
    def __call__(
        self,
        x: A,
        positions: _DLPack | None = None,
        *,
        width: int | None = None,
        theta: float | None = None,
        interleaved: bool = False,
        scaling: dict[str, Any] | None = None,
        max_position_embeddings: int | None = None,
        length: int | None = None,
        form: Literal["naive", "chunk"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> Rotary[A]: ...
    def backward(
        self,
        x: A,
        positions: _DLPack | None = None,
        *,
        do: _DLPack,
        o: _DLPack | None = None,
        width: int | None = None,
        theta: float | None = None,
        interleaved: bool = False,
        scaling: dict[str, Any] | None = None,
        max_position_embeddings: int | None = None,
        length: int | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> RotaryGradients[A]: ...

rotary: _RotaryFunction

class ShortConv(NamedTuple, Generic[A]):
    """The outputs of ``short_conv``."""

    o: A
    state: A

class ShortConvGradients(tuple[A, ...]):
    """The gradients of the inputs of ``short_conv`` that were given."""

    @property
    def x(self) -> A: ...
    @property
    def w(self) -> A: ...
    @property
    def bias(self) -> A: ...
    @property
    def state(self) -> A: ...

class _ShortConvFunction(Protocol):
    def __call__(
        self,
        x: A,
        w: _DLPack,
        bias: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        activation: Literal["none", "silu"] = 'none',
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        form: Literal["naive", "chunk", "step"] | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> ShortConv[A]: ...
    def backward(
        self,
        x: A,
        w: _DLPack,
        bias: _DLPack | None = None,
        state: _DLPack | None = None,
        *,
        do: _DLPack,
        dstate: _DLPack | None = None,
        o: _DLPack | None = None,
        activation: Literal["none", "silu"] = 'none',
        cu_seqlens: Sequence[int] | _DLPack | None = None,
        layout: Literal["bthd", "bhtd"] = "bthd",
    ) -> ShortConvGradients[A]: ...
    def step_(
        self,
        x: A,
        w: _DLPack,
        bias: _DLPack | None = None,
        *,
        state: _DLPack,
        activation: Literal["none", "silu"] = 'none',
        cu_seqlens: Sequence[int] | _DLPack | None = None,
    ) -> A: ...

short_conv: _ShortConvFunction

__all__ = [
    "mamba",
    "rwkv4",
    "rg_lru",
    "scan",
    "mamba2",
    "linear_attention",
    "performer",
    "cosformer",
    "retention",
    "lightning",
    "gla",
    "hgrn2",
    "rwkv5",
    "rwkv6",
    "delta_rule",
    "gated_delta",
    "kda",
    "dplr",
    "rwkv7",
    "dense",
    "masked",
    "window",
    "dilated",
    "longformer",
    "bigbird",
    "sparse_transformer",
    "deepspeed",
    "streaming",
    "longnet",
    "lsh",
    "moba",
    "infllm_v2",
    "hierarchical",
    "h_transformer_1d",
    "nsa",
    "linformer",
    "nystrom",
    "transformer_xl",
    "compressive",
    "infini",
    "hmt",
    "rotary",
    "short_conv",
]
