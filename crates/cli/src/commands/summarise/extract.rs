//! A summary of the most central sentences.

use std::ffi::OsStr;
use std::ops::Range;

use longreach_engine::{Prompt, TextEncoder, normalize};
use longreach_models::Progress;
use longreach_search::split::{Begins, sentences};
use longreach_search::{lexrank, rank};
use serde_json::json;

use super::Args;
use crate::failure::Failure;
use crate::machine::device;
use crate::progress;
use crate::texts::Text;

/// Sentences that are compared with each other. Of more, each part of this many sends its best ones to a last comparison.
const MOST: usize = 4096;
/// Sentences of fewer words are not chosen.
const LEAST_WORDS: usize = 4;

/// A sentence of a text.
struct Candidate {
    text: usize,
    bytes: Range<usize>,
    words: usize,
}

/// The summary, with the places of its sentences.
pub(super) fn run(args: &Args, encoder: &OsStr, texts: &[Text]) -> Result<String, Failure> {
    let candidates = candidates(texts);
    if candidates.is_empty() {
        return Err(Failure::new(format!(
            "no sentence of at least {LEAST_WORDS} words was found: the texts cannot be summarised by their sentences"
        )));
    }
    let encoder = TextEncoder::load_on(encoder, None, &device(), Progress::Shown)?;
    encoder.notes().iter().for_each(|note| eprintln!("note: {note}"));
    if encoder.is_late() {
        return Err(Failure::new(format!(
            "{}: the model makes one vector per token: want one that makes a vector per text",
            encoder.name
        )));
    }
    let said: Vec<&str> = candidates.iter().map(|c| &texts[c.text].text[c.bytes.clone()]).collect();
    let bar = progress::things("reading", "sentences", said.len() as u64)?;
    let vectors = rank::vectors(&encoder, &said, Prompt::Default, |n| bar.set_position(n as u64));
    bar.finish_and_clear();
    let (mut vectors, width) = (vectors?, encoder.width());
    normalize(&mut vectors, width);
    let mut chosen = select(&candidates, &vectors, width, args.words as usize, 1.0 - args.diversity);
    chosen.sort_unstable();
    let line = |i: usize| {
        let (candidate, text) = (&candidates[i], &texts[candidates[i].text]);
        let sentence = said[i].split_whitespace().collect::<Vec<_>>().join(" ");
        let place = text.place(&candidate.bytes);
        if !args.json {
            return format!("{sentence}  ({place})\n");
        }
        let (first, last) = text.lines(&candidate.bytes);
        let object = json!({
            "sentence": sentence, "file": text.name, "place": place, "first_line": first, "last_line": last,
            "start": candidate.bytes.start, "end": candidate.bytes.end,
        });
        format!("{object}\n")
    };
    Ok(chosen.into_iter().map(line).collect())
}

/// The sentences that may be chosen: no headings, and none of few words.
fn candidates(texts: &[Text]) -> Vec<Candidate> {
    let of = |(number, text): (usize, &Text)| {
        let words = |bytes: &Range<usize>| text.text[bytes.clone()].split_whitespace().count();
        let all = sentences(&text.text).into_iter().filter(|sentence| sentence.begins != Begins::Chapter);
        let all = all.map(|sentence| Candidate { text: number, words: words(&sentence.bytes), bytes: sentence.bytes });
        all.filter(|candidate| candidate.words >= LEAST_WORDS).collect::<Vec<_>>()
    };
    texts.iter().enumerate().flat_map(of).collect()
}

/// The numbers of the chosen sentences: at most `words` words, or one sentence.
fn select(candidates: &[Candidate], vectors: &[f32], width: usize, words: usize, lambda: f64) -> Vec<usize> {
    let cx = &*longreach_burn::context();
    let rows = |numbers: &[usize]| -> Vec<f32> {
        numbers.iter().flat_map(|i| &vectors[i * width..(i + 1) * width]).copied().collect()
    };
    let mut left: Vec<usize> = (0..candidates.len()).collect();
    while left.len() > MOST {
        let parts = left.len().div_ceil(MOST);
        let best = left.chunks(left.len().div_ceil(parts)).flat_map(|part| {
            let scores: Vec<f32> = lexrank::rank(cx, &rows(part), width).into_iter().map(|p| p as f32).collect();
            let mut best = rank::best(&scores, (MOST / parts).clamp(1, part.len() / 2));
            best.sort_unstable();
            best.into_iter().map(|i| part[i]).collect::<Vec<_>>()
        });
        left = best.collect();
    }
    let vectors = rows(&left);
    let scores = lexrank::rank(cx, &vectors, width);
    let mut room = Some(words);
    let chosen = lexrank::choose(&scores, &vectors, width, lambda, |i| {
        let n = candidates[left[i]].words;
        match room {
            Some(free) if n <= free => room = Some(free - n),
            // The first sentence is given however long it is.
            Some(free) if free == words => room = None,
            _ => return false,
        }
        true
    });
    chosen.into_iter().map(|i| left[i]).collect()
}
