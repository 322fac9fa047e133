//! Fine-tuning of checkpoints: losses are those of other libraries, pieces do not matter, and an interrupted run is the run.

#[path = "fine_tuning/memory.rs"]
mod memory;
#[path = "fine_tuning/others.rs"]
mod others;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use longreach_models::{Location, Model};
use longreach_train::{Config, Event, Outcome, Run, TEMPLATES, merge, template};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn losses() -> serde_json::Value {
    let text = std::fs::read_to_string(goldens().join("losses.json")).expect("goldens");
    serde_json::from_str(&text).expect("JSON")
}

/// A training of `model` on the table `data` by `objective`, with more lines of TOML.
#[derive(Clone, Copy)]
struct Case<'a> {
    model: &'a str,
    data: &'a str,
    objective: &'a str,
    optimiser: &'a str,
    more: &'a str,
}

impl Case<'_> {
    fn text(&self) -> String {
        let root = goldens().display().to_string();
        let Self { model, data, objective, optimiser, more } = self;
        format!(
            "output = \"out\"\nseed = 3\nfrom = \"{root}/{model}\"\nobjective = {{ {objective} }}\n\
             [data]\nformat = \"table\"\nheld_out = 0.0\nsources = [{{ path = \"{root}/{data}\" }}]\n\
             [optimiser]\nlength = 64\nrate = 0.01\n{optimiser}\n{more}\n"
        )
    }

    fn write(&self) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("train.toml");
        std::fs::write(&file, self.text()).expect("written");
        (folder, file)
    }

    fn config(&self) -> (tempfile::TempDir, Config) {
        let (folder, file) = self.write();
        let config = Config::read(&file).expect("valid");
        (folder, config)
    }

    /// The losses and the norms of all steps, and the outcome.
    fn run(&self) -> (tempfile::TempDir, Vec<f32>, Vec<f64>, Outcome) {
        let (folder, config) = self.config();
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        let outcome = Run::new(config).expect("starts").train(|event| {
            if let Event::Step { loss, norm, .. } = event {
                losses.push(loss);
                norms.push(norm);
            }
            ControlFlow::Continue(())
        });
        let outcome = outcome.expect("trains").expect("not interrupted");
        (folder, losses, norms, outcome)
    }
}

const TEXTS: Case<'_> = Case {
    model: "bert",
    data: "texts.jsonl",
    objective: "type = \"texts\"",
    optimiser: "steps = 6\nbatch = 3",
    more: "",
};
const ANSWERS: Case<'_> = Case {
    model: "llama",
    data: "answers.jsonl",
    objective: "type = \"causal\", loss_on = \"completion\"",
    optimiser: "steps = 6\nbatch = 3",
    more: "",
};
const PAIRS: Case<'_> = Case {
    model: "bert",
    data: "pairs.jsonl",
    objective: "type = \"contrastive\"",
    optimiser: "steps = 6\nbatch = 4",
    more: "",
};
const MASKED: Case<'_> = Case {
    model: "bert",
    data: "texts.jsonl",
    objective: "type = \"masked\", part = 0.3",
    optimiser: "steps = 6\nbatch = 5",
    more: "",
};
const TOKENS: Case<'_> = Case {
    model: "bert-tokens",
    data: "tokens.jsonl",
    objective: "type = \"tokens\"",
    optimiser: "steps = 4\nbatch = 4",
    more: "",
};
const SPANS: Case<'_> = Case {
    model: "bert-spans",
    data: "spans.jsonl",
    objective: "type = \"spans\"",
    optimiser: "steps = 4\nbatch = 3",
    more: "",
};

#[test]
fn losses_are_those_of_transformers_and_sentence_transformers() {
    let want = losses();
    let several = Case { data: "several.jsonl", objective: "type = \"texts\", of = \"several\"", ..TEXTS };
    let number =
        Case { model: "bert-number", data: "number.jsonl", objective: "type = \"texts\", of = \"number\"", ..TEXTS };
    let all = Case { objective: "type = \"causal\"", ..ANSWERS };
    let messages = Case { data: "messages.jsonl", ..ANSWERS };
    for (name, case, batch) in [
        ("texts", &TEXTS, 6),
        ("several", &several, 5),
        ("number", &number, 5),
        ("tokens", &TOKENS, 4),
        ("spans", &SPANS, 3),
        ("contrastive", &PAIRS, 5),
        ("completion", &ANSWERS, 4),
        ("all", &all, 4),
        ("messages", &messages, 3),
    ] {
        let optimiser = format!("steps = 1\nbatch = {batch}");
        let (_folder, config) = Case { optimiser: &optimiser, ..*case }.config();
        let found = f64::from(Run::new(config).expect("starts").check().expect("runs").loss);
        let want = want[name].as_f64().expect("a loss");
        assert!((found - want).abs() < 1e-5 * want.abs().max(1.0), "{name}: {found}, transformers has {want}");
    }
}

