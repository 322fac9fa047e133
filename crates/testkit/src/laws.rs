//! The laws. Each is a function of a [`Subject`]; [`all`] runs those that need no special inputs.

use crate::tolerance::{self, assert_close};
use crate::{Kind, Output, Subject, Tensor, numbers};

/// Lengths that exercise partial vectors, chunks and tiles.
pub const LENGTHS: &[usize] = &[1, 2, 15, 16, 17, 63, 64, 65, 100, 257];

/// Runs every law on each of the given contexts (instruction sets and thread counts).
pub fn all<S: Subject>(subject: &S, contexts: &[S::Cx]) {
    let cx = &contexts[0];
    for context in contexts {
        forms_are_naive(subject, context);
    }
    contexts_agree(subject, contexts);
    step_is_naive(subject, cx);
    split_is_whole(subject, cx);
    future_is_invisible(subject, cx);
    rows_are_independent(subject, cx);
    packed_is_padded(subject, cx);
    for context in contexts {
        gradient_is_slope(subject, context);
    }
}

#[track_caller]
fn close(what: &str, got: &Output, want: &Output, tolerance: f64) {
    assert_close(&format!("{what}: output"), &got.out, &want.out, tolerance);
    assert_close(&format!("{what}: state"), &got.state, &want.state, tolerance);
}

/// Every form agrees with the definition at every length.
pub fn forms_are_naive<S: Subject>(subject: &S, cx: &S::Cx) {
    for &t in LENGTHS {
        let inputs = subject.sample(2, t, t as u64);
        let want = subject.naive(&inputs, None);
        for form in subject.forms() {
            close(&format!("{form} at T = {t}"), &subject.run(form, &inputs, None, cx), &want, tolerance::FORWARD);
        }
    }
}

/// Contexts agree: those with different instruction sets within tolerance.
pub fn contexts_agree<S: Subject>(subject: &S, contexts: &[S::Cx]) {
    let inputs = subject.sample(2, 100, 7);
    for form in subject.forms() {
        let first = subject.run(form, &inputs, None, &contexts[0]);
        for cx in contexts {
            close(form, &subject.run(form, &inputs, None, cx), &first, tolerance::FORMS);
        }
    }
}

/// Results are bit-identical for any number of threads, forward and backward.
pub fn threads_agree<S: Subject>(subject: &S, one: &S::Cx, many: &S::Cx) {
    let inputs = subject.sample(2, 100, 8);
    for form in subject.forms() {
        assert_eq!(subject.run(form, &inputs, None, one), subject.run(form, &inputs, None, many), "{form}");
    }
    let d = cotangent(&subject.naive(&inputs, None), 9);
    assert_eq!(subject.gradient(&inputs, None, &d, one), subject.gradient(&inputs, None, &d, many), "backward");
}

/// Decoding token by token agrees with the definition.
pub fn step_is_naive<S: Subject>(subject: &S, cx: &S::Cx) {
    let t = 19;
    let inputs = subject.sample(2, t, 3);
    let want = subject.naive(&inputs, None);
    let got = in_pieces(subject, &inputs, &(1..t).collect::<Vec<_>>(), "step", cx);
    close("step", &got, &want, tolerance::FORWARD);
}

/// A sequence split anywhere, with its state carried over, agrees with the whole sequence; steps may follow a chunk.
pub fn split_is_whole<S: Subject>(subject: &S, cx: &S::Cx) {
    let inputs = subject.sample(2, 100, 4);
    for form in subject.forms() {
        let whole = subject.run(form, &inputs, None, cx);
        for cuts in [&[1][..], &[2, 3], &[16, 64], &[63], &[64], &[65, 99]] {
            close(
                &format!("{form} cut at {cuts:?}"),
                &in_pieces(subject, &inputs, cuts, form, cx),
                &whole,
                tolerance::FORMS,
            );
        }
    }
}

