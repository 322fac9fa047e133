"""Layers with memories and with selected blocks, and those of one state, against definitions in float64."""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")

from longreach import nn  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def near(got, want, tolerance=2e-4):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def decoder():
    return nn.Performer(dim=32, depth=1, heads=2, causal=True)


MAKERS = {
    "kda": lambda: nn.KDA(32, 4),
    "kda, shared keys": lambda: nn.KDA(32, 2, 6, num_v_heads=4, expand_v=1.5, use_short_conv=False, allow_neg_eigval=True),
    "hgrn2": lambda: nn.HGRN2(32, 2, 8),
    "hgrn2 with convolutions": lambda: nn.HGRN2(32, 2, 8, use_short_conv=True),
    "rwkv4": lambda: nn.RWKV4(32, dim_attn=24),
    "rwkv5": lambda: nn.RWKV5(32, 4),
    "rwkv6": lambda: nn.RWKV6(32, 4),
    "rwkv7": lambda: nn.RWKV7(32, 4),
    "mamba": lambda: nn.Mamba(32, bias=True),
    "rg_lru": lambda: nn.RGLRU(32, 4, width=24),
    "transformer_xl": lambda: nn.TransformerXLSelfAttention(32, 4, memory=6, norm=True),
    "hmt": lambda: nn.HMT(decoder(), 32, segment=7, sensory=2, memory=2, recall=8),
}
KEPT = {
    "nsa": lambda: nn.NsaSelfAttention(32, 4, kv_heads=2, block=4, top=2, window=6),
    "moba": lambda: nn.MobaSelfAttention(32, 4, block=4, top=2),
}


@pytest.mark.parametrize("name", {**MAKERS, **KEPT})
def test_layers_step_as_they_read_and_see_nothing_later(name):
    module, x = {**MAKERS, **KEPT}[name]().eval(), torch.randn(2, 24, 32)
    with torch.no_grad():
        whole, state = module(x), module.state(2)
        for t in range(24):
            y, state = module.step(x[:, t], state)
            near(y, whole[:, t])
        other = x.clone()
        other[:, 15:] += 1
        changed = module(other)
        assert torch.equal(changed[:, :15], whole[:, :15]) and not torch.allclose(changed[:, 15:], whole[:, 15:])


def size(state):
    return sum(part.numel() if isinstance(part, torch.Tensor) else size(part) for part in state if not isinstance(part, int))


@pytest.mark.parametrize("name", MAKERS)
def test_layers_are_cut_anywhere_and_keep_a_state_of_one_size(name):
    module, x, sizes = MAKERS[name]().eval(), torch.randn(2, 42, 32), []
    with torch.no_grad():
        whole = module(x)
        for cut in (1, 6, 7, 20):
            first, middle = module(x[:, :cut], return_state=True)
            rest, after = module(x[:, cut:], middle, return_state=True)
            near(torch.cat([first, rest], 1), whole)
            sizes.append(size(after))
        assert len(set(sizes)) == 1
        sizes.append(size(module(torch.cat([x, x], 1), return_state=True)[1]))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("name", {**MAKERS, **KEPT})
def test_all_parameters_learn_and_modules_are_copied(name):
    module, x = {**MAKERS, **KEPT}[name](), torch.randn(2, 24, 32)
    module(x).square().sum().backward()
    still = {name for name, p in module.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    assert not still
    module.eval()
    assert torch.equal(copy.deepcopy(module)(x), module(x))


def parts(module, x):
    q, k, v = (p(x).double().unflatten(2, (module.heads, -1)).transpose(1, 2) for p in (module.to_q, module.to_k, module.to_v))
    return q, k, v


def attend(q, k, v, seen):
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1).nan_to_num(0) @ v).transpose(1, 2).flatten(2)


def test_moba_sees_its_block_and_those_that_fit_best():
    module, x, block = nn.MobaSelfAttention(32, 4, block=4, top=2), torch.randn(1, 24, 32), 4
    q, k, v = parts(module, x)
    means = k.unflatten(2, (-1, block)).mean(3)
    own, blocks = torch.arange(24) // block, torch.arange(6)
    fit = (q @ means.transpose(-1, -2)).masked_fill(blocks >= own[:, None], float("-inf"))
    best = fit.argmax(-1, keepdim=True) == blocks
    chosen = (blocks == own[:, None]) | (best & (blocks < own[:, None]))
    seen = chosen.repeat_interleave(block, -1) & torch.ones(24, 24).tril().bool()
    near(module(x), module.to_out(attend(q, k, v, seen).float()))


def test_nsa_weighs_means_blocks_and_a_window():
    """With as many blocks as there are, and a window as long, two of the three parts are causal attention."""
    module, x = nn.NsaSelfAttention(32, 4, block=4, top=6, window=24), torch.randn(1, 24, 32)
    q, k, v = (p(x).double().unflatten(2, (4, -1)) for p in (module.q_proj, module.k_proj, module.v_proj))
    turns = torch.arange(24).double()[:, None, None] * 10000.0 ** (-torch.arange(4).double() / 4)

    def rotated(y):
        a, b = y[..., :4], y[..., 4:]
        return torch.cat([a * turns.cos() - b * turns.sin(), b * turns.cos() + a * turns.sin()], -1)

    q, k, v = (y.transpose(1, 2) for y in (rotated(q), rotated(k), v))
    full = attend(q, k, v, torch.ones(24, 24).tril().bool())
    keys, values = (y.unflatten(2, (-1, 4)).mean(3) for y in (k, v))
    complete = (torch.arange(24)[:, None] + 1) // 4 > torch.arange(6)
    means = attend(q, keys, values, complete)
    gates = module.g_proj(x).double().sigmoid().unflatten(2, (4, 3)).unsqueeze(-2)
    a, b, c = (gates[..., i] for i in range(3))
    full, means = (y.unflatten(2, (4, 8)) for y in (full, means))
    near(module(x), module.o_proj((a * means + (b + c) * full).flatten(2).float()))


