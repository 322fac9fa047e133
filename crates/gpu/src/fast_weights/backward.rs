//! The gradient. With `P` the gradient of the state, `f = Pᵀ b` and `e = Sᵀ a`:
//!
//! $$ P_{t-1} = \mathrm{Diag}(e^{g_t}) P_t + a_t f_t^\top + s\,q_{t-1} do_{t-1}^\top $$
//! $$ dq_t = s\,S_t do_t, \quad dk_t = P_t v_t, \quad dv_t = P_t^\top k_t, \quad da_t = S_{t-1} f_t, \quad db_t = P_t e_t $$
//!
//! so each is a sum that a recurrence reads: `S` runs forwards, `P` backwards, and sums over `V` have the state
//! transposed. The delta rules erase from the decayed state, by `−β k`.

use super::call::{Recurrence, Run, States};
use super::gate::gate;
use super::{Erase, Factor, Flat, Gate, MatrixState, Operation, Outer, Reads};
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::formula::{Access, Sizes, formula, sum_of_tokens};
use crate::view::View;

/// Gradients to the inputs, `None` for inputs that a call does not have.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: View,
    /// `[B, T, G, K]`
    pub k: View,
    /// `[B, T, H, V]`
    pub v: View,
    /// Of the shape of the gate
    pub g: Option<View>,
    /// To the strength, `[B, T, H]`
    pub beta: Option<View>,
    /// `[B, T, H, K]`
    pub a: Option<View>,
    /// `[B, T, H, K]`
    pub b: Option<View>,
    /// To the bonus, `[H, K]`
    pub u: Option<View>,
    /// `[H]`
    pub skip: Option<View>,
    /// To the state before the first token
    pub state: View,
}

/// Gradients of each head, before heads of a group are summed.
pub(super) struct Heads {
    /// `[tokens, H, K]`
    pub(super) q: View,
    pub(super) k: View,
    /// `[tokens, H, V]`
    pub(super) v: View,
    pub(super) a: Option<View>,
    pub(super) b: Option<View>,
    pub(super) beta: Option<View>,
    /// What the delta rule's key loses by the erasure: `dk = k − erased`
    pub(super) erased: Option<View>,
    /// The states after segments, and the gradients there; `[P, H, K, V]`
    pub(super) ends: [View; 2],
    pub(super) state: View,
}

/// Returns the gradients, each in the type of its input, given those to the output, `[B, T, H, V]`, and to the states
/// after the last tokens. `state` is that before the first token. Errors as [`forward`](super::forward).
pub fn backward(
    device: &Device,
    x: &impl MatrixState,
    state: &View,
    d_o: &View,
    d_state: &View,
) -> Result<Gradient, Error> {
    let x = x.kernel();
    shape(x.op, "state", &x.state_shape()?, state.shape())?;
    let flat = x.flat(device)?;
    shape(x.op, "do", x.v.shape(), d_o.shape())?;
    shape(x.op, "dstate", state.shape(), d_state.shape())?;
    let d_o = widened(x.op, device, "do", d_o)?.reshape(flat.v.shape())?;
    let mut heads = match x.erase {
        Erase::None if x.reads == Reads::All => flat.all(state, &d_o, d_state)?,
        Erase::None => flat.plain(state, &d_o, d_state)?,
        Erase::Own(_) => flat.own(state, &d_o, d_state)?,
        Erase::General { .. } => flat.general(state, &d_o, d_state)?,
    };
    let g = flat.gate.as_ref().map(|g| gate(&flat, &heads, g)).transpose()?;
    if let Some(erased) = &heads.erased {
        let rows = |n| Access::rows(n, flat.dims.h, flat.dims.k).get();
        heads.k = flat.formula(&[&heads.k, erased], &(rows(0) - rows(1)), flat.dims.k)?;
    }
    let (skip, u) = flat.through_skip(&mut heads, &d_o)?;
    // As an input, in shape and type.
    let like = |d: &View, of: &View| narrowed_to(x.op, device, &d.reshape(of.shape())?, of.dtype());
    let maybe = |d: Option<View>, of: Option<&View>| d.zip(of).map(|(d, of)| like(&d, of)).transpose();
    let of_gate = match x.gate {
        Gate::None => None,
        Gate::Token(of) | Gate::Key(of) => Some(of),
    };
    let (beta, [a, b]) = match x.erase {
        Erase::None => (x.strength, [None; 2]),
        Erase::Own(beta) => (Some(beta), [None; 2]),
        Erase::General { a, b } => (None, [Some(a), Some(b)]),
    };
    Ok(Gradient {
        q: like(&flat.of_groups(&heads.q)?, x.q)?,
        k: like(&flat.of_groups(&heads.k)?, x.k)?,
        v: like(&heads.v, x.v)?,
        g: maybe(g, of_gate)?,
        beta: maybe(heads.beta, beta)?,
        a: maybe(heads.a, a)?,
        b: maybe(heads.b, b)?,
        u: maybe(u, x.bonus)?,
        skip: maybe(skip, x.skip)?,
        state: heads.state,
    })
}

