//! Every operation against Burn's autodiff of the same formula written in Burn's own operations.

use burn::tensor::{Device, Distribution, Tensor, activation};
use longreach_attention::Form;
use longreach_attention::operation::{Tensors, named};
use longreach_attention::rotary::{Rotary, Scaling};
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::dilated::Dilated;
use longreach_attention::softmax::longformer::Longformer;
use longreach_attention::softmax::lsh::Lsh;
use longreach_attention::softmax::nsa::Nsa;
use longreach_attention::softmax::window::Window;
use longreach_attention::softmax::{self, Pattern, Patterned, Sizes, infllm_v2, moba};
use longreach_burn as ops;
use ndarray::{Array2, Array4, ArrayD};
use serde_json::json;

fn device() -> Device {
    let device = Device::flex().autodiff();
    device.seed(7);
    device
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &device().inner()).autodiff().require_grad()
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn array(x: &Tensor<4>) -> Array4<f32> {
    let numbers = x.clone().inner().into_data().iter::<f32>().collect();
    Array4::from_shape_vec(x.dims(), numbers).expect("as many numbers as the shape asks for")
}

#[track_caller]
fn close<const D: usize>(what: &str, a: Tensor<D>, b: Tensor<D>) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    longreach_testkit::tolerance::assert_close(what, &numbers(a.inner()), &numbers(b.inner()), 1e-5);
}

/// Compares two outputs, and the gradients of a random weighted sum of each with respect to the inputs.
macro_rules! agree {
    ($ours:expr, $theirs:expr, $($input:ident),+) => {{
        let (ours, theirs) = ($ours, $theirs);
        close("output", ours.clone(), theirs.clone());
        let weights = Tensor::random(ours.dims(), Distribution::Uniform(-1.0, 1.0), &device().inner()).autodiff();
        let a = (ours * weights.clone()).sum().backward();
        let b = (theirs * weights).sum().backward();
        $(close(
            concat!("gradient to ", stringify!($input)),
            $input.grad(&a).expect("a gradient"),
            $input.grad(&b).expect("a gradient"),
        );)+
    }};
}

fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * activation::sigmoid(x)
}

#[test]
fn linear() {
    let (x, w, b) = (random([2, 5, 7]), random([9, 7]), random([9]));
    let theirs = |x: Tensor<3>| x.matmul(w.clone().transpose().unsqueeze()) + b.clone().unsqueeze();
    agree!(ops::linear(x.clone(), w.clone(), Some(b.clone())), theirs(x.clone()), x, w, b);
    agree!(ops::linear(x.clone(), w.clone(), None), x.clone().matmul(w.clone().transpose().unsqueeze()), x, w);
    // A slice of a wider tensor is read in place.
    let wide = random([2, 5, 20]);
    let part = || wide.clone().narrow(2, 4, 7);
    agree!(ops::linear(part(), w.clone(), Some(b.clone())), theirs(part()), wide, w, b);
}

#[test]
fn the_gradient_passes_through_frozen_and_quantised_weights() {
    use longreach_simd::product::{Int8, Quantised};
    let (x, w) = (random([5, 8]), random([6, 8]));
    let frozen = w.clone().inner();
    let still = Tensor::from_inner(frozen.clone());
    let y = ops::linear(x.clone(), still.clone(), None);
    let gradients = (y.clone() * y).sum().backward();
    assert!(still.grad(&gradients).is_none());
    let want = {
        let y = x.clone().matmul(Tensor::from_inner(frozen.clone()).swap_dims(0, 1));
        x.grad(&(y.clone() * y).sum().backward()).expect("a gradient")
    };
    close("through frozen weights", x.grad(&gradients).expect("a gradient").autodiff(), want.autodiff());

    let numbers: Vec<f32> = frozen.into_data().iter::<f32>().collect();
    let matrix = std::sync::Arc::new(Quantised::Int8(Int8::new(&ops::context(), &numbers, 8)));
    let rounded = matrix.dequantise(&ops::context());
    let weights = random([5, 6]).inner().autodiff();
    let gradients = (ops::linear_quantised(x.clone(), &matrix, None) * weights.clone()).sum().backward();
    let rounded = Tensor::<1>::from_data(&rounded[..], &device().inner()).reshape([6, 8]).autodiff();
    let theirs = (x.clone().matmul(rounded.swap_dims(0, 1)) * weights).sum().backward();
    let (ours, theirs) = (x.grad(&gradients).expect("a gradient"), x.grad(&theirs).expect("a gradient"));
    close("through quantised weights", ours.autodiff(), theirs.autodiff());
}

