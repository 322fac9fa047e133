//! The choice.

use longreach_simd::Cx;
use longreach_simd::product::Stored;

use super::{Moba, OP};
use crate::Error;
use crate::softmax::selected::{choose, highest, means};
use crate::softmax::{Inputs, Selected};

/// The blocks that each query sees: a pattern for the family's kernel. Keys are given as the scores see them, rotated where they are.
pub fn select<T: Stored>(x: &Inputs<'_, T>, moba: &Moba, cx: &Cx) -> Result<Selected, Error> {
    let (of, _) = moba.check(x)?;
    let keys = means(x.k, moba.block, moba.block, true);
    let lists = choose(
        x,
        keys.view(),
        of.heads,
        |i, products| {
            let own = i / moba.block;
            let past = products.row(0);
            let mut list = highest(&past.as_slice().unwrap_or_default()[..own.min(past.len())], moba.top - 1);
            list.push(own as u32);
            list
        },
        cx,
    );
    Selected::new(OP, moba.block, (of.batch, of.heads, of.queries), lists)
}
