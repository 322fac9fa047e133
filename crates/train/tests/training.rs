//! Training: it learns, and an interrupted one goes on as if nothing had happened.

use std::ops::ControlFlow;
use std::path::Path;

use longreach_train::{Config, Error, Event, Run};

const TRAINING: &str = r#"
output = "out"
seed = 4
[data]
held_out = 0.3
[[data.sources]]
path = "text"
[tokenizer]
vocabulary = 300
[model]
model_type = "mamba2"
hidden_size = 16
num_hidden_layers = 1
num_heads = 2
head_dim = 16
state_size = 8
n_groups = 1
tie_word_embeddings = true
[optimiser]
steps = 12
batch = 2
length = 32
rate = 0.01
warmup = 2
weight_decay = 0.1
checkpoint_every = 4
"#;

/// A directory with a training and ten pages of text.
fn prepare(training: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(folder.path().join("text")).expect("made");
    for page in 0..10 {
        let line = |i: usize| format!("Page {page} has line {i}, which says that {} follows {i}.\n", i + 1);
        let text: String = (0..12).map(line).collect();
        std::fs::write(folder.path().join("text").join(format!("{page}.txt")), text).expect("written");
    }
    std::fs::write(folder.path().join("train.toml"), training).expect("written");
    folder
}

fn config(folder: &Path) -> Result<Config, Error> {
    Config::read(&folder.join("train.toml"))
}

#[test]
fn an_interrupted_training_goes_on_as_if_nothing_had_happened() {
    let whole = prepare(TRAINING);
    let mut losses = Vec::new();
    let outcome = Run::new(config(whole.path()).expect("valid"))
        .expect("starts")
        .train(|event| {
            if let Event::Step { loss, .. } = event {
                losses.push(loss);
            }
            ControlFlow::Continue(())
        })
        .expect("trains")
        .expect("not interrupted");
    assert!(losses[11] < losses[0], "{losses:?}");
    assert!(outcome.bits_per_byte > 0.0 && outcome.bits_per_byte < 8.0, "{outcome:?}");
    assert!(whole.path().join("out/loss.svg").exists());

    let parts = prepare(TRAINING);
    let mut again = Vec::new();
    let mut outcome = None;
    let mut runs = 0;
    while outcome.is_none() {
        runs += 1;
        outcome = Run::new(config(parts.path()).expect("valid"))
            .expect("starts")
            .train(|event| match event {
                Event::Step { step, loss, .. } => {
                    again.push(loss);
                    if step == 3 || step == 8 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }
                _ => ControlFlow::Continue(()),
            })
            .expect("trains");
    }
    assert_eq!(runs, 3);
    assert_eq!(losses, again, "to the bit");
    let model = |folder: &Path| std::fs::read(folder.join("out/model/model.safetensors")).expect("a model");
    assert_eq!(model(whole.path()), model(parts.path()));
}

#[test]
fn a_configuration_that_does_not_fit_says_where() {
    for (from, to, part) in [
        ("steps = 12", "steps = 0", "optimiser.steps"),
        ("steps = 12", "stepps = 12", "stepps"),
        ("held_out = 0.3", "held_out = 1.5", "data.held_out"),
        ("vocabulary = 300", "", "tokenizer"),
        ("path = \"text\"", "path = \"$NO_SUCH_NAME/text\"", "NO_SUCH_NAME"),
        ("path = \"text\"", "path = \"nowhere\"", "nowhere"),
        ("num_heads = 2", "num_heads = 3", "num_heads"),
    ] {
        let folder = prepare(&TRAINING.replace(from, to));
        let error = config(folder.path()).and_then(Run::new).err().expect("refused").to_string();
        assert!(error.contains(part), "{to}: {error}");
    }
}