fn in_pieces<S: Subject>(subject: &S, inputs: &[Tensor], cuts: &[usize], form: &str, cx: &S::Cx) -> Output {
    let t = tokens(inputs);
    let mut bounds = vec![0];
    bounds.extend(cuts);
    bounds.push(t);
    let mut state = inputs.last().expect("a state").data.clone();
    let mut pieces = Vec::new();
    for cut in bounds.windows(2) {
        let mut part: Vec<Tensor> = inputs.iter().map(|x| x.tokens(cut[0]..cut[1])).collect();
        part.last_mut().expect("a state").data = state;
        let out = subject.run(form, &part, None, cx);
        state = out.state;
        pieces.push(out.out);
    }
    let mut out = Vec::new();
    for b in 0..2 {
        for piece in &pieces {
            let n = piece.len() / 2;
            out.extend(&piece[b * n..(b + 1) * n]);
        }
    }
    Output { out, state }
}

fn tokens(inputs: &[Tensor]) -> usize {
    inputs.iter().find(|x| x.kind == Kind::Token).expect("an input by token").shape[1]
}

/// Causality: later tokens do not affect earlier outputs.
pub fn future_is_invisible<S: Subject>(subject: &S, cx: &S::Cx) {
    let (t, cut) = (80, 70);
    let inputs = subject.sample(1, t, 5);
    let mut other = inputs.clone();
    for x in other.iter_mut().filter(|x| x.kind == Kind::Token) {
        let per: usize = x.shape[2..].iter().product();
        x.data[cut * per..].iter_mut().for_each(|x| *x *= 0.5);
    }
    for form in subject.forms() {
        let a = subject.run(form, &inputs, None, cx).out;
        let b = subject.run(form, &other, None, cx).out;
        let per = a.len() / t;
        assert_eq!(a[..cut * per], b[..cut * per], "{form}: the past changed with the future");
        assert_ne!(a[cut * per..], b[cut * per..], "{form}: the future had no effect at all");
    }
}

/// A sequence's result does not depend on the rest of the batch.
pub fn rows_are_independent<S: Subject>(subject: &S, cx: &S::Cx) {
    let inputs = subject.sample(3, 40, 6);
    for form in subject.forms() {
        let whole = subject.run(form, &inputs, None, cx);
        for b in 0..3 {
            let alone: Vec<Tensor> = inputs.iter().map(|x| x.sequence(b)).collect();
            let got = subject.run(form, &alone, None, cx);
            let (n, m) = (got.out.len(), got.state.len());
            assert_eq!(got.out, whole.out[b * n..(b + 1) * n], "{form}: sequence {b}");
            assert_eq!(got.state, whole.state[b * m..(b + 1) * m], "{form}: state {b}");
        }
    }
}

/// Packed sequences, including an empty one and one of a single token, agree with separate sequences; their gradients
/// too.
pub fn packed_is_padded<S: Subject>(subject: &S, cx: &S::Cx) {
    let lengths = [37, 0, 1, 80];
    let mut bounds = vec![0];
    for n in lengths {
        bounds.push(bounds.last().expect("not empty") + n);
    }
    let inputs = subject.sample(4, 80, 10);
    let packed: Vec<Tensor> = inputs.iter().map(|x| x.pack(&lengths)).collect();
    let want = subject.naive(&packed, Some(&bounds));
    let d = cotangent(&want, 11);
    let gradients = subject.gradient(&packed, Some(&bounds), &d, cx);
    let total = *bounds.last().expect("not empty");
    for form in subject.forms() {
        let got = subject.run(form, &packed, Some(&bounds), cx);
        close(&format!("{form}, packed"), &got, &want, tolerance::FORWARD);
        for (b, n) in lengths.into_iter().enumerate() {
            let alone: Vec<Tensor> = inputs.iter().map(|x| x.sequence(b).tokens(0..n)).collect();
            let one = subject.run(form, &alone, None, cx);
            let (per, m) = (got.out.len() / total, one.state.len());
            assert_eq!(one.out, got.out[bounds[b] * per..bounds[b + 1] * per], "{form}: packed sequence {b}");
            assert_eq!(one.state, got.state[b * m..(b + 1) * m], "{form}: packed state {b}");
        }
    }
    for (b, n) in lengths.into_iter().enumerate() {
        let alone: Vec<Tensor> = inputs.iter().map(|x| x.sequence(b).tokens(0..n)).collect();
        let (per, m) = (d.out.len() / total, d.state.len() / lengths.len());
        let mine = Output {
            out: d.out[bounds[b] * per..bounds[b + 1] * per].to_vec(),
            state: d.state[b * m..(b + 1) * m].to_vec(),
        };
        for ((x, got), one) in packed.iter().zip(&gradients).zip(subject.gradient(&alone, None, &mine, cx)) {
            let what = format!("packed gradient to {}, sequence {b}", x.name);
            match x.kind {
                Kind::Token => {
                    let per = got.len() / total;
                    assert_close(&what, &got[bounds[b] * per..bounds[b + 1] * per], &one, tolerance::FORMS);
                }
                Kind::State => {
                    let m = one.len();
                    assert_close(&what, &got[b * m..(b + 1) * m], &one, tolerance::FORMS);
                }
                Kind::Shared | Kind::Constant => {}
            }
        }
    }
}

