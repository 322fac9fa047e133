//! The left factor: rows of `x`, rounded to 8 bits block by block.

use crate::norm::Rows;
use crate::team::Scratch;
use crate::{Cx, Kernel, Lanes};

/// How a kernel reads the left factor. A group is what it multiplies at once: a block, or several of 32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Numbers that share a factor: as many as a block of weights has.
    pub(super) block: usize,
    /// Numbers of a group.
    pub(super) group: usize,
    /// Numbers that share a sum: as many as a sub-block of weights has.
    pub(super) sub: usize,
    /// Which sixteen numbers of a group are at which place.
    pub(super) pieces: &'static [u8],
    /// What was added to the codes of the weights to make them unsigned.
    pub(super) offset: i32,
}

/// Numbers of a piece.
pub(super) const PIECE: usize = 16;
/// Sums and corrections for each group; groups with fewer leave the rest zero.
pub(super) const SLOTS: usize = 16;

/// Rounded rows.
pub(super) struct Operand {
    pub(super) plan: Plan,
    /// Groups of a row; the last may be filled up with zeros.
    pub(super) groups: usize,
    codes: Aligned,
    sums: Aligned,
    starts: Aligned,
    factors: Aligned,
}

impl Operand {
    pub(super) fn new(cx: &Cx, x: Rows<'_>, plan: Plan) -> Self {
        let groups = x.width.div_ceil(plan.group);
        let blocks = plan.group / plan.block;
        let corrected = if plan.offset == 0 { 0 } else { SLOTS };
        let mut all = Self {
            plan,
            groups,
            codes: Aligned::new(x.count * groups * plan.group),
            sums: Aligned::new(2 * x.count * groups * SLOTS),
            starts: Aligned::new(4 * x.count * groups * corrected),
            factors: Aligned::new(4 * x.count * groups * blocks),
        };
        if x.count == 0 || groups == 0 {
            return all;
        }
        let mut starts = all.starts.of_mut::<i32>().chunks_mut((groups * corrected).max(1));
        let parts = (all.codes.of_mut().chunks_mut(groups * plan.group))
            .zip(all.sums.of_mut().chunks_mut(groups * SLOTS))
            .zip(all.factors.of_mut().chunks_mut(groups * blocks));
        let parts = parts.enumerate().map(|(i, part)| (i, part, starts.next().unwrap_or_default()));
        cx.team.for_each(parts, |(i, ((codes, sums), factors), starts)| {
            cx.isa.run(RoundRow { row: x.row(i), plan, codes, sums, factors, starts });
        });
        all
    }

    /// The codes of row `i`, group after group, in the order of the plan's pieces.
    #[inline(always)]
    pub(super) fn codes(&self, i: usize) -> &[i8] {
        let row = self.groups * self.plan.group;
        &self.codes.of()[i * row..][..row]
    }

    /// The sums of each sub-block of row `i`, [`SLOTS`] for each group.
    #[inline(always)]
    pub(super) fn sums(&self, i: usize) -> &[i16] {
        let row = self.groups * SLOTS;
        &self.sums.of()[i * row..][..row]
    }

    /// What sums of products with unsigned codes start from to come out as those with signed codes: [`SLOTS`] for each
    /// group. In groups of one block there is one for each place of a piece; in groups of several one for every fourth
    /// slot, in the order of the blocks. Empty if the plan has no offset.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only kernels with unsigned codes need them"))]
    #[inline(always)]
    pub(super) fn starts(&self, i: usize) -> &[i32] {
        let row = if self.plan.offset == 0 { 0 } else { self.groups * SLOTS };
        &self.starts.of()[i * row..][..row]
    }

    /// The factor of each block of row `i`, 0 for those that were filled up.
    #[inline(always)]
    pub(super) fn factors(&self, i: usize) -> &[f32] {
        let row = self.groups * (self.plan.group / self.plan.block);
        &self.factors.of()[i * row..][..row]
    }
}

/// Rounds a row.
struct RoundRow<'a> {
    row: &'a [f32],
    plan: Plan,
    codes: &'a mut [i8],
    sums: &'a mut [i16],
    factors: &'a mut [f32],
    starts: &'a mut [i32],
}

impl Kernel for RoundRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        // Loops of constant length are compiled to few vectors.
        match (self.plan.block, self.plan.sub) {
            (32, _) => self.rounded::<32, 32>(),
            (_, 16) => self.rounded::<256, 16>(),
            _ => self.rounded::<256, 32>(),
        }
    }
}

