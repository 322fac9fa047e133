//! Passages of files, their vectors, and those that match a question best.

use std::ops::Range;
use std::sync::Arc;

use longreach_engine::{BATCH, Long, Part, Prompt, Similarity, TextEncoder, batches};
use longreach_search::rank::best;
use longreach_search::{bm25, split};

use super::{File, Passage, Store};
use crate::jobs::Jobs;
use crate::refusal::Refusal;
use crate::served::{Purpose, Served};

/// The longest passage in tokens of the encoder, or about so many where there is none.
const PASSAGE: usize = 200;

/// The encoder of a store.
pub(crate) fn encoder(served: Option<&Arc<Served>>) -> Option<Arc<TextEncoder>> {
    match &served?.purpose {
        Purpose::Embed(encoder) => Some(encoder.clone()),
        _ => None,
    }
}

/// The places of the passages of a text.
fn places(text: &str, encoder: Option<&TextEncoder>) -> Vec<Range<usize>> {
    let most = encoder.map_or(PASSAGE, |encoder| PASSAGE.min(encoder.limit().saturating_sub(8).max(1)));
    split::pieces(text, most, |part| {
        let ids = encoder.and_then(|encoder| encoder.tokenizer().encode_fast(part, false).ok());
        // A word is four thirds of a token in English.
        ids.map_or_else(|| part.split_whitespace().count() * 4 / 3, |ids| ids.len())
    })
}

/// Divides files into passages, and computes their vectors in batches between the steps of other requests.
pub(crate) async fn passages(
    files: Vec<Arc<File>>,
    encoder: Option<Arc<TextEncoder>>,
    jobs: &Jobs,
) -> Result<Vec<Passage>, Refusal> {
    let own = encoder.clone();
    let divide = move || {
        let mut passages = Vec::new();
        for file in files {
            for bytes in places(&file.text, own.as_deref()) {
                passages.push(Passage { file: file.clone(), bytes, vector: Vec::new() });
            }
        }
        let Some(encoder) = own else { return Ok((passages, Vec::new())) };
        let prompt = encoder.prompt(Prompt::Document)?.to_owned();
        let parts = passages
            .iter()
            .map(|passage| Ok(encoder.parts(passage.text(), &prompt, Long::Truncate)?.into_iter().next()));
        let parts = parts.collect::<Result<Vec<Option<Part>>, longreach_engine::Error>>()?;
        Ok::<_, Refusal>((passages, parts.into_iter().flatten().collect()))
    };
    let (mut passages, parts) = tokio::task::spawn_blocking(divide).await.map_err(|_| Refusal::internal())??;
    let Some(encoder) = encoder else { return Ok(passages) };
    let (parts, width) = (Arc::new(parts), encoder.width());
    for batch in batches(&parts, BATCH) {
        let (encoder, parts, chosen) = (encoder.clone(), parts.clone(), batch.clone());
        let made = jobs.run(move || encoder.vectors(&chosen.iter().map(|i| &parts[*i]).collect::<Vec<_>>())).await?;
        for (i, vector) in batch.iter().zip(made.chunks(width)) {
            if vector.iter().any(|x| !x.is_finite()) {
                return Err(Refusal::internal());
            }
            passages[*i].vector = vector.to_vec();
        }
    }
    Ok(passages)
}

/// A passage with its score.
pub(crate) struct Found {
    pub(crate) passage: Passage,
    pub(crate) score: f32,
}

/// The passages of stores that match a question best, the best first. All stores have the encoder of the first one, or none has.
pub(crate) async fn found(
    stores: &[Arc<Store>],
    question: &str,
    most: usize,
    jobs: &Jobs,
) -> Result<Vec<Found>, Refusal> {
    let encoder = stores.first().and_then(|store| encoder(store.encoder.as_ref()));
    let passages: Vec<Passage> = stores.iter().flat_map(|store| store.passages.iter().cloned()).collect();
    let scores = match encoder {
        Some(encoder) => {
            let (own, asked) = (encoder.clone(), question.to_owned());
            let query = jobs.run(move || own.embed(&[&asked], Prompt::Query)).await??.concat();
            let similarity = encoder.pipeline.similarity.unwrap_or(Similarity::Cosine);
            let score = |passage: &Passage| match passage.vector.len() == query.len() {
                true => similarity.score(&query, &passage.vector),
                false => f32::NEG_INFINITY,
            };
            passages.iter().map(score).collect()
        }
        None => {
            let texts: Vec<&str> = passages.iter().map(Passage::text).collect();
            let scores = bm25::scores(&texts, question);
            // A passage without a word of the question does not match it.
            scores.into_iter().map(|score| if score > 0.0 { score } else { f32::NEG_INFINITY }).collect::<Vec<f32>>()
        }
    };
    let order = best(&scores, most);
    Ok(order.into_iter().map(|i| Found { passage: passages[i].clone(), score: scores[i] }).collect())
}
