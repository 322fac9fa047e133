//! Blocks of Q8_0 in a cache are those of the format, on every instruction set.

use half::f16;
use longreach_simd::product::{Blocks, Cached, Format, Q8, widen};
use longreach_simd::{Cx, Isa, Kernel, Lanes};

struct Widen<'a>(&'a [Q8], &'a mut [f32]);

impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        widen(s, self.0, self.1);
    }
}

#[test]
fn every_factor_widens_as_it_is() {
    for bits in 0..=u16::MAX {
        let block = Q8 { factor: f16::from_bits(bits), codes: [1; Q8::BLOCK] };
        let (got, want) = (Q8::number(&[block], 5), block.factor.to_f32());
        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:04x}: {got} is not {want}");
        if bits % 97 == 0 {
            for isa in Isa::available() {
                let mut all = [0.0; Q8::BLOCK];
                isa.run(Widen(&[block], &mut all));
                assert!(
                    all.iter().all(|x| x.to_bits() == want.to_bits() || x.is_nan() && want.is_nan()),
                    "{isa} {bits:04x}"
                );
            }
        }
    }
}

/// They are what the format of GGUF files says, and near what was rounded.
#[test]
fn blocks_are_those_of_the_format() {
    let mut row: Vec<f32> = (0..80).map(|i| ((i * 37 % 101) as f32 - 50.0) * if i < 32 { 0.03 } else { 2.5 }).collect();
    row[40] = -0.0;
    let mut words = vec![f16::ZERO; Q8::WORDS * Q8::blocks(80)];
    Q8::round_row(&row, Q8::of_words_mut(&mut words));
    let blocks = Q8::of_words(&words);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect();
    let mut want = vec![0.0; 96];
    Blocks::from_vec(Format::Q8_0, [1, 96], bytes).expect("blocks").dequantise(&Cx::new(1), &mut want);
    for (i, (want, x)) in want.iter().zip(&row).enumerate() {
        let d = blocks[i / 32].factor.to_f32();
        assert!((want - x).abs() <= 0.57 * d, "{want} for {x}");
    }
    assert!(want[80..].iter().all(|x| *x == 0.0), "the row is filled up with zeros");
    for isa in Isa::available() {
        let mut got = vec![f32::NAN; 96];
        isa.run(Widen(blocks, &mut got));
        assert_eq!(got, want, "{isa}");
    }
    assert!((0..96).all(|i| Q8::number(blocks, i) == want[i]));
}

#[test]
fn what_cannot_be_rounded_is_no_number() {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let block = Q8::round(&[1.0, x, 2.0]);
        assert!((0..32).all(|i| Q8::number(&[block], i).is_nan()), "{x}");
    }
    for x in [0.0, 1e-45, 1e-7] {
        let got = Q8::number(&[Q8::round(&[x; 32])], 3);
        assert!((got - x).abs() <= 1e-7, "{got} for {x}");
    }
}
