//! A second backend, which proves that operators do not depend on the first: ndarray's, with kernels of its own for two
//! operators.

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Flex, TensorMetadata};
use burn::tensor::{TensorData, read_sync};
use burn_ndarray::NdArray;
use longreach_attention::short_conv::Activation;
use longreach_attention::softmax::{Patterned, window::Window};
use longreach_simd::Cx;
use longreach_testkit::tolerance::assert_close;
use ndarray::IxDyn;

use super::{Bridge, Compute, Fallback, Gradient, Inputs, Kernel, Operator, Pack, Plain, Run, fallbacks, kernel};
use crate::conv::ShortConv;
use crate::elementwise::{NegExp, SiluTimes};
use crate::linear::Linear;
use crate::recurrence::gla;
use crate::softmax::Softmax;
use crate::{AttentionOptions, Packed};

const KERNELS: &[Kernel<NdArray>] = &[kernel::<NdArray, SiluTimes>, kernel::<NdArray, NegExp>];

impl Compute for NdArray {
    fn compute(op: &dyn Operator, inputs: Vec<FloatTensor<Self>>) -> Vec<FloatTensor<Self>> {
        super::compute(KERNELS, op, inputs)
    }

    fn gradients(op: &dyn Operator, of: Gradient<Self>) -> Vec<Option<FloatTensor<Self>>> {
        super::gradients(KERNELS, op, of)
    }
}

type Tensors = Vec<FloatTensor<NdArray>>;

fn times(x: &FloatTensor<NdArray>, y: &FloatTensor<NdArray>) -> FloatTensor<NdArray> {
    NdArray::float_mul(x.clone(), y.clone())
}

fn sigmoid(x: &FloatTensor<NdArray>) -> FloatTensor<NdArray> {
    let e = NdArray::float_exp(NdArray::float_neg(x.clone()));
    NdArray::float_recip(NdArray::float_add_scalar(e, 1.0.into()))
}

impl Run<NdArray> for SiluTimes {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        let [x, y] = &inputs[..] else { return Err(inputs) };
        Ok(vec![times(&times(x, &sigmoid(x)), y)])
    }

    fn run_back(&self, of: Gradient<NdArray>) -> Result<Vec<Option<FloatTensor<NdArray>>>, Gradient<NdArray>> {
        let ([x, y], [Some(d)]) = (&of.inputs[..], &of.d_out[..]) else { return Err(of) };
        let s = sigmoid(x);
        // σ(x) (1 + x (1 − σ(x)))
        let rest = NdArray::float_add_scalar(NdArray::float_neg(s.clone()), 1.0.into());
        let slope = times(&s, &NdArray::float_add_scalar(times(x, &rest), 1.0.into()));
        let dx = of.wanted[0].then(|| times(&times(&slope, y), d));
        let dy = of.wanted[1].then(|| times(&times(x, &s), d));
        Ok(vec![dx, dy])
    }
}

/// Its outputs alone: its gradient is the host's.
impl Run<NdArray> for NegExp {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        Ok(inputs.into_iter().map(|x| NdArray::float_neg(NdArray::float_exp(x))).collect())
    }
}

fn wave(shape: &[usize], by: f32) -> Plain {
    let n = shape.iter().product();
    Plain::new(shape, (0..n).map(|i| (i as f32 * by + 0.3).sin()).collect())
}

/// The outputs of an operator, then the gradients of a weighted sum of those of its outputs that are `used`, with respect
/// to all its inputs.
fn run<B: Compute>(op: impl Operator, inputs: &[Plain], used: &[usize]) -> Vec<Vec<f64>> {
    run_for::<B>(op, inputs, &vec![true; inputs.len()], used)
}

