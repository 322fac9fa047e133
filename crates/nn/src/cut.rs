//! Where a text may be divided into calls without changing a bit.
//!
//! The order in which a kernel adds up depends on where its call begins: recurrences take the tokens in groups of 64, tiles of
//! attention have 64 queries. A text is therefore read in calls that end at multiples of a number of tokens, counted from its
//! beginning, and the rest behind the last multiple in a call of its own. The logits and the state are then a function of the
//! tokens alone, in every bit: not of how many are read at a time, nor of whether the state was restored on the way.

use std::ops::Range;

use crate::{Block, Decoder};

/// The version of the order in which kernels add up. It is raised whenever that changes, so that states of another version are
/// not continued; the goldens of bits in `crates/models/tests/exact/arithmetic.rs` hold it.
pub const ARITHMETIC: u32 = 1;

/// How a text may be divided into calls: see [`Decoder::cut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Calls begin and end at multiples of this many tokens, a multiple of 64. Only the rest of a text may be shorter.
    pub tokens: usize,
    /// How long a call is.
    pub calls: Calls,
}

/// How long a call is that ends at a multiple of [`Cut::tokens`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Calls {
    /// Any multiple.
    Any,
    /// The first call of a text has [`Cut::tokens`] tokens and the others any multiple: what begins a text is computed in
    /// another way than what continues one.
    First,
    /// Each call has [`Cut::tokens`] tokens: memories of segments depend on the calls.
    Each,
}

impl Cut {
    /// Calls may end at multiples of 64 tokens.
    pub const ANY: Self = Self { tokens: 64, calls: Calls::Any };
    /// As [`Cut::ANY`], but for the first call, which has 64.
    pub const FIRST: Self = Self { tokens: 64, calls: Calls::First };
    /// Every call has 512 tokens.
    pub const EACH: Self = Self { tokens: 512, calls: Calls::Each };

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        // The numbers are powers of two, so that the greater is a multiple of the other.
        Self { tokens: self.tokens.max(other.tokens), calls: self.calls.max(other.calls) }
    }

    /// The multiple of [`Cut::tokens`] at or below `tokens`.
    pub fn below(self, tokens: usize) -> usize {
        tokens / self.tokens * self.tokens
    }

    /// The end of the call that reads on at `from` towards `to`, of at most `most` tokens where the model leaves a choice.
    /// `from` is a multiple of [`Cut::tokens`], or it is the end of a text that is read on, which is done in calls of `most`
    /// tokens.
    pub fn end(self, from: usize, to: usize, most: usize) -> usize {
        if !from.is_multiple_of(self.tokens) {
            return to.min(from.saturating_add(most.max(1)));
        }
        let last = self.below(to);
        if from >= last {
            return to;
        }
        let one = from + self.tokens;
        match self.calls {
            Calls::Each => one,
            Calls::First if from == 0 => one,
            // The ends are multiples of `most` as well, so that the calls are those of a text that is read from its beginning.
            _ => match (from + most) / most.max(1) * most {
                end if end > last => last,
                end => self.below(end).max(one),
            },
        }
    }

    /// The calls in which the tokens `of` are read: see [`Cut::end`].
    pub fn calls(self, of: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
        let mut from = of.start;
        std::iter::from_fn(move || {
            let call = (from < of.end).then(|| from..self.end(from, of.end, most))?;
            from = call.end;
            Some(call)
        })
    }
}

impl Decoder {
    /// How a text may be divided into calls. A text of `n` tokens that is read in the calls of [`Cut::calls`] has the same
    /// logits and state, in every bit, for any `most` and however the call of the model was interrupted in between, and the
    /// state at a multiple of [`Cut::tokens`] is the one of every text that begins with these tokens.
    pub fn cut(&self) -> Cut {
        if self.has_memory() {
            return Cut::EACH;
        }
        self.own_blocks().iter().map(Block::cut).fold(Cut::ANY, Cut::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_cover_a_text_and_end_at_multiples() {
        for cut in [Cut::ANY, Cut::FIRST, Cut::EACH, Cut { tokens: 256, calls: Calls::Any }] {
            for most in [1, 64, 100, 512, 1000] {
                for (from, to) in [(0, 1), (0, 63), (0, 64), (0, 700), (0, 2048), (512, 2000), (1536, 1536), (70, 900)]
                {
                    let calls: Vec<_> = cut.calls(from..to, most).collect();
                    let mut at = from;
                    for call in &calls {
                        assert_eq!(call.start, at, "{cut:?}");
                        assert!(call.end > at && call.end <= to);
                        at = call.end;
                        if from.is_multiple_of(cut.tokens) {
                            assert!(at == to || at.is_multiple_of(cut.tokens), "{cut:?} {most}: {calls:?}");
                            let rest = to - cut.below(to);
                            assert!(
                                at != to || rest == 0 || from == to || call.len() == rest,
                                "{cut:?} {most}: {calls:?}"
                            );
                        }
                        let whole = call.len() >= cut.tokens;
                        assert!(
                            cut.calls != Calls::Each || !whole || call.len() == cut.tokens || from % cut.tokens != 0
                        );
                        assert!(cut.calls == Calls::Any || call.start > 0 || call.len() <= cut.tokens);
                    }
                    assert_eq!(at, to);
                }
            }
        }
        let calls: Vec<_> = Cut::ANY.calls(0..1300, 512).collect();
        assert_eq!(calls, [0..512, 512..1024, 1024..1280, 1280..1300]);
        let calls: Vec<_> = Cut::FIRST.calls(0..1300, 512).collect();
        assert_eq!(calls, [0..64, 64..512, 512..1024, 1024..1280, 1280..1300]);
    }
}
