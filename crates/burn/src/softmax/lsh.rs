//! LSH attention: locality-sensitive hashing.

use burn::tensor::Tensor;
use longreach_attention::softmax::lsh::{self, Lsh};
use longreach_attention::softmax::{self, Output};
use longreach_simd::Cx;
use ndarray::{Array2, Array4, ArrayD};

use super::{Kept, outputs};
use crate::bridge::{Call, Inputs, Operator, Plain};

/// The inputs of [`lsh_attention`].
#[derive(Clone, Debug)]
pub struct LshAttention {
    /// Queries and keys, `[B, T, H, D]`
    pub x: Tensor<4>,
    /// `[B, T, H, E]`
    pub v: Tensor<4>,
    /// How tokens are assigned to buckets.
    pub hash: Hash,
    /// The sizes of the chunks.
    pub lsh: Lsh,
    /// Which tokens are not padding, `[B, T]`
    pub keep: Option<Array2<bool>>,
}

/// The source of the buckets, which are constants in the gradient.
#[derive(Clone, Debug)]
pub enum Hash {
    /// Given buckets, `[B, H, rounds, T]`.
    Buckets(Array4<usize>),
    /// Computed by rotations, `[H, D, rounds, n / 2]` each: see [`lsh::hash`].
    Rotations(Vec<ArrayD<f32>>),
}

/// The output `[B, T, H, E]`. Panics where [`lsh::chunk`] fails.
pub fn lsh_attention(x: LshAttention) -> Tensor<4> {
    let LshAttention { x, v, hash, lsh, keep } = x;
    Call::new().with(x).with(v).run(Op { hash, lsh, keep, kept: Kept::default() }).output()
}

#[derive(Debug)]
struct Op {
    hash: Hash,
    lsh: Lsh,
    keep: Option<Array2<bool>>,
    /// The buckets and the outputs of the forward pass.
    kept: Kept<(Array4<usize>, Output)>,
}

impl Op {
    fn run(&self, x: &Inputs, cx: &Cx) -> Result<(Array4<usize>, Output), longreach_attention::Error> {
        let buckets = match &self.hash {
            Hash::Buckets(buckets) => buckets.clone(),
            Hash::Rotations(all) => lsh::hash::<f32>(x.view(0), &all.iter().map(|r| r.view()).collect::<Vec<_>>())?,
        };
        let keep = self.keep.as_ref().map(|keep| keep.view());
        let output = lsh::chunk(x.view(0), x.view(1), buckets.view(), keep, &self.lsh, cx)?;
        Ok((buckets, output))
    }
}

impl Operator for Op {
    fn name(&self) -> &str {
        "lsh_attention"
    }

    fn forward(&self, inputs: &mut Inputs, cx: &Cx) -> Vec<Plain> {
        let output = self.run(inputs, cx).unwrap_or_else(|e| panic!("{e}"));
        self.kept.pass(output, |(_, output)| outputs(output).into_iter().take(1).collect())
    }

    fn will_be_differentiated(&self, _: &[bool]) {
        self.kept.want();
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], cx: &Cx) -> Vec<Plain> {
        let (buckets, output) = self.kept.get(|| self.run(inputs, cx).unwrap_or_else(|e| panic!("{e}")));
        let keep = self.keep.as_ref().map(|keep| keep.view());
        let (x, v) = (inputs.view(0), inputs.view(1));
        let g = lsh::backward(x, v, buckets.view(), keep, &self.lsh, output.view(), d_out[0].view(), cx);
        let softmax::lsh::Gradient { x, v } = g.unwrap_or_else(|e| panic!("{e}"));
        vec![Plain::array(x), Plain::array(v)]
    }
}
