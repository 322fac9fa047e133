//! The kernel of all mechanisms whose state is a matrix with a gate a key channel or with a rule that erases: token by token, forwards and
//! backwards.
//!
//! $$ S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} + b_t (S_{t-1}^\top a_t)^\top + k_t v_t^\top, \qquad o_t = s\,S_t^\top q_t $$
//!
//! or, with a bonus `u`, read before it is written: `o_t = s (S_{t-1} + Diag(u) k_t v_tᵀ)ᵀ q_t`. The delta rules erase by their own key:
//! `a_t = e^{g_t} ⊙ k_t`, `b_t = −β_t k_t`, and write `β_t v_t`; that is one write, of `δ_t = β_t (v_t − S_{t-1}ᵀ a_t)`.
//!
//! `q k: [B, T, G, K]`, head `h` reads group `h / (H / G)` · `v o: [B, T, H, V]` · `g: [B, T, H]` or `[B, T, H, K]` · `β: [B, T, H]` ·
//! `a b: [B, T, H, K]` · `u: [H, K]` · state `[S, H, K, V]` · O(T H K V) time, two to four operations a cell and token.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};

use longreach_simd::cache::PrefetchQueue;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array2, Array3, Array4, ArrayView1, ArrayView2, ArrayView3, ArrayView4};

use crate::sequences::{Ranges, Rows, contiguous};
use crate::{Error, Sequences, error};

mod backward;
mod decay;
mod forward;
mod pass;
mod step;

pub(crate) use backward::{backward, backward_times};
pub(crate) use forward::forward;
pub(crate) use step::step;

/// What is left of the state at each token, as a logarithm.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gate<'a, F = f32> {
    /// All of it.
    None,
    /// `[B, T, H]`
    Token(ArrayView3<'a, F>),
    /// `[B, T, H, K]`
    Key(ArrayView4<'a, F>),
    /// The same, and keys are what it lets go, `1 − e^g`: those that are given are not read.
    LetIn(ArrayView4<'a, F>),
}

/// What is erased before a token is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Erase<'a, F = f32> {
    /// Nothing.
    None,
    /// What its own key reads, as far as `β` says, which also scales what is written.
    Own(ArrayView3<'a, F>),
    /// What `a` reads goes where `b` writes.
    General { a: ArrayView4<'a, F>, b: ArrayView4<'a, F> },
    /// What `κ̂` reads goes where `−κ̂ ⊙ a` writes: as general, with the gradients to `κ̂` and to what writes.
    Rate { kappa: ArrayView4<'a, F>, a: ArrayView4<'a, F> },
}

/// A call; `F` is f32, or f64 for the definitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a, F = f32> {
    /// The mechanism, for errors.
    pub(crate) op: &'static str,
    pub(crate) q: ArrayView4<'a, F>,
    pub(crate) k: ArrayView4<'a, F>,
    pub(crate) v: ArrayView4<'a, F>,
    pub(crate) gate: Gate<'a, F>,
    pub(crate) erase: Erase<'a, F>,
    /// `u`: the state is read before it is written. Not with anything erased.
    pub(crate) bonus: Option<ArrayView2<'a, F>>,
    pub(crate) scale: F,
    pub(crate) sequences: Sequences<'a>,
}

impl<F> Inputs<'_, F> {
    /// The shape of the state.
    pub(crate) fn state_shape(&self) -> [usize; 4] {
        let ((b, _, _, k), (_, _, h, v)) = (self.q.dim(), self.v.dim());
        [self.sequences.count(b), h, k, v]
    }
}

