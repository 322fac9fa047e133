//! A step gives the output and the state of the recurrent form, and allocates nothing.

use longreach_attention::delta::{delta_rule, dplr, gated_delta, kda, rwkv7};
use longreach_attention::diagonal::{mamba, rg_lru, rwkv4};
use longreach_attention::linear::{
    cosformer, gla, hgrn2, linear_attention, mamba2, performer, retention, rwkv5, rwkv6, scan,
};
use longreach_attention::{Error, Sequences};
use longreach_simd::Cx;
use longreach_testkit::{Counting, allocated};
use ndarray::{Array1, Array2, Array3, Array4, ArrayViewMut4};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Into<'a> = Box<dyn Fn(ArrayViewMut4<'_, f32>, &mut [f32]) -> Result<(), Error> + 'a>;
type Whole<'a> = Box<dyn Fn(ArrayViewMut4<'_, f32>) -> Result<Array4<f32>, Error> + 'a>;

const BATCH: usize = 3;
const HEADS: usize = 6;
const KEY: usize = 24;
const VALUE: usize = 40;

/// The step and the recurrent form of a mechanism with the same inputs.
macro_rules! both {
    ($cx:expr, $name:ident, $x:expr) => {{
        let (x, cx) = ($x, $cx);
        let shape = x.state_shape();
        let step: Into<'_> = Box::new(move |state, out| $name::step_into(&x, state, out, cx));
        let recurrent: Whole<'_> = Box::new(move |state| $name::recurrent(&x, state, cx));
        (stringify!($name), shape, step, recurrent)
    }};
}

/// The largest difference, relative to numbers larger than 1.
fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    let far = a.iter().zip(b).map(|(a, b)| (a - b).abs() / a.abs().max(1.0));
    far.fold(0.0, |far, x| if x > far || x.is_nan() { x } else { far })
}

/// As [`a_step_allocates_nothing`], for mechanisms with a state per channel.
fn of_channels(cx: &Cx, max_allocations: usize) {
    const WIDTH: usize = 200;
    const STATE: usize = 5;
    let row = |width: usize, by: f32| {
        Array3::from_shape_fn((BATCH, 1, width), |(b, _, d)| by * ((b * 31 + d) as f32 + by).sin())
    };
    let (x, dt, z, b, c) = (row(WIDTH, 1.0), row(WIDTH, 0.5), row(WIDTH, 0.7), row(STATE, 0.9), row(STATE, 1.1));
    let a = Array2::from_shape_fn((STATE, WIDTH), |(n, d)| -0.1 - ((n * 7 + d) as f32).cos().abs());
    let (of_channel, decay) = (Array1::from_elem(WIDTH, 0.3), Array1::from_elem(WIDTH, -0.4));
    let (x, dt, sequences) = (x.view(), dt.view(), Sequences::Batch);
    macro_rules! same {
        ($name:ident, $x:expr, $state:expr) => {{
            let input = $x;
            let (mut state, mut out) = ($state, vec![0.0; BATCH * WIDTH]);
            let mut other = state.clone();
            for _ in 0..3 {
                $name::step_into(&input, state.view_mut(), &mut out, cx).expect("valid");
                let whole = $name::recurrent(&input, other.view_mut(), cx).expect("valid");
                assert_eq!((whole.as_slice().expect("contiguous"), &other), (&out[..], &state), stringify!($name));
            }
            let (memory, ()) = allocated(|| {
                for _ in 0..100 {
                    $name::step_into(&input, state.view_mut(), &mut out, cx).expect("valid");
                }
            });
            let allocations = memory.number;
            assert!(
                allocations <= max_allocations,
                "{}: a hundred steps allocated memory {allocations} times",
                stringify!($name)
            );
            assert!($name::step_into(&input, state.view_mut(), &mut out[1..], cx).is_err(), "an output too short");
        }};
    }
    let (a, b, c, z, d) = (a.view(), b.view(), c.view(), Some(z.view()), of_channel.view());
    same!(
        mamba,
        mamba::Inputs { x, dt, dt_bias: d, a, b, c, d, z, sequences },
        Array3::from_elem((BATCH, STATE, WIDTH), 0.2)
    );
    same!(
        rwkv4,
        rwkv4::Inputs { k: x, v: dt, w: decay.view(), u: d, sequences },
        Array3::from_elem((BATCH, 3, WIDTH), 0.2)
    );
    same!(
        rg_lru,
        rg_lru::Inputs { x, r: dt, i: dt, lambda: d, reset: None, sequences },
        Array2::from_elem((BATCH, WIDTH), 0.2)
    );
}

