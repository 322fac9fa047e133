"""Makes the goldens of the models: small random checkpoints of `mamba`, `mamba2` and `falcon_mamba` and their outputs.

    pip install torch==2.13.0 transformers==5.23.0 safetensors
    python make.py

It writes next to itself, for each model type, the folders TYPE-a and TYPE-b, whose configurations differ in every field but
the activation:
config.json, generation_config.json and model.safetensors as `save_pretrained` writes them, and expected.safetensors with

    input_ids          i64 [2, 45]         random tokens
    logits             f32 [2, 45, vocab]  for those tokens
    last_hidden_state  f32 [2, 45, hidden] what the base model returns: the residual stream after the final norm
    padded_ids         i64 [2, 20]         the second row begins with seven tokens of padding
    attention_mask     i64 [2, 20]         zero there
    padded_logits      f32 [2, 20, vocab]  for those, at every position, padding too
    prompt             i64 [1, 12]
    greedy             i64 [64]            the tokens that follow it, each from a forward pass over all before it
    greedy_cached      i64 [64]            only in mamba2-b: the same with transformers' cache, see below

    mamba-a-sharded    mamba-a in several shards with an index, nothing else
    mamba2-a-bf16      mamba2-a with its weights rounded to bf16; expected.safetensors is what a model of float32 computes
                       from the rounded weights

Everything is computed in float32 on one thread of a CPU, in evaluation mode, on the path without kernels. Parameters are
random around their usual values, norms, biases, `D`, `dt_bias` and `A_log` too, and the script checks that each of them
matters, that the logits spread, and that no greedy token is a close call.

transformers limits the step of mamba2 (`time_step_limit`) in a pass over many tokens, not in a pass over one token with a
cache. Where the limit is finite the two disagree, hence `greedy_cached`.

`from_pretrained` divides each out_proj that it has loaded by the square root of the number of layers if the configuration
says `rescale_prenorm_residual`, which is about initialising. The goldens are of the weights as they are in the file, so the
script loads them by itself; for the folders -b, where the field is true, `from_pretrained` would compute something else.

Made with torch 2.13.0 and transformers 5.23.0.
"""

import copy
import json
import math
import pathlib
import shutil

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
MAX_GREEDY, MIN_GAP = 64, 2e-3

# Fields that affect only the initialisation or the choice of a code path: a and b differ in these, too.
QUIET_B = {
    "initializer_range": 0.2, "rescale_prenorm_residual": True, "residual_in_fp32": False, "use_cache": False,
    "time_step_min": 0.002, "time_step_max": 0.2, "time_step_floor": 1e-3,
}  # fmt: skip
QUIET_B_MAMBA = QUIET_B | {"time_step_scale": 2.0, "time_step_init_scheme": "constant", "use_associative_scan": False}
TOKENS_A = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
TOKENS_B = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}

# NAME: (configuration, model, seed, fields)
MODELS = {
    "mamba-a": (transformers.MambaConfig, transformers.MambaForCausalLM, 1, TOKENS_A | {
        "vocab_size": 97, "hidden_size": 40, "num_hidden_layers": 3, "expand": 2, "state_size": 16, "conv_kernel": 4,
        "time_step_rank": "auto", "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True,
        "tie_word_embeddings": True, "use_mambapy": False,
    }),
    "mamba-b": (transformers.MambaConfig, transformers.MambaForCausalLM, 1, TOKENS_B | QUIET_B_MAMBA | {
        "vocab_size": 113, "hidden_size": 36, "num_hidden_layers": 2, "expand": 3, "state_size": 5, "conv_kernel": 3,
        "time_step_rank": 6, "layer_norm_epsilon": 2e-2, "use_bias": True, "use_conv_bias": False,
        "tie_word_embeddings": False, "use_mambapy": True,
    }),
    "mamba2-a": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM, 1, TOKENS_A | {
        "vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3, "expand": 2, "num_heads": 8, "head_dim": 8,
        "n_groups": 1, "state_size": 16, "conv_kernel": 4, "chunk_size": 16, "time_step_limit": [0.0, math.inf],
        "time_step_rank": "auto", "layer_norm_epsilon": 1e-5, "use_bias": True, "use_conv_bias": True,
        "tie_word_embeddings": False,
    }),
    "mamba2-b": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM, 10, TOKENS_B | QUIET_B | {
        "vocab_size": 127, "hidden_size": 40, "num_hidden_layers": 2, "expand": 3, "num_heads": 6, "head_dim": 20,
        "n_groups": 2, "state_size": 12, "conv_kernel": 3, "chunk_size": 10, "time_step_limit": [0.02, 0.3],
        "time_step_rank": 5, "layer_norm_epsilon": 2e-2, "use_bias": False, "use_conv_bias": False,
        "tie_word_embeddings": True,
    }),
    "falcon_mamba-a": (transformers.FalconMambaConfig, transformers.FalconMambaForCausalLM, 2, TOKENS_A | {
        "vocab_size": 103, "hidden_size": 40, "num_hidden_layers": 3, "expand": 2, "state_size": 16, "conv_kernel": 4,
        "time_step_rank": "auto", "layer_norm_epsilon": 1e-5, "mixer_rms_eps": 1e-6, "use_bias": False,
        "use_conv_bias": True, "tie_word_embeddings": False,
    }),
    "falcon_mamba-b": (transformers.FalconMambaConfig, transformers.FalconMambaForCausalLM, 5, TOKENS_B | QUIET_B_MAMBA | {
        "vocab_size": 109, "hidden_size": 36, "num_hidden_layers": 2, "expand": 3, "state_size": 7, "conv_kernel": 3,
        "time_step_rank": 6, "layer_norm_epsilon": 2e-2, "mixer_rms_eps": 5e-2, "use_bias": True,
        "use_conv_bias": False, "tie_word_embeddings": True, "use_falcon_mambapy": True,
    }),
}  # fmt: skip


