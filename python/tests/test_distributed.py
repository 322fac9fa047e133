"""One text over ranks: the answer and the gradients of one process, whatever carries the messages.

Ranks are threads here, which meet in every order, and processes of ``torch.distributed`` with gloo; with mpi4py and an ``mpirun``, the file runs
itself under it.
"""

import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import longreach
import longreach.distributed as ld
from longreach.distributed import _attention, _layout, _recurrent
from longreach._mechanism import mechanism

RECURRENT = sorted(_recurrent._KEPT)


class Threads:
    """A rank that is a thread; messages are arrays in queues."""

    def __init__(self, rank, size, queues):
        self.rank, self.size, self.queues, self.sent = rank, size, queues, 0

    def shift(self, mine, to, theirs, source):
        self.sent += mine.nbytes
        self.queues[self.rank, to].put(mine.copy())
        return theirs, source

    def wait(self, under_way):
        theirs, source = under_way
        theirs[...] = self.queues[source, self.rank].get(timeout=60)

    def gather(self, mine):
        self.sent += mine.nbytes * (self.size - 1)
        for to in range(self.size):
            self.queues["gather", self.rank, to].put(mine.copy())
        return [self.queues["gather", source, self.rank].get(timeout=60) for source in range(self.size)]


def over(monkeypatch, size, work):
    """What ``work(comm)`` returns on each of ``size`` threads."""
    queues = {}
    for i in range(size):
        for j in range(size):
            queues[i, j], queues["gather", i, j] = queue.Queue(), queue.Queue()
    for module in (_layout, _attention, _recurrent):
        monkeypatch.setattr(module, "ranks", lambda comm: comm)
    results, failures = [None] * size, []

    def run(rank):
        try:
            results[rank] = work(Threads(rank, size, queues))
        except Exception as error:  # noqa: BLE001, raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def text(tokens, seed=0, heads=4, groups=2, width=8):
    draw = np.random.default_rng(seed)
    shapes = [(2, tokens, heads, width), (2, tokens, groups, width), (2, tokens, groups, width), (2, tokens, heads, width)]
    return [draw.normal(size=shape).astype(np.float32) for shape in shapes]


def close(got, want):
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    assert got.shape == want.shape
    assert float(np.abs(got - want).max(initial=0)) <= 1e-5 * scale


def alone(q, k, v, causal, left):
    if left is not None:
        return longreach.ops.window(q, k, v, left=left).o
    return longreach.ops.dense(q, k, v, causal=causal).o


@pytest.mark.parametrize("layout", ld.LAYOUTS)
@pytest.mark.parametrize(("causal", "left"), [(True, None), (False, None), (True, 5)])
@pytest.mark.parametrize(("size", "tokens"), [(1, 9), (2, 37), (3, 50), (4, 5)])
def test_ring_attention_is_attention(monkeypatch, size, tokens, causal, left, layout):
    q, k, v, _ = text(tokens)

    def work(comm):
        own = [ld.split(x, comm, layout=layout) for x in (q, k, v)]
        return ld.join(ld.ring_attention(*own, comm, causal=causal, left=left, layout=layout), comm, layout=layout)

    for o in over(monkeypatch, size, work):
        close(o, alone(q, k, v, causal, left))


@pytest.mark.parametrize("layout", ld.LAYOUTS)
def test_gradients_of_the_ring_are_those_of_attention(monkeypatch, layout):
    torch = pytest.importorskip("torch")
    q, k, v, d = (torch.from_numpy(x) for x in text(41))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    longreach.ops.dense(*leaves, causal=True).o.backward(d)

    def work(comm):
        own = [ld.split(x, comm, layout=layout).requires_grad_() for x in (q, k, v)]
        o = ld.ring_attention(*own, comm, layout=layout)
        o.backward(ld.split(d, comm, layout=layout))
        return [ld.join(x.grad, comm, layout=layout) for x in own]

    for gradients in over(monkeypatch, 3, work):
        for got, leaf in zip(gradients, leaves):
            close(got.numpy(), leaf.grad.numpy())


def test_bytes_of_the_ring_are_those_of_the_formula(monkeypatch):
    q, k, v, _ = text(40)
    sizes = 4

    def work(comm):
        own = [ld.split(x, comm) for x in (q, k, v)]
        before = comm.sent
        ld.ring_attention(*own, comm, layout="contiguous")
        return comm.sent - before - 8 * (sizes - 1)  # the lengths, 8 bytes to each other rank

    assert sum(over(monkeypatch, sizes, work)) == (sizes - 1) * (k.nbytes + v.nbytes)


def sample(name, tokens):
    """Inputs of a mechanism by name, and which of them have tokens."""
    sizes = {"B": 2, "T": tokens, "H": 2, "G": 2, "K": 8, "V": 8, "D": 16, "N": 4, "P": 8, "M": 8}
    draw, inputs, cut = np.random.default_rng(3), {}, set()
    for a in mechanism(name).inputs:
        if a.name in ("state", "skip", "reset") or (a.optional and a.name not in ("g", "beta", "positions")):
            continue
        x = draw.uniform(0.05, 0.2, [sizes[axis] for axis in a.axes]).astype(np.float32)
        if a.name in ("g", "w", "a", "lambda") and "logarithm" in a.about or a.about.endswith("negative") or a.name == "lambda":
            x = -x
        if a.name == "positions":
            x = np.broadcast_to(np.arange(1, tokens + 1, dtype=np.float32), (2, tokens)).copy()
        inputs[a.name] = x
        if a.axes[1:2] == ("T",):
            cut.add(a.name)
    return inputs, cut


