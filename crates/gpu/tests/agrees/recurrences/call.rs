//! Calls on a device, and their comparison with the CPU's.

use std::collections::BTreeMap;

use longreach_attention::Sequences;
use longreach_attention::linear::linear_attention::Map;
use longreach_attention::linear::performer::Kernel;
use longreach_attention::operation::{Sample, Shapes, Tensors, named};
use longreach_attention::short_conv::Activation;
use longreach_gpu::mechanisms::{delta, diagonal, linear};
use longreach_gpu::{DType, Device, View};
use longreach_simd::Cx;
use ndarray::ArrayD;
use serde_json::Value;

use crate::harness::{agrees, gradient_agrees, rounded, upload};

/// Results by name: `o` and `state`, or gradients.
type Found = Vec<(&'static str, Option<View>)>;

/// A call on a device.
struct Call<'a> {
    device: &'a Device,
    name: &'a str,
    parameters: &'a Value,
    views: BTreeMap<&'a str, View>,
    packed: Option<Vec<usize>>,
}

/// Runs a mechanism: its inputs, which may be optional, its parameters, and the inputs with gradients.
macro_rules! run {
    ($call:ident, $d:ident, $($path:ident)::+ [$($input:ident)*] [$($optional:ident)*] [$($parameter:ident: $value:expr),*]
        [$($gradient:ident)*]) => {{
        use $($path)::+ as of;
        let x = of::Inputs {
            $($input: &$call.views[stringify!($input)],)*
            $($optional: $call.views.get(stringify!($optional)),)*
            $($parameter: $value,)*
            sequences: $call.sequences(),
        };
        let state = &$call.views["state"];
        match $d {
            None => {
                let (o, state) = of::forward($call.device, &x, state).expect("inputs that fit");
                vec![("o", Some(o)), ("state", Some(state))]
            }
            Some([d_o, d_state]) => {
                let g = of::backward($call.device, &x, state, d_o, d_state).expect("inputs that fit");
                vec![$((concat!("d", stringify!($gradient)), g.$gradient.into()),)* ("dstate", Some(g.state))]
            }
        }
    }};
}

impl Call<'_> {
    fn sequences(&self) -> Sequences<'_> {
        self.packed.as_deref().map_or(Sequences::Batch, Sequences::Packed)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.parameters[name].as_f64()
    }

    /// The scale, by default one that depends on the width of keys.
    fn scale(&self) -> f32 {
        let width = self.views.get("q").map_or(1, |q| q.shape()[3]);
        self.number("scale").unwrap_or((width as f64).powf(-0.5)) as f32
    }

    fn causal(&self) -> bool {
        self.parameters["causal"].as_bool().unwrap_or(true)
    }

    fn run(&self, d: Option<[&View; 2]>) -> Found {
        match self.name {
            "scan" => {
                run!(self, d, linear::scan [q k v] [g beta skip] [scale: self.number("scale").unwrap_or(1.0) as f32]
                [q k v g beta skip])
            }
            "mamba2" => {
                let limit = |name| self.number(name).map(|x| x as f32);
                let limits = (limit("dt_min").unwrap_or(0.0), limit("dt_max").unwrap_or(f32::INFINITY));
                run!(self, d, linear::mamba2 [x dt dt_bias a b c d] [] [dt_limit: limits] [x dt dt_bias a b c d])
            }
            "linear_attention" => {
                let map: Map = serde_json::from_value(self.parameters["map"].clone()).unwrap_or_default();
                let normalize = self.parameters["normalize"].as_bool().unwrap_or(true).then_some(1e-6);
                let scale = self.number("scale").unwrap_or(1.0);
                run!(self, d, linear::linear_attention [q k v] []
                    [map: map, normalize: normalize, causal: self.causal(), scale: scale] [q k v])
            }
            "performer" => {
                let kernel: Kernel = serde_json::from_value(self.parameters["kernel"].clone()).unwrap_or_default();
                run!(self, d, linear::performer [q k v w] []
                    [kernel: kernel, epsilon: 1e-4, causal: self.causal()] [q k v w])
            }
            "cosformer" => {
                let length = self.number("length").expect("a length");
                run!(self, d, linear::cosformer [q k v positions] [] [length: length, causal: self.causal()] [q k v])
            }
            "retention" | "lightning" => run!(self, d, linear::retention [q k v g] [] [scale: self.scale()] [q k v g]),
            "gla" => run!(self, d, linear::gla [q k v g] [] [scale: self.scale()] [q k v g]),
            "hgrn2" => run!(self, d, linear::hgrn2 [q g v] [] [scale: self.scale()] [q g v]),
            "rwkv5" => run!(self, d, linear::rwkv5 [q k v g u] [] [scale: self.scale()] [q k v g u]),
            "rwkv6" => run!(self, d, linear::rwkv6 [q k v g u] [] [scale: self.scale()] [q k v g u]),
            "delta_rule" => run!(self, d, delta::delta_rule [q k v beta] [] [scale: self.scale()] [q k v beta]),
            "gated_delta" => run!(self, d, delta::gated_delta [q k v g beta] [] [scale: self.scale()] [q k v g beta]),
            "kda" => run!(self, d, delta::kda [q k v g beta] [] [scale: self.scale()] [q k v g beta]),
            "dplr" => run!(self, d, delta::dplr [q k v a b g] [] [scale: self.scale()] [q k v a b g]),
            "rwkv7" => run!(self, d, delta::rwkv7 [q k v g kappa a] [] [scale: self.scale()] [q k v g kappa a]),
            "mamba" => run!(self, d, diagonal::mamba [x dt dt_bias a b c d] [z] [] [x dt dt_bias a b c d z]),
            "rg_lru" => run!(self, d, diagonal::rg_lru [x r i lambda] [reset] [] [x r i lambda]),
            "rwkv4" => run!(self, d, diagonal::rwkv4 [k v w u] [] [] [k v w u]),
            "short_conv" => {
                let silu = self.parameters["activation"] == "silu";
                let activation = if silu { Activation::Silu } else { Activation::None };
                run!(self, d, longreach_gpu::short_conv [x w] [bias] [activation: activation] [x w bias])
            }
            other => panic!("{other} has no call on a device"),
        }
    }
}

