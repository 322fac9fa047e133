//! A matrix of weights, trained or quantised.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use longreach_burn as ops;
use longreach_simd::product::Quantised;

use crate::{Inputs, LowRank};

/// A matrix `[out, in]`.
#[derive(Module, Debug)]
pub enum Weight {
    /// In f32 or bf16. It can be trained.
    Float(FloatWeight),
    /// In integers of a few bits, for inference only.
    Quantised(QuantisedWeight),
}

/// A matrix in f32 or bf16.
#[derive(Module, Debug)]
pub struct FloatWeight {
    /// `[out, in]`
    pub param: Param<Tensor<2>>,
    /// The sums of what it is multiplied by, if they are wanted.
    #[module(skip)]
    inputs: Option<Inputs>,
    update: Option<LowRank>,
}

/// A matrix in integers of a few bits.
#[derive(Module, Debug)]
pub struct QuantisedWeight {
    #[module(skip)]
    matrix: Arc<Quantised>,
    #[module(skip)]
    on: Device,
    update: Option<LowRank>,
}

impl From<Param<Tensor<2>>> for Weight {
    fn from(param: Param<Tensor<2>>) -> Self {
        Self::Float(FloatWeight { param, inputs: None, update: None })
    }
}

impl FloatWeight {
    /// Adds an input to the sums.
    fn observe<const D: usize>(&self, x: &Tensor<D>) {
        if let Some(inputs) = &self.inputs {
            inputs.add(x);
        }
    }
}

impl Weight {
    /// The trained matrix, which adds what it is multiplied by to `inputs`.
    pub(crate) fn observed(param: Param<Tensor<2>>, inputs: Option<Inputs>) -> Self {
        Self::Float(FloatWeight { param, inputs, update: None })
    }

    /// The quantised matrix, whose products are on `device`.
    pub fn quantised(matrix: Quantised, device: &Device) -> Self {
        Self::Quantised(QuantisedWeight { matrix: Arc::new(matrix), on: device.clone(), update: None })
    }

    /// The matrix with a low-rank update, or without one.
    pub(crate) fn updated(self, update: Option<LowRank>) -> Self {
        match self {
            Self::Float(weight) => Self::Float(FloatWeight { update, ..weight }),
            Self::Quantised(weight) => Self::Quantised(QuantisedWeight { update, ..weight }),
        }
    }

    fn update(&self) -> Option<&LowRank> {
        match self {
            Self::Float(weight) => weight.update.as_ref(),
            Self::Quantised(weight) => weight.update.as_ref(),
        }
    }

    /// `[out, in]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) => weight.param.val().dims(),
            Self::Quantised(weight) => weight.matrix.shape(),
        }
    }

    /// The device of its products.
    pub fn device(&self) -> Device {
        match self {
            Self::Float(weight) => weight.param.val().device(),
            Self::Quantised(weight) => weight.on.clone(),
        }
    }

    /// `x Wᵀ + b`: `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        if let Some(update) = self.update() {
            let more = update.forward(x.clone(), None);
            return ops::add(self.product(x, bias), more);
        }
        self.product(x, bias)
    }

    /// The product without the low-rank update.
    fn product<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match self {
            Self::Float(weight) => {
                weight.observe(&x);
                ops::linear(x, weight.param.val(), bias)
            }
            Self::Quantised(weight) => ops::linear_quantised(x, &weight.matrix, bias),
        }
    }

    /// As [`Weight::forward`] for the outputs `outputs` only. `None` if the rows of the matrix cannot be separated.
    pub fn some<const D: usize>(
        &self,
        x: Tensor<D>,
        outputs: Range<usize>,
        bias: Option<Tensor<1>>,
    ) -> Option<Tensor<D>> {
        let more = self.update().map(|update| update.forward(x.clone(), Some(outputs.clone())));
        let y = match self {
            Self::Float(weight) => {
                weight.observe(&x);
                ops::linear(x, weight.param.val().narrow(0, outputs.start, outputs.len()), bias)
            }
            Self::Quantised(weight) => ops::linear_quantised(x, &Arc::new(weight.matrix.rows(outputs)?), bias),
        };
        Some(match more {
            Some(more) => ops::add(y, more),
            None => y,
        })
    }

    /// Row `ids[b][t]` for `batch` contiguous rows of ids → `[B, T, in]`. Panics if there is no such row.
    pub fn rows(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        match self {
            Self::Float(weight) => ops::embedding(weight.param.val(), ids, batch),
            Self::Quantised(weight) => ops::embedding_quantised(&weight.matrix, ids, batch, &weight.on),
        }
    }

    /// The matrix in f32 or bf16; a quantised one is dequantised to f32.
    pub fn float(&self) -> Tensor<2> {
        let stored = match self {
            Self::Float(weight) => weight.param.val(),
            Self::Quantised(weight) => {
                let numbers = weight.matrix.dequantise(&ops::context());
                Tensor::from_data(TensorData::new(numbers, weight.matrix.shape()), &weight.on)
            }
        };
        match self.update() {
            Some(update) => in_f32(stored) + update.matrix(),
            None => stored,
        }
    }

    /// The matrix in f32.
    pub fn full(&self) -> Tensor<2> {
        in_f32(self.float())
    }

    /// The same matrix, of which no gradient is taken.
    #[must_use]
    pub fn detached(&self) -> Self {
        let update = self.update().map(LowRank::detached);
        match self {
            Self::Float(weight) => Self::from(Param::from_tensor(weight.param.val().detach())).updated(update),
            Self::Quantised(_) => self.clone().updated(update),
        }
    }
}

fn in_f32(weight: Tensor<2>) -> Tensor<2> {
    if weight.dtype() == DType::F32 { weight } else { weight.cast(DType::F32) }
}
