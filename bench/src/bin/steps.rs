//! Decoding steps with states larger than the CPU cache, alternating with reading and writing the same number of
//! bytes.
//!
//! `cargo run --release -p longreach-bench --bin steps -- [HEADS] [WIDTH] [NAME,…]`

use std::cell::RefCell;

use longreach_attention::Sequences;
use longreach_attention::delta::{delta_rule, rwkv7};
use longreach_attention::diagonal::{mamba, rg_lru, rwkv4};
use longreach_attention::linear::{gla, linear_attention, scan};
use longreach_bench::Times;
use longreach_simd::Cx;
use ndarray::{Array1, Array2, Array3, Array4, ArrayViewMut};

/// The number of channels of states that are not matrices, and the number of rows of the state of Mamba.
const CHANNELS: usize = 4096;
const ROWS: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |default: usize| args.next().map_or(Ok(default), |n| n.parse::<usize>());
    let (h, k) = (next(8192)?, next(64)?);
    let names = args.next();
    let asked = |name: &str| names.as_ref().is_none_or(|names| names.split(',').any(|n| n == name));
    let cx = &Cx::new(2);
    // Space for a denominator in each row.
    let numbers = h * k * (k + 1);
    let (state, out) = (RefCell::new(vec![1.0f32; numbers]), RefCell::new(vec![0.0f32; numbers]));
    println!("{h} heads of {k} by {k}: {:.0} MB of state", (h * k * k * size_of::<f32>()) as f64 / 1e6);
    let row = |by: f32| Array4::from_shape_fn((1, 1, h, k), |(_, _, h, d)| by * ((h * 7 + d) as f32).sin());
    let (q, key, v, g, a) = (row(1.0), row(0.1), row(1.0), row(0.1).mapv(|x| -0.2 - x), row(0.1).mapv(f32::abs));
    let (beta, of_token) = (Array3::from_elem((1, 1, h), 0.5), Array3::from_elem((1, 1, h), -0.1));
    let (q, key, v, g, a) = (q.view(), key.view(), v.view(), g.view(), a.view());
    let wide = |rows: usize, width: usize| {
        let batch = (h * k * k / (rows * CHANNELS)).max(1);
        Array3::from_shape_fn((batch, 1, width), |(b, _, d)| ((b * 7 + d) as f32).sin())
    };
    let (x, b, triple, single) = (wide(ROWS, CHANNELS), wide(ROWS, ROWS), wide(3, CHANNELS), wide(1, CHANNELS));
    let rates = Array2::from_shape_fn((ROWS, CHANNELS), |(n, _)| -1.0 - n as f32);
    let (of_channel, decay) = (Array1::from_elem(CHANNELS, 0.3), Array1::from_elem(CHANNELS, -0.4));
    let (x, b, triple, single, d) = (x.view(), b.view(), triple.view(), single.view(), of_channel.view());
    let (scale, sequences) = (0.1, Sequences::Batch);
    let (state, out) = (&state, &out);
    // The number of bytes read and written. For the two mechanisms with one or three values per channel, this
    // includes inputs and outputs.
    type Step<'a> = (&'a str, usize, Box<dyn Fn() + 'a>);
    macro_rules! step {
        ($name:ident, $input:expr, $output:expr, $beside:expr) => {{
            let input = $input;
            let shape = input.state_shape();
            let (of_state, of_output) = (shape.iter().product::<usize>(), $output.len());
            let step = move || {
                let (mut state, mut out) = (state.borrow_mut(), out.borrow_mut());
                let state = ArrayViewMut::from_shape(shape, &mut state[..of_state]).expect("as many numbers");
                $name::step_into(&input, state, &mut out[..of_output], cx).expect("valid");
            };
            (stringify!($name), 2 * of_state + $beside * of_output, Box::new(step) as Box<dyn Fn()>)
        }};
    }
    let (gate, skip, map) = (Some(of_token.view()), None, linear_attention::Map::Elu);
    let normalize = Some(linear_attention::EPSILON);
    let steps: Vec<Step<'_>> = vec![
        step!(scan, scan::Inputs { q, k: key, v, g: gate, beta: None, skip, scale, sequences }, v, 0),
        step!(
            linear_attention,
            linear_attention::Inputs { q, k: key, v, map, normalize, causal: true, scale: 0.1, sequences },
            v,
            0
        ),
        step!(gla, gla::Inputs { q, k: key, v, g, scale, sequences }, v, 0),
        step!(delta_rule, delta_rule::Inputs { q, k: key, v, beta: beta.view(), scale, sequences }, v, 0),
        step!(rwkv7, rwkv7::Inputs { q, k: key, v, g, kappa: key, a, scale, sequences }, v, 0),
        step!(mamba, mamba::Inputs { x, dt: x, dt_bias: d, a: rates.view(), b, c: b, d, z: None, sequences }, x, 0),
        step!(rwkv4, rwkv4::Inputs { k: triple, v: triple, w: decay.view(), u: d, sequences }, triple, 2),
        step!(rg_lru, rg_lru::Inputs { x: single, r: single, i: single, lambda: d, reset: None, sequences }, single, 2),
    ];
    let mut other = vec![1.0f32; h * k * k];
    let piece = other.len().div_ceil(64);
    for (name, moved, step) in steps.iter().filter(|(name, ..)| asked(name)) {
        let copied = 2 * other.len() * size_of::<f32>();
        let copy = || {
            cx.team.for_each(other.chunks_mut(piece), |part| part.iter_mut().for_each(|x| *x *= 1.000_001));
        };
        let (of_step, of_copy) = Times::in_turn(15, step, copy);
        let [of_step, of_copy] = [(moved * size_of::<f32>(), of_step), (copied, of_copy)]
            .map(|(bytes, times)| bytes as f64 / times.median() / 1e9);
        println!(
            "{name:16} {of_step:.1} GB/s of {of_copy:.1}: {:.0} % of reading and writing as much",
            100.0 * of_step / of_copy
        );
    }
    Ok(())
}