/// A random cotangent of an output.
fn cotangent(output: &Output, seed: u64) -> Output {
    let some = |n, seed| numbers(n, seed).into_iter().map(|x| (2.0 * x - 1.0) as f32 as f64).collect();
    Output { out: some(output.out.len(), seed), state: some(output.state.len(), seed + 1) }
}

/// Gradients agree with finite differences of the definition: along a random direction of each input, and at single
/// elements.
pub fn gradient_is_slope<S: Subject>(subject: &S, cx: &S::Cx) {
    for t in [1, 2, 17, 67, 130] {
        let inputs = subject.sample(2, t, 20 + t as u64);
        let d = cotangent(&subject.naive(&inputs, None), 30);
        let gradients = subject.gradient(&inputs, None, &d, cx);
        assert_eq!(gradients.len(), inputs.len(), "a gradient for each input");
        for (i, (x, gradient)) in inputs.iter().zip(&gradients).enumerate() {
            if x.kind == Kind::Constant {
                assert!(gradient.is_empty(), "gradient to {}, a constant", x.name);
                continue;
            }
            assert_eq!(gradient.len(), x.data.len(), "gradient to {}: length", x.name);
            let slope = |direction: &[f64]| {
                let at = |h: f64| {
                    let mut moved = inputs.clone();
                    moved[i].data.iter_mut().zip(direction).for_each(|(x, d)| *x += h * d);
                    let y = subject.naive(&moved, None);
                    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                    dot(&y.out, &d.out) + dot(&y.state, &d.state)
                };
                let h = 1e-5;
                (at(h) - at(-h)) / (2.0 * h)
            };
            let along = |direction: &[f64]| gradient.iter().zip(direction).map(|(g, d)| g * d).sum::<f64>();
            let scale = gradient.iter().fold(1.0f64, |m, g| m.max(g.abs()));
            let n = x.data.len();
            let random: Vec<f64> = numbers(n, 40).into_iter().map(|x| 2.0 * x - 1.0).collect();
            let norm = random.iter().map(|x| x * x).sum::<f64>().sqrt();
            let unit: Vec<f64> = random.iter().map(|x| x / norm).collect();
            let mut directions = vec![unit];
            for at in [0, n / 2, n - 1] {
                let mut one = vec![0.0; n];
                one[at] = 1.0;
                directions.push(one);
            }
            for direction in directions {
                let (got, want) = (along(&direction), slope(&direction));
                let error = (got - want).abs() / scale;
                let bound = tolerance::GRADIENT;
                assert!(error <= bound, "T = {t}: gradient to {}: {got}, slope {want}, error {error:.1e}", x.name);
            }
        }
    }
}

/// Decay strengths, from nearly none to a decay below the rounding error of the state.
const STRENGTHS: [f64; 8] = [1e-3, 0.03, 0.3, 1.0, 3.0, 8.0, 12.0, 16.0];

