//! Block formats: the weights of blocks, by the `gguf` package's words and by laws.

use std::sync::Arc;

use longreach_simd::norm::Rows;
use longreach_simd::product::{Blocks, BlocksError, Format, SharedBytes, Weights, linear};
use longreach_simd::{Cx, Isa};

/// Blocks of each kind in the goldens, and weights of each.
const BLOCKS: usize = 8;

/// Reads the goldens of `goldens/blocks.py`, part after part.
struct Goldens(&'static [u8]);

impl Goldens {
    fn new() -> Self {
        Self(include_bytes!("goldens/blocks.bin"))
    }

    fn bytes(&mut self, n: usize) -> &'static [u8] {
        let (part, rest) = self.0.split_at(n);
        self.0 = rest;
        part
    }

    fn numbers(&mut self, n: usize) -> Vec<f32> {
        self.bytes(4 * n).chunks(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
    }
}

/// The bits of a number, with one representation of all that are none.
fn bits(x: &f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

#[test]
fn weights_are_those_of_the_reference_in_every_bit() {
    let mut goldens = Goldens::new();
    for format in Format::ALL {
        let bytes = goldens.bytes(BLOCKS * format.block_bytes());
        let want = goldens.numbers(BLOCKS * format.block());
        let blocks = Blocks::from_vec(format, [2, BLOCKS / 2 * format.block()], bytes.to_vec()).unwrap();
        let mut got = vec![1.0; want.len()];
        blocks.dequantise(&Cx::new(2), &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(bits(got), bits(want), "{format}: weight {i}: {got}, want {want}");
        }
        let mut row = vec![1.0; want.len() / 2];
        blocks.rows(1..2).dequantise_row(0, &mut row);
        assert!(row.iter().map(bits).eq(got[row.len()..].iter().map(bits)), "{format}: the second row alone");
    }
}

#[test]
fn a_matrix_is_in_a_range_of_shared_bytes() {
    let bytes: SharedBytes = Arc::new((0..=255).collect::<Vec<u8>>());
    let blocks = Blocks::new(Format::Q4_0, [3, 64], Arc::clone(&bytes), 7..7 + 3 * 36).unwrap();
    assert_eq!((blocks.shape(), blocks.len(), blocks.format()), ([3, 64], 192, Format::Q4_0));
    assert_eq!(blocks.bytes()[0], 7);
    let some = blocks.rows(1..3);
    assert_eq!((some.shape(), some.bytes()), ([2, 64], &blocks.bytes()[36..]));
    assert!(blocks.rows(3..3).is_empty());
    drop(blocks);
    assert_eq!(Arc::strong_count(&bytes), 2);
}

#[test]
fn bytes_that_do_not_fit_are_refused() {
    let error = |shape, n| Blocks::from_vec(Format::Q4K, shape, vec![0; n]).unwrap_err();
    assert_eq!(error([1, 255], 144), BlocksError::Width { format: Format::Q4K, width: 255 });
    assert_eq!(error([2, 256], 287).to_string(), "a Q4_K matrix of 2 by 256 weights takes 288 bytes, not 287");
    assert!(matches!(error([usize::MAX, 256], 0), BlocksError::Size { .. }));
    let bytes: SharedBytes = Arc::new(vec![0u8; 18]);
    for range in [0..17, 1..19, 2..20] {
        assert!(Blocks::new(Format::Q4_0, [1, 32], Arc::clone(&bytes), range).is_err());
    }
    assert!(Blocks::from_vec(Format::Q6K, [0, 512], Vec::new()).unwrap().is_empty());
}

#[test]
fn names_are_read_in_any_case() {
    for format in Format::ALL {
        assert_eq!(format.name().to_lowercase().parse(), Ok(format));
    }
    assert!("Q9_K".parse::<Format>().unwrap_err().to_string().contains("`Q9_K`; there are Q4_0, "));
}

/// Numbers of a bell-shaped distribution, roughly, from a fixed linear congruential generator.
fn numbers(n: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((seed >> 40) as f32) / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next() + next() + next()).collect()
}

/// A matrix of random blocks whose factors are small numbers, of both signs where the format's may be.
fn random(format: Format, shape: [usize; 2], seed: u64) -> Blocks {
    let [rows, width] = shape;
    let n = rows * format.row_bytes(width).unwrap();
    let mut bytes: Vec<u8> = numbers(n, seed).iter().map(|x| (x * 1e4) as i32 as u8).collect();
    // Where the factors are: of a half, only the sign and the mantissa are kept.
    let factors: &[usize] = match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        _ => &[0],
    };
    for block in bytes.chunks_mut(format.block_bytes()) {
        if format == Format::Mxfp4 {
            block[0] = 120 + block[0] % 8;
            continue;
        }
        for at in factors {
            block[at + 1] = block[at + 1] & 0x83 | 0x24;
        }
    }
    Blocks::from_vec(format, shape, bytes).unwrap()
}

