//! The products in blocks with the scalar definitions of the instructions, which run on every machine.

use half::bf16;

use super::int8::{Int8, linear as int8, tiles};
use super::rounded;
use crate::norm::Rows;
use crate::tile::emulated::{Emulated, EmulatedDots};
use crate::{Cx, Isa};

/// Numbers in [-1, 1) from a fixed linear congruential generator.
fn numbers(n: usize, mut seed: u64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 40) as f32) / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// Rows, columns and the dimension of the sum: parts of tiles, of blocks, and more steps than are multiplied at once.
const SIZES: [[usize; 3]; 8] =
    [[1, 1, 1], [5, 3, 2], [16, 32, 32], [17, 33, 31], [33, 70, 65], [40, 31, 64], [70, 300, 97], [3, 40, 1090]];

/// The product in bf16 of the first rows of the same `x`, by the definition of AMX or, if `dots`, of AVX-512.
fn product(cx: &Cx, dots: bool, x: Rows<'_>, w: &[bf16], bias: Option<&[f32]>, n: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.count * n];
    match dots {
        false => rounded::linear(cx, || Emulated, x, w, bias, &mut y),
        true => rounded::linear(cx, || EmulatedDots, x, w, bias, &mut y),
    }
    y
}

#[test]
fn a_product_in_bf16_is_the_sum_of_rounded_products() {
    for [m, n, k] in SIZES {
        let (x, bias) = (numbers(m * (k + 3), 1), numbers(n, 3));
        let w: Vec<bf16> = numbers(n * k, 2).into_iter().map(bf16::from_f32).collect();
        let rows = Rows { data: &x, count: m, width: k, stride: k + 3 };
        for dots in [false, true] {
            let y = product(&Cx::new(2), dots, rows, &w, Some(&bias), n);
            for (e, y) in y.iter().enumerate() {
                let (i, j) = (e / n, e % n);
                let terms = rows.row(i).iter().zip(&w[j * k..]).map(|(x, w)| (bf16::from_f32(*x), f64::from(*w)));
                let want = terms.map(|(x, w)| f64::from(x) * w).sum::<f64>() + f64::from(bias[j]);
                let error = (f64::from(*y) - want).abs();
                assert!(error <= 2e-6 * (k as f64).sqrt() + 1e-6, "{m} {n} {k} {dots}: element {e}: {y}, want {want}");
            }
        }
    }
}

#[test]
fn a_row_in_bf16_depends_on_no_other_nor_on_threads_nor_lanes() {
    let (n, k) = (70, 1090);
    let w: Vec<bf16> = numbers(n * k, 2).into_iter().map(bf16::from_f32).collect();
    let x = numbers(40 * k, 1);
    let rows = |from: usize, count: usize| Rows { data: &x[from * k..], count, width: k, stride: k };
    for dots in [false, true] {
        let all = product(&Cx::new(1), dots, rows(0, 40), &w, None, n);
        for isa in Isa::available() {
            let again = product(&Cx::with_isa(isa, 3), dots, rows(7, 20), &w, None, n);
            assert_eq!(all[7 * n..27 * n], again, "{isa} {dots}");
        }
        for count in 1..=3 {
            assert_eq!(
                all[39 * n..],
                product(&Cx::new(2), dots, rows(40 - count, count), &w, None, n)[(count - 1) * n..]
            );
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_instructions_give_the_bits_of_their_definitions() {
    use super::{Order, Weights, linear_in};
    for isa in Isa::available().into_iter().filter(|isa| isa.rounds_to_bf16()) {
        for [m, n, k] in SIZES {
            let (x, bias) = (numbers(m * k, 1), numbers(n, 3));
            let w: Vec<bf16> = numbers(n * k, 2).into_iter().map(bf16::from_f32).collect();
            let (cx, rows) = (Cx::with_isa(isa, 2), Rows { data: &x, count: m, width: k, stride: k });
            let mut y = vec![f32::NAN; m * n];
            linear_in(&cx, Order::Packed, rows, Weights::Bf16(&w), Some(&bias), &mut y);
            assert_eq!(y, product(&cx, isa.dots().is_some(), rows, &w, Some(&bias), n), "{isa}: {m} by {n} by {k}");
        }
    }
}

#[test]
fn x_is_rounded_to_nearest_even() {
    let ulp = 2f32.powi(-7);
    // A tie rounds to even, and what is beyond the largest number to infinity.
    for (x, want) in [
        (1.0 + ulp / 2.0, 1.0),
        (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
        (1.0 + 0.51 * ulp, 1.0 + ulp),
        (-1.0 - 0.51 * ulp, -1.0 - ulp),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (0.0, 0.0),
    ] {
        let rows = Rows { data: &[x], count: 1, width: 1, stride: 1 };
        assert_eq!(product(&Cx::new(1), false, rows, &[bf16::ONE], None, 1), [want], "{x}");
    }
    for x in [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
        let rows = Rows { data: &[x, 1.0], count: 2, width: 1, stride: 1 };
        let y = product(&Cx::new(1), false, rows, &[bf16::ONE], None, 1);
        assert!(y[0].is_nan() && y[1] == 1.0, "{y:?}");
    }
}

#[test]
fn products_of_bytes_in_blocks_equal_those_in_scalar_code() {
    for [m, n, k] in SIZES.into_iter().chain([[40, 70, 3000]]) {
        let (x, w, bias) = (numbers(m * (k + 1), 1), numbers(n * k, 2), numbers(n, 3));
        let rows = Rows { data: &x, count: m, width: k, stride: k + 1 };
        let scalar = Cx::with_isa(Isa::SCALAR, 1);
        let w = Int8::new(&scalar, &w, k);
        for bias in [None, Some(&bias[..])] {
            let mut want = vec![f32::NAN; m * n];
            int8(&scalar, rows, &w, bias, &mut want);
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let cx = Cx::with_isa(isa, threads);
                    let (mut tiled, mut found) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
                    if isa == Isa::SCALAR || m <= 5 {
                        tiles::linear(&cx, || Emulated, rows, &w, bias, &mut tiled);
                        assert_eq!(tiled, want, "{isa}: {m} by {n} by {k} in blocks");
                    }
                    int8(&cx, rows, &w, bias, &mut found);
                    assert_eq!(found, want, "{isa}: {m} by {n} by {k}");
                }
            }
        }
    }
}