def value(name, like, tied, generator):
    """A random value of a parameter, close to its usual value in a trained model."""
    r = torch.randn(like.shape, generator=generator)
    part = name.split(".")
    if name.endswith("A_log"):
        return torch.log(torch.arange(1.0, like.shape[-1] + 1)) + 0.3 * r
    if name.endswith("dt_bias") or name.endswith("dt_proj.bias"):
        step = torch.exp(math.log(0.005) + math.log(300.0) * torch.rand(like.shape, generator=generator))
        return step + torch.log(-torch.expm1(-step))
    if name.endswith(".D") or part[-2] in ("norm", "norm_f"):
        return 1.0 + 0.3 * r
    if part[-1] == "bias":
        return 0.3 * r
    if part[-2] == "conv1d":
        return r * like.shape[-1] ** -0.5
    if part[-2] == "embeddings":
        return r * (1.7 * like.shape[-1] ** -0.5 if tied else 0.7)
    gain = {"in_proj": 1.2, "x_proj": 1.0, "dt_proj": 1.0, "out_proj": 1.5, "lm_head": 2.0}[part[-2]]
    return r * gain * like.shape[-1] ** -0.5


def build(name):
    """The model, with parameters drawn from its seed."""
    config_class, model_class, seed, fields = MODELS[name]
    config = config_class(**fields)
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(value(key, parameter, config.tie_word_embeddings, generator))
    return model


def greedy(model, prompt, use_cache):
    """The tokens that `generate` appends to the prompt, and the smallest margin between the two best logits."""
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id = None
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=MAX_GREEDY, use_cache=use_cache,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    tokens = out.sequences[0, prompt.shape[1] :]
    best = torch.stack(out.logits)[:, 0].topk(2).values
    assert tokens.shape == (MAX_GREEDY,)
    return tokens, (best[:, 0] - best[:, 1]).min().item()


def expect(name, model, seed):
    """The tensors of expected.safetensors."""
    config = model.config
    generator = torch.Generator().manual_seed(seed + 1000)

    def ids(*shape):
        return torch.randint(4, config.vocab_size, shape, generator=generator)

    e = {"input_ids": ids(2, 45), "padded_ids": ids(2, 20), "prompt": ids(1, 12)}
    e["attention_mask"] = torch.ones_like(e["padded_ids"])
    e["attention_mask"][1, :7] = 0
    e["padded_ids"][1, :7] = config.pad_token_id
    e["logits"] = model(e["input_ids"], use_cache=False).logits
    e["last_hidden_state"] = model.backbone(e["input_ids"], use_cache=False).last_hidden_state
    e["padded_logits"] = model(e["padded_ids"], attention_mask=e["attention_mask"], use_cache=False).logits
    e["greedy"], gap = greedy(model, e["prompt"], False)
    cached, cached_gap = greedy(model, e["prompt"], True)
    if getattr(config, "time_step_limit", [0.0, math.inf])[1] < math.inf:
        e["greedy_cached"] = cached
    assert e["greedy"].equal(cached) != ("greedy_cached" in e), f"{name}: the cache"
    assert gap > MIN_GAP and cached_gap > MIN_GAP, f"{name}: a close call, {gap} {cached_gap}"
    for tokens in (e["greedy"], cached):
        assert len(set(tokens.tolist())) > 20, f"{name}: it repeats itself"
        assert config.eos_token_id not in tokens, f"{name}: it ends"
    spread = e["logits"].std().item()
    assert 1.0 < spread < 3.0, f"{name}: the spread of the logits is {spread}"
    return e


def prove(name, model, e):
    """Checks that each parameter matters: without it the logits differ."""
    for key, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        # For a norm or a D, remove the noise; for any other parameter, the value.
        parameter.data.fill_(1.0 if key.endswith((".D", "norm.weight", "norm_f.weight")) else 0.0)
        change = (model(e["input_ids"], use_cache=False).logits - e["logits"]).abs().max().item()
        parameter.data.copy_(kept)
        assert change > 0.05, f"{name}: {key} changes the logits by {change}"


def save(path, tensors, metadata):
    """Saves as safetensors does, but with ordered metadata, so that the bytes are reproducible."""
    data = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def fresh(name):
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    return path


def load(path, model_class):
    """The model of a folder with the weights of its file, in float32."""
    model = model_class(model_class.config_class.from_pretrained(path)).eval()
    tensors = {key: x.float() for key, x in safetensors.torch.load_file(path / "model.safetensors").items()}
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"]
    model.load_state_dict(tensors)
    return model


def make(name, source):
    """Saves the model, loads it again in float32, and saves its outputs."""
    path = fresh(name)
    source.save_pretrained(path)
    seed = MODELS[name.removesuffix("-bf16")][2]
    model = load(path, type(source))
    e = expect(name, model, seed)
    prove(name, model, e)
    metadata = {"made_by": "make.py", "torch": torch.__version__.split("+")[0], "seed": str(seed)}
    save(path / "expected.safetensors", e, metadata | {"transformers": transformers.__version__})


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in MODELS:
        make(name, build(name))
    build("mamba-a").save_pretrained(fresh("mamba-a-sharded"), max_shard_size="60KB")
    make("mamba2-a-bf16", build("mamba2-a").to(torch.bfloat16))


if __name__ == "__main__":
    main()