#[test]
fn products_are_those_of_the_weights_within_the_rounding_of_x() {
    for format in Format::ALL {
        for (m, n, blocks) in [(1, 1, 1), (1, 33, 5), (3, 7, 9), (7, 40, 3), (33, 70, 2)] {
            let k = blocks * format.block();
            let w = random(format, [n, k], 2);
            let (x, bias) = (numbers(m * (k + 2), 1), numbers(n, 3));
            let rows = Rows { data: &x, count: m, width: k, stride: k + 2 };
            let cx = Cx::new(2);
            let mut weights = vec![0.0; n * k];
            w.dequantise(&cx, &mut weights);
            let mut y = vec![f32::NAN; m * n];
            linear(&cx, rows, Weights::Blocks(&w), Some(&bias), &mut y);
            for (e, y) in y.iter().enumerate() {
                let (row, w) = (rows.row(e / n), &weights[e % n * k..][..k]);
                let mut want = f64::from(bias[e % n]);
                // Rounding moves each x by at most half a step, and the sums in f32 are within a few units of their
                // largest terms.
                let (mut moved, mut terms) = (0.0, 0.0);
                for (x, w) in row.chunks(format.block()).zip(w.chunks(format.block())) {
                    let step = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
                    for (x, w) in x.iter().zip(w) {
                        want += f64::from(*x) * f64::from(*w);
                        moved += 0.5001 * f64::from(step) * f64::from(w.abs());
                        terms += f64::from((x * w).abs());
                    }
                }
                let error = (f64::from(*y) - want).abs();
                assert!(error <= moved + 1e-5 * terms + 1e-6, "{format} {m} by {n} by {k}: element {e}: {y}, {want}");
            }
        }
    }
}

#[test]
fn every_path_gives_the_same_bits() {
    for format in Format::ALL {
        for (n, blocks) in [(1, 1), (37, 5), (70, 9)] {
            let k = blocks * format.block();
            let w = random(format, [n, k], 5);
            let (x, bias) = (numbers(64 * k, 6), numbers(n, 7));
            let run = |isa, threads, count: usize, bias: Option<&[f32]>| {
                let mut y = vec![f32::NAN; count * n];
                let rows = Rows { data: &x, count, width: k, stride: k };
                linear(&Cx::with_isa(isa, threads), rows, Weights::Blocks(&w), bias, &mut y);
                y.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
            };
            let want = run(Isa::SCALAR, 1, 64, Some(&bias));
            let without = run(Isa::SCALAR, 1, 64, None);
            for isa in Isa::available() {
                for count in [1, 2, 3, 4, 5, 6, 7, 8, 9, 64] {
                    for threads in [1, 2] {
                        let got = run(isa, threads, count, Some(&bias));
                        assert!(
                            got == want[..count * n],
                            "{format} {isa}: {count} rows by {n} by {k}, {threads} threads"
                        );
                    }
                }
                assert!(run(isa, 2, 3, None) == without[..3 * n], "{format} {isa}: 3 rows without a bias");
                assert!(run(isa, 2, 64, None) == without, "{format} {isa}: 64 rows without a bias");
            }
        }
    }
}