fn read(by: usize, out: usize, times: Factor) -> Operation {
    Operation::Read { by, out: Some(out), times }
}

fn write(by: usize, of: Outer, times: Factor) -> Operation {
    Operation::Write { by, of, times }
}

/// The outputs of a recurrence, of which there are as many as were asked for.
fn outs<const N: usize>(outs: Vec<View>) -> [View; N] {
    outs.try_into().unwrap_or_else(|outs: Vec<View>| std::array::from_fn(|n| outs[n.min(outs.len() - 1)].clone()))
}

impl Flat<'_> {
    /// Without erasure.
    fn plain(&self, state: &View, d_o: &View, d_state: &View) -> Result<Heads, Error> {
        let (q, k, v) = (&self.q, &self.k, &self.v);
        let exclusive = self.x.bonus.is_some();
        let input = Outer::Input(0);
        let order = |write, read, decay_first| match (exclusive, decay_first) {
            (true, _) => [read, Operation::Decay, write],
            (false, true) => [Operation::Decay, write, read],
            (false, false) => [write, read, Operation::Decay],
        };
        let (inner, outer) = ([q, k], [v]);
        let (starts, _) = match self.cut.is_cut() {
            true => self.recurrence(&inner, &outer, &self.rule(), 1).states(&self.cut, state)?,
            false => (state.clone(), state.clone()),
        };
        let (inner, outer) = ([q, k], [d_o]);
        let rule = order(write(0, input, Factor::Scale), read(1, 0, Factor::One), false);
        let of_values = Recurrence { reverse: true, ..self.recurrence(&inner, &outer, &rule, 1) };
        let Run { outs: dv, starts: d_ends, last: d_first } = of_values.run(&self.cut, d_state)?;
        let [dv] = outs(dv);

        let (segments, count) = (&self.cut.segments, self.cut.segment_count());
        let (inner, outer) = ([v, d_o], [k]);
        let rule = order(write(0, input, self.written()), read(1, 0, Factor::Scale), true);
        let of_queries = self.transposed(&inner, &outer, &rule, 1);
        let (dq, ends) = of_queries.over(segments, count, of_queries.rule, States::Of(&starts), self.gate.is_some())?;
        let outer = [q];
        let rule = order(write(1, input, Factor::Scale), read(0, 0, self.written()), false);
        let of_keys = Recurrence { reverse: true, ..self.transposed(&inner, &outer, &rule, 1) };
        let (dk, _) = of_keys.over(segments, count, of_keys.rule, States::Of(&d_ends), false)?;

        let (mut dv, mut beta) = (dv, None);
        if let Some(strength) = &self.strength {
            let rows = |n| Access::rows(n, self.dims.h, self.dims.v);
            beta = Some(self.sums(&[v, &dv], &(rows(0).as_terms().get() * rows(1).as_terms().get()), self.dims.v)?);
            let of = rows(0).get() * Access::heads(1, self.dims.h).get();
            dv = self.formula(&[&dv, strength], &of, self.dims.v)?;
        }
        let ([q], [k]) = (outs(dq), outs(dk));
        let ends = [ends.unwrap_or(starts), d_ends];
        Ok(Heads { q, k, v: dv, a: None, b: None, beta, erased: None, ends, state: d_first })
    }

    /// Where a query reads all keys.
    fn all(&self, state: &View, d_o: &View, d_state: &View) -> Result<Heads, Error> {
        let (q, k, v) = (&self.q, &self.k, &self.v);
        let end = self.all_keys(state)?;
        let (inner, outer) = ([q, k], [d_o]);
        let rule = [write(0, Outer::Input(0), Factor::Scale)];
        let written = Recurrence { reverse: true, ..self.recurrence(&inner, &outer, &rule, 0) };
        let (_, d_first) = written.states(&self.cut, d_state)?;
        let [dv] = outs(self.of_all(&self.recurrence(&inner, &outer, &[read(1, 0, Factor::One)], 1), &d_first)?);
        let (inner, outer) = ([v, d_o], [k]);
        let [dk] = outs(self.of_all(&self.transposed(&inner, &outer, &[read(0, 0, Factor::One)], 1), &d_first)?);
        let [dq] = outs(self.of_all(&self.transposed(&inner, &outer, &[read(1, 0, Factor::Scale)], 1), &end)?);
        let ends = [end, d_first.clone()];
        Ok(Heads { q: dq, k: dk, v: dv, a: None, b: None, beta: None, erased: None, ends, state: d_first })
    }

    /// With what the token's own key reads erased.
    fn own(&self, state: &View, d_o: &View, d_state: &View) -> Result<Heads, Error> {
        let (q, k, v, cut) = (&self.q, &self.k, &self.v, &self.cut);
        // u = v − S'ᵀ k, which is written with the strength β.
        let (inner, outer) = ([k], [v]);
        let rule = [
            Operation::Decay,
            Operation::Read { by: 0, out: None, times: Factor::One },
            Operation::Miss { out: Some(0) },
            write(0, Outer::Found, Factor::Strength),
        ];
        let [u] = outs(self.recurrence(&inner, &outer, &rule, 1).run(cut, state)?.outs);
        // d: the gradient to what is written, β u.
        let (inner, outer) = ([q, k], [d_o]);
        let rule = [
            write(0, Outer::Input(0), Factor::Scale),
            read(1, 0, Factor::One),
            write(1, Outer::Found, Factor::MinusStrength),
            Operation::Decay,
        ];
        let run = Recurrence { reverse: true, ..self.recurrence(&inner, &outer, &rule, 1) }.run(cut, d_state)?;
        let (d_first, [d]) = (run.last, outs(run.outs));

        let (inner, outer) = ([&d, &u, d_o], [k]);
        let rule = [
            Operation::Decay,
            read(0, 0, Factor::Strength),
            write(1, Outer::Input(0), Factor::Strength),
            read(2, 1, Factor::Scale),
        ];
        let run = self.transposed(&inner, &outer, &rule, 2).run(cut, state)?;
        let (end, [erased, dq]) = (run.last, outs(run.outs));
        let outer = [q, k];
        let rule = [
            write(2, Outer::Input(0), Factor::Scale),
            read(1, 0, Factor::Strength),
            write(0, Outer::Input(1), Factor::MinusStrength),
            Operation::Decay,
        ];
        let run = Recurrence { reverse: true, ..self.transposed(&inner, &outer, &rule, 1) }.run(cut, d_state)?;
        let [dk] = outs(run.outs);

        let rows = |n| Access::rows(n, self.dims.h, self.dims.v);
        let beta = self.sums(&[&u, &d], &(rows(0).as_terms().get() * rows(1).as_terms().get()), self.dims.v)?;
        let strength = self.strength.as_ref().unwrap_or(&beta);
        let dv = self.formula(&[&d, strength], &(rows(0).get() * Access::heads(1, self.dims.h).get()), self.dims.v)?;
        let ends = [end, d_state.clone()];
        let (beta, erased) = (Some(beta), Some(erased));
        Ok(Heads { q: dq, k: dk, v: dv, a: None, b: None, beta, erased, ends, state: d_first })
    }

    /// With any `a` and `b`.
    fn general(&self, state: &View, d_o: &View, d_state: &View) -> Result<Heads, Error> {
        let (q, k, v, cut) = (&self.q, &self.k, &self.v, &self.cut);
        let [a, b] = self.erase.as_ref().map_or([k, k], |[a, b]| [a, b]);
        let found = |by| write(by, Outer::Found, Factor::One);
        let input = |by, n| write(by, Outer::Input(n), Factor::One);
        let (inner, outer) = ([a, b, k], [v]);
        let rule = [read(0, 0, Factor::One), Operation::Decay, found(1), input(2, 0)];
        let [e] = outs(self.recurrence(&inner, &outer, &rule, 1).run(cut, state)?.outs);
        let (inner, outer) = ([q, k, b, a], [d_o]);
        let rule = [
            write(0, Outer::Input(0), Factor::Scale),
            read(1, 0, Factor::One),
            read(2, 1, Factor::One),
            Operation::Decay,
            found(3),
        ];
        let run = Recurrence { reverse: true, ..self.recurrence(&inner, &outer, &rule, 2) }.run(cut, d_state)?;
        let (d_first, [dv, f]) = (run.last, outs(run.outs));

        let (inner, outer) = ([&f, &e, v, d_o], [b, k]);
        let rule = [read(0, 0, Factor::One), Operation::Decay, input(1, 0), input(2, 1), read(3, 1, Factor::Scale)];
        let run = self.transposed(&inner, &outer, &rule, 2).run(cut, state)?;
        let (end, [da, dq]) = (run.last, outs(run.outs));
        let outer = [q, a];
        let rule = [
            write(3, Outer::Input(0), Factor::Scale),
            read(2, 0, Factor::One),
            read(1, 1, Factor::One),
            Operation::Decay,
            input(0, 1),
        ];
        let run = Recurrence { reverse: true, ..self.transposed(&inner, &outer, &rule, 2) }.run(cut, d_state)?;
        let [dk, db] = outs(run.outs);
        let ends = [end, d_state.clone()];
        let (a, b) = (Some(da), Some(db));
        Ok(Heads { q: dq, k: dk, v: dv, a, b, beta: None, erased: None, ends, state: d_first })
    }

    /// The gradients through the skip or the bonus: `dδ_t = ⟨v, do⟩`.
    fn through_skip(&self, heads: &mut Heads, d_o: &View) -> Result<(Option<View>, Option<View>), Error> {
        let Some(skip) = &self.skip else { return Ok((None, None)) };
        let (h, k, v, g) = (self.dims.h, self.dims.k, self.dims.v, self.dims.g);
        let values = |n| Access::rows(n, h, v);
        let of_skip = self.sums(&[&self.v, d_o], &(values(0).as_terms().get() * values(1).as_terms().get()), v)?;
        let by = if self.bonus.is_some() { Access::heads(2, h) } else { Access::heads(2, h).shared() };
        heads.v = self.formula(&[&heads.v, d_o, skip], &(values(0).get() + values(1).get() * by.get()), v)?;
        let Some(u) = &self.bonus else {
            return Ok((Some(sum_of_tokens(self.x.op, self.device, &of_skip, self.tokens(), h, &[h])?), None));
        };
        let (keys, shared) = (Access::rows(0, h, k), Access::rows(3, h, k).shared());
        let through = |other: &View, d: &View| {
            let of = keys.get() + Access::rows(1, g, k).get() * Access::heads(2, h).get() * shared.get() * self.x.scale;
            self.formula(&[d, other, &of_skip, u], &of, k)
        };
        (heads.q, heads.k) = (through(&self.k, &heads.q)?, through(&self.q, &heads.k)?);
        let of = Access::rows(0, g, k).get() * Access::rows(1, g, k).get() * Access::heads(2, h).get() * self.x.scale;
        let of_bonus = self.formula(&[&self.q, &self.k, &of_skip], &of, k)?;
        Ok((None, Some(sum_of_tokens(self.x.op, self.device, &of_bonus, self.tokens(), h * k, &[h, k])?)))
    }

    /// The sums over the heads of each group.
    fn of_groups(&self, x: &View) -> Result<View, Error> {
        let (h, k, g) = (self.dims.h, self.dims.k, self.dims.g);
        if g == h {
            return Ok(x.clone());
        }
        let each = h / g;
        let of = Access { token: h * k, heads: g, head: each * k, term: k, ..Access::rows(0, g, k) };
        let sizes = Sizes::new(self.tokens(), g, k).summed(each);
        formula(self.x.op, self.device, &[x], &of.get(), sizes, &[self.tokens(), g, k])
    }

    /// A formula of tokens, heads and `width` channels.
    pub(super) fn formula(&self, inputs: &[&View], of: &crate::formula::Formula, width: usize) -> Result<View, Error> {
        let (tokens, h) = (self.tokens(), self.dims.h);
        formula(self.x.op, self.device, inputs, of, Sizes::new(tokens, h, width), &[tokens, h, width])
    }

    /// A formula of tokens and heads, summed over `terms`.
    pub(super) fn sums(&self, inputs: &[&View], of: &crate::formula::Formula, terms: usize) -> Result<View, Error> {
        let (tokens, h) = (self.tokens(), self.dims.h);
        formula(self.x.op, self.device, inputs, of, Sizes::new(tokens, h, 1).summed(terms), &[tokens, h])
    }
}
