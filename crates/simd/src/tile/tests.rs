//! The instructions equal their scalar definitions bit for bit, and leave a thread as it was.

use super::amx::{Amx, shape};
use super::dots::Dots;
use super::emulated::{Emulated, EmulatedDots};
use super::{Bf16Blocks, ByteBlocks, Part, Quads, SIDE, STEP, STEP_BYTES, SUMS, Start, Sums, TILE};

/// Bits from a fixed linear congruential generator.
fn bits(seed: &mut u64) -> u32 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 32) as u32
}

/// Pairs of bf16: of magnitude one, of every magnitude, or such that the sums are near the end of the normal range.
fn pairs(n: usize, kind: usize, seed: &mut u64) -> Vec<f32> {
    let mut half = || {
        let bits = bits(seed);
        let (sign, fraction) = (bits >> 16 & 0x8000, bits & 0x7f);
        let exponent = match kind {
            0 => 120 + (bits >> 8) % 8,
            1 => bits >> 8 & 0xff,
            _ => 40 + (bits >> 8) % 30,
        };
        sign | exponent << 7 | fraction
    };
    (0..n).map(|_| f32::from_bits(half() | half() << 16)).collect()
}

fn same(got: &Sums, want: &Sums, said: &str) {
    for (at, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(), "{said}: element {at}: {g:e}, want {w:e}");
    }
}

fn same_products_of_bf16(got: &impl Bf16Blocks, want: &impl Bf16Blocks) {
    let seed = &mut 1;
    for kind in 0..3 {
        for steps in [0, 1, 2, 5] {
            let (a, b) = (pairs(steps * STEP, kind, seed), pairs(steps * STEP, kind, seed));
            for columns in [Part::Whole, Part::Half] {
                for start in [Start::Zero, Start::Sums] {
                    let scale = [1.0, 1e30, 1e-37][kind];
                    let sums: Sums = std::array::from_fn(|_| (bits(seed) as i32) as f32 / 2f32.powi(31) * scale);
                    let (mut x, mut y) = (sums, sums);
                    got.multiply(&a, &b, columns, start, &mut x);
                    want.multiply(&a, &b, columns, start, &mut y);
                    if columns == Part::Half {
                        (0..SUMS).filter(|at| at % SIDE >= TILE).for_each(|at| x[at] = y[at]);
                    }
                    same(&x, &y, &format!("kind {kind}, {steps} steps, {columns:?}, {start:?}"));
                }
            }
        }
    }
    // 2⁻¹²⁶ − 2⁻¹⁵² rounds to the least normal number, and 2⁻¹²⁶ − 2⁻¹⁴⁹ is below it.
    for (other, left) in [(-(2f32.powi(-76)), f32::MIN_POSITIVE), (-(2f32.powi(-73)), 0.0)] {
        let (mut a, mut b) = (vec![0.0; STEP], vec![0.0; STEP]);
        let lower = |x: f32| f32::from_bits(x.to_bits() >> 16);
        (a[0], b[0]) = (lower(2f32.powi(-63)), lower(2f32.powi(-63)));
        (a[1], b[TILE]) = (lower(other), lower(2f32.powi(-76)));
        let (mut x, mut y) = ([f32::NAN; SUMS], [f32::NAN; SUMS]);
        got.multiply(&a, &b, Part::Whole, Start::Zero, &mut x);
        want.multiply(&a, &b, Part::Whole, Start::Zero, &mut y);
        same(&x, &y, "near the least normal number");
        assert_eq!(y[0], left);
    }
}

fn same_products_of_bytes(got: &impl ByteBlocks, want: &impl ByteBlocks) {
    let seed = &mut 2;
    for steps in [0, 1, 3] {
        let stride = steps * STEP_BYTES + 64;
        let a: Vec<u8> = (0..SIDE * stride).map(|_| (bits(seed) >> 8) as u8).collect();
        let quads = || Quads(std::array::from_fn(|_| std::array::from_fn(|_| (bits(seed) >> 8) as i8)));
        let b: Vec<Quads> = std::iter::repeat_with(quads).take(steps * TILE).collect();
        for rows in [Part::Whole, Part::Half] {
            for start in [Start::Zero, Start::Sums] {
                let sums: Sums = std::array::from_fn(|at| f32::from_bits(0x7fff_ff00 + at as u32));
                let (mut x, mut y) = (sums, sums);
                got.multiply(&a, stride, &b, rows, start, &mut x);
                want.multiply(&a, stride, &b, rows, start, &mut y);
                let n = if rows == Part::Whole { SUMS } else { SUMS / 2 };
                assert!(
                    x[..n].iter().zip(&y[..n]).all(|(x, y)| x.to_bits() == y.to_bits()),
                    "{steps} {rows:?} {start:?}"
                );
            }
        }
    }
}

#[test]
fn amx_equals_its_definition() {
    let Some(amx) = Amx::detect() else { return };
    let tiles = amx.configure();
    same_products_of_bf16(&tiles, &Emulated);
    same_products_of_bytes(&tiles, &Emulated);
}

#[test]
fn avx512_bf16_equals_its_definition() {
    let Some(dots) = Dots::detect() else { return };
    same_products_of_bf16(&dots, &EmulatedDots);
}

#[test]
fn tile_registers_are_released() {
    let Some(amx) = Amx::detect() else { return };
    assert_eq!(shape(amx), [0; 64]);
    let tiles = amx.configure();
    assert_eq!(shape(amx)[48..56], [16; 8]);
    drop(tiles);
    assert_eq!(shape(amx), [0; 64]);
    let unwound = std::panic::catch_unwind(|| {
        let tiles = amx.configure();
        Bf16Blocks::multiply(&tiles, &[0.0; STEP], &[], Part::Whole, Start::Zero, &mut [0.0; SUMS]);
    });
    assert!(unwound.is_err());
    assert_eq!(shape(amx), [0; 64]);
}
