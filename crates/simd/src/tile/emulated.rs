//! What the instructions on tiles compute, in scalar code: Intel SDM, volume 2, `TDPBF16PS`, `TDPBUSD`, `VDPBF16PS`.
//!
//! Numbers below the normal range count as zero, where they are read and where they would be written, and every
//! operation rounds once, to nearest, ties to even.

use super::{Bf16Blocks, ByteBlocks, Part, Quads, SIDE, STEP, STEP_BYTES, Start, Sums, TILE, bf16_steps, byte_steps};

/// Sixteen rows of 64 bytes, as groups of four in ascending order from the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile([[u32; TILE]; TILE]);

impl Tile {
    /// The tile whose element `(i, j)` is `element(i, j)`.
    fn from(element: impl Fn(usize, usize) -> u32) -> Self {
        Self(std::array::from_fn(|i| std::array::from_fn(|j| element(i, j))))
    }

    /// `TDPBF16PS`: for each sum two chains, of the lower and of the upper halves, which start at zero; then their sum
    /// is added.
    fn add_dots_of_bf16(&mut self, a: &Tile, b: &Tile) {
        for (i, row) in self.0.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                let mut chains = [0.0; 2];
                for q in 0..TILE {
                    for (half, chain) in chains.iter_mut().enumerate() {
                        *chain = multiply_add(bf16(a.0[i][q], half), bf16(b.0[q][j], half), *chain);
                    }
                }
                *sum = add(f32::from_bits(*sum), add(chains[0], chains[1])).to_bits();
            }
        }
    }

    /// `TDPBUSD`: products of unsigned by signed bytes, added with wrap-around.
    fn add_dots_of_bytes(&mut self, a: &Tile, b: &Tile) {
        for (i, row) in self.0.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                for q in 0..TILE {
                    let (a, b) = (a.0[i][q].to_le_bytes(), b.0[q][j].to_le_bytes());
                    for (a, b) in a.into_iter().zip(b) {
                        *sum = sum.wrapping_add((i32::from(a) * i32::from(b.cast_signed())).cast_unsigned());
                    }
                }
            }
        }
    }
}

/// The lower or upper half of a pair, as f32.
fn bf16(pair: u32, half: usize) -> f32 {
    f32::from_bits(if half == 0 { pair << 16 } else { pair & 0xffff_0000 })
}

/// Zero, with its sign, in place of a number below the normal range.
fn normal(x: f32) -> f64 {
    f64::from(if x.is_subnormal() { 0.0f32.copysign(x) } else { x })
}

/// Rounds to f32; what is below the normal range when rounded to 24 bits becomes zero.
fn rounded(x: f64) -> f32 {
    let least = f64::from(f32::MIN_POSITIVE) * (1.0 - 0.5f64.powi(25));
    if x.abs() < least { 0.0f32.copysign(x as f32) } else { x as f32 }
}

/// `a b + c` for factors of 8 bits. The product is exact in f64, and so is the sum as far as rounding to f32 can tell: it
/// would take a product of more than 16 bits to be near the middle of two f32 and be mistaken for it.
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    rounded(normal(a) * normal(b) + normal(c))
}

/// `a + b`
fn add(a: f32, b: f32) -> f32 {
    rounded(normal(a) + normal(b))
}

/// The scalar definition of AMX.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emulated;

impl Emulated {
    /// Runs `step(sums, i, j, s)` for the tiles of a block: of the sums in tile row `i` and column `j`, step `s`.
    fn block(
        [rows, columns]: [Part; 2],
        steps: usize,
        start: Start,
        sums: &mut Sums,
        step: impl Fn(&mut Tile, usize, usize, usize),
    ) {
        let tiles = |part| if part == Part::Whole { 2 } else { 1 };
        for i in 0..tiles(rows) {
            for j in 0..tiles(columns) {
                let at = |r: usize, c: usize| (i * TILE + r) * SIDE + j * TILE + c;
                let mut tile = match start {
                    Start::Zero => Tile::from(|_, _| 0),
                    Start::Sums => Tile::from(|r, c| sums[at(r, c)].to_bits()),
                };
                (0..steps).for_each(|s| step(&mut tile, i, j, s));
                for (r, row) in tile.0.iter().enumerate() {
                    row.iter().enumerate().for_each(|(c, sum)| sums[at(r, c)] = f32::from_bits(*sum));
                }
            }
        }
    }
}

