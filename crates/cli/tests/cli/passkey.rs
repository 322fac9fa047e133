//! A number in a long text: written, and found by the models that this project trained for it.

use std::fs;
use std::path::Path;

use super::{run, stdout, text};
use crate::long::words;

#[test]
fn a_text_tells_its_number_once_and_a_model_that_learnt_to_finds_it() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("haystack.txt");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/passkey/hmt");
    for (depth, seed) in [("0", "1"), ("0.4", "2"), ("1", "3")] {
        let args = ["passkey", "text", "--length", "20000", "--depth", depth, "--seed", seed, "--out", text(&file)];
        let said = String::from_utf8(run(&args).stderr).expect("text");
        let number = said.trim_end().rsplit(' ').next().expect("the number").to_owned();
        let written = fs::read_to_string(&file).expect("a text");
        assert_eq!(written.len(), 20_000 - 5);
        assert_eq!(written.matches(&number).count(), 2, "told, and told again");
        let args = ["generate", "--model", text(&model), "--prompt-file", text(&file), "-n", "5", "--temperature", "0"];
        assert_eq!(stdout(&args).trim_end(), number, "at depth {depth}");
    }
}

#[test]
fn a_text_that_cannot_be_is_refused() {
    for (args, part) in [
        (&["--length", "10"][..], "`--length`: want at least"),
        (&["--depth", "2"], "`--depth`: want 0 to 1, found 2"),
        (&["--digits", "0"], "`--digits`: want 1 to 64"),
    ] {
        let output = run(&[&["passkey", "text"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_probe_of_any_model_is_a_table_a_list_and_a_picture() {
    let folder = tempfile::tempdir().expect("a directory");
    let plot = folder.path().join("probe.svg");
    let model = words(folder.path());
    let sizes = ["--lengths", "250,300", "--depths", "0,1", "--samples", "1", "--extrapolate"];
    let base = [&["passkey", "probe", "-m", text(&model), "--task", "single,tracking"], &sizes[..]].concat();
    let lines = stdout(&[&base[..], &["--json", "--plot", text(&plot)]].concat());
    let cells: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(cells.len(), 8);
    assert!(cells.iter().all(|cell| cell["grade"].as_f64().is_some_and(|grade| (0.0..=1.0).contains(&grade))));
    assert_eq!(lines, stdout(&[&base[..], &["--json"]].concat()), "deterministic");
    let svg = fs::read_to_string(&plot).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.contains("single") && svg.contains("tracking"), "{svg}");
    let table = stdout(&base);
    assert!(table.contains("single") && table.contains(" 250") && table.contains(" 300"), "{table}");
    assert_eq!(stdout(&[&base[..], &["--csv"]].concat()).lines().count(), 9);
    for (args, part) in [
        (&["--lengths", "60"][..], "60 tokens have no room"),
        (&["--depths", "2"], "--depths: want 0 to 1, found 2"),
        (&["--lengths", "0"], "--lengths"),
        (&["--lengths", "129"], "129 tokens, but the model reads 128"),
    ] {
        let output = run(&[&["passkey", "probe", "-m", text(&model), "--task", "tracking"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part) && said.lines().count() == 1, "{said}");
    }
}
