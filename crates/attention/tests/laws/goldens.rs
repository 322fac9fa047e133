//! Outputs, final states and every gradient against f64 autograd of the equations, made by `goldens/make.py`.

use std::path::Path;

use longreach_attention::Sequences;
use longreach_attention::diagonal::mamba;
use longreach_attention::linear::mamba2;
use longreach_attention::short_conv;
use longreach_simd::Cx;
use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance::{self, assert_close};
use ndarray::{ArrayD, IxDyn};

use crate::{v, wide};

struct File(Golden);

impl File {
    fn read(name: &str) -> Self {
        Self(Golden::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)))
    }

    fn f32(&self, name: &str) -> ArrayD<f32> {
        let (shape, data) = self.0.floats(name);
        ArrayD::from_shape_vec(IxDyn(&shape), data.into_iter().map(|x| x as f32).collect()).expect("shape")
    }

    #[track_caller]
    fn check<'a>(&self, name: &str, got: impl IntoIterator<Item = &'a f32>, bound: f64) {
        assert_close(name, &wide(got), &self.0.floats(name).1, bound);
    }
}

#[test]
fn mamba_is_the_equation() {
    let cx = Cx::new(2);
    let file = File::read("mamba.safetensors");
    let x: Vec<_> = ["x", "dt", "dt_bias", "a", "b", "c", "d", "z", "state"].map(|n| file.f32(n)).into();
    let inputs = mamba::Inputs {
        x: v!(x[0]),
        dt: v!(x[1]),
        dt_bias: v!(x[2]),
        a: v!(x[3]),
        b: v!(x[4]),
        c: v!(x[5]),
        d: v!(x[6]),
        z: Some(v!(x[7])),
        sequences: Sequences::Batch,
    };
    let mut state = x[8].clone().into_dimensionality().expect("rank");
    let out = mamba::recurrent(&inputs, state.view_mut(), &cx).expect("valid inputs");
    file.check("out", &out, tolerance::FORWARD);
    file.check("final_state", &state, tolerance::FORWARD);
    let (dy, ds) = (file.f32("d_out"), file.f32("d_final_state"));
    let g = mamba::backward(&inputs, v!(x[8]), v!(dy), v!(ds), &cx).expect("valid inputs");
    file.check("grad.x", &g.x, tolerance::GRADIENT);
    file.check("grad.dt", &g.dt, tolerance::GRADIENT);
    file.check("grad.dt_bias", &g.dt_bias, tolerance::GRADIENT);
    file.check("grad.a", &g.a, tolerance::GRADIENT);
    file.check("grad.b", &g.b, tolerance::GRADIENT);
    file.check("grad.c", &g.c, tolerance::GRADIENT);
    file.check("grad.d", &g.d, tolerance::GRADIENT);
    file.check("grad.z", &g.z, tolerance::GRADIENT);
    file.check("grad.state", &g.state, tolerance::GRADIENT);
}

#[test]
fn mamba2_is_the_equation() {
    let cx = Cx::new(2);
    let file = File::read("mamba2.safetensors");
    let x: Vec<_> = ["x", "dt", "dt_bias", "a", "b", "c", "d", "state"].map(|n| file.f32(n)).into();
    let inputs = mamba2::Inputs {
        x: v!(x[0]),
        dt: v!(x[1]),
        dt_bias: v!(x[2]),
        dt_limit: (0.0625, 0.75),
        a: v!(x[3]),
        b: v!(x[4]),
        c: v!(x[5]),
        d: v!(x[6]),
        sequences: Sequences::Batch,
    };
    for form in [mamba2::recurrent, mamba2::chunk] {
        let mut state = x[7].clone().into_dimensionality().expect("rank");
        let out = form(&inputs, state.view_mut(), &cx).expect("valid inputs");
        file.check("out", &out, tolerance::FORWARD);
        file.check("final_state", &state, tolerance::FORWARD);
    }
    let (dy, ds) = (file.f32("d_out"), file.f32("d_final_state"));
    let g = mamba2::backward(&inputs, v!(x[7]), v!(dy), v!(ds), &cx).expect("valid inputs");
    file.check("grad.x", &g.x, tolerance::GRADIENT);
    file.check("grad.dt", &g.dt, tolerance::GRADIENT);
    file.check("grad.dt_bias", &g.dt_bias, tolerance::GRADIENT);
    file.check("grad.a", &g.a, tolerance::GRADIENT);
    file.check("grad.b", &g.b, tolerance::GRADIENT);
    file.check("grad.c", &g.c, tolerance::GRADIENT);
    file.check("grad.d", &g.d, tolerance::GRADIENT);
    file.check("grad.state", &g.state, tolerance::GRADIENT);
}

#[test]
fn short_conv_is_the_equation() {
    let cx = Cx::new(2);
    let file = File::read("short_conv.safetensors");
    let x: Vec<_> = ["x", "w", "bias", "state"].map(|n| file.f32(n)).into();
    let inputs = short_conv::Inputs {
        x: v!(x[0]),
        w: v!(x[1]),
        bias: Some(v!(x[2])),
        activation: short_conv::Activation::Silu,
        sequences: Sequences::Batch,
    };
    let mut state = x[3].clone().into_dimensionality().expect("rank");
    let out = short_conv::chunk(&inputs, state.view_mut(), &cx).expect("valid inputs");
    file.check("out", &out, tolerance::FORWARD);
    file.check("final_state", &state, tolerance::FORWARD);
    let (dy, ds) = (file.f32("d_out"), file.f32("d_final_state"));
    let g = short_conv::backward(&inputs, v!(x[3]), v!(dy), v!(ds), &cx).expect("valid inputs");
    file.check("grad.x", &g.x, tolerance::GRADIENT);
    file.check("grad.w", &g.w, tolerance::GRADIENT);
    file.check("grad.bias", &g.bias, tolerance::GRADIENT);
    file.check("grad.state", &g.state, tolerance::GRADIENT);
}
