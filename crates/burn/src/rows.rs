//! Writing rows into a longer tensor, by which a KV cache grows in place.

use burn::tensor::{Shape, Tensor};
use longreach_simd::Cx;

use crate::bridge::{Call, Inputs, Operator, Plain};

/// Replaces the rows `at ..` of `to: [B, C, H, D]` by `rows: [B, n, H, D]`. In place if `to` has no other owner and
/// no gradient is recorded. Panics if the rows do not fit.
pub fn put_rows(to: Tensor<4>, rows: Tensor<4>, at: usize) -> Tensor<4> {
    Call::new().with(to).with(rows).run(Put { at }).output()
}

#[derive(Debug)]
struct Put {
    at: usize,
}

/// The destination ranges of the rows of each sequence.
fn places(to: &[usize], rows: &[usize], at: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let width: usize = to[2..].iter().product();
    assert!(
        to[0] == rows[0] && to[2..] == rows[2..] && at + rows[1] <= to[1],
        "put_rows: rows {rows:?} at {at} do not fit in {to:?}"
    );
    let (capacity, n) = (to[1] * width, rows[1] * width);
    (0..to[0]).map(move |b| b * capacity + at * width..b * capacity + at * width + n)
}

impl Operator for Put {
    fn forward(&self, inputs: &mut Inputs, _: &Cx) -> Vec<Plain> {
        let mut to = inputs.take(0);
        let (shape, rows) = (inputs.shape(1), inputs.contiguous(1));
        let n = rows.len() / shape[0].max(1);
        for (b, place) in places(&to.shape, &shape, self.at).enumerate() {
            to.data[place].copy_from_slice(&rows[b * n..(b + 1) * n]);
        }
        vec![to]
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], _: &Cx) -> Vec<Plain> {
        let mut d_to = d_out[0].clone();
        let shape = inputs.shape(1);
        let mut d_rows = Vec::with_capacity(shape.iter().product());
        for place in places(&d_to.shape, &shape, self.at) {
            d_rows.extend_from_slice(&d_to.data[place.clone()]);
            d_to.data[place].fill(0.0);
        }
        vec![d_to, Plain::new(shape, d_rows)]
    }

    fn output_shapes(&self, inputs: &[Shape]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }
}
