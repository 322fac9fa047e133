"""OpenAI's own client for Python against the server: python client.py LONGREACH. Fails with an exception."""

import base64
import contextlib
import io
import pathlib
import re
import subprocess
import sys

import openai

ROOT = pathlib.Path(__file__).resolve().parents[4]
MODELS = ["--model", ROOT / "models/default", "--model", ROOT / "crates/engine/tests/goldens/st-bert-mean"]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@contextlib.contextmanager
def serving(*arguments):
    """A server, as its address; it ends with the block."""
    command = [sys.argv[1], "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = next(found[1] for line in server.stderr if (found := re.search(r"listening on (http://\S+)", line)))
            yield address
        finally:
            server.terminate()
    assert server.returncode == 0, server.returncode


@contextlib.contextmanager
def raises(kind, code, param=None):
    """The block fails with this exception of the client."""
    try:
        yield
    except kind as error:
        assert (error.code, error.param) == (code, param), error.body
        assert error.request_id, "an error has the id of its request"
    else:
        raise AssertionError(f"no {kind.__name__}")


def documents():
    """The lines of the README and of docs/server.md, as they are written."""
    with serving() as address:
        for page in ["README.md", "docs/server.md"]:
            text = (ROOT / page).read_text()
            lines = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "openai" in block)
            assert "http://127.0.0.1:8080" in lines, page
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(lines.replace("http://127.0.0.1:8080", address), {})
            assert said.getvalue().strip(), page


def models(client):
    assert [model.id for model in client.models.list()] == ["default", "st-bert-mean"]
    assert client.models.retrieve("default").owned_by == "longreach"
    with raises(openai.NotFoundError, "model_not_found", "model"):
        client.models.retrieve("nobody")


def chat(client):
    settings = dict(model="default", messages=MESSAGES, max_completion_tokens=20, seed=7, n=2, logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**settings)
    assert whole.usage.completion_tokens <= 40 and whole.usage.prompt_tokens_details.cached_tokens == 0
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2 and whole._request_id
    again = client.chat.completions.create(**settings)
    assert [c.message.content for c in again.choices] == [c.message.content for c in whole.choices]

    pieces, usage = {0: "", 1: ""}, None
    for chunk in client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == {choice.index: choice.message.content for choice in whole.choices}, (pieces, whole)
    assert usage.total_tokens == whole.usage.total_tokens

    # The helper for streams, which checks the order of their events.
    with client.chat.completions.stream(model="default", messages=MESSAGES, max_completion_tokens=400, stop=["e"], seed=7) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].finish_reason == "stop"
    assert "content.delta" in kinds and "content.done" in kinds, kinds


def completions(client):
    text = client.completions.create(model="default", prompt=["A", "B"], max_tokens=5, logprobs=1, echo=True)
    assert len(text.choices) == 2 and text.choices[1].text.startswith("B")
    assert len(text.choices[0].logprobs.tokens) >= 2
    raw = client.completions.with_raw_response.create(model="default", prompt="x", max_tokens=1, user="somebody")
    assert raw.headers["x-ignored-parameters"] == "user" and raw.parse().usage.completion_tokens == 1
    # A stream that is left early.
    stream = client.completions.create(model="default", prompt="x", max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()


def embeddings(client):
    # The client asks for base64 by itself.
    vectors = client.embeddings.create(model="st-bert-mean", input=["A text.", "Another."])
    assert len(vectors.data) == 2 and isinstance(vectors.data[0].embedding[0], float)
    floats = client.embeddings.create(model="st-bert-mean", input=["A text."], encoding_format="float").data[0].embedding
    assert max(abs(a - b) for a, b in zip(vectors.data[0].embedding, floats, strict=True)) < 1e-6
    coded = client.embeddings.create(model="st-bert-mean", input="A text.", encoding_format="base64").data[0].embedding
    assert isinstance(coded, list) or len(base64.b64decode(coded)) == 4 * len(floats)


def errors(client, address):
    with raises(openai.BadRequestError, "invalid_value", "temperature"):
        client.chat.completions.create(model="default", messages=MESSAGES, temperature=9)
    with raises(openai.BadRequestError, "unknown_parameter", "colour"):
        client.chat.completions.create(model="default", messages=MESSAGES, extra_body={"colour": "blue"})
    with raises(openai.BadRequestError, "unsupported_content", "messages[0].content[0]"):
        image = {"type": "image_url", "image_url": {"url": "data:,"}}
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": [image]}])
    with raises(openai.BadRequestError, "model_not_for_task", "model"):
        client.embeddings.create(model="default", input="x")
    with raises(openai.NotFoundError, "model_not_found", "model"):
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    with raises(openai.AuthenticationError, "invalid_api_key"):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()


documents()
with serving("--api-key", "secret", *MODELS) as address:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0, timeout=120)
    for check in [models, chat, completions, embeddings]:
        check(client)
    errors(client, address)
print(f"openai {openai.__version__} for Python: 6 passed, 0 failed")