#[test]
fn norms() {
    let (x, z, w) = (random([2, 5, 12]), random([2, 5, 30]), random([12]));
    let rms = |x: Tensor<3>, w: Tensor<1>| x.clone() / (x.powf_scalar(2.0).mean_dim(2) + 1e-5).sqrt() * w.unsqueeze();
    agree!(ops::rms_norm(x.clone(), Some(w.clone()), 1e-5), rms(x.clone(), w.clone()), x, w);
    let one = Tensor::<1>::ones([12], &device());
    agree!(ops::rms_norm(x.clone(), None, 1e-5), rms(x.clone(), one), x);
    let gate = || z.clone().narrow(2, 3, 12);
    let gated = rms(x.clone() * silu(gate()), w.clone());
    agree!(ops::rms_norm_gated(x.clone(), gate(), w.clone(), 12, 1e-5), gated, x, z, w);
    let grouped = (x.clone() * silu(gate())).reshape([2, 15, 4]);
    let grouped = grouped.clone() / (grouped.powf_scalar(2.0).mean_dim(2) + 1e-5).sqrt();
    let grouped = grouped.reshape([2, 5, 12]) * w.clone().unsqueeze();
    agree!(ops::rms_norm_gated(x.clone(), gate(), w.clone(), 4, 1e-5), grouped, x, z, w);
}

#[test]
fn layer_norms() {
    let (x, r, w, b) = (random([2, 5, 12]), random([2, 5, 12]), random([12]), random([12]));
    let layer = |z: Tensor<3>, w: Tensor<1>| {
        let z = z.clone() - z.mean_dim(2);
        z.clone() / (z.powf_scalar(2.0).mean_dim(2) + 1e-3).sqrt() * w.unsqueeze()
    };
    agree!(ops::layer_norm(x.clone(), None, w.clone(), None, 1e-3), layer(x.clone(), w.clone()), x, w);
    let sum = || layer(x.clone() + r.clone(), w.clone()) + b.clone().unsqueeze();
    agree!(ops::layer_norm(x.clone(), Some(r.clone()), w.clone(), Some(b.clone()), 1e-3), sum(), x, r, w, b);
}

#[test]
fn activations_and_gates() {
    use ops::Activation;
    let (x, y) = (random([3, 50]), random([3, 50]));
    agree!(ops::activate(x.clone(), Activation::Gelu), activation::gelu(x.clone()), x);
    agree!(ops::activate(x.clone(), Activation::Relu), activation::relu(x.clone()), x);
    agree!(ops::activate(x.clone(), Activation::Tanh), x.clone().tanh(), x);
    let both = random([3, 2, 14]);
    let half = |i: usize| both.clone().narrow(2, 7 * i, 7);
    agree!(ops::gated(both.clone(), Activation::Gelu), activation::gelu(half(0)) * half(1), both);
    agree!(ops::add(x.clone(), y.clone()), x.clone() + y.clone(), x, y);
}

#[test]
fn element_wise() {
    let (x, y) = (random([3, 50]), random([3, 50]));
    agree!(ops::silu_times(x.clone(), y.clone()), silu(x.clone()) * y.clone(), x, y);
    agree!(ops::neg_exp(x.clone()), x.clone().exp().neg(), x);
}

#[test]
fn embedding() {
    let w = random([11, 6]);
    let ids = [3u32, 0, 10, 3, 3, 7];
    let index = Tensor::<1, burn::tensor::Int>::from_data([3, 0, 10, 3, 3, 7], &device());
    let theirs = w.clone().select(0, index).reshape([2, 3, 6]);
    agree!(ops::embedding(w.clone(), &ids, 2), theirs, w);
}

