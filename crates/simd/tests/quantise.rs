//! Quantising to block formats: the `gguf` package's blocks, how much is lost, and laws.

use longreach_simd::product::{Blocks, Format, QuantiseError};
use longreach_simd::{Cx, Isa};

/// The formats that the `gguf` package quantises to, in the order of the goldens.
const ROUNDED: [Format; 6] = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0, Format::Mxfp4];

/// Blocks of each kind in the goldens.
const BLOCKS: usize = 8;

/// The error of llama.cpp's quantisers relative to the numbers, root mean square, for numbers of a normal distribution and
/// of Student's t with five degrees of freedom.
const REFERENCE: [(Format, [f64; 2]); 13] = [
    (Format::Q8_0, [0.0054, 0.0068]),
    (Format::Q6K, [0.0178, 0.0216]),
    (Format::Q5K, [0.0362, 0.0423]),
    (Format::Q5_1, [0.0379, 0.0437]),
    (Format::Q5_0, [0.0428, 0.0544]),
    (Format::Q4K, [0.0715, 0.0834]),
    (Format::Iq4Nl, [0.0762, 0.0891]),
    (Format::Iq4Xs, [0.0768, 0.0899]),
    (Format::Q4_1, [0.0783, 0.0903]),
    (Format::Q4_0, [0.0861, 0.1084]),
    (Format::Mxfp4, [0.114, 0.127]),
    (Format::Q3K, [0.151, 0.177]),
    (Format::Q2K, [0.297, 0.335]),
];

/// A fixed linear congruential generator.
struct Random(u64);

impl Random {
    /// A number between 0 and 1, neither included.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Student's t with five degrees of freedom.
    fn student(&mut self) -> f64 {
        let squares: f64 = (0..5).map(|_| self.normal().powi(2)).sum();
        self.normal() / (squares / 5.0).sqrt()
    }
}

/// Rows of 4096 normal numbers, and of Student's.
fn samples(rows: usize) -> [Vec<f32>; 2] {
    let mut random = Random(1);
    let normal = (0..rows * 4096).map(|_| random.normal() as f32).collect();
    [normal, (0..rows * 4096).map(|_| random.student() as f32).collect()]
}

fn dequantised(blocks: &Blocks) -> Vec<f32> {
    let mut out = vec![f32::NAN; blocks.len()];
    blocks.dequantise(&Cx::new(2), &mut out);
    out
}

/// The relative error, root mean square, with weights.
fn error(x: &[f32], y: &[f32], weight: impl Fn(usize) -> f32) -> f64 {
    let mut sums = [0.0; 2];
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let w = f64::from(weight(i));
        sums[0] += w * (f64::from(*x) - f64::from(*y)).powi(2);
        sums[1] += w * f64::from(*x).powi(2);
    }
    (sums[0] / sums[1]).sqrt()
}

