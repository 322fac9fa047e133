//! Mechanisms whose state is a matrix, by one kernel: a recurrence of rules (`rule.rs`).
//!
//! $$ S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} + b_t (S_{t-1}^\top a_t)^\top + \beta_t k_t v_t^\top, \qquad o_t = s\,S_t^\top q_t + \delta_t v_t $$
//!
//! or with `S_{t-1}` in the output (`exclusive`); the delta rules have `a_t = e^{g_t} ⊙ k_t`, `b_t = −β_t k_t`. Shapes as
//! in [`longreach_attention::fast_weights`]. The gradient is three or four more recurrences (`backward.rs`): those of the
//! state's gradient run from the last token to the first, those of keys and queries have the state transposed.

use longreach_attention::Sequences;

use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::formula::{Access, Sizes, formula};
use crate::view::{View, Words};

mod backward;
mod call;
mod gate;
mod plan;
mod recurrence;
mod rule;
mod segments;

pub use backward::{Gradient, backward};
use call::{Recurrence, States};
use plan::GateAxis;
use rule::{Factor, Operation, Outer, Rule};
use segments::Cut;
pub(crate) use segments::bounds;

/// The logarithm of the factor by which the state decays.
#[derive(Clone, Copy, Debug)]
pub enum Gate<'a> {
    /// No decay.
    None,
    /// `[B, T, H]`, or `[H]` for gates that all tokens share
    Token(&'a View),
    /// `[B, T, H, K]`, or `[H, K]`
    Key(&'a View),
}

/// What is erased before a token is written.
#[derive(Clone, Copy, Debug)]
pub enum Erase<'a> {
    /// Nothing.
    None,
    /// What the token's key reads, by the strength `β`, `[B, T, H]`
    Own(&'a View),
    /// `b (Sᵀ a)ᵀ` is added, `[B, T, H, K]`
    General {
        /// `a`
        a: &'a View,
        /// `b`
        b: &'a View,
    },
}

/// Which keys a query reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// Those up to its own.
    #[default]
    Past,
    /// All of its sequence: attention that is not causal, without gate, erasure or bonus.
    All,
}

/// The inputs of a call, of any types; the kernels compute in f32.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The mechanism, for errors.
    pub op: &'static str,
    /// `[B, T, G, K]`
    pub q: &'a View,
    /// `[B, T, G, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// How the state decays.
    pub gate: Gate<'a>,
    /// What is erased.
    pub erase: Erase<'a>,
    /// `β`, with which a token is written, `[B, T, H]`; not with erasure
    pub strength: Option<&'a View>,
    /// `δ`, `[H]`; not with erasure
    pub skip: Option<&'a View>,
    /// `u`, `[H, K]`: the state is read before it is written, and `δ_t = s Σ_i u_i q_i k_i`
    pub bonus: Option<&'a View>,
    /// Which keys a query reads.
    pub reads: Reads,
    /// `s`
    pub scale: f32,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
struct Dims {
    b: usize,
    t: usize,
    g: usize,
    h: usize,
    k: usize,
    v: usize,
}

/// The inputs with one row a token.
struct Flat<'a> {
    x: &'a Inputs<'a>,
    device: &'a Device,
    dims: Dims,
    q: View,
    k: View,
    v: View,
    gate: Option<View>,
    axis: GateAxis,
    strength: Option<View>,
    /// `u`
    bonus: Option<View>,
    /// `δ`, `[H]` or `[tokens, H]`
    skip: Option<View>,
    /// `a` and `b`
    erase: Option<[View; 2]>,
    cut: Cut,
}

