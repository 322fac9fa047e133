//! Okapi BM25, the score of passages by the words that they share with a question.
//!
//! $$ s(D) = \sum_{w \in Q} \ln\Bigl(1 + \frac{N - n_w + 0.5}{n_w + 0.5}\Bigr)
//! \frac{f_w (k_1 + 1)}{f_w + k_1 (1 - b + b |D| / \overline{|D|})} $$
//!
//! `f_w` is how often `w` occurs in `D`, `n_w` the number of passages with it. Robertson and Zaragoza 2009, §3, with the logarithm of Lucene, which is never
//! negative; `k₁ = 1.2`, `b = 0.75`.

use std::collections::HashMap;

const K1: f64 = 1.2;
const B: f64 = 0.75;

/// The scores of passages, which are 0 for those without a word of the question. O(bytes of the passages) time.
pub fn scores(passages: &[&str], question: &str) -> Vec<f32> {
    let mut asked: HashMap<String, usize> = HashMap::new();
    words(question, |word| {
        let next = asked.len();
        asked.entry(word.to_owned()).or_insert(next);
    });
    let mut counts = vec![vec![0u32; asked.len()]; passages.len()];
    let mut lengths = vec![0u64; passages.len()];
    for ((passage, counts), length) in passages.iter().zip(&mut counts).zip(&mut lengths) {
        words(passage, |word| {
            *length += 1;
            if let Some(at) = asked.get(word) {
                counts[*at] += 1;
            }
        });
    }
    let n = passages.len() as f64;
    let mean = (lengths.iter().sum::<u64>() as f64 / n.max(1.0)).max(1.0);
    let rare = |word: usize| {
        let with = counts.iter().filter(|counts| counts[word] > 0).count() as f64;
        (1.0 + (n - with + 0.5) / (with + 0.5)).ln()
    };
    let rare: Vec<f64> = (0..asked.len()).map(rare).collect();
    let score = |(counts, length): (&Vec<u32>, &u64)| {
        let long = K1 * (1.0 - B + B * *length as f64 / mean);
        let each = counts.iter().zip(&rare).map(|(f, rare)| rare * f64::from(*f) * (K1 + 1.0) / (f64::from(*f) + long));
        each.sum::<f64>() as f32
    };
    counts.iter().zip(&lengths).map(score).collect()
}

/// Calls `each` with the words of a text in lower case: runs of letters and digits, without a possessive `'s`. Characters of scripts without spaces are words by
/// themselves.
fn words(text: &str, mut each: impl FnMut(&str)) {
    let mut word = String::new();
    for part in text.split(|c: char| c.is_whitespace()) {
        let part = part.trim_matches(|c: char| !c.is_alphanumeric());
        let part = part.strip_suffix("'s").or(part.strip_suffix("’s")).unwrap_or(part);
        for c in part.chars().chain([' ']) {
            if c.is_alphanumeric() && !is_word_alone(c) {
                word.extend(c.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                each(&word);
                word.clear();
            }
            if is_word_alone(c) {
                each(c.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

/// Whether a character is of a script without spaces between words: Thai, Lao, Khmer, Myanmar, kana or Han.
fn is_word_alone(c: char) -> bool {
    matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x9fff | 0x20000..=0x3ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_equation() {
        let passages = ["the cat sat", "The dog's bone, the dog", "nothing here at all today"];
        let got = scores(&passages, "Dog? The!");
        // Worked by hand: N = 3, n(dog) = 1, n(the) = 2, lengths 3, 5, 5.
        let mean = 13.0 / 3.0;
        let idf = |n: f64| (1.0f64 + (3.0 - n + 0.5) / (n + 0.5)).ln();
        let tf = |f: f64, length: f64| f * 2.2 / (f + 1.2 * (0.25 + 0.75 * length / mean));
        let want = [idf(2.0) * tf(1.0, 3.0), idf(1.0) * tf(2.0, 5.0) + idf(2.0) * tf(2.0, 5.0), 0.0];
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(scores(&[], "dog"), [0.0; 0]);
        assert_eq!(scores(&["", "?"], ""), [0.0, 0.0]);
    }

    #[test]
    fn words_of_scripts_without_spaces_are_characters() {
        let mut all = Vec::new();
        words("東京タワー is J.-P.'s naïve Idea", |word| all.push(word.to_owned()));
        assert_eq!(all, ["東", "京", "タ", "ワ", "ー", "is", "j", "p", "naïve", "idea"]);
    }
}
