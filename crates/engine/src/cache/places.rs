//! Where states are kept while a text is read.

use longreach_nn::Cut;

/// Bytes of state a token that a grid of states may cost.
const GRID_BYTES: usize = 64 << 10;

/// The distance of the states of a grid, in tokens, where a state without cached keys has `bytes`: 64 to 2,048, so that they
/// cost about 1 KiB a token or less, and states that are larger lie further apart.
fn grid(bytes: usize) -> usize {
    bytes.div_ceil(GRID_BYTES).next_power_of_two().clamp(64, 2048)
}

/// The places of a text of `n` tokens at which states are kept, ascending, without those up to `from`: its end; the multiples of
/// the cut at or below the ends of messages and its own end, where it left a known text, at a grid, and at distances from its
/// end that double, so that a text that is edited at a distance `d` from its end is read again from at most `2 d` before it.
pub(super) fn places(
    cut: Cut,
    (from, n): (usize, usize),
    bytes: usize,
    known: impl Iterator<Item = usize>,
) -> Vec<usize> {
    let end = cut.below(n);
    let mut places: Vec<usize> = known.filter(|p| *p <= n).map(|p| cut.below(p)).collect();
    let step = grid(bytes).max(cut.tokens);
    places.extend((1..=n / step).map(|i| i * step));
    let mut back = cut.tokens;
    while back < end {
        places.push(cut.below(end - back));
        back *= 2;
    }
    places.extend([end, n]);
    places.retain(|p| *p > from);
    places.sort_unstable();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_read_again_from_at_most_twice_its_distance() {
        for (cut, bytes) in [(Cut::ANY, 1 << 30), (Cut::EACH, 1 << 30), (Cut::ANY, 1)] {
            for n in [1, 63, 64, 65, 1000, 4096, 10_007] {
                let places = places(cut, (0, n), bytes, [3, 700].into_iter());
                assert_eq!(places.last(), Some(&n));
                assert!(places.iter().all(|p| *p == n || p.is_multiple_of(cut.tokens)));
                for d in 1..=n {
                    let deepest = places.iter().rev().find(|p| **p <= n - d).copied().unwrap_or(0);
                    assert!(n - deepest <= 2 * d + 2 * cut.tokens, "{cut:?} {n}: an edit at {d} from {deepest}");
                }
            }
        }
    }

    #[test]
    fn small_states_lie_close_and_large_ones_far_apart() {
        assert_eq!([1, 1 << 20, 20 << 20, 1 << 30].map(grid), [64, 64, 512, 2048]);
    }
}