impl Inputs<'_> {
    /// The shape of the state. An error for tensors of other ranks than those of the inputs.
    pub fn state_shape(&self) -> Result<[usize; 4], Error> {
        let Dims { b, h, k, v, .. } = self.dims()?;
        Ok([self.sequences.count(b), h, k, v])
    }

    fn dims(&self) -> Result<Dims, Error> {
        let op = self.op;
        let (&[b, t, g, k], &[_, _, h, v]) = (self.q.shape(), self.v.shape()) else {
            return Err(Error::Shape { op, input: "q", want: vec![0; 4], found: self.q.shape().to_vec() });
        };
        shape(op, "k", &[b, t, g, k], self.k.shape())?;
        shape(op, "v", &[b, t, h, v], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(longreach_attention::Error::Groups { op, heads: h, groups: g }.into());
        }
        Ok(Dims { b, t, g, h, k, v })
    }

    /// Checks all shapes, and widens all inputs to f32.
    fn flat<'a>(&'a self, device: &'a Device) -> Result<Flat<'a>, Error> {
        let (op, dims) = (self.op, self.dims()?);
        let Dims { b, t, g, h, k, v } = dims;
        let tokens = b * t;
        // An input of all tokens, whose first two axes become one, or one that they share.
        let row = |name, x: &View, want: &[usize]| {
            shape(op, name, want, x.shape())?;
            widened(op, device, name, x)?.reshape(&[&[tokens], &want[2..]].concat())
        };
        let shared = |name, x: &View, want: &[usize]| {
            shape(op, name, want, x.shape())?;
            widened(op, device, name, x)
        };
        let (gate, axis) = match self.gate {
            Gate::None => (None, GateAxis::None),
            Gate::Token(x) if x.shape().len() == 1 => (Some(shared("g", x, &[h])?), GateAxis::Token),
            Gate::Token(x) => (Some(row("g", x, &[b, t, h])?), GateAxis::Token),
            Gate::Key(x) if x.shape().len() == 2 => (Some(shared("g", x, &[h, k])?), GateAxis::Inner),
            Gate::Key(x) => (Some(row("g", x, &[b, t, h, k])?), GateAxis::Inner),
        };
        let (strength, erase) = match self.erase {
            Erase::None => (self.strength.map(|x| row("beta", x, &[b, t, h])).transpose()?, None),
            Erase::Own(beta) => (Some(row("beta", beta, &[b, t, h])?), None),
            Erase::General { a, b: into } => {
                (None, Some([row("a", a, &[b, t, h, k])?, row("b", into, &[b, t, h, k])?]))
            }
        };
        let (of_q, of_k) = (row("q", self.q, &[b, t, g, k])?, row("k", self.k, &[b, t, g, k])?);
        let bonus = self.bonus.map(|u| shared("u", u, &[h, k])).transpose()?;
        let skip = match (&bonus, self.skip) {
            (Some(u), _) => {
                let keys = |n| Access::rows(n, g, k).as_terms().get();
                let of = keys(0) * keys(1) * Access::rows(2, h, k).shared().as_terms().get() * self.scale;
                let sizes = Sizes::new(tokens, h, 1).summed(k);
                Some(formula(op, device, &[&of_q, &of_k, u], &of, sizes, &[tokens, h])?)
            }
            (None, Some(skip)) => Some(shared("skip", skip, &[h])?),
            (None, None) => None,
        };
        let bounds = segments::bounds(op, self.sequences, b, t)?;
        let cut = Cut::of(device, &bounds, h * v.div_ceil(if v > 32 { 64 } else { 32 }));
        let cut = if matches!(self.erase, Erase::None) { cut } else { cut.whole(device) };
        Ok(Flat {
            x: self,
            device,
            dims,
            q: of_q,
            k: of_k,
            v: row("v", self.v, &[b, t, h, v])?,
            gate,
            axis,
            strength,
            bonus,
            skip,
            erase,
            cut,
        })
    }
}

impl Flat<'_> {
    fn tokens(&self) -> usize {
        self.dims.b * self.dims.t
    }

    /// The factor with which a token is written.
    fn written(&self) -> Factor {
        if self.strength.is_some() { Factor::Strength } else { Factor::One }
    }

    /// A recurrence with the state as `[K, V]`.
    fn recurrence<'a>(
        &'a self,
        inner: &'a [&'a View],
        outer: &'a [&'a View],
        rule: &[Operation],
        outs: usize,
    ) -> Recurrence<'a> {
        Recurrence {
            op: self.x.op,
            device: self.device,
            tokens: self.tokens(),
            sizes: [self.dims.h, self.dims.k, self.dims.v],
            inner,
            outer,
            gate: self.gate.as_ref(),
            axis: self.axis,
            strength: self.strength.as_ref(),
            skip: self.skip.as_ref(),
            scale: self.x.scale,
            reverse: false,
            swapped: false,
            rule: Rule::new(rule),
            outs,
        }
    }

    /// The same with the state as `[V, K]`.
    fn transposed<'a>(
        &'a self,
        inner: &'a [&'a View],
        outer: &'a [&'a View],
        rule: &[Operation],
        outs: usize,
    ) -> Recurrence<'a> {
        let axis = if self.axis == GateAxis::Inner { GateAxis::Outer } else { self.axis };
        let sizes = [self.dims.h, self.dims.v, self.dims.k];
        Recurrence { sizes, axis, swapped: true, ..self.recurrence(inner, outer, rule, outs) }
    }

    /// The state after all keys, where a token is only written.
    fn all_keys(&self, state: &View) -> Result<View, Error> {
        let (inner, outer) = ([&self.q, &self.k], [&self.v]);
        let write = [Operation::Write { by: 1, of: Outer::Input(0), times: Factor::One }];
        Ok(self.recurrence(&inner, &outer, &write, 0).states(&self.cut, state)?.1)
    }

    /// What all tokens read of the states of their sequences.
    fn of_all(&self, of: &Recurrence<'_>, states: &View) -> Result<Vec<View>, Error> {
        Ok(of.over(&self.cut.sequences, self.cut.count(), of.rule, States::Of(states), false)?.0)
    }

    /// The operations of the forward pass; inner vectors are `q k` or `q k a b`, the outer one is `v`.
    fn rule(&self) -> Vec<Operation> {
        let read = |by, out, times| Operation::Read { by, out, times };
        let output = match self.skip {
            Some(_) => Operation::ReadAndSkip { by: 0, out: 0 },
            None => read(0, Some(0), Factor::Scale),
        };
        let write = |by, of, times| Operation::Write { by, of, times };
        let value = write(1, Outer::Input(0), self.written());
        match self.x.erase {
            Erase::None if self.x.bonus.is_some() => vec![output, Operation::Decay, value],
            Erase::None => vec![Operation::Decay, value, output],
            Erase::Own(_) => vec![
                Operation::Decay,
                read(1, None, Factor::One),
                Operation::Miss { out: None },
                write(1, Outer::Found, Factor::Strength),
                output,
            ],
            Erase::General { .. } => {
                vec![read(2, None, Factor::One), Operation::Decay, write(3, Outer::Found, Factor::One), value, output]
            }
        }
    }
}

