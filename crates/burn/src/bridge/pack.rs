//! The tensors of a call in the form that Burn's extensions carry.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType};

/// The input or output tensors of an operator.
#[derive(ExtensionType)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Pack<B: Backend> {
    P1(FloatTensor<B>),
    P2(FloatTensor<B>, FloatTensor<B>),
    P3(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P4(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P5(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P6(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P7(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    P8(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
    P9(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
}

impl<B: Backend> Pack<B> {
    /// The tensors of a pack, in order.
    pub fn into_vec(self) -> Vec<FloatTensor<B>> {
        match self {
            Pack::P1(a) => vec![a],
            Pack::P2(a, b) => vec![a, b],
            Pack::P3(a, b, c) => vec![a, b, c],
            Pack::P4(a, b, c, d) => vec![a, b, c, d],
            Pack::P5(a, b, c, d, e) => vec![a, b, c, d, e],
            Pack::P6(a, b, c, d, e, f) => vec![a, b, c, d, e, f],
            Pack::P7(a, b, c, d, e, f, g) => vec![a, b, c, d, e, f, g],
            Pack::P8(a, b, c, d, e, f, g, h) => vec![a, b, c, d, e, f, g, h],
            Pack::P9(a, b, c, d, e, f, g, h, i) => vec![a, b, c, d, e, f, g, h, i],
        }
    }

    /// A pack of one to nine tensors. Panics on any other number.
    pub fn from_vec(tensors: Vec<FloatTensor<B>>) -> Self {
        let n = tensors.len();
        let mut t = tensors.into_iter();
        let mut x = || t.next().expect("the arm matches the number of tensors");
        match n {
            1 => Pack::P1(x()),
            2 => Pack::P2(x(), x()),
            3 => Pack::P3(x(), x(), x()),
            4 => Pack::P4(x(), x(), x(), x()),
            5 => Pack::P5(x(), x(), x(), x(), x()),
            6 => Pack::P6(x(), x(), x(), x(), x(), x()),
            7 => Pack::P7(x(), x(), x(), x(), x(), x(), x()),
            8 => Pack::P8(x(), x(), x(), x(), x(), x(), x(), x()),
            9 => Pack::P9(x(), x(), x(), x(), x(), x(), x(), x(), x()),
            _ => panic!("an operator takes one to nine tensors, not {n}"),
        }
    }
}
