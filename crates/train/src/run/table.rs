//! The data of a model of a table: its columns, their statistics of the rows to learn, and the rows as the model reads them.

use longreach_models::{Answer, Column, Fields, TABLE, TableModel};
use longreach_nn::Random;
use serde_json::{Value, json};

use super::data::{Held, Prepared, Sizes, Stream};
use crate::Error;
use crate::config::{Config, Objective, TableOf};
use crate::data::{Example, Mix, Record, Records, Target};
use crate::model::Starting;

/// The columns and the answer that a model of random weights has: those of the rows to learn.
fn learnt(objective: &Objective, records: &Records) -> Result<(Vec<Column>, Answer), Error> {
    let Objective::Table { answer, of, columns, categories, bins } = objective else {
        return Err(Error::Text("want the objective `table`".into()));
    };
    let values = |i: usize| records.train.iter().flatten().map(move |row| row.values[i].as_deref());
    let column = |(i, name): (usize, &String)| Column::learnt(name, values(i), categories.contains(name), *bins);
    let answer = match of {
        TableOf::Label => Answer::labels(answer, values(columns.len())),
        TableOf::Number => Answer::number(answer, values(columns.len())),
    };
    Ok((columns.iter().enumerate().map(column).collect(), answer.map_err(Error::Text)?))
}

/// The `config.json` of a model of random weights.
fn completed(config: &Config, records: &Records) -> Result<String, Error> {
    let wrong = |message: String| Error::Config { file: "model".into(), message };
    let fields = serde_json::to_value(&config.model).map_err(|e| wrong(e.to_string()))?;
    let Value::Object(mut fields) = fields else { return Err(wrong("want the fields of a config.json".into())) };
    if fields.get("model_type").and_then(Value::as_str).is_some_and(|found| found != TABLE) {
        return Err(wrong(format!("`model.model_type`: want \"{TABLE}\" for the objective `table`")));
    }
    for name in ["columns", "answer"] {
        if fields.contains_key(name) {
            return Err(wrong(format!("`model.{name}`: want it in `objective`")));
        }
    }
    let (columns, answer) = learnt(&config.objective, records)?;
    fields.insert("model_type".into(), json!(TABLE));
    fields.insert("columns".into(), columns.iter().map(Column::json).collect());
    fields.insert("answer".into(), answer.json());
    serde_json::to_string_pretty(&fields).map_err(|e| wrong(e.to_string()))
}

/// The names of the columns of a model to start from. An error if the configuration has others, or another answer.
fn known(config: &Config, text: &str) -> Result<Vec<String>, Error> {
    let file = config.from.clone().unwrap_or_default();
    let fields = Fields::parse(file.clone(), text)?;
    let name = |f: &Fields| f.text("name").ok().flatten().unwrap_or_default().to_owned();
    let found: Vec<String> = fields.objects("columns")?.iter().map(name).collect();
    let predicted: Vec<String> = fields.objects("answer")?.iter().map(name).collect();
    let Objective::Table { answer, columns, .. } = &config.objective else { return Ok(found) };
    let wrong = |message: String| Err(Error::Config { file: file.clone(), message });
    if !columns.is_empty() && *columns != found {
        return wrong(format!("`objective.columns`: the model has {}: want these, or none", found.join(", ")));
    }
    if predicted.first() != Some(answer) {
        return wrong(format!("`objective.answer`: the model predicts `{}`, found `{answer}`", predicted.join(", ")));
    }
    Ok(found)
}

/// Reads the rows, and completes the model's configuration with their statistics unless it has those of earlier rows.
pub(super) fn of_table(config: &Config, starting: &mut Starting) -> Result<Prepared, Error> {
    let Objective::Table { answer, columns, .. } = &config.objective else {
        return Err(Error::Text("want the objective `table`".into()));
    };
    let mut names = match config.from.is_some() {
        true => known(config, starting.config())?,
        false => columns.clone(),
    };
    names.push(answer.clone());
    let records = Records::of_columns(&config.data, &names)?;
    if config.from.is_none() {
        starting.set_config(completed(config, &records)?);
    }
    // The description alone: the weights are built later.
    let device = longreach_burn::cpu();
    let model = TableModel::from_source("model", starting.config(), &mut Random::new(config.seed), &device)?;
    let examples = |rows: &[Record]| -> Result<Vec<Example>, Error> {
        let made = rows.iter().map(|row| example(&model, row).map_err(|e| Error::Text(format!("{}: {e}", row.origin))));
        Ok(made.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    };
    let held = examples(&records.held_out)?;
    let mut sources = records.train.iter().map(|rows| examples(rows)).collect::<Result<Vec<_>, _>>()?;
    if let Some(empty) = sources.iter().position(Vec::is_empty) {
        let message = format!("{}: no row has a value of `{answer}`", config.data.sources[empty].path);
        return Err(Error::Text(message));
    }
    let tokens = |of: &[Example]| of.iter().map(Example::tokens).sum::<usize>();
    let counts: Vec<usize> = sources.iter().map(Vec::len).collect();
    let learnt = (counts.iter().sum(), sources.iter().map(|source| tokens(source)).sum());
    let sizes = Sizes { train: learnt, held_out: (held.len(), tokens(&held)) };
    let weights: Vec<Option<f64>> = config.data.sources.iter().map(|source| source.weight).collect();
    let mix = Mix::new(&counts, &weights, config.seed);
    if weights.iter().all(Option::is_none) {
        sources = vec![sources.into_iter().flatten().collect()];
    }
    let labels = model.answer.values().to_vec();
    let (stream, held) = (Stream::Rows(sources, mix), Held::Rows(held));
    Ok(Prepared { stream, held, sizes, texts: None, labels, end: None, vocabulary: 0 })
}

/// A row and its target; `None` if the answer is missing.
fn example(model: &TableModel, record: &Record) -> Result<Option<Example>, String> {
    let Some((answer, values)) = record.values.split_last() else { return Ok(None) };
    let Some(target) = model.answer.target(answer.as_deref())? else { return Ok(None) };
    let target = match &model.answer {
        Answer::Label { .. } => Target::Label(target as usize),
        Answer::Number { .. } => Target::Number(target as f32),
    };
    Ok(Some(Example { row: Some(model.row(values)?), ..Example::new(Vec::new(), target) }))
}
