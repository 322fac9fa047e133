"""Hugging Face transformers on this CPU: prefill and decoding of Mamba and Mamba-2 at the 130M size, random weights.

pip install torch==2.13.0 transformers==5.23.0 numpy
python decoders.py --save DIR          writes the checkpoints, f32
python decoders.py [--tokens 1024]     prints tokens a second, each the median of several runs
"""
import argparse
import statistics
import time

import torch
import transformers
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--save")
parser.add_argument("--tokens", type=int, default=1024)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

transformers.logging.set_verbosity_error()
torch.set_num_threads(args.threads)
torch.manual_seed(0)

MODELS = {
    "mamba-130m": lambda: MambaForCausalLM(MambaConfig(vocab_size=50280, hidden_size=768, num_hidden_layers=24)),
    "mamba2-130m": lambda: Mamba2ForCausalLM(Mamba2Config(
        vocab_size=50288, hidden_size=768, num_hidden_layers=24, num_heads=24, head_dim=64,
        n_groups=1, state_size=128, expand=2)),
}


def median(f):
    f()
    times = []
    for _ in range(args.runs):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


for name, make in MODELS.items():
    model = make().eval()
    if args.save:
        model.save_pretrained(f"{args.save}/{name}")
        continue
    ids = torch.randint(0, model.config.vocab_size, (1, args.tokens))
    with torch.inference_mode():
        prefill = median(lambda: model(ids))
        decode = median(lambda: model.generate(ids[:, :16], max_new_tokens=64, do_sample=False, eos_token_id=None))
    print(f"{name} f32: prefill {args.tokens / prefill:.1f} tok/s, decode {64 / decode:.1f} tok/s", flush=True)