/// Gradients of decays agree with finite differences of the definition for any strength, relative to their own size.
/// `name` is the (negative) input that decays are computed from: it is constant, at each of several strengths, or
/// spread over all of them.
///
/// The directions are single tokens, and all tokens of a channel together, where the errors of tokens would accumulate.
pub fn gradient_of_decays_is_slope<S: Subject>(subject: &S, name: &str, tokens: usize, contexts: &[S::Cx]) {
    let inputs = subject.sample(1, tokens, 50);
    let at = inputs.iter().position(|x| x.name == name).expect("an input of that name");
    let n = inputs[at].data.len();
    let spread = numbers(n, 51).into_iter().map(|u| -((1e-3f64.ln() * (1.0 - u) + 40f64.ln() * u).exp()));
    let mut cases = vec![("spread".to_owned(), 1e-3, spread.collect::<Vec<_>>())];
    cases.extend(STRENGTHS.map(|g| (format!("of {g}"), g, vec![-g; n])));
    for (what, least, decays) in cases {
        let mut inputs = inputs.clone();
        inputs[at].data = decays.into_iter().map(|g| g as f32 as f64).collect();
        let d = cotangent(&subject.naive(&inputs, None), 52);
        let alone = directions(&inputs[at], n);
        let together = directions(&inputs[at], tokens);
        for directions in [alone, together].into_iter().filter(|directions| !directions.is_empty()) {
            let want: Vec<f64> = directions.iter().map(|to| slope(subject, &inputs, at, to, &d, least)).collect();
            let scale = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            for cx in contexts {
                let gradient = &subject.gradient(&inputs, None, &d, cx)[at];
                let got = directions.iter().map(|to| to.iter().map(|i| gradient[*i]).sum::<f64>());
                let error = got.zip(&want).map(|(got, want)| (got - want).abs() / scale).fold(0.0, f64::max);
                let (elements, bound) = (directions[0].len(), tolerance::DECAYS);
                assert!(
                    error <= bound,
                    "T = {tokens}, {what}: gradient to {name}, {elements} elements together: error {error:.1e} over {bound:.0e}"
                );
            }
        }
    }
}

/// Directions along an input of decays, as lists of elements that change together: all tokens of a channel, for several
/// tokens, or one element.
fn directions(x: &Tensor, tokens: usize) -> Vec<Vec<usize>> {
    let n = x.data.len();
    let channels = if x.kind == Kind::Token { n / x.shape[1] } else { n };
    let some = |of: usize| (0..of.min(7)).map(move |i| i * of / of.min(7));
    match x.kind {
        Kind::Token if tokens < n => some(channels).map(|c| (c..n).step_by(channels).collect()).collect(),
        _ if tokens < n => Vec::new(),
        _ => some(n).map(|i| vec![i]).collect(),
    }
}

/// The directional derivative of the definition, for elements that change together and are at most `-least`: a
/// six-point central difference of differences of outputs, which is exact to far below f32.
fn slope<S: Subject>(subject: &S, inputs: &[Tensor], at: usize, to: &[usize], d: &Output, least: f64) -> f64 {
    let h = (least / 50.0).min(0.05);
    let moved = |h: f64| {
        let mut inputs = inputs.to_vec();
        to.iter().for_each(|i| inputs[at].data[*i] += h);
        subject.naive(&inputs, None)
    };
    let mut sum = 0.0;
    for (i, by) in [(1.0, 45.0), (2.0, -9.0), (3.0, 1.0)] {
        let (up, down) = (moved(i * h), moved(-i * h));
        let along = |up: &[f64], down: &[f64], d: &[f64]| {
            up.iter().zip(down).zip(d).map(|((up, down), d)| (up - down) * d).sum::<f64>()
        };
        sum += by * (along(&up.out, &down.out, &d.out) + along(&up.state, &down.state, &d.state));
    }
    sum / (60.0 * h)
}