/// Numbers that repeat only after a long time.
pub(super) fn wave(shape: &[usize], step: f32) -> ArrayD<f32> {
    let mut n = 0.0;
    ArrayD::from_shape_simple_fn(shape, || {
        n += step;
        f32::sin(n)
    })
}

/// Inputs in the type of activations: the others, gates and parameters, are in f32.
fn is_activation(name: &str, x: &ArrayD<f32>) -> bool {
    x.ndim() > 2 && !["g", "beta", "dt", "state", "dstate", "positions"].contains(&name)
}

/// Compares a call with the definition and, with `gradients`, its gradients with those of the CPU.
pub(super) fn holds(
    device: &Device,
    name: &str,
    parameters: &Value,
    sample: Sample,
    more: &[&str],
    dtype: DType,
    gradients: bool,
) {
    let operation = named(name).expect("a mechanism");
    let mut given: Tensors = operation.sample_with(&sample, more);
    if name == "cosformer" {
        given.insert(
            "positions".into(),
            ArrayD::from_shape_fn(&[sample.batch, sample.tokens][..], |at| at[1] as f32 + 1.0),
        );
    }
    let shapes: Shapes = given.iter().map(|(name, x)| (name.clone(), x.shape().to_vec())).collect();
    let shapes = operation.shapes(&shapes, parameters).expect("valid");
    // RWKV-4 divides by the second row of its state.
    let of_state = |x: f32| if name == "rwkv4" { x.abs() + 0.1 } else { 0.3 * x };
    given.insert("state".into(), wave(&shapes["state"], 0.37).mapv(of_state));
    holds_given(device, name, parameters, &given, &shapes, dtype, gradients);
}

pub(super) fn holds_given(
    device: &Device,
    name: &str,
    parameters: &Value,
    given: &Tensors,
    shapes: &Shapes,
    dtype: DType,
    gradients: bool,
) {
    let operation = named(name).expect("a mechanism");
    let type_of = |name: &str, x: &ArrayD<f32>| if is_activation(name, x) { dtype } else { DType::F32 };
    let round = |(name, x): (&String, &ArrayD<f32>)| (name.clone(), rounded(x, type_of(name, x)));
    let given: Tensors = given.iter().map(round).collect();
    let what = format!("{name} {} {:?} {parameters}", dtype.name(), shapes["o"]);
    let views = given.iter().map(|(name, x)| (&name[..], upload(device, x, type_of(name, x)))).collect();
    let packed = serde_json::from_value(parameters["cu_seqlens"].clone()).expect("bounds");
    let call = Call { device, name, parameters, views, packed };
    let want = operation.naive(&given, parameters, &Cx::new(1)).expect("valid");
    for (name, found) in call.run(None) {
        agrees(&format!("{what}: {name}"), device, &found.expect("an output"), &want[name]);
    }
    if !gradients {
        return;
    }
    let mut given = given.clone();
    let d_o = rounded(&wave(&shapes["o"], 0.7), dtype);
    let d_state = wave(&shapes["state"], 1.3);
    given.insert("do".into(), d_o.clone());
    given.insert("dstate".into(), d_state.clone());
    let want = operation.backward(&given, parameters, &Cx::new(1)).expect("valid");
    let d = [upload(device, &d_o, dtype), upload(device, &d_state, DType::F32)];
    for (name, found) in call.run(Some([&d[0], &d[1]])) {
        assert_eq!(found.is_some(), want.contains_key(name), "{what}: {name}");
        if let Some(found) = found {
            gradient_agrees(&format!("{what}: {name}"), device, &found, &want[name]);
        }
    }
}
