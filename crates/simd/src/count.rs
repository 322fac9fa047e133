//! How many operations a computation takes, counted by the scalar lanes: a cost that is the same on every machine and
//! in every run. Only with the feature `count`, which tests turn on; without it nothing is counted.
//!
//! Counted are the operations of [`Lanes`](crate::Lanes) that compute, each once for all its lanes: sums, products,
//! quotients, multiply-adds, minima, maxima, roundings, selections, sums across lanes. Loads, stores and transposes are
//! not, nor is what a kernel does in plain Rust.

use std::cell::Cell;

thread_local! {
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

/// What `f` returns, and how many operations it took on this thread: all there were, if its team has no other.
pub fn operations<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let before = OPERATIONS.get();
    let result = f();
    (result, OPERATIONS.get() - before)
}

/// One more.
#[inline(always)]
pub(crate) fn one() {
    OPERATIONS.set(OPERATIONS.get() + 1);
}

#[cfg(test)]
mod tests {
    use super::operations;
    use crate::lanes::Scalar;
    use crate::math::dot;

    #[test]
    fn an_operation_counts_once_for_all_lanes() {
        let x = [1.0; 20];
        // Three multiply-adds, three sums of partial sums, and one across lanes.
        assert_eq!(operations(|| dot(Scalar, &x, &x)), (20.0, 7));
        // In plain Rust.
        assert_eq!(operations(|| x[0] + x[1]), (2.0, 0));
    }
}