impl RoundRow<'_> {
    /// Rounds blocks of `B` numbers with sums of `SUB`.
    #[inline(always)]
    fn rounded<const B: usize, const SUB: usize>(self) {
        let Self { row, plan, codes, sums, factors, starts } = self;
        let blocks = plan.group / B;
        assert!(plan.block == B && plan.sub == SUB && plan.group <= 256);
        for (g, row) in row.chunks(plan.group).enumerate() {
            let mut natural = [0; 256];
            let factors = &mut factors[g * blocks..][..blocks];
            factors.fill(0.0);
            for ((block, to), factor) in row.as_chunks::<B>().0.iter().zip(natural.as_chunks_mut::<B>().0).zip(factors)
            {
                *factor = round(block, to);
            }
            let pieces = natural.as_chunks::<PIECE>().0;
            for (piece, to) in plan.pieces.iter().zip(codes[g * plan.group..].as_chunks_mut::<PIECE>().0) {
                *to = pieces[usize::from(*piece)];
            }
            let sums = &mut sums[g * SLOTS..][..SLOTS];
            sums.fill(0);
            for (sum, codes) in sums.iter_mut().zip(natural[..plan.group].as_chunks::<SUB>().0) {
                *sum = codes.iter().map(|c| i16::from(*c)).sum();
            }
            if plan.offset != 0 {
                let starts = &mut starts[g * SLOTS..][..SLOTS];
                starts.fill(0);
                for (place, piece) in plan.pieces.iter().enumerate().take(SLOTS) {
                    let sub = usize::from(*piece) * PIECE / SUB;
                    let slot = if blocks == 1 { place } else { 4 * sub };
                    starts[slot] = -plan.offset * i32::from(sums[sub]);
                }
            }
        }
    }
}

/// Rounds a block and returns its factor: NaN for a block with a number that is not finite, 0 for one of zeros.
#[inline(always)]
fn round<const B: usize>(block: &[f32; B], codes: &mut [i8; B]) -> f32 {
    let mut most = [0u32; 16];
    for part in block.as_chunks::<16>().0 {
        for (most, x) in most.iter_mut().zip(part) {
            // Magnitudes are ordered as their bits are, and what is not finite is above all others.
            *most = (*most).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    let most = f32::from_bits(most.into_iter().fold(0, u32::max));
    if !most.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    let factor = most / 127.0;
    let inverse = 1.0 / factor;
    if !inverse.is_finite() {
        codes.fill(0);
        return 0.0;
    }
    for (code, x) in codes.iter_mut().zip(block) {
        // Adding this number rounds to an integer, ties to even, and leaves it in the lowest bits.
        const SHIFT: f32 = 12_582_912.0;
        *code = (x * inverse + SHIFT).to_bits() as u8 as i8;
    }
    factor
}

/// A scratch buffer that starts at a cache line, so that no vector of it lies across two.
struct Aligned {
    room: Scratch,
    first: usize,
    bytes: usize,
}

/// Numbers whose every bit pattern is one.
trait Plain: Copy {}
impl Plain for i8 {}
impl Plain for i16 {}
impl Plain for i32 {}
impl Plain for f32 {}

impl Aligned {
    const LINE: usize = 64;

    fn new(bytes: usize) -> Self {
        let room = Scratch::new(bytes.div_ceil(4) + Self::LINE / 4);
        let first = room.as_ptr().addr().next_multiple_of(Self::LINE) - room.as_ptr().addr();
        Self { room, first, bytes }
    }

    #[inline(always)]
    fn of<T: Plain>(&self) -> &[T] {
        let bytes = &self.room.bytes()[self.first..][..self.bytes];
        // SAFETY: the bytes are initialised and every pattern is a `T`; a cache line is aligned for it.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    #[inline(always)]
    fn of_mut<T: Plain>(&mut self) -> &mut [T] {
        let bytes = &mut self.room.bytes_mut()[self.first..][..self.bytes];
        // SAFETY: as in `of`.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), self.bytes / size_of::<T>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn rounding_is_to_the_nearest_in_blocks() {
        let row: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) * if i < 32 { 0.25 } else { 100.0 }).collect();
        let plan = Plan { block: 32, group: 128, sub: 32, pieces: &[0, 2, 4, 6, 1, 3, 5, 7], offset: 8 };
        for isa in Isa::available() {
            let operand = Operand::new(&Cx::with_isa(isa, 1), Rows::contiguous(&row, 64), plan);
            assert_eq!(operand.factors(0), [5.0 / 127.0, 4300.0 / 127.0, 0.0, 0.0]);
            let want: Vec<i8> = row
                .iter()
                .enumerate()
                .map(|(i, x)| (x * (1.0 / operand.factors(0)[i / 32])).round_ties_even() as i8)
                .collect();
            let codes = operand.codes(0);
            assert_eq!((&codes[..16], &codes[64..80]), (&want[..16], &want[16..32]));
            assert_eq!((&codes[16..32], &codes[80..96]), (&want[32..48], &want[48..]));
            let sums: Vec<i16> = want.chunks(32).map(|c| c.iter().map(|c| i16::from(*c)).sum()).collect();
            assert_eq!(operand.sums(0)[..4], [sums[0], sums[1], 0, 0]);
            assert_eq!(operand.starts(0)[..6], [-8 * i32::from(sums[0]), 0, 0, 0, -8 * i32::from(sums[1]), 0]);
        }
    }

    #[test]
    fn what_cannot_be_rounded_has_a_factor_that_says_so() {
        let mut codes = [1; 32];
        assert_eq!(round(&[0.0; 32], &mut codes), 0.0);
        assert_eq!((round(&[1e-45; 32], &mut codes), codes), (0.0, [0; 32]));
        for none in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[7] = none;
            assert!(round(&x, &mut codes).is_nan());
        }
        assert_eq!((round(&[f32::MAX; 32], &mut codes), codes), (f32::MAX / 127.0, [127; 32]));
    }
}
