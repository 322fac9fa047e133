//! The kernel of the mechanisms whose state is a matrix with a gate per key channel or with an erasure: token by
//! token, forward and backward.
//!
//! $$ S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} + b_t (S_{t-1}^\top a_t)^\top + k_t v_t^\top, \qquad o_t = s\,S_t^\top q_t $$
//!
//! or, with a bonus `u`, `o_t = s (S_{t-1} + Diag(u) k_t v_tᵀ)ᵀ q_t`, where the state is read before it is written.
//! The delta rules have `a_t = e^{g_t} ⊙ k_t`, `b_t = −β_t k_t` and write `β_t v_t`, which is one write of
//! `δ_t = β_t (v_t − S_{t-1}ᵀ a_t)`.
//!
//! `q k: [B, T, G, K]`, head `h` reads group `h / (H / G)` · `v o: [B, T, H, V]` · `g: [B, T, H]` or `[B, T, H, K]` ·
//! `β: [B, T, H]` · `a b: [B, T, H, K]` · `u: [H, K]` · state `[S, H, K, V]` · O(T H K V) time, two to four operations
//! per cell and token.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use longreach_simd::cache::PrefetchQueue;
use longreach_simd::{Cx, Kernel, Lanes, math};

use crate::Error;
use crate::sequences::{Ranges, Rows, contiguous};

mod backward;
mod decay;
mod forward;
mod inputs;
mod member;
mod pass;
mod step;
mod token;

pub(crate) use backward::{gradient, gradient_times};
use forward::forward;
pub(crate) use inputs::{Dims, outer};
pub use inputs::{Erase, Gate, Gradient, Inputs};
pub use member::{MatrixState, backward, recurrent, step, step_into};
use step::one_token_into;

/// The number of gates that a task checks at a time.
const GATES_PER_TASK: usize = 32 * 1024;

/// Whether any of these gates is above 0.
struct AnyPositive<'a>(&'a [f32]);

impl Kernel for AnyPositive<'_> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> bool {
        decay::any_positive(s, self.0)
    }
}

/// The inputs as one row per token.
struct Tokens<'a> {
    dims: Dims,
    ranges: Ranges<'a>,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    /// `[H]` or `[H K]` per token.
    g: Option<Rows<'a>>,
    by_key: bool,
    /// Whether keys are `1 − e^g` instead of `k`.
    tied_keys: bool,
    beta: Option<Rows<'a>>,
    erase: Option<[Rows<'a>; 2]>,
    /// Whether the second of `erase` is the rate of RWKV-7 rather than `b`.
    rate: bool,
    /// `[H K]`
    bonus: Option<Cow<'a, [f32]>>,
    scale: f32,
    /// Whether the gates were validated on entry.
    gates_checked: bool,
    /// Set when a gate above 0 is found during the pass: many gates are validated as they are used.
    positive_gate: AtomicBool,
}

impl<'a> Tokens<'a> {
    fn of(x: &'a Inputs<'_>, state: &[usize], cx: &Cx) -> Result<Self, Error> {
        let op = x.op;
        let dims = x.shapes(state)?;
        let g = match &x.gate {
            Gate::None => None,
            Gate::Token(g) => Some(Rows::of(op, "g", g)?),
            Gate::Key(g) | Gate::TiedKeys(g) => Some(Rows::of(op, "g", g)?),
        };
        let (positive_gate, by_key) = (AtomicBool::new(false), matches!(x.gate, Gate::Key(_) | Gate::TiedKeys(_)));
        // Gates are validated on entry if they are few: one per head, or fewer tokens than a state has columns.
        let gates_checked = g.is_none() || !by_key || dims.t <= dims.v;
        if let Some(g) = g.as_ref().filter(|_| gates_checked) {
            let (tokens, width) = (dims.b * dims.t, if by_key { dims.h * dims.k } else { dims.h });
            let (at_a_time, parts) = ((GATES_PER_TASK / width.max(1)).max(1), width.div_ceil(GATES_PER_TASK));
            cx.team.run(tokens.div_ceil(at_a_time) * parts, |i| {
                let (first, column) = (i / parts * at_a_time, i % parts * GATES_PER_TASK);
                let columns = column..(column + GATES_PER_TASK).min(width);
                for t in first..(first + at_a_time).min(tokens) {
                    positive_gate.fetch_or(cx.isa.run(AnyPositive(&g.get(t)[columns.clone()])), Ordering::Relaxed);
                }
            });
        }
        if positive_gate.into_inner() {
            x.check(state)?;
        }
        let (mut beta, mut erase) = (None, None);
        match &x.erase {
            Erase::None => {}
            Erase::Own(of) => beta = Some(Rows::of(op, "beta", of)?),
            Erase::General { a, b } => erase = Some([Rows::of(op, "a", a)?, Rows::of(op, "b", b)?]),
            Erase::Rate { kappa, a } => erase = Some([Rows::of(op, "kappa", kappa)?, Rows::of(op, "a", a)?]),
        }
        Ok(Self {
            dims,
            ranges: x.sequences.cut(op, dims.b, dims.t)?,
            q: Rows::of(op, "q", &x.q)?,
            k: Rows::of(op, "k", &x.k)?,
            v: Rows::of(op, "v", &x.v)?,
            g,
            by_key,
            tied_keys: matches!(x.gate, Gate::TiedKeys(_)),
            beta,
            erase,
            rate: matches!(x.erase, Erase::Rate { .. }),
            bonus: x.bonus.as_ref().map(contiguous),
            scale: x.scale,
            gates_checked,
            positive_gate: AtomicBool::new(false),
        })
    }

