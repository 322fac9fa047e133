//! Softmax attention: every pattern, every option, odd lengths.

use std::collections::BTreeMap;

use longreach_attention::operation::{Sample, Tensors, named};
use longreach_attention::softmax::{self, STATIC, Sizes};
use longreach_gpu::softmax::{Cotangent, Inputs, Listed, Output, Within, backward, few, forward};
use longreach_gpu::{DType, Device};
use longreach_simd::Cx;
use ndarray::{Array2, ArrayD, Ix2};
use serde_json::{Value, json};

use crate::harness::{DTYPES, agrees, devices, gradient_agrees, rounded, upload};

/// A call: a mechanism by name, its parameters (with `scale`, `softcap`, `offset` and `cu_seqlens` among them) and inputs.
struct Case<'a> {
    name: &'a str,
    parameters: Value,
    inputs: Tensors,
}

impl<'a> Case<'a> {
    fn of(name: &'a str, parameters: Value, sample: Sample, more: &[&str]) -> Self {
        let inputs = named(name).expect("a mechanism").sample_with(&sample, more);
        Self { name, parameters, inputs }
    }

    /// With inputs as a tensor of this type has them; options stay in f32.
    fn rounded(&self, dtype: DType) -> Self {
        let round = |(name, x): (&String, &ArrayD<f32>)| {
            let x = if ["q", "k", "v", "do"].contains(&&name[..]) { rounded(x, dtype) } else { x.clone() };
            (name.clone(), x)
        };
        Self { inputs: self.inputs.iter().map(round).collect(), parameters: self.parameters.clone(), ..*self }
    }

    fn sizes(&self) -> Sizes {
        let (q, k) = (&self.inputs["q"], &self.inputs["k"]);
        let offset = self.parameters["offset"].as_u64().unwrap_or(0) as usize;
        Sizes { batch: q.shape()[0], heads: q.shape()[2], queries: offset..offset + q.shape()[1], keys: k.shape()[1] }
    }

    fn on(&self, device: &Device, dtype: DType) -> (Inputs, Listed) {
        let of = self.sizes();
        let mut rest = self.parameters.clone();
        let taken: BTreeMap<&str, Value> = ["scale", "softcap", "offset", "cu_seqlens"]
            .into_iter()
            .map(|name| (name, rest.as_object_mut().and_then(|rest| rest.remove(name)).unwrap_or_default()))
            .collect();
        let packed: Option<Vec<usize>> = serde_json::from_value(taken["cu_seqlens"].clone()).expect("bounds");
        let flags = |x: &ArrayD<f32>| x.mapv(|x| x != 0.0).into_dimensionality::<Ix2>().expect("two axes");
        let keep: Option<Array2<bool>> = self.inputs.get("keep").map(flags);
        let within = Within { keep: keep.as_ref().map(|keep| keep.view()), packed: packed.as_deref() };
        // The branches of LongNet are patterns whose keys add up; its own pattern is their union.
        let branches = match (rest["segments"].as_array(), rest["dilations"].as_array()) {
            (Some(segments), Some(dilations)) => segments.iter().zip(dilations).collect(),
            _ => Vec::new(),
        };
        let branches = branches.into_iter().map(|(segment, dilation)| {
            let branch = json!({"segments": [segment], "dilations": [dilation], "causal": rest["causal"]});
            softmax::named(self.name, &branch, &of).expect("valid parameters")
        });
        let mut patterns: Vec<Box<dyn softmax::Pattern>> = branches.collect();
        let one = || -> Box<dyn softmax::Pattern> {
            match self.inputs.get("mask") {
                Some(mask) => {
                    let mask = mask.mapv(|x| x != 0.0).into_dimensionality::<ndarray::Ix4>().expect("four axes");
                    Box::new(softmax::masked::Masked::dense(mask.view()))
                }
                None => softmax::named(self.name, &rest, &of).expect("valid parameters"),
            }
        };
        if patterns.is_empty() {
            patterns.push(one());
        }
        let patterns: Vec<&dyn softmax::Pattern> = patterns.iter().map(|pattern| &**pattern).collect();
        let tensor = |name: &str| upload(device, &self.inputs[name], dtype);
        let option = |name: &str| self.inputs.get(name).map(|x| upload(device, x, DType::F32));
        let mut x = Inputs::new(tensor("q"), tensor("k"), tensor("v"));
        x.scale = taken["scale"].as_f64().map_or(x.scale, |scale| scale as f32);
        x.softcap = taken["softcap"].as_f64().map(|cap| cap as f32);
        (x.bias, x.alibi, x.sinks, x.weights) = (option("bias"), option("alibi"), option("sinks"), option("weights"));
        let widths = (self.inputs["q"].shape()[3], self.inputs["v"].shape()[3]);
        let listed = Listed::sum(device, &patterns, &of, within, widths).expect("a pattern that fits");
        (x, listed)
    }

