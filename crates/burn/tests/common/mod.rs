//! Conversion of arrays to tensors and back.

use burn::tensor::{Device, Tensor, TensorData};
use longreach_testkit::tolerance::{FORMS, assert_close};
use ndarray::ArrayD;

pub(crate) fn tensor<const D: usize>(x: &ArrayD<f32>) -> Tensor<D> {
    let data = TensorData::new(x.iter().copied().collect::<Vec<f32>>(), x.shape().to_vec());
    Tensor::from_data(data, &Device::flex()).autodiff().require_grad()
}

#[track_caller]
pub(crate) fn close<const D: usize>(what: &str, got: Tensor<D>, want: &ArrayD<f32>) {
    assert_eq!(got.dims()[..], want.shape()[..], "{what}");
    let got: Vec<f64> = got.into_data().iter::<f64>().collect();
    assert_close(what, &got, &want.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), FORMS);
}
