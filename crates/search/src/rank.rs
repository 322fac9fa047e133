//! Vectors of texts in memory, and passages by their similarity to a question, without an index.

use longreach_engine::{BATCH, Long, Part, Prompt, Similarity, TextEncoder, batches};
use longreach_simd::Cx;

use crate::{Error, matches};

/// The vectors of texts, one each, concatenated: `[texts, width]`. Texts beyond the input limit of the encoder are truncated. `progress` is called with the number
/// of texts that are done. An error if the model makes one vector per token, or a vector is not finite.
pub fn vectors(
    encoder: &TextEncoder,
    texts: &[&str],
    prompt: Prompt<'_>,
    mut progress: impl FnMut(usize),
) -> Result<Vec<f32>, Error> {
    let prompt = encoder.prompt(prompt)?.to_owned();
    let parts = parts(texts, |text| encoder.parts(text, &prompt, Long::Truncate))?;
    let width = encoder.width();
    let mut all = vec![0.0; texts.len() * width];
    let mut done = 0;
    for batch in batches(&parts, BATCH) {
        let chosen: Vec<&Part> = batch.iter().map(|i| &parts[*i]).collect();
        for (i, vector) in batch.iter().zip(encoder.vectors(&chosen).chunks(width)) {
            finite(vector, texts[*i])?;
            all[i * width..(i + 1) * width].copy_from_slice(vector);
        }
        done += batch.len();
        progress(done);
    }
    Ok(all)
}

/// The similarity of each passage to a question: that of the model, cosine, or MaxSim for late interaction. `progress` is called with the number of passages that
/// are done. An error if a vector is not finite.
pub fn similarities(
    cx: &Cx,
    encoder: &TextEncoder,
    passages: &[&str],
    question: &str,
    mut progress: impl FnMut(usize),
) -> Result<Vec<f32>, Error> {
    if !encoder.is_late() {
        let query = encoder.embed(&[question], Prompt::Query)?.concat();
        finite(&query, question)?;
        let similarity = encoder.pipeline.similarity.unwrap_or(Similarity::Cosine);
        let vectors = vectors(encoder, passages, Prompt::Document, progress)?;
        return Ok(vectors.chunks(encoder.width()).map(|vector| similarity.score(&query, vector)).collect());
    }
    let query = encoder.late_query(question)?;
    finite(&query, question)?;
    let parts = parts(passages, |text| encoder.late_parts(text, Long::Truncate))?;
    let width = encoder.width();
    let mut scores = vec![f32::NEG_INFINITY; passages.len()];
    let mut done = 0;
    for batch in batches(&parts, BATCH) {
        let chosen: Vec<&Part> = batch.iter().map(|i| &parts[*i]).collect();
        let vectors = encoder.late_documents(&chosen)?;
        let mut bounds = vec![0];
        bounds.extend(vectors.iter().scan(0, |end, vectors| {
            *end += vectors.len() / width;
            Some(*end)
        }));
        let vectors = vectors.concat();
        finite(&vectors, passages[batch[0]])?;
        for (i, score) in batch.iter().zip(matches::scores(cx, &query, width, &vectors, &bounds)) {
            scores[*i] = score;
        }
        done += batch.len();
        progress(done);
    }
    Ok(scores)
}

/// The first part of each text.
fn parts(
    texts: &[&str],
    mut of: impl FnMut(&str) -> Result<Vec<Part>, longreach_engine::Error>,
) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::with_capacity(texts.len());
    for text in texts {
        parts.extend(of(text)?.into_iter().next());
    }
    Ok(parts)
}

fn finite(vector: &[f32], text: &str) -> Result<(), Error> {
    if vector.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    let begins: String = text.chars().take(40).collect();
    Err(Error::NotFinite { origin: format!("the text that begins `{begins}`") })
}

/// The numbers of the `n` largest scores, best first; scores that are not finite are left out.
pub fn best(scores: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|i| scores[*i].is_finite()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(n);
    order
}
