//! The definition.

/// The blocks that block `i` of `n` attends to, without random ones.
pub(super) fn fixed(i: usize, n: usize) -> Vec<usize> {
    match i {
        0 => (0..n).collect(),
        1 => vec![0, 1, 2, n - 1],
        _ if i == n - 1 => (0..n).collect(),
        _ if i == n - 2 => vec![0, n - 3, n - 2, n - 1],
        _ => vec![0, i - 1, i, i + 1, n - 1],
    }
}