    /// The forward pass and, with `gradients`, the backward pass agree.
    fn holds(&self, device: &Device, dtype: DType, gradients: bool) {
        let case = self.rounded(dtype);
        let what = format!("{} {} {:?} {}", self.name, dtype.name(), self.inputs["q"].shape(), self.parameters);
        let operation = named(self.name).expect("a mechanism");
        let want = operation.naive(&case.inputs, &case.parameters, &Cx::new(2)).expect("valid");
        let (x, listed) = case.on(device, dtype);
        let output = forward(device, &x, &listed).expect("inputs that fit");
        agrees(&format!("{what}: o"), device, &output.out, &want["o"]);
        agrees(&format!("{what}: lse"), device, &output.lse, &want["lse"]);
        if gradients {
            self.gradients_hold(&what, device, dtype, (&x, &listed), &output);
        }
    }

    fn gradients_hold(
        &self,
        what: &str,
        device: &Device,
        dtype: DType,
        (x, listed): (&Inputs, &Listed),
        output: &Output,
    ) {
        let mut given = self.inputs.clone();
        let shape = output.out.shape().to_vec();
        let wave = |shape: &[usize], step: f32| {
            let mut n = 0.0;
            ArrayD::from_shape_simple_fn(shape, || {
                n += step;
                f32::sin(n)
            })
        };
        given.insert("do".into(), wave(&shape, 0.7));
        given.insert("dlse".into(), wave(&shape[..3], 1.3));
        // The gradient given the output that was written, rounded where its type is short.
        for (name, saved) in [("o", &output.out), ("lse", &output.lse)] {
            let numbers = saved.read(device).expect("the device computes");
            given.insert(name.into(), ArrayD::from_shape_vec(saved.shape(), numbers).expect("as many numbers"));
        }
        let given = Case { inputs: given, parameters: self.parameters.clone(), name: self.name }.rounded(dtype).inputs;
        let operation = named(self.name).expect("a mechanism");
        let want = operation.backward(&given, &self.parameters, &Cx::new(2)).expect("valid");
        let d = Cotangent {
            out: upload(device, &given["do"], dtype),
            lse: Some(upload(device, &given["dlse"], DType::F32)),
        };
        let gradient = backward(device, x, listed, output, &d).expect("inputs that fit");
        let found = [
            ("dq", Some(&gradient.q)),
            ("dk", Some(&gradient.k)),
            ("dv", Some(&gradient.v)),
            ("dsinks", gradient.sinks.as_ref()),
            ("dbias", gradient.bias.as_ref()),
        ];
        for (name, found) in found {
            assert_eq!(found.is_some(), want.contains_key(name), "{what}: {name}");
            if let Some(found) = found {
                gradient_agrees(&format!("{what}: {name}"), device, found, &want[name]);
            }
        }
    }
}

const ALL: [&str; 5] = ["bias", "alibi", "sinks", "weights", "keep"];

#[test]
fn gpu_agrees_softmax_patterns() {
    let Some([device, _]) = devices() else { return };
    for (name, _) in STATIC {
        let example = named(name).expect("a mechanism").signature().example;
        let parameters = serde_json::from_str(example).expect("JSON");
        let sample = Sample { batch: 2, tokens: 512, heads: 2, width: 16, seed: 1 };
        Case::of(name, parameters, sample, &[]).holds(device, DType::F32, true);
    }
}

#[test]
fn gpu_agrees_softmax_lengths() {
    let Some(devices) = devices() else { return };
    for device in devices {
        for tokens in [0, 1, 15, 16, 17, 63, 64, 65, 100, 257] {
            let sample = Sample { batch: 2, tokens, heads: 2, width: 32, seed: 2 };
            Case::of("dense", json!({"causal": true}), sample, &[]).holds(device, DType::F32, true);
        }
    }
}

