"""Calls a server with OpenAI's client: python openai_client.py BASE_URL KEY. Fails with an exception."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)

models = [model.id for model in client.models.list()]
assert "tiny" in models, models
assert client.models.retrieve("tiny").id == "tiny"

messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
settings = dict(model="tiny", messages=messages, max_completion_tokens=20, seed=7, n=2, logprobs=True, top_logprobs=2)
whole = client.chat.completions.create(**settings)
assert whole.usage.completion_tokens <= 40 and whole.usage.prompt_tokens_details.cached_tokens == 0
assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2

pieces = {0: "", 1: ""}
usage = None
for chunk in client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        pieces[choice.index] += choice.delta.content or ""
assert pieces == {choice.index: choice.message.content for choice in whole.choices}, (pieces, whole)
assert usage.total_tokens == whole.usage.total_tokens

text = client.completions.create(model="tiny", prompt=["A", "B"], max_tokens=5, logprobs=1, echo=True)
assert len(text.choices) == 2 and text.choices[1].text.startswith("B")
assert len(text.choices[0].logprobs.tokens) >= 2

# The client asks for base64 by itself.
vectors = client.embeddings.create(model="st-bert-mean", input=["A text.", "Another."])
assert len(vectors.data) == 2 and isinstance(vectors.data[0].embedding[0], float)
as_floats = client.embeddings.create(model="st-bert-mean", input=["A text."], encoding_format="float")
assert max(abs(a - b) for a, b in zip(vectors.data[0].embedding, as_floats.data[0].embedding)) < 1e-6

try:
    client.chat.completions.create(model="tiny", messages=messages, temperature=9)
    raise SystemExit("a temperature of 9 was taken")
except openai.BadRequestError as error:
    assert error.param == "temperature" and error.code == "invalid_value", error.body
try:
    client.chat.completions.create(model="nobody", messages=messages)
    raise SystemExit("an unknown model was taken")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error.body
try:
    openai.OpenAI(base_url=sys.argv[1], api_key="wrong", max_retries=0).models.list()
    raise SystemExit("a wrong key was taken")
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key", error.body

# A stream that is left early.
stream = client.completions.create(model="tiny", prompt="x", max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
next(iter(stream))
stream.close()
print("ok")