#[test]
fn factors_that_are_no_numbers_stay_in_their_outputs() {
    let cx = Cx::new(2);
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Mxfp4) {
        let (n, k) = (40, 3 * format.block());
        let at = match format {
            Format::Q2K => 80,
            Format::Q3K => 108,
            Format::Q6K => 208,
            _ => 0,
        };
        let mut bytes = random(format, [n, k], 8).bytes().to_vec();
        let row = bytes.len() / n;
        // Infinity and NaN.
        for (j, bits) in [(3, 0x7c00u16), (38, 0x7e01)] {
            bytes[j * row + format.block_bytes() + at..][..2].copy_from_slice(&bits.to_le_bytes());
        }
        let w = Blocks::from_vec(format, [n, k], bytes).unwrap();
        let x = numbers(9 * k, 9);
        let of = |isa, rows: usize| {
            let mut y = vec![0.0; rows * n];
            let rows = Rows { data: &x, count: rows, width: k, stride: k };
            linear(&Cx::with_isa(isa, 1), rows, Weights::Blocks(&w), None, &mut y);
            y
        };
        let want = of(Isa::SCALAR, 9);
        for (e, y) in want.iter().enumerate() {
            assert_eq!(y.is_finite(), e % n != 3 && e % n != 38, "{format}: element {e}: {y}");
        }
        for isa in Isa::available() {
            for rows in [1, 9] {
                let got = of(isa, rows);
                assert!(got.iter().map(bits).eq(want[..rows * n].iter().map(bits)), "{format} {isa}: {rows} rows");
            }
        }
        let mut weights = vec![0.0; n * k];
        w.dequantise(&cx, &mut weights);
        assert!(weights[3 * k..4 * k].iter().any(|w| !w.is_finite()));
    }
}

#[test]
fn inputs_that_are_no_numbers_stay_in_their_rows() {
    for format in Format::ALL {
        let k = 2 * format.block();
        let w = random(format, [20, k], 10);
        for isa in Isa::available() {
            for rows in [3, 9] {
                let mut x = numbers(rows * k, 11);
                (x[k + 1], x[2 * k + 5]) = (f32::NAN, f32::INFINITY);
                let mut y = vec![0.0; rows * 20];
                linear(&Cx::with_isa(isa, 1), Rows::contiguous(&x, k), Weights::Blocks(&w), None, &mut y);
                for (i, y) in y.chunks(20).enumerate() {
                    assert!(
                        y.iter().all(|y| if i == 1 || i == 2 { y.is_nan() } else { y.is_finite() }),
                        "{format} {isa} {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn products_of_nothing_are_the_bias() {
    let cx = Cx::new(2);
    for format in Format::ALL {
        let none = Blocks::from_vec(format, [0, 512], Vec::new()).unwrap();
        linear(&cx, Rows::contiguous(&numbers(1024, 1), 512), Weights::Blocks(&none), None, &mut []);
        let narrow = Blocks::from_vec(format, [3, 0], Vec::new()).unwrap();
        let rows = Rows { data: &[], count: 2, width: 0, stride: 0 };
        for (bias, want) in [(Some(&[1.0, 2.0, 3.0][..]), [1.0, 2.0, 3.0]), (None, [0.0; 3])] {
            let mut y = vec![f32::NAN; 6];
            linear(&cx, rows, Weights::Blocks(&narrow), bias, &mut y);
            assert!(y.chunks(3).all(|row| row == want), "{format}");
        }
        let w = random(format, [5, 512], 2);
        let rows = Rows { data: &[], count: 0, width: 512, stride: 512 };
        linear(&cx, rows, Weights::Blocks(&none), None, &mut []);
        assert_eq!(Weights::Blocks(&w).bytes(), w.bytes().len());
    }
}
