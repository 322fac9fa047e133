//! Launches of the recurrence: over whole sequences, or over segments of them side by side.
//!
//! Without erasure the state after a segment is linear in that before it, `S' = Diag(e^{Σ g}) S + R`. So segments are
//! first read from a state of zero for `R`, these are chained, and the segments are read again, each from its own state.

use cubecl::prelude::*;

use super::plan::{GateAxis, Plan};
use super::recurrence;
use super::rule::Rule;
use super::segments::{self, Cut};
use crate::device::Device;
use crate::error::Error;
use crate::launch::{buffer, cubes, launch, words};
use crate::view::{DType, View, Words};

/// A recurrence of the states `[·, H, I, J]`.
#[derive(Clone, Debug)]
pub(crate) struct Recurrence<'a> {
    pub(crate) op: &'static str,
    pub(crate) device: &'a Device,
    /// Tokens of all sequences.
    pub(crate) tokens: usize,
    /// `H`, `I` and `J`
    pub(crate) sizes: [usize; 3],
    /// The inner vectors, `[tokens, heads or groups, I]`.
    pub(crate) inner: &'a [&'a View],
    /// The outer vectors, `[tokens, heads or groups, J]`.
    pub(crate) outer: &'a [&'a View],
    /// The gate, `[tokens, H]` or `[tokens, H, I or J]`, or without the tokens.
    pub(crate) gate: Option<&'a View>,
    pub(crate) axis: GateAxis,
    /// `[tokens, H]`
    pub(crate) strength: Option<&'a View>,
    /// `[tokens, H]`, or `[H]`
    pub(crate) skip: Option<&'a View>,
    pub(crate) scale: f32,
    pub(crate) reverse: bool,
    /// Whether states are stored as `[·, H, J, I]`.
    pub(crate) swapped: bool,
    pub(crate) rule: Rule,
    /// Outputs, `[tokens, H, J]`.
    pub(crate) outs: usize,
}

/// The states that a launch begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum States<'a> {
    /// Zero.
    Zero,
    /// One for each segment.
    Of(&'a View),
    /// Those of slots, `[slots, H, I, J]`, which are updated in place, by the slot of each sequence. A sequence without
    /// a slot has [`u32::MAX`].
    Slots(&'a View, &'a Words),
}

/// What a recurrence leaves.
#[derive(Debug)]
pub(crate) struct Run {
    /// The outputs.
    pub(crate) outs: Vec<View>,
    /// The state before each segment, in the order in which it is read.
    pub(crate) starts: View,
    /// The state after each sequence.
    pub(crate) last: View,
}