/// As [`run`], with respect to the inputs that are `trained`.
fn run_for<B: Compute>(op: impl Operator, inputs: &[Plain], trained: &[bool], used: &[usize]) -> Vec<Vec<f64>> {
    let device = B::Device::default();
    let given = |(x, trained): (&Plain, &bool)| {
        let x = <Autodiff<B>>::float_from_data(TensorData::new(x.data.clone(), x.shape.clone()), &device);
        <Autodiff<B>>::float_set_require_grad(x, *trained)
    };
    let inputs: Vec<_> = inputs.iter().zip(trained).map(given).collect();
    let outputs = <Autodiff<B>>::apply(Arc::new(op), Pack::from_vec(inputs.clone())).into_vec();
    let weighted = |i: &usize| {
        let w = wave(&outputs[*i].shape(), 0.9);
        let w = <Autodiff<B>>::float_from_data(TensorData::new(w.data, w.shape), &device);
        <Autodiff<B>>::float_sum(<Autodiff<B>>::float_mul(outputs[*i].clone(), w))
    };
    let loss = used.iter().map(weighted).reduce(<Autodiff<B>>::float_add).expect("an output is used");
    let gradients = <Autodiff<B>>::backward(loss);
    let read = |x: FloatTensor<B>| read_sync(B::float_into_data(x)).expect("readable").iter::<f64>().collect();
    let found: Vec<_> = inputs.iter().filter_map(|x| <Autodiff<B>>::grad(x, &gradients)).collect();
    assert_eq!(found.len(), trained.iter().filter(|trained| **trained).count());
    outputs.into_iter().map(<Autodiff<B>>::inner).chain(found).map(read).collect()
}

/// Whether the host computed the outputs and the gradient of an operator.
fn host_computed(operator: &str) -> [bool; 2] {
    [false, true].map(|gradient| {
        let of = Fallback { backend: "ndarray".to_owned(), operator: operator.to_owned(), gradient };
        fallbacks().iter().any(|(found, calls)| *found == of && *calls > 0)
    })
}

#[test]
fn an_operator_without_a_kernel_has_the_bits_of_the_host() {
    let (wide, heads) = ([2, 9, 5], [2, 9, 3, 4]);
    let conv = || ShortConv { activation: Activation::Silu, sequences: Packed::ROWS };
    let line = [wave(&wide, 0.7), wave(&[3, 5], 1.3), wave(&[2, 2, 5], 0.4)];
    let attention = || {
        let options = AttentionOptions::new(Patterned::new(Window { left: 3, right: 0 }), 4);
        Softmax { options, bias: false, sinks: false, earlier: Vec::new() }
    };
    let qkv = [wave(&heads, 0.7), wave(&heads, 1.1), wave(&heads, 0.5)];
    let gate = Plain::new(heads, wave(&heads, 0.3).data.iter().map(|g| -g.abs()).collect::<Vec<_>>());
    let state = [qkv.to_vec(), vec![gate, wave(&[2, 3, 4, 4], 0.2)]].concat();
    let product = [wave(&wide, 0.7), wave(&[7, 5], 1.3), wave(&[7], 0.4)];
    for used in [&[0, 1][..], &[0], &[1]] {
        assert_eq!(run::<NdArray>(conv(), &line, used), run::<Flex>(conv(), &line, used), "{used:?}");
        assert_eq!(run::<NdArray>(attention(), &qkv, used), run::<Flex>(attention(), &qkv, used), "{used:?}");
        let gla = || gla::Of { sequences: Packed::ROWS, scale: 0.5 };
        assert_eq!(run::<NdArray>(gla(), &state, used), run::<Flex>(gla(), &state, used), "{used:?}");
    }
    assert_eq!(run::<NdArray>(Linear, &product, &[0]), run::<Flex>(Linear, &product, &[0]));
    for name in ["short_conv", "attention", "gla", "linear"] {
        assert_eq!(host_computed(name), [true, true], "{name}");
    }
}

