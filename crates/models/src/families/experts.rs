//! Mixtures of experts whose matrices are stored as one tensor for all experts.

use std::ops::Range;

use longreach_nn::GatedFeedForwardConfig;

use crate::{Rewrite, Step};

/// Experts that are stored in two tensors: `up: [experts, 2 inner, d]`, with the rows of the gate before those of the up
/// projection, and `down: [experts, d, inner]`. `at` is the pattern of the names in front of both lists.
pub(crate) fn stacked(
    at: &str,
    experts: &str,
    count: usize,
    c: &GatedFeedForwardConfig,
    [up, down]: [&str; 2],
) -> Vec<Rewrite> {
    let rows = |rows: Range<usize>| vec![Step::Nth(count), Step::Rows(rows, 2 * c.inner)];
    let ours = |name: &str| format!("{at}.{experts}.*.{name}.weight");
    let [gate_name, up_name, down_name] = &c.names;
    vec![
        Rewrite::new(ours(gate_name), format!("{at}.{up}"), rows(0..c.inner)),
        Rewrite::new(ours(up_name), format!("{at}.{up}"), rows(c.inner..2 * c.inner)),
        Rewrite::new(ours(down_name), format!("{at}.{down}"), [Step::Nth(count)]),
    ]
}
