"""Arrays in and out: no copies, types, layouts, errors."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import longreach
from longreach import _core, ops


def qkv(tokens=48, heads=2, width=8, seed=0, groups=None):
    draw = np.random.default_rng(seed)
    shape = lambda h: (1, tokens, h, width)
    return [draw.normal(size=shape(h)).astype(np.float32) for h in (heads, groups or heads, groups or heads)]


def test_the_kernel_reads_where_numpy_has_its_numbers():
    x = np.zeros((2, 6, 4), np.float32)
    assert _core.data_ptr(x) == x.ctypes.data
    view = x[1:, ::2, 1:]
    assert _core.data_ptr(view) == view.ctypes.data
    turned = x.transpose(0, 2, 1)
    assert _core.data_ptr(turned) == turned.ctypes.data


def test_results_are_writable_and_outlive_what_made_them():
    q, k, v = qkv()
    o = ops.window(q, k, v, left=4).o
    want = o.copy()
    part = o[:, 3:]
    del o
    gc.collect()
    assert np.array_equal(part, want[:, 3:])
    part += 1


def test_inputs_are_never_written_to():
    q, k, v = qkv()
    before = [x.copy() for x in (q, k, v)]
    out = ops.scan(q, k, v)
    ops.scan(q, k, v, state=out.state)
    ops.scan.backward(q, k, v, do=np.ones_like(out.o))
    assert all(np.array_equal(x, y) for x, y in zip((q, k, v), before))


def test_strides_change_no_bit():
    q, k, v = qkv()
    want = ops.window(q, k, v, left=7)
    turned = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v)]
    got = ops.window(*turned, left=7, layout="bhtd")
    assert np.array_equal(got.o.transpose(0, 2, 1, 3), want.o)
    assert np.array_equal(got.lse.transpose(0, 2, 1), want.lse)
    views = [x.transpose(0, 2, 1, 3) for x in turned]
    assert np.array_equal(ops.window(*views, left=7).o, want.o)
    backwards = [x[:, ::-1].copy()[:, ::-1] for x in (q, k, v)]
    assert backwards[0].strides[1] < 0
    assert np.array_equal(ops.window(*backwards, left=7).o, want.o)
    frozen = q.copy()
    frozen.flags.writeable = False
    assert np.array_equal(ops.window(frozen, k, v, left=7).o, want.o)


def test_half_precision_comes_back_as_it_came():
    q, k, v = (x.astype(np.float16) for x in qkv())
    o = ops.window(q, k, v, left=7).o
    assert o.dtype == np.float16
    wide = ops.window(*(x.astype(np.float32) for x in (q, k, v)), left=7).o
    assert np.array_equal(o, wide.astype(np.float16))


def test_lists_and_flags_are_taken():
    q, k, v = qkv(tokens=6)
    keep = np.array([[True, True, True, True, False, False]])
    want = ops.dense(q, k, v, keep=keep).o
    assert np.array_equal(ops.dense(q.tolist(), k, v, keep=keep.astype(np.int64)).o, want)
    cut = ops.dense(q, k[:, :4], v[:, :4]).o
    assert np.allclose(want, cut, atol=1e-6)


def test_double_precision_is_for_the_definition():
    q, k, v = (x.astype(np.float64) for x in qkv())
    with pytest.raises(TypeError, match="window: `q` is float64; kernels compute in float32"):
        ops.window(q, k, v, left=3)
    exact = ops.window(q, k, v, left=3, form="naive").o
    narrow = ops.window(*(x.astype(np.float32) for x in (q, k, v)), left=3, form="naive").o
    assert exact.dtype == np.float64 and 0 < abs(exact - narrow).max() < 1e-6


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda q, k, v: ops.window(q, k[..., :4], v, left=1), ValueError, ["window", "`k`", "[1, 48, 2, 4]", "[1, 48, 2, 8]"]),
        (lambda q, k, v: ops.window(q, k, v), ValueError, ["window", "`left`"]),
        (lambda q, k, v: ops.window(q, k, v, lft=1), TypeError, ["window", "'lft'", "left"]),
        (lambda q, k, v: ops.window(q, k, left=1), TypeError, ["window", "`v`"]),
        (lambda q, k, v: ops.window(q, k, v, left=1, form="fast"), ValueError, ["'fast'", "naive, chunk, step"]),
        (lambda q, k, v: ops.window(q, k, v, left=1, layout="thd"), ValueError, ["'thd'", "bthd, bhtd"]),
        (lambda q, k, v: ops.window(q, k, v, left="x"), ValueError, ["window", "left"]),
        (lambda q, k, v: ops.window(q, k, v, 1, 2, 3, 4, 5, 6, left=1), TypeError, ["9 positional", "at most 8"]),
        (lambda q, k, v: ops.window(q, "text", v, left=1), TypeError, ["`k`"]),
        (lambda q, k, v: ops.window.backward(q, k, v, left=1), TypeError, ["`do` is missing"]),
    ],
)
def test_errors_name_the_operation_the_argument_and_both_sides(call, error, parts):
    with pytest.raises(error) as raised:
        call(*qkv())
    assert all(part in str(raised.value) for part in parts), raised.value


def test_shapes_in_errors_are_in_the_order_of_the_caller():
    q, k, v = (x.transpose(0, 2, 1, 3) for x in qkv())
    with pytest.raises(ValueError, match=r"`k` has shape \[1, 2, 48, 4\], want \[1, 2, 48, 8\]"):
        ops.window(q, k[..., :4], v, left=1, layout="bhtd")


def test_gradients_of_kept_outputs_are_the_same():
    q, k, v = qkv()
    out = ops.window(q, k, v, left=6)
    do = np.ones_like(out.o)
    for a, b in zip(ops.window.backward(q, k, v, left=6, do=do), ops.window.backward(q, k, v, left=6, do=do, o=out.o, lse=out.lse)):
        assert np.array_equal(a, b)
    # What was kept is read: other outputs give other gradients.
    other = ops.window.backward(q, k, v, left=6, do=do, o=out.o + 1, lse=out.lse)
    assert not np.array_equal(other.q, ops.window.backward(q, k, v, left=6, do=do).q)


def test_a_step_changes_the_state_in_place():
    q, k, v = qkv()
    state = np.zeros((1, 2, 8, 8), np.float32)
    at = state.ctypes.data
    ops.scan.step_(q[:, 0], k[:, 0], v[:, 0], state=state)
    assert state.ctypes.data == at and np.array_equal(state, ops.scan(q[:, :1], k[:, :1], v[:, :1], form="step").state)
    state.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        ops.scan.step_(q[:, 0], k[:, 0], v[:, 0], state=state)


def test_unknown_mechanisms_are_named_with_those_there_are():
    with pytest.raises(AttributeError, match="no mechanism 'windo'.*window"):
        ops.windo


def test_memory_does_not_grow_with_calls():
    q, k, v = qkv(tokens=256, heads=4, width=16)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    for _ in range(20):
        ops.window(q, k, v, left=8)
    before = resident()
    for _ in range(200):
        ops.window(q, k, v, left=8)
    # One result is 64 KiB: two hundred that leak are 3,200 pages.
    assert resident() - before < 800


def test_a_state_goes_in_and_comes_out():
    q, k, v = qkv()
    whole = ops.scan(q, k, v)
    first = ops.scan(q[:, :20], k[:, :20], v[:, :20])
    rest = ops.scan(q[:, 20:], k[:, 20:], v[:, 20:], state=first.state)
    assert np.allclose(np.concatenate([first.o, rest.o], 1), whole.o, atol=1e-4)
    state = np.zeros_like(whole.state)
    steps = [ops.scan.step_(q[:, t], k[:, t], v[:, t], state=state) for t in range(q.shape[1])]
    assert np.allclose(np.stack(steps, 1), whole.o, atol=1e-4)
    assert np.allclose(state, whole.state, atol=1e-4)


def test_a_configuration_of_deepspeed_may_be_a_file_with_comments(tmp_path):
    file = tmp_path / "ds_config.json"
    file.write_text('{\n "fp16": {"enabled": true}, // of the rest\n "sparse_attention": {"mode": "bslongformer", "block": 16}\n}')
    q, k, v = qkv(tokens=64)
    want = ops.deepspeed(q, k, v, mode="bslongformer", block=16).o
    assert np.array_equal(ops.deepspeed(q, k, v, config=file).o, want)


def test_mechanisms_are_those_of_the_command_line():
    import json
    import subprocess
    import sys

    out = subprocess.run([sys.executable, "-m", "longreach", "list", "--json"], capture_output=True, check=True)
    listed = {entry["path"].split("/")[-1]: entry for entry in json.loads(out.stdout)["mechanisms"]}
    found = {m.name: m for m in longreach.mechanisms()}
    assert found.keys() == listed.keys()
    for name, m in found.items():
        assert (m.cost, m.state, m.paper) == tuple(listed[name][key] for key in ("cost", "state", "paper"))
