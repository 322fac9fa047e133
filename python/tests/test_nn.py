"""Modules and functions of torch."""

from __future__ import annotations

import copy
import io
import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")

from longreach import deepspeed, nn  # noqa: E402
from longreach.nn import functional as F  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def heads(batch=1, h=2, t=24, d=8, groups=None):
    return torch.randn(batch, h, t, d), *torch.randn(2, batch, groups or h, t, d).unbind(0)


@pytest.mark.parametrize("shape", [(24, 8), (2, 24, 8), (2, 3, 24, 8)])
def test_sparse_attention_is_that_of_the_mask(shape):
    q, k, v = torch.randn(3, *shape).unbind(0)
    mask = torch.rand(24, 24) < 0.3
    mask[5] = False
    got = F.sparse_attention(q, k, v, mask.float())
    scores = (q @ k.transpose(-2, -1) / math.sqrt(8)).masked_fill(~mask, float("-inf"))
    want = (scores.softmax(-1).nan_to_num(0)) @ v
    assert got.shape == want.shape and torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 5, 64])
def test_local_attention_sees_half_a_window_to_either_side(window):
    q, k, v = heads()
    i = torch.arange(24)
    near = (i[:, None] - i).abs() <= window // 2
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near)
    assert torch.allclose(F.local_attention(q, k, v, window), want, atol=1e-5)


