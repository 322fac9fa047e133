"""Layers with a recurrent state, against recurrences in float64 and transformers' Mamba-2."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")

from torch.nn.functional import conv1d, logsigmoid, pad, silu, softplus  # noqa: E402

from longreach import nn  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def near(got, want, tolerance=2e-4):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def project(module, name, x, heads):
    """A projection, its short convolution if there is one, and heads, in float64."""
    y = x @ getattr(module, f"{name}_proj").weight.T.double()
    conv = getattr(module, f"{name}_conv1d", None)
    if conv is not None:
        bias = None if conv.bias is None else conv.bias.double()
        past = pad(y.transpose(1, 2), (conv.weight.shape[2] - 1, 0))
        y = silu(conv1d(past, conv.weight.double(), bias, groups=y.shape[2]).transpose(1, 2))
    return y.unflatten(2, (heads, -1))


def norm(x, weight, gate=None):
    y = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    return y if gate is None else y * silu(gate)


def recurrence(q, k, v, decay, beta=None):
    """``[batch, seq, heads, …]``; decays of channels of keys; ``beta`` for the delta rule."""
    state = torch.zeros(*k[:, 0].shape, v.shape[-1], dtype=torch.float64)
    out = []
    for t in range(q.shape[1]):
        state = state * decay[:, t, :, :, None]
        write = v[:, t]
        if beta is not None:
            write = beta[:, t, :, None] * (write - (state * k[:, t, :, :, None]).sum(2))
        state = state + k[:, t, :, :, None] * write[:, :, None]
        out.append((state * q[:, t, :, :, None]).sum(2) * q.shape[-1] ** -0.5)
    return torch.stack(out, 1)


def rotated(x):
    half = x.shape[-1] // 2
    turns = torch.arange(x.shape[1]).double()[:, None, None] * 10000.0 ** (-torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * turns.cos() - b * turns.sin(), b * turns.cos() + a * turns.sin()], -1)


def retention(module, x):
    q, k, v, gate = (project(module, name, x, 4) for name in "qkvg")
    decay = (1 - 2.0 ** (-5 - torch.arange(4).double()))[:, None].expand(*k.shape)
    return norm(recurrence(rotated(q), rotated(k), v, decay), module.g_norm_swish_gate.weight, gate)


def gated(module, x):
    q, k, v, gate = (project(module, name, x, 4) for name in "qkvg")
    low, high = module.gk_proj
    decay = logsigmoid(x @ low.weight.T.double() @ high.weight.T.double() + high.bias.double()) / 16
    out = recurrence(q, k, v, decay.exp().unflatten(2, (4, -1)))
    return norm(out, module.g_norm_swish_gate.weight, gate)


def delta(module, x):
    heads = module.state_shape[0]
    shared = heads // module.key_heads
    q, k, v = (project(module, name, x, h) for name, h in zip("qkv", (module.key_heads, module.key_heads, heads)))
    if not module.convolved:
        q, k, v = silu(q), silu(k), silu(v)
    q, k = (y * (y.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for y in (q, k))
    q, k = (y.repeat_interleave(shared, 2) for y in (q, k))
    beta = module.most * (x @ module.b_proj.weight.T.double()).sigmoid()
    decay = torch.ones_like(k)
    if isinstance(module, nn.GatedDeltaNet):
        step = softplus(x @ module.a_proj.weight.T.double() + module.dt_bias.double())
        decay = decay * (-module.A_log.double().exp() * step).exp()[..., None]
    gate = project(module, "g", x, heads) if module.use_gate else None
    return norm(recurrence(q, k, v, decay, beta), module.o_norm.weight, gate)


LAYERS = {
    "retnet": (lambda: nn.RetNet(32, num_heads=4), retention),
    "gla": (lambda: nn.GLA(32, num_heads=4), gated),
    "gla with convolutions": (lambda: nn.GLA(32, num_heads=4, use_short_conv=True, conv_bias=True), gated),
    "delta": (lambda: nn.DeltaNet(32, num_heads=4), delta),
    "delta without convolutions": (lambda: nn.DeltaNet(32, 2, use_short_conv=False, use_gate=True, expand_k=0.5), delta),
    "gated delta": (lambda: nn.GatedDeltaNet(32, 4), delta),
    "gated delta, shared keys": (lambda: nn.GatedDeltaNet(32, 2, 6, num_v_heads=4, allow_neg_eigval=True), delta),
}
MORE = {
    "mamba2": lambda: nn.Mamba2(32, d_state=8, headdim=16, ngroups=2),
    "mamba2 without norm": lambda: nn.Mamba2(32, d_state=8, headdim=16, rmsnorm=False, dt_limit=(0.01, 0.05)),
}
MAKERS = {**{name: make for name, (make, _) in LAYERS.items()}, **MORE}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_their_recurrences(name):
    make, definition = LAYERS[name]
    module, x = make(), torch.randn(2, 20, 32)
    want = (definition(module, x.double()).flatten(2) @ module.o_proj.weight.T.double()).float()
    got = module(x)
    near(got, want, 1e-4)
    weights = torch.randn_like(want)
    grads = [torch.autograd.grad((y * weights).sum(), module.parameters()) for y in (got, want)]
    for (parameter, _), a, b in zip(module.named_parameters(), *grads):
        assert (a - b).abs().max() <= 5e-4 * b.abs().max(), parameter


@pytest.mark.parametrize("name", MAKERS)
def test_layers_step_as_they_read_and_are_cut_anywhere(name):
    module, x = MAKERS[name](), torch.randn(2, 20, 32)
    with torch.no_grad():
        whole, state = module(x), module.state(2)
        for t in range(20):
            y, state = module.step(x[:, t], state)
            near(y, whole[:, t])
        size = sum(part.numel() for part in (state.matrix, *state.convolutions))
        assert size == sum(part.numel() for part in (module.state(2).matrix, *module.state(2).convolutions))
        for cut in (1, 3, 11):
            first, middle = module(x[:, :cut], return_state=True)
            rest, after = module(x[:, cut:], middle, return_state=True)
            near(torch.cat([first, rest], 1), whole)
            near(after.matrix, state.matrix)
            assert after.tokens == state.tokens == 20


def test_mamba2_is_that_of_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: Mamba-2 is not compared")
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = {"hidden_size": 32, "num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8}
    theirs = Mamba2Mixer(transformers.Mamba2Config(expand=2, layer_norm_epsilon=1e-5, **sizes), 0)
    ours = nn.Mamba2(32, d_state=8, headdim=16)
    assert {name: w.shape for name, w in ours.state_dict().items()} == {n: w.shape for n, w in theirs.state_dict().items()}
    theirs.load_state_dict({name: torch.randn_like(w) * 0.3 for name, w in theirs.state_dict().items()})
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 21, 32)
    near(ours(x), theirs(x), 1e-4)


NAMES = {
    "retnet": {"q_proj", "k_proj", "v_proj", "g_proj", "o_proj", "g_norm_swish_gate"},
    "gla": {"q_proj", "k_proj", "v_proj", "g_proj", "o_proj", "g_norm_swish_gate", "gk_proj.0", "gk_proj.1"},
    "delta": {"q_proj", "k_proj", "v_proj", "b_proj", "q_conv1d", "k_conv1d", "v_conv1d", "o_norm", "o_proj"},
    "gated delta": {"q_proj", "k_proj", "v_proj", "a_proj", "b_proj", "g_proj", "o_norm", "o_proj"}
    | {"q_conv1d", "k_conv1d", "v_conv1d"},
    "mamba2": {"in_proj", "conv1d", "norm", "out_proj"},
}
OWN = {"gla": {"gk_proj.1.bias"}, "gated delta": {"A_log", "dt_bias"}, "mamba2": {"A_log", "D", "dt_bias", "conv1d.bias"}}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_the_names_of_the_packages(name):
    state = MAKERS[name]().state_dict()
    assert set(state) == {f"{one}.weight" for one in NAMES[name]} | OWN.get(name, set())
    assert all(w.ndim == 3 and w.shape[1] == 1 for one, w in state.items() if one.endswith("conv1d.weight"))


def test_wrong_sizes_are_refused():
    for make, part in (
        (lambda: nn.RetNet(30, num_heads=4), "4 heads do not divide dim=30 times expand_k"),
        (lambda: nn.GatedDeltaNet(32, 3, 8, num_v_heads=4), "num_heads=3 does not divide num_v_heads=4"),
        (lambda: nn.Mamba2(32, headdim=24), "headdim=24 does not divide 64"),
    ):
        with pytest.raises(ValueError, match=part):
            make()
