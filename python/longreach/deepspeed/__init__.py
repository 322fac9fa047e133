"""DeepSpeed's sparse attention on a CPU: the same classes, layouts and arguments, differentiable."""

from longreach._needs import needs

needs("longreach.deepspeed", "torch")

from longreach.deepspeed._attention import SparseSelfAttention as SparseSelfAttention  # noqa: E402
from longreach.deepspeed._configs import BigBirdSparsityConfig as BigBirdSparsityConfig  # noqa: E402
from longreach.deepspeed._configs import BSLongformerSparsityConfig as BSLongformerSparsityConfig  # noqa: E402
from longreach.deepspeed._configs import DenseSparsityConfig as DenseSparsityConfig  # noqa: E402
from longreach.deepspeed._configs import FixedSparsityConfig as FixedSparsityConfig  # noqa: E402
from longreach.deepspeed._configs import LocalSlidingWindowSparsityConfig as LocalSlidingWindowSparsityConfig  # noqa: E402
from longreach.deepspeed._configs import SparsityConfig as SparsityConfig  # noqa: E402
from longreach.deepspeed._configs import VariableSparsityConfig as VariableSparsityConfig  # noqa: E402
from longreach.deepspeed._padding import SparseAttentionUtils as SparseAttentionUtils  # noqa: E402

__all__ = [
    "BSLongformerSparsityConfig",
    "BigBirdSparsityConfig",
    "DenseSparsityConfig",
    "FixedSparsityConfig",
    "LocalSlidingWindowSparsityConfig",
    "SparseAttentionUtils",
    "SparseSelfAttention",
    "SparsityConfig",
    "VariableSparsityConfig",
]
