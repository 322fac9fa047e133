//! Taking a state back to what it was a few tokens before.

use super::kv_cache::KvMark;
use super::{BranchState, Cache, Part, State};
use crate::hmt::HmtState;

/// The state of a model at some point of a text, to which [`Cache::rewind`] takes a later one back.
///
/// Cached keys are not copied: a mark holds what the state that goes on does not change. It holds all other parts.
#[derive(Clone, Debug)]
pub struct Mark {
    states: Vec<MarkedState>,
    hmt: Option<HmtState>,
}

/// The state of an operation.
#[derive(Clone, Debug)]
struct MarkedState {
    parts: Vec<MarkedPart>,
    positions: Vec<usize>,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few per layer")]
enum MarkedPart {
    Keys(KvMark),
    Other(Part),
}

impl MarkedState {
    fn of(state: &State) -> Self {
        let part = |part: &Part| match part {
            Part::Keys(keys) => MarkedPart::Keys(keys.mark()),
            other => MarkedPart::Other(other.clone()),
        };
        Self { parts: state.parts.iter().map(|(_, of)| part(of)).collect(), positions: state.positions.clone() }
    }
}

impl Mark {
    /// Whether the state can be taken back to tokens behind the mark: cached keys are all that the model remembers.
    fn keeps_tokens(&self) -> bool {
        let mut parts = self.states.iter().flat_map(|state| &state.parts);
        self.hmt.is_none() && parts.all(|part| matches!(part, MarkedPart::Keys(keys) if keys.keeps_rows()))
    }
}

impl State {
    fn rewind(&mut self, mark: MarkedState, more: usize) {
        self.positions = mark.positions.iter().map(|before| before + more).collect();
        for ((_, part), mark) in self.parts.iter_mut().zip(mark.parts) {
            match (part, mark) {
                (Part::Keys(keys), MarkedPart::Keys(mark)) => keys.rewind(mark, more),
                (part, MarkedPart::Other(mark)) => *part = mark,
                _ => panic!("the mark belongs to another model"),
            }
        }
    }
}

impl BranchState {
    fn rewind(&mut self, marks: &mut impl Iterator<Item = MarkedState>, more: usize) {
        match self {
            BranchState::Nothing => {}
            BranchState::Operation(state) => state.rewind(marks.next().expect("a mark of the same model"), more),
            BranchState::Parallel(branches) => branches.iter_mut().for_each(|branch| branch.rewind(marks, more)),
        }
    }
}

impl Cache {
    /// Marks the state, so that it can be taken back to here.
    pub fn mark(&self) -> Mark {
        let states = self.layers.iter().flat_map(|layer| layer.states()).map(MarkedState::of).collect();
        Mark { states, hmt: self.hmt.clone() }
    }

    /// Takes the state back to the mark and up to `tokens` of the tokens that were read since, and returns how many of
    /// them it has: `tokens` if cached keys are all that the model remembers and the text is not short, and otherwise 0, so
    /// that they must be read again. The state is then in every bit the one that has read no more than those.
    ///
    /// Since the mark, tokens must have been read in calls of at most [`Decoder::FEW`](crate::Decoder::FEW), no more than 32
    /// of them. Panics if the mark belongs to another model.
    pub fn rewind(&mut self, mark: Mark, tokens: usize) -> usize {
        let tokens = if mark.keeps_tokens() { tokens } else { 0 };
        self.hmt = mark.hmt;
        let mut marks = mark.states.into_iter();
        for branch in self.layers.iter_mut().flat_map(|layer| &mut layer.0) {
            branch.rewind(&mut marks, tokens);
        }
        tokens
    }
}