def test_transformer_xl_is_that_of_its_equation():
    module, x = nn.TransformerXLSelfAttention(32, 4, memory=6, clamp_len=4), torch.randn(1, 15, 32)
    with torch.no_grad():
        module.r_w_bias.normal_()
        module.r_r_bias.normal_()
        q, k, v = module.qkv_net(x).double().unflatten(2, (3, 4, 8)).unbind(2)
        distance = (torch.arange(15)[:, None] - torch.arange(15)).clamp(min=0)
        turns = distance.clamp(max=4).double()[..., None] * 10000.0 ** (-torch.arange(0, 32, 2).double() / 32)
        r = (torch.cat([turns.sin(), turns.cos()], -1) @ module.r_net.weight.T.double()).unflatten(2, (4, 8))
        scores = torch.einsum("bihd,bjhd->bhij", q + module.r_w_bias, k)
        scores = (scores + torch.einsum("bihd,ijhd->bhij", q + module.r_r_bias, r)) / math.sqrt(8)
        apart = torch.arange(15)[:, None] - torch.arange(15)
        scores = scores.masked_fill((apart < 0) | (apart > 6), float("-inf"))
        out = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
        near(module(x), module.o_net(out.float()))


def test_rwkv5_is_that_of_its_recurrence():
    module, x = nn.RWKV5(32, 4), torch.randn(2, 20, 32)
    delta = torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1] - x
    mixed = lambda name: x + delta * (1 - getattr(module, f"time_mix_{name}"))
    r, k, v = (
        layer(mixed(name)).double().unflatten(2, (4, 8))
        for layer, name in ((module.receptance, "r"), (module.key, "k"), (module.value, "v"))
    )
    decay, bonus = (-module.time_decay.double().exp()).exp(), module.time_faaaa.double()
    state, out = torch.zeros(2, 4, 8, 8, dtype=torch.float64), []
    for t in range(20):
        write = k[:, t, :, :, None] * v[:, t, :, None]
        out.append(((state + bonus[:, :, None] * write) * r[:, t, :, :, None]).sum(2))
        state = state * decay[:, :, None] + write
    y = torch.stack(out, 1)
    y = (y - y.mean(-1, keepdim=True)) * (y.var(-1, unbiased=False, keepdim=True) + 64e-5).rsqrt()
    gate = torch.nn.functional.silu(module.gate(mixed("g")))
    near(module(x), module.output(y.flatten(2).float() * gate))


def test_a_memory_is_recalled_across_segments():
    module, x = nn.HMT(decoder(), 32, segment=8, sensory=0, summary=4).eval(), torch.randn(1, 24, 32)
    other = x.clone()
    other[:, :8] = torch.randn(1, 8, 32)
    with torch.no_grad():
        # The first segment is what the decoder says of it; what came in it reaches the third one by memory alone.
        near(module(x)[:, :8], module.decoder(x[:, :8]))
        assert not torch.allclose(module(other)[:, 16:], module(x)[:, 16:], atol=1e-6)
        forgetful = nn.HMT(module.decoder, 32, segment=8, sensory=0, summary=4, memory=1).eval()
        forgetful.load_state_dict(module.state_dict())
        state = forgetful(x, return_state=True)[1]
        assert state.memories.shape == (1, 1, 32)


def test_later_layers_of_rwkv7_mix_the_values_of_the_first():
    first, second, x = nn.RWKV7(32, 4), nn.RWKV7(32, 4, layer_idx=1), torch.randn(1, 9, 32)
    a, b = second(x, v_first=first.values(x)), second(x, v_first=torch.zeros(1, 9, 32))
    assert not torch.allclose(a, b)
    with pytest.raises(ValueError, match="layer_idx=1: want the values of the first layer"):
        second(x)
    with pytest.raises(ValueError, match="layer_idx=0: want None"):
        first(x, v_first=x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.KDA(32, 3, 8, num_v_heads=4), "num_heads=3 does not divide num_v_heads=4"),
        (lambda: nn.HGRN2(30, 4), "4 heads do not divide dim=30"),
        (lambda: nn.RWKV5(32, 5), "heads do not divide dim"),
        (lambda: nn.RWKV6(30, 4), "4 heads do not divide dim=30"),
        (lambda: nn.Mamba(32, d_conv=1), "d_conv=1"),
        (lambda: nn.Mamba(32, dt_init="ones"), "dt_init='ones', want 'random' or 'constant'"),
        (lambda: nn.RGLRU(32, 5), "5 heads do not divide 32 channels"),
        (lambda: nn.NsaSelfAttention(32, 4, kv_heads=3), "kv_heads=3 does not divide heads=4"),
        (lambda: nn.NsaSelfAttention(32, 4, causal=False), "causal=False"),
        (lambda: nn.MobaSelfAttention(32, 4, top=0), "top=0"),
        (lambda: nn.TransformerXLSelfAttention(32, 4, memory=0), "memory=0"),
        (lambda: nn.HMT(decoder(), 32, segment=0), "segment=0"),
    ],
)
def test_wrong_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
