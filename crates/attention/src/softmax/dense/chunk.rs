//! Blocks of queries by blocks of keys: the family's kernel, with all blocks or those below the diagonal.

use longreach_simd::Cx;
use longreach_simd::product::Stored;

use super::{BLOCK, Causal, Inputs, OP};
use crate::Error;
use crate::softmax::mask::BlockMask;
use crate::softmax::tile::{self, Output};

/// Attention of all queries.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, cx: &Cx) -> Result<Output, Error> {
    let (t, s) = (x.q.dim().1, x.k.dim().1);
    let causal = Causal(x.causal);
    let mask = BlockMask::new((t, s), (BLOCK, BLOCK), (1, 1), |_, _, i, row| causal.blocks(i, t, s, row));
    let inputs = tile::Inputs {
        q: x.q,
        k: x.k,
        v: x.v,
        scale: x.scale,
        softcap: x.softcap,
        bias: x.bias,
        sinks: x.sinks,
        mask: &mask,
        cut: &causal,
    };
    tile::forward(OP, &inputs, cx)
}
