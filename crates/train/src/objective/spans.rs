//! Where an answer begins and ends: the mean of the cross-entropies of both ends over the tokens of a window. Devlin et al. 2019, §4.2.
//!
//! A long text is read in windows that overlap. A window without the answer points at its first token.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use serde_json::Value;

use super::{Metrics, Objective, Roles, Row, cross_entropy, numbers, scores};
use crate::data::{Asked, Example, Target};
use crate::metric;
use crate::model::Trained;
use crate::texts::{Text, Texts};

/// The most tokens of an answer.
const LONGEST: usize = 30;

/// Extractive question answering.
pub(crate) struct Spans {
    pub(crate) stride: usize,
}

/// The answers of a row and the byte at which the first begins; without an answer it is empty.
fn answers(found: Option<&str>, context: &str) -> Result<(Vec<String>, Option<usize>), String> {
    let Some(found) = found.filter(|found| !found.is_empty()) else { return Ok((Vec::new(), None)) };
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(found) else {
        let at = context.find(found).ok_or_else(|| format!("`answer`: `{found}` is not in the context"))?;
        return Ok((vec![found.to_owned()], Some(at)));
    };
    // As in SQuAD: lists of texts and of the characters at which they begin; or one of each.
    let list = |name: &str| match fields.get(name) {
        Some(Value::Array(values)) => values.clone(),
        Some(value) => vec![value.clone()],
        None => Vec::new(),
    };
    let texts: Vec<String> = list("text").iter().filter_map(|text| text.as_str().map(str::to_owned)).collect();
    let Some(first) = texts.first() else { return Ok((texts, None)) };
    let start = list("answer_start").first().and_then(Value::as_u64);
    let at = match start {
        Some(characters) => context.char_indices().nth(characters as usize).map(|(at, _)| at),
        None => context.find(first.as_str()),
    };
    let at = at.filter(|at| context[*at..].starts_with(first.as_str()));
    let at = at.ok_or_else(|| format!("`answer`: `{first}` is not at its place in the context"))?;
    Ok((texts, Some(at)))
}

impl Objective for Spans {
    fn roles(&self) -> &'static Roles {
        &[(&["question", "context", "answer"], &[]), (&["question", "context", "answers"], &[])]
    }

    fn examples(&self, row: &Row<'_>, texts: &Texts) -> Result<Vec<Example>, String> {
        let (question, context) = (row.text("question")?.trim(), row.text("context")?);
        let (answers, at) = answers(row.get("answer").or_else(|| row.get("answers")), context)?;
        let end = at.map(|at| at + answers[0].len());
        let mut examples = Vec::new();
        for window in texts.windows(question, context, self.stride)? {
            let of_context = window.get_sequence_ids();
            let places: Vec<Option<(usize, usize)>> = window
                .get_offsets()
                .iter()
                .zip(&of_context)
                .map(|(place, of)| (*of == Some(1)).then_some(*place))
                .collect();
            let first =
                places.iter().position(|place| matches!((place, at), (Some((s, e)), Some(at)) if *s <= at && at < *e));
            let last =
                places.iter().rposition(|p| matches!((p, end), (Some((s, e)), Some(end)) if *s < end && end <= *e));
            let (from, to) = match (first, last) {
                (Some(from), Some(to)) if from <= to => (from, to),
                _ => (0, 0),
            };
            let (context, answers) = (context.to_owned(), answers.clone());
            let asked = Asked { question: row.number, places, context, answers };
            examples.push(Example::new(vec![Text::from(&window)], Target::Span(from, to, Box::new(asked))));
        }
        Ok(examples)
    }

    fn loss(&self, model: &Trained, examples: &[Example]) -> Tensor<1> {
        let scores = scores(model, examples);
        let mut sum: Option<Tensor<1>> = None;
        let mut at = 0;
        for example in examples {
            let n = example.texts[0].ids.len();
            let Target::Span(from, to, _) = &example.target else { continue };
            // [2, n]: the ends as rows.
            let ends = scores.clone().narrow(0, at, n).swap_dims(0, 1);
            let loss = cross_entropy(ends, &[*from as i64, *to as i64]);
            sum = Some(match sum {
                Some(sum) => sum + loss,
                None => loss,
            });
            at += n;
        }
        sum.expect("there is at least one example") / examples.len() as f32
    }

    fn measure(&self, model: &Trained, examples: &[Example], micro: usize) -> Metrics {
        // The best answer of each question over its windows.
        let mut best: BTreeMap<u64, (f32, String, &[String])> = BTreeMap::new();
        for piece in examples.chunks(micro.max(1)) {
            let scores = numbers(scores(model, piece));
            let mut at = 0;
            for example in piece {
                let n = example.texts[0].ids.len();
                let Target::Span(_, _, asked) = &example.target else { continue };
                let (score, text) = likeliest(&scores[2 * at..2 * (at + n)], asked);
                at += n;
                let entry = best.entry(asked.question).or_insert((f32::NEG_INFINITY, String::new(), &asked.answers));
                if score > entry.0 {
                    *entry = (score, text, &asked.answers);
                }
            }
        }
        let n = best.len().max(1) as f64;
        let (exact, f1) = best
            .values()
            .map(|(_, text, right)| metric::answers(text, right))
            .fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        vec![("f1".into(), f1 / n), ("exact_match".into(), exact / n)]
    }
}

/// The likeliest answer of a window and its score beyond that of no answer.
fn likeliest(scores: &[f32], asked: &Asked) -> (f32, String) {
    let none = scores[0] + scores[1];
    let mut best = (0.0, String::new());
    for (i, from) in asked.places.iter().enumerate() {
        for (j, to) in asked.places.iter().enumerate().skip(i).take(LONGEST) {
            let (Some((start, _)), Some((_, end))) = (from, to) else { continue };
            let score = scores[2 * i] + scores[2 * j + 1] - none;
            if score > best.0 {
                best = (score, asked.context.get(*start..*end).unwrap_or_default().to_owned());
            }
        }
    }
    best
}
