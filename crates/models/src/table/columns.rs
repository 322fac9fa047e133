//! The columns of a table: how their values become codes of numbers and categories, and what is predicted.

use serde_json::{Value, json};

use super::Predicted;
use crate::{Error, Fields};

/// The largest distance from the mean that the code of a number has, in deviations.
const FARTHEST: f32 = 10.0;

/// A column that a model reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name in the table.
    pub name: String,
    /// What it holds.
    pub kind: ColumnKind,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnKind {
    /// Numbers.
    Number(NumberCode),
    /// Categories, in the order of their vectors. Others count as missing.
    Category(Vec<String>),
}

/// How a number is encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberCode {
    /// The mean of the numbers to learn.
    pub mean: f64,
    /// Their standard deviation, above 0.
    pub deviation: f64,
    /// The edges of bins, increasing; the code is the number itself in deviations from the mean if there are fewer than two.
    pub edges: Vec<f64>,
}

/// A row as a model reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableRow {
    /// The codes of the numbers, of the same length for each column.
    pub codes: Vec<f32>,
    /// Which numbers are there.
    pub known: Vec<bool>,
    /// The categories: 0 for missing ones, others from 1.
    pub categories: Vec<u32>,
}

/// What is predicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// One of these labels.
    Label {
        /// The name of the column.
        name: String,
        /// The labels, in the order of the outputs.
        values: Vec<String>,
    },
    /// A number.
    Number {
        /// The name of the column.
        name: String,
        /// The mean of the numbers to learn.
        mean: f64,
        /// Their standard deviation, above 0.
        deviation: f64,
    },
}

/// A value that is there: not empty, and none of the usual names of missing ones.
fn present(value: Option<&str>) -> Option<&str> {
    let value = value?.trim();
    (!["", "NA", "N/A", "NaN", "nan", "null", "None"].contains(&value)).then_some(value)
}

/// The number that a value is; `None` if it is no finite number.
fn number(value: &str) -> Option<f64> {
    value.parse::<f64>().ok().filter(|x| x.is_finite())
}

/// The mean and the standard deviation, which is 1 where all numbers are equal.
fn moments(numbers: &[f64]) -> (f64, f64) {
    let n = numbers.len().max(1) as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let deviation = (numbers.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt();
    (mean, if deviation > 0.0 { deviation } else { 1.0 })
}

/// The different values, numbers in their order and others by name.
fn different(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = values.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    if all.iter().all(|value| number(value).is_some()) {
        all.sort_by(|a, b| number(a).unwrap_or(0.0).total_cmp(&number(b).unwrap_or(0.0)));
    }
    all
}

/// A number of an object that must be there.
fn required(f: &Fields, name: &str) -> Result<f64, Error> {
    if f.get(name).is_none() {
        return Err(f.error(format!("field `{name}` of a column is missing")));
    }
    f.number(name, 0.0)
}

/// The mean and the deviation of an object.
fn stored_moments(f: &Fields) -> Result<(f64, f64), Error> {
    let (mean, deviation) = (required(f, "mean")?, required(f, "deviation")?);
    match mean.is_finite() && deviation.is_finite() && deviation > 0.0 {
        true => Ok((mean, deviation)),
        false => Err(f.error(format!("field `deviation` of a column: want a number above 0, found {deviation}"))),
    }
}

/// A list of strings.
fn strings(f: &Fields, name: &str) -> Result<Vec<String>, Error> {
    let list = f.get(name).and_then(Value::as_array);
    let found = list.and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    found.ok_or_else(|| f.error(format!("field `{name}` of a column: want a list of strings")))
}

fn named(f: &Fields) -> Result<String, Error> {
    Ok(f.text("name")?.ok_or_else(|| f.error("field `name` of a column is missing"))?.to_owned())
}

impl NumberCode {
    /// The code of these numbers with at most `bins` bins of equally many numbers; without bins if `bins` is 0.
    fn learnt(mut numbers: Vec<f64>, bins: usize) -> Self {
        let (mean, deviation) = moments(&numbers);
        numbers.sort_by(f64::total_cmp);
        let mut edges = Vec::new();
        if bins > 0 && !numbers.is_empty() {
            edges = (0..=bins).map(|i| numbers[i * (numbers.len() - 1) / bins]).collect();
            edges.dedup();
        }
        Self { mean, deviation, edges }
    }

    /// The length of the code.
    pub fn length(&self) -> usize {
        self.edges.len().saturating_sub(1).max(1)
    }

    /// The code of a number, of [`NumberCode::length`] numbers: 1 for bins below it, 0 for those above, and the part of its own bin that is
    /// below it. The first and the last bin go on by their own width. Gorishniy et al. 2022, eq. 1.
    pub fn encode(&self, x: f64) -> Vec<f32> {
        if self.edges.len() < 2 {
            return vec![(((x - self.mean) / self.deviation) as f32).clamp(-FARTHEST, FARTHEST)];
        }
        let last = self.length() - 1;
        let part = |(i, edges): (usize, &[f64])| {
            let part = (x - edges[0]) / (edges[1] - edges[0]);
            let (low, high) = (if i == 0 { -1.0 } else { 0.0 }, if i == last { 2.0 } else { 1.0 });
            part.clamp(low, high) as f32
        };
        self.edges.windows(2).enumerate().map(part).collect()
    }
}

impl Column {
    /// The column of these values, which are those to learn: numbers if all that are there are, unless `category`.
    pub fn learnt<'v>(
        name: &str,
        values: impl Iterator<Item = Option<&'v str>> + Clone,
        category: bool,
        bins: usize,
    ) -> Self {
        let there = values.filter_map(present);
        let numbers: Option<Vec<f64>> = there.clone().map(number).collect();
        let kind = match numbers.filter(|numbers| !category && !numbers.is_empty()) {
            Some(numbers) => ColumnKind::Number(NumberCode::learnt(numbers, bins)),
            None => ColumnKind::Category(different(there.map(str::to_owned))),
        };
        Self { name: name.to_owned(), kind }
    }

    /// The column of a configuration.
    pub(super) fn of(f: &Fields) -> Result<Self, Error> {
        let kind = match f.text("type")? {
            Some("number") => {
                let (mean, deviation) = stored_moments(f)?;
                let list = f.get("edges").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let edges: Vec<f64> = list.iter().filter_map(Value::as_f64).filter(|x| x.is_finite()).collect();
                if edges.len() != list.len() || edges.windows(2).any(|w| w[0] >= w[1]) {
                    return Err(f.error("field `edges` of a column: want increasing numbers"));
                }
                ColumnKind::Number(NumberCode { mean, deviation, edges })
            }
            Some("category") => ColumnKind::Category(strings(f, "values")?),
            found => {
                let found = found.unwrap_or("nothing");
                return Err(f.error(format!("field `type` of a column: want number or category, found {found}")));
            }
        };
        Ok(Self { name: named(f)?, kind })
    }

    /// The column as an object of `config.json`.
    pub fn json(&self) -> Value {
        match &self.kind {
            ColumnKind::Number(NumberCode { mean, deviation, edges }) => {
                json!({"name": self.name, "type": "number", "mean": mean, "deviation": deviation, "edges": edges})
            }
            ColumnKind::Category(values) => json!({"name": self.name, "type": "category", "values": values}),
        }
    }

    /// The code of its numbers; `None` if it holds categories.
    pub(super) fn number(&self) -> Option<&NumberCode> {
        if let ColumnKind::Number(code) = &self.kind { Some(code) } else { None }
    }

    /// Its categories; `None` if it holds numbers.
    pub(super) fn values(&self) -> Option<&[String]> {
        if let ColumnKind::Category(values) = &self.kind { Some(values) } else { None }
    }
}

