//! Models of tables learn a rule, keep the statistics of their columns, continue on other rows, and refuse what does not fit.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use longreach_models::{Answer, ColumnKind, Location, Predicted, TableModel};
use longreach_train::{Config, Error, Outcome, Run};

/// A number from 0 to 999 that depends on the row and the column.
fn drawn(row: u64, column: u64) -> u64 {
    let x = (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (column + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 32)) % 1000
}

/// Rows whose `high` says whether `size` is above a bound that depends on `kind`; some sizes are missing in rows of the kind `c`, which
/// are never high. `double` is a number.
fn rows(from: u64, n: u64) -> String {
    let mut text = String::from("kind,size,noise,high,double\n");
    for row in from..from + n {
        let (kind, size) = (["a", "b", "c"][drawn(row, 0) as usize % 3], drawn(row, 1));
        let high = kind != "c" && size > if kind == "a" { 300 } else { 700 };
        let shown = if kind == "c" && row % 2 == 0 { String::new() } else { size.to_string() };
        let label = if high { "yes" } else { "no" };
        let _ = writeln!(text, "{kind},{shown},{},{label},{}", drawn(row, 2), 2 * size);
    }
    text
}

fn config(folder: &Path, objective: &str, more: &str) -> Result<Config, Error> {
    let text = format!(
        r#"output = "out"
seed = 2
objective = {{ type = "table", {objective} }}
{more}
[data]
format = "table"
held_out = {{ path = "held.csv" }}
sources = [{{ path = "rows.csv" }}]
[optimiser]
steps = 45
batch = 32
rate = 1e-2
warmup = 5
weight_decay = 0.01
checkpoint_every = 20
"#
    );
    std::fs::write(folder.join("rows.csv"), rows(0, 600)).expect("written");
    std::fs::write(folder.join("held.csv"), rows(5000, 120)).expect("written");
    std::fs::write(folder.join("table.toml"), text).expect("written");
    Config::read(&folder.join("table.toml"))
}

const HIGH: &str = r#"answer = "high", columns = ["kind", "size", "noise"], bins = 8"#;
const SMALL: &str = "[model]\nhidden_size = 16\nnum_hidden_layers = 1\nintermediate_size = 24\n";

fn trained(config: Config) -> Outcome {
    let run = Run::new(config).expect("a run");
    run.train(|_| ControlFlow::Continue(())).expect("trained").expect("finished")
}

fn metric(outcome: &Outcome, name: &str) -> f64 {
    outcome.metrics.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1
}

fn model(outcome: &Outcome) -> TableModel {
    TableModel::load(&Location { directory: outcome.directory.clone(), weights: None }).expect("a model")
}

fn values(of: [&str; 3]) -> Vec<Option<String>> {
    of.iter().map(|value| Some((*value).to_owned())).collect()
}

#[test]
fn a_rule_of_two_columns_is_learnt_by_attention_and_in_both_directions() {
    for mixer in ["", "mixer = \"gated_delta\"\nconv_size = 0\nnum_heads = 2\nhead_dim = 8\n"] {
        let folder = tempfile::tempdir().expect("a directory");
        let outcome = trained(config(folder.path(), HIGH, &format!("{SMALL}{mixer}")).expect("a configuration"));
        let (auc, accuracy) = (metric(&outcome, "auc"), metric(&outcome, "accuracy"));
        assert!(auc > 0.98 && accuracy > 0.93, "{mixer}: {auc} {accuracy}");
        // The statistics are those of the rows to learn, and in the model's directory.
        let model = model(&outcome);
        let ColumnKind::Number(size) = &model.columns[1].kind else { panic!("numbers") };
        assert!((size.mean - 500.0).abs() < 40.0 && size.edges.len() == 9, "{size:?}");
        assert_eq!(model.columns[0].kind, ColumnKind::Category(["a", "b", "c"].map(str::to_owned).to_vec()));
        assert_eq!(model.answer.values(), ["no", "yes"]);
        let row = |of| model.row(&values(of)).expect("a row");
        let made = [row(["a", "900", "5"]), row(["b", "200", "5"]), row(["c", "", "NA"])];
        let parts: Vec<f64> = model.predict(&made.each_ref()).iter().map(high).collect();
        assert!(parts[0] > 0.8 && parts[1] < 0.2 && parts[2] < 0.2, "{parts:?}");
    }
}

