//! Embedding lookup.

use burn::tensor::{Device, Tensor, TensorData};
use longreach_simd::Cx;
use longreach_simd::product::{Quantised, Weights};

use crate::bridge::{Call, Inputs, Operator, Plain};

/// Row `ids[b][t]` of `weight: [V, D]`, in f32 or bf16 → `[B, T, D]` in f32.
///
/// `ids` are `batch` contiguous rows of equal length. Panics if an id is not below `V`.
pub fn embedding(weight: Tensor<2>, ids: &[u32], batch: usize) -> Tensor<3> {
    Call::new().with(weight).run(Embedding { ids: ids.to_vec(), batch }).output()
}

/// As [`embedding`] for a quantised table. For inference only: not differentiable.
pub fn embedding_quantised(table: &Quantised, ids: &[u32], batch: usize, device: &Device) -> Tensor<3> {
    let width = table.shape()[1];
    let mut rows = vec![0.0; ids.len() * width];
    for (id, row) in ids.iter().zip(rows.chunks_mut(width.max(1))) {
        table.dequantise_row(*id as usize, row);
    }
    let shape = [batch, ids.len() / batch.max(1), width];
    Tensor::from_data(TensorData::new(rows, shape), device)
}

#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) ids: Vec<u32>,
    pub(crate) batch: usize,
}

impl Operator for Embedding {
    fn name(&self) -> &str {
        "embedding"
    }

    fn forward(&self, inputs: &mut Inputs, _: &Cx) -> Vec<Plain> {
        let width = inputs.shape(0)[1];
        let mut out = Plain::unwritten([self.batch, self.ids.len() / self.batch.max(1), width]);
        let table = inputs.weights(0);
        for (id, row) in self.ids.iter().zip(out.data.chunks_mut(width)) {
            let at = *id as usize * width..(*id as usize + 1) * width;
            match table {
                Weights::F32(w) => row.copy_from_slice(&w[at]),
                Weights::Bf16(w) => row.iter_mut().zip(&w[at]).for_each(|(x, w)| *x = w.to_f32()),
                Weights::Int8(_) | Weights::Blocks(_) => unreachable!("a tensor is f32 or bf16"),
            }
        }
        vec![out]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], _: &Cx) -> Vec<Plain> {
        let mut d = Plain::unwritten(inputs.shape(0));
        let width = d.shape[1];
        for (id, row) in self.ids.iter().zip(d_out[0].data.chunks(width)) {
            let out = &mut d.data[*id as usize * width..(*id as usize + 1) * width];
            out.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
        }
        vec![d]
    }
}
