"""transformers with this engine's attention, and this engine with transformers' names."""

from __future__ import annotations

import shutil


import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its tests are skipped")
hf = pytest.importorskip("transformers", reason="transformers is not installed: its tests are skipped")

from conftest import GOLDENS, PIPELINES  # noqa: E402

import longreach.transformers as lt  # noqa: E402

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
DECODERS = {
    "llama": lambda: hf.LlamaConfig(**SMALL, num_key_value_heads=2),
    "mistral": lambda: hf.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=6),
    "gpt2": lambda: hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, attn_pdrop=0, embd_pdrop=0),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **SMALL, num_key_value_heads=1, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
}
ENCODERS = {
    "bert": lambda: hf.BertConfig(**SMALL, hidden_dropout_prob=0, attention_probs_dropout_prob=0),
    "modernbert": lambda: hf.ModernBertConfig(
        **SMALL, local_attention=8, global_attn_every_n_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    lt.register()


def pair(auto, config):
    """A model with eager attention and one with this engine's, of the same weights."""
    torch.manual_seed(0)
    eager = auto.from_config(config, attn_implementation="eager").eval()
    ours = auto.from_config(config, attn_implementation="longreach").eval()
    ours.load_state_dict(eager.state_dict())
    return eager, ours


def batch(side):
    torch.manual_seed(1)
    ids, mask = torch.randint(3, 64, (2, 19)), torch.ones(2, 19, dtype=torch.long)
    if side == "left":
        mask[1, :6] = 0
    if side == "right":
        mask[1, -6:] = 0
    return ids, mask


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_have_eager_logits_and_texts(name, side):
    eager, ours = pair(hf.AutoModelForCausalLM, DECODERS[name]())
    ids, mask = batch(side)
    a, b = (model(input_ids=ids, attention_mask=mask).logits for model in (eager, ours))
    assert (a - b)[mask.bool()].abs().max() < 1e-4
    if side != "right":
        texts = [m.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0) for m in (eager, ours)]
        assert torch.equal(*texts)


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_eager_outputs(name, side):
    eager, ours = pair(hf.AutoModel, ENCODERS[name]())
    ids, mask = batch(side)
    a, b = (model(input_ids=ids, attention_mask=mask).last_hidden_state for model in (eager, ours))
    assert (a - b)[mask.bool()].abs().max() < 1e-4


def test_models_train_as_eager_ones():
    eager, ours = pair(hf.AutoModelForCausalLM, DECODERS["mistral"]())
    ids, _ = batch("none")
    for model in (eager, ours):
        model(input_ids=ids, labels=ids).loss.backward()
    for p, q in zip(eager.parameters(), ours.parameters()):
        assert (p.grad - q.grad).abs().max() <= 1e-4 * max(p.grad.abs().max().item(), 1e-3)


def test_a_static_cache_gives_the_same_text():
    eager, ours = pair(hf.AutoModelForCausalLM, DECODERS["llama"]())
    ids, mask = batch("left")
    given = dict(attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        want = eager.generate(ids, **given)
        got = ours.generate(ids, **given, cache_implementation="static", disable_compile=True)
    assert torch.equal(got, want)


def test_masks_of_windows_take_no_square():
    seen = lt._attention.mask(1, 5000, 5000, mask_function=hf.masking_utils.sliding_window_causal_mask_function(64), local_size=64)
    assert (seen.left, seen.right, seen.offset, seen.keep) == (63, 0, 0, None)
    chunks = hf.masking_utils.chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.long))
    square = lt._attention.mask(1, 20, 20, mask_function=chunks, local_size=8)
    assert square.shape == (1, 1, 20, 20)


def test_names_and_dropout_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="flash"):
        lt.register("longreach_flash_attention")
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="dropout of attention weights is 0.1"):
        lt._attention.attention(torch.nn.Module(), q, q, q, None, dropout=0.1)


def golden(name):
    return str(GOLDENS / name)


def test_the_same_names_run_this_engine():
    directory = golden("llama-a")
    theirs = hf.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ours = lt.AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32, device_map="auto")
    ids = torch.randint(3, theirs.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    want = theirs(input_ids=ids, attention_mask=mask).logits
    got = ours(input_ids=ids, attention_mask=mask)
    assert (got.logits - want).abs().max() < 1e-3 and got[0] is got.logits is got["logits"]
    given = dict(max_new_tokens=6, do_sample=False)
    text = theirs.generate(ids, attention_mask=mask, **given, pad_token_id=0)
    assert torch.equal(ours.generate(input_ids=ids, attention_mask=mask, **given, pad_token_id=0), text)
    with pytest.raises(ValueError, match="num_beams"):
        ours.generate(ids, num_beams=4)


def test_another_device_is_warned_of_once():
    from longreach.transformers import _load

    _load._WARNED.clear()
    ours = lt.AutoModelForCausalLM.from_pretrained(golden("llama-a"))
    with pytest.warns(UserWarning, match="cuda"):
        assert ours.to("cuda") is ours


@pytest.mark.parametrize("name", ["longformer-base-a", "modernbert-base-a", "bert-base-a"])
def test_encoders_of_the_same_names_run_this_engine(name, tmp_path):
    # The goldens have no tokenizer, and this test reads no text: any will do.
    directory = shutil.copytree(golden(f"encoders/{name}"), tmp_path / name)
    shutil.copy(PIPELINES / "st-bert-mean" / "tokenizer.json", directory)
    theirs = hf.AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    auto = lt.LongformerModel if name.startswith("longformer") else lt.AutoModel
    ids = torch.randint(5, theirs.config.vocab_size, (2, 13), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if name.startswith("longformer"):
        given["global_attention_mask"] = torch.zeros_like(ids)
        given["global_attention_mask"][:, 0] = 1
    with torch.no_grad():
        want = theirs(**given).last_hidden_state
    ours = auto.from_pretrained(directory)
    got = ours(**given).last_hidden_state
    assert (got - want)[mask.bool()].abs().max() < 1e-4


def test_tokenizers_of_the_same_names_have_the_same_tokens():
    directory = str(PIPELINES / "st-bert-mean")
    theirs, ours = hf.AutoTokenizer.from_pretrained(directory), lt.AutoTokenizer.from_pretrained(directory)
    texts = ["some words", "a longer text than that one"]
    want, got = (tokenizer(texts, padding=True, return_tensors="pt") for tokenizer in (theirs, ours))
    assert torch.equal(got["input_ids"], want["input_ids"]) and torch.equal(got.attention_mask, want["attention_mask"])
    assert ours(texts[0])["input_ids"] == theirs(texts[0])["input_ids"]
    with pytest.raises(ValueError, match="different lengths: give padding=True"):
        ours(texts, return_tensors="pt")