def called(name, inputs, comm=None, own=False):
    example = json.loads(mechanism(name).example or "{}")
    given = {(f"{key}_" if key == "lambda" else key): x for key, x in inputs.items()}
    if own:
        return ld.recurrent(name, comm=comm, **given, **example)
    return getattr(longreach.ops, name)(**given, **example)


@pytest.mark.parametrize("name", RECURRENT)
def test_every_recurrence_over_ranks_is_the_recurrence(monkeypatch, name):
    inputs, cut = sample(name, 37)
    whole = called(name, inputs)

    def work(comm):
        own = {key: ld.split(x, comm) if key in cut else x for key, x in inputs.items()}
        got = called(name, own, comm, own=True)
        return ld.join(got.o, comm), got.state

    for o, state in over(monkeypatch, 3, work):
        close(o, whole.o)
        close(state, whole.state)


@pytest.mark.parametrize("name", ["linear_attention", "retention", "rwkv6", "rg_lru", "gated_delta"])
def test_gradients_of_recurrences_are_those_of_one_process(monkeypatch, name):
    torch = pytest.importorskip("torch")
    inputs, cut = sample(name, 23)
    leaves = {key: torch.from_numpy(x).requires_grad_() for key, x in inputs.items()}
    whole = called(name, leaves)
    d = torch.from_numpy(np.random.default_rng(1).normal(size=tuple(whole.o.shape)).astype(np.float32))
    (whole.o * d).sum().add(whole.state.square().sum()).backward()

    def work(comm):
        own = {key: torch.from_numpy(ld.split(x, comm) if key in cut else x).requires_grad_() for key, x in inputs.items()}
        got = called(name, own, comm, own=True)
        (got.o * ld.split(d, comm)).sum().add(got.state.square().sum()).backward()
        return {key: ld.join(x.grad, comm) if key in cut else x.grad for key, x in own.items() if x.grad is not None}

    for gradients in over(monkeypatch, 3, work):
        for key, got in gradients.items():
            close(got.numpy(), leaves[key].grad.numpy())


def test_parts_of_other_lengths_than_the_layout_are_refused():
    q, k, v, _ = text(10)
    with pytest.raises(TypeError, match="want a communicator of mpi4py"):
        ld.ring_attention(q, k, v, "world")
    with pytest.raises(ValueError, match="`k` has shape"):
        ld.ring_attention(q, k[:, :9], v)
    with pytest.raises(ValueError, match="hides the future"):
        ld.ring_attention(q, k, v, causal=False, left=3)
    with pytest.raises(ValueError, match="'infini' is not gathered over ranks"):
        ld.recurrent("infini", q, k, v)
    with pytest.raises(ValueError, match="`layout` is 'striped'"):
        ld.pieces(10, 2, 0, "striped")


def test_ranks_that_hold_other_parts_are_named(monkeypatch):
    q, k, v, _ = text(10)

    def work(comm):
        own = [x[:, : 4 if comm.rank else 6] for x in (q, k, v)]
        return ld.ring_attention(*own, comm, layout="contiguous")

    with pytest.raises(ValueError, match="rank 0 holds 6 tokens of 10, want 5"):
        over(monkeypatch, 2, work)


def check(comm):
    """What every rank of a real job checks."""
    q, k, v, _ = text(61)
    own = [ld.split(x, comm, layout="zigzag") for x in (q, k, v)]
    close(ld.join(ld.ring_attention(*own, comm), comm, layout="zigzag"), alone(q, k, v, True, None))
    inputs, cut = sample("gated_delta", 37)
    part = {key: ld.split(x, comm) if key in cut else x for key, x in inputs.items()}
    close(ld.join(called("gated_delta", part, comm, own=True).o, comm), called("gated_delta", inputs).o)
    torch = sys.modules.get("torch")
    if torch is not None:
        leaves = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
        longreach.ops.dense(*leaves, causal=True).o.sum().backward()
        mine = [torch.from_numpy(x).requires_grad_() for x in own]
        ld.ring_attention(*mine, comm).sum().backward()
        for leaf, x in zip(leaves, mine):
            close(ld.join(x.grad, comm, layout="zigzag").numpy(), leaf.grad.numpy())


def test_torch_distributed_carries_the_messages(tmp_path):
    pytest.importorskip("torch")
    run = [sys.executable, __file__, "torch", str(tmp_path / "store")]
    ranks = [subprocess.Popen([*run, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for rank in ranks:
        _, said = rank.communicate(timeout=120)
        assert rank.returncode == 0, said


def test_mpi_carries_the_messages():
    mpirun = shutil.which("mpirun", path=os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", ""))
    if mpirun is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("needs mpi4py and mpirun")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    run = [mpirun, "-n", "2", sys.executable, __file__, "mpi"]
    ran = subprocess.run(run, capture_output=True, text=True, timeout=120, env={**os.environ, **root, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"})
    assert ran.returncode == 0, ran.stderr


if __name__ == "__main__":
    if sys.argv[1] == "mpi":
        from mpi4py import MPI

        check(MPI.COMM_WORLD)
    else:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[3]), world_size=2)
        check(dist.group.WORLD)
        dist.destroy_process_group()
