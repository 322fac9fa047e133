//! One face for the mechanisms of the family: what a framework calls.

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
use super::{Cotangent, Gradient, Inputs, Output, Pattern, Selected};
use crate::Error;

/// A mechanism that attends with queries, keys and values and nothing else.
pub trait Attend: Debug + Send + Sync {
    /// Attention of all queries.
    fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error>;

    /// The same for few queries against a long cache.
    fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        self.chunk(x, cx)
    }

    /// The gradient, given that of the output, from what [`Attend::chunk`] returned.
    fn backward(&self, x: &Inputs<'_>, output: &Output, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error>;

    /// The definition: the output and the log-sum-exp, in f64.
    fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error>;
}

/// A pattern, run by the family's kernel.
#[derive(Clone, Debug)]
pub struct Patterned(Arc<dyn Pattern>);

impl Patterned {
    /// The mechanism of a pattern.
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
    fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        super::chunk(x, &*self.0, cx)
    }

    fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        super::step(x, &*self.0, cx)
    }

    fn backward(&self, x: &Inputs<'_>, output: &Output, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
        super::backward(x, &*self.0, output, d, cx)
    }

    fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
        super::naive(x, &*self.0)
    }
}

/// Those with kernels of their own.
macro_rules! own {
    ($type:ty, $module:ident, $naive:path $(, $step:ident)?) => {
        impl Attend for $type {
            fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                $module::chunk(x, self, cx)
            }

            $(fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                $module::$step(x, self, cx)
            })?

            fn backward(&self, x: &Inputs<'_>, output: &Output, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
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

/// Those that choose first: the choice is made again for the gradient.
macro_rules! choosing {
    ($type:ty, $module:ident) => {
        impl Attend for $type {
            fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                super::chunk(x, &$module::select(x, self, cx)?, cx)
            }

            fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
                super::step(x, &$module::select(x, self, cx)?, cx)
            }

            fn backward(&self, x: &Inputs<'_>, output: &Output, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
                super::backward(x, &$module::select(x, self, cx)?, output, d, cx)
            }

            fn naive(&self, x: &Inputs<'_, f64, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
                let (of, groups) = self.check(x)?;
                let lists = self.choose(x);
                let per_head = lists.len() == of.batch * of.heads * of.queries.len();
                let shape = (of.batch, if per_head { of.heads } else { groups }, of.queries);
                super::naive(x, &Selected::new($module::OP, self.block, shape, lists)?)
            }
        }
    };
}

choosing!(Moba, moba);
choosing!(InfLlmV2, infllm_v2);