/// A mechanism of this kernel.
pub trait MatrixState {
    /// Its inputs as those of the kernel.
    fn kernel(&self) -> Inputs<'_>;
}

impl MatrixState for Inputs<'_> {
    fn kernel(&self) -> Inputs<'_> {
        *self
    }
}

/// Returns the outputs, `[B, T, H, V]` in the type of `v`, and the states after the last tokens, in f32. Errors on shapes
/// that disagree, and on states of more rows than a cube can hold.
pub fn forward(device: &Device, x: &impl MatrixState, state: &View) -> Result<(View, View), Error> {
    let x = x.kernel();
    shape(x.op, "state", &x.state_shape()?, state.shape())?;
    let flat = x.flat(device)?;
    let mut inner = vec![&flat.q, &flat.k];
    inner.extend(flat.erase.iter().flatten());
    let outer = [&flat.v];
    let (outs, last) = match x.reads {
        Reads::Past => {
            let run = flat.recurrence(&inner, &outer, &flat.rule(), 1).run(&flat.cut, state)?;
            (run.outs, run.last)
        }
        Reads::All => {
            let last = flat.all_keys(state)?;
            let read = [Operation::Read { by: 0, out: Some(0), times: Factor::Scale }];
            (flat.of_all(&flat.recurrence(&inner, &outer, &read, 1), &last)?, last)
        }
    };
    let out = narrowed_to(x.op, device, &outs[0].reshape(x.v.shape())?, x.v.dtype())?;
    Ok((out, last))
}

/// The outputs of few tokens of each sequence, `q: [B, T, G, K]`, as in decoding. The states `[slots, H, K, V]` of the
/// sequences' slots are updated in place; a sequence whose slot is [`u32::MAX`] starts from zero and leaves no state.
/// Errors as [`forward`], on slots that are not there, and on two sequences with one slot.
pub fn step(device: &Device, x: &impl MatrixState, states: &View, slots: &[u32]) -> Result<View, Error> {
    let x = x.kernel();
    let [sequences, h, k, v] = x.state_shape()?;
    let count = states.shape().first().copied().unwrap_or(0);
    shape(x.op, "states", &[count, h, k, v], states.shape())?;
    let mut used: Vec<u32> = slots.iter().copied().filter(|slot| *slot != u32::MAX).collect();
    used.sort_unstable();
    let apart = used.windows(2).all(|pair| pair[0] != pair[1]);
    if slots.len() != sequences || !apart || used.last().is_some_and(|slot| *slot as usize >= count) {
        let want = format!("{sequences} different slots below {count}, or {} for none", u32::MAX);
        return Err(Error::Parameter { op: x.op, parameter: "slots", want, found: format!("{slots:?}") });
    }
    let flat = x.flat(device)?;
    let mut inner = vec![&flat.q, &flat.k];
    inner.extend(flat.erase.iter().flatten());
    let outer = [&flat.v];
    let (of, slots) = (flat.recurrence(&inner, &outer, &flat.rule(), 1), Words::upload(device, slots));
    let (outs, _) = of.over(&flat.cut.sequences, sequences, of.rule, States::Slots(states, &slots), true)?;
    narrowed_to(x.op, device, &outs[0].reshape(x.v.shape())?, x.v.dtype())
}
