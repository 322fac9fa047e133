//! Operators on a GPU, software Vulkan included, against the same operators on the host: outputs, gradients, and that no
//! operator falls back on the host.
#![cfg(feature = "gpu")]

use std::sync::Arc;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use longreach_attention::rotary::{Rotary, Scaling};
use longreach_attention::softmax::{Patterned, dense::Dense, window::Window};
use longreach_burn as ops;
use longreach_burn::bridge::fallbacks;
use longreach_burn::{
    Activation, Attention, AttentionOptions, Conv, ConvActivation, DeltaRule, DeviceName, GatedDelta, Gla, Mamba2,
    Mamba2Form, Packed,
};
use longreach_simd::Cx;
use longreach_testkit::tolerance::{GRADIENT, assert_close};
use ndarray::Array2;

/// The device; `None` without one, unless `LONGREACH_GPU_REQUIRED` wants it.
fn gpu() -> Option<Device> {
    match "vulkan".parse::<DeviceName>().expect("a name").open() {
        Ok(device) => Some(device),
        Err(e) if std::env::var_os("LONGREACH_GPU_REQUIRED").is_some() => panic!("{e}"),
        Err(e) => {
            eprintln!("NOT RUN: {e}");
            None
        }
    }
}

/// Inputs on a device, and how their gradients are read.
struct Given {
    device: Device,
    gradients: Vec<Box<dyn Fn(&Gradients) -> Option<Vec<f64>>>>,
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

impl Given {
    /// Numbers that differ everywhere, `from` to `to`, whose gradient is compared.
    fn within<const D: usize>(&mut self, shape: [usize; D], from: f32, to: f32) -> Tensor<D> {
        let (n, by) = (shape.iter().product::<usize>(), 0.7 + 0.3 * self.gradients.len() as f32);
        let wave = |i: usize| from + (to - from) * (0.5 + 0.5 * (i as f32 * by + 0.3).sin());
        let data = TensorData::new((0..n).map(wave).collect::<Vec<f32>>(), shape);
        let x = Tensor::<D>::from_data(data, &self.device).autodiff().require_grad();
        let leaf = x.clone();
        self.gradients.push(Box::new(move |gradients| leaf.grad(gradients).map(numbers)));
        x
    }

    fn any<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.within(shape, -1.0, 1.0)
    }
}

/// The outputs of an operator, and the gradients of a weighted sum of them.
fn run(device: &Device, of: impl Fn(&mut Given) -> Vec<Tensor<1>>) -> Vec<Vec<f64>> {
    let mut given = Given { device: device.clone(), gradients: Vec::new() };
    let outputs = of(&mut given);
    let weighted = |x: &Tensor<1>| {
        let n = x.dims()[0];
        let weights = (0..n).map(|i| (i as f32 * 0.9 + 0.1).cos()).collect::<Vec<f32>>();
        (x.clone() * Tensor::from_data(TensorData::new(weights, [n]), device).autodiff()).sum()
    };
    let loss = outputs.iter().map(weighted).reduce(|a, b| a + b).expect("an output");
    let gradients = loss.backward();
    let mut all: Vec<Vec<f64>> = outputs.into_iter().map(|x| numbers(x.inner())).collect();
    all.extend(given.gradients.iter().map(|of| of(&gradients).expect("a gradient of each input")));
    all
}

/// Compares both devices.
#[track_caller]
fn check(name: &str, of: impl Fn(&mut Given) -> Vec<Tensor<1>>) {
    let Some(gpu) = gpu() else { return };
    let (host, device) = (run(&ops::cpu(), &of), run(&gpu, &of));
    assert_eq!(host.len(), device.len());
    for (i, (host, device)) in host.iter().zip(&device).enumerate() {
        assert_close(&format!("{name}, result {i}"), device, host, GRADIENT);
    }
    let fell: Vec<_> = fallbacks().into_iter().filter(|(of, _)| of.operator == name).collect();
    assert!(fell.is_empty(), "{fell:?}");
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n = x.dims().iter().product::<usize>();
    x.reshape([n])
}

#[test]
fn layers_without_state() {
    // Few rows have a kernel of their own; more are a product of Burn's.
    for rows in [1, 3, 20] {
        check("linear", |x| vec![flat(ops::linear(x.any([2, rows, 24]), x.any([10, 24]), Some(x.any([10]))))]);
    }
    check("linear", |x| vec![flat(ops::linear(x.any([1, 9, 24]), x.any([10, 24]), None))]);
    check("embedding", |x| vec![flat(ops::embedding(x.any([7, 12]), &[3, 0, 6, 3, 3, 1], 2))]);
    check("add", |x| vec![flat(ops::add(x.any([2, 5, 6]), x.any([2, 5, 6])))]);
    check("silu_times", |x| vec![flat(ops::silu_times(x.any([2, 5, 6]), x.any([2, 5, 6])))]);
    check("neg_exp", |x| vec![flat(ops::neg_exp(x.any([9])))]);
    for f in [Activation::Gelu, Activation::Silu, Activation::Relu2] {
        check("activate", |x| vec![flat(ops::activate(x.any([2, 5, 6]), f))]);
        check("gated", |x| vec![flat(ops::gated(x.any([2, 5, 6]), f))]);
    }
}