#[test]
fn twenty_steps_are_those_of_torch() {
    let want = losses();
    let optimiser =
        "steps = 20\nbatch = 6\nwarmup = 4\nweight_decay = 0.1\nclip = 0.5\nbetas = [0.8, 0.9]\nepsilon = 1e-6";
    let (_folder, losses, norms, _) = Case { optimiser, ..TEXTS }.run();
    for (name, found) in [("steps", losses.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()), ("norms", norms)] {
        for (step, found) in found.iter().enumerate() {
            let want = want[name][step].as_f64().expect("a number");
            // Rounding grows over the steps.
            assert!((found - want).abs() < 2e-3 * want, "{name} {step}: {found}, torch has {want}");
        }
    }
}

#[test]
fn the_pieces_of_a_step_do_not_matter() {
    for case in [TEXTS, ANSWERS, PAIRS, MASKED, TOKENS, SPANS] {
        let whole = case.run();
        for micro in [1, 2] {
            let optimiser = format!("{}\nmicro = {micro}", case.optimiser);
            let parts = Case { optimiser: &optimiser, ..case }.run();
            let close = |a: f64, b: f64| (a - b).abs() < 1e-4 * b.abs().max(1e-2);
            let first = (f64::from(parts.1[0]), f64::from(whole.1[0]));
            assert!((first.0 - first.1).abs() < 1e-5 * first.1, "{}: {first:?}", case.objective);
            assert!(close(parts.2[0], whole.2[0]), "{}: norms {} and {}", case.objective, parts.2[0], whole.2[0]);
        }
    }
}

/// Everything that a finished run leaves but times.
fn left(folder: &Path, names: &[&str]) -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> =
        names.iter().map(|name| std::fs::read(folder.join("out").join(name)).expect(name)).collect();
    let csv = std::fs::read_to_string(folder.join("out/metrics.csv")).expect("a table");
    let line = |line: &str| {
        line.split(',')
            .enumerate()
            .filter(|(i, _)| ![1, 7].contains(i))
            .map(|(_, x)| format!("{x},"))
            .collect::<String>()
    };
    files.push(csv.lines().map(line).collect::<String>().into_bytes());
    files
}

