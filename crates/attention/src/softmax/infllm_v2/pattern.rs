//! The selection of blocks.

use longreach_simd::Cx;
use longreach_simd::product::Stored;

use super::{InfLlmV2, OP};
use crate::Error;
use crate::softmax::selected::{add_softmax, choose, highest, means};
use crate::softmax::{Inputs, Selected};

/// Selects the blocks that the queries of each group attend to, as a pattern for the kernel. Keys are given after
/// rotary embedding, if any. Errors on wrong shapes and parameters.
pub fn select<T: Stored>(x: &Inputs<'_, T>, of: &InfLlmV2, cx: &Cx) -> Result<Selected, Error> {
    let (sizes, groups) = of.check(x)?;
    let shape = of.lists(&sizes, groups);
    if sizes.keys < of.dense_below {
        let all = sizes.queries.clone().map(|i| (0..=(i / of.block) as u32).collect::<Vec<_>>());
        let lists: Vec<_> = all.collect();
        let every = (0..sizes.batch * groups).flat_map(|_| lists.clone());
        return Selected::new(OP, of.block, shape, every);
    }
    let summaries = means(x.k, of.kernel, of.stride, false, cx);
    let n = summaries.dim().1;
    let lists = choose(
        x,
        summaries.view(),
        groups,
        |i| of.visible(i, n),
        |i, products| {
            let own = i / of.block;
            let mut sum = vec![0.0f32; n];
            for scores in products {
                scores.iter_mut().for_each(|y| *y *= x.scale);
                add_softmax(cx.isa, scores, &mut sum);
            }
            let score = |block: usize| match of.forced(block, own) {
                true => f32::INFINITY,
                false => sum[of.pooled(block, n)].iter().fold(0.0f32, |a, b| a.max(*b)),
            };
            highest(&(0..=own).map(score).collect::<Vec<_>>(), of.chosen())
        },
        cx,
    );
    Selected::new(OP, of.block, shape, lists)
}