#[test]
fn cross_entropy() {
    // More rows than a block, some of which are ignored.
    let (x, w) = (random([600, 5]), random([17, 5]));
    let targets: Vec<i64> = (0..600).map(|i| if i % 7 == 0 { -100 } else { i * 5 % 17 }).collect();
    let log = activation::log_softmax(x.clone().matmul(w.clone().transpose()), 1);
    let mut chosen = vec![0.0f32; 600 * 17];
    let counted = targets.iter().filter(|t| **t >= 0).count() as f32;
    for (i, t) in targets.iter().enumerate().filter(|(_, t)| **t >= 0) {
        chosen[i * 17 + *t as usize] = -1.0 / counted;
    }
    let chosen = Tensor::<1>::from_data(&chosen[..], &device()).reshape([600, 17]);
    agree!(ops::linear_cross_entropy(x.clone(), w.clone(), &targets), (log * chosen).sum(), x, w);
}

#[test]
fn short_conv_with_its_state() {
    let (x, weight, bias, state) = (random([2, 6, 9]), random([4, 9]), random([9]), random([2, 3, 9]));
    let line = Tensor::cat(vec![state.clone(), x.clone()], 1);
    let taps = (0..4).map(|j| line.clone().narrow(1, j, 6) * weight.clone().narrow(0, j, 1).unsqueeze());
    let sum = taps.reduce(|a, b| a + b).expect("four taps") + bias.clone().unsqueeze();
    let theirs = Tensor::cat(vec![silu(sum), line.narrow(1, 6, 3)], 1);
    let activation = ops::ConvActivation::Silu;
    let conv =
        ops::Conv { x: x.clone(), weight: weight.clone(), bias: Some(bias.clone()), state: state.clone(), activation };
    let (y, last) = ops::short_conv(conv);
    agree!(Tensor::cat(vec![y, last], 1), theirs, x, weight, bias, state);
}

/// The output and the final state in one row, so that both have gradients.
fn joined<const D: usize>(y: Tensor<3>, state: Tensor<D>) -> Tensor<1> {
    let flat = |n: usize| [n];
    let (n, m) = (y.shape().num_elements(), state.shape().num_elements());
    Tensor::cat(vec![y.reshape(flat(n)), state.reshape(flat(m))], 0)
}

#[test]
fn mamba_with_its_state() {
    let (b, t, d, n) = (2, 5, 6, 3);
    let (x, dt, z) = (random([b, t, d]), random([b, t, d]), random([b, t, d]));
    let (dt_bias, skip, log_a) = (random([d]), random([d]), random([n, d]));
    let (bs, cs, state) = (random([b, t, n]), random([b, t, n]), random([b, n, d]));
    let a = log_a.clone().exp().neg();
    let mut h = state.clone();
    let mut ys = Vec::new();
    for i in 0..t {
        let at = |x: &Tensor<3>| x.clone().narrow(1, i, 1);
        let delta = activation::softplus(at(&dt) + dt_bias.clone().unsqueeze(), 1.0);
        let input = at(&bs).swap_dims(1, 2) * (delta.clone() * at(&x));
        h = (delta * a.clone().unsqueeze()).exp() * h + input;
        let y = (at(&cs).swap_dims(1, 2) * h.clone()).sum_dim(1) + skip.clone().unsqueeze() * at(&x);
        ys.push(y * silu(at(&z)));
    }
    let theirs = joined(Tensor::cat(ys, 1), h);
    let (y, last) = ops::mamba(ops::Mamba {
        x: x.clone(),
        dt: dt.clone(),
        dt_bias: dt_bias.clone(),
        a: ops::neg_exp(log_a.clone()),
        b: bs.clone(),
        c: cs.clone(),
        d: skip.clone(),
        z: z.clone(),
        state: state.clone(),
    });
    agree!(joined(y, last), theirs, x, dt, dt_bias, log_a, bs, cs, skip, z, state);
}

