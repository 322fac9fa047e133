"""Makes the goldens of checkpoints whose matrices are packed integers: a small random llama in each of the forms.

    pip install torch==2.15.0 transformers==5.24.0 safetensors compressed-tensors==0.20.1
    pip install --no-deps auto-gptq==0.7.1 autoawq==0.2.6
    python packed.py

It writes the folders packed/NAME next to itself: config.json with its quantization_config, model.safetensors, and
expected.safetensors with

    input_ids          i64 [2, 30]         random tokens
    logits             f32 [2, 30, vocab]  of transformers' model in float32 whose matrices are those that the package of the form
                                           makes of the packed ones, in float32
    down_proj          f32 [64, 96]        the matrix of the first layer, so made

    gptq               4 bits, symmetric, groups of 32 (auto-gptq)
    gptq-order         the same with groups of columns in another order (`desc_act`)
    gptq-v2            asymmetric, zero points as they are (`checkpoint_format` is gptq_v2)
    gptq-8             8 bits, symmetric, one group
    awq                4 bits, asymmetric, groups of 32 (autoawq, gemm)
    ct-4               compressed-tensors, pack-quantized: 4 bits, symmetric, groups of 32, scales in bf16
    ct-4-asymmetric    4 bits, asymmetric, groups of 32
    ct-8               8 bits, symmetric, one scale a row
    ct-fp8             float-quantized: 8-bit floats, one scale a row
    fp8                8-bit floats as transformers' FineGrainedFP8 has them, a scale for each block of 48 x 40, unpacked by
                       `code · scale`
    ct-w8a8            int-quantized: 8 bits, one scale a row, activations quantised as they come

In all but ct-4 scales are f16 or f32 numbers that f16 represents. The packing and the unpacking are those of the packages. The
folder gptq-order has no GPTQ package that unpacks it without a GPU, so its matrices are unpacked by the formula
`scale[g_idx] (code − zero)` on codes that the package has packed. GPTQ's second format is the first one with one added to each
zero point, as its package converts.
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.torch
import torch
import transformers
import transformers.modeling_utils as old

# What the packages import from earlier versions of transformers, and do not use here.
for name in ["no_init_weights", "shard_checkpoint"]:
    setattr(old, name, None)

HERE = pathlib.Path(__file__).resolve().parent
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIG = {
    "vocab_size": 67, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}


def grid(weight, bits, group, symmetric):
    """Scales and zero points [out, groups] of a matrix; scales are numbers of f16."""
    parts = weight.reshape(weight.shape[0], -1, group)
    top = 2**bits - 1
    if symmetric:
        scale = parts.abs().amax(-1) * 2 / top
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        scale = (high - low) / top
        zero = torch.round(-low / scale)
    return scale.half().float(), zero


def clamped(weight, scale, zero, bits, groups_of):
    """The nearest numbers of the grid: the packages round, and do not clamp."""
    s, z = scale[:, groups_of], zero[:, groups_of]
    return (torch.round(weight / s + z).clamp(0, 2**bits - 1) - z) * s


def load(path):
    """A module of a package without what its `__init__` imports."""
    import importlib.util

    found = next(pathlib.Path(p, path) for p in sys.path if pathlib.Path(p, path).exists())
    spec = importlib.util.spec_from_file_location(found.stem, found)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bare(package):
    """A package without what its `__init__` imports."""
    import types

    path = package.replace(".", "/")
    module = types.ModuleType(package)
    module.__path__ = [str(pathlib.Path(p, path)) for p in sys.path if pathlib.Path(p, path).exists()]
    sys.modules.setdefault(package, module)


def gptq(weight, bits, group, symmetric, order=False, v2=False):
    out, width = weight.shape
    group = width if group == -1 else group
    scale, zero = grid(weight, bits, group, symmetric)
    groups_of = torch.arange(width) // group
    if order:
        groups_of = groups_of[torch.randperm(width)]
    weight = clamped(weight, scale, zero, bits, groups_of)
    linear = torch.nn.Linear(width, out, bias=False)
    linear.weight.data = weight
    if order:
        module = load("auto_gptq/nn_modules/qlinear/qlinear_cuda.py").QuantLinear(bits, group, width, out, False)
        module.pack(linear, scale, zero.clone(), groups_of.int())
        read = weight
    else:
        module = load("auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py").QuantLinear(bits, group, width, out, False)
        module.pack(linear, scale, zero.clone(), None)
        module.scales = module.scales.float()
        read = module(torch.eye(width)).T
        assert (read - weight).abs().max() < 1e-6
    tensors = {"qweight": module.qweight, "qzeros": module.qzeros, "scales": module.scales.half(), "g_idx": groups_of.int()}
    if v2:
        tensors["qzeros"] = tensors["qzeros"] + sum(1 << (bits * i) for i in range(32 // bits))
    return tensors, read


def awq(weight, group):
    for package in ["awq", "awq.modules", "awq.modules.linear"]:
        bare(package)
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    out, width = weight.shape
    scale, zero = grid(weight, 4, group, False)
    linear = torch.nn.Linear(width, out, bias=False)
    linear.weight.data = clamped(weight, scale, zero, 4, torch.arange(width) // group)
    module = WQLinear_GEMM.from_linear(linear, 4, group, False, scale.T.contiguous(), zero.T.contiguous())
    read = dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), 4, group).T
    assert (read - linear.weight).abs().max() < 1e-6
    return {"qweight": module.qweight, "qzeros": module.qzeros, "scales": module.scales}, read


def compressed(weight, compressor, arguments, bits, group, symmetric, dtype):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scale, zero = grid(weight, bits, group if group > 0 else weight.shape[1], symmetric)
    scale = scale.to(dtype)
    state = {"weight": weight, "weight_scale": scale.float()}
    if not symmetric:
        state["weight_zero_point"] = (zero - 2 ** (bits - 1)).to(torch.int8)
    packed = compressor.compress(state, scheme)
    read = compressor.decompress(dict(packed), scheme)["weight"].float()
    packed["weight_scale"] = scale
    return packed, read


def fp8(weight, rows, columns):
    out, width = weight.shape
    scale = torch.zeros(-(-out // rows), -(-width // columns))
    codes, read = torch.zeros(out, width, dtype=torch.float8_e4m3fn), torch.zeros(out, width)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            block = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
            scale[i, j] = weight[block].abs().max() / 448
            codes[block] = (weight[block] / scale[i, j]).to(torch.float8_e4m3fn)
            read[block] = codes[block].float() * scale[i, j]
    return {"weight": codes, "weight_scale_inv": scale}, read


def of_compressed_floats(weight):
    from compressed_tensors.compressors.naive_quantized import FloatQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="channel")
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scale = weight.abs().amax(1, keepdim=True) / 448
    packed = FloatQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    read = FloatQuantizationCompressor.decompress(dict(packed), scheme)["weight"].float()
    return packed, read


def of_compressed(form):
    from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor

    if form == "fp8":
        return of_compressed_floats
    if form == "w8a8":
        return lambda w: compressed(w, IntQuantizationCompressor, {"strategy": "channel"}, 8, -1, True, torch.float32)
    if form == "8":
        return lambda w: compressed(w, PackedQuantizationCompressor, {"strategy": "channel"}, 8, -1, True, torch.float16)
    args, symmetric = {"strategy": "group", "group_size": 32}, form == "4"
    dtype = torch.bfloat16 if symmetric else torch.float32
    return lambda w: compressed(w, PackedQuantizationCompressor, args, 4, 32, symmetric, dtype)


def config_of_compressed(form):
    weights = {"num_bits": 4 if form.startswith("4") else 8, "type": "int", "symmetric": form != "4-asymmetric", "dynamic": False}
    weights |= {"type": "float"} if form == "fp8" else {}
    weights |= {"strategy": "group", "group_size": 32} if form.startswith("4") else {"strategy": "channel", "group_size": None}
    activations = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"} if form == "w8a8" else None
    return {
        "quant_method": "compressed-tensors", "format": {"w8a8": "int-quantized", "fp8": "float-quantized"}.get(form, "pack-quantized"),
        "quantization_status": "compressed", "ignore": ["lm_head"], "kv_cache_scheme": None,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}},
    }


def of_gptq(bits, group, desc_act, sym, form):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": desc_act, "sym": sym, "checkpoint_format": form}


FORMS = {
    "gptq": (of_gptq(4, 32, False, True, "gptq"), lambda w: gptq(w, 4, 32, True)),
    "gptq-order": (of_gptq(4, 32, True, True, "gptq"), lambda w: gptq(w, 4, 32, True, order=True)),
    "gptq-v2": (of_gptq(4, 32, False, False, "gptq_v2"), lambda w: gptq(w, 4, 32, False, v2=True)),
    "gptq-8": (of_gptq(8, -1, False, True, "gptq"), lambda w: gptq(w, 8, -1, True)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}, lambda w: awq(w, 32)),
    **{f"ct-{form}": (config_of_compressed(form), None) for form in ["4", "4-asymmetric", "8", "w8a8", "fp8"]},
    "fp8": ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [48, 40]}, lambda w: fp8(w, 48, 40)),
}


@torch.no_grad()
def make(name):
    quantization, pack = FORMS[name]
    pack = pack or of_compressed(name.removeprefix("ct-"))
    torch.manual_seed(sum(name.encode()))
    config = transformers.LlamaConfig(**CONFIG)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager").float().eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.15 if parameter.dim() == 2 else 0.1) + (parameter.dim() == 1))
    tensors, first = {}, None
    for key, value in model.state_dict().items():
        layer = key.removesuffix(".weight")
        if layer.split(".")[-1] not in LINEAR:
            tensors[key] = value.half() if "norm" not in key else value
            value.copy_(tensors[key].float())
            continue
        packed, read = pack(value.clone())
        value.copy_(read)
        tensors |= {f"{layer}.{part}": tensor.contiguous() for part, tensor in packed.items()}
        first = read if first is None and "down_proj" in key else first
    ids = torch.randint(1, CONFIG["vocab_size"], (2, 30))
    expected = {"input_ids": ids, "logits": model(ids).logits, "down_proj": first.contiguous()}
    folder = HERE / "packed" / name
    folder.mkdir(parents=True, exist_ok=True)
    fields = json.loads(config.to_json_string(use_diff=False))
    keep = [*CONFIG, "model_type", "architectures", "rms_norm_eps", "rope_parameters", "hidden_act", "tie_word_embeddings", "head_dim"]
    fields = {key: fields[key] for key in keep if key in fields} | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    safetensors.torch.save_file(expected, folder / "expected.safetensors")
    print(name, {key: (tuple(value.shape), str(value.dtype)) for key, value in tensors.items() if "layers.0.mlp.down" in key})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FORMS:
        make(name)
