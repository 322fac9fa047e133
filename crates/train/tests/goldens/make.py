"""Losses of transformers, sentence-transformers and PEFT on tiny models, and twenty steps of torch's AdamW.

Run with transformers 5.24, sentence-transformers 6.2, peft 0.21 and torch 2.15: `python make.py`. It writes the models `bert` and `llama`, the tables that
both sides read, and `losses.json`.
"""

import json
import math
import pathlib

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

HERE = pathlib.Path(__file__).parent
WORDS = "the a cat dog sat ran on in mat house red blue Ada lives Paris who where did what old new big small tree bird sings".split()


def sentence(seed, n):
    return " ".join(WORDS[(seed * 7 + i * i * 3 + i * seed) % len(WORDS)] for i in range(n))


def write(name, rows):
    (HERE / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def tokenizers():
    texts = [sentence(i, 12) for i in range(60)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", t.token_to_id("[CLS]")), ("[SEP]", t.token_to_id("[SEP]"))],
    )
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    bert = PreTrainedTokenizerFast(tokenizer_object=t, model_max_length=64, model_input_names=inputs, **names)
    b = Tokenizer(models.BPE())
    b.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    b.decoder = decoders.ByteLevel()
    b.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    llama = PreTrainedTokenizerFast(tokenizer_object=b, eos_token="</s>")
    llama.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return bert, llama


def bert_config(tokenizer, **more):
    return BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3, **more,
    )