impl TableRow {
    pub(super) fn of(columns: &[Column], length: usize, values: &[Option<String>]) -> Result<Self, String> {
        if values.len() != columns.len() {
            return Err(format!("want {} values, one for each column, found {}", columns.len(), values.len()));
        }
        let mut row = Self::default();
        for (column, value) in columns.iter().zip(values) {
            let value = present(value.as_deref());
            match &column.kind {
                ColumnKind::Category(known) => {
                    let at = value.and_then(|value| known.iter().position(|known| known == value));
                    row.categories.push(at.map_or(0, |at| at as u32 + 1));
                }
                ColumnKind::Number(code) => {
                    let x = value.map(|value| number(value).ok_or(value)).transpose();
                    let x =
                        x.map_err(|value| format!("column `{}`: want a number, found `{value:.40}`", column.name))?;
                    let mut codes = x.map_or_else(Vec::new, |x| code.encode(x));
                    codes.resize(length, 0.0);
                    row.codes.append(&mut codes);
                    row.known.push(x.is_some());
                }
            }
        }
        Ok(row)
    }
}

impl Answer {
    /// The labels that these values are. Errors if there are fewer than two.
    pub fn labels<'v>(name: &str, values: impl Iterator<Item = Option<&'v str>>) -> Result<Self, String> {
        let values = different(values.filter_map(present).map(str::to_owned));
        match values.len() {
            0 | 1 => Err(format!("column `{name}`: want at least two labels, found {}", values.len())),
            _ => Ok(Answer::Label { name: name.to_owned(), values }),
        }
    }

    /// The number that these values are. Errors if one is none, or there is none.
    pub fn number<'v>(name: &str, values: impl Iterator<Item = Option<&'v str>>) -> Result<Self, String> {
        let parse =
            |value: &str| number(value).ok_or_else(|| format!("column `{name}`: want a number, found `{value}`"));
        let numbers = values.filter_map(present).map(parse).collect::<Result<Vec<f64>, _>>()?;
        if numbers.is_empty() {
            return Err(format!("column `{name}`: there is no number to learn"));
        }
        let (mean, deviation) = moments(&numbers);
        Ok(Answer::Number { name: name.to_owned(), mean, deviation })
    }

    pub(super) fn of(f: &Fields) -> Result<Self, Error> {
        let name = named(f)?;
        if f.get("values").is_none() {
            let (mean, deviation) = stored_moments(f)?;
            return Ok(Answer::Number { name, mean, deviation });
        }
        let values = strings(f, "values")?;
        if values.len() < 2 {
            return Err(f.error(format!("field `values` of the answer: want at least two, found {}", values.len())));
        }
        Ok(Answer::Label { name, values })
    }

    /// The answer as an object of `config.json`.
    pub fn json(&self) -> Value {
        match self {
            Answer::Label { name, values } => json!({"name": name, "values": values}),
            Answer::Number { name, mean, deviation } => json!({"name": name, "mean": mean, "deviation": deviation}),
        }
    }

    /// The name of the column.
    pub fn name(&self) -> &str {
        match self {
            Answer::Label { name, .. } | Answer::Number { name, .. } => name,
        }
    }

    /// The labels; none for a number.
    pub fn values(&self) -> &[String] {
        if let Answer::Label { values, .. } = self { values } else { &[] }
    }

    /// The number of outputs of a model.
    pub fn outputs(&self) -> usize {
        self.values().len().max(1)
    }

    /// What a model is to learn of a value: the number of the label, or the number in deviations from the mean; `None` where it is
    /// missing. Errors if it is no known label or no number.
    pub fn target(&self, value: Option<&str>) -> Result<Option<f64>, String> {
        let Some(value) = present(value) else { return Ok(None) };
        let found = match self {
            Answer::Label { values, .. } => values.iter().position(|known| known == value).map(|at| at as f64),
            Answer::Number { mean, deviation, .. } => number(value).map(|x| (x - mean) / deviation),
        };
        let want = || if self.values().is_empty() { "a number".to_owned() } else { self.values().join(", ") };
        found.map(Some).ok_or_else(|| format!("column `{}`: want {}, found `{value:.40}`", self.name(), want()))
    }

    /// What the outputs of a row say.
    pub(super) fn predicted(&self, outputs: &[f32]) -> Predicted {
        if let Answer::Number { mean, deviation, .. } = self {
            return Predicted::Number(mean + deviation * f64::from(outputs[0]));
        }
        let most = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let parts: Vec<f64> = outputs.iter().map(|x| f64::from(x - most).exp()).collect();
        let sum: f64 = parts.iter().sum();
        Predicted::Labels(parts.into_iter().map(|part| part / sum).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(values: &[&str], category: bool, bins: usize) -> Column {
        Column::learnt("c", values.iter().map(|v| Some(*v)), category, bins)
    }

    #[test]
    fn types_are_inferred_and_codes_are_piecewise_linear() {
        let column = learnt(&["1", "2", "NA", "3", "4", "5", ""], false, 2);
        let code = column.number().expect("numbers");
        assert_eq!((code.mean, &code.edges[..]), (3.0, &[1.0, 3.0, 5.0][..]));
        for (x, want) in
            [(2.0, [0.5, 0.0]), (3.0, [1.0, 0.0]), (4.0, [1.0, 0.5]), (6.0, [1.0, 1.5]), (0.0, [-0.5, 0.0])]
        {
            assert_eq!(code.encode(x), want, "{x}");
        }
        // Far away the code stays bounded.
        assert_eq!((code.encode(1e300), code.encode(-1e300)), (vec![1.0, 2.0], vec![-1.0, 0.0]));
        let line = learnt(&["1", "3"], false, 0);
        assert_eq!(line.number().expect("numbers").encode(3.0), [1.0]);
        assert_eq!(learnt(&["10", "9"], true, 4).values().expect("categories"), ["9", "10"]);
        assert_eq!(learnt(&["1", "b", "a"], false, 4).values().expect("categories"), ["1", "a", "b"]);
        // A column of one value, and one without any.
        assert_eq!(learnt(&["7", "7"], false, 4).number().expect("numbers").encode(7.0), [0.0]);
        assert_eq!(learnt(&["", "NA"], false, 4).values(), Some(&[][..]));
    }

    #[test]
    fn missing_and_unseen_values_are_marked_and_wrong_ones_refused() {
        let columns = [learnt(&["1", "2"], false, 0), learnt(&["a", "b"], false, 0)];
        let row = |a: &str, b: &str| TableRow::of(&columns, 1, &[Some(a.into()), Some(b.into())]);
        assert_eq!(row("", "z"), Ok(TableRow { codes: vec![0.0], known: vec![false], categories: vec![0] }));
        assert_eq!(row("2", "b"), Ok(TableRow { codes: vec![1.0], known: vec![true], categories: vec![2] }));
        assert!(row("x", "b").is_err_and(|message| message == "column `c`: want a number, found `x`"));
        let late = Answer::labels("late", ["no", "yes", "no"].iter().map(|v| Some(*v))).expect("labels");
        assert_eq!(late.target(Some("yes")), Ok(Some(1.0)));
        assert_eq!(late.target(Some("")), Ok(None));
        assert!(late.target(Some("perhaps")).is_err_and(|message| message.contains("want no, yes")));
        assert!(Answer::labels("late", [Some("no")].into_iter()).is_err());
    }
}
