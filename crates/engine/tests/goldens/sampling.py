"""Makes sampling.json: the probabilities that logits have after the processors of transformers.

    pip install torch transformers
    python sampling.py

Each case has the options that are set; the processors are made and ordered by transformers from a generation config with
these options. Presence and frequency penalties, which transformers lacks, follow the formula of OpenAI's API reference
and come after the repetition penalty. The tokens of `prompt` were read and those of `written` generated.

Made with torch 2.15 and transformers 5.24.0.
"""

import json
import pathlib
import random

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.utils import GenerationMixin

HERE = pathlib.Path(__file__).resolve().parent

SIZE = 48
PROMPT = [3, 17, 17, 30, 5]
WRITTEN = [8, 8, 8, 21, 5, 40]

OPTIONS = [
    {},
    {"temperature": 0.4},
    {"temperature": 1.7},
    {"top_k": 7},
    {"top_p": 0.8},
    {"top_p": 0.3},
    {"min_p": 0.1},
    {"typical_p": 0.9},
    {"typical_p": 0.5},
    {"typical_p": 0.2},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7},
    {"presence_penalty": -0.5, "frequency_penalty": 0.4},
    {"bias": [[8, 2.5], [11, -4.0]]},
    {"suppress": [8, 0, 47]},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.4, "top_p": 0.95, "typical_p": 0.7},
    {"temperature": 0.9, "top_k": 12, "typical_p": 0.6, "repetition_penalty": 1.2},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1, "presence_penalty": 0.6, "frequency_penalty": 0.3,
     "bias": [[21, 3.0], [3, 1.0]], "suppress": [1, 2, 8]},
    {"min_p": 0.02, "typical_p": 0.95, "bias": [[30, -1.0]], "suppress": [17], "temperature": 1.2},
]


def processors(options):
    """The processors of transformers in its order, by the class that it makes them with."""
    config = GenerationConfig(
        do_sample=True,
        temperature=options.get("temperature", 1.0),
        top_k=options.get("top_k", 0),
        top_p=options.get("top_p", 1.0),
        min_p=options.get("min_p"),
        typical_p=options.get("typical_p", 1.0),
        repetition_penalty=options.get("repetition_penalty", 1.0),
        sequence_bias=[[[token], bias] for token, bias in options["bias"]] if "bias" in options else None,
        suppress_tokens=options.get("suppress"),
    )
    config._eos_token_tensor = None
    made = GenerationMixin._get_logits_processor(
        Host(), generation_config=config, input_ids_seq_length=len(PROMPT) + len(WRITTEN), encoder_input_ids=None,
        prefix_allowed_tokens_fn=None, logits_processor=LogitsProcessorList(), device="cpu",
    )
    kinds = {
        "bias": SequenceBiasLogitsProcessor, "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "suppress": SuppressTokensLogitsProcessor, "temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper, "typical_p": TypicalLogitsWarper,
    }
    want = [kind for name, kind in kinds.items() if name in options]
    assert [type(one) for one in made] == want, ([type(one).__name__ for one in made], options)
    return made


class Host(GenerationMixin):
    """What the method asks of a model."""

    class config:
        is_encoder_decoder = False

    device = "cpu"


def penalised(scores, options):
    """`mu[j] - c[j] * frequency - (c[j] > 0) * presence`."""
    counts = torch.zeros(SIZE)
    for token in WRITTEN:
        counts[token] += 1
    penalty = counts * options.get("frequency_penalty", 0.0) + (counts > 0) * options.get("presence_penalty", 0.0)
    return scores - penalty


def main():
    random.seed(5)
    logits = [
        [round(random.gauss(0, 2), 4) for _ in range(SIZE)],
        [round(random.gauss(0, 0.5), 4) for _ in range(SIZE)],
        [round(random.gauss(-3, 5), 4) for _ in range(SIZE)],
    ]
    ids = torch.tensor([PROMPT + WRITTEN])
    cases = []
    for i, row in enumerate(logits):
        for options in OPTIONS:
            scores = torch.tensor([row])
            before = (SequenceBiasLogitsProcessor, RepetitionPenaltyLogitsProcessor)
            made = processors(options)
            for one in [one for one in made if isinstance(one, before)]:
                scores = one(ids, scores)
            scores = penalised(scores, options)
            for one in [one for one in made if not isinstance(one, before)]:
                scores = one(ids, scores)
            probabilities = torch.softmax(scores.double(), -1)[0]
            kept = [j for j in range(SIZE) if probabilities[j] > 0]
            shares = [float(f"{probabilities[j].item():.9g}") for j in kept]
            cases.append({"logits": i, "options": options, "ids": kept, "probabilities": shares})
    written = {"logits": logits, "prompt": PROMPT, "written": WRITTEN, "cases": cases}
    (HERE / "sampling.json").write_text(json.dumps(written) + "\n")


if __name__ == "__main__":
    main()
