//! The mechanism as an operation on named tensors.

use longreach_simd::Cx;
use ndarray::ArrayD;

use super::{Inputs, OP, backward, naive, recurrent, step};
use crate::operation::recurrence::{About, Cotangents, Given, Recurrence, SCALE, Scale, calls, ranked_mut};
use crate::operation::{Argument, Number};
use crate::{Error, Form};

pub(crate) struct Op;

/// The inputs.
fn inputs<'a, F: Number>(x: &'a Given<'_, F>) -> Result<Inputs<'a, F>, Error> {
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        beta: x.tensor("beta")?,
        scale: F::nearest(x.parameters::<Scale>()?.of(x.tensor("k")?)),
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    fn about(&self) -> About {
        About {
            inputs: vec![
                Argument::input("q", &["B", "T", "G", "K"], "queries; head h reads group h / (H / G)"),
                Argument::input("k", &["B", "T", "G", "K"], "keys, best of length 1").between(-0.2, 0.2),
                Argument::input("v", &["B", "T", "H", "V"], "values"),
                Argument::input("beta", &["B", "T", "H"], "how much is corrected").between(0.0, 1.0),
            ],
            parameters: vec![SCALE],
            output: &["B", "T", "H", "V"],
            state: &["sequences", "H", "K", "V"],
            example: "{}",
            forms: &[Form::Naive, Form::Recurrent, Form::Step],
        }
    }

    calls!([Step => step, _ => recurrent], [q, k, v, beta, state]);
}
