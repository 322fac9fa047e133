//! Rotary positions.

use std::sync::Arc;

use burn::tensor::Tensor;
use longreach_attention::rotary::{self, Angles};
use longreach_simd::Cx;

use crate::bridge::{Call, Inputs, Operator, Plain};

/// Rotates `x: [B, T, H, D]` by the angles of its tokens. Panics if the number of tokens differs.
pub fn rotary(x: Tensor<4>, angles: &Arc<Angles>) -> Tensor<4> {
    Call::new().with(x).run(Turn(angles.clone())).output()
}

#[derive(Debug)]
pub(crate) struct Turn(pub(crate) Arc<Angles>);

impl Operator for Turn {
    fn name(&self) -> &str {
        "rotary"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        vec![Plain::array(rotary::chunk::<f32>(inputs.view(0), &self.0, cx).unwrap_or_else(|e| panic!("{e}")))]
    }

    fn backward(&self, _: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        vec![Plain::array(rotary::backward(d_out[0].view(), &self.0, cx).unwrap_or_else(|e| panic!("{e}")))]
    }
}
