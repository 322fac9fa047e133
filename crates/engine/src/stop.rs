//! Stop strings: a text ends before the first of them.

use crate::stream::opened;

/// Watches a text that is generated in pieces for strings at which it ends. Text is held back only while it may be the
/// beginning of one of them.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    strings: Vec<String>,
    /// Whether the one that was found is part of the text.
    keeps: bool,
    held: String,
    found: bool,
}

impl Stops {
    /// Watches for these strings; empty ones are ignored.
    pub fn new(strings: impl IntoIterator<Item = String>) -> Self {
        let strings = strings.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { strings, keeps: false, held: String::new(), found: false }
    }

    /// The same, where the text ends behind the string that was found if `keeps`, and before it otherwise.
    #[must_use]
    pub fn keeping(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }

    /// Whether one of the strings was found.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Appends a piece and returns the text that is certain not to belong to a stop string; nothing once one was found.
    ///
    /// Of several stop strings, the one that ends first counts, and the longest of those that end there: how the text is cut
    /// into pieces changes nothing.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found {
            return String::new();
        }
        if self.strings.is_empty() {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let ends = |stop: &String| self.held.find(&**stop).map(|start| (start + stop.len(), start));
        if let Some((end, start)) = self.strings.iter().filter_map(ends).min() {
            self.found = true;
            self.held.truncate(if self.keeps { end } else { start });
            return std::mem::take(&mut self.held);
        }
        let open = self.strings.iter().map(|stop| opened(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - open);
        std::mem::replace(&mut self.held, rest)
    }

    /// The text that was held back, if no more follows.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text before the stop that ends first, character by character.
    fn naive(text: &str, stops: &[&str]) -> (String, bool) {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let longest = stops.iter().filter(|stop| text[..end].ends_with(**stop)).map(|stop| stop.len()).max();
            if let Some(length) = longest {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn text_before_the_first_stop_is_printed_however_it_is_cut() {
        let texts = ["", "abcabd", "aaab", "xxaabaabaac", "Größe — ende\n\nNutzer: ja", "abcd", "ab", "日本語の文"];
        let stops: [&[&str]; 7] =
            [&[], &["abd"], &["aab", "b"], &["aabaac"], &["\n\n", "Nutzer:"], &["bc", "abcd"], &["語の", "ße"]];
        for text in texts {
            for stops in stops {
                let want = naive(text, stops);
                let characters: Vec<char> = text.chars().collect();
                for size in 1..=characters.len().max(1) {
                    let mut watch = Stops::new(stops.iter().map(|stop| (*stop).to_owned()));
                    let mut got = String::new();
                    for piece in characters.chunks(size) {
                        got.push_str(&watch.push(&piece.iter().collect::<String>()));
                    }
                    got.push_str(&watch.rest());
                    assert_eq!((got, watch.found()), want, "{text:?} in pieces of {size}, stops {stops:?}");
                }
            }
        }
    }

    #[test]
    fn a_stop_that_is_kept_is_the_end_of_the_text() {
        for size in 1..8 {
            let mut watch = Stops::new(["END".to_owned(), "x".to_owned()]).keeping(true);
            let letters: Vec<char> = "to the ENDx and on".chars().collect();
            let got: String = letters.chunks(size).map(|piece| watch.push(&piece.iter().collect::<String>())).collect();
            assert_eq!((got + &watch.rest(), watch.found()), ("to the END".to_owned(), true), "pieces of {size}");
        }
    }

    #[test]
    fn text_is_held_back_only_while_it_may_begin_a_stop() {
        let mut watch = Stops::new(["END".to_owned(), String::new()]);
        for (piece, want) in
            [("to the E", "to the "), ("N", ""), ("E", "EN"), ("NTER", "ENTER"), ("E", ""), ("x", "Ex")]
        {
            assert_eq!(watch.push(piece), want, "{piece}");
        }
        assert_eq!((watch.push("EN"), watch.rest()), (String::new(), "EN".to_owned()));
    }
}
