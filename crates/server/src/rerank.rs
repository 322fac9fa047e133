//! `POST /v1/rerank`

use std::sync::Arc;

use longreach_engine::{Long, Part, TextEncoder};
use longreach_search::matches;
use serde_json::{Value, json};

use crate::fields::{Fields, parse, wrong};
use crate::ids::fresh;
use crate::jobs::Jobs;
use crate::refusal::Refusal;
use crate::schema;
use crate::served::{Models, Purpose, Served};
use crate::settings::Settings;

/// The most documents of a request.
const MOST: usize = 1024;

/// A request that was read.
pub(crate) struct Work {
    served: Arc<Served>,
    encoder: Arc<TextEncoder>,
    query: String,
    documents: Vec<String>,
    top: usize,
    /// The texts as they were given, if they are repeated.
    returned: Option<Vec<String>>,
    pub(crate) ignored: Vec<String>,
}

/// Reads a request.
pub(crate) fn prepare(body: &[u8], models: &Models, settings: &Settings) -> Result<Work, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let ignored = f.unknown(&schema::names(&[schema::RERANK]), settings.lenient)?;
    let served = models.find(f.text("model")?, |purpose| matches!(purpose, Purpose::Rank(_)))?;
    let Purpose::Rank(encoder) = served.purpose.clone() else { return Err(Refusal::internal()) };
    let query = f.want("query")?;
    let query = query.as_str().ok_or_else(|| wrong("query", "a string", query))?.to_owned();
    let list = f.want("documents")?;
    let list = list.as_array().ok_or_else(|| wrong("documents", "a list", list))?;
    if list.is_empty() || list.len() > MOST {
        return Err(Refusal::value("documents", format!("`documents`: want 1 to {MOST}, found {}", list.len())));
    }
    let document = |(i, document): (usize, &Value)| {
        let text = document.as_str().or_else(|| document.get("text")?.as_str());
        text.map(str::to_owned)
            .ok_or_else(|| wrong(&format!("documents[{i}]"), "a string or an object with `text`", document))
    };
    let mut documents = list.iter().enumerate().map(document).collect::<Result<Vec<_>, _>>()?;
    let whole = documents.clone();
    if let Some(most) = f.whole("max_tokens_per_doc", 1..=i64::MAX)? {
        documents.iter_mut().try_for_each(|document| cut(&encoder, document, most as usize))?;
    }
    let top = f.whole("top_n", 1..=i64::MAX)?.map_or(documents.len(), |n| documents.len().min(n as usize));
    let returned = f.flag("return_documents")?.unwrap_or(false).then_some(whole);
    Ok(Work { served, encoder, query, documents, top, returned, ignored })
}

/// Cuts a text behind so many tokens.
fn cut(encoder: &TextEncoder, text: &mut String, most: usize) -> Result<(), Refusal> {
    let encoding = encoder.tokenizer().encode(text.as_str(), false).map_err(|_| Refusal::internal())?;
    if let Some((_, end)) = encoding.get_offsets().get(most - 1).filter(|_| encoding.len() > most) {
        text.truncate((0..=*end.min(&text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
    }
    Ok(())
}

impl Work {
    /// Scores the documents and puts the answer together, the best first.
    pub(crate) async fn answer(self, jobs: &Jobs) -> Result<Value, Refusal> {
        let (query, documents) = (Arc::new(self.query), Arc::new(self.documents));
        let (mut scores, mut tokens) = (Vec::with_capacity(documents.len()), 0);
        let late = self.encoder.is_late();
        let asked = match late {
            true => {
                let (encoder, query) = (self.encoder.clone(), query.clone());
                jobs.run(move || encoder.late_query(&query)).await??
            }
            false => Vec::new(),
        };
        let asked = Arc::new(asked);
        // A job for a few documents, so that others are not held up.
        for from in (0..documents.len()).step_by(8) {
            let (encoder, query, documents, asked) =
                (self.encoder.clone(), query.clone(), documents.clone(), asked.clone());
            let scored = jobs
                .run(move || {
                    let chosen = &documents[from..documents.len().min(from + 8)];
                    if late { late_scores(&encoder, &asked, chosen) } else { pair_scores(&encoder, &query, chosen) }
                })
                .await??;
            for (score, count) in scored {
                scores.push(score);
                tokens += count;
            }
        }
        if scores.iter().any(|score| score.is_nan()) {
            return Err(Refusal::internal());
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Equal scores stay in the order of the documents.
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let result = |i: usize| {
            let mut result = json!({"index": i, "relevance_score": scores[i].max(f32::MIN)});
            if let Some(returned) = &self.returned {
                result["document"] = json!({"text": returned[i]});
            }
            result
        };
        let results: Vec<Value> = order.into_iter().take(self.top).map(result).collect();
        Ok(json!({"id": fresh("rerank-"), "object": "list", "model": self.served.id, "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens}, "meta": {"api_version": {"version": "2"}}}))
    }
}

/// The probability of the label that says that a document answers the query, or the score of the only one; and about how many tokens were read.
fn pair_scores(
    encoder: &TextEncoder,
    query: &str,
    documents: &[String],
) -> Result<Vec<(f32, usize)>, longreach_engine::Error> {
    let labels = &encoder.model.description.labels;
    let about = encoder.parts(query, "", Long::Truncate)?.iter().map(|part| part.ids.len()).sum::<usize>();
    let score = |document: &String| {
        let (scored, _) = encoder.classify_pair(query, document)?;
        // With two labels or more, the last but for a single one is what says "relevant", as in MS MARCO's models.
        let wanted = labels.last();
        let score = scored.iter().find(|s| Some(&s.label) == wanted).map_or(f32::NAN, |s| s.score);
        let own: usize = encoder.parts(document, "", Long::Truncate)?.iter().map(|part| part.ids.len()).sum();
        Ok((score, about + own))
    };
    documents.iter().map(score).collect()
}

/// The sums of best matches of token vectors.
fn late_scores(
    encoder: &TextEncoder,
    query: &[f32],
    documents: &[String],
) -> Result<Vec<(f32, usize)>, longreach_engine::Error> {
    let mut scored = Vec::with_capacity(documents.len());
    for document in documents {
        let parts = encoder.late_parts(document, Long::Truncate)?;
        let chosen: Vec<&Part> = parts.iter().collect();
        let (vectors, width) = (encoder.late_documents(&chosen)?.concat(), encoder.width());
        let cx = longreach_burn::context();
        let scores = matches::scores(&cx, query, width, &vectors, &[0, vectors.len() / width]);
        scored.push((scores[0], parts.iter().map(|part| part.ids.len()).sum()));
    }
    Ok(scored)
}
