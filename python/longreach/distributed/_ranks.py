"""Messages between ranks: communicators of mpi4py, groups of ``torch.distributed``, or a process alone."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

import numpy as np

Numbers = np.ndarray[Any, Any]


class Ranks(Protocol):
    """What the algorithms need of ranks. Arrays are of float32 or int64, and contiguous."""

    rank: int
    size: int

    def shift(self, mine: Numbers, to: int, theirs: Numbers, source: int) -> Any:
        """Begins to send an array and to receive another; returns what :meth:`wait` takes."""

    def wait(self, under_way: Any) -> None:
        """Returns when both have arrived."""

    def gather(self, mine: Numbers) -> list[Numbers]:
        """What every rank gives, in the order of ranks; all have one shape."""


class Alone:
    """One process."""

    rank, size = 0, 1

    def shift(self, mine: Numbers, to: int, theirs: Numbers, source: int) -> Any:
        raise RuntimeError("one process sends nothing")

    def wait(self, under_way: Any) -> None:
        raise RuntimeError("one process waits for nothing")

    def gather(self, mine: Numbers) -> list[Numbers]:
        return [mine]


class Mpi:
    """A communicator of mpi4py."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())

    def shift(self, mine: Numbers, to: int, theirs: Numbers, source: int) -> Any:
        # Posted before it is sent, so that a large message can travel at once.
        return [self.comm.Irecv(theirs, source=source), self.comm.Isend(mine, dest=to)], mine, theirs

    def wait(self, under_way: Any) -> None:
        # A blocking call would keep a core busy for as long as the other rank computes.
        nap = 1e-5
        waiting = list(under_way[0])
        while waiting := [request for request in waiting if not request.Test()]:
            time.sleep(nap)
            nap = min(2 * nap, 1e-3)

    def gather(self, mine: Numbers) -> list[Numbers]:
        mine = np.ascontiguousarray(mine)
        out = np.empty((self.size, *mine.shape), mine.dtype)
        self.wait(([self.comm.Iallgather(mine, out)], mine, out))
        return list(out)


class Torch:
    """A process group of ``torch.distributed``."""

    def __init__(self, group: Any) -> None:
        import torch.distributed as dist

        self.dist, self.group = dist, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def _tensor(self, x: Numbers) -> Any:
        return sys.modules["torch"].from_numpy(x)

    def shift(self, mine: Numbers, to: int, theirs: Numbers, source: int) -> Any:
        to, source = (self.dist.get_global_rank(self.group, rank) for rank in (to, source))
        receiving = self.dist.irecv(self._tensor(theirs), src=source, group=self.group)
        sending = self.dist.isend(self._tensor(mine), dst=to, group=self.group)
        return [receiving, sending], mine, theirs

    def wait(self, under_way: Any) -> None:
        for request in under_way[0]:
            request.wait()

    def gather(self, mine: Numbers) -> list[Numbers]:
        out = [np.empty_like(mine) for _ in range(self.size)]
        self.dist.all_gather([self._tensor(x) for x in out], self._tensor(np.ascontiguousarray(mine)), group=self.group)
        return out


def ranks(comm: Any) -> Ranks:
    """The ranks of a communicator or group; ``TypeError`` if it is neither."""
    if comm is None:
        return Alone()
    if hasattr(comm, "Isend") and hasattr(comm, "Allgather"):
        return Mpi(comm)
    dist = sys.modules.get("torch.distributed")
    if dist is not None and isinstance(comm, dist.ProcessGroup):
        return Torch(comm)
    raise TypeError(
        f"`comm` is {type(comm).__name__}, want a communicator of mpi4py, a process group of torch.distributed "
        "such as torch.distributed.group.WORLD, or None"
    )
