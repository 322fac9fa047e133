"""Threads, forks, interrupts, panics, the interpreter's lock, pickling."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import longreach
from longreach import _core, ops


def draws(seed=0):
    return np.random.default_rng(seed).normal(size=(3, 1, 300, 4, 16)).astype(np.float32)


def test_no_result_depends_on_the_threads():
    q, k, v = draws()
    before = longreach.get_num_threads()
    found = []
    for n in (1, 2, 5):
        longreach.set_num_threads(n)
        assert longreach.get_num_threads() == n
        out = ops.window(q, k, v, left=40)
        found.append((out, ops.window.backward(q, k, v, left=40, do=out.o)))
    longreach.set_num_threads(before)
    for out, g in found[1:]:
        assert np.array_equal(out.o, found[0][0].o)
        assert all(np.array_equal(a, b) for a, b in zip(g, found[0][1]))


def test_a_number_of_threads_is_at_least_one():
    with pytest.raises(ValueError, match="1 to 1024, found 0"):
        longreach.set_num_threads(0)


def test_a_panic_is_an_error_that_the_process_survives(capfd):
    for _ in range(2):
        with pytest.raises(longreach.InternalError, match=r"on purpose \(.*ops.rs:\d+"):
            _core._panic()
    assert isinstance(longreach.InternalError(""), RuntimeError)
    assert capfd.readouterr().err == ""
    q, k, v = draws()
    assert ops.window(q, k, v, left=4).o.shape == q.shape


def test_other_threads_run_while_an_operation_does():
    ticks = []
    worker = threading.Thread(target=_core._work, args=(300,))
    worker.start()
    while worker.is_alive():
        ticks.append(time.monotonic())
        time.sleep(0.005)
    assert len(ticks) > 10


def test_two_threads_may_work_at_once():
    q, k, v = draws()
    want = ops.window(q, k, v, left=40).o
    results = [None] * 4

    def work(i):
        results[i] = all(np.array_equal(ops.window(q, k, v, left=40).o, want) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert results == [True] * 4


def child(queue, model):
    q, k, v = draws()
    queue.put((ops.window(q, k, v, left=40).o.sum(), model.generate("A trait", 6, seed=1), longreach.get_num_threads()))


def test_a_forked_child_works_after_its_parent(model):
    longreach.set_num_threads(3)
    q, k, v = draws()
    want = (ops.window(q, k, v, left=40).o.sum(), model.generate("A trait", 6, seed=1), 3)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, model))
    process.start()
    got = queue.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0
    assert got == want
    assert (ops.window(q, k, v, left=40).o.sum(), model.generate("A trait", 6, seed=1), 3) == want


def test_ctrl_c_ends_generation_within_a_second_and_the_session_goes_on():
    script = """
        import signal, sys, threading, time, os
        import longreach
        model = longreach.load()
        session = model.session()
        session.read("A trait is")
        threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            session.write(10**6, ignore_eos=True)
        except KeyboardInterrupt:
            took = time.monotonic() - start
            before = session.tokens
            session.write(3)
            print(took < 1.5, session.tokens > before > 3)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert out.stdout.split() == ["True", "True"], out


def test_ctrl_c_ends_reading():
    script = """
        import io, signal, threading, time, os
        import longreach
        class Endless:
            def read(self, n):
                return "a word and " * (n // 11)
        session = longreach.load().session()
        threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            session.read(Endless())
        except KeyboardInterrupt:
            print(session.tokens % 512 == 0)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert out.stdout.split() == ["True"], out


def test_everything_pickles_and_copies(model):
    m = longreach.mechanisms()[0]
    assert pickle.loads(pickle.dumps(m)) is m
    again = pickle.loads(pickle.dumps(model))
    assert again.fingerprint == model.fingerprint
    session = model.session()
    session.read("A trait is")
    copies = [pickle.loads(pickle.dumps(session)), copy.copy(session), copy.deepcopy(session)]
    want = session.write(6, seed=3)
    assert [one.write(6, seed=3) for one in copies] == [want] * 3


def test_the_number_of_threads_is_set_by_the_environment():
    script = "import longreach; print(longreach.get_num_threads())"
    run = lambda n: subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "LONGREACH_NUM_THREADS": n}, capture_output=True, text=True
    )
    assert run("3").stdout.strip() == "3"
    assert "LONGREACH_NUM_THREADS: want a number from 1 to 1024, found `x`" in run("x").stderr


def test_the_command_is_that_of_the_program(tmp_path):
    run = lambda *args: subprocess.run([sys.executable, "-m", "longreach", *args], capture_output=True, text=True)
    assert run("--version").stdout.strip() == f"longreach {longreach.__version__}"
    wrong = run("generate", "--temperature", "-1")
    assert wrong.returncode == 2 and wrong.stderr.startswith("longreach: ") and wrong.stderr.count("\n") == 1
    want = run("generate", "--prompt", "Ownership is", "-n", "12", "--seed", "3").stdout
    assert longreach.load().generate("Ownership is", 12, seed=3).strip() == want.strip()
    state = tmp_path / "a.state"
    session = longreach.load().session()
    session.read("A trait is")
    session.save(state)
    goes_on = run("generate", "--load-state", str(state), "-n", "9", "--seed", "5").stdout
    assert session.write(9, seed=5).strip() == goes_on.strip()


def test_starting_loads_no_other_library():
    script = "import longreach, sys; print([name for name in ('numpy', 'torch') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_a_pipe_that_closes_ends_the_command_quietly():
    run = subprocess.run(
        f"{sys.executable} -m longreach list --json | head -1", shell=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == "{" and "Traceback" not in run.stderr


def test_signals_that_python_handles_reach_it(model):
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    model.generate("A trait is", 40, ignore_eos=True)
    signal.signal(signal.SIGALRM, before)
    assert seen == [1]
