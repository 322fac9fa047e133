//! The softmax family against other people's code: PyTorch's attention, and Longformer, BigBird and Reformer of transformers. Made by
//! `goldens/torch_dense.py` and `goldens/hugging_face.py`.

use std::path::{Path, PathBuf};

use longreach_attention::Sequences;
use longreach_attention::softmax::bigbird::BigBird;
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::longformer::{self, Global, Longformer};
use longreach_attention::softmax::lsh::{self, Lsh};
use longreach_attention::softmax::{self, Cotangent, Inputs, Sizes};
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance::{FORWARD, GRADIENT, assert_close};
use ndarray::{Array2, Array3, Array4, ArrayD, ArrayView4, ArrayViewD, IxDyn, s};
use serde_json::Value;

use crate::softmax::lse_close;
use crate::{contexts, narrow, v, wide};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A case of a file.
struct Case<'a> {
    file: &'a Golden,
    name: &'a str,
}

impl Case<'_> {
    fn floats(&self, name: &str) -> ArrayD<f32> {
        let (shape, data) = self.file.floats(&format!("{}/{name}", self.name));
        narrow(&shape, &data)
    }

    fn flags(&self, name: &str) -> Array2<bool> {
        self.floats(name).mapv(|x| x != 0.0).into_dimensionality().expect("rank")
    }

    fn integers(&self, name: &str) -> ArrayD<i64> {
        let (shape, data) = self.file.integers(&format!("{}/{name}", self.name));
        ArrayD::from_shape_vec(IxDyn(&shape), data).expect("shape")
    }

    #[track_caller]
    fn check<'f>(&self, name: &str, got: impl IntoIterator<Item = &'f f32>, bound: f64) {
        let name = format!("{}/{name}", self.name);
        assert_close(&name, &wide(got), &self.file.floats(&name).1, bound);
    }

    /// The log-sum-exp: −∞ in the same rows, and close in the others.
    #[track_caller]
    fn check_lse(&self, got: &Array3<f32>) {
        let name = format!("{}/lse", self.name);
        lse_close(&name, &wide(got), &self.file.floats(&name).1);
    }
}

/// An output with zeros at padding, where others' means nothing.
fn kept(out: &Array4<f32>, keep: &Array2<bool>) -> Array4<f32> {
    let mut out = out.clone();
    for ((b, t), _) in keep.indexed_iter().filter(|(_, kept)| !**kept) {
        out.slice_mut(s![b, t, .., ..]).fill(0.0);
    }
    out
}

#[test]
fn dense_attention_is_that_of_pytorch() {
    let file = Golden::read(path("dense.safetensors"));
    let text = std::fs::read_to_string(path("dense.json")).expect("goldens");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    for options in &cases {
        let case = Case { file: &file, name: options["name"].as_str().expect("a name") };
        let flag = |name: &str| options[name].as_bool().expect("a flag");
        let [q, k, value, d_out, d_lse] = ["q", "k", "v", "do", "dlse"].map(|name| case.floats(name));
        let bias = flag("bias").then(|| case.floats("bias"));
        let sinks = flag("sinks").then(|| case.floats("sinks"));
        let keep = flag("keep").then(|| case.flags("keep"));
        let slopes = flag("slopes").then(|| softmax::alibi(q.shape()[2]));
        if let Some(slopes) = &slopes {
            case.check("slopes", slopes, FORWARD);
        }
        let bounds = |list: &Vec<Value>| -> Vec<usize> {
            list.iter().map(|bound| bound.as_u64().expect("a bound") as usize).collect()
        };
        let packed = options["packed"].as_array().map(bounds);
        let plain = Inputs::new(v!(q), v!(k), v!(value));
        let x = Inputs {
            scale: options["scale"].as_f64().map_or(plain.scale, |scale| scale as f32),
            offset: options["offset"].as_u64().expect("a position") as usize,
            softcap: options["softcap"].as_f64().map(|cap| cap as f32),
            bias: bias.as_ref().map(|bias| v!(bias)),
            alibi: slopes.as_deref().map(|slopes| slopes.into()),
            sinks: sinks.as_ref().map(|sinks| v!(sinks)),
            keep: keep.as_ref().map(|keep| keep.view()),
            sequences: packed.as_deref().map_or(Sequences::Batch, Sequences::Packed),
            ..plain
        };
        let pattern = Dense { causal: flag("causal") };
        let d = Cotangent { out: v!(d_out), lse: Some(v!(d_lse)) };
        for cx in contexts() {
            for got in [softmax::chunk(&x, &pattern, &cx), softmax::step(&x, &pattern, &cx)] {
                let got = got.expect("valid");
                case.check("out", &got.out, FORWARD);
                case.check_lse(&got.lse);
            }
            let output = softmax::chunk(&x, &pattern, &cx).expect("valid");
            let gradient = softmax::backward(&x, &pattern, &output, &d, &cx).expect("valid");
            case.check("dq", &gradient.q, GRADIENT);
            case.check("dk", &gradient.k, GRADIENT);
            case.check("dv", &gradient.v, GRADIENT);
            assert_eq!((gradient.bias.is_some(), gradient.sinks.is_some()), (flag("bias"), flag("sinks")));
            if let Some(bias) = &gradient.bias {
                case.check("dbias", bias, GRADIENT);
            }
            if let Some(sinks) = &gradient.sinks {
                case.check("dsinks", sinks, GRADIENT);
            }
        }
    }
}

