//! `longreach predict`: one line for each row, in order, and one line for what is wrong.

use std::path::PathBuf;

use super::{run, stdout, text};

/// A model that was trained for one step on a table whose labels have commas and quotes.
fn model(folder: &std::path::Path) -> PathBuf {
    let mut rows = String::from("colour,size,\"what, now\"\n");
    for i in 0..40 {
        let label = if i % 2 == 0 { "\"a, b\"" } else { "\"say \"\"c\"\"\"" };
        rows.push_str(&format!("{},{i},{label}\n", ["red", "blue"][i % 2]));
    }
    std::fs::write(folder.join("rows.csv"), rows).expect("written");
    let file = folder.join("table.toml");
    let settings = r#"output = "out"
objective = { type = "table", answer = "what, now", columns = ["colour", "size"] }
[model]
hidden_size = 8
num_hidden_layers = 1
[data]
format = "table"
sources = [{ path = "rows.csv" }]
[optimiser]
steps = 1
batch = 4
rate = 1e-3
"#;
    std::fs::write(&file, settings).expect("written");
    stdout(&["train", text(&file)]);
    folder.join("out/model")
}

#[test]
fn rows_of_any_format_are_predicted_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(folder.path());
    let write = |name: &str, rows: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, rows).expect("written");
        file
    };
    let csv = write("a.csv", "other,size,colour\n1,3,red\n2,,blue\n3,1e9,green\n");
    let json = write(
        "a.jsonl",
        "{\"colour\": \"red\", \"size\": 3}\n{\"size\": null, \"colour\": \"blue\"}\n{\"size\": 1e9, \"colour\": \"green\"}\n",
    );
    let of_csv = stdout(&["predict", "-m", text(&model), "-i", text(&csv), "--batch", "2"]);
    let lines: Vec<&str> = of_csv.lines().collect();
    assert_eq!(lines[0], "\"what, now\",\"probability of a, b\",\"probability of say \"\"c\"\"\"");
    assert_eq!(lines.len(), 4);
    for line in &lines[1..] {
        assert!(line.starts_with("\"a, b\",") || line.starts_with("\"say \"\"c\"\"\","), "{line}");
        let parts: Vec<f64> = line.rsplit(',').take(2).map(|part| part.parse().expect("a number")).collect();
        assert!((parts[0] + parts[1] - 1.0).abs() < 2e-6, "{line}");
    }
    assert_eq!(of_csv, stdout(&["predict", "-m", text(&model), "-i", text(&json)]));
    let out = folder.path().join("out.csv");
    assert_eq!(stdout(&["predict", "-m", text(&model), "-i", text(&csv), "-o", text(&out)]), "");
    assert_eq!(std::fs::read_to_string(&out).expect("written"), of_csv);
}

#[test]
fn what_is_wrong_is_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(folder.path());
    let file = folder.path().join("a.csv");
    let refused = |model: &std::path::Path, rows: &str, want: &str| {
        std::fs::write(&file, rows).expect("written");
        let out = run(&["predict", "-m", text(model), "-i", text(&file)]);
        let said = String::from_utf8(out.stderr).expect("text");
        assert!(out.status.code() == Some(2) && said.lines().count() == 1 && said.contains(want), "{said}");
    };
    refused(&model, "colour,size\nred,big\n", "a.csv: line 2: column `size`: want a number, found `big`");
    refused(&model, "colour,weight\nred,1\n", "size");
    refused(&model, "colour,size\n", "there is no row");
    // A model whose configuration was damaged.
    let config = model.join("config.json");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    for (from, to, want) in [
        ("\"deviation\"", "\"deviance\"", "deviation"),
        ("\"category\"", "\"colour\"", "want number or category"),
        ("\"hidden_size\": 8", "\"hidden_size\": 16", "found ["),
        ("\"blue\",", "", "found ["),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&config, text.replacen(from, to, 1)).expect("written");
        refused(&model, "colour,size\nred,1\n", want);
    }
}
