//! The mechanism as an operation on tensors by name.

use longreach_simd::Cx;
use ndarray::{ArrayD, ArrayViewMutD};
use serde::Deserialize;

use super::{Activation, Inputs, OP, backward, chunk, naive, step};
use crate::operation::recurrence::{About, From, Recurrence, Views, ranked_mut};
use crate::operation::{Argument, parameter};
use crate::{Error, Form};

pub(crate) struct Op;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(default)]
    activation: Activation,
}

fn inputs<'a, F>(x: &'a Views<'_, F>) -> Result<Inputs<'a, F>, Error> {
    let Parameters { activation } = x.parameters()?;
    let bias = x.optional("bias")?;
    Ok(Inputs { x: x.tensor("x")?, w: x.tensor("w")?, bias, activation, sequences: x.sequences() })
}

impl Recurrence for Op {
    fn about(&self) -> About {
        About {
            inputs: vec![
                Argument::input("x", &["B", "T", "D"], "the input"),
                Argument::input("w", &["W", "D"], "the taps; the last meets the current token"),
                Argument::optional("bias", &["D"], "added before the activation"),
            ],
            parameters: vec![parameter("activation", "\"none\"", "`none` or `silu`")],
            output: &["B", "T", "D"],
            state: &["sequences", "W - 1", "D"],
            forms: &[Form::Naive, Form::Chunk, Form::Step],
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
        let run = if form == Form::Step { step } else { chunk };
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
            ("w", g.w.into_dyn()),
            ("bias", g.bias.into_dyn()),
            ("state", g.state.into_dyn()),
        ])
    }
}
