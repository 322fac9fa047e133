//! Training: it learns, and an interrupted one goes on as if nothing had happened.

use std::ops::ControlFlow;
use std::path::Path;

use longreach_train::{Config, Error, Event, PasskeyEvent, PasskeyStudy, Run, Study, StudyEvent};

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
    let bits = outcome.metric("bits_per_byte").expect("held-out text");
    assert!(bits > 0.0 && bits < 8.0, "{outcome:?}");
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

const STUDY: &str = r#"
output = "out"
seeds = [2, 5]
measure = 8
rates = [0.003, 0.01]
[task]
vocabulary = 32
length = 16
pairs = 3
[optimiser]
steps = 5
batch = 4
rate = 0.003
[model]
model_type = "longreach"
hidden_size = 16
num_hidden_layers = 1
head_dim = 8
intermediate_size = 0
[[models]]
name = "delta"
model = { mixer = "delta_rule" }
[[models]]
name = "attention"
model = { mixer = "dense" }
"#;

#[test]
fn a_study_that_is_broken_off_goes_on_to_the_same_table() {
    let table = |breaks: bool| {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("study.toml");
        std::fs::write(&file, STUDY).expect("written");
        let study = Study::read(&file).expect("valid");
        let mut runs = 0;
        loop {
            runs += 1;
            let mut steps = 0;
            let standings = study.run(|event| match event {
                StudyEvent::Step { loss, .. } => {
                    assert!(loss.is_finite());
                    steps += 1;
                    if breaks && steps == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }
                StudyEvent::Done(_) => ControlFlow::Continue(()),
            });
            if standings.expect("runs").len() == 8 {
                break;
            }
        }
        assert_eq!(runs, if breaks { 8 } else { 1 });
        for name in ["recall.svg", "recall-table.md"] {
            assert!(folder.path().join("out").join(name).exists(), "{name}");
        }
        let table = std::fs::read_to_string(folder.path().join("out/recall-table.md")).expect("a table");
        assert!(table.lines().count() == 4 && table.contains(" | 2 | 0.0"), "both seeds of two models: {table}");
        let csv = std::fs::read_to_string(folder.path().join("out/recall.csv")).expect("a table");
        // All but the seconds.
        csv.lines().map(|line| line.rsplit_once(',').expect("columns").0.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(table(false), table(true));
}

#[test]
fn a_study_that_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("study.toml");
    for (from, to, want) in [
        ("pairs = 3", "pairs = 5", "at least 20"),
        ("vocabulary = 32", "vocabulary = 7", "task.vocabulary"),
        ("measure = 8", "measure = 0", "`measure`"),
        ("seeds = [2, 5]", "seeds = []", "`seeds`"),
        ("delta_rule", "detla_rule", "detla_rule"),
    ] {
        std::fs::write(&file, STUDY.replace(from, to)).expect("written");
        let outcome = Study::read(&file).and_then(|study| study.run(|_| ControlFlow::Continue(())));
        let error = outcome.expect_err("refused").to_string();
        assert!(error.contains(want), "{error}");
    }
}

const PASSKEY: &str = r#"
output = "out"
weights = "models"
seed = 2
digits = 2
[course]
shortest = 80
growing = 0.5
before = 700
[optimiser]
steps = 4
batch = 1
length = 160
rate = 0.003
groups = [{ ends = "mixer.gate", factor = 30.0 }]
[[asked]]
length = 200
depths = 3
texts = 2
[[asked]]
length = 400
depths = 2
texts = 1
[model]
model_type = "longreach"
hidden_size = 16
num_hidden_layers = 1
head_dim = 8
intermediate_size = 0
[[models]]
name = "infini"
model = { mixer = "infini", segment = 32 }
long_states = true
[[models]]
name = "transformer-xl"
model = { mixer = "transformer_xl", memory = 16 }
segments = { length = 32, through = "segment" }
[[models]]
name = "HMT"
model = { mixer = "dense", hmt = { segment = 32, sensory = 4, queue = 8 } }
segments = { length = 64, through = "all" }
groups = [{ ends = "hmt.wq", factor = 2.0 }]
[[models]]
name = "attention"
model = { mixer = "dense" }
longest = 300
[[models]]
name = "infini on"
model = { mixer = "infini", segment = 32 }
from = "infini"
"#;

fn passkey(text: &str) -> (tempfile::TempDir, Result<PasskeyStudy, longreach_train::Error>) {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("study.toml");
    std::fs::write(&file, text).expect("written");
    let study = PasskeyStudy::read(&file);
    (folder, study)
}

#[test]
fn a_passkey_study_that_is_broken_off_goes_on_to_the_same_tables() {
    let tables = |breaks: bool| {
        let (folder, study) = passkey(PASSKEY);
        let study = study.expect("valid");
        let mut runs = 0;
        loop {
            runs += 1;
            let (mut events, mut broken) = (0, false);
            let outcome = study.run(&[], |event| {
                if let PasskeyEvent::Step { loss, .. } = event {
                    assert!(loss.is_finite());
                }
                events += 1;
                broken = breaks && events == 6;
                if broken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            outcome.expect("runs");
            if !broken {
                break;
            }
        }
        assert!(runs > 1 || !breaks);
        let read = |file: &str| std::fs::read_to_string(folder.path().join(file)).expect("a file");
        for name in ["infini", "transformer-xl", "hmt", "attention"] {
            assert!(read(&format!("out/{name}.svg")).contains("</svg>"));
            assert!(folder.path().join("models").join(name).join("tokenizer.json").exists());
        }
        let table = read("out/passkey-table.md");
        assert!(table.contains("| attention |") && table.contains("not asked"), "{table}");
        // All but the seconds.
        let lines = |file: &str| {
            let csv = read(file);
            csv.lines().map(|line| line.rsplit_once(',').expect("columns").0.to_owned()).collect::<Vec<_>>()
        };
        let scores = ["infini", "transformer-xl", "hmt", "attention"].map(|name| lines(&format!("out/{name}.csv")));
        assert_eq!(scores.each_ref().map(Vec::len), [6, 6, 6, 4]);
        scores
    };
    assert_eq!(tables(false), tables(true));
}

#[test]
fn a_passkey_study_that_cannot_be_is_refused_by_name() {
    for (from, to, want) in [
        ("shortest = 80", "shortest = 20", "task.length"),
        ("shortest = 80", "shortest = 170", "`course.shortest`"),
        ("growing = 0.5", "growing = 1.5", "`course.growing`"),
        ("before = 700", "before = 100", "`course.before`"),
        ("depths = 3", "depths = 0", "`asked.depths`"),
        ("steps = 4", "steps = 0", "`optimiser.steps`"),
        ("length = 32, through = \"segment\"", "length = 0, through = \"segment\"", "`length`: want at least 1"),
        ("through = \"segment\"", "through = \"none\"", "through"),
        ("factor = 2.0", "factor = -2.0", "`factor`"),
        ("name = \"HMT\"", "name = \"a,b\"", "`models.name`"),
        ("from = \"infini\"", "from = \"nobody\"", "nobody"),
    ] {
        let (_folder, study) = passkey(&PASSKEY.replace(from, to));
        let outcome = study.and_then(|study| study.run(&[], |_| ControlFlow::Continue(())));
        let error = outcome.expect_err("refused").to_string();
        assert!(error.contains(want), "{to}: {error}");
    }
    let (_folder, study) = passkey(PASSKEY);
    let error = study.expect("valid").run(&["nobody".into()], |_| ControlFlow::Continue(())).expect_err("refused");
    assert!(error.to_string().contains("infini, transformer-xl, HMT, attention, infini on, found `nobody`"), "{error}");
}