    /// The logarithms of the gates of a token and head; empty without a gate.
    #[inline(always)]
    fn gates(&self, t: usize, h: usize) -> &'a [f32] {
        let width = self.gate_width();
        self.g.as_ref().map_or(&[], |g| &g.get(t)[h * width..(h + 1) * width])
    }

    #[inline(always)]
    fn erases(&self) -> bool {
        self.beta.is_some() || self.erase.is_some()
    }

    #[inline(always)]
    fn group(&self, h: usize) -> usize {
        h * self.dims.g / self.dims.h
    }

    #[inline(always)]
    fn q(&self, t: usize, h: usize) -> &'a [f32] {
        let at = self.group(h) * self.dims.k;
        &self.q.get(t)[at..at + self.dims.k]
    }

    #[inline(always)]
    fn k(&self, t: usize, h: usize) -> &'a [f32] {
        let at = self.group(h) * self.dims.k;
        &self.k.get(t)[at..at + self.dims.k]
    }

    #[inline(always)]
    fn v(&self, t: usize, h: usize) -> &'a [f32] {
        self.of_value(&self.v, t, h)
    }

    /// The columns of head `h` in a row that is as wide as the values.
    #[inline(always)]
    fn of_value(&self, rows: &Rows<'a>, t: usize, h: usize) -> &'a [f32] {
        &rows.get(t)[h * self.dims.v..(h + 1) * self.dims.v]
    }

    /// Writes `by ⊙ k_t` to `out`, where `by` is as in [`decay::scale`].
    #[inline(always)]
    fn key<S: Lanes>(&self, s: S, t: usize, h: usize, by: &[f32], out: &mut [f32]) {
        let Some(g) = self.g.as_ref().filter(|_| self.tied_keys) else {
            return decay::scale_into(s, by, self.k(t, h), out);
        };
        let g = &g.get(t)[h * out.len()..(h + 1) * out.len()];
        for at in (0..out.len()).step_by(S::LANES) {
            s.store_part(&mut out[at..], s.sub(s.splat(0.0), math::exp_m1(s, s.load_part(&g[at..]))));
        }
        decay::scale(s, by, out);
    }

    /// Writes `b_t` to `out`; the delta rules have none.
    #[inline(always)]
    fn b<S: Lanes>(&self, s: S, t: usize, h: usize, out: &mut [f32]) {
        let Some([a, b]) = &self.erase else { return };
        let of_head = h * out.len()..(h + 1) * out.len();
        let (a, b) = (&a.get(t)[of_head.clone()], &b.get(t)[of_head]);
        if !self.rate {
            return math::copy(s, b, out);
        }
        for at in (0..out.len()).step_by(S::LANES) {
            s.store_part(&mut out[at..], s.sub(s.splat(0.0), s.mul(s.load_part(&a[at..]), s.load_part(&b[at..]))));
        }
    }

    #[inline(always)]
    fn beta(&self, t: usize, h: usize) -> f32 {
        self.beta.as_ref().map_or(1.0, |beta| beta.get(t)[h])
    }

    /// Writes the factors `e^{g_t}` to `out`: one number, or one per key channel. Without a gate, `out` is left as it
    /// is.
    #[inline(always)]
    fn gate_factors<S: Lanes>(&self, s: S, t: usize, h: usize, out: &mut [f32]) {
        let Some(g) = &self.g else { return };
        let g = &g.get(t)[h * out.len()..(h + 1) * out.len()];
        let whole = math::whole::<S>(out.len());
        for at in (0..whole).step_by(S::LANES) {
            s.store(&mut out[at..], math::exp(s, s.load(&g[at..])));
        }
        if whole < out.len() {
            s.store_part(&mut out[whole..], math::exp(s, s.load_part(&g[whole..])));
        }
    }

    /// Writes `a_t` to `out`.
    #[inline(always)]
    fn a<S: Lanes>(&self, s: S, t: usize, h: usize, out: &mut [f32]) {
        if self.erase.is_some() || !self.by_key {
            let mut factors = [1.0];
            self.gate_factors(s, t, h, &mut factors);
            return self.a_with(s, t, h, &factors, out);
        }
        self.gate_factors(s, t, h, out);
        decay::scale(s, self.k(t, h), out);
    }

    /// As [`Tokens::a`], given the factors of the gate. For the delta rules these may include a further decay,
    /// by which `a_t` is then multiplied.
    #[inline(always)]
    fn a_with<S: Lanes>(&self, s: S, t: usize, h: usize, factors: &[f32], out: &mut [f32]) {
        match &self.erase {
            Some([a, _]) => math::copy(s, &a.get(t)[h * out.len()..(h + 1) * out.len()], out),
            None => decay::scale_into(s, factors, self.k(t, h), out),
        }
    }

    /// Queues the rows of token `t` for prefetching, if there is such a token.
    #[inline(always)]
    fn queue_rows(&self, t: usize, h: usize, queries: bool, queue: &mut PrefetchQueue) {
        if t >= self.dims.b * self.dims.t {
            return;
        }
        if queries {
            queue.add(self.q(t, h));
        }
        if !self.tied_keys {
            queue.add(self.k(t, h));
        }
        queue.add(self.v(t, h));
        let of_keys = h * self.dims.k..(h + 1) * self.dims.k;
        if let Some(g) = self.g.as_ref().filter(|_| self.by_key) {
            queue.add(&g.get(t)[of_keys.clone()]);
        }
        if let Some([a, b]) = &self.erase {
            queue.add(&a.get(t)[of_keys.clone()]);
            queue.add(&b.get(t)[of_keys]);
        }
    }

    /// The number of factors that the gate has per token and head.
    fn gate_width(&self) -> usize {
        match self.g {
            None => 0,
            Some(_) if self.by_key => self.dims.k,
            Some(_) => 1,
        }
    }
}
