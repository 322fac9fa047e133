//! Proposals from the text itself: what followed the last tokens where they occurred before.

use std::collections::HashMap;

/// The lengths of sequences that are looked up, the longest first.
const LENGTHS: [usize; 2] = [3, 2];

/// The last tokens that are looked up, [`LENGTHS`] of them; shorter ones begin with [`NONE`].
type Key = [u32; 3];

/// No token.
const NONE: u32 = u32::MAX;

/// A text, and where its sequences of tokens were last continued.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookup {
    text: Vec<u32>,
    /// For each sequence, the place of the token after its last occurrence.
    places: HashMap<Key, usize>,
}

impl Lookup {
    /// Makes the text this one. Only what is new is read if it begins as before.
    pub(super) fn follow(&mut self, text: &[u32]) {
        if !text.starts_with(&self.text) {
            *self = Self::default();
        }
        for (place, id) in text.iter().enumerate().skip(self.text.len()) {
            // The sequences that end before this token are now continued.
            for key in LENGTHS.iter().filter_map(|length| key(&self.text, *length)) {
                self.places.insert(key, place);
            }
            self.text.push(*id);
        }
    }

    /// Up to `most` tokens that followed the last tokens of the text and `next` before.
    pub(super) fn propose(&self, next: u32, most: usize) -> Vec<u32> {
        let mut last: Vec<u32> = self.text.iter().rev().take(LENGTHS[0] - 1).rev().copied().collect();
        last.push(next);
        let mut keys = LENGTHS.iter().filter_map(|length| key(&last, *length));
        let Some(place) = keys.find_map(|key| self.places.get(&key)) else { return Vec::new() };
        // A text that repeats itself goes on beyond its end with what is proposed.
        let mut found: Vec<u32> = Vec::with_capacity(most);
        for i in *place..*place + most {
            let id = match i.checked_sub(self.text.len()) {
                None => self.text[i],
                Some(0) => next,
                Some(beyond) => found[beyond - 1],
            };
            found.push(id);
        }
        found
    }
}

/// The last `length` tokens.
fn key(text: &[u32], length: usize) -> Option<Key> {
    let last = text.last_chunk::<3>().copied().or_else(|| text.last_chunk::<2>().map(|[a, b]| [NONE, *a, *b]))?;
    match length {
        3 if text.len() < 3 => None,
        3 => Some(last),
        _ => Some([NONE, last[1], last[2]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_last_occurrence_is_proposed() {
        let mut lookup = Lookup::default();
        lookup.follow(&[1, 2, 3, 4, 9, 2, 3, 5, 6]);
        assert!(lookup.propose(7, 3).is_empty());
        lookup.follow(&[1, 2, 3, 4, 9, 2, 3, 5, 6, 1, 2]);
        // Three tokens occurred once; the last two, later, were followed by others.
        assert_eq!(lookup.propose(3, 3), [4, 9, 2]);
        lookup.follow(&[1, 2, 3, 4, 9, 2, 3, 5, 6, 8, 2]);
        assert_eq!(lookup.propose(3, 2), [5, 6]);
        assert_eq!(lookup.propose(3, 6), [5, 6, 8, 2, 3, 5]);
    }

    #[test]
    fn a_text_that_repeats_one_token_goes_on_with_it() {
        let mut lookup = Lookup::default();
        lookup.follow(&[4, 4, 4]);
        assert_eq!(lookup.propose(4, 3), [4, 4, 4]);
        lookup.follow(&[]);
        assert!(lookup.propose(4, 3).is_empty());
    }
}
