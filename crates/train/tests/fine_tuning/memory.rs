//! What takes less memory or time changes no result: packed texts, recomputed activations, streamed rows.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use longreach_train::{Config, Event, HeldOut, Run};

use super::{ANSWERS, Case, MASKED, PAIRS, TEXTS, left};

/// The case with a field of the first table, and one of `[data]`.
fn with(case: Case<'_>, first: &str, data: &str) -> (tempfile::TempDir, Vec<f32>, Vec<f64>) {
    let (folder, file) = case.write();
    let text = std::fs::read_to_string(&file).expect("written");
    let text = text.replacen("seed = 3\n", &format!("seed = 3\n{first}\n"), 1);
    std::fs::write(&file, text.replacen("[data]\n", &format!("[data]\n{data}\n"), 1)).expect("written");
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    let outcome = Run::new(Config::read(&file).expect("valid")).expect("starts").train(|event| {
        if let Event::Step { loss, norm, .. } = event {
            losses.push(loss);
            norms.push(norm);
        }
        ControlFlow::Continue(())
    });
    outcome.expect("trains").expect("not interrupted");
    (folder, losses, norms)
}

#[test]
fn packed_texts_learn_what_padded_ones_do() {
    let case = Case { objective: "type = \"causal\"", ..ANSWERS };
    let packed = with(case, "", "packing = \"packed\"");
    let padded = with(case, "", "packing = \"padded\"");
    for (step, (a, b)) in packed.1.iter().zip(&padded.1).enumerate() {
        assert!((a - b).abs() < 1e-4 * b, "step {step}: {a}, padded {b}");
    }
    for (step, (a, b)) in packed.2.iter().zip(&padded.2).enumerate() {
        assert!((a - b).abs() < 1e-3 * b, "step {step}: norm {a}, padded {b}");
    }
}

#[test]
fn recomputed_activations_change_no_bit() {
    let lora = "[lora]\nrank = 2\n";
    for (case, file) in [
        (TEXTS, "model/model.safetensors"),
        (ANSWERS, "model/model.safetensors"),
        (MASKED, "model/model.safetensors"),
        (PAIRS, "model/model.safetensors"),
        (Case { more: lora, ..ANSWERS }, "adapter/adapter_model.safetensors"),
    ] {
        let case = Case { optimiser: "steps = 2\nbatch = 4\nmicro = 3", ..case };
        // A block that is run again drops the same hidden states.
        for first in ["", "dropout = 0.2\n"] {
            let [stored, not] = ["", "recompute = true"].map(|more| with(case, &format!("{first}{more}"), "").0);
            assert!(left(stored.path(), &[file]) == left(not.path(), &[file]), "{first}{}", case.text());
        }
    }
}

/// Hidden states are dropped while a model is trained, and not while it is evaluated.
#[test]
fn what_is_dropped_is_dropped_in_training_alone() {
    for case in [TEXTS, ANSWERS] {
        let [kept, dropped] = [0.0, 0.4].map(|dropout| {
            let case = Case { optimiser: "steps = 2\nbatch = 3", ..case };
            let (folder, mut config) = case.config();
            (config.dropout, config.optimiser.rate) = (dropout, 0.0);
            config.data.held_out = HeldOut::Path { path: config.data.sources[0].path.replace("texts", "turned") };
            if case.data == ANSWERS.data {
                let file = folder.path().join("rows.jsonl");
                rows(&file, 23);
                config.data.sources[0].path = file.display().to_string();
                config.data.held_out = HeldOut::Part(0.3);
            }
            let mut losses = Vec::new();
            let outcome = Run::new(config).expect("starts").train(|event| {
                if let Event::Step { loss, .. } = event {
                    losses.push(loss);
                }
                ControlFlow::Continue(())
            });
            (losses, outcome.expect("trains").expect("not interrupted").metrics)
        });
        assert_eq!(kept.1, dropped.1, "{}", case.objective);
        assert!(!kept.1.is_empty() && kept.0[0] != dropped.0[0] && kept.0[1] != dropped.0[1], "{:?}", dropped.0);
    }
}

fn rows(file: &Path, n: usize) -> Vec<u8> {
    let line =
        |i: usize| format!("{{\"prompt\": \"where lives Ada {i}?\", \"completion\": \" in house {}\"}}\n", i * i);
    let text: String = (0..n).map(line).collect();
    std::fs::write(file, &text).expect("written");
    text.into_bytes()
}

/// A training on 23 streamed rows in blocks of 5, of which a tenth is held out.
fn streamed(folder: &Path, sources: &str) -> Config {
    let model = super::goldens().join("llama").display().to_string();
    let text = format!(
        "output = \"out\"\nseed = 3\ndropout = 0.1\nfrom = \"{model}\"\n[data]\nformat = \"table\"\nheld_out = 0.1\nstream = true\nshuffle = 5\n\
         sources = [{sources}]\n[optimiser]\nsteps = 7\nbatch = 4\nlength = 64\nrate = 0.01\n"
    );
    std::fs::write(folder.join("train.toml"), text).expect("written");
    Config::read(&folder.join("train.toml")).expect("valid")
}

