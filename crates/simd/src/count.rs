//! Counts the vector operations of a computation, as issued by the scalar lanes: a cost that is the same on every
//! machine and in every run. Only with the feature `count`, which tests enable.
//!
//! The arithmetic operations of [`Lanes`](crate::Lanes) are counted, each once for all its lanes: sums, products,
//! quotients, multiply-adds, minima, maxima, roundings, selections and horizontal sums. Loads, stores and transposes
//! are not counted, nor is plain Rust.

use std::cell::Cell;

thread_local! {
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Returns `f`'s result and the number of operations it took on the calling thread, which is all of them if the team
/// has one thread.
pub fn operations<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let before = OPERATIONS.get();
    let result = f();
    (result, OPERATIONS.get() - before)
}

/// Counts one operation.
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
        // Three multiply-adds, three sums of partial sums, and one horizontal sum.
        assert_eq!(operations(|| dot(Scalar, &x, &x)), (20.0, 7));
        // Plain Rust is not counted.
        assert_eq!(operations(|| x[0] + x[1]), (2.0, 0));
    }
}
