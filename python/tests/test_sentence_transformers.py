"""Encoders as modules of sentence-transformers."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import PIPELINES

reason = "sentence-transformers is not installed: its tests are skipped"
st = pytest.importorskip("sentence_transformers", reason=reason)

from longreach.sentence_transformers import Encoder  # noqa: E402

TEXTS = ["Alpha beta gamma.", "one", "A longer text, of several words, that needs more tokens than the others do.", ""]


def wrapped(name):
    return st.SentenceTransformer(modules=[Encoder(PIPELINES / name)], device="cpu")


@pytest.mark.parametrize("name", ["st-bert-lasttoken", "st-bert-mean", "st-modernbert-max", "st-roberta-cls"])
def test_vectors_are_those_of_sentence_transformers(name):
    theirs, ours = st.SentenceTransformer(str(PIPELINES / name), device="cpu"), wrapped(name)
    for options in ({}, {"prompt": "query: "}, {"normalize_embeddings": True, "batch_size": 2}, {"truncate_dim": 5}):
        want, got = theirs.encode(TEXTS, **options), ours.encode(TEXTS, **options)
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-4 * max(1.0, np.abs(want).max()), options
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert ours.encode("one").shape == (ours.get_embedding_dimension(),)
    for kind in ("encode_query", "encode_document"):
        want, got = getattr(theirs, kind)(TEXTS), getattr(ours, kind)(TEXTS)
        assert np.abs(got - want).max() <= 1e-4 * max(1.0, np.abs(want).max()), kind


def test_a_saved_module_is_loaded_again_without_the_first_files(tmp_path):
    import shutil

    shutil.copytree(PIPELINES / "st-bert-mean", tmp_path / "first")
    model = st.SentenceTransformer(modules=[Encoder(tmp_path / "first", batch_tokens=64)], device="cpu")
    want = model.encode(TEXTS)
    model.save(str(tmp_path / "saved"), create_model_card=False)
    shutil.rmtree(tmp_path / "first")
    again = st.SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert np.array_equal(again.encode(TEXTS), want) and again[0].batch_tokens == 64


def test_what_an_encoder_cannot_do_is_refused():
    model = wrapped("st-bert-mean")
    with pytest.raises(ValueError, match="max_seq_length is 3, want"):
        model.max_seq_length = 3
    with pytest.raises(TypeError, match="an input is tuple, want str"):
        model[0].preprocess([("a", "b")])
    with pytest.raises(ValueError, match="has a vector for each token"):
        Encoder(PIPELINES / "colbert")
