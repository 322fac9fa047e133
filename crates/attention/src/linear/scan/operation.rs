//! The mechanism as an operation on tensors by name.

use longreach_simd::Cx;
use ndarray::{ArrayD, ArrayViewMutD};
use serde::Deserialize;

use super::{Inputs, OP, backward, chunk, naive, recurrent, step};
use crate::operation::recurrence::{About, From, Recurrence, Views, ranked_mut};
use crate::operation::{Argument, parameter};
use crate::{Error, Form};

pub(crate) struct Op;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(default = "one")]
    scale: f64,
}

fn one() -> f64 {
    1.0
}

/// The inputs; `scale` makes a number of the call's precision.
fn inputs<'a, F>(x: &'a Views<'_, F>, scale: impl Fn(f64) -> F) -> Result<Inputs<'a, F>, Error> {
    let Parameters { scale: by } = x.parameters()?;
    Ok(Inputs {
        q: x.tensor("q")?,
        k: x.tensor("k")?,
        v: x.tensor("v")?,
        g: x.optional("g")?,
        beta: x.optional("beta")?,
        skip: x.optional("skip")?,
        scale: scale(by),
        sequences: x.sequences(),
    })
}

impl Recurrence for Op {
    fn about(&self) -> About {
        About {
            inputs: vec![
                Argument::input("q", &["B", "T", "G", "K"], "queries; head h reads group h / (H / G)"),
                Argument::input("k", &["B", "T", "G", "K"], "keys"),
                Argument::input("v", &["B", "T", "H", "V"], "values"),
                Argument::optional("g", &["B", "T", "H"], "the gate's logarithm, at most 0; absent means 0")
                    .between(-0.5, 0.0),
                Argument::optional("beta", &["B", "T", "H"], "how strongly a token is written; absent means 1"),
                Argument::optional("skip", &["H"], "how much of the value passes by the state"),
            ],
            parameters: vec![parameter("scale", "1", "the factor of the output")],
            output: &["B", "T", "H", "V"],
            state: &["sequences", "H", "K", "V"],
            forms: &[Form::Naive, Form::Chunk, Form::Recurrent, Form::Step],
        }
    }

    fn state_shape(&self, x: &Views<'_, f32>) -> Result<Vec<usize>, Error> {
        Ok(inputs(x, |s| s as f32)?.state_shape().to_vec())
    }

    fn naive(&self, x: &Views<'_, f64>, state: ArrayViewMutD<'_, f64>) -> Result<ArrayD<f64>, Error> {
        Ok(naive(&inputs(x, |s| s)?, ranked_mut(OP, state)?)?.into_dyn())
    }

    fn fast(
        &self,
        x: &Views<'_, f32>,
        form: Form,
        state: ArrayViewMutD<'_, f32>,
        cx: &Cx,
    ) -> Result<ArrayD<f32>, Error> {
        let (x, state) = (inputs(x, |s| s as f32)?, ranked_mut(OP, state)?);
        let run = match form {
            Form::Chunk => chunk,
            Form::Step => step,
            _ => recurrent,
        };
        Ok(run(&x, state, cx)?.into_dyn())
    }

    fn gradient(
        &self,
        x: &Views<'_, f32>,
        from: &From<'_>,
        cx: &Cx,
    ) -> Result<Vec<(&'static str, ArrayD<f32>)>, Error> {
        let g = backward(&inputs(x, |s| s as f32)?, from.state(OP)?, from.output(OP)?, from.d_state(OP)?, cx)?;
        Ok(vec![
            ("q", g.q.into_dyn()),
            ("k", g.k.into_dyn()),
            ("v", g.v.into_dyn()),
            ("g", g.g.into_dyn()),
            ("beta", g.beta.into_dyn()),
            ("skip", g.skip.into_dyn()),
            ("state", g.state.into_dyn()),
        ])
    }
}
