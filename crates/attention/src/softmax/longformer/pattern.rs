//! A band, and the columns and rows of global tokens.

use std::ops::Range;

use super::{Longformer, OP};
use crate::softmax::mask::{Entry, Pattern, Sizes, band, join, span};
use crate::{Error, error};

impl Longformer {
    fn near(&self, i: usize, keys: usize) -> Range<usize> {
        i.saturating_sub(self.window).min(keys)..i.saturating_add(self.window).saturating_add(1).min(keys)
    }
}

impl Pattern for Longformer {
    fn name(&self) -> &'static str {
        OP
    }

    fn check(&self, of: &Sizes) -> Result<(), Error> {
        let want = [if self.global.len() == 1 { 1 } else { of.batch }, of.keys.max(of.queries.end)];
        error::shape(OP, "global", &want, &[self.global.len(), self.tokens])
    }

    fn differs(&self) -> (bool, bool) {
        (self.global.len() > 1, false)
    }

    fn count(&self, _: &Sizes, b: usize, _: usize, i: usize, j: usize) -> u32 {
        self.sees(b, i, j).into()
    }

    fn visit(&self, of: &Sizes, b: usize, _: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (at, block) = (row.len(), self.block().1);
        let global = &self.global[b % self.global.len()];
        let of_queries = global.count(queries.clone());
        if of_queries > 0 && !self.local {
            let all = if of_queries == queries.len() { 0..of.keys } else { 0..0 };
            band(row, block, of.keys, keys.clone(), all);
        } else {
            let (first, last) = (self.near(queries.start, of.keys), self.near(queries.end - 1, of.keys));
            // If a query attends to nothing, no block is full.
            let all = if of_queries == 0 { last.start..first.end } else { 0..0 };
            band(row, block, of.keys, first.start.max(keys.start)..last.end.min(keys.end), all);
            for at in keys.start / block..keys.end.div_ceil(block) {
                let columns = at * block..((at + 1) * block).min(of.keys);
                let seen = global.count(columns.clone());
                if seen > 0 {
                    let whole = seen == columns.len() && of_queries == 0;
                    row.push(if whole { Entry::full(at) } else { Entry::cut(at) });
                }
            }
        }
        join(row, at);
    }

    fn seen(&self, of: &Sizes, b: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        if self.is_global(b, i) {
            return if self.local { 0 } else { u64::MAX };
        }
        span(self.near(i, of.keys), keys.clone()) | self.global[b % self.global.len()].get(keys)
    }
}