/// Runs to the end, put down after each of the steps `stops`; the losses.
fn run(config: &Config, stops: &[usize]) -> Vec<f32> {
    let mut losses = Vec::new();
    loop {
        let outcome = Run::new(config.clone()).expect("starts").train(|event| match event {
            Event::Step { step, loss, .. } => {
                losses.push(loss);
                if stops.contains(&step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            _ => ControlFlow::Continue(()),
        });
        if outcome.expect("trains").is_some() {
            return losses;
        }
    }
}

#[test]
fn streamed_rows_are_those_of_the_step() {
    check_stream("{ path = \"a.jsonl\" }, { path = \"b.jsonl\" }");
}

#[test]
fn streamed_rows_by_weight_are_those_of_the_step() {
    check_stream("{ path = \"a.jsonl\", weight = 3.0 }, { path = \"b.jsonl\" }");
}

/// Rows of two sources are the same however often the training is interrupted, and in a compressed file.
fn check_stream(sources: &str) {
    let folder = tempfile::tempdir().expect("a directory");
    let plain = rows(&folder.path().join("a.jsonl"), 11);
    rows(&folder.path().join("b.jsonl"), 12);
    let whole = run(&streamed(folder.path(), sources), &[]);
    assert_eq!(whole.len(), 7);
    // Seven steps of four rows are more than all rows, so that blocks of the next pass are among them.
    let again = tempfile::tempdir().expect("a directory");
    rows(&again.path().join("a.jsonl"), 11);
    rows(&again.path().join("b.jsonl"), 12);
    let stopped = run(&streamed(again.path(), sources), &[1, 2, 3, 5, 6]);
    assert_eq!(stopped, whole, "interrupted");
    let names = ["model/model.safetensors"];
    assert!(left(folder.path(), &names) == left(again.path(), &names));
    // The same rows in a compressed file.
    let zipped = tempfile::tempdir().expect("a directory");
    let file = std::fs::File::create(zipped.path().join("a.jsonl.gz")).expect("a file");
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    gzip.write_all(&plain).and_then(|()| gzip.finish().map(drop)).expect("compressed");
    rows(&zipped.path().join("b.jsonl"), 12);
    let compressed = run(&streamed(zipped.path(), &sources.replace("a.jsonl", "a.jsonl.gz")), &[4]);
    assert_eq!(compressed, whole, "compressed");
}

/// What was read before an interruption is not read again: a row of it that is damaged meanwhile is not seen.
#[test]
fn a_streamed_run_reads_on_at_its_row() {
    let [whole, damaged] = [false, true].map(|damaged| {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("a.jsonl");
        let text = rows(&file, 40);
        let mut config = streamed(folder.path(), "{ path = \"a.jsonl\" }");
        config.optimiser.steps = 5;
        let mut losses = Vec::new();
        for stop in [4, 9] {
            let outcome = Run::new(config.clone()).expect("starts").train(|event| match event {
                Event::Step { step, loss, .. } => {
                    losses.push(loss);
                    if step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }
                _ => ControlFlow::Continue(()),
            });
            assert_eq!(outcome.expect("trains").is_some(), stop == 9);
            if damaged {
                // The seventh row is behind the rows that show the columns, and before the block of the fifth step.
                let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
                let text = [lines[..6].concat(), b"{ \n".to_vec(), lines[7..].concat()].concat();
                std::fs::write(&file, text).expect("written");
            }
        }
        losses
    });
    assert_eq!(whole, damaged);
    assert_eq!(whole.len(), 5);
}

#[test]
fn what_is_not_known_of_streamed_rows_is_asked_for() {
    let folder = tempfile::tempdir().expect("a directory");
    rows(&folder.path().join("a.jsonl"), 3);
    let config = streamed(folder.path(), "{ path = \"a.jsonl\" }");
    let text = config.text;
    for (from, to, want) in [
        ("steps = 7", "epochs = 1", "`optimiser.epochs`: want `steps`"),
        ("[data]", "objective = { type = \"texts\" }\n[data]", "`objective.labels`: want all labels"),
        ("format = \"table\"", "format = \"text\"", "`data.stream`: want `data.format` \"table\""),
        ("shuffle = 5", "shuffle = 0", "`data.shuffle`: want at least 1 row"),
        ("\"a.jsonl\" }", "\"a.jsonl\", weight = -2.0 }", "`data.sources.weight`: want a number above 0"),
    ] {
        let file = folder.path().join("wrong.toml");
        std::fs::write(&file, text.replacen(from, to, 1)).expect("written");
        let error = Config::read(&file).expect_err("refused").to_string();
        assert!(error.contains(want), "{error}");
    }
}