#[test]
fn gpu_agrees_softmax_options() {
    let Some(devices) = devices() else { return };
    for (device, all) in devices.iter().zip([true, false]) {
        for dtype in DTYPES {
            // A smaller device only has smaller slices: one type will do.
            if dtype == DType::F16 && !device.facts().f16 || dtype != DType::F32 && !all {
                continue;
            }
            // A width that fills no slice, and one that takes several.
            for width in if all { vec![12, 72] } else { vec![72] } {
                let sample = Sample { batch: 2, tokens: 90, heads: 4, width, seed: 3 };
                let parameters = json!({"left": 33, "right": 7, "softcap": 3.0, "scale": 0.4});
                let mut case = Case::of("window", parameters, sample, &ALL);
                // Two groups, and a bias that heads share.
                for name in ["k", "v"] {
                    let x = case.inputs[name].slice(ndarray::s![.., .., ..2, ..]).to_owned();
                    case.inputs.insert(name.into(), x.into_dyn());
                }
                let bias = case.inputs["bias"].slice(ndarray::s![.., ..1, .., ..]).to_owned();
                case.inputs.insert("bias".into(), bias.into_dyn());
                case.holds(device, dtype, true);
            }
        }
    }
}

#[test]
fn gpu_agrees_softmax_packed() {
    let Some([device, _]) = devices() else { return };
    let sample = Sample { batch: 1, tokens: 200, heads: 2, width: 16, seed: 4 };
    let packed = json!([0, 40, 41, 41, 170, 200]);
    for (name, mut parameters) in
        [("dense", json!({"causal": true})), ("longnet", json!({"segments": [16, 64], "dilations": [1, 2]}))]
    {
        parameters["cu_seqlens"] = packed.clone();
        let options: &[&str] = if name == "longnet" { &[] } else { &["alibi"] };
        Case::of(name, parameters, sample, options).holds(device, DType::F32, true);
    }
}

/// Few queries at the end of many keys, whose lists are divided among cubes and whose heads share tiles.
#[test]
fn gpu_agrees_softmax_few() {
    let Some(devices) = devices() else { return };
    for (device, dtypes) in devices.iter().zip([&[DType::F32, DType::BF16][..], &[DType::F32]]) {
        for &dtype in dtypes {
            for (queries, keys, groups) in [(1, 700, 1), (1, 40, 2), (3, 600, 2), (9, 333, 1)] {
                let sample = Sample { batch: 2, tokens: keys, heads: 4, width: 32, seed: 5 };
                let parameters = json!({"causal": true, "offset": keys - queries});
                let mut case = Case::of("dense", parameters, sample, &["sinks"]);
                let q = case.inputs["q"].slice(ndarray::s![.., keys - queries.., .., ..]).to_owned();
                case.inputs.insert("q".into(), q.into_dyn());
                for name in ["k", "v"] {
                    let x = case.inputs[name].slice(ndarray::s![.., .., ..groups, ..]).to_owned();
                    case.inputs.insert(name.into(), x.into_dyn());
                }
                let case = case.rounded(dtype);
                let want = named("dense").and_then(|of| of.naive(&case.inputs, &case.parameters, &Cx::new(2)));
                let want = want.expect("valid");
                let (x, listed) = case.on(device, dtype);
                let output = few(device, &x, &listed).expect("inputs that fit");
                let what = format!("few {} {queries} of {keys}, {groups} groups", dtype.name());
                agrees(&format!("{what}: o"), device, &output.out, &want["o"]);
                agrees(&format!("{what}: lse"), device, &output.lse, &want["lse"]);
            }
        }
    }
}

/// Two runs have the same bits: nothing is added atomically.
#[test]
fn two_runs_are_equal_to_the_bit() {
    let Some([device, _]) = devices() else { return };
    let sample = Sample { batch: 2, tokens: 150, heads: 2, width: 32, seed: 6 };
    let case = Case::of("window", json!({"left": 40, "right": 3}), sample, &[]);
    let run = || {
        let (x, listed) = case.on(device, DType::F32);
        let output = forward(device, &x, &listed).expect("inputs that fit");
        let d = Cotangent { out: output.out.clone(), lse: None };
        let gradient = backward(device, &x, &listed, &output, &d).expect("inputs that fit");
        [output.out, output.lse, gradient.q, gradient.k, gradient.v].map(|x| {
            let bits = |x: f32| x.to_bits();
            x.read(device).expect("the device computes").into_iter().map(bits).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(), run());
}
