//! A common interface to the mechanisms of the family, for frameworks.

use std::fmt::Debug;
use std::sync::Arc;

use longreach_simd::Cx;
use ndarray::{Array3, Array4};

use super::dilated::{self, Dilated};
use super::h_transformer_1d::{self, HTransformer1d};
use super::hierarchical::{self, Hierarchical};
use super::infllm_v2::{self, InfLlmV2};
use super::longnet::{self, LongNet};
use super::moba::{self, Moba};
use super::sparse_transformer::{self, SparseTransformer};
use super::{Cotangent, Gradient, Inputs, Output, OutputView, Pattern, Selected, packed_sequences};
use crate::Error;

/// An attention mechanism whose only tensors are queries, keys and values, and the options of [`Inputs`].
pub trait Attend: Debug + Send + Sync {
    /// Attention of all queries.
    fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error>;

    /// Whether [`Attend::chunk`] and [`Attend::step`] read keys in several segments: see [`Inputs::earlier`].
    fn reads_segments(&self) -> bool {
        false
    }

    /// The pattern, if this is one that does not depend on the inputs: another device then runs it with a kernel of its own.
    fn pattern(&self) -> Option<Arc<dyn Pattern>> {
        None
    }

    /// As [`Attend::chunk`], for few queries against a long KV cache.
    fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        self.chunk(x, cx)
    }

    /// The gradient, given that of the output, from what [`Attend::chunk`] returned.
    fn backward(&self, x: &Inputs<'_>, output: OutputView<'_>, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error>;

    /// The definition: the output and the log-sum-exp, in f64.
    fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error>;
}

/// A pattern, run by the block-sparse kernel.
#[derive(Clone, Debug)]
pub struct Patterned(Arc<dyn Pattern>);

impl Patterned {
    /// Attention under a pattern.
    pub fn new(pattern: impl Pattern + 'static) -> Self {
        Self(Arc::new(pattern))
    }
}

impl From<Box<dyn Pattern>> for Patterned {
    fn from(pattern: Box<dyn Pattern>) -> Self {
        Self(pattern.into())
    }
}

impl Attend for Patterned {
    fn reads_segments(&self) -> bool {
        true
    }

    fn pattern(&self) -> Option<Arc<dyn Pattern>> {
        Some(self.0.clone())
    }

    fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        super::chunk(x, &*self.0, cx)
    }

    fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        super::step(x, &*self.0, cx)
    }

    fn backward(&self, x: &Inputs<'_>, output: OutputView<'_>, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
        super::backward(x, &*self.0, output, d, cx)
    }

    fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
        super::naive(x, &*self.0)
    }
}

/// Mechanisms with kernels of their own.
macro_rules! own {
    ($type:ty, $module:ident, $naive:path $(, $step:ident)?) => {
        impl Attend for $type {
            fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                $module::chunk(x, self, cx)
            }

            $(fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                $module::$step(x, self, cx)
            })?

            fn backward(&self, x: &Inputs<'_>, output: OutputView<'_>, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
                $module::backward(x, self, output, d, cx)
            }

            fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
                $naive(x, self)
            }
        }
    };
}

own!(Dilated, dilated, super::naive, step);
own!(SparseTransformer, sparse_transformer, super::naive, step);
own!(LongNet, longnet, longnet::naive);
own!(Hierarchical, hierarchical, hierarchical::naive);
own!(HTransformer1d, h_transformer_1d, h_transformer_1d::naive);

/// Mechanisms that select keys by content. The selection is repeated for the gradient. Blocks are counted from a
/// sequence's start.
macro_rules! choosing {
    ($type:ty, $module:ident) => {
        impl Attend for $type {
            fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                packed_sequences::forward($module::OP, x, |x| super::chunk(x, &$module::select(x, self, cx)?, cx))
            }

            fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                packed_sequences::forward($module::OP, x, |x| super::step(x, &$module::select(x, self, cx)?, cx))
            }

            fn backward(
                &self,
                x: &Inputs<'_>,
                output: OutputView<'_>,
                d: &Cotangent<'_>,
                cx: &Cx,
            ) -> Result<Gradient, Error> {
                packed_sequences::backward($module::OP, x, output, d, |x, output, d| {
                    super::backward(x, &$module::select(x, self, cx)?, output, d, cx)
                })
            }

            fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
                packed_sequences::naive($module::OP, x, |x| {
                    let (of, groups) = self.check(x)?;
                    super::naive(x, &Selected::new($module::OP, self.block, self.lists(&of, groups), self.choose(x))?)
                })
            }
        }
    };
}

choosing!(Moba, moba);
choosing!(InfLlmV2, infllm_v2);
