//! Writing rows into a longer tensor, by which a KV cache grows in place.

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use longreach_simd::Cx;
use ndarray::Axis;

use crate::bridge::{Call, Held, Inputs, Operator, Plain};
use crate::device::is_on_host;
use crate::q8::{q8_words, round_rows, to_q8};

/// Replaces the rows `at ..` of `to: [B, C, H, D]` by `rows: [B, n, H, D]` in f32, which are rounded if `to` is in bf16 or of
/// Q8_0 blocks ([`to_q8`](crate::to_q8)). In place if `to` has no other owner and no gradient is recorded. Panics if the rows do not fit, or if `to` is not in f32
/// and gradients are recorded.
pub fn put_rows(to: Tensor<4>, rows: Tensor<4>, at: usize) -> Tensor<4> {
    match to.dtype() {
        DType::BF16 => put_rounded(to, rows, at),
        DType::F16 => put_blocks(to, rows, at),
        _ => Call::new().with(to).with(rows).run(Put { at }).output(),
    }
}

fn put_blocks(to: Tensor<4>, rows: Tensor<4>, at: usize) -> Tensor<4> {
    let ([b, n, heads, width], shape) = (rows.dims(), to.dims());
    let of_rows = [b, n, heads, q8_words(width)];
    let places = places(&shape, &of_rows, at);
    if !is_on_host(&to) {
        return to.slice_assign([0..b, at..at + n, 0..heads, 0..of_rows[3]], to_q8(rows));
    }
    let rows = Held::new(rows).expect("no gradient is recorded");
    let mut to = to.into_dispatch();
    let DispatchTensorKind::Flex(BackendTensor::Float(x)) = &mut to.kind else { panic!("no gradient is recorded") };
    if !x.is_contiguous() || x.layout().start_offset() != 0 {
        *x = x.to_contiguous();
    }
    let words = x.storage_mut::<f16>();
    for (place, rows) in places.zip(rows.view().outer_iter()) {
        let rows = rows.as_standard_layout();
        round_rows(rows.as_slice().expect("the standard layout"), width, &mut words[place]);
    }
    Tensor::from_dispatch(to)
}

fn put_rounded(to: Tensor<4>, rows: Tensor<4>, at: usize) -> Tensor<4> {
    let (shape, of_rows) = (to.dims(), rows.dims());
    if !is_on_host(&to) {
        places(&shape, &of_rows, at).for_each(drop);
        let [b, n, heads, width] = of_rows;
        return to.slice_assign([0..b, at..at + n, 0..heads, 0..width], rows.cast(DType::BF16));
    }
    let rows = Held::new(rows).expect("no gradient is recorded");
    let rows = rows.view();
    let mut to = to.into_dispatch();
    let DispatchTensorKind::Flex(BackendTensor::Float(x)) = &mut to.kind else { panic!("no gradient is recorded") };
    if !x.is_contiguous() || x.layout().start_offset() != 0 {
        *x = x.to_contiguous();
    }
    let numbers = x.storage_mut::<bf16>();
    for (b, place) in places(&shape, &of_rows, at).enumerate() {
        let places = numbers[place].chunks_exact_mut(of_rows[3].max(1));
        for (to, row) in places.zip(rows.index_axis(Axis(0), b).rows()) {
            match row.to_slice() {
                Some(row) => to.convert_from_f32_slice(row),
                None => to.iter_mut().zip(row).for_each(|(to, x)| *to = bf16::from_f32(*x)),
            }
        }
    }
    Tensor::from_dispatch(to)
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
    fn name(&self) -> &str {
        "put_rows"
    }

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
}