impl<F: Copy + Into<f64> + PartialOrd + Default + Debug> Inputs<'_, F> {
    /// Checks all shapes, and that no gate is above 0: its exponential is what is left.
    pub(crate) fn check(&self, state: &[usize]) -> Result<Dims, Error> {
        let dims = self.shapes(state)?;
        let above = match &self.gate {
            Gate::None => None,
            Gate::Token(gate) => gate.iter().find(|g| **g > F::default()),
            Gate::Key(gate) | Gate::LetIn(gate) => gate.iter().find(|g| **g > F::default()),
        };
        error::none(self.op, "g", above, "the logarithm of a factor of at most 1: 0 or less")?;
        Ok(dims)
    }

    fn shapes(&self, state: &[usize]) -> Result<Dims, Error> {
        let op = self.op;
        let ((b, t, g, k), (_, _, h, v)) = (self.q.dim(), self.v.dim());
        error::shape(op, "k", &[b, t, g, k], self.k.shape())?;
        error::shape(op, "v", &[b, t, h, v], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op, heads: h, groups: g });
        }
        match &self.gate {
            Gate::None => {}
            Gate::Token(gate) => error::shape(op, "g", &[b, t, h], gate.shape())?,
            Gate::Key(gate) | Gate::LetIn(gate) => error::shape(op, "g", &[b, t, h, k], gate.shape())?,
        }
        match &self.erase {
            Erase::None => {}
            Erase::Own(beta) => error::shape(op, "beta", &[b, t, h], beta.shape())?,
            Erase::General { a, b: into } => {
                error::shape(op, "a", &[b, t, h, k], a.shape())?;
                error::shape(op, "b", &[b, t, h, k], into.shape())?;
            }
            Erase::Rate { kappa, a } => {
                error::shape(op, "kappa", &[b, t, h, k], kappa.shape())?;
                error::shape(op, "a", &[b, t, h, k], a.shape())?;
            }
        }
        if let Some(bonus) = &self.bonus {
            error::shape(op, "u", &[h, k], bonus.shape())?;
        }
        error::number(op, "scale", self.scale)?;
        error::shape(op, "state", &self.state_shape(), state)?;
        Ok(Dims { b, t, g, h, k, v })
    }
}

impl Dims {
    /// Every token of every sequence and head, in order: the sequence, its row and place in the batch, the head, and the group that it reads.
    pub(crate) fn tokens(
        self,
        op: &'static str,
        sequences: Sequences<'_>,
    ) -> Result<impl Iterator<Item = [usize; 5]>, Error> {
        let ranges = sequences.ranges(op, self.b, self.t)?;
        Ok(ranges.into_iter().enumerate().flat_map(move |(s, range)| {
            range.flat_map(move |i| (0..self.h).map(move |h| [s, i / self.t, i % self.t, h, h * self.g / self.h]))
        }))
    }
}

/// `a bᵀ`
pub(crate) fn outer(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((a.len(), b.len()), |(i, j)| a[i] * b[j])
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) g: usize,
    pub(crate) h: usize,
    pub(crate) k: usize,
    pub(crate) v: usize,
}

/// Gradients to the inputs; those of what was absent are empty.
pub(crate) struct Gradient {
    pub(crate) q: Array4<f32>,
    pub(crate) k: Array4<f32>,
    pub(crate) v: Array4<f32>,
    /// `[B, T, H, K]`, or `[B, T, H, 1]` where there is one gate a token.
    pub(crate) g: Array4<f32>,
    pub(crate) beta: Array3<f32>,
    pub(crate) a: Array4<f32>,
    pub(crate) b: Array4<f32>,
    pub(crate) bonus: Array2<f32>,
    pub(crate) state: Array4<f32>,
}

/// Gates that a thread looks at, at a time.
const GATES: usize = 32 * 1024;

/// Whether one of some gates is above 0.
struct Above<'a>(&'a [f32]);

impl Kernel for Above<'_> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> bool {
        decay::above(s, self.0)
    }
}

/// The inputs, a slice a token.
struct Tokens<'a> {
    dims: Dims,
    ranges: Ranges<'a>,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    /// `[H]` or `[H K]`
    g: Option<Rows<'a>>,
    by_key: bool,
    /// Whether keys are what the gate lets go.
    let_in: bool,
    beta: Option<Rows<'a>>,
    erase: Option<[Rows<'a>; 2]>,
    /// Whether the second is the rate at which the first erases.
    rate: bool,
    /// `[H K]`
    bonus: Option<Cow<'a, [f32]>>,
    scale: f32,
    /// Whether it is known that no gate is above 0.
    checked: bool,
    /// Whether a gate above 0 has been met: where there are many, they are looked at when they are used.
    above: AtomicBool,
}

