//! Prefetching of the next chunk, one cache line of each token at a time.

use std::ops::Range;

use longreach_simd::cache::prefetch_l2;

use super::Tokens;
use crate::sequences::Rows;

/// The cache lines of the next chunk's queries, keys and values of a head, to be prefetched one after another.
pub(super) struct PrefetchLines<'a> {
    rows: [&'a Rows<'a>; 3],
    tokens: Range<usize>,
    /// The columns of the head in each array that are still to be prefetched.
    columns: [Range<usize>; 3],
}

/// Elements of a cache line.
pub(super) const LINE: usize = 16;

impl<'a> PrefetchLines<'a> {
    #[inline(always)]
    pub(super) fn of(x: &'a Tokens<'a>, (h, tokens): (usize, Range<usize>)) -> Self {
        let (k, v) = (x.dims.k, x.dims.v);
        let group = x.dims.group(h);
        let of_keys = group * k..(group + 1) * k;
        Self { rows: [&x.q, &x.k, &x.v], tokens, columns: [of_keys.clone(), of_keys, h * v..(h + 1) * v] }
    }

    /// The next cache line, for all tokens.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Line<'a> {
        for (rows, columns) in self.rows.into_iter().zip(&mut self.columns) {
            if columns.start < columns.end {
                let at = columns.start;
                columns.start = (at + LINE).min(columns.end);
                return Line { rows: Some(rows), tokens: self.tokens.clone(), at };
            }
        }
        Line::NONE
    }
}

/// One cache line for each of several tokens.
pub(super) struct Line<'a> {
    rows: Option<&'a Rows<'a>>,
    tokens: Range<usize>,
    at: usize,
}

impl Line<'_> {
    pub(super) const NONE: Self = Self { rows: None, tokens: 0..0, at: 0 };

    /// Prefetches the line of one token, if there is such a token. One line per token keeps within the line-fill
    /// buffers.
    #[inline(always)]
    pub(super) fn prefetch(&self, token: usize) {
        let token = self.tokens.start + token;
        if let Some(rows) = self.rows.filter(|_| token < self.tokens.end) {
            prefetch_l2(&rows.get(token)[self.at..self.at + 1]);
        }
    }
}
