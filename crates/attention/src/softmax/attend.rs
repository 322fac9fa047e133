//! One face for the mechanisms of the family: what a framework calls.

use std::fmt::Debug;

use longreach_simd::Cx;

use super::dilated::{self, Dilated};
use super::hierarchical::{self, Hierarchical};
use super::infllm_v2::{self, InfLlmV2};
use super::longnet::{self, LongNet};
use super::moba::{self, Moba};
use super::sparse_transformer::{self, SparseTransformer};
use super::{Cotangent, Gradient, Inputs, Output, Pattern};
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
}

/// A pattern, run by the family's kernel.
#[derive(Clone, Debug)]
pub struct Patterned<P>(pub P);

impl<P: Pattern> Attend for Patterned<P> {
    fn chunk(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        super::chunk(x, &self.0, cx)
    }

    fn step(&self, x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
        super::step(x, &self.0, cx)
    }

    fn backward(&self, x: &Inputs<'_>, output: &Output, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
        super::backward(x, &self.0, output, d, cx)
    }
}

/// Those with kernels of their own.
macro_rules! own {
    ($type:ty, $module:ident $(, $step:ident)?) => {
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
        }
    };
}

own!(Dilated, dilated, step);
own!(SparseTransformer, sparse_transformer, step);
own!(LongNet, longnet);
own!(Hierarchical, hierarchical);

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
        }
    };
}

choosing!(Moba, moba);
choosing!(InfLlmV2, infllm_v2);