#[test]
fn longformer_is_that_of_transformers() {
    let file = Golden::read(path("longformer.safetensors"));
    for (name, any_global) in
        [("both.0", true), ("both.1", true), ("one.1", true), ("none.0", false), ("none.1", false)]
    {
        let case = Case { file: &file, name };
        let [q, k, value, d_out] = ["q", "k", "v", "do"].map(|name| case.floats(name));
        // Without global tokens theirs are never made.
        let of_global = if any_global { ["gq", "gk", "gv"] } else { ["q", "k", "v"] };
        let [global_q, global_k, global_v] = of_global.map(|name| case.floats(name));
        let (keep, marks) = (case.flags("keep"), case.flags("global"));
        assert_eq!(marks.iter().any(|marked| *marked), any_global);
        let pattern = Longformer::new(case.integers("window")[0] as usize, marks.view());
        let x = Inputs { keep: Some(keep.view()), ..Inputs::new(v!(q), v!(k), v!(value)) };
        let global = Global { q: v!(global_q), k: v!(global_k), v: v!(global_v) };
        let d = Cotangent { out: v!(d_out), lse: None };
        for cx in contexts() {
            let output = longformer::chunk(&x, &global, &pattern, &cx).expect("valid");
            case.check("out", &kept(&output.out, &keep), FORWARD);
            let gradients = longformer::backward(&x, &global, &pattern, &output, &d, &cx).expect("valid");
            case.check("dq", &gradients.local.q, GRADIENT);
            case.check("dk", &gradients.local.k, GRADIENT);
            case.check("dv", &gradients.local.v, GRADIENT);
            if any_global {
                case.check("dgq", &gradients.global.q, GRADIENT);
                case.check("dgk", &gradients.global.k, GRADIENT);
                case.check("dgv", &gradients.global.v, GRADIENT);
            } else {
                let output = softmax::chunk(&x, &pattern, &cx).expect("valid");
                case.check("out", &kept(&output.out, &keep), FORWARD);
                let gradient = softmax::backward(&x, &pattern, &output, &d, &cx).expect("valid");
                case.check("dq", &gradient.q, GRADIENT);
                case.check("dk", &gradient.k, GRADIENT);
                case.check("dv", &gradient.v, GRADIENT);
            }
        }
    }
}

#[test]
fn bigbird_is_that_of_transformers() {
    let file = Golden::read(path("bigbird.safetensors"));
    for name in ["evaluated.1", "trained.1"] {
        let case = Case { file: &file, name };
        let [q, k, value, d_out] = ["q", "k", "v", "do"].map(|name| case.floats(name));
        let (keep, parameters) = (case.flags("keep"), case.integers("parameters"));
        let pattern = BigBird {
            block: parameters[0] as usize,
            random_blocks: parameters[1] as usize,
            // −1 stands for none.
            seed: u32::try_from(parameters[2]).ok(),
            ..BigBird::default()
        };
        let (batch, tokens, heads) = (q.shape()[0], q.shape()[1], q.shape()[2]);
        let of = Sizes { batch, heads, queries: 0..tokens, keys: tokens };
        let layout = pattern.layout(&of).expect("a layout");
        let x = Inputs { keep: Some(keep.view()), ..Inputs::new(v!(q), v!(k), v!(value)) };
        let d = Cotangent { out: v!(d_out), lse: None };
        for cx in contexts() {
            let output = softmax::chunk(&x, &layout, &cx).expect("valid");
            case.check("out", &kept(&output.out, &keep), FORWARD);
            let gradient = softmax::backward(&x, &layout, &output, &d, &cx).expect("valid");
            case.check("dq", &gradient.q, GRADIENT);
            case.check("dk", &gradient.k, GRADIENT);
            case.check("dv", &gradient.v, GRADIENT);
        }
    }
}

#[test]
fn lsh_is_that_of_transformers() {
    let file = Golden::read(path("reformer.safetensors"));
    // How many rotations made the buckets; padding has a bucket of its own, which `hash` does not give.
    for (name, factors) in [("whole", 1), ("causal", 1), ("around", 2), ("padded", 0), ("short", 0)] {
        let case = Case { file: &file, name };
        let [x, value, d_out] = ["x", "v", "do"].map(|name| case.floats(name));
        let (x, value): (ArrayView4<'_, f32>, ArrayView4<'_, f32>) = (v!(x), v!(value));
        let (keep, parameters) = (case.flags("keep"), case.integers("parameters"));
        let buckets = case.integers("buckets").mapv(|bucket| bucket as usize);
        let buckets: Array4<usize> = buckets.into_dimensionality().expect("rank");
        if factors > 0 {
            let rotations: Vec<_> = (0..factors).map(|n| case.floats(&format!("rotations.{n}"))).collect();
            let rotations: Vec<ArrayViewD<'_, f32>> = rotations.iter().map(|rotation| rotation.view()).collect();
            assert_eq!(lsh::hash(x, &rotations).expect("rotations"), buckets, "{name}");
        }
        let lsh = Lsh {
            chunk: parameters[0] as usize,
            before: parameters[1] as usize,
            after: parameters[2] as usize,
            causal: parameters[3] == 1,
        };
        for cx in contexts() {
            let output = lsh::chunk(x, value, buckets.view(), Some(keep.view()), &lsh, &cx).expect("valid");
            case.check("out", &kept(&output.out, &keep), FORWARD);
            let gradient = lsh::backward(x, value, buckets.view(), Some(keep.view()), &lsh, &output, v!(d_out), &cx);
            let gradient = gradient.expect("valid");
            case.check("dx", &gradient.x, GRADIENT);
            case.check("dv", &gradient.v, GRADIENT);
        }
    }
}
