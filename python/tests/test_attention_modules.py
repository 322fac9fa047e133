"""Modules of self-attention, against definitions in float64 and the modules of transformers."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")

from longreach import nn  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def near(got, want, tolerance=1e-4):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def masked(module, x, seen):
    """Softmax attention in float64 with the projections of a module, over the keys that ``seen`` has."""
    layers = (module.to_q, module.to_k, module.to_v)
    q, k, v = ((x @ p.weight.T).double().unflatten(2, (module.heads, -1)).transpose(1, 2) for p in layers)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(~seen, float("-inf"))
    out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return (out @ module.to_out.weight.T.double()).float()


DISTANCE = torch.arange(30)[:, None] - torch.arange(30)


@pytest.mark.parametrize("causal", [False, True])
def test_windows_are_those_of_their_mask(causal):
    x, ahead = torch.randn(2, 30, 32), 0 if causal else 5
    module = nn.WindowSelfAttention(32, 4, left=5, causal=causal)
    near(module(x), masked(module, x, (DISTANCE <= 5) & (DISTANCE >= -ahead)))
    keep = torch.ones(2, 30, dtype=torch.bool)
    keep[1, 24:] = False
    near(module(x, keep)[1, :24], masked(module, x[1:, :24], (DISTANCE <= 5)[:24, :24] & (DISTANCE >= -ahead)[:24, :24])[0])
    module = nn.DilatedSelfAttention(32, 2, left=3, dilation=[1, 4], causal=causal)
    ahead = 0 if causal else 3
    each = [(DISTANCE % d == 0) & (DISTANCE <= 3 * d) & (DISTANCE >= -ahead * d) for d in (1, 4)]
    near(module(x), masked(module, x, torch.stack(each)))


def test_near_blocks_of_a_hierarchy_are_seen_exactly():
    module, x = nn.HierarchicalSelfAttention(32, 4, block=16, causal=True), torch.randn(1, 16, 32)
    near(module(x), masked(module, x, DISTANCE[:16, :16] >= 0))
    x = torch.randn(1, 200, 32)
    other = x.clone()
    other[:, 150:] += 1
    assert torch.equal(module(other)[:, :150], module(x)[:, :150])


CAUSAL = [
    lambda: nn.WindowSelfAttention(32, 4, left=5, causal=True),
    lambda: nn.WindowSelfAttention(32, 4, left=0, causal=True),
    lambda: nn.DilatedSelfAttention(32, 2, left=3, dilation=[1, 4], causal=True),
    lambda: nn.HierarchicalSelfAttention(32, 4, block=16, causal=True),
    lambda: nn.LinearSelfAttention(32, 4, causal=True),
    lambda: nn.LinearSelfAttention(32, 4, map="relu", causal=True, normalize=False, dim_head=6),
]


@pytest.mark.parametrize("make", CAUSAL)
def test_a_causal_module_steps_as_it_reads(make):
    module, tokens = make().eval(), 70 if make is CAUSAL[3] else 24
    x = torch.randn(2, tokens, 32)
    want, state = module(x), module.state(batch=2)
    for t in range(tokens):
        y, state = module.step(x[:, t], state)
        near(y, want[:, t], 2e-4)
    if isinstance(module, nn.WindowSelfAttention):
        assert state.keys.shape[1] == module._keys_kept()
    with pytest.raises(ValueError, match="step needs causal=True"):
        type(module)(32, 2).step(x[:, 0], state)


@pytest.mark.parametrize("causal", [False, True])
def test_linear_self_attention_is_that_of_its_equation(causal):
    module, x = nn.LinearSelfAttention(32, 4, causal=causal), torch.randn(2, 20, 32)
    q, k, v = (p(x).double().unflatten(2, (4, -1)).transpose(1, 2) for p in (module.to_q, module.to_k, module.to_v))
    q, k = (torch.nn.functional.elu(y) + 1 for y in (q, k))
    weights = q @ k.transpose(-2, -1)
    weights = weights.tril() if causal else weights
    out = (weights @ v / weights.sum(-1, keepdim=True)).transpose(1, 2).flatten(2).float()
    near(module(x), module.to_out(out))


@pytest.mark.parametrize(("one_kv_head", "share_kv"), [(False, False), (True, False), (False, True)])
def test_linformer_is_that_of_its_equation(one_kv_head, share_kv):
    module = nn.LinformerSelfAttention(32, 20, k=6, heads=4, one_kv_head=one_kv_head, share_kv=share_kv)
    x, context = torch.randn(2, 9, 32), torch.randn(2, 20, 32)
    q = module.to_q(x).unflatten(2, (4, -1))
    k = (module.proj_k.T @ module.to_k(context)).unflatten(2, (-1, 8)).expand(-1, -1, 4, -1)
    v = k if share_kv else (module.proj_v.T @ module.to_v(context)).unflatten(2, (-1, 8)).expand(-1, -1, 4, -1)
    weights = torch.einsum("bnhd,bkhd->bhnk", q, k).div(math.sqrt(8)).softmax(-1)
    near(module(x, context), module.to_out(torch.einsum("bhnk,bkhd->bnhd", weights, v).flatten(2)))
    stack = nn.Linformer(32, 20, depth=2, k=6, heads=4, one_kv_head=one_kv_head, share_kv=share_kv)
    names = {name for name in stack.state_dict() if name.startswith("net.layers.1.")}
    want = {"norm.weight", "norm.bias", "fn.to_q.weight", "fn.to_k.weight", "fn.proj_k", "fn.to_out.weight", "fn.to_out.bias"}
    want |= set() if share_kv else {"fn.to_v.weight", "fn.proj_v"}
    wide = {"norm.weight", "norm.bias", "fn.w1.weight", "fn.w1.bias", "fn.w2.weight", "fn.w2.bias"}
    assert names == {f"net.layers.1.0.{name}" for name in want} | {f"net.layers.1.1.{name}" for name in wide}
    y = context
    for attention, feed_forward in stack.net.layers:
        y = y + attention(y)
        y = y + feed_forward(y)
    assert torch.equal(stack(context), y)
    with pytest.raises(ValueError, match="found 9 tokens for keys, want seq_len=20"):
        module(x)


def test_a_language_model_of_performers_is_causal_and_learns():
    model = nn.PerformerLM(num_tokens=11, max_seq_len=40, dim=16, depth=1, heads=2, causal=True, feature_redraw_interval=None)
    tokens = torch.arange(40)[None] % 4
    other = tokens.clone()
    other[:, 25:] += 5
    assert torch.equal(model(other)[:, :25], model(tokens)[:, :25])
    hidden = model(tokens, return_encodings=True)
    assert torch.equal(model(tokens), hidden @ model.token_emb.weight.T)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:])
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(ValueError, match="want \\[batch, at most 40\\]"):
        model(torch.zeros(1, 41, dtype=torch.long))


def of_transformers(name, config, **options):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: its modules are not compared")
    module = __import__(f"transformers.models.{name}.modeling_{name}", fromlist=["x"])
    return module, getattr(transformers, config)(hidden_size=32, num_attention_heads=4, **options)


def test_longformer_is_that_of_transformers():
    their, config = of_transformers("longformer", "LongformerConfig", attention_window=[8], num_hidden_layers=1)
    theirs = their.LongformerSelfAttention(config, 0).eval()
    ours = nn.LongformerSelfAttention(32, 4, window=8)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 32, 32)
    seen = torch.zeros(2, 32, dtype=torch.bool)
    seen[0, [0, 9]], seen[1, 3] = True, True
    keep = torch.ones(2, 32, dtype=torch.bool)
    keep[1, 27:] = False
    states = torch.zeros(2, 32).masked_fill(seen, 10000.0).masked_fill(~keep, -10000.0)
    want = theirs(x, states, is_index_masked=~keep, is_index_global_attn=seen, is_global_attn=True)[0]
    near(ours(x, keep, seen)[keep], want[keep])
    want = theirs(x, torch.zeros(2, 32), torch.zeros_like(keep), torch.zeros_like(keep), False)[0]
    near(ours(x), want)


def test_bigbird_is_that_of_transformers():
    their, config = of_transformers("big_bird", "BigBirdConfig", block_size=16, num_random_blocks=1)
    theirs = their.BigBirdBlockSparseAttention(config, seed=3).eval()
    ours = nn.BigBirdSelfAttention(32, 4, block=16, random_blocks=1, seed=3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, ones = torch.randn(1, 128, 32), torch.ones(1, 128)
    masks = their.BigBirdModel.create_masks_for_block_sparse_attn(ones, 16)
    for train in (False, True):
        theirs.train(train), ours.train(train)
        blocked, band, rows, columns = masks
        want = theirs(x, band, rows, columns, blocked, blocked)[0]
        near(ours(x), want)
    short = ours.eval()(x[:, :120])
    keep = torch.arange(128)[None] < 120
    assert torch.equal(short, ours(x, keep)[:, :120])


def test_nystromformer_is_that_of_transformers():
    sizes = {"num_landmarks": 8, "segment_means_seq_len": 32, "conv_kernel_size": 5, "inv_coeff_init_option": False}
    their, config = of_transformers("nystromformer", "NystromformerConfig", **sizes)
    theirs = their.NystromformerSelfAttention(config).eval()
    ours = nn.NystromformerSelfAttention(32, 4, landmarks=8, conv=5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 32, 32)
    near(ours(x), theirs(x)[0])
    plain = nn.NystromformerSelfAttention(32, 4, landmarks=8)
    plain.load_state_dict({name: w for name, w in theirs.state_dict().items() if "conv" not in name}, strict=True)
    ours.conv.weight.data.zero_()
    assert torch.equal(plain(x), ours(x))


@pytest.mark.parametrize("causal", [False, True])
def test_lsh_is_that_of_transformers(causal):
    # With several rounds, their weights for tokens that see nothing else are rounded at a score of -1e5 there.
    rounds = 1 if causal else 2
    sizes = {"attention_head_size": 8, "num_buckets": 4, "num_hashes": rounds, "lsh_attn_chunk_length": 8, "hash_seed": 5}
    their, config = of_transformers("reformer", "ReformerConfig", is_decoder=causal, **sizes)
    theirs = their.LSHSelfAttention(config, layer_idx=0).eval()
    ours = nn.LshSelfAttention(32, 4, chunk=8, buckets=4, rounds=rounds, causal=causal, seed=5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 48, 32)
    near(ours(x), theirs(x).hidden_states)
    keep = torch.arange(48)[None] < 43
    want = theirs(x, attention_mask=keep).hidden_states
    near(ours(x[:, :43]), want[:, :43])


MODULES = [
    lambda: nn.WindowSelfAttention(32, 4, left=4),
    lambda: nn.HierarchicalSelfAttention(32, 4, block=16),
    lambda: nn.LinearSelfAttention(32, 4),
    lambda: nn.LinformerSelfAttention(32, 32, k=4, heads=4),
    lambda: nn.LongformerSelfAttention(32, 4, window=8),
    lambda: nn.NystromformerSelfAttention(32, 4, landmarks=8, conv=3),
    lambda: nn.LshSelfAttention(32, 4, chunk=16, buckets=4),
]


@pytest.mark.parametrize("make", MODULES)
def test_every_parameter_has_a_gradient(make):
    module, x = make(), torch.randn(1, 32, 32)
    module(x).square().sum().backward()
    given = [p.grad is not None and p.grad.abs().sum() > 0 for name, p in module.named_parameters() if "global" not in name]
    assert all(given)
    with pytest.raises(ValueError, match="want \\[batch, seq, dim\\]"):
        module(x[0])
