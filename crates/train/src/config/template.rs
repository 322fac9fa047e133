//! Commented configurations to start from.

/// The objectives that have a template.
pub const TEMPLATES: [&str; 7] = ["causal", "masked", "texts", "tokens", "spans", "contrastive", "table"];

/// A commented configuration for an objective of [`TEMPLATES`]; `None` for another name.
pub fn template(objective: &str) -> Option<String> {
    if objective == "table" {
        return Some(TABLE.to_owned());
    }
    let (from, what, data, length) = match objective {
        "causal" => (
            "HuggingFaceTB/SmolLM2-135M",
            "objective = { type = \"causal\", loss_on = \"all\" }   # or \"completion\": answers only",
            "train.jsonl\"           # {\"text\": …} or {\"prompt\": …, \"completion\": …} or {\"messages\": …}",
            512,
        ),
        "masked" => (
            "google-bert/bert-base-uncased",
            "objective = { type = \"masked\", part = 0.15 }",
            "train.jsonl\"           # {\"text\": …}",
            512,
        ),
        "texts" => (
            "google-bert/bert-base-uncased",
            "objective = { type = \"texts\", of = \"one\" }           # or \"several\" labels, or a \"number\"",
            "train.csv\"             # columns text and label",
            256,
        ),
        "tokens" => (
            "google-bert/bert-base-cased",
            "objective = { type = \"tokens\" }",
            "train.jsonl\"           # {\"tokens\": [\"Ada\", …], \"tags\": [\"B-PER\", …]}",
            256,
        ),
        "spans" => (
            "google-bert/bert-base-uncased",
            "objective = { type = \"spans\", stride = 128 }",
            "train.jsonl\"           # {\"question\": …, \"context\": …, \"answer\": …}",
            384,
        ),
        "contrastive" => (
            "sentence-transformers/all-MiniLM-L6-v2",
            "objective = { type = \"contrastive\", scale = 20.0 }",
            "train.jsonl\"           # {\"anchor\": …, \"positive\": …}, perhaps \"negative\"",
            128,
        ),
        _ => return None,
    };
    Some(format!(
        "# Run `longreach train FILE --check` first: it reads the data, runs one step and says how long the rest takes.
output = \"out\"                    # checkpoints, curves, the model
seed = 1
from = \"{from}\"   # a directory, a GGUF file or a Hub id
{what}

[data]
format = \"table\"
held_out = 0.05                   # a part of the rows, or {{ path = \"valid.jsonl\" }}
# columns = {{ text = \"body\" }}    # where a column has another name

[[data.sources]]
path = \"{data}

[optimiser]
epochs = 1                        # or steps = 1000
batch = 16
micro = 8                         # sequences at once; gradients are added up
length = {length}                      # longer texts are cut
rate = 2e-5                       # 2e-4 with [lora]
warmup = 0.1                      # a part of the steps, or a number of them
schedule = {{ type = \"linear\" }}
weight_decay = 0.01

# [lora]                          # trains a small update in place of all weights
# rank = 16
# alpha = 32
# targets = []                    # ends of the names of layers; all of them

[evaluate]
every = 100
patience = 5                      # stops after five evaluations without improvement

[report]
tensorboard = false
"
    ))
}

/// The configuration for a table.
const TABLE: &str = r#"# Run `longreach train FILE --check` first: it reads the data, runs one step and says how long the rest takes.
output = "out"                    # checkpoints, curves, the model
seed = 1
dropout = 0.1

[objective]
type = "table"
answer = "price"                  # the column to predict
of = "number"                     # or "label"
columns = ["rooms", "age", "district"]   # to predict from: numbers if all values are, categories otherwise
# categories = ["district"]       # columns of numbers that are names
bins = 16                         # of the code of a number; 0: the number itself

[model]                           # or from = "DIR", a model of the same columns
hidden_size = 64
num_hidden_layers = 3
mixer = "attention"               # or a mixer of `longreach` models, which is read in both directions

[data]
format = "table"
held_out = 0.1                    # a part of the rows, or { path = "valid.csv" }
sources = [{ path = "train.csv" }]

[optimiser]
epochs = 20                       # or steps = 1000
batch = 256
rate = 1e-3
warmup = 0.05                     # a part of the steps, or a number of them
weight_decay = 1e-5

[evaluate]
every = 100
patience = 10                     # stops after ten evaluations without improvement
"#;