impl Recurrence<'_> {
    /// Reads all sequences. Segments are read side by side where a text may be cut.
    pub(crate) fn run(&self, cut: &Cut, first: &View) -> Result<Run, Error> {
        if self.rule.erases() || !cut.is_cut() {
            let (outs, last) = self.over(&cut.sequences, cut.count(), self.rule, States::Of(first), true)?;
            return Ok(Run { outs, starts: first.clone(), last: last.unwrap_or_else(|| first.clone()) });
        }
        let (starts, last) = self.states(cut, first)?;
        let (outs, _) = self.over(&cut.segments, cut.segment_count(), self.rule, States::Of(&starts), false)?;
        Ok(Run { outs, starts, last })
    }

    /// The states before each segment and after each sequence.
    pub(crate) fn states(&self, cut: &Cut, first: &View) -> Result<(View, View), Error> {
        if !cut.is_cut() {
            let (_, last) = self.over(&cut.sequences, cut.count(), self.rule.silent(), States::Of(first), true)?;
            return Ok((first.clone(), last.unwrap_or_else(|| first.clone())));
        }
        let (_, local) = self.over(&cut.segments, cut.segment_count(), self.rule.silent(), States::Zero, true)?;
        let local = local.unwrap_or_else(|| first.clone());
        let gates =
            segments::Gates { gate: self.gate.filter(|_| self.rule.decays()), axis: self.axis, tokens: self.tokens };
        segments::chain(self.op, self.device, cut, self.sizes, &gates, (self.reverse, self.swapped), &local, first)
    }

    /// Reads segments, each from its own state, or from zero.
    pub(crate) fn over(
        &self,
        bounds: &Words,
        count: usize,
        rule: Rule,
        first: States<'_>,
        has_last: bool,
    ) -> Result<(Vec<View>, Option<View>), Error> {
        let device = self.device;
        let [heads, inner, outer] = self.sizes;
        let silent = rule != self.rule;
        let shape = [self.tokens, heads, outer];
        let outs: Vec<View> =
            (0..if silent { 0 } else { self.outs }).map(|_| View::empty(device, &shape, DType::F32)).collect();
        let of_state = if self.swapped { [count, heads, outer, inner] } else { [count, heads, inner, outer] };
        let (first, slots, last) = match first {
            States::Zero => (None, None, None),
            States::Of(first) => (Some(first), None, None),
            States::Slots(states, slots) => (None, Some(slots), Some(states.clone())),
        };
        let last = last.or_else(|| has_last.then(|| View::empty(device, &of_state, DType::F32)));
        let base = self.plan(rule)?;
        let plan = Plan { has_first: first.is_some(), has_slots: slots.is_some(), has_last: last.is_some(), ..base };
        if count * heads * outer == 0 {
            return Ok((outs, last));
        }
        let cubes = cubes(self.op, device, [plan.slices(), heads, count])?;
        let buffers = |views: &mut dyn Iterator<Item = &View>| views.map(|x| buffer(device, x)).collect();
        let decayed = self.gate.filter(|_| plan.gate != GateAxis::None);
        launch!(
            "tokens are those of `bounds`, which rise to the number of tokens, and rows and columns are compared with the plan's",
            recurrence::recurrence on device,
            cubes,
            CubeDim::new_2d(plan.columns as u32, plan.parts as u32),
            buffers(&mut self.inner.iter().copied()),
            buffers(&mut self.outer.iter().copied()),
            buffers(&mut decayed.into_iter()),
            buffers(&mut self.strength.into_iter()),
            buffers(&mut self.skip.filter(|_| !silent).into_iter()),
            buffers(&mut first.into_iter()),
            words(bounds),
            slots.into_iter().map(words).collect(),
            buffers(&mut outs.iter()),
            buffers(&mut last.iter()),
            self.scale,
            plan,
        );
        Ok((outs, last))
    }

    fn plan(&self, rule: Rule) -> Result<Plan, Error> {
        let [heads, inner, outer] = self.sizes;
        let tokens = self.tokens.max(1);
        let groups = |views: &[&View], width: usize, n: usize| {
            views.get(n).map_or(1, |x| (x.len() / (tokens * width).max(1)).max(1))
        };
        let width = match self.axis {
            GateAxis::None => 0,
            GateAxis::Token => heads,
            GateAxis::Inner => heads * inner,
            GateAxis::Outer => heads * outer,
        };
        let by_token = |x: &View, width: usize| {
            if x.shape().len() > 1 && x.shape()[0] == self.tokens && x.len() == self.tokens * width { width } else { 0 }
        };
        let plan = Plan {
            heads,
            inner,
            outer,
            inners: self.inner.len(),
            outers: self.outer.len(),
            inner_heads: std::array::from_fn(|n| groups(self.inner, inner, n)),
            outer_heads: std::array::from_fn(|n| groups(self.outer, outer, n)),
            gate: if self.gate.is_some() && rule.decays() { self.axis } else { GateAxis::None },
            gate_stride: self.gate.map_or(0, |gate| by_token(gate, width)),
            skip_stride: self.skip.map_or(0, |skip| by_token(skip, heads)),
            reverse: self.reverse,
            swapped: self.swapped,
            has_first: false,
            has_slots: false,
            has_last: false,
            rule,
            rows: 4,
            parts: 1,
            columns: 32,
            tokens: 1,
        };
        plan.divided(self.op, &self.device.facts().limits)
    }
}