impl Bf16Blocks for Emulated {
    fn multiply(&self, a: &[f32], b: &[f32], columns: Part, start: Start, sums: &mut Sums) {
        let tile = |of: &[f32], at: usize| Tile::from(|r, c| of[at + r * TILE + c].to_bits());
        Self::block([Part::Whole, columns], bf16_steps(a, b), start, sums, |sums, i, j, s| {
            let at = |tile: usize| s * STEP + tile * TILE * TILE;
            sums.add_dots_of_bf16(&tile(a, at(i)), &tile(b, at(j)));
        });
    }
}

impl ByteBlocks for Emulated {
    fn multiply(&self, a: &[u8], stride: usize, b: &[Quads], rows: Part, start: Start, sums: &mut Sums) {
        let steps = byte_steps(a, stride, b, rows);
        Self::block([rows, Part::Whole], steps, start, sums, |sums, i, j, s| {
            let left = Tile::from(|r, c| {
                let at = (i * TILE + r) * stride + s * STEP_BYTES + 4 * c;
                u32::from_le_bytes([a[at], a[at + 1], a[at + 2], a[at + 3]])
            });
            let right = Tile::from(|q, c| u32::from_le_bytes(b[s * TILE + q].0[j * TILE + c].map(i8::cast_unsigned)));
            sums.add_dots_of_bytes(&left, &right);
        });
    }
}

/// The scalar definition of AVX-512 BF16: the upper half of each pair is added first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmulatedDots;

impl Bf16Blocks for EmulatedDots {
    fn multiply(&self, a: &[f32], b: &[f32], columns: Part, start: Start, sums: &mut Sums) {
        let steps = bf16_steps(a, b);
        for i in 0..SIDE {
            for j in 0..if columns == Part::Whole { SIDE } else { TILE } {
                let mut sum = if start == Start::Zero { 0.0 } else { sums[i * SIDE + j] };
                for q in 0..steps * TILE {
                    let (step, q) = (q / TILE * STEP, q % TILE);
                    let left = a[step + i * TILE + q].to_bits();
                    let right = b[step + j / TILE * TILE * TILE + q * TILE + j % TILE].to_bits();
                    for half in [1, 0] {
                        sum = multiply_add(bf16(left, half), bf16(right, half), sum);
                    }
                }
                sums[i * SIDE + j] = sum;
            }
        }
    }
}

#[test]
fn definitions_add_what_they_say() {
    // A row of ones and twos by a column of ones: each pair adds 3.
    let pair = |low: f32, high: f32| f32::from_bits(low.to_bits() >> 16 | high.to_bits());
    let (a, b) = (vec![pair(1.0, 2.0); STEP], vec![pair(1.0, 1.0); STEP]);
    for blocks in [&Emulated as &dyn Bf16Blocks, &EmulatedDots] {
        let mut sums = [0.5; SIDE * SIDE];
        blocks.multiply(&a, &b, Part::Half, Start::Sums, &mut sums);
        assert!(sums.iter().enumerate().all(|(at, sum)| *sum == if at % SIDE < TILE { 48.5 } else { 0.5 }));
    }
    let mut sums = [f32::NAN; SIDE * SIDE];
    let b = [Quads([[-1, 2, 3, -128]; SIDE]); TILE];
    ByteBlocks::multiply(&Emulated, &[200; SIDE * STEP_BYTES], STEP_BYTES, &b, Part::Whole, Start::Zero, &mut sums);
    assert!(sums.iter().all(|sum| sum.to_bits().cast_signed() == 200 * 16 * (-1 + 2 + 3 - 128)));
}