// One test: a second one would run concurrently and allocate too.
#[test]
fn a_step_allocates_nothing() {
    let row = |width: usize, by: f32| {
        Array4::from_shape_fn((BATCH, 1, HEADS, width), |(b, _, h, d)| by * ((b * 31 + h * 7 + d) as f32 + by).sin())
    };
    let (q, k, v, g) = (row(KEY, 1.0), row(KEY, 0.3), row(VALUE, 0.9), row(KEY, 0.1).mapv(|x| -0.2 - x));
    let (a, rate) = (row(KEY, 0.2), row(KEY, 0.5).mapv(f32::abs));
    let (of_token, beta) = (Array3::from_elem((BATCH, 1, HEADS), -0.1), Array3::from_elem((BATCH, 1, HEADS), 0.5));
    let (u, of_head, skip) =
        (Array2::from_elem((HEADS, KEY), 0.4), Array1::from_elem(HEADS, -0.3), Array1::from_elem(HEADS, 0.7));
    let (q, k, v, g, a, rate) = (q.view(), k.view(), v.view(), g.view(), a.view(), rate.view());
    let (of_token, beta) = (of_token.view(), beta.view());
    let negative = u.mapv(|u| -u);
    let (scale, sequences) = (0.2, Sequences::Batch);
    let (dt_bias, dt_limit, d) = (skip.view(), (0.0, f32::INFINITY), skip.view());
    let (random, positions) =
        (Array2::from_shape_fn((18, KEY), |(i, d)| ((i * 5 + d) as f32).sin()), Array2::from_elem((BATCH, 1), 7.0));
    let kernel = performer::Kernel::Hyperbolic;
    let (map, normalize, causal) = (linear_attention::Map::Elu, Some(linear_attention::EPSILON), true);
    let divided = ["linear_attention", "performer", "cosformer"];
    for threads in [1, 2] {
        let cx = &Cx::new(threads);
        // With more than one thread the second thread may allocate its scratch memory late.
        let max_allocations = if threads == 1 { 0 } else { 4 };
        of_channels(cx, max_allocations);
        let (gate, strength, skip) = (Some(of_token), Some(beta), Some(d));
        let cases = [
            both!(cx, scan, scan::Inputs { q, k, v, g: gate, beta: strength, skip, scale, sequences }),
            both!(cx, retention, retention::Inputs { q, k, v, g: of_head.view(), scale, sequences }),
            both!(cx, gla, gla::Inputs { q, k, v, g, scale, sequences }),
            both!(cx, hgrn2, hgrn2::Inputs { q, g, v, scale, sequences }),
            both!(cx, rwkv6, rwkv6::Inputs { q, k, v, g, u: u.view(), scale, sequences }),
            both!(cx, delta_rule, delta_rule::Inputs { q, k, v, beta, scale, sequences }),
            both!(cx, gated_delta, gated_delta::Inputs { q, k, v, g: of_token, beta, scale, sequences }),
            both!(cx, kda, kda::Inputs { q, k, v, g, beta, scale, sequences }),
            both!(cx, rwkv7, rwkv7::Inputs { q, k, v, g, kappa: a, a: rate, scale, sequences }),
            both!(cx, dplr, dplr::Inputs { q, k, v, a, b: rate, g, scale, sequences }),
            both!(cx, rwkv5, rwkv5::Inputs { q, k, v, g: negative.view(), u: u.view(), scale, sequences }),
            both!(
                cx,
                mamba2,
                mamba2::Inputs { x: v, dt: beta, dt_bias, dt_limit, a: of_head.view(), b: k, c: q, d, sequences }
            ),
            both!(
                cx,
                linear_attention,
                linear_attention::Inputs { q, k, v, map, normalize, causal, scale: 0.2, sequences }
            ),
            both!(
                cx,
                performer,
                performer::Inputs { q, k, v, w: random.view(), kernel, epsilon: 1e-4, causal, sequences }
            ),
            both!(
                cx,
                cosformer,
                cosformer::Inputs { q, k, v, positions: positions.view(), length: 50.0, causal, sequences }
            ),
        ];
        for (name, shape, step, recurrent) in &cases {
            // Denominators must be positive.
            let mut state =
                Array4::from_shape_fn(*shape, |(b, h, k, v)| 0.1 + 0.01 * ((b * 5 + h * 3 + k * 11 + v) as f32).cos());
            let mut other = state.clone();
            let mut out = vec![0.0; BATCH * HEADS * VALUE];
            // Each thread allocates scratch memory once, at its first task; which threads take part is not
            // deterministic.
            for n in 0..3 {
                step(state.view_mut(), &mut out).expect(name);
                let whole = recurrent(other.view_mut()).expect(name);
                let whole = whole.as_slice().expect("contiguous");
                // Denominators and products with random rows are summed in another order.
                let of_output = if divided.contains(name) { 1e-6 } else { 0.0 };
                let of_state = if *name == "performer" { 1e-6 } else { 0.0 };
                let far = max_difference(whole, &out);
                assert!(far <= of_output, "{name}, step {n}, {threads} threads: {far} apart");
                let far = max_difference(state.as_slice().expect("contiguous"), other.as_slice().expect("contiguous"));
                assert!(far <= of_state, "{name}, state of step {n}, {threads} threads: {far} apart");
            }
            let (memory, ()) = allocated(|| {
                for _ in 0..100 {
                    step(state.view_mut(), &mut out).expect(name);
                }
            });
            let allocations = memory.number;
            assert!(
                allocations <= max_allocations,
                "{name}: a hundred steps with {threads} threads allocated memory {allocations} times"
            );
            assert!(step(state.view_mut(), &mut out[1..]).is_err(), "{name}: an output too short");
        }
    }
}
