"""Makes the goldens of transformers' `rwkv`: small random checkpoints and their outputs.

    pip install torch==2.13.0 transformers==5.23.0 safetensors
    python rwkv.py

It writes next to itself the folders rwkv-a and rwkv-b, whose configurations differ in every field: config.json,
generation_config.json and model.safetensors as `save_pretrained` writes them, and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] what the base model returns: the residual stream after the final norm
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it

Everything is computed in float64 from the weights in float32, without a state, on one thread of a CPU, in evaluation mode.
(Where attention_hidden_size is not hidden_size, transformers cannot compute with a state.) The recurrence itself transformers
rounds to float32.

In evaluation the model divides, in place, `attention.output` and `feed_forward.value` of block i by 2^(i // rescale_every),
and it halves the residual stream after each rescale_every blocks. The files have the weights as they are before that. Apart
from the ε of the norms, which then weighs 4 times as much per halving, that changes nothing; rwkv-b has more blocks than
rescale_every and an ε large enough to tell. The norm in the end has an ε of 1e-5 whatever the configuration says.

Parameters are random around their usual values, norms and biases too, and the script checks that each of them matters, as do
the ε and the rescaling, that the logits spread, and that no greedy token is a close call.

Made with torch 2.13.0 and transformers 5.23.0.
"""

import json
import math
import pathlib
import shutil
import sys

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MAX_GREEDY, MIN_GAP = 64, 2e-3

# NAME: (seed, fields)
MODELS = {
    "rwkv-a": (8, {
        "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": None, "intermediate_size": None,
        "layer_norm_epsilon": 1e-5, "rescale_every": 6, "context_length": 1024, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "use_cache": True,
    }),
    "rwkv-b": (4, {
        "vocab_size": 109, "hidden_size": 36, "num_hidden_layers": 3, "attention_hidden_size": 28, "intermediate_size": 44,
        "layer_norm_epsilon": 0.1, "rescale_every": 2, "context_length": 64, "tie_word_embeddings": True,
        "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1, "use_cache": False,
    }),
}  # fmt: skip


def value(name, like, tied, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r, u = torch.randn(like.shape, generator=generator), torch.rand(like.shape, generator=generator)
    part = name.split(".")
    if part[-2] in ("pre_ln", "ln1", "ln2", "ln_out"):
        return 1 + 0.3 * r if part[-1] == "weight" else (0.1 if part[-2] == "ln_out" else 0.3) * r
    if part[-1].startswith("time_mix"):
        return u
    if part[-1] == "time_decay":
        return 3 * u - 4
    if part[-1] == "time_first":
        return 0.7 * r
    if part[-2] == "embeddings":
        return r * (1.7 * like.shape[-1] ** -0.5 if tied else 0.7)
    gain = {"key": 1.5, "value": 3.5, "receptance": 2.2, "output": 5.0, "head": 2.0}[part[-2]]
    return r * gain * (2 if part[-3:-1] == ["attention", "key"] else 1) * like.shape[-1] ** -0.5


def build(name, seed=None):
    """The model, with parameters drawn from its seed."""
    model = transformers.RwkvForCausalLM(transformers.RwkvConfig(**MODELS[name][1]))
    generator = torch.Generator().manual_seed(MODELS[name][0] if seed is None else seed)
    for key, parameter in model.named_parameters():
        parameter.data.copy_(value(key, parameter, model.config.tie_word_embeddings, generator))
    return model


def evaluate(config, tensors, ids):
    """The outputs of a model with these weights as they are in the file."""
    model = transformers.RwkvForCausalLM(config).double()
    if config.tie_word_embeddings:
        tensors = tensors | {"head.weight": tensors["rwkv.embeddings.weight"]}
    model.load_state_dict(tensors)
    model.eval()
    hidden = model.rwkv(ids, use_cache=False).last_hidden_state
    return hidden, model.head(hidden)


def expect(config, tensors, seed):
    """The tensors of expected.safetensors, and the smallest margin between the two best logits."""
    generator = torch.Generator().manual_seed(seed + 1000)
    e = {"input_ids": torch.randint(4, config.vocab_size, (2, 45), generator=generator)}
    e["prompt"] = torch.randint(4, config.vocab_size, (1, 12), generator=generator)
    e["last_hidden_state"], e["logits"] = (x.float() for x in evaluate(config, tensors, e["input_ids"]))
    ids, gap = e["prompt"], math.inf
    for _ in range(MAX_GREEDY):
        best = evaluate(config, tensors, ids)[1][0, -1].topk(2)
        ids, gap = torch.cat([ids, best.indices[None, :1]], 1), min(gap, (best.values[0] - best.values[1]).item())
    e["greedy"] = ids[0, e["prompt"].shape[1] :]
    return e, gap


def prove(name, config, tensors, e, gap):
    """Checks that no choice is a close call and that all parameters and fields matter."""
    assert gap > MIN_GAP, f"{name}: a close call, {gap}"
    assert len(set(e["greedy"].tolist())) > 12, f"{name}: it repeats itself"
    assert config.eos_token_id not in e["greedy"], f"{name}: it ends"
    assert 1.0 < e["logits"].std() < 3.0, f"{name}: the spread of the logits is {e['logits'].std()}"

    def change(tensors, **fields):
        other = transformers.RwkvConfig(**MODELS[name][1] | fields)
        return (evaluate(other, tensors, e["input_ids"])[1] - e["logits"]).abs().max().item()

    for key, x in tensors.items():
        # For a norm, remove the noise; for any other parameter, the value.
        norm = key.endswith("weight") and "ln" in key.split(".")[-2]
        assert (d := change(tensors | {key: torch.full_like(x, float(norm))})) > 0.05, f"{name}: {key} changes the logits by {d}"
    if config.layer_norm_epsilon > 1e-4:
        for fields in ({"layer_norm_epsilon": 1e-5}, {"rescale_every": 0}, {"rescale_every": 1}):
            assert (d := change(tensors, **fields)) > 0.01, f"{name}: {fields} changes the logits by {d}"


def save(path, tensors, metadata):
    """Saves as safetensors does, but with ordered metadata, so that the bytes are reproducible."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def make(name):
    """Saves the model, loads it again, and saves its outputs."""
    path, (seed, _) = HERE / name, MODELS[name]
    shutil.rmtree(path, ignore_errors=True)
    build(name).save_pretrained(path)
    config = transformers.RwkvConfig.from_pretrained(path)
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    e, gap = expect(config, tensors, seed)
    prove(name, config, tensors, e, gap)
    metadata = {"made_by": "rwkv.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata | {"transformers": transformers.__version__})


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in sys.argv[1:] or MODELS:
        make(name)


if __name__ == "__main__":
    main()