#[test]
fn mamba2_with_its_state() {
    let (b, t, heads, p, groups, n) = (2, 5, 4, 3, 2, 5);
    let (x, dt) = (random([b, t, heads * p]), random([b, t, heads]));
    let (dt_bias, skip, log_a) = (random([heads]), random([heads]), random([heads]));
    let (bs, cs) = (random([b, t, groups * n]), random([b, t, groups * n]));
    let state = random([b, heads, n, p]);
    // [B, 1, G N] to [B, H, N, 1]: the heads of a group share it.
    let grouped = |x: &Tensor<3>, i: usize| {
        let x = x.clone().narrow(1, i, 1).reshape([b, groups, 1, n]);
        x.repeat_dim(2, heads / groups).reshape([b, heads, n, 1])
    };
    let theirs = || {
        let a = log_a.clone().exp().neg();
        let mut h = state.clone();
        let mut ys = Vec::new();
        for i in 0..t {
            let delta = activation::softplus(dt.clone().narrow(1, i, 1) + dt_bias.clone().unsqueeze(), 1.0);
            let decay = (delta.clone() * a.clone().unsqueeze()).exp().reshape([b, heads, 1, 1]);
            let xt = x.clone().narrow(1, i, 1).reshape([b, heads, 1, p]);
            h = decay * h + delta.reshape([b, heads, 1, 1]) * grouped(&bs, i) * xt.clone();
            let y = (grouped(&cs, i) * h.clone()).sum_dim(2) + skip.clone().reshape([1, heads, 1, 1]) * xt;
            ys.push(y.reshape([b, 1, heads * p]));
        }
        joined(Tensor::cat(ys, 1), h)
    };
    for form in [ops::Mamba2Form::Recurrent, ops::Mamba2Form::Chunk] {
        let (y, last) = ops::mamba2(ops::Mamba2 {
            x: x.clone(),
            dt: dt.clone(),
            dt_bias: dt_bias.clone(),
            dt_limit: (0.0, f32::INFINITY),
            a: ops::neg_exp(log_a.clone()),
            b: bs.clone(),
            c: cs.clone(),
            groups,
            d: skip.clone(),
            state: state.clone(),
            form,
        });
        agree!(joined(y, last), theirs(), x, dt, dt_bias, log_a, bs, cs, skip, state);
    }
}

/// Softmax attention in Burn's own operations, with `bias` added to the scores; returns the output and the
/// log-sum-exp.
fn plain_softmax(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Tensor<4>) -> (Tensor<4>, Tensor<3>) {
    let scale = (q.dims()[3] as f64).powf(-0.5);
    let scores = q.swap_dims(1, 2).matmul(k.swap_dims(1, 2).swap_dims(2, 3)) * scale + bias;
    let lse = scores.clone().exp().sum_dim(3).log();
    let out = (scores - lse.clone()).exp().matmul(v.swap_dims(1, 2)).swap_dims(1, 2);
    (out, lse.swap_dims(1, 2).squeeze_dim(3))
}

#[test]
fn attention() {
    let (b, t, h, d) = (2, 19, 3, 8);
    let (q, k, v) = (random([b, t, h, d]), random([b, t, h, d]), random([b, t, h, 5]));
    let bias = random([1, h, t, t]);
    let hidden = |sees: &dyn Fn(usize, usize) -> bool| {
        let mask: Vec<f32> = (0..t * t).map(|n| if sees(n / t, n % t) { 0.0 } else { -1e9 }).collect();
        Tensor::<1>::from_data(&mask[..], &device()).reshape([1, 1, t, t])
    };
    let run = |mechanism: &dyn Fn() -> ops::AttentionOptions, bias: Option<Tensor<4>>| {
        let options = mechanism();
        ops::attention(ops::Attention { q: q.clone(), k: k.clone(), v: v.clone(), bias, sinks: None, options })
    };
    let causal = || ops::AttentionOptions::new(Patterned::new(Dense { causal: true }), d);
    let theirs = || plain_softmax(q.clone(), k.clone(), v.clone(), bias.clone() + hidden(&|i, j| j <= i));
    agree!(run(&causal, Some(bias.clone())).0, theirs().0, q, k, v, bias);
    agree!(run(&causal, Some(bias.clone())).1, theirs().1, q, k, bias);
    let window = || ops::AttentionOptions::new(Patterned::new(Window { left: 3, right: 2 }), d);
    let theirs = || plain_softmax(q.clone(), k.clone(), v.clone(), hidden(&|i, j| j <= i + 2 && i <= j + 3));
    agree!(run(&window, None).0, theirs().0, q, k, v);
    let dilated = || ops::AttentionOptions::new(Dilated { left: 2, right: 1, dilation: vec![3] }, d);
    let sees = |i: usize, j: usize| i.abs_diff(j).is_multiple_of(3) && j <= i + 3 && i <= j + 6;
    let theirs = || plain_softmax(q.clone(), k.clone(), v.clone(), hidden(&sees));
    agree!(run(&dilated, None).0, theirs().0, q, k, v);
    // A sink is a key with a score of its own and a value of zero.
    let sinks = random([h]);
    let options = causal();
    let ours = || {
        let (q, k, v, sinks) = (q.clone(), k.clone(), v.clone(), Some(sinks.clone()));
        ops::attention(ops::Attention { q, k, v, bias: None, sinks, options: options.clone() }).0
    };
    let theirs = || {
        let (out, lse) = plain_softmax(q.clone(), k.clone(), v.clone(), hidden(&|i, j| j <= i));
        let share = burn::tensor::activation::sigmoid(lse - sinks.clone().reshape([1, 1, h]));
        out * share.reshape([b, t, h, 1])
    };
    agree!(ours(), theirs(), q, k, v, sinks);
}