impl<'a> Tokens<'a> {
    fn of(x: &'a Inputs<'_>, state: &[usize], cx: &Cx) -> Result<Self, Error> {
        let op = x.op;
        let dims = x.shapes(state)?;
        let g = match &x.gate {
            Gate::None => None,
            Gate::Token(g) => Some(Rows::of(op, "g", g)?),
            Gate::Key(g) | Gate::LetIn(g) => Some(Rows::of(op, "g", g)?),
        };
        let (above, by_key) = (AtomicBool::new(false), matches!(x.gate, Gate::Key(_) | Gate::LetIn(_)));
        // Few, if there is one for all channels, or fewer tokens than rows of a state.
        let checked = g.is_none() || !by_key || dims.t <= dims.v;
        if let Some(g) = g.as_ref().filter(|_| checked) {
            let (tokens, width) = (dims.b * dims.t, if by_key { dims.h * dims.k } else { dims.h });
            let (at_a_time, parts) = ((GATES / width.max(1)).max(1), width.div_ceil(GATES));
            cx.team.run(tokens.div_ceil(at_a_time) * parts, |i| {
                let (first, column) = (i / parts * at_a_time, i % parts * GATES);
                let columns = column..(column + GATES).min(width);
                for t in first..(first + at_a_time).min(tokens) {
                    above.fetch_or(cx.isa.run(Above(&g.get(t)[columns.clone()])), Ordering::Relaxed);
                }
            });
        }
        if above.into_inner() {
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
            let_in: matches!(x.gate, Gate::LetIn(_)),
            beta,
            erase,
            rate: matches!(x.erase, Erase::Rate { .. }),
            bonus: x.bonus.as_ref().map(contiguous),
            scale: x.scale,
            checked,
            above: AtomicBool::new(false),
        })
    }

    /// The gates of a token and head, logarithms; nothing where there are none.
    #[inline(always)]
    fn gates(&self, t: usize, h: usize) -> &'a [f32] {
        let width = self.gate_width();
        self.g.as_ref().map_or(&[], |g| &g.get(t)[h * width..(h + 1) * width])
    }

    /// Whether something is erased.
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

    /// A head's part of rows that are as wide as the values.
    #[inline(always)]
    fn of_value(&self, rows: &Rows<'a>, t: usize, h: usize) -> &'a [f32] {
        &rows.get(t)[h * self.dims.v..(h + 1) * self.dims.v]
    }

    /// The key, times `by`.
    #[inline(always)]
    fn key<S: Lanes>(&self, s: S, t: usize, h: usize, by: &[f32], out: &mut [f32]) {
        let Some(g) = self.g.as_ref().filter(|_| self.let_in) else {
            return decay::scale_into(s, by, self.k(t, h), out);
        };
        let g = &g.get(t)[h * out.len()..(h + 1) * out.len()];
        for at in (0..out.len()).step_by(S::LANES) {
            s.store_part(&mut out[at..], s.sub(s.splat(0.0), math::exp_m1(s, s.load_part(&g[at..]))));
        }
        decay::scale(s, by, out);
    }

    /// `b_t`: where what is erased goes, if not to the own key.
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

    /// The factors that the gate leaves at token `t`: a number, or one a key channel; nothing where there is no gate.
    #[inline(always)]
    fn left<S: Lanes>(&self, s: S, t: usize, h: usize, out: &mut [f32]) {
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

    /// `a_t`: what reads that which is erased.
    #[inline(always)]
    fn erasing<S: Lanes>(&self, s: S, t: usize, h: usize, out: &mut [f32]) {
        if self.erase.is_some() || !self.by_key {
            let mut left = [1.0];
            self.left(s, t, h, &mut left);
            return self.erasing_by(s, t, h, &left, out);
        }
        self.left(s, t, h, out);
        decay::scale(s, self.k(t, h), out);
    }

    /// As [`Tokens::erasing`], where it is known what the gate leaves; or times more than that, where its own key erases.
    #[inline(always)]
    fn erasing_by<S: Lanes>(&self, s: S, t: usize, h: usize, left: &[f32], out: &mut [f32]) {
        match &self.erase {
            Some([a, _]) => math::copy(s, &a.get(t)[h * out.len()..(h + 1) * out.len()], out),
            None => decay::scale_into(s, left, self.k(t, h), out),
        }
    }

    /// The rows of a token, if there is such a one.
    #[inline(always)]
    fn rows(&self, t: usize, h: usize, queries: bool, soon: &mut PrefetchQueue) {
        if t >= self.dims.b * self.dims.t {
            return;
        }
        if queries {
            soon.add(self.q(t, h));
        }
        if !self.let_in {
            soon.add(self.k(t, h));
        }
        soon.add(self.v(t, h));
        let of_keys = h * self.dims.k..(h + 1) * self.dims.k;
        if let Some(g) = self.g.as_ref().filter(|_| self.by_key) {
            soon.add(&g.get(t)[of_keys.clone()]);
        }
        if let Some([a, b]) = &self.erase {
            soon.add(&a.get(t)[of_keys.clone()]);
            soon.add(&b.get(t)[of_keys]);
        }
    }

    /// How many factors the gate has a token.
    fn gate_width(&self) -> usize {
        match self.g {
            None => 0,
            Some(_) if self.by_key => self.dims.k,
            Some(_) => 1,
        }
    }
}
