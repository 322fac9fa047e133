"""One long sequence over several processes: ring attention, and mechanisms with a state, over MPI or ``torch.distributed``.

Every process, a rank, holds a part of the tokens and calls the same functions with it. Messages are sent from Python, so that any MPI will do:
``comm`` is a communicator of mpi4py, a process group of ``torch.distributed`` whose backend sends tensors of the CPU (gloo), or None for one
process alone, where the functions are the plain operators. Tensors of torch that require gradients have them.

::

    # mpirun -n 4 python attend.py
    from mpi4py import MPI
    import longreach.distributed as ld

    comm = MPI.COMM_WORLD
    q, k, v = (ld.split(x, comm, layout="zigzag") for x in (q, k, v))    # [B, T, H, D] → this rank's tokens
    o = ld.ring_attention(q, k, v, comm, causal=True)
    o = ld.join(o, comm, layout="zigzag")                                # the whole text, on every rank
"""

from __future__ import annotations

from longreach.distributed._attention import ring_attention
from longreach.distributed._layout import LAYOUTS, join, pieces, split
from longreach.distributed._recurrent import recurrent, scan

__all__ = ["LAYOUTS", "join", "pieces", "recurrent", "ring_attention", "scan", "split"]
