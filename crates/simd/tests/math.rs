//! Elementary functions against f64, on every instruction set of this machine.

use longreach_simd::{Cx, Isa, Kernel, Lanes, math};

fn grid() -> Vec<f32> {
    let mut x: Vec<f32> = (-200_000..=200_000).map(|i| i as f32 * 5e-4).collect();
    x.extend([0.0, -0.0, 1e-30, -1e-30, 1e-8, -1e-8, 88.7, 88.8, -87.4, -103.0, -105.0, 1e4, -1e4]);
    x.extend([f32::INFINITY, f32::NEG_INFINITY]);
    x
}

/// Largest error in units of the last place; subnormal results count as one part in the smallest normal number.
fn worst(f: impl Fn(&Cx, &mut [f32]), exact: impl Fn(f64) -> f64) -> f64 {
    let mut worst = 0.0f64;
    for isa in Isa::available() {
        let mut y = grid();
        f(&Cx::with_isa(isa, 1), &mut y);
        for (x, y) in grid().into_iter().zip(y) {
            let want = exact(x as f64);
            let rounded = want as f32;
            if rounded.is_infinite() || rounded == 0.0 {
                assert!(y == rounded || y.abs() < 3e-45, "{isa}: f({x}) = {y}, want {rounded}");
                continue;
            }
            assert!(y.is_finite(), "{isa}: f({x}) = {y}, want {want}");
            let ulp = (want.abs() * f32::EPSILON as f64).max(1.5e-45);
            worst = worst.max((y as f64 - want).abs() / ulp);
        }
    }
    worst
}

#[test]
fn exp_is_exact_to_two_ulp() {
    assert!(worst(math::exp_slice, f64::exp) < 2.0);
    assert!(worst(math::exp2_slice, f64::exp2) < 2.0);
    assert!(worst(math::neg_exp, |x| -x.exp()) < 2.0);
}

#[test]
fn softplus_is_exact_to_three_ulp() {
    assert!(worst(math::softplus_slice, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()) < 3.0);
}

#[test]
fn sigmoid_is_exact_to_three_ulp() {
    assert!(worst(math::sigmoid_slice, |x| 1.0 / (1.0 + (-x).exp())) < 3.0);
}

#[test]
fn one_minus_exp_is_exact_to_four_ulp() {
    let below = |cx: &Cx, x: &mut [f32]| {
        x.iter_mut().for_each(|x| *x = -x.abs());
        math::one_minus_exp(cx, x);
    };
    assert!(worst(below, |x| -(-x.abs()).exp_m1()) < 4.0);
}

#[test]
fn silu_is_exact_to_four_ulp_where_it_is_not_zero() {
    for isa in Isa::available() {
        let x: Vec<f32> = grid().into_iter().filter(|x| x.abs() < 1e3).collect();
        let mut y = x.clone();
        math::silu(&Cx::with_isa(isa, 1), &mut y);
        for (x, y) in x.into_iter().zip(y) {
            let want = x as f64 / (1.0 + (-x as f64).exp());
            assert!((y as f64 - want).abs() <= 4.0 * f32::EPSILON as f64 * want.abs() + 1e-43, "{isa}: {x} {y} {want}");
        }
    }
}

/// `1 / x` of each.
struct Reciprocals<'a>(&'a mut [f32]);

impl Kernel for Reciprocals<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for x in self.0.chunks_mut(S::LANES) {
            let y = s.reciprocal(s.load_part(x));
            s.store_part(x, y);
        }
    }
}

#[test]
fn reciprocal_is_exact_to_two_ulp() {
    for isa in Isa::available() {
        let mut x: Vec<f32> = (1..100_000).map(|i| i as f32 * 3.7e-3).collect();
        x.extend((-125..=125).flat_map(|n| [2.0f32.powi(n), -1.7 * 2.0f32.powi(n)]));
        let mut y = x.clone();
        isa.run(Reciprocals(&mut y));
        for (x, y) in x.into_iter().zip(y) {
            let want = 1.0 / f64::from(x);
            let error = (f64::from(y) - want).abs() / (want.abs() * f64::from(f32::EPSILON));
            assert!(error < 2.0, "{isa}: 1 / {x} = {y}: {error}");
        }
    }
}

#[test]
fn nan_stays_nan() {
    for isa in Isa::available() {
        let cx = Cx::with_isa(isa, 1);
        for f in [math::exp_slice, math::softplus_slice, math::sigmoid_slice, math::silu] {
            let mut x = [f32::NAN; 3];
            f(&cx, &mut x);
            assert!(x.iter().all(|x| x.is_nan()), "{isa}");
        }
    }
}

#[test]
fn slopes_are_slopes() {
    for isa in Isa::available() {
        let cx = Cx::with_isa(isa, 1);
        let x: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.25).collect();
        let mut slope = x.clone();
        math::silu_slope_times(&cx, &mut slope, &vec![1.0; x.len()]);
        for (x, slope) in x.iter().zip(slope) {
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let want = (silu(*x as f64 + 1e-5) - silu(*x as f64 - 1e-5)) / 2e-5;
            assert!((slope as f64 - want).abs() < 1e-6, "{isa}: {x}: {slope} {want}");
        }
    }
}

/// The sums of the lanes of four rows, one by one and together.
struct Sums<'a>([&'a [f32]; 4]);

impl Kernel for Sums<'_> {
    type Output = ([f32; 4], [f32; 4]);
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> Self::Output {
        let Self([a, b, c, d]) = self;
        let (a, b, c, d) = (s.load(a), s.load(b), s.load(c), s.load(d));
        ([s.sum(a), s.sum(b), s.sum(c), s.sum(d)], s.sums([a, b, c, d]))
    }
}

#[test]
fn the_sums_of_four_vectors_are_bit_for_bit_the_sums_of_each() {
    let x = grid();
    for isa in Isa::available() {
        for at in (0..x.len() - 64).step_by(977) {
            // Large and small numbers beside each other, so that every other order of additions is seen.
            let row = |n: usize| -> Vec<f32> { x[at + n..].iter().step_by(3).take(16).map(|x| x * x * x).collect() };
            let rows = [row(0), row(1), row(2), row(11)];
            let (alone, together) = isa.run(Sums([&rows[0], &rows[1], &rows[2], &rows[3]]));
            assert_eq!(alone.map(f32::to_bits), together.map(f32::to_bits), "{isa}, from {at}");
        }
    }
}