#[test]
fn norms_and_positions() {
    check("rms_norm", |x| vec![flat(ops::rms_norm(x.any([2, 5, 12]), Some(x.any([12])), 1e-5))]);
    check("rms_norm", |x| vec![flat(ops::rms_norm(x.any([2, 5, 12]), None, 1e-5))]);
    check("rms_norm_gated", |x| {
        vec![flat(ops::rms_norm_gated(x.any([2, 5, 12]), x.any([2, 5, 12]), x.any([12]), 12, 1e-5))]
    });
    check("layer_norm", |x| {
        vec![flat(ops::layer_norm(x.any([2, 5, 12]), Some(x.any([2, 5, 12])), x.any([12]), Some(x.any([12])), 1e-5))]
    });
    check("layer_norm", |x| vec![flat(ops::layer_norm(x.any([2, 5, 12]), None, x.any([12]), None, 1e-5))]);
    for interleaved in [false, true] {
        let rotary = Rotary { width: 8, theta: 1e4, interleaved, scaling: Scaling::default() };
        let positions = Array2::from_shape_fn((1, 7), |(_, t)| 3 * t);
        let angles = Arc::new(rotary.angles(positions.view(), 7, &Cx::new(1)).expect("angles"));
        check("rotary", |x| vec![flat(ops::rotary(x.any([2, 7, 3, 12]), &angles))]);
    }
}

#[test]
fn softmax_attention() {
    // More queries than a tile has, and few of them.
    for (tokens, keys) in [(70, 70), (3, 70)] {
        let call = |x: &mut Given, options: AttentionOptions, sinks: bool| {
            let [q, k, v] = [[2, tokens, 4, 16], [2, keys, 2, 16], [2, keys, 2, 8]].map(|shape| x.any(shape));
            let sinks = sinks.then(|| x.any([4]));
            let options = AttentionOptions { offset: keys - tokens, ..options };
            let (out, lse) = ops::attention(Attention { q, k, v, bias: None, sinks, options });
            vec![flat(out), flat(lse)]
        };
        check("attention", |x| call(x, AttentionOptions::new(Patterned::new(Dense { causal: true }), 16), false));
        check("attention", |x| {
            let window = AttentionOptions::new(Patterned::new(Window { left: 9, right: 0 }), 16);
            call(x, AttentionOptions { softcap: Some(5.0), alibi: Some(vec![0.5, 0.25, 0.1, 0.0]), ..window }, true)
        });
    }
}

#[test]
fn mechanisms_with_a_state() {
    for packed in [Packed::ROWS, Packed::new([0, 5, 20, 21])] {
        let rows = packed.bounds().map_or(2, |_| 3);
        let (b, t) = if rows == 2 { (2, 21) } else { (1, 21) };
        check("short_conv", |x| {
            let (x, weight, bias, state) = (x.any([b, t, 10]), x.any([4, 10]), Some(x.any([10])), x.any([rows, 3, 10]));
            let (y, state) = Conv { x, weight, bias, state, activation: ConvActivation::Silu }.packed(&packed);
            vec![flat(y), flat(state)]
        });
        check("mamba2", |x| {
            let scan = Mamba2 {
                x: x.any([b, t, 4 * 8]),
                dt: x.any([b, t, 4]),
                dt_bias: x.any([4]),
                dt_limit: (0.0, f32::INFINITY),
                a: x.within([4], -2.0, -0.5),
                b: x.any([b, t, 2 * 16]),
                c: x.any([b, t, 2 * 16]),
                groups: 2,
                d: x.any([4]),
                state: x.any([rows, 4, 16, 8]),
                form: Mamba2Form::Recurrent,
            };
            let (y, state) = scan.packed(&packed);
            vec![flat(y), flat(state)]
        });
        let keys = [b, t, 2, 8];
        check("gla", |x| {
            let [q, k] = [x.any(keys), x.any(keys)];
            let (v, g, state) = (x.any([b, t, 4, 6]), x.within([b, t, 4, 8], -1.0, 0.0), x.any([rows, 4, 8, 6]));
            let (y, state) = Gla { q, k, v, g, state, scale: 0.3 }.packed(&packed);
            vec![flat(y), flat(state)]
        });
        let short = |x: &mut Given| x.within(keys, -0.3, 0.3);
        check("delta_rule", |x| {
            let (q, k, v, beta) = (x.any(keys), short(x), x.any([b, t, 4, 6]), x.within([b, t, 4], 0.0, 1.0));
            let (y, state) = DeltaRule { q, k, v, beta, state: x.any([rows, 4, 8, 6]), scale: 0.3 }.packed(&packed);
            vec![flat(y), flat(state)]
        });
        check("gated_delta", |x| {
            let (q, k, v) = (x.any(keys), short(x), x.any([b, t, 4, 6]));
            let (g, beta) = (x.within([b, t, 4], -1.0, 0.0), x.within([b, t, 4], 0.0, 1.0));
            let (y, state) = GatedDelta { q, k, v, g, beta, state: x.any([rows, 4, 8, 6]), scale: 0.3 }.packed(&packed);
            vec![flat(y), flat(state)]
        });
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let error = "vulkan:99".parse::<DeviceName>().expect("a name").open().expect_err("not there").to_string();
    assert!(error.starts_with("device `vulkan:99`: ") && error.contains("longreach devices"), "{error}");
}
