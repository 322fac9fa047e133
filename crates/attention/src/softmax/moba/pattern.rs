//! The selection of blocks.

use longreach_simd::Cx;
use longreach_simd::product::Stored;

use super::{Moba, OP};
use crate::Error;
use crate::softmax::selected::{Scored, choose, highest, means};
use crate::softmax::{Inputs, Selected};

/// Selects the blocks that each query attends to, as a pattern for the kernel. Keys are given after rotary embedding,
/// if any. Errors on wrong shapes and parameters.
pub fn select<T: Stored>(x: &Inputs<'_, T>, moba: &Moba, cx: &Cx) -> Result<Selected, Error> {
    let (of, groups) = moba.check(x)?;
    let keys = means(x.k, moba.block, moba.block, true, cx);
    let lists = choose(
        &Scored { q: x.q, offset: x.offset, keys: &[keys.view()], groups: of.heads },
        |i| i / moba.block,
        |i, past| {
            let mut list = past.first().map_or_else(Vec::new, |past| highest(past, moba.top - 1));
            list.push((i / moba.block) as u32);
            list
        },
        cx,
    );
    Selected::new(OP, moba.block, moba.lists(&of, groups), lists)
}
