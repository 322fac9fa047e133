"""Loads the output of `longreach sparsify` with transformers, and compares the outputs of both.

    pip install torch transformers==5.23.0 safetensors
    python sparsified.py PATH_TO_LONGREACH

For golden encoders of BERT and RoBERTa with every head, made a Longformer and a BigBird: transformers must find all its weights in the file, with none left
over, and hidden states and scores must agree to 1e-4 on a text longer than the original could read. It prints a line a model and fails if one does not agree.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent / "encoders"
LONGREACH = sys.argv[1]
transformers.logging.set_verbosity_error()
torch.manual_seed(0)

for kind in ("bert", "roberta"):
    for head in ("base", "masked-lm", "sequence", "token", "question"):
        for target, more in (("longformer", ["--window", "16"]), ("bigbird", ["--block", "16", "--random-blocks", "1"])):
            with tempfile.TemporaryDirectory() as folder:
                to = pathlib.Path(folder) / "sparse"
                source = HERE / f"{kind}-{head}-a"
                command = [LONGREACH, "sparsify", "-m", source, "--attention", target, "--max-length", "160", "-o", to, *more]
                subprocess.run(command, check=True, capture_output=True)
                name = json.loads((to / "config.json").read_text())["architectures"][0]
                model, about = getattr(transformers, name).from_pretrained(to, output_loading_info=True)
                missing = [key for key in about["missing_keys"] if "pooler" not in key and "lm_head.decoder" not in key]
                left = [key for key in about["unexpected_keys"] if "pooler" not in key]
                assert not missing and not left, (name, missing, left)
                ids = torch.randint(8, 45, (1, 150))
                tokens, out = pathlib.Path(folder) / "tokens.json", pathlib.Path(folder) / "out.safetensors"
                inputs, given = {"input_ids": ids}, {"input_ids": ids.tolist()}
                if target == "longformer":
                    mask = torch.zeros_like(ids)
                    mask[:, 0] = 1
                    inputs["global_attention_mask"], given["global_attention_mask"] = mask, mask.tolist()
                if name == "BigBirdForQuestionAnswering":
                    continue
                tokens.write_text(json.dumps(given))
                subprocess.run([LONGREACH, "forward", "-m", to, "--tokens", tokens, "--out", out], check=True)
                got = load_file(out)
                with torch.inference_mode():
                    want = model.eval()(**inputs, output_hidden_states=True)
                pairs = {"last_hidden_state": want.hidden_states[-1][:, : ids.shape[1]]}
                pairs |= {key: want[key] for key in ("logits", "start_logits", "end_logits") if key in want}
                worst = max((got[key] - value).abs().max().item() for key, value in pairs.items())
                print(f"{kind}-{head} as {name}: {worst:.1e} over {', '.join(pairs)}")
                assert worst < 1e-4