#[test]
fn an_interrupted_run_is_the_run() {
    let lora = "[lora]\nrank = 2\n";
    let watched = "[evaluate]\nevery = 2\n";
    let muon = "steps = 6\nbatch = 3\nmicro = 2\ntype = \"muon\"\naverage = 0.9";
    for (case, file) in [
        (Case { optimiser: muon, ..TEXTS }, "model/model.safetensors"),
        (Case { more: lora, ..ANSWERS }, "adapter/adapter_model.safetensors"),
        (Case { more: lora, ..TEXTS }, "adapter/adapter_model.safetensors"),
        (Case { optimiser: "steps = 6\nbatch = 4\nmicro = 3", ..PAIRS }, "model/model.safetensors"),
        (Case { more: watched, ..MASKED }, "model/model.safetensors"),
    ] {
        let text = case.text();
        let (folder, ..) = case.run();
        let names = [file, "model/config.json"];
        let want = left(folder.path(), &names);
        let (folder, file) = case.write();
        let mut runs = 0;
        loop {
            runs += 1;
            let run = Run::new(Config::read(&file).expect("valid")).expect("starts");
            let outcome = run.train(|event| match event {
                Event::Step { step: 1 | 3 | 4, .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            });
            // Between two renames of a checkpoint there is only the old one.
            let (at, old) = (folder.path().join("out/checkpoint"), folder.path().join("out/checkpoint.old"));
            if outcome.expect("trains").is_some() {
                break;
            }
            if runs == 2 {
                std::fs::rename(&at, &old).expect("renamed");
            }
        }
        assert_eq!(runs, 4);
        assert!(left(folder.path(), &names) == want, "{text}");
    }
}

/// The tensors of a safetensors file by name.
fn tensors(file: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(file).expect("a file");
    let n = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let head: serde_json::Value = serde_json::from_slice(&bytes[8..8 + n]).expect("a header");
    let range = |value: &serde_json::Value, i: usize| value["data_offsets"][i].as_u64().unwrap_or(0) as usize;
    let tensors = head.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__");
    tensors
        .map(|(name, value)| (name.clone(), bytes[8 + n + range(value, 0)..8 + n + range(value, 1)].to_vec()))
        .collect()
}

#[test]
fn frozen_weights_stay_and_the_others_do_not() {
    let text =
        Case { more: "", ..TEXTS }.text().replacen("seed = 3", "seed = 3\nfrozen = [\"embeddings\", \"layer.0.\"]", 1);
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::write(folder.path().join("train.toml"), text).expect("written");
    let config = Config::read(&folder.path().join("train.toml")).expect("valid");
    Run::new(config).expect("starts").train(|_| ControlFlow::Continue(())).expect("trains");
    let before = tensors(&goldens().join("bert/model.safetensors"));
    let after = tensors(&folder.path().join("out/model/model.safetensors"));
    let is_frozen = |name: &str| name.contains("embeddings") || name.contains("layer.0.");
    let mut counts = [0, 0];
    for (name, bytes) in &after {
        let Some(was) = before.get(name) else { continue };
        assert_eq!(was == bytes, is_frozen(name), "{name}");
        counts[usize::from(is_frozen(name))] += 1;
    }
    assert!(counts[0] > 10 && counts[1] > 10, "{counts:?}");
}

#[test]
fn an_adapter_of_peft_is_merged_and_continued() {
    let folder = tempfile::tempdir().expect("a directory");
    let (base, adapter, out) = (goldens().join("llama"), goldens().join("adapter"), folder.path().join("merged"));
    merge(&base.display().to_string(), &adapter, &out, None).expect("merged");
    let logits = |directory: PathBuf| {
        let model = Model::load(&Location { directory, weights: None }, None).expect("a model");
        let all = model.evaluate(&[5, 9, 14, 30, 41, 7], None, 1, 6, 6).logits;
        all[all.len() - model.decoder.vocabulary()..].to_vec()
    };
    let (found, plain) = (logits(out), logits(base));
    let want = losses();
    let mut apart = 0.0f64;
    for (i, found) in found.iter().enumerate() {
        let want = want["adapted_logits"][i].as_f64().expect("a logit");
        assert!((f64::from(*found) - want).abs() < 1e-4, "{i}: {found}, PEFT has {want}");
        apart = apart.max((f64::from(plain[i]) - want).abs());
    }
    assert!(apart > 1e-2, "the adapter changes nothing");

    // A run that starts from the adapter begins with the loss of the merged model.
    let more = format!("[lora]\nrank = 3\nalpha = 6\nfrom = \"{}\"\n", adapter.display());
    let (_folder, config) = Case { more: &more, optimiser: "steps = 1\nbatch = 4", ..ANSWERS }.config();
    let unmerged = Run::new(config).expect("starts").check().expect("runs").loss;
    let text = ANSWERS.text().replace("steps = 6\nbatch = 3", "steps = 1\nbatch = 4");
    let text = text
        .replace(&goldens().join("llama").display().to_string(), &folder.path().join("merged").display().to_string());
    let file = folder.path().join("train.toml");
    std::fs::write(&file, text).expect("written");
    let merged = Run::new(Config::read(&file).expect("valid")).expect("starts").check().expect("runs").loss;
    assert!((unmerged - merged).abs() < 1e-5, "{unmerged} and {merged}");
}

#[test]
fn low_rank_updates_learn_while_the_model_stays() {
    let more = "[lora]\nrank = 4\ntargets = [\"q_proj\", \"v_proj\", \"up_proj\"]\n[evaluate]\nevery = 10\n";
    let case = Case { optimiser: "steps = 30\nbatch = 4\nschedule = { type = \"constant\" }", more, ..ANSWERS };
    let (folder, losses, ..) = case.run();
    assert!(losses[29] < 0.8 * losses[0], "{losses:?}");
    let adapter = tensors(&folder.path().join("out/adapter/adapter_model.safetensors"));
    assert_eq!(adapter.len(), 12, "two factors of three matrices of two layers");
    let key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    assert!(adapter[key].iter().any(|byte| *byte != 0));
    let (before, after) = (
        tensors(&goldens().join("llama/model.safetensors")),
        tensors(&folder.path().join("out/model/model.safetensors")),
    );
    for (name, bytes) in &after {
        let updated = ["q_proj", "v_proj", "up_proj"].iter().any(|target| name.contains(target));
        assert_eq!(before[name] == *bytes, !updated, "{name}");
    }
}

#[test]
fn a_run_that_no_longer_improves_stops_and_keeps_the_best() {
    // The rate is so high that the model gets worse.
    let more = "[evaluate]\nevery = 1\npatience = 2\nmetric = \"loss\"\n";
    let case = Case { optimiser: "steps = 40\nbatch = 3\nschedule = { type = \"constant\" }", more, ..TEXTS };
    let held = format!("held_out = {{ path = \"{}\" }}", goldens().join("held.jsonl").display());
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("train.toml");
    std::fs::write(&file, case.text().replace("held_out = 0.0", &held).replace("rate = 0.01", "rate = 0.3"))
        .expect("written");
    let (mut stopped, mut evaluated) = (None, Vec::new());
    let outcome = Run::new(Config::read(&file).expect("valid")).expect("starts").train(|event| {
        match event {
            Event::Stopped { step, best } => stopped = Some((step, best)),
            Event::Evaluated { step, best, .. } => evaluated.push((step, best)),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let outcome = outcome.expect("trains").expect("not interrupted");
    let (step, best) = stopped.expect("stopped");
    assert_eq!(step, best + 2, "{evaluated:?}");
    assert!(outcome.best.is_some_and(|best| best.join("model.safetensors").exists()));
    assert!(step < 40 && evaluated.iter().any(|(step, found)| *step == best && *found), "{evaluated:?}");
}

#[test]
fn what_is_held_out_is_not_learnt() {
    // Two of the six rows are held out by name; they are in the training table as well.
    let folder = tempfile::tempdir().expect("a directory");
    let all = std::fs::read_to_string(goldens().join("texts.jsonl")).expect("a table");
    let held: String = all.lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.path().join("held.jsonl"), held).expect("written");
    let text = Case { objective: "type = \"texts\", labels = [\"a\", \"b\", \"c\"]", ..TEXTS }.text();
    std::fs::write(
        folder.path().join("train.toml"),
        text.replace("held_out = 0.0", "held_out = { path = \"held.jsonl\" }"),
    )
    .expect("written");
    let config = Config::read(&folder.path().join("train.toml")).expect("valid");
    let checked = Run::new(config).expect("starts").check().expect("runs");
    assert_eq!((checked.train.0, checked.held_out.0), (4, 2));
}

#[test]
fn a_directory_of_labelled_texts_and_a_file_of_tokens_are_data() {
    let folder = tempfile::tempdir().expect("a directory");
    for (label, text) in [("good", "the big dog ran"), ("bad", "a tree"), ("good", "a bird sings in the tree")] {
        std::fs::create_dir_all(folder.path().join("texts").join(label)).expect("made");
        std::fs::write(folder.path().join("texts").join(label).join(format!("{}.txt", text.len())), text)
            .expect("written");
    }
    let root = goldens().display().to_string();
    let text = format!(
        "output = \"out\"\nfrom = \"{root}/bert\"\nobjective = {{ type = \"texts\" }}\n[data]\nheld_out = 0\nsources = [{{ path = \"texts\" }}]\n\
         [optimiser]\nsteps = 1\nbatch = 3\nrate = 0.01\n"
    );
    let file = folder.path().join("train.toml");
    std::fs::write(&file, text).expect("written");
    let checked = Run::new(Config::read(&file).expect("valid")).expect("starts").check().expect("runs");
    assert_eq!((checked.labels, checked.train.0), (vec!["bad".to_owned(), "good".to_owned()], 3));

    let ids: Vec<u8> = (0..200u16).flat_map(|i| (i * 7 % 250).to_le_bytes()).collect();
    std::fs::write(folder.path().join("tokens.bin"), ids).expect("written");
    let text = format!(
        "output = \"tokens\"\nfrom = \"{root}/llama\"\n[data]\nformat = \"tokens\"\nheld_out = 0.2\nsources = [{{ path = \"tokens.bin\" }}]\n\
         [optimiser]\nsteps = 2\nbatch = 2\nlength = 16\nrate = 0.01\n"
    );
    std::fs::write(&file, text).expect("written");
    let run = Run::new(Config::read(&file).expect("valid")).expect("starts");
    let outcome = run.train(|_| ControlFlow::Continue(())).expect("trains").expect("not interrupted");
    assert!(outcome.metric("loss").is_some_and(f64::is_finite));
}

#[test]
fn a_configuration_that_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("train.toml");
    let text = TEXTS.text();
    for (from, to, want) in [
        ("type = \"texts\"", "type = \"textes\"", "textes"),
        ("type = \"texts\"", "type = \"spans\"", "question and context and answer"),
        ("type = \"texts\"", "type = \"texts\", labels = [\"a\", \"b\"]", "label `c` is not one of a, b"),
        ("type = \"texts\"", "type = \"causal\"", "encoder"),
        ("/bert\"", "/llama\"", "language model"),
        ("rate = 0.01", "rate = -1.0", "`optimiser.rate`"),
        ("batch = 3", "batch = 3\nmicro = 0", "`optimiser.micro`"),
        ("batch = 3", "batch = 3\nepochs = 2", "either `steps` or `epochs`"),
        ("batch = 3", "batch = 3\nwarmup = 1.5", "`optimiser.warmup`"),
        ("batch = 3", "batch = 3\naverage = 1.0", "`optimiser.average`"),
        ("batch = 3", "batch = 3\nschedule = { type = \"wsd\", decay = 2.0 }", "`optimiser.schedule.decay`"),
        ("batch = 3", "batch = 3\n[lora]\nrank = 0", "`lora.rank`"),
        ("batch = 3", "batch = 3\n[lora]\ntargets = [\"nothing\"]", "nothing"),
        ("batch = 3", "batch = 3\n[evaluate]\npatience = 1", "`evaluate.patience`"),
        ("seed = 3", "seed = 3\nfrozen = [\"nothing\"]", "nothing"),
    ] {
        std::fs::write(&file, text.replace(from, to)).expect("written");
        let error = Config::read(&file).and_then(Run::new).err().expect(to).to_string();
        assert!(error.contains(want), "{to}: {error}");
    }
    std::fs::write(&file, &text).expect("written");
    let config = Config::read_with(&file, &["optimiser.rate=2e-3".into(), "seed=9".into()]).expect("valid");
    assert_eq!((config.optimiser.rate, config.seed), (2e-3, 9));
    let error = Config::read_with(&file, &["optimiser.rte=1".into()]).expect_err("refused").to_string();
    assert!(error.contains("rte"), "{error}");
}

#[test]
fn an_encoder_of_random_weights_learns_masked_words() {
    let root = goldens().display().to_string();
    let text = format!(
        "output = \"out\"\nobjective = {{ type = \"masked\", part = 0.3 }}\n[data]\nformat = \"table\"\nheld_out = 0\n\
         sources = [{{ path = \"{root}/texts.jsonl\" }}]\n[tokenizer]\nfile = \"{root}/bert/tokenizer.json\"\n\
         [model]\nmodel_type = \"bert\"\nhidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nintermediate_size = 32\n\
         max_position_embeddings = 64\n[optimiser]\nsteps = 30\nbatch = 6\nrate = 0.01\nschedule = {{ type = \"constant\" }}\n"
    );
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("train.toml");
    std::fs::write(&file, text).expect("written");
    let mut losses = Vec::new();
    let outcome = Run::new(Config::read(&file).expect("valid")).expect("starts").train(|event| {
        if let Event::Step { loss, .. } = event {
            losses.push(loss);
        }
        ControlFlow::Continue(())
    });
    let directory = outcome.expect("trains").expect("not interrupted").directory;
    assert!(losses[29] < losses[0] - 0.5, "{losses:?}");
    // What was written is a model with a head that is tied to the embeddings.
    let at = Location { directory, weights: None };
    let model = longreach_models::EncoderModel::load(&at, None).expect("a model");
    assert!(model.head.is_some() && model.notes(|_| false).is_empty(), "{:?}", model.notes(|_| false));
    assert!(at.directory.join("tokenizer.json").exists());
}

#[test]
fn templates_are_valid() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("train.toml");
    for name in TEMPLATES {
        std::fs::write(&file, template(name).expect("a template")).expect("written");
        assert_eq!(Config::read(&file).expect(name).objective.name(), name);
    }
    assert_eq!(template("nothing"), None);
}
