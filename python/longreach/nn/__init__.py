"""Modules of torch, on tensors ``[batch, seq, dim]``; :mod:`longreach.nn.functional` has the functions."""

from longreach._needs import needs

needs("longreach.nn", "torch")

from longreach.nn import functional as functional  # noqa: E402
from longreach.nn.delta import DeltaNet as DeltaNet  # noqa: E402
from longreach.nn.delta import GatedDeltaNet as GatedDeltaNet  # noqa: E402
from longreach.nn.delta import KDA as KDA  # noqa: E402
from longreach.nn.hgrn import HGRN2 as HGRN2  # noqa: E402
from longreach.nn.infini import InfiniAttention as InfiniAttention  # noqa: E402
from longreach.nn.infini import InfiniState as InfiniState  # noqa: E402
from longreach.nn.linear import LinearAttention as LinearAttention  # noqa: E402
from longreach.nn.linear import LinearSelfAttention as LinearSelfAttention  # noqa: E402
from longreach.nn.longformer import BigBirdSelfAttention as BigBirdSelfAttention  # noqa: E402
from longreach.nn.longformer import LongformerSelfAttention as LongformerSelfAttention  # noqa: E402
from longreach.nn.lowrank import Linformer as Linformer  # noqa: E402
from longreach.nn.lowrank import LinformerSelfAttention as LinformerSelfAttention  # noqa: E402
from longreach.nn.lowrank import NystromformerSelfAttention as NystromformerSelfAttention  # noqa: E402
from longreach.nn.lsh import LshSelfAttention as LshSelfAttention  # noqa: E402
from longreach.nn.mamba import Mamba as Mamba  # noqa: E402
from longreach.nn.mamba import RGLRU as RGLRU  # noqa: E402
from longreach.nn.mamba2 import Mamba2 as Mamba2  # noqa: E402
from longreach.nn.memory import HMT as HMT  # noqa: E402
from longreach.nn.memory import HMTState as HMTState  # noqa: E402
from longreach.nn.memory import MemoryState as MemoryState  # noqa: E402
from longreach.nn.memory import TransformerXLSelfAttention as TransformerXLSelfAttention  # noqa: E402
from longreach.nn.performer import FastAttention as FastAttention  # noqa: E402
from longreach.nn.performer import Performer as Performer  # noqa: E402
from longreach.nn.performer import PerformerState as PerformerState  # noqa: E402
from longreach.nn.performer import SelfAttention as SelfAttention  # noqa: E402
from longreach.nn.performer_lm import PerformerLM as PerformerLM  # noqa: E402
from longreach.nn.recurrent import GLA as GLA  # noqa: E402
from longreach.nn.recurrent import RecurrentState as RecurrentState  # noqa: E402
from longreach.nn.recurrent import RetNet as RetNet  # noqa: E402
from longreach.nn.rwkv import RWKV4 as RWKV4  # noqa: E402
from longreach.nn.rwkv import RWKV5 as RWKV5  # noqa: E402
from longreach.nn.rwkv import RWKV6 as RWKV6  # noqa: E402
from longreach.nn.rwkv import RWKV7 as RWKV7  # noqa: E402
from longreach.nn.selected import MobaSelfAttention as MobaSelfAttention  # noqa: E402
from longreach.nn.selected import NsaSelfAttention as NsaSelfAttention  # noqa: E402
from longreach.nn.sparse import SparseAttention as SparseAttention  # noqa: E402
from longreach.nn.window import DilatedSelfAttention as DilatedSelfAttention  # noqa: E402
from longreach.nn.window import HierarchicalSelfAttention as HierarchicalSelfAttention  # noqa: E402
from longreach.nn.window import KeyValueState as KeyValueState  # noqa: E402
from longreach.nn.window import WindowSelfAttention as WindowSelfAttention  # noqa: E402

__all__ = [
    "BigBirdSelfAttention",
    "DeltaNet",
    "DilatedSelfAttention",
    "FastAttention",
    "GLA",
    "GatedDeltaNet",
    "HGRN2",
    "HMT",
    "HMTState",
    "HierarchicalSelfAttention",
    "InfiniAttention",
    "InfiniState",
    "KDA",
    "KeyValueState",
    "LinearAttention",
    "LinearSelfAttention",
    "Linformer",
    "LinformerSelfAttention",
    "LongformerSelfAttention",
    "LshSelfAttention",
    "Mamba",
    "Mamba2",
    "MemoryState",
    "MobaSelfAttention",
    "NsaSelfAttention",
    "NystromformerSelfAttention",
    "Performer",
    "PerformerLM",
    "PerformerState",
    "RGLRU",
    "RWKV4",
    "RWKV5",
    "RWKV6",
    "RWKV7",
    "RecurrentState",
    "RetNet",
    "SelfAttention",
    "SparseAttention",
    "TransformerXLSelfAttention",
    "WindowSelfAttention",
    "functional",
]