/// Every pattern as an operation, against dense attention with the same mask in Burn's own operations.
#[test]
fn every_mechanism_of_queries_keys_and_values() {
    let (b, t, h, d) = (1, 96, 2, 4);
    let (q, k, v) = (random([b, t, h, d]), random([b, t, h, d]), random([b, t, h, d]));
    let of = Sizes { batch: b, heads: h, queries: 0..t, keys: t };
    let (kept_q, kept_k, kept_v) = (array(&q), array(&k), array(&v));
    let inputs = softmax::Inputs::new(kept_q.view(), kept_k.view(), kept_v.view());
    for (name, parameters) in [
        (
            "masked",
            json!({"start": (0..=t).collect::<Vec<_>>(), "indices": (0..t).map(|i| i * 5 % (i + 1)).collect::<Vec<_>>()}),
        ),
        ("longformer", json!({"window": 5, "global": [0, 40]})),
        ("bigbird", json!({"block": 8, "random_blocks": 1, "seed": 1})),
        ("bigbird", json!({"block": 16, "random_blocks": 2})),
        ("sparse_transformer", json!({"kind": "fixed", "stride": 16, "columns": 3})),
        ("sparse_transformer", json!({"kind": "strided", "stride": 9, "which": "alternating"})),
        ("deepspeed", json!({"mode": "bslongformer", "block": 16})),
        ("streaming", json!({"sinks": 2, "recent": 7})),
        ("longnet", json!({"segments": [48], "dilations": [3], "causal": true})),
        ("moba", json!({"block": 16, "top": 2})),
        ("infllm_v2", json!({"kernel": 8, "stride": 4, "block": 16, "window": 16, "top": 2, "dense_below": 0})),
    ] {
        let pattern: Box<dyn Pattern> = match name {
            "moba" => {
                let moba = serde_json::from_value(parameters.clone()).expect("parameters");
                Box::new(moba::select(&inputs, &moba, &ops::context()).expect("a choice"))
            }
            "infllm_v2" => {
                let of = serde_json::from_value(parameters.clone()).expect("parameters");
                Box::new(infllm_v2::select(&inputs, &of, &ops::context()).expect("a choice"))
            }
            _ => softmax::named(name, &parameters, &of).expect("a pattern"),
        };
        let count = |n: usize| pattern.count(&of, 0, n / (t * t), n / t % t, n % t);
        // The output of a row without visible keys is zero here; the reference attends to all keys, and is multiplied
        // by zero.
        let empty = |row: usize| (0..t).all(|j| count(row * t + j) == 0);
        let score = |n: usize| match count(n) {
            0 if empty(n / t) => 0.0,
            0 => -1e9,
            count => (count as f32).ln(),
        };
        let mask: Vec<f32> = (0..h * t * t).map(score).collect();
        let mask = Tensor::<1>::from_data(&mask[..], &device()).reshape([1, h, t, t]);
        let mechanism = softmax::mechanism(name, &parameters, &of).expect("a mechanism");
        let options = ops::AttentionOptions::shared(mechanism.into(), d);
        let (q_, k_, v_) = (q.clone(), k.clone(), v.clone());
        let ours = ops::attention(ops::Attention { q: q_, k: k_, v: v_, bias: None, sinks: None, options }).0;
        let seen: Vec<f32> = (0..t * h).map(|n| f32::from(!empty(n % h * t + n / h))).collect();
        let seen = Tensor::<1>::from_data(&seen[..], &device()).reshape([1, t, h, 1]);
        let theirs = plain_softmax(q.clone(), k.clone(), v.clone(), mask).0 * seen;
        agree!(ours, theirs, q, k, v);
    }
}

