"""Tensors of torch: operators, gradients, compilation."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")

import longreach  # noqa: E402
from longreach import _arrays, _core, _torch, ops  # noqa: E402

NAMES = [m.name for m in longreach.mechanisms()]
# What these need besides the sample, or in place of the example.
PARAMETERS = {
    "window": {"left": 5},
    "dilated": {"left": 2, "right": 1, "dilation": [2]},
    "sparse_transformer": {"kind": "strided", "stride": 4},
    "deepspeed": {"mode": "bslongformer", "block": 4},
    "streaming": {"recent": 5},
    "bigbird": {"block": 16, "random_blocks": 1},
    "longformer": {"window": 4},
    "longnet": {"segments": [8, 16], "dilations": [1, 2]},
    "hierarchical": {"block": 16},
    "h_transformer_1d": {"block": 4},
    "moba": {"block": 4, "top": 2},
    "infllm_v2": {"kernel": 4, "stride": 2, "block": 4, "init_blocks": 1, "window": 8, "top": 2, "dense_below": 0},
    "nsa": {"block": 4, "top": 2, "window": 8},
    "lsh": {"chunk": 4},
    "nystrom": {"landmarks": 4},
    "infini": {"segment": 8},
    "cosformer": {"length": 16},
}


def sample(name, more=()):
    tokens = 128 if name == "bigbird" else 16
    tensors = dict(_core._sample(name, [1, tokens, 2, 4], 7, list(more)))
    return {key: torch.from_dlpack(x).clone() for key, x in tensors.items()}


def given(name):
    example = json.loads(longreach._mechanism.mechanism(name).example)
    return PARAMETERS.get(name, example)


def spelled(tensors):
    return {ops._call.spelled(key): x for key, x in tensors.items()}


def test_the_kernel_reads_where_torch_has_its_numbers():
    x = torch.zeros(2, 6, 4)
    for view in (x, x[1:, ::2, 1:], x.transpose(1, 2), x.expand(2, 6, 4)):
        assert _core.data_ptr(view) == view.data_ptr()
    out = ops.window(*[torch.randn(1, 8, 2, 4)] * 3, left=2)
    assert isinstance(out.o, torch.Tensor) and out.o.is_contiguous()
    out.o.add_(1)


def test_torch_and_numpy_give_the_same_bits():
    q, k, v = torch.randn(3, 1, 33, 2, 8)
    a, b = ops.window(q, k, v, left=4), ops.window(q.numpy(), k.numpy(), v.numpy(), left=4)
    assert np.array_equal(a.o.numpy(), b.o)
    half = ops.window(q.bfloat16(), k.bfloat16(), v.bfloat16(), left=4).o
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_every_mechanism_is_its_definition(name):
    tensors = spelled(sample(name))
    function = getattr(ops, name)
    fast, exact = function(**tensors, **given(name)), function(**tensors, **given(name), form="naive")
    for a, b in zip(fast, exact):
        if a is not None and a.numel():
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, b[b.isfinite()].abs().max().item()))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_slopes(name):
    m = longreach._mechanism.mechanism(name)
    tensors = spelled(sample(name))
    floats = {ops._call.spelled(a.name) for a in m.inputs if a.gradient} & tensors.keys()
    # What selects keys by content is constant between jumps, which a slope may straddle.
    if name in ("moba", "infllm_v2", "nsa", "lsh"):
        floats &= {"v"}
    for key in floats:
        tensors[key].requires_grad_()
    function = getattr(ops, name)
    weights = torch.randn(function(**tensors, **given(name)).o.shape, generator=torch.Generator().manual_seed(1))
    loss = lambda given_tensors: (function(**given_tensors, **given(name)).o.double() * weights).sum()
    got = dict(zip(sorted(floats), torch.autograd.grad(loss(tensors), [tensors[key] for key in sorted(floats)])))
    step = 1e-2
    for key, gradient in got.items():
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(2)) / gradient.numel() ** 0.5
        ends = []
        for sign in (1, -1):
            moved = {other: x.detach() for other, x in tensors.items()}
            moved[key] = moved[key] + sign * step * direction
            ends.append(loss(moved).item())
        want = (ends[0] - ends[1]) / (2 * step)
        found = (gradient.double() * direction).sum().item()
        scale = gradient.double().norm().item() / gradient.numel() ** 0.5 + 0.1
        assert abs(found - want) < 3e-2 * scale, (key, found, want)


@pytest.mark.parametrize("name", NAMES)
def test_operators_pass_the_checks_of_torch(name):
    m = longreach._mechanism.mechanism(name)
    _torch.register()
    tensors = sample(name)
    for a in m.inputs:
        if a.gradient and a.name in tensors:
            tensors[a.name].requires_grad_()
    args = (*[tensors.get(a.name) for a in m.inputs], json.dumps(given(name)), m.fastest, False)
    torch.library.opcheck(getattr(torch.ops.longreach, name).default, args)


@pytest.mark.parametrize(("name", "parameters"), [("window", {"left": 3}), ("scan", {})])
def test_compiled_functions_are_eager_ones(name, parameters):
    q, k, v = torch.randn(3, 1, 20, 2, 8).unbind(0)

    def function(q, k, v):
        return getattr(ops, name)(q * 2, k, v, **parameters).o.sum(-1)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(q, k, v), function(q, k, v), atol=1e-6)
    q.requires_grad_()
    a, b = (torch.autograd.grad(f(q, k, v).sum(), q)[0] for f in (compiled, function))
    assert torch.allclose(a, b, atol=1e-5)


def test_gradcheck_passes():
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 1, 6, 1, 4).unbind(0))
    function = lambda q, k, v: ops.window(q, k, v, left=2).o
    assert torch.autograd.gradcheck(function, (q, k, v), eps=1e-2, atol=1e-2, rtol=1e-2)


def test_gradients_equal_those_of_torch():
    q, k, v = (torch.randn(2, 3, 24, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weights = torch.randn(2, 3, 24, 8, dtype=torch.float64)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    exact = torch.autograd.grad(want, (q, k, v), weights)
    narrow = [x.detach().float().requires_grad_() for x in (q, k, v)]
    got = ops.dense(*narrow, causal=True, layout="bhtd").o
    assert torch.allclose(got.double(), want, atol=1e-5)
    for a, b in zip(torch.autograd.grad(got, narrow, weights.float()), exact):
        assert (a - b).abs().max() <= 2e-4 * b.abs().max()


def test_sums_and_checkpoints_have_gradients():
    q = torch.randn(1, 12, 2, 4, requires_grad=True)
    function = lambda q: ops.window(q, q, q, left=3).o
    want = torch.autograd.grad(function(q).sum(), q)[0]
    again = torch.utils.checkpoint.checkpoint(function, q, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again.sum(), q)[0], want)
    with torch.autocast("cpu", torch.bfloat16):
        assert function(q.bfloat16()).dtype == torch.bfloat16


def test_second_derivatives_are_refused():
    q = torch.randn(1, 6, 1, 4, requires_grad=True)
    first = torch.autograd.grad(ops.window(q, q, q, left=2).o.pow(2).sum(), q, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="window has no second derivatives"):
        first.sum().backward()


def test_a_tensor_elsewhere_is_refused():
    with pytest.raises(ValueError, match="`q` is on meta"):
        _arrays.lent("q", torch.zeros(1, device="meta"))