def texts(tokenizer, losses):
    rows = write("texts.jsonl", [{"text": sentence(i, 3 + i % 5), "label": "abc"[i % 3]} for i in range(6)])
    write("held.jsonl", [{**row, "text": row["text"].replace("the ", "a ")} for row in rows[:3]])
    torch.manual_seed(2)
    config = bert_config(tokenizer, num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    model = BertForSequenceClassification(config)
    model.save_pretrained(HERE / "bert")
    tokenizer.save_pretrained(HERE / "bert")
    batch = tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
    labels = torch.tensor(["abc".index(r["label"]) for r in rows])
    losses["texts"] = model(**batch, labels=labels).loss.item()
    # Twenty steps: rising over 4, then half a cosine to a tenth; the norm of all gradients is at most 0.5.
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), eps=1e-6)
    losses["steps"], losses["norms"] = [], []
    for step in range(20):
        rate = 0.01 * (step + 1) / 4 if step < 4 else 0.01 * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - 4) / 16)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        losses["norms"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        optimiser.step()
        losses["steps"].append(loss.item())


def other_heads(tokenizer, losses):
    base = HERE / "bert"
    number = BertForSequenceClassification.from_pretrained(base, num_labels=1, problem_type="regression", ignore_mismatched_sizes=True)
    several = BertForSequenceClassification.from_pretrained(base, num_labels=3, problem_type="multi_label_classification")
    rows = write("several.jsonl", [{"text": sentence(i, 4), "labels": [x for j, x in enumerate("abc") if (i + j) % 2]} for i in range(5)])
    batch = tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([[float(x in r["labels"]) for x in "abc"] for r in rows])
    losses["several"] = several(**batch, labels=labels).loss.item()
    rows = write("number.jsonl", [{"text": sentence(i, 4), "pair": sentence(i + 9, 3), "label": 0.5 * i - 1} for i in range(5)])
    number.save_pretrained(HERE / "bert-number")
    tokenizer.save_pretrained(HERE / "bert-number")
    batch = tokenizer([r["text"] for r in rows], [r["pair"] for r in rows], padding=True, return_tensors="pt")
    losses["number"] = number(**batch, labels=torch.tensor([r["label"] for r in rows])).loss.item()

    torch.manual_seed(3)
    rows = write("tokens.jsonl", [{"tokens": sentence(i, 3 + i).split(), "tags": [["O", "B-X", "I-X"][(i + j) % 3] for j in range(3 + i)]} for i in range(4)])
    names = ["B-X", "I-X", "O"]
    tokens = BertForTokenClassification.from_pretrained(base, num_labels=3, id2label=dict(enumerate(names)), ignore_mismatched_sizes=True)
    tokens.save_pretrained(HERE / "bert-tokens")
    tokenizer.save_pretrained(HERE / "bert-tokens")
    batch = tokenizer([r["tokens"] for r in rows], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full(batch["input_ids"].shape, -100)
    for i, row in enumerate(rows):
        last = None
        for j, word in enumerate(batch.word_ids(i)):
            if word is not None and word != last:
                labels[i, j] = names.index(row["tags"][word])
            last = word
    losses["tokens"] = tokens(**batch, labels=labels).loss.item()

    rows = write("spans.jsonl", [
        {"question": "where lives Ada", "context": "the cat sat on the mat and Ada lives in Paris in a house", "answer": "Paris"},
        {"question": "who ran", "context": "the old red bird sings and the big dog ran", "answer": "the big dog"},
        {"question": "what sat", "context": "a tree", "answer": ""},
    ])
    spans = BertForQuestionAnswering.from_pretrained(base, num_labels=2)
    spans.save_pretrained(HERE / "bert-spans")
    tokenizer.save_pretrained(HERE / "bert-spans")
    # Row by row: in a padded batch the softmax would run over padding as well.
    total = 0
    for row in rows:
        batch = tokenizer(row["question"], row["context"], return_tensors="pt")
        at = row["context"].find(row["answer"]) if row["answer"] else None
        start = 0 if at is None else batch.char_to_token(0, at, 1)
        end = 0 if at is None else batch.char_to_token(0, at + len(row["answer"]) - 1, 1)
        total += spans(**batch, start_positions=torch.tensor([start]), end_positions=torch.tensor([end])).loss.item()
    losses["spans"] = total / len(rows)


def contrastive(tokenizer, losses):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MultipleNegativesRankingLoss, MultipleNegativesSymmetricRankingLoss
    from sentence_transformers.models import Pooling, Transformer

    rows = write("pairs.jsonl", [{"anchor": sentence(i, 4), "positive": sentence(i + 20, 6), "negative": sentence(i + 40, 5)} for i in range(5)])
    model = SentenceTransformer(modules=[Transformer(str(HERE / "bert"), max_seq_length=64), Pooling(16, "mean")], device="cpu")
    batch = [model.tokenize([r[name] for r in rows]) for name in ("anchor", "positive", "negative")]
    with torch.no_grad():
        losses["contrastive"] = MultipleNegativesRankingLoss(model)(batch, None).item()
        losses["symmetric"] = MultipleNegativesSymmetricRankingLoss(model)(batch[:2], None).item()


def causal(tokenizer, losses):
    rows = write("answers.jsonl", [{"prompt": sentence(i, 3) + ":", "completion": " " + sentence(i + 5, 2 + i)} for i in range(4)])
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.3, eos_token_id=0, bos_token_id=0, tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(HERE / "llama")
    tokenizer.save_pretrained(HERE / "llama")
    for name in ("completion", "all"):
        total = count = 0
        for row in rows:
            prompt, answer = tokenizer.encode(row["prompt"]), tokenizer.encode(row["completion"]) + [0]
            ids = torch.tensor([prompt + answer])
            labels = ids.clone()
            if name == "completion":
                labels[0, : len(prompt)] = -100
            n = (labels[0, 1:] >= 0).sum().item()
            total += model(input_ids=ids, labels=labels).loss.item() * n
            count += n
        losses[name] = total / count
    # Conversations: the answers count, with the tokens that end them.
    talks = write("messages.jsonl", [
        {"messages": [{"role": "user", "content": sentence(i, 3)}, {"role": "assistant", "content": sentence(i + 2, 4)}] * (1 + i % 2)}
        for i in range(3)
    ])
    total = count = 0
    for row in talks:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids, labels, at = torch.tensor([encoded["input_ids"]]), [-100] * len(encoded["input_ids"]), 0
        for part in text.split("<assistant>")[1:]:
            start = text.index("<assistant>", at) + len("<assistant>")
            at = start + part.index("</s>") + len("</s>")
            for j, (first, last) in enumerate(encoded["offset_mapping"]):
                if first >= start and last <= at:
                    labels[j] = encoded["input_ids"][j]
        labels = torch.tensor([labels])
        n = (labels[0, 1:] >= 0).sum().item()
        total += model(input_ids=ids, labels=labels).loss.item() * n
        count += n
    losses["messages"] = total / count
    # An adapter of PEFT whose second factor is not zero, and the logits with it.
    torch.manual_seed(5)
    adapted = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.2)
    adapted.save_pretrained(HERE / "adapter")
    (HERE / "adapter" / "README.md").unlink(missing_ok=True)
    ids = torch.tensor([[5, 9, 14, 30, 41, 7]])
    with torch.no_grad():
        losses["adapted_logits"] = adapted(input_ids=ids).logits[0, -1].tolist()
    again = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(HERE / "llama"), HERE / "adapter")
    with torch.no_grad():
        assert torch.allclose(again(input_ids=ids).logits[0, -1], torch.tensor(losses["adapted_logits"]), atol=1e-5)


def main():
    bert, llama = tokenizers()
    losses = {}
    texts(bert, losses)
    other_heads(bert, losses)
    contrastive(bert, losses)
    causal(llama, losses)
    (HERE / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")


main()