/// Mechanisms with inputs of their own: the gradients of the kernels, which are verified elsewhere, are returned for
/// the right tensors.
#[test]
fn mechanisms_with_inputs_of_their_own() {
    let (b, t, h, d) = (2, 64, 2, 4);
    let at = |name: &str, tensors: &[(&str, &Tensor<4>)], parameters: serde_json::Value| {
        let mut inputs: Tensors = tensors.iter().map(|(n, x)| ((*n).into(), array(x).into_dyn())).collect();
        let operation = named(name).expect("a mechanism");
        let out =
            operation.forward(&inputs, &parameters, Form::Chunk, &ops::context()).expect("inputs that fit").remove("o");
        let out = out.expect("an output");
        // The gradient of the sum of squares.
        inputs.insert("do".into(), &out * 2.0);
        let gradients = operation.backward(&inputs, &parameters, &ops::context()).expect("inputs that fit");
        (out, gradients)
    };
    let check = |ours: Tensor<4>, of: &[(&str, &Tensor<4>)], (out, theirs): (ArrayD<f32>, Tensors)| {
        let wide = |x: &ArrayD<f32>| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        longreach_testkit::tolerance::assert_close("output", &numbers(ours.clone().inner()), &wide(&out), 1e-5);
        let gradients = (ours.clone() * ours).sum().backward();
        for (name, x) in of {
            let ours = numbers(x.grad(&gradients).expect("a gradient"));
            longreach_testkit::tolerance::assert_close(name, &ours, &wide(&theirs[&format!("d{name}")]), 1e-5);
        }
    };
    let [q, k, v, gq, gk, gv] = std::array::from_fn(|_| random([b, t, h, d]));

    let marks = Array2::from_shape_fn((1, t), |(_, i)| i == 3 || i == 40);
    let pattern = std::sync::Arc::new(Longformer::new(5, marks.view()));
    let (qkv, global) = ([q.clone(), k.clone(), v.clone()], [gq.clone(), gk.clone(), gv.clone()]);
    let ours = ops::LongformerAttention { qkv, global, pattern, scale: 0.5, keep: None };
    let of = [("q", &q), ("k", &k), ("v", &v), ("gq", &gq), ("gk", &gk), ("gv", &gv)];
    let theirs = at("longformer", &of, json!({"window": 5, "global": [3, 40], "scale": 0.5}));
    check(ops::longformer_attention(ours).0, &of, theirs);

    let gates = random([b, t, h, 3]);
    let nsa = Nsa { block: 8, top: 3, window: 10 };
    let (scale, offset) = (0.5, 0);
    let ours = ops::NsaAttention { q: q.clone(), k: k.clone(), v: v.clone(), gates: gates.clone(), nsa, scale, offset };
    let of = [("q", &q), ("k", &k), ("v", &v), ("gates", &gates)];
    let theirs = at("nsa", &of, json!({"block": 8, "top": 3, "window": 10, "scale": 0.5}));
    check(ops::nsa_attention(ours), &of, theirs);

    let rotations = random([h, d, 2, 4]);
    let hash = ops::LshHash::Rotations(vec![array(&rotations).into_dyn()]);
    let lsh = Lsh { chunk: 16, ..Lsh::default() };
    let ours = ops::LshAttention { x: q.clone(), v: v.clone(), hash, lsh, keep: None };
    let theirs = at("lsh", &[("x", &q), ("v", &v), ("rotations", &rotations)], json!({"chunk": 16}));
    check(ops::lsh_attention(ours), &[("x", &q), ("v", &v)], theirs);

    let rotary = Rotary { width: d, theta: 100.0, interleaved: false, scaling: Scaling::Default };
    let positions = Array2::from_shape_fn((1, t), |(_, i)| i);
    let angles = std::sync::Arc::new(rotary.angles(positions.view(), t, &ops::context()).expect("a width that fits"));
    let theirs = at("rotary", &[("x", &q)], json!({"theta": 100.0}));
    check(ops::rotary(q.clone(), &angles), &[("x", &q)], theirs);
}

#[test]
fn rows_are_put_in_place() {
    let (to, rows) = (random([2, 5, 2, 3]), random([2, 2, 2, 3]));
    let theirs = Tensor::cat(vec![to.clone().narrow(1, 0, 2), rows.clone(), to.clone().narrow(1, 4, 1)], 1);
    agree!(ops::put_rows(to.clone(), rows.clone(), 2), theirs, to, rows);
}
