"""Writes the weights of mamba-a in PyTorch's format: in shards with an index, and within a training checkpoint with optimizer state.

    pip install torch==2.15.0 safetensors
    python pickled.py

Writes next to this file mamba-a-pickled/ with config.json, pytorch_model-0000?-of-00002.bin and pytorch_model.bin.index.json, and training.pt, whose key
`model_state_dict` holds the same weights under names that begin with `module.`.
"""

import json
import pathlib
import shutil

import safetensors.torch
import torch

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "mamba-a-pickled"

shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir()
shutil.copy(HERE / "mamba-a" / "config.json", OUT)
weights = safetensors.torch.load_file(HERE / "mamba-a" / "model.safetensors")
names = sorted(weights)
half = len(names) // 2
files = {}
for i, part in enumerate([names[:half], names[half:]]):
    file = f"pytorch_model-0000{i + 1}-of-00002.bin"
    torch.save({name: weights[name] for name in part}, OUT / file)
    files.update({name: file for name in part})
index = {"metadata": {"total_size": sum(w.numel() * 4 for w in weights.values())}, "weight_map": files}
(OUT / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")
training = {
    "epoch": 3,
    "model_state_dict": {f"module.{name}": weight for name, weight in weights.items()},
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(4), "step": 7}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
}
torch.save(training, OUT / "training.pt")
