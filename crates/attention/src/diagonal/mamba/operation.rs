//! The mechanism as an operation on tensors by name.

use longreach_simd::Cx;
use ndarray::{ArrayD, ArrayViewMutD};
use serde::Deserialize;

use super::{Inputs, OP, backward, naive, recurrent, step};
use crate::operation::Argument;
use crate::operation::recurrence::{About, From, Recurrence, Views, ranked_mut};
use crate::{Error, Form};

pub(crate) struct Op;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct None {}

fn inputs<'a, F>(x: &'a Views<'_, F>) -> Result<Inputs<'a, F>, Error> {
    x.parameters::<None>()?;
    Ok(Inputs {
        x: x.tensor("x")?,
        dt: x.tensor("dt")?,
        dt_bias: x.tensor("dt_bias")?,
        a: x.tensor("a")?,
        b: x.tensor("b")?,
        c: x.tensor("c")?,
        d: x.tensor("d")?,
        z: x.optional("z")?,
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    fn about(&self) -> About {
        About {
            inputs: vec![
                Argument::input("x", &["B", "T", "D"], "what is written to the state"),
                Argument::input("dt", &["B", "T", "D"], "the step before softplus"),
                Argument::input("dt_bias", &["D"], "added to it"),
                Argument::input("a", &["N", "D"], "the matrix A, negative").between(-1.0, -0.1),
                Argument::input("b", &["B", "T", "N"], "the matrix B"),
                Argument::input("c", &["B", "T", "N"], "the matrix C"),
                Argument::input("d", &["D"], "the matrix D"),
                Argument::optional("z", &["B", "T", "D"], "what gates the output through silu"),
            ],
            parameters: Vec::new(),
            output: &["B", "T", "D"],
            state: &["sequences", "N", "D"],
            forms: &[Form::Naive, Form::Recurrent, Form::Step],
        }
    }

    fn state_shape(&self, x: &Views<'_, f32>) -> Result<Vec<usize>, Error> {
        Ok(inputs(x)?.state_shape().to_vec())
    }

    fn naive(&self, x: &Views<'_, f64>, state: ArrayViewMutD<'_, f64>) -> Result<ArrayD<f64>, Error> {
        Ok(naive(&inputs(x)?, ranked_mut(OP, state)?)?.into_dyn())
    }

    fn fast(
        &self,
        x: &Views<'_, f32>,
        form: Form,
        state: ArrayViewMutD<'_, f32>,
        cx: &Cx,
    ) -> Result<ArrayD<f32>, Error> {
        let run = if form == Form::Step { step } else { recurrent };
        Ok(run(&inputs(x)?, ranked_mut(OP, state)?, cx)?.into_dyn())
    }

    fn gradient(
        &self,
        x: &Views<'_, f32>,
        from: &From<'_>,
        cx: &Cx,
    ) -> Result<Vec<(&'static str, ArrayD<f32>)>, Error> {
        let g = backward(&inputs(x)?, from.state(OP)?, from.output(OP)?, from.d_state(OP)?, cx)?;
        Ok(vec![
            ("x", g.x.into_dyn()),
            ("dt", g.dt.into_dyn()),
            ("dt_bias", g.dt_bias.into_dyn()),
            ("a", g.a.into_dyn()),
            ("b", g.b.into_dyn()),
            ("c", g.c.into_dyn()),
            ("d", g.d.into_dyn()),
            ("z", g.z.into_dyn()),
            ("state", g.state.into_dyn()),
        ])
    }
}
