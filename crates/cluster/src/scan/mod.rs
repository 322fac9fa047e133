//! Mechanisms with a state over ranks: each rank reads its own part of the tokens.
//!
//! A part changes a state by an affine map, `S ↦ A S + R`: `R` is the state that the part leaves of an empty one, and `A` what it leaves of
//! a state before it. All ranks compute theirs at once and gather them ([`Passing::Gathered`]); the state before part `r` is then
//!
//! $$ S_r = A_{r-1}(A_{r-2}(\dots(A_0 S_0 + R_0)\dots) + R_{r-2}) + R_{r-1}, $$
//!
//! and the part is read again from there. `A` is 1 where nothing is forgotten, a number a head or a channel where gates are diagonal, and a
//! matrix `[K, K]` a head where keys erase. It is what the mechanism itself makes of ones, or of the identity, with nothing written. The
//! gradient is the same from the end, with `Aᵀ`. A rank sends `4 (N − 1) S H (K V + a)` bytes, `a` the size of `A`: 0, 1, `K` or `K²`; backward
//! as much again. Sun et al. 2025 (LASP-2); for matrices, Yang et al. 2024 (DeltaNet), §3.
//!
//! Where the map is not affine, or its size is not that of a matrix state, the state goes from rank to rank ([`Passing::Chained`]), and each
//! waits for the one before. That is exact for every mechanism with a state: the bits are those of one rank that makes the same calls.

use longreach_attention::Form;
use longreach_attention::operation::{Named, Tensors, Views};
use longreach_simd::Cx;
use ndarray::{ArrayD, IxDyn};
use serde_json::Value;

use crate::{Channel, Error, Ranks, bytes_of, numbers_of};

mod chained;
mod gathered;

use gathered::GATHERED;

/// How states pass between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Every rank computes what its part does to a state, and all are gathered.
    Gathered,
    /// Each rank waits for the state of the one before it.
    Chained,
}

/// A call over ranks: a mechanism, its parameters, and the ranks.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The mechanism.
    pub op: Named,
    /// Its parameters.
    pub parameters: &'a Value,
    /// The form that each rank runs.
    pub form: Form,
    /// How states pass.
    pub passing: Passing,
    /// The ranks.
    pub ranks: &'a dyn Ranks,
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Call").field(&self.op).field(&self.parameters).field(&self.form).field(&self.passing).finish()
    }
}

/// How the states of a mechanism pass best; an error if it has none that could be handed on.
pub fn passing(op: &Named) -> Result<Passing, Error> {
    if GATHERED.iter().any(|(name, ..)| *name == op.name()) {
        return Ok(Passing::Gathered);
    }
    if carried(op).is_empty() {
        let message = "it has no state that a rank could hand to the next".to_owned();
        return Err(Error::Unsupported { name: op.name().to_owned(), message });
    }
    Ok(Passing::Chained)
}

/// The tensors of the state: those that are both an input and an output.
fn carried(op: &Named) -> Vec<&'static str> {
    let signature = op.signature();
    let outputs = |name: &str| signature.outputs.iter().any(|output| output.name == name);
    signature.inputs.iter().map(|input| input.name).filter(|name| outputs(name)).collect()
}

/// The outputs of the rank's own tokens, and the state after the whole text, the same on every rank.
///
/// `inputs` are the rank's own tokens, contiguous parts in the order of ranks, and tensors without tokens, which are the same on all. A
/// state among them is that before the text; that of rank 0 counts. Errors as the mechanism, on packed sequences, and if a rank fails.
pub fn forward(call: &Call<'_>, inputs: &Tensors, cx: &Cx) -> Result<Tensors, Error> {
    call.check()?;
    match call.passing {
        Passing::Chained => Ok(call.chained(inputs, cx)?.0),
        Passing::Gathered => {
            let gathered = call.gathered(inputs, cx)?;
            let mut outputs = call.run(inputs, &gathered.before[call.ranks.rank()], cx)?;
            let last = gathered.before.into_iter().next_back().unwrap_or_default();
            outputs.insert("state".to_owned(), last);
            Ok(outputs)
        }
    }
}

/// The gradients with respect to the rank's own inputs. `inputs` has the gradients of the outputs too: `do` of the rank's own tokens, and
/// `dstate` of the state after the whole text, of which that of the last rank counts. Gradients of tensors without tokens, and of the state
/// before the text, are those of the whole text on every rank. Errors as [`forward`].
pub fn backward(call: &Call<'_>, inputs: &Tensors, cx: &Cx) -> Result<Tensors, Error> {
    call.check()?;
    let mut gradients = match call.passing {
        Passing::Chained => call.chained_backward(inputs, cx)?,
        Passing::Gathered => call.gathered_backward(inputs, cx)?,
    };
    // Rows of tokens are the rank's own; what has no tokens is shared by all.
    let signature = call.op.signature();
    for input in &signature.inputs {
        let state = carried(&call.op).contains(&input.name);
        let name = format!("d{}", input.name);
        if let (false, Some(own)) = (state || input.axes.get(1) == Some(&"T"), gradients.get(&name)) {
            let sum = sum(call.ranks, own)?;
            gradients.insert(name, sum);
        }
    }
    Ok(gradients)
}

/// The sum over all ranks, in their order.
pub fn sum(ranks: &dyn Ranks, own: &ArrayD<f32>) -> Result<ArrayD<f32>, Error> {
    let mut total = ArrayD::zeros(own.raw_dim());
    for (rank, bytes) in ranks.all_gather(Channel::Result, bytes_of(own))?.iter().enumerate() {
        total += &array(bytes, own.shape(), rank)?;
    }
    Ok(total)
}

fn array(bytes: &[u8], shape: &[usize], from: usize) -> Result<ArrayD<f32>, Error> {
    let numbers = numbers_of(bytes, shape.iter().product(), from)?;
    Ok(ArrayD::from_shape_vec(IxDyn(shape), numbers).expect("as many numbers as the shape has"))
}

impl Call<'_> {
    fn check(&self) -> Result<(), Error> {
        let packed = self.parameters.get("cu_seqlens").or_else(|| self.parameters.get("bounds"));
        if packed.is_some_and(|bounds| !bounds.is_null()) {
            let message = "packed sequences are not cut: give each rank sequences of its own".to_owned();
            return Err(Error::Unsupported { name: self.op.name().to_owned(), message });
        }
        passing(&self.op).map(drop)
    }

    /// One call of the mechanism, from a state.
    fn run(&self, inputs: &Tensors, state: &ArrayD<f32>, cx: &Cx) -> Result<Tensors, Error> {
        let mut views = Views::from(inputs);
        views.insert("state", state);
        Ok(self.op.forward(views, self.parameters, self.form, cx)?)
    }

    fn state_shape(&self, inputs: &Tensors) -> Result<Vec<usize>, Error> {
        let shapes = inputs.iter().filter(|(name, _)| self.is_input(name));
        let shapes = shapes.map(|(name, x)| (name.clone(), x.shape().to_vec())).collect();
        let outputs = self.op.shapes(&shapes, self.parameters)?;
        Ok(outputs.get("state").cloned().unwrap_or_default())
    }

    fn is_input(&self, name: &str) -> bool {
        self.op.signature().inputs.iter().any(|input| input.name == name)
    }
}

fn owned((name, x): (&String, &ArrayD<f32>)) -> (String, ArrayD<f32>) {
    (name.clone(), x.clone())
}