def test_attention_of_torch_has_the_same_arguments():
    q, k, v = heads()
    reference = torch.nn.functional.scaled_dot_product_attention
    bias, mask = torch.randn(1, 1, 24, 24), torch.rand(24, 24) < 0.7
    mask.fill_diagonal_(True)
    for options in ({}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": bias}, {"attn_mask": mask}):
        got = F.scaled_dot_product_attention(q, k, v, **options)
        assert torch.allclose(got, reference(q, k, v, **options), atol=1e-5), options
    assert torch.allclose(F.optimized_attention(q, k, v), reference(q, k, v), atol=1e-5)
    q, k, v = heads(h=4, groups=2)
    want = reference(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    assert torch.allclose(F.scaled_dot_product_attention(q, k, v, enable_gqa=True), want, atol=1e-5)
    with pytest.raises(ValueError, match="`dropout_p` is 0.1"):
        F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)


def test_linear_attention_is_that_of_its_equation():
    module = nn.LinearAttention(16, 8)
    q, k, v = torch.randn(3, 2, 30, 16).unbind(0)
    a, b = module.projection(q).exp(), module.projection(k).exp()
    want = torch.einsum("bnd,bde->bne", a, torch.einsum("bnd,bne->bde", b, v))
    want = want / torch.einsum("bnd,bd->bn", a, b.sum(dim=1)).unsqueeze(-1)
    got = module(q, k, v)
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()
    grads = [torch.autograd.grad(x.square().sum(), module.parameters(), retain_graph=True) for x in (got, want)]
    assert all((x - y).abs().max() <= 2e-4 * y.abs().max() for x, y in zip(*grads))


def test_a_causal_module_steps_as_it_reads():
    module = nn.LinearAttention(16, 8, heads=2, causal=True).eval()
    x = torch.randn(1, 12, 16)
    want, state = module(x, x, x), module.state()
    for t in range(12):
        y, state = module.step(x[:, t], x[:, t], x[:, t], state)
        assert (y - want[:, t]).abs().max() <= 2e-4 * want.abs().max()


def test_infini_attention_is_the_same_cut_anywhere():
    module = nn.InfiniAttention(dim=32, heads=4, segment=16).eval()
    x = torch.randn(1, 45, 32)
    whole = module(x)
    for cut in (1, 16, 20, 44):
        first, state = module(x[:, :cut], return_state=True)
        rest, state = module(x[:, cut:], state, return_state=True)
        assert (torch.cat([first, rest], 1) - whole).abs().max() <= 2e-4 * whole.abs().max()
        assert state.tokens == 45 and state.memory.numel() == module.state().memory.numel()
    state = module.state()
    for t in range(20):
        y, state = module.step(x[:, t], state)
        assert (y - whole[:, t]).abs().max() <= 2e-4 * whole.abs().max()


def test_the_gate_of_infini_attention_learns():
    module = nn.InfiniAttention(dim=16, heads=2, segment=8)
    module(torch.randn(1, 20, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_the_performer_is_causal_to_the_bit():
    model = nn.Performer(dim=32, depth=2, heads=4, causal=True).eval()
    x = torch.randn(1, 40, 32)
    y = model(x)
    other = x.clone()
    other[:, 25:] += 3
    assert torch.equal(model(other)[:, :25], y[:, :25])
    assert not torch.equal(model(other)[:, 25:], y[:, 25:])


@pytest.mark.parametrize("options", [{}, {"use_rezero": True, "ff_glu": True}, {"use_scalenorm": True, "generalized_attention": True}])
def test_a_causal_performer_steps_as_it_reads(options):
    model = nn.Performer(dim=16, depth=2, heads=2, causal=True, **options).eval()
    x = torch.randn(2, 12, 16)
    want, state = model(x), model.state(2)
    size = sum(one.numel() for one in state.matrices)
    for t in range(12):
        y, state = model.step(x[:, t], state)
        assert (y - want[:, t]).abs().max() <= 2e-4 * want.abs().max()
    assert state.tokens == 12 and sum(one.numel() for one in state.matrices) == size
    model = nn.PerformerLM(num_tokens=9, max_seq_len=12, dim=16, depth=1, heads=2, causal=True).eval()
    tokens = torch.randint(0, 9, (2, 12))
    want, state = model(tokens), model.state(2)
    for t in range(12):
        y, state = model.step(tokens[:, t], state)
        assert (y - want[:, t]).abs().max() <= 2e-4 * want.abs().max()
    with pytest.raises(ValueError, match="the state has 12 tokens, want fewer than 12"):
        model.step(tokens[:, 0], state)
    with pytest.raises(ValueError, match="step needs causal=True"):
        other = nn.Performer(dim=16, depth=1, heads=2)
        other.step(x[:, 0], other.state(2))
    with pytest.raises(ValueError, match="step needs stabilizer=None"):
        other = nn.Performer(dim=16, depth=1, heads=2, causal=True, stabilizer="original")
        other.step(x[:, 0], other.state(2))


@pytest.mark.parametrize("causal", [False, True])
def test_the_original_stabilizer_is_that_of_its_equation(causal):
    fast = nn.FastAttention(8, 24, causal, stabilizer="original")
    q, k, v = torch.randn(3, 1, 2, 20, 8).unbind(0)
    a, b = fast._features(q, True), fast._features(k, False)
    pairs = a @ b.transpose(-1, -2)
    if causal:
        pairs = pairs.tril()
    want = pairs @ v / (pairs.sum(-1, keepdim=True) + (1e-6 * a.sum(-1, keepdim=True) if causal else 0))
    assert torch.allclose(fast(q, k, v), want, atol=1e-4)


def test_random_features_approximate_softmax():
    fast = nn.FastAttention(8, 4096)
    q, k, v = 0.3 * torch.randn(3, 1, 1, 20, 8).unbind(0)[0], *(0.3 * torch.randn(2, 1, 1, 20, 8)).unbind(0)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert (fast(q, k, v) - want).abs().max() < 0.15 * want.abs().max()


def test_branches_that_are_scaled_by_zero_change_nothing():
    model = nn.Performer(dim=16, depth=2, heads=2, causal=True, use_rezero=True).eval()
    x = torch.randn(1, 6, 16)
    assert not torch.equal(model(x), x)
    for name, scale in model.named_parameters():
        if name.endswith(".g"):
            scale.data.zero_()
    assert torch.equal(model(x), x) and torch.equal(model.step(x[:, 0], model.state())[0], x[:, 0])


def test_projections_are_drawn_again_in_training_alone():
    model = nn.Performer(dim=16, depth=1, heads=2, feature_redraw_interval=2)
    x = torch.randn(1, 5, 16)
    projection = lambda: model.net.layers[0][0].fn.fast_attention.projection_matrix.clone()
    first = projection()
    model.eval()
    [model(x) for _ in range(5)]
    assert torch.equal(projection(), first)
    model.train()
    [model(x) for _ in range(3)]
    second = projection()
    assert not torch.equal(second, first)
    model.fix_projection_matrices_()
    [model(x) for _ in range(5)]
    assert torch.equal(projection(), second)


def test_sparse_attention_of_a_file_has_both_spellings(tmp_path):
    file = tmp_path / "ds_config.json"
    file.write_text(
        '{"sparse_attention": {"enabled": true, "block_size": 16, // tokens\n'
        '"sparsity_structure": "fixed", "local_window_size": 64, "num_global_blocks": 1, "random_blocks": false}}'
    )
    a = nn.SparseAttention.from_config(file, dim=32, heads=2)
    b = nn.SparseAttention(32, 2, {"mode": "fixed", "block": 16, "num_local_blocks": 4, "num_global_blocks": 1})
    b.load_state_dict(a.state_dict())
    x = torch.randn(1, 150, 32)
    assert torch.equal(a(x), b(x)) and a(x).shape == x.shape
    # A last block that is not full is padded: the padding is not seen.
    mask = torch.ones(1, 160, dtype=torch.bool)
    mask[:, 150:] = False
    padded = torch.cat([x, torch.randn(1, 10, 32)], 1)
    assert torch.allclose(a(padded, mask)[:, :150], a(x), atol=1e-6)
    with pytest.raises(ValueError, match="blok"):
        nn.SparseAttention(32, 2, {"mode": "fixed", "blok": 16})


@pytest.mark.parametrize(
    "config",
    [
        deepspeed.DenseSparsityConfig(2),
        deepspeed.FixedSparsityConfig(2, num_local_blocks=2),
        deepspeed.FixedSparsityConfig(2, num_local_blocks=2, attention="unidirectional"),
        deepspeed.VariableSparsityConfig(2, local_window_blocks=[1, 2]),
        deepspeed.BSLongformerSparsityConfig(2),
        deepspeed.LocalSlidingWindowSparsityConfig(2),
    ],
)
def test_attention_of_deepspeed_is_that_of_its_layout(config):
    layout = config.make_layout(96)
    assert layout.shape == (2, 6, 6) and layout.dtype == torch.long
    mask = layout.repeat_interleave(16, 1).repeat_interleave(16, 2).bool()[None]
    q, k, v = torch.randn(3, 1, 2, 96, 8).unbind(0)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    module = deepspeed.SparseSelfAttention(config)
    assert torch.allclose(module(q, k, v), want, atol=1e-5)
    padding = torch.zeros(1, 96)
    padding[:, 90:] = -10000.0
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask & (padding == 0)[:, None, None])
    assert torch.allclose(module(q, k, v, key_padding_mask=padding), want, atol=1e-5)


@pytest.mark.parametrize("length", [16, 21])
def test_inputs_are_padded_to_whole_blocks_and_outputs_are_cut(length):
    utils, embedding = deepspeed.SparseAttentionUtils, torch.nn.Embedding(9, 8)
    ids, ones = torch.randint(0, 9, (2, length)), torch.ones(2, length)
    positions = torch.arange(length).expand(2, length)
    found = utils.pad_to_block_size(16, ids, ones, ones.long(), positions, embedding(ids), 7, embedding)
    added, padded, mask, types, places, vectors = found
    assert added == (0 if length == 16 else 11)
    for x, y, value in ((ids, padded, 7), (ones, mask, 0), (ones, types, 0), (positions, places, 7)):
        assert torch.equal(y[:, :length], x.to(y.dtype)) and bool((y[:, length:] == value).all()) and y.shape[1] == length + added
    assert torch.equal(vectors, embedding(padded))
    # What is padded changes nothing of the rest, and is cut off again.
    q, k, v = torch.randn(3, 2, 2, length + added, 8).unbind(0)
    module = deepspeed.SparseSelfAttention(deepspeed.DenseSparsityConfig(2), key_padding_mask_mode="mul")
    y = utils.unpad_sequence_output(added, module(q, k, v, key_padding_mask=mask).transpose(1, 2))
    whole = torch.nn.functional.scaled_dot_product_attention(q[:, :, :length], k[:, :, :length], v[:, :, :length])
    assert torch.allclose(y, whole.transpose(1, 2), atol=1e-5)
    assert utils.pad_to_block_size(16, ids, None, None, None, None, 0, None)[2:] == (None,) * 4
    with pytest.raises(ValueError, match="`input_ids` and `inputs_embeds` are None"):
        utils.pad_to_block_size(16, None, ones, None, None, None, 0, None)


def test_layouts_are_those_of_deepspeed():
    fixed = deepspeed.FixedSparsityConfig(1, num_local_blocks=2).make_layout(64)[0].tolist()
    assert fixed == [[1, 1, 0, 1], [1, 1, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    long = deepspeed.BSLongformerSparsityConfig(1).make_layout(80)[0].tolist()
    assert long == [[1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 0, 0, 1, 1]]


MODULES = [
    lambda: (nn.LinearAttention(16, 8), 3),
    lambda: (nn.InfiniAttention(16, 2, segment=8), 1),
    lambda: (nn.Performer(dim=16, depth=1, heads=2), 1),
    lambda: (nn.SparseAttention(16, 2, {"block": 16}), 1),
    lambda: (nn.WindowSelfAttention(16, 2, left=4), 1),
    lambda: (nn.LinearSelfAttention(16, 2), 1),
    lambda: (nn.GatedDeltaNet(16, 2), 1),
    lambda: (nn.Mamba2(16, d_state=8, headdim=16), 1),
]


@pytest.mark.parametrize("make", MODULES)
def test_modules_are_saved_copied_and_quantised(make):
    module, inputs = make()
    module.eval()
    x = [torch.randn(1, 32, 16)] * inputs
    want = module(*x)
    assert torch.equal(copy.deepcopy(module)(*x), want)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(*x), want)
    again, _ = make()
    again.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(again.eval()(*x), want)
