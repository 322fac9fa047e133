"""Modules of torch, on tensors ``[batch, seq, dim]``; :mod:`longreach.nn.functional` has the functions."""

from longreach._needs import needs

needs("longreach.nn", "torch")

from longreach.nn import functional as functional  # noqa: E402
from longreach.nn.infini import InfiniAttention as InfiniAttention  # noqa: E402
from longreach.nn.infini import InfiniState as InfiniState  # noqa: E402
from longreach.nn.linear import LinearAttention as LinearAttention  # noqa: E402
from longreach.nn.performer import FastAttention as FastAttention  # noqa: E402
from longreach.nn.performer import Performer as Performer  # noqa: E402
from longreach.nn.performer import SelfAttention as SelfAttention  # noqa: E402
from longreach.nn.sparse import SparseAttention as SparseAttention  # noqa: E402

__all__ = [
    "FastAttention",
    "InfiniAttention",
    "InfiniState",
    "LinearAttention",
    "Performer",
    "SelfAttention",
    "SparseAttention",
    "functional",
]