fn high(of: &Predicted) -> f64 {
    let Predicted::Labels(parts) = of else { panic!("labels") };
    assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    parts[1]
}

#[test]
fn numbers_are_predicted_in_their_units() {
    let folder = tempfile::tempdir().expect("a directory");
    let objective = r#"answer = "double", of = "number", columns = ["kind", "noise", "size"], bins = 0"#;
    let outcome = trained(config(folder.path(), objective, SMALL).expect("a configuration"));
    // The variance of the numbers is near 333,000, and a sixth of them cannot be known.
    let mse = metric(&outcome, "mse");
    assert!(mse < 90_000.0, "{mse}");
    let model = model(&outcome);
    assert!(matches!(model.answer, Answer::Number { .. }));
    let row = model.row(&values(["a", "5", "400"])).expect("a row");
    let [Predicted::Number(found)] = model.predict(&[&row])[..] else { panic!("a number") };
    assert!((found - 800.0).abs() < 250.0, "{found}");
}

#[test]
fn an_interrupted_training_is_the_training() {
    let run = |interrupted: bool| {
        let folder = tempfile::tempdir().expect("a directory");
        let config = || {
            let mut config = config(folder.path(), HIGH, &format!("dropout = 0.1\n{SMALL}")).expect("a configuration");
            config.optimiser.steps = 8;
            config.optimiser.micro = Some(24);
            config
        };
        let mut steps = 0;
        if interrupted {
            let stop = |_| {
                steps += 1;
                if steps > 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            assert!(Run::new(config()).expect("a run").train(stop).expect("trained").is_none());
        }
        let outcome = trained(config());
        std::fs::read(outcome.directory.join("model.safetensors")).expect("weights")
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_model_continues_on_few_rows_with_its_own_columns() {
    let folder = tempfile::tempdir().expect("a directory");
    let first = trained(config(folder.path(), HIGH, SMALL).expect("a configuration"));
    let mut next = config(folder.path(), r#"answer = "high""#, "from = \"out/model\"").expect("a configuration");
    next.output = folder.path().join("next");
    (next.optimiser.steps, next.optimiser.rate) = (2, 1e-3);
    std::fs::write(folder.path().join("rows.csv"), rows(9000, 20)).expect("written");
    let second = trained(next);
    assert!(metric(&second, "auc") > 0.97, "{:?}", second.metrics);
    let [first, second] = [&first, &second].map(model);
    assert_eq!((first.columns, first.answer), (second.columns, second.answer));
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a directory");
    let wrong = |objective: &str, more: &str, want: &str| {
        let message = match config(folder.path(), objective, more) {
            Err(e) => e.to_string(),
            Ok(config) => Run::new(config).err().map_or_else(|| "no error".to_owned(), |e| e.to_string()),
        };
        assert!(message.contains(want) && !message.contains('\n'), "{message}");
    };
    wrong(r#"answer = "high""#, SMALL, "want the columns to predict from");
    wrong(r#"answer = "high", columns = ["high", "size"]"#, SMALL, "`high` is there twice, or is the answer");
    wrong(r#"answer = "high", columns = ["size"], categories = ["kind"]"#, SMALL, "is not one of `objective.columns`");
    wrong(r#"answer = "high", columns = ["size"], bins = 5000"#, SMALL, "want at most 1024");
    wrong(r#"answer = "high", columns = ["weight"]"#, SMALL, "weight");
    wrong(r#"answer = "kind", of = "number", columns = ["size"]"#, SMALL, "want a number, found");
    wrong(HIGH, &format!("recompute = true\n{SMALL}"), "`recompute`");
    wrong(HIGH, &format!("{SMALL}num_attention_heads = 3\n"), "want a divisor of 16");
    wrong(HIGH, &format!("{SMALL}mixer = \"nothing\"\n"), "field `mixer`");
    wrong(HIGH, &format!("{SMALL}model_type = \"bert\"\n"), "longreach_table");
    let outcome = trained({
        let mut config = config(folder.path(), HIGH, SMALL).expect("a configuration");
        config.optimiser.steps = 1;
        config
    });
    assert!(model(&outcome).row(&values(["a", "much", "1"])).is_err_and(|e| e.contains("column `size`")));
    let from = "from = \"out/model\"";
    wrong(r#"answer = "double""#, from, "the model predicts `high`");
    wrong(r#"answer = "high", columns = ["size"]"#, from, "the model has kind, size, noise");
}
