//! States that are gathered: every rank computes what its part does to a state, at once.

use longreach_attention::operation::{Tensors, Views};
use longreach_simd::Cx;
use ndarray::{Array2, ArrayD, Axis, IxDyn};

use super::{Call, array, owned};
use crate::{Channel, Error, bytes_of};

/// What a part of the tokens leaves of the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// All of it.
    One,
    /// A share of each head.
    Head,
    /// A share of each channel of the keys.
    Channel,
    /// A share of each element.
    Element,
    /// A matrix for each head.
    Matrix,
}

/// The mechanisms whose states are gathered: what becomes of the state, and the input that is written to it.
pub(super) const GATHERED: &[(&str, Transition, &str)] = &[
    ("linear_attention", Transition::One, "v"),
    ("performer", Transition::One, "v"),
    ("cosformer", Transition::One, "v"),
    ("scan", Transition::Head, "v"),
    ("retention", Transition::Head, "v"),
    ("lightning", Transition::Head, "v"),
    ("mamba2", Transition::Head, "x"),
    ("gla", Transition::Channel, "v"),
    ("hgrn2", Transition::Channel, "v"),
    ("rwkv5", Transition::Channel, "v"),
    ("rwkv6", Transition::Channel, "v"),
    ("mamba", Transition::Element, "x"),
    ("rg_lru", Transition::Element, "x"),
    ("delta_rule", Transition::Matrix, "v"),
    ("gated_delta", Transition::Matrix, "v"),
    ("kda", Transition::Matrix, "v"),
    ("dplr", Transition::Matrix, "v"),
    ("rwkv7", Transition::Matrix, "v"),
];

/// What all ranks know once states were gathered.
pub(super) struct Gathered {
    /// The state before each rank's part, and that after the last.
    pub(super) before: Vec<ArrayD<f32>>,
    /// What each part leaves of a state.
    pub(super) kept: Vec<Option<ArrayD<f32>>>,
}

