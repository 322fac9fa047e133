"""Models, sessions, encoders and search."""

from __future__ import annotations

import io
import json
import threading

import numpy as np
import pytest
from conftest import PIPELINES

import longreach
from longreach.search import Index


def test_a_stream_is_the_text(model):
    want = model.generate("Ownership is", 8, seed=3)
    assert "".join(model.stream("Ownership is", 8, seed=3)) == want
    assert model.generate(model.tokenize("Ownership is"), 8, seed=3) == want
    assert model.generate(io.StringIO("Ownership is"), 8, seed=3) == want
    cut = want[6:12]
    assert model.generate("Ownership is", 8, seed=3, stop=cut) == want[: want.index(cut)]


def test_a_stream_that_is_closed_ends(model):
    session = model.session()
    session.read("A trait is")
    stream = session.stream(200, ignore_eos=True)
    next(stream)
    before = session.tokens
    stream.close()
    assert session.tokens == before


def test_sessions_continue_to_the_bit(model, tmp_path):
    session = model.session()
    session.read("A trait is")
    session.write(3, seed=5)
    file = tmp_path / "state"
    session.save(file)
    again = [model.resume(file), model.from_bytes(session.to_bytes()), session.fork()]
    want = session.write(5)
    for one in again:
        assert one.write(5) == want and np.array_equal(one.logits, session.logits)
    with pytest.raises(ValueError, match="not a complete state file|header"):
        model.from_bytes(session.to_bytes()[:50])


def test_the_next_token_is_the_likeliest(model):
    session = model.session()
    session.read("A trait is")
    want = int(session.logits.argmax())
    assert session.next_token(temperature=0) == want


def test_logits_are_those_of_the_session_in_any_chunks(model):
    ids = model.tokenize("A trait is a set of methods that types share.")
    whole = model.logits(ids)
    assert whole.shape == (len(ids), model.vocabulary)
    assert np.allclose(model.logits(ids, chunk=3), whole, atol=1e-3)
    session = model.session()
    session.read(ids)
    assert np.allclose(session.logits, whole[-1], atol=1e-4)
    assert model.hidden(ids).shape[0] == len(ids)


def test_scores_are_those_of_the_logits(model):
    text = "A trait is a set of methods."
    ids = model.tokenize(text)
    logits = model.logits(ids).astype(np.float64)
    logs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
    want = logs[np.arange(len(ids) - 1), ids[1:]]
    score = model.score(text)
    assert score.tokens == len(ids) - 1 and np.allclose(score.per_token, want, atol=1e-4)
    assert score.perplexity == pytest.approx(np.exp(-want.mean()), rel=1e-4)
    assert [one.tokens for one in model.score([text, text])] == [score.tokens] * 2


def test_a_session_at_work_refuses_another_thread(model):
    session = model.session()
    session.read("A trait is")

    class Slow:
        def read(self, n):
            with pytest.raises(RuntimeError, match="at work in another thread"):
                session.read("more")
            self.read = lambda n: ""
            return "some text"

    session.read(Slow())


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        (lambda m: m.generate("x", 1, temperature=-1), ValueError, "temperature: want a number of at least 0, found -1"),
        (lambda m: m.generate("x", 1, heat=1), TypeError, "`heat` is no sampling option"),
        (lambda m: m.generate("", 1), ValueError, "empty"),
        (lambda m: m.logits([1, 10**6]), ValueError, "token id 1000000 is out of range"),
        (lambda m: m.session().logits, longreach.Error, "no token was read"),
        (lambda m: m.resume("/nowhere/state"), FileNotFoundError, "/nowhere/state"),
        (lambda m: longreach.load("/nowhere/model"), FileNotFoundError, "/nowhere/model"),
        (lambda m: longreach.load(dtype="int4"), ValueError, "`dtype` is int4, want one of float32, bfloat16, int8"),
    ],
)
def test_errors_name_what_is_wrong(model, call, error, part):
    with pytest.raises(error) as raised:
        call(model)
    assert part in str(raised.value)


@pytest.fixture(scope="module")
def encoder():
    return longreach.load(PIPELINES / "st-bert-mean")


def test_vectors_do_not_depend_on_the_batch(encoder):
    texts = ["one text", "another, longer text about something else", "a"]
    alone = np.stack([encoder.encode(text) for text in texts])
    assert alone.shape == (3, encoder.width)
    assert np.allclose(encoder.encode(texts), alone, atol=1e-5)
    assert np.allclose(encoder.encode(texts, batch_tokens=1), alone, atol=1e-5)
    unit = encoder.encode(texts, truncate_dim=2, normalize=True)
    assert unit.shape == (3, 2) and np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


def test_an_index_finds_what_was_put_in(encoder, tmp_path):
    texts = ["a first document", "something else entirely", "one more"]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text, "id": str(i)}) + "\n" for i, text in enumerate(texts)))
    index = Index.build(encoder, file, tmp_path / "index", fields=["id"])
    assert len(index) == 3
    hits = index.query(encoder, texts[1], k=3)
    order = encoder.similarity(encoder.encode_query(texts[1]), encoder.encode_document(texts))[0].argsort()[::-1]
    assert [hit.fields["id"] for hit in hits] == [str(i) for i in order]
    assert {hit.text for hit in hits} == set(texts)
    with pytest.raises(ValueError, match="exists|already"):
        Index.build(encoder, file, tmp_path / "index")


def test_encoders_rank_by_similarity(encoder):
    texts = ["a first document", "something else entirely", "one more"]
    ranked = encoder.rerank(texts[0], texts, top=2)
    scores = encoder.similarity(encoder.encode_query(texts[0]), encoder.encode_document(texts))[0]
    assert [one.index for one in ranked] == list(scores.argsort()[::-1][:2])


def test_two_sessions_run_in_two_threads(model):
    want = model.generate("A trait is", 4, seed=1)
    found = []
    threads = [threading.Thread(target=lambda: found.append(model.generate("A trait is", 4, seed=1))) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [want] * 3
