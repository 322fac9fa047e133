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
use ndarray::{Array2, ArrayD, Axis, IxDyn};
use serde_json::Value;

use crate::{Channel, Error, Ranks, bytes_of, numbers_of};

/// How states pass between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Every rank computes what its part does to a state, and all are gathered.
    Gathered,
    /// Each rank waits for the state of the one before it.
    Chained,
}

/// What a part of the tokens leaves of the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transition {
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
const GATHERED: &[(&str, Transition, &str)] = &[
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

/// Rows of tokens that a state holds as they are, without a gradient as an output, and the inputs that they are, the first that is given.
const ROWS: [(&str, &[&str]); 2] = [("keys", &["kl", "k"]), ("values", &["v"])];

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

/// What all ranks know once states were gathered.
struct Gathered {
    /// The state before each rank's part, and that after the last.
    before: Vec<ArrayD<f32>>,
    /// What each part leaves of a state.
    kept: Vec<Option<ArrayD<f32>>>,
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

    fn transition(&self) -> Result<(Transition, &'static str), Error> {
        let found = GATHERED.iter().find(|(name, ..)| *name == self.op.name());
        found.map(|(_, transition, written)| (*transition, *written)).ok_or_else(|| Error::Unsupported {
            name: self.op.name().to_owned(),
            message: "what its tokens do to a state is no affine map of it: hand the state on in a chain".to_owned(),
        })
    }

    /// One call of the mechanism, from a state.
    fn run(&self, inputs: &Tensors, state: &ArrayD<f32>, cx: &Cx) -> Result<Tensors, Error> {
        let mut views = Views::from(inputs);
        views.insert("state", state);
        Ok(self.op.forward(views, self.parameters, self.form, cx)?)
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
    fn gathered(&self, inputs: &Tensors, cx: &Cx) -> Result<Gathered, Error> {
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

    fn gathered_backward(&self, inputs: &Tensors, cx: &Cx) -> Result<Tensors, Error> {
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

    fn state_shape(&self, inputs: &Tensors) -> Result<Vec<usize>, Error> {
        let shapes = inputs.iter().filter(|(name, _)| self.is_input(name));
        let shapes = shapes.map(|(name, x)| (name.clone(), x.shape().to_vec())).collect();
        let outputs = self.op.shapes(&shapes, self.parameters)?;
        Ok(outputs.get("state").cloned().unwrap_or_default())
    }

    fn is_input(&self, name: &str) -> bool {
        self.op.signature().inputs.iter().any(|input| input.name == name)
    }

    /// The outputs, and the state before the rank's own part.
    fn chained(&self, inputs: &Tensors, cx: &Cx) -> Result<(Tensors, Tensors), Error> {
        let (me, n) = (self.ranks.rank(), self.ranks.size());
        let names = carried(&self.op);
        let mut before = Tensors::new();
        for name in &names {
            if me > 0 {
                before.insert((*name).to_owned(), received(self.ranks, me - 1)?);
            } else if let Some(given) = inputs.get(*name) {
                before.insert((*name).to_owned(), given.clone());
            }
        }
        let mut views = Views::from(inputs);
        before.iter().for_each(|(name, x)| views.insert(name, x));
        let mut outputs = self.op.forward(views, self.parameters, self.form, cx)?;
        // The next rank has all of the state before this one waits for the last.
        let state: Vec<Vec<u8>> = names.iter().map(|name| shaped(&outputs.remove(*name).unwrap_or_default())).collect();
        if me + 1 < n {
            state.iter().try_for_each(|part| self.ranks.send(me + 1, Channel::State, part.clone()))?;
        }
        for (name, part) in names.iter().zip(state) {
            let last = self.ranks.broadcast(n - 1, Channel::Result, part)?;
            outputs.insert((*name).to_owned(), unshaped(&last, n - 1)?);
        }
        Ok((outputs, before))
    }

    fn chained_backward(&self, inputs: &Tensors, cx: &Cx) -> Result<Tensors, Error> {
        let (me, n) = (self.ranks.rank(), self.ranks.size());
        let signature = self.op.signature();
        let d_of = |name: &str| format!("d{name}");
        let forward: Tensors = inputs.iter().filter(|(name, _)| self.is_input(name)).map(owned).collect();
        let (_, before) = self.chained(&forward, cx)?;
        let mut given = inputs.clone();
        given.extend(before);
        let names = carried(&self.op).into_iter();
        let differentiable = |name: &&str| signature.outputs.iter().any(|o| o.name == *name && o.gradient);
        let names: Vec<&str> = names.filter(differentiable).collect();
        for name in &names {
            if me + 1 < n {
                given.insert(d_of(name), received(self.ranks, me + 1)?);
            }
        }
        let mut gradients = self.op.backward(&given, self.parameters, cx)?;
        let rows = self.rows_behind(&mut gradients)?;
        let own: Vec<Vec<u8>> =
            names.iter().map(|name| shaped(&gradients.remove(&d_of(name)).unwrap_or_default())).collect();
        if me > 0 {
            let parts = own.iter().cloned().chain(rows.iter().map(shaped));
            parts.into_iter().try_for_each(|part| self.ranks.send(me - 1, Channel::State, part))?;
        }
        for (name, part) in names.iter().zip(own) {
            let first = self.ranks.broadcast(0, Channel::Result, part)?;
            gradients.insert(d_of(name), unshaped(&first, 0)?);
        }
        Ok(gradients)
    }

    /// Adds the gradients of the rows that the next rank had from this one to those of the tokens that they belong to, and returns the gradients
    /// of the rows that this rank had from the one before. They are the keys and values of a segment that the cut divides.
    fn rows_behind(&self, gradients: &mut Tensors) -> Result<Vec<ArrayD<f32>>, Error> {
        let (me, n) = (self.ranks.rank(), self.ranks.size());
        let mut before = Vec::new();
        for (rows, of) in ROWS {
            if !carried(&self.op).contains(&rows) {
                continue;
            }
            let mut given = gradients.remove(&format!("d{rows}"));
            if me + 1 < n {
                let behind = received(self.ranks, me + 1)?;
                let own = of.iter().map(|name| format!("d{name}")).find(|name| gradients.contains_key(name));
                let own = own.and_then(|name| gradients.get_mut(&name));
                // The last rows are tokens of this rank, and those before them rows that it had itself.
                let left = own.map_or_else(|| rows_of(&behind), |own| add_last(own, &behind, rows_of(&behind)));
                given.iter_mut().for_each(|given| {
                    add_last(given, &behind, left);
                });
            }
            before.push(given.unwrap_or_else(|| ArrayD::zeros(IxDyn(&[0, 0]))));
        }
        Ok(before)
    }
}

fn rows_of(x: &ArrayD<f32>) -> usize {
    x.shape().get(1).copied().unwrap_or(0)
}

/// Adds the first `n` rows of `more` to the last rows of `to`, as many as it has, and returns how many are left.
fn add_last(to: &mut ArrayD<f32>, more: &ArrayD<f32>, n: usize) -> usize {
    let (rows, left) = (rows_of(to), n.saturating_sub(rows_of(to)));
    if n > left {
        let mut last = to.slice_axis_mut(Axis(1), (rows - (n - left)..).into());
        last += &more.slice_axis(Axis(1), (left..n).into());
    }
    left
}

fn owned((name, x): (&String, &ArrayD<f32>)) -> (String, ArrayD<f32>) {
    (name.clone(), x.clone())
}

/// The bytes of a tensor if it was given, else none.
fn given(inputs: &Tensors, name: &str, x: &ArrayD<f32>) -> Vec<u8> {
    inputs.get(name).map_or_else(Vec::new, |given| if given.shape() == x.shape() { bytes_of(given) } else { vec![0] })
}

fn without_state(inputs: &Tensors) -> Tensors {
    inputs.iter().filter(|(name, _)| !matches!(&***name, "state" | "do" | "dstate")).map(owned).collect()
}

/// A tensor with its shape.
fn shaped(x: &ArrayD<f32>) -> Vec<u8> {
    let mut bytes = (x.ndim() as u64).to_le_bytes().to_vec();
    x.shape().iter().for_each(|n| bytes.extend((*n as u64).to_le_bytes()));
    bytes.extend(bytes_of(x));
    bytes
}

fn received(ranks: &dyn Ranks, from: usize) -> Result<ArrayD<f32>, Error> {
    unshaped(&ranks.receive(from, Channel::State)?, from)
}

fn unshaped(bytes: &[u8], from: usize) -> Result<ArrayD<f32>, Error> {
    let wrong = || Error::Message { from, found: format!("{} bytes", bytes.len()), want: "a tensor".to_owned() };
    let mut rest = bytes;
    let mut next = || {
        let (n, more) = rest.split_first_chunk::<8>()?;
        rest = more;
        usize::try_from(u64::from_le_bytes(*n)).ok()
    };
    let axes = next().filter(|axes| *axes <= 8).ok_or_else(wrong)?;
    let shape = (0..axes).map(|_| next()).collect::<Option<Vec<usize>>>().ok_or_else(wrong)?;
    let n = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).ok_or_else(wrong)?;
    let numbers = numbers_of(rest, n, from)?;
    ArrayD::from_shape_vec(IxDyn(&shape), numbers).map_err(|_| wrong())
}