impl Call<'_> {
    fn transition(&self) -> Result<(Transition, &'static str), Error> {
        let found = GATHERED.iter().find(|(name, ..)| *name == self.op.name());
        found.map(|(_, transition, written)| (*transition, *written)).ok_or_else(|| Error::Unsupported {
            name: self.op.name().to_owned(),
            message: "what its tokens do to a state is no affine map of it: hand the state on in a chain".to_owned(),
        })
    }

    /// What the rank's part leaves of a state of this shape; `None` for all of it.
    fn kept(&self, inputs: &Tensors, state: &[usize], cx: &Cx) -> Result<Option<ArrayD<f32>>, Error> {
        let (transition, written) = self.transition()?;
        let [k, width] = match (transition, state) {
            (Transition::One, _) => return Ok(None),
            (Transition::Element, _) => [0, 0],
            (Transition::Matrix, [_, _, k, _]) => [*k, *k],
            (_, [_, _, k, _]) => [*k, 1],
            _ => return Err(self.transition().err().unwrap_or(Error::Transport("a state of another rank".into()))),
        };
        let mut inputs = inputs.clone();
        if let Some(x) = inputs.get_mut(written) {
            let mut shape = x.shape().to_vec();
            if let (true, Some(last)) = (width > 0, shape.last_mut()) {
                *last = width;
            }
            *x = ArrayD::zeros(shape);
        }
        let start = match transition {
            Transition::Matrix => {
                let each = Array2::<f32>::eye(k).into_dyn();
                let shape = [state[0], state[1], k, k];
                each.broadcast(&shape[..]).expect("a matrix for each head").to_owned()
            }
            Transition::Element => ArrayD::ones(IxDyn(state)),
            _ => ArrayD::ones(IxDyn(&[state[0], state[1], k, 1])),
        };
        let kept = self.run(&inputs, &start, cx)?.remove("state").unwrap_or_default();
        Ok(Some(match transition {
            Transition::Head => kept.slice_axis(Axis(2), (0..1).into()).to_owned(),
            _ => kept,
        }))
    }

    /// The transition times a state, or its transpose times the gradient of one.
    fn leave(&self, kept: Option<&ArrayD<f32>>, state: &ArrayD<f32>, transposed: bool) -> ArrayD<f32> {
        let Some(kept) = kept else { return state.clone() };
        if kept.ndim() != 4 || kept.shape()[3] != kept.shape()[2] || kept.shape()[3] == 1 {
            return state * kept;
        }
        let Ok((Transition::Matrix, _)) = self.transition() else { return state * kept };
        let mut out = ArrayD::zeros(state.raw_dim());
        for (s, h) in ndarray::indices((state.shape()[0], state.shape()[1])) {
            let at = |x: &ArrayD<f32>| x.index_axis(Axis(0), s).index_axis_move(Axis(0), h).to_owned();
            let (matrix, of_head) = (at(kept), at(state));
            let (matrix, of_head) = (matrix.into_dimensionality().ok(), of_head.into_dimensionality().ok());
            let Some((matrix, of_head)) = matrix.zip(of_head) else { continue };
            let (matrix, of_head): (Array2<f32>, Array2<f32>) = (matrix, of_head);
            let product = if transposed { matrix.t().dot(&of_head) } else { matrix.dot(&of_head) };
            out.index_axis_mut(Axis(0), s).index_axis_move(Axis(0), h).assign(&product);
        }
        out
    }

    /// Gathers what every part does to a state.
    pub(super) fn gathered(&self, inputs: &Tensors, cx: &Cx) -> Result<Gathered, Error> {
        let shape = self.state_shape(inputs)?;
        let added = self.run(&without_state(inputs), &ArrayD::zeros(IxDyn(&shape)), cx)?.remove("state");
        let added = added.unwrap_or_default();
        let kept = self.kept(&without_state(inputs), &shape, cx)?;
        let first = inputs.get("state").cloned().unwrap_or_else(|| ArrayD::zeros(IxDyn(&shape)));
        let first = self.ranks.broadcast(0, Channel::State, given(inputs, "state", &first))?;
        let first = if first.is_empty() { ArrayD::zeros(IxDyn(&shape)) } else { array(&first, &shape, 0)? };
        let mut before = vec![first];
        let mut all_kept = Vec::new();
        let own = bytes_of(added.iter().chain(kept.iter().flatten()));
        for (rank, bytes) in self.ranks.all_gather(Channel::State, own)?.iter().enumerate() {
            let (of_added, of_kept) = bytes.split_at_checked(4 * added.len()).unwrap_or((bytes, &[]));
            let r = array(of_added, &shape, rank)?;
            let a = kept.as_ref().map(|kept| array(of_kept, kept.shape(), rank)).transpose()?;
            let next = self.leave(a.as_ref(), &before[rank], false) + r;
            before.push(next);
            all_kept.push(a);
        }
        Ok(Gathered { before, kept: all_kept })
    }

    pub(super) fn gathered_backward(&self, inputs: &Tensors, cx: &Cx) -> Result<Tensors, Error> {
        let (me, n) = (self.ranks.rank(), self.ranks.size());
        let Gathered { before, kept } = self.gathered(inputs, cx)?;
        let shape = before[me].shape().to_vec();
        let zero = ArrayD::zeros(IxDyn(&shape));
        let own = |d_state: &ArrayD<f32>| {
            let mut views = Views::from(inputs);
            views.insert("state", &before[me]);
            views.insert("dstate", d_state);
            self.op.backward(views, self.parameters, cx).map_err(Error::from)
        };
        let last = self.ranks.broadcast(n - 1, Channel::State, given(inputs, "dstate", &zero))?;
        let last = if last.is_empty() { zero.clone() } else { array(&last, &shape, n - 1)? };
        // The gradient of the state before the part, as far as it comes from the part's own outputs.
        let mut gradients = own(if me == n - 1 { &last } else { &zero })?;
        let mine = gradients.get("dstate").cloned().unwrap_or_else(|| zero.clone());
        let all = self.ranks.all_gather(Channel::State, bytes_of(&mine))?;
        let mut after = last;
        for rank in (0..n).rev() {
            if rank == me && me + 1 < n {
                gradients = own(&after)?;
            }
            let of_outputs = array(&all[rank], &shape, rank)?;
            after = match rank == n - 1 {
                true => of_outputs,
                false => self.leave(kept[rank].as_ref(), &after, true) + of_outputs,
            };
        }
        gradients.insert("dstate".to_owned(), after);
        Ok(gradients)
    }
}

/// The bytes of a tensor if it was given, else none.
fn given(inputs: &Tensors, name: &str, x: &ArrayD<f32>) -> Vec<u8> {
    inputs.get(name).map_or_else(Vec::new, |given| if given.shape() == x.shape() { bytes_of(given) } else { vec![0] })
}

fn without_state(inputs: &Tensors) -> Tensors {
    inputs.iter().filter(|(name, _)| !matches!(&***name, "state" | "do" | "dstate")).map(owned).collect()
}
