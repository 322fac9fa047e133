"""Linear layers of 8 bits: weights in int8 with a scale for each output, inputs quantised token by token in each call."""

from __future__ import annotations

import copy
from typing import Any, Iterable

from longreach._needs import needs

needs("longreach.quantization", "torch")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402


class Linear(nn.Module):
    """A linear layer with weights in int8, for inference.

    Weight ``w`` of an output is stored as the whole number nearest to ``w / scale``, where ``127 scale`` is the largest weight
    of that output. Inputs are rounded in the same way, with a scale for each token, and products are summed in 32 bits.

    >>> import torch
    >>> layer = torch.nn.Linear(64, 32)
    >>> x = torch.randn(5, 64)
    >>> bool((Linear.from_float(layer)(x) - layer(x)).abs().max() < 0.02 * layer(x).abs().max())
    True
    """

    in_features: int
    out_features: int

    weight_int8: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight_int8", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @classmethod
    @torch.no_grad()
    def from_float(cls, layer: nn.Linear) -> Linear:
        """The layer with rounded weights. ``ValueError`` if some are not finite."""
        weight = layer.weight.detach().float()
        if not bool(weight.isfinite().all()):
            raise ValueError("quantize_dynamic: a weight is not finite")
        new = cls(layer.in_features, layer.out_features, layer.bias is not None)
        numbers, scale = _rounded(weight)
        new.weight_int8.copy_(numbers)
        new.scale.copy_(scale[:, 0])
        if layer.bias is not None and new.bias is not None:
            new.bias.copy_(layer.bias.detach().float())
        return new.train(layer.training)

    def weight(self) -> Tensor:
        """The weights that the numbers stand for, ``[out_features, in_features]`` in float32."""
        return self.weight_int8.float() * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, without a gradient."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"Linear: the input has shape {list(x.shape)}, want [..., {self.in_features}]")
        with torch.no_grad():
            numbers, scale = _rounded(x.detach().float().reshape(-1, self.in_features))
            sums: Tensor = torch._int_mm(numbers, self.weight_int8.T)
            y = sums.float() * scale * self.scale
            if self.bias is not None:
                y = y + self.bias
            return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, int8"


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as whole numbers of 8 bits, and the scale of each, ``[rows, 1]``."""
    # A row of zeros has any scale.
    scale = (x.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / scale).round().to(torch.int8), scale


def quantize_dynamic(
    model: nn.Module,
    qconfig_spec: Iterable[Any] | dict[Any, Any] | None = None,
    dtype: torch.dtype = torch.qint8,
    mapping: Any = None,
    inplace: bool = False,
) -> nn.Module:
    """The model with 8-bit layers in place of its linear ones, for inference: the arguments of torch's function.

    Parameters
    ----------
    model : torch.nn.Module
        It is copied, unless ``inplace``.
    qconfig_spec : set, optional
        Names of layers, of modules that hold layers, or ``torch.nn.Linear``; all linear layers if None.
    dtype : torch.dtype
        ``torch.qint8`` alone.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU())
    >>> type(quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)[0]).__module__
    'longreach.quantization'
    """
    if dtype != torch.qint8:
        raise ValueError(f"quantize_dynamic: `dtype` is {dtype}, want torch.qint8")
    if mapping is not None:
        raise ValueError("quantize_dynamic: `mapping` is given, want None: linear layers alone have another form")
    chosen = {nn.Linear} if qconfig_spec is None else set(qconfig_spec)
    names = {one for one in chosen if isinstance(one, str)}
    for one in chosen - names:
        if one is not nn.Linear:
            raise ValueError(f"quantize_dynamic: `qconfig_spec` has {one!r}, want torch.nn.Linear or names of modules")
    known = {name for name, _ in model.named_modules()}
    for name in sorted(names - known):
        raise ValueError(f"quantize_dynamic: `qconfig_spec` has {name!r}, which is no module of the model")
    everywhere = nn.Linear in chosen
    if type(model) is nn.Linear:
        return Linear.from_float(model) if everywhere or "" in names else model
    model = model if inplace else copy.deepcopy(model)
    # A layer that stands in several places stays one layer.
    made: dict[nn.Module, Linear] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        for name, child in list(module._modules.items()):
            full = f"{path}.{name}" if path else name
            if type(child) is nn.Linear and (everywhere or _within(full, names)):
                made[child] = made.get(child) or Linear.from_float(child)
                setattr(module, name, made[child])
    return model


def _within(path: str, names: set[str]) -> bool:
    return any(not name or path == name or path.startswith(f"{name}.") for name in names)
