//! Losses and steps of PyTorch and sentence-transformers: weighed labels, the symmetric contrastive loss, Muon, the average.

use longreach_train::Run;

use super::{Case, PAIRS, TEXTS, TOKENS, goldens};

fn want() -> serde_json::Value {
    let text = std::fs::read_to_string(goldens().join("more.json")).expect("goldens");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn weighed_labels_are_those_of_torch() {
    let (want, first) = (want(), super::losses());
    let weights = "class_weights = { a = 0.5, b = 2.0, c = 1.5 }";
    let weighed = format!("type = \"texts\", {weights}");
    let both = format!("type = \"texts\", label_smoothing = 0.2, {weights}");
    let words = "type = \"tokens\", label_smoothing = 0.1, class_weights = { \"B-X\" = 3.0, O = 0.25 }";
    let symmetric = Case { data: "symmetric.jsonl", objective: "type = \"contrastive\", symmetric = true", ..PAIRS };
    for (want, case) in [
        (&want["weighed"], Case { objective: &weighed, ..TEXTS }),
        (&want["smoothed"], Case { objective: "type = \"texts\", label_smoothing = 0.2", ..TEXTS }),
        (&want["both"], Case { objective: &both, ..TEXTS }),
        (&want["words"], Case { objective: words, ..TOKENS }),
        (&first["symmetric"], symmetric),
    ] {
        let want = want.as_f64().expect("a loss");
        // In pieces, too: each counts by the weights of its targets.
        for micro in [6, 1] {
            let batch = if case.data == "texts.jsonl" {
                6
            } else if case.data == "tokens.jsonl" {
                4
            } else {
                5
            };
            let optimiser = format!("steps = 1\nbatch = {batch}\nmicro = {micro}");
            let (_folder, config) = Case { optimiser: &optimiser, ..case }.config();
            let found = f64::from(Run::new(config).expect("starts").check().expect("runs").loss);
            assert!(
                (found - want).abs() < 1e-5 * want,
                "{} in pieces of {micro}: {found}, want {want}",
                case.objective
            );
        }
    }
}

#[test]
fn muon_and_the_average_are_those_of_torch() {
    let want = want();
    let optimiser =
        "type = \"muon\"\nsteps = 6\nbatch = 6\nweight_decay = 0.1\nclip = 0.5\nschedule = { type = \"constant\" }";
    let averaged = format!("{optimiser}\naverage = 0.9");
    for (optimiser, last) in [(optimiser, "last"), (&averaged, "average")] {
        let case = Case { optimiser, ..TEXTS };
        let (folder, file) = case.write();
        let held = format!("held_out = {{ path = \"{}\" }}", goldens().join("turned.jsonl").display());
        let text = std::fs::read_to_string(&file).expect("written").replacen("held_out = 0.0", &held, 1);
        std::fs::write(&file, text).expect("written");
        let mut losses = Vec::new();
        let config = longreach_train::Config::read(&file).expect("valid");
        let outcome = Run::new(config).expect("starts").train(|event| {
            if let longreach_train::Event::Step { loss, .. } = event {
                losses.push(f64::from(loss));
            }
            std::ops::ControlFlow::Continue(())
        });
        let outcome = outcome.expect("trains").expect("not interrupted");
        drop(folder);
        for (step, found) in losses.iter().enumerate() {
            let want = want["muon"][step].as_f64().expect("a number");
            // Rounding grows over the steps.
            assert!((found - want).abs() < 2e-3 * want, "step {step}: {found}, torch has {want}");
        }
        assert_eq!(losses.len(), 6);
        let (found, want) = (outcome.metric("loss").expect("a loss"), want[last].as_f64().expect("a loss"));
        assert!((found - want).abs() < 2e-3 * want, "{last}: {found}, torch has {want}");
    }
}

#[test]
fn weights_of_no_label_are_refused() {
    for (objective, want) in [
        ("type = \"texts\", class_weights = { d = 1.0 }", "there is no label `d`; there are a, b, c"),
        (
            "type = \"texts\", class_weights = { a = 0.0 }",
            "`objective.class_weights.a`: want a number above 0, found 0",
        ),
        (
            "type = \"texts\", label_smoothing = 1.0",
            "`objective.label_smoothing`: want at least 0 and below 1, found 1",
        ),
        ("type = \"texts\", of = \"several\", label_smoothing = 0.1", "go with `of = \"one\"`"),
    ] {
        let (_folder, file) = Case { objective, ..TEXTS }.write();
        let error = match longreach_train::Config::read(&file) {
            Ok(config) => Run::new(config).err().expect("refused").to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(want), "{error}");
    }
}