#[test]
fn a_kernel_of_the_backend_is_chosen_and_nothing_else_falls_back() {
    let inputs = [wave(&[3, 40], 0.7), wave(&[3, 40], 1.3)];
    let close = |ours: Vec<Vec<f64>>, host: Vec<Vec<f64>>| {
        assert_eq!(ours.len(), host.len());
        ours.iter().zip(&host).for_each(|(ours, host)| assert_close("a kernel", ours, host, 1e-5));
    };
    close(run::<NdArray>(SiluTimes, &inputs, &[0]), run::<Flex>(SiluTimes, &inputs, &[0]));
    assert_eq!(host_computed("silu_times"), [false, false]);
    close(run::<NdArray>(NegExp, &inputs[..1], &[0]), run::<Flex>(NegExp, &inputs[..1], &[0]));
    assert_eq!(host_computed("neg_exp"), [false, true]);
}

/// `2 x`, `Σ x` and `3 y`: three outputs, of which the smallest is in the middle and the gradient reads the last.
#[derive(Debug)]
struct Three {
    /// The inputs whose gradients are to be asked for.
    wanted: Vec<bool>,
}

impl Operator for Three {
    fn name(&self) -> &str {
        "three"
    }

    fn saves(&self) -> Vec<usize> {
        vec![2]
    }

    fn forward(&self, inputs: &mut Inputs, _: &Cx) -> Vec<Plain> {
        let [x, y] = [inputs.take(0), inputs.take(1)];
        let sum = Plain::new([1], vec![x.data.iter().sum()]);
        [(x, 2.0), (sum, 1.0), (y, 3.0)].map(|(x, by)| scaled(&x, by)).into()
    }

    fn will_be_differentiated(&self, wanted: &[bool]) {
        assert_eq!(wanted, self.wanted);
    }

    fn backward(&self, _: &Inputs, _: &[Plain], _: &Cx) -> Vec<Plain> {
        unreachable!("the graph says what is wanted")
    }

    fn backward_to(&self, inputs: &Inputs, d_out: &[Plain], wanted: &[bool], _: &Cx) -> Vec<Plain> {
        assert_eq!(wanted, self.wanted);
        let (y, saved) = (inputs.contiguous(1), inputs.saved::<IxDyn>(0));
        assert!(y.iter().zip(saved).all(|(y, saved)| 3.0 * y == *saved));
        let mut dx = scaled(&d_out[0], 2.0);
        dx.data.iter_mut().for_each(|dx| *dx += d_out[1].data[0]);
        vec![dx, scaled(&d_out[2], 3.0)]
    }
}

fn scaled(x: &Plain, by: f32) -> Plain {
    Plain::new(x.shape.clone(), x.data.iter().map(|x| by * x).collect())
}

#[test]
fn any_of_several_outputs_may_be_used_and_any_input_trained() {
    let inputs = [wave(&[4], 0.7), wave(&[2, 3], 1.3)];
    for used in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[1, 2], &[0, 1, 2]] {
        // The weights of the outputs in the loss, 0 for those that are not used.
        let d = |i: usize, shape: &[usize]| scaled(&wave(shape, 0.9), if used.contains(&i) { 1.0 } else { 0.0 });
        let (mut dx, dy) = (scaled(&d(0, &[4]), 2.0), scaled(&d(2, &[2, 3]), 3.0));
        dx.data.iter_mut().for_each(|dx| *dx += d(1, &[1]).data[0]);
        let want = [dx, dy].map(|d| d.data.iter().map(|d| f64::from(*d)).collect::<Vec<_>>());
        for wanted in [[true, true], [true, false], [false, true]] {
            let want: Vec<_> = want.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(d, _)| d.clone()).collect();
            let op = || Three { wanted: wanted.to_vec() };
            assert_eq!(run_for::<Flex>(op(), &inputs, &wanted, used)[3..], want, "{used:?} {wanted:?}");
            assert_eq!(run_for::<NdArray>(op(), &inputs, &wanted, used)[3..], want, "{used:?} {wanted:?}");
        }
    }
}
