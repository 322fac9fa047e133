//! `longreach predict`

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use longreach_models::{Answer, Location, Predicted, Progress, TableModel, TableRow, check_writable, write_atomically};
use longreach_search::documents::{Documents, Input, Options};

use crate::failure::Failure;

/// Predict a column of a table with a model that was trained with the objective `table`
///
/// The input needs the columns that the model reads, under their names; others are ignored. The output is CSV with a line for each row, in
/// order: the predicted label and the probability of each label, or the predicted number. Empty values, NA and categories that the model
/// does not know count as missing.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach predict --model out/model --input rows.csv
  longreach predict --model out/model --input rows.parquet --out predicted.csv")]
pub(crate) struct Args {
    /// Directory of the model
    #[arg(long, short)]
    model: String,
    /// Rows: a .jsonl, .json, .csv, .tsv or .parquet file, or - for standard input
    #[arg(long, short, value_name = "FILE|-", default_value = "-")]
    input: OsString,
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Rows that are computed at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
}

/// A value of CSV, quoted where it must be.
fn quoted(value: &str) -> String {
    match value.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value.to_owned(),
    }
}

/// The names of the columns of the output.
fn header(answer: &Answer) -> String {
    let probabilities = answer.values().iter().map(|label| format!("probability of {label}"));
    std::iter::once(answer.name().to_owned())
        .chain(probabilities)
        .map(|name| quoted(&name))
        .collect::<Vec<_>>()
        .join(",")
}

/// A line of the output.
fn line(answer: &Answer, predicted: &Predicted) -> String {
    match predicted {
        Predicted::Number(number) => number.to_string(),
        Predicted::Labels(parts) => {
            let best = (0..parts.len()).max_by(|a, b| parts[*a].total_cmp(&parts[*b]).then(b.cmp(a))).unwrap_or(0);
            let label = quoted(answer.values().get(best).map_or("", String::as_str));
            std::iter::once(label).chain(parts.iter().map(|part| format!("{part:.6}"))).collect::<Vec<_>>().join(",")
        }
    }
}

/// Reads rows and writes what is predicted for each; the number of rows.
fn all(model: &TableModel, rows: &mut Documents, batch: usize, out: &mut dyn Write) -> Result<usize, Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("the output: {e}"));
    writeln!(out, "{}", header(&model.answer)).map_err(failed)?;
    let mut count = 0;
    loop {
        let mut piece: Vec<TableRow> = Vec::new();
        while piece.len() < batch
            && let Some((document, _)) = rows.next()?
        {
            let row = model.row(&document.fields);
            piece.push(row.map_err(|message| Failure::new(format!("{}: {message}", document.origin())))?);
        }
        if piece.is_empty() {
            return Ok(count);
        }
        for predicted in model.predict(&piece.iter().collect::<Vec<_>>()) {
            writeln!(out, "{}", line(&model.answer, &predicted)).map_err(failed)?;
        }
        count += piece.len();
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let model = TableModel::load(&Location::find(&args.model, Progress::Shown)?)?;
    let input = Input::of(&args.input)?;
    if let Some(out) = &args.out {
        let read = input.files()?;
        check_writable(out, &read.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    }
    let fields: Vec<String> = model.columns.iter().map(|column| column.name.clone()).collect();
    let mut rows = input.read(&Options { column: fields.first().cloned(), fields, ..Options::default() })?;
    let mut text = Vec::new();
    let count = match &args.out {
        Some(_) => all(&model, &mut rows, args.batch as usize, &mut text)?,
        None => all(&model, &mut rows, args.batch as usize, &mut std::io::stdout().lock())?,
    };
    if count == 0 {
        return Err(Failure::new(format!("{}: there is no row", input.name())));
    }
    if let Some(out) = &args.out {
        write_atomically(out, |file| file.write_all(&text))?;
        eprintln!("{}: {count} rows", out.display());
    }
    Ok(())
}