#[test]
fn blocks_are_those_of_the_reference() {
    let goldens = include_bytes!("goldens/blocks.bin");
    let skipped: usize = Format::ALL.iter().map(|f| BLOCKS * (f.block_bytes() + 4 * f.block())).sum();
    let mut rest = &goldens[skipped..];
    for format in ROUNDED {
        let (numbers, after) = rest.split_at(4 * 32 * BLOCKS);
        let (want, after) = after.split_at(format.block_bytes() * BLOCKS);
        rest = after;
        let numbers: Vec<f32> = numbers.chunks(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
        let got = Blocks::quantise(&Cx::new(1), format, &numbers, 64, None).unwrap();
        for (b, (got, want)) in
            got.bytes().chunks(format.block_bytes()).zip(want.chunks(format.block_bytes())).enumerate()
        {
            assert_eq!(got, want, "{format}: block {b}");
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn no_more_is_lost_than_by_the_reference() {
    let cx = Cx::new(2);
    let samples = samples(16);
    for (format, reference) in REFERENCE {
        for (x, reference) in samples.iter().zip(reference) {
            let blocks = Blocks::quantise(&cx, format, x, 4096, None).unwrap();
            let error = error(x, &dequantised(&blocks), |_| 1.0);
            assert!(error <= 1.02 * reference, "{format}: {error:.4}, reference {reference}");
        }
    }
}

#[test]
fn importances_lower_the_error_they_weight() {
    let cx = Cx::new(2);
    let samples = samples(8);
    let mut random = Random(2);
    // What channels carry differs by orders of magnitude.
    let importance: Vec<f32> = (0..4096).map(|_| (1.5 * random.normal()).exp() as f32).collect();
    for format in Format::ALL {
        for x in &samples {
            let error = |importance: Option<&[f32]>, by: &[f32]| {
                let blocks = Blocks::quantise(&cx, format, x, 4096, importance).unwrap();
                error(x, &dequantised(&blocks), |i| by[i % 4096])
            };
            let (with, without) = (error(Some(&importance), &importance), error(None, &importance));
            match format {
                Format::Q8_0 | Format::Mxfp4 => assert_eq!(with, without, "{format}"),
                _ => assert!(with < 0.98 * without, "{format}: {with:.4} with importances, {without:.4} without"),
            }
        }
    }
}

#[test]
fn what_was_quantised_stays() {
    let cx = Cx::new(2);
    for (format, reference) in REFERENCE {
        for (x, reference) in samples(2).iter().zip(reference) {
            let once = dequantised(&Blocks::quantise(&cx, format, x, 4096, None).unwrap());
            let twice = dequantised(&Blocks::quantise(&cx, format, &once, 4096, None).unwrap());
            let moved = error(&once, &twice, |_| 1.0);
            // Formats of 32 find the same factor again. A search may find another that fits nearly as well.
            let most = if format.block() == 32 { 0.0 } else { 0.12 * reference };
            assert!(moved <= most, "{format}: moved by {moved:e}");
        }
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest() {
    let [x, _] = samples(4);
    // Half a step, or a whole one where the codes of one side end a step early; and the rounding of the factors.
    for (format, steps, most) in [
        (Format::Q4_0, 8.0, 1.01),
        (Format::Q5_0, 16.0, 1.02),
        (Format::Q8_0, 127.0, 0.57),
        (Format::Q4_1, 15.0, 0.52),
        (Format::Q5_1, 31.0, 0.54),
    ] {
        let y = dequantised(&Blocks::quantise(&Cx::new(1), format, &x, 4096, None).unwrap());
        for (b, (x, y)) in x.chunks(32).zip(y.chunks(32)).enumerate() {
            let (least, greatest) = x.iter().fold((0.0f32, 0.0f32), |(a, b), x| (a.min(*x), b.max(*x)));
            let range = match format {
                Format::Q4_1 | Format::Q5_1 => greatest - least,
                _ => greatest.max(-least),
            };
            for (x, y) in x.iter().zip(y) {
                assert!((x - y).abs() <= most * range / steps, "{format}: block {b}: {x} became {y}");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    let cx = Cx::new(1);
    for format in Format::ALL {
        for importance in [None, Some(&[0.0; 512][..]), Some(&[1.0; 512])] {
            let blocks = Blocks::quantise(&cx, format, &[0.0; 1024], 512, importance).unwrap();
            assert!(dequantised(&blocks).iter().all(|x| *x == 0.0), "{format}");
        }
        // Importances of zero say nothing, and numbers are rounded all the same.
        let x: Vec<f32> = (0..512).map(|i| (i as f32 - 255.5) / 255.5).collect();
        let blocks = Blocks::quantise(&cx, format, &x, 512, Some(&[0.0; 512])).unwrap();
        assert!(error(&x, &dequantised(&blocks), |_| 1.0) < 0.5, "{format}");
    }
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let cx = Cx::new(2);
    for format in Format::ALL {
        let mut x = vec![1.0; 3 * 512];
        let quantise = |x: &[f32], importance: Option<&[f32]>| Blocks::quantise(&cx, format, x, 512, importance);
        for value in [f32::INFINITY, f32::NEG_INFINITY] {
            x[512 + 7] = value;
            assert_eq!(quantise(&x, None).unwrap_err(), QuantiseError::NotFinite { row: 1, column: 7, value });
        }
        x[512 + 7] = f32::NAN;
        assert_eq!(quantise(&x, None).unwrap_err().to_string(), "number 7 of row 1 is NaN, which cannot be quantised");
        x[512 + 7] = 1e30;
        match format {
            Format::Mxfp4 => assert!(quantise(&x, None).is_ok()),
            _ => {
                let column = 0;
                assert_eq!(quantise(&x, None).unwrap_err(), QuantiseError::TooLarge { format, row: 1, column });
            }
        }
        x[512 + 7] = 1.0;
        let mut importance = vec![1.0; 512];
        assert_eq!(
            quantise(&x, Some(&importance[1..])).unwrap_err(),
            QuantiseError::Importances { expected: 512, found: 511 }
        );
        importance[5] = -1.0;
        assert_eq!(quantise(&x, Some(&importance)).unwrap_err(), QuantiseError::Importance { column: 5, value: -1.0 });
        assert!(matches!(quantise(&x[1..], None), Err(QuantiseError::Shape(_))));
        assert!(matches!(Blocks::quantise(&cx, format, &x, 48, None), Err(QuantiseError::Shape(_))));
        assert!(quantise(&[], None).unwrap().is_empty());
    }
}

#[test]
fn every_instruction_set_makes_the_same_blocks() {
    let [x, _] = samples(2);
    let importance: Vec<f32> = (0..4096).map(|i| 1.0 + (i % 7) as f32).collect();
    for format in Format::ALL {
        for importance in [None, Some(&importance[..])] {
            let of = |isa| Blocks::quantise(&Cx::with_isa(isa, 2), format, &x, 4096, importance).unwrap();
            let want = of(Isa::SCALAR);
            for isa in Isa::available() {
                assert!(of(isa).bytes() == want.bytes(), "{format} {isa}");
            }
        }
    }
}
