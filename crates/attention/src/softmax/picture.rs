//! Renders a pattern as a picture.

use ndarray::Array2;

use super::{BlockMask, Pattern, Sizes};
use crate::Error;

/// The number of unmasked pairs of head `h` of sequence `b` in each cell of a grid over all queries and keys; a pair
/// that counts several times counts once here.
///
/// The cost is proportional to the pairs in visited blocks.
pub fn picture(
    pattern: &(impl Pattern + ?Sized),
    of: &Sizes,
    (b, h): (usize, usize),
    (rows, columns): (usize, usize),
) -> Result<Array2<u64>, Error> {
    let mask = BlockMask::of(pattern, of)?;
    let block = mask.block().1;
    let mut cells = Array2::zeros((rows, columns));
    let cell = |at: usize, of: usize, cells: usize| at * cells / of.max(1);
    for n in mask.rows() {
        for entry in mask.row(b, h, n) {
            let keys = entry.keys as usize * block..((entry.keys as usize + 1) * block).min(of.keys);
            for i in mask.positions(n) {
                let row = cell(i - of.queries.start, of.queries.len(), rows);
                for at in (keys.start / 64 * 64..keys.end).step_by(64) {
                    let there = at..(at + 64).min(of.keys);
                    let seen = if entry.cut { pattern.seen(of, b, h, i, there.clone()) } else { u64::MAX };
                    for j in there.filter(|j| keys.contains(j) && seen >> (j - at) & 1 == 1) {
                        cells[[row, cell(j, of.keys, columns)]] += 1;
                    }
                }
            }
        }
    }
    Ok(cells)
}
