//! The rows of a segment, and the suffix sums of the gate's gradient.

use longreach_simd::{Lanes, math};

use crate::fast_weights::decay::{CumulativeDecay, MIN_GATE, scale, take};

/// Numbers that fit in the second-level cache beside the rows being prefetched.
const CACHE_NUMBERS: usize = 36 * 1024;

/// The rows of a segment's tokens in order, followed by a boundary row: that of the next segment's first token, or
/// zeros.
///
/// Rows of width `K` and their gradients are scaled by the cumulative decay of the token that writes or reads, as
/// [`CumulativeDecay`] defines it. Those rows of the first token that are read at the preceding token are not scaled,
/// because that token is in another segment.
pub(super) struct Segment<'m> {
    pub(super) tokens: usize,
    /// Queries times the scale.
    pub(super) q: &'m mut [f32],
    pub(super) k: &'m mut [f32],
    /// The vectors written: values, or `δ` for the delta rules.
    pub(super) v: &'m mut [f32],
    pub(super) decay: CumulativeDecay<'m>,
    pub(super) d_o: &'m mut [f32],
    pub(super) a: &'m mut [f32],
    pub(super) b: &'m mut [f32],
    pub(super) beta: &'m mut [f32],
    /// Gradients; `dq` excludes the scale.
    pub(super) dq: &'m mut [f32],
    pub(super) dk: &'m mut [f32],
    pub(super) dv: &'m mut [f32],
    pub(super) da: &'m mut [f32],
    pub(super) db: &'m mut [f32],
    /// The gradients to the erased vectors.
    pub(super) dw: &'m mut [f32],
    /// The second write of a general pass: the erased vector, or its gradient.
    pub(super) moved: &'m mut [f32],
}

/// The sizes of a segment.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) max_tokens: usize,
    pub(super) k: usize,
    pub(super) v: usize,
    /// Gate factors per token.
    pub(super) gates: usize,
    /// Whether anything is erased, and whether by vectors other than the key.
    pub(super) erases: bool,
    pub(super) general: bool,
}

impl Shape {
    /// The number of tokens for which the rows, about six of a key and six of a value per token, stay in the
    /// second-level cache. The choice is among few values, so that there are lengths of a sequence that all of
    /// them divide.
    ///
    /// With a gate, segments are short if the state is small compared with its rows: the suffix sums of the gate's
    /// gradient restart at each segment, which is then cheap, and the rounding error of a sum is in the gradients of
    /// all tokens before.
    pub(super) fn tokens(k: usize, v: usize, gates: usize) -> usize {
        if gates > 0 && k * v <= 32 * (k + v) {
            // A narrow head has more to restart than it has rows.
            return if k * v <= 16 * (k + v) { 32 } else { 16 };
        }
        [CumulativeDecay::MAX_TOKENS, 96, 64, 48]
            .into_iter()
            .find(|tokens| tokens * 6 * (k + v) <= CACHE_NUMBERS)
            .unwrap_or(32)
    }

    /// The widths of the rows in [`Boundary`].
    pub(super) fn boundary_widths(&self) -> [usize; 4] {
        [self.k, if self.erases { self.k } else { 0 }, self.v, if self.erases { self.v } else { 0 }]
    }

    /// The size of the scratch memory for all rows.
    pub(super) fn size(&self) -> usize {
        let Self { max_tokens, k, v, gates, erases, general } = *self;
        let erasing = if erases { 2 * k + v } else { 0 } + if general { 2 * k + v } else { 0 };
        (max_tokens + 1) * (4 * k + 3 * v + 1 + erasing) + CumulativeDecay::size(max_tokens, gates)
    }
}

/// Boundary rows: `q`, `a`, `do` and `dw` of the next segment's first token.
pub(super) struct Boundary<'m>([&'m mut [f32]; 4]);

impl<'m> Boundary<'m> {
    #[inline(always)]
    pub(super) fn new(shape: Shape, rest: &mut &'m mut [f32]) -> Self {
        Self(shape.boundary_widths().map(|width| take(rest, width)))
    }

    /// What the boundary token writes to the gradient of the state: `q doᵀ` and `a dwᵀ`.
    #[inline(always)]
    pub(super) fn writes(&self) -> [(&[f32], &[f32]); 2] {
        let [q, a, d_o, dw] = &self.0;
        [(q, d_o), (a, dw)]
    }

    /// Saves the keys (and `b`) of the segment's last token here and sets them to zero, so that nothing is written.
    /// Only for the last segment, whose boundary rows are unused.
    #[inline(always)]
    pub(super) fn clear_last_write<S: Lanes>(&mut self, s: S, shape: Shape, rows: &mut Segment<'_>) {
        let last = (rows.tokens - 1) * shape.k..rows.tokens * shape.k;
        let [key, into, ..] = &mut self.0;
        for (written, to) in
            [(&mut *rows.k, key), (&mut *rows.b, into)].into_iter().take(1 + usize::from(shape.general))
        {
            math::copy(s, &written[last.clone()], to);
            written[last.clone()].fill(0.0);
        }
    }

    /// Restores what [`Boundary::clear_last_write`] saved.
    #[inline(always)]
    pub(super) fn restore_last_write<S: Lanes>(&self, s: S, shape: Shape, rows: &mut Segment<'_>) {
        let last = (rows.tokens - 1) * shape.k..rows.tokens * shape.k;
        let [key, into, ..] = &self.0;
        for (written, from) in
            [(&mut *rows.k, key), (&mut *rows.b, into)].into_iter().take(1 + usize::from(shape.general))
        {
            math::copy(s, from, &mut written[last.clone()]);
        }
    }
}

impl<'m> Segment<'m> {
    #[inline(always)]
    pub(super) fn new(shape: Shape, rest: &mut &'m mut [f32]) -> Self {
        let Shape { max_tokens, k, v, gates, erases, general } = shape;
        let decay = CumulativeDecay::new(max_tokens, gates, rest);
        let mut rows = |there: bool, width: usize| take(rest, if there { (max_tokens + 1) * width } else { 0 });
        Self {
            tokens: 0,
            q: rows(true, k),
            k: rows(true, k),
            v: rows(true, v),
            decay,
            d_o: rows(true, v),
            a: rows(erases, k),
            b: rows(general, k),
            beta: rows(true, 1),
            dq: rows(true, k),
            dk: rows(true, k),
            dv: rows(true, v),
            da: rows(erases, k),
            db: rows(general, k),
            dw: rows(erases, v),
            moved: rows(general, v),
        }
    }

    /// Prepares for `tokens` tokens; the boundary rows are copied, or zero for the last segment.
    #[inline(always)]
    pub(super) fn begin<S: Lanes>(&mut self, s: S, tokens: usize, shape: Shape, boundary: Option<&Boundary<'_>>) {
        self.tokens = tokens;
        let rows = [&mut *self.q, &mut *self.a, &mut *self.d_o, &mut *self.dw];
        for (i, (rows, width)) in
            rows.into_iter().zip(shape.boundary_widths()).enumerate().filter(|(_, (_, width))| *width > 0)
        {
            let last = &mut rows[tokens * width..(tokens + 1) * width];
            match boundary {
                None => last.fill(0.0),
                Some(boundary) => math::copy(s, boundary.0[i], last),
            }
        }
    }

    /// Stores the first token's rows as the boundary rows of the segment before it.
    #[inline(always)]
    pub(super) fn store_boundary<S: Lanes>(&self, s: S, boundary: &mut Boundary<'_>) {
        for (rows, to) in [&*self.q, &*self.a, &*self.d_o, &*self.dw].into_iter().zip(&mut boundary.0) {
            math::copy(s, &rows[..to.len()], to);
        }
    }

    /// Called after all tokens have been gathered: scales the boundary rows by the last token's decay, and adds the
    /// final cut. `read_first` says whether queries read before their token is written.
    #[inline(always)]
    pub(super) fn finish<S: Lanes>(&mut self, s: S, shape: Shape, read_first: bool) {
        let (n, k) = (self.tokens, shape.k);
        for rows in [read_first.then_some(&mut *self.q), shape.erases.then_some(&mut *self.a)].into_iter().flatten() {
            scale(s, self.decay.cumulative(n - 1), &mut rows[n * k..(n + 1) * k]);
        }
        self.decay.end();
    }
}

/// The suffix sums of the gate's gradient, one per key channel or one per token, in f64. Terms are accumulated in f32
/// for a few tokens at a time.
///
/// A gate below [`MIN_GATE`] leaves less than the rounding of the state: its gradient is zero and its sum restarts, so
/// that earlier rounding errors do not propagate.
pub(super) struct GateGradient {
    /// `X_t`; with one gate per token, its sum over channels.
    sums: Vec<f64>,
    /// The sums rounded to f32, and the terms accumulated since.
    rounded: Vec<f32>,
    added: Vec<f32>,
    /// The number of tokens in `added`.
    tokens: usize,
    /// With a bonus, the term of the query, which is added at the preceding token.
    pending: Vec<f32>,
}

/// The number of tokens whose terms are accumulated in f32, so that rounding stays near that of the terms.
const F32_TOKENS: usize = 16;

/// The terms that a token adds to the suffix sums, as pairs of a row and its gradient. They exclude the token's reads
/// of its own writes.
pub(super) struct GateTerms<'a> {
    /// Whether queries read before their token is written; the query's term then belongs to the preceding token.
    pub(super) read_first: bool,
    /// Whether this is the sequence's last token, whose writes no gate follows and no term includes.
    pub(super) last: bool,
    pub(super) q: [&'a [f32]; 2],
    pub(super) k: [&'a [f32]; 2],
    /// `a` and its gradient; the term belongs to the preceding token.
    pub(super) a: Option<[&'a [f32]; 2]>,
    /// `b` and its gradient, for general erasure.
    pub(super) b: Option<[&'a [f32]; 2]>,
    /// For the delta rules, `v_{t-1} · dw_t` and the preceding key, the product of which completes the gradient to
    /// `a`.
    pub(super) own: Option<(f32, &'a [f32])>,
}

impl GateGradient {
    pub(super) fn new(gates: usize, k: usize) -> Self {
        let numbers = if gates > 1 { gates } else { 0 };
        Self {
            sums: vec![0.0; gates],
            rounded: vec![0.0; numbers],
            added: vec![0.0; numbers],
            tokens: 0,
            pending: vec![0.0; if gates > 1 { k } else { 1 }],
        }
    }

    /// Adds the terms accumulated in f32 to the sums.
    #[inline(always)]
    fn flush(&mut self) {
        self.tokens = 0;
        for ((sum, rounded), added) in self.sums.iter_mut().zip(&mut self.rounded).zip(&mut self.added) {
            *sum += f64::from(*added);
            *rounded = *sum as f32;
            *added = 0.0;
        }
    }

    /// Restarts from `⟨S, D̂⟩`: a state, and the gradient to it after the next token's gate, both `[V, K]`.
    #[inline(always)]
    pub(super) fn start<S: Lanes>(&mut self, s: S, states: [&[f32]; 2], k: usize) {
        let [state, d] = states;
        if let [sum] = &mut self.sums[..] {
            *sum = 0.0;
            for (state, d) in state.chunks(F32_TOKENS * k).zip(d.chunks(F32_TOKENS * k)) {
                *sum += f64::from(math::dot(s, state, d));
            }
            return;
        }
        self.sums.fill(0.0);
        self.added.fill(0.0);
        for (state, d) in state.chunks(F32_TOKENS * k).zip(d.chunks(F32_TOKENS * k)) {
            let whole = math::whole::<S>(k);
            for row in (0..state.len()).step_by(k) {
                let (state, d) = (&state[row..row + k], &d[row..row + k]);
                for at in (0..whole).step_by(S::LANES) {
                    let sum = s.fma(s.load(&state[at..]), s.load(&d[at..]), s.load(&self.added[at..]));
                    s.store(&mut self.added[at..], sum);
                }
                if whole < k {
                    let (state, d) = (s.load_part(&state[whole..]), s.load_part(&d[whole..]));
                    let sum = s.fma(state, d, s.load_part(&self.added[whole..]));
                    s.store_part(&mut self.added[whole..], sum);
                }
            }
            self.flush();
        }
    }

    /// Adds the term of the erasure by the next token.
    #[inline(always)]
    pub(super) fn add_erasure<S: Lanes>(&mut self, s: S, a: &[f32], da: &[f32]) {
        if let [sum] = &mut self.sums[..] {
            *sum += f64::from(math::dot(s, a, da));
            return;
        }
        for ((sum, a), da) in self.sums.iter_mut().zip(a).zip(da) {
            *sum += f64::from(*a) * f64::from(*da);
        }
        self.flush();
    }

    /// Adds a token's terms, given its gates and whether there is a cut before it, and writes the gradient to the
    /// gates.
    #[inline(always)]
    pub(super) fn add_token<S: Lanes>(
        &mut self,
        s: S,
        non_temporal: bool,
        (gates, cut): (&[f32], bool),
        of: GateTerms<'_>,
        dg: &mut [f32],
    ) {
        self.tokens += 1;
        if self.tokens > F32_TOKENS {
            self.flush();
        }
        if let ([sum], [pending], [dg]) = (&mut self.sums[..], &mut self.pending[..], &mut *dg) {
            let (read, counted) = (math::dot(s, of.q[0], of.q[1]), f64::from(*pending));
            *pending = if of.read_first { read } else { 0.0 };
            let read = if of.read_first { 0.0 } else { f64::from(read) };
            *sum += counted + read;
            if !of.last {
                *sum -= f64::from(math::dot(s, of.k[0], of.k[1]));
                if let Some([b, db]) = of.b {
                    *sum -= f64::from(math::dot(s, b, db));
                }
            }
            *sum = if gates[0] < MIN_GATE { 0.0 } else { *sum };
            let mut gradient = *sum;
            if let Some([a, da]) = of.a {
                let erased = f64::from(math::dot(s, a, da));
                *sum += erased;
                if let Some((by, key)) = of.own {
                    gradient += erased + f64::from(by * math::dot(s, a, key));
                }
            }
            *dg = gradient as f32;
            return;
        }
        let whole = dg.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            let gradient = self.add_terms::<S, true>(s, &of, at);
            if non_temporal { s.store_non_temporal(&mut dg[at..], gradient) } else { s.store(&mut dg[at..], gradient) }
        }
        if whole < dg.len() {
            let gradient = self.add_terms::<S, false>(s, &of, whole);
            s.store_part(&mut dg[whole..], gradient);
        }
        if cut {
            self.flush();
            let sums = self.sums.iter_mut().zip(&mut self.rounded);
            for (i, (((sum, rounded), gate), dg)) in sums.zip(gates).zip(dg).enumerate() {
                if *gate < MIN_GATE {
                    *rounded = of.a.map_or(0.0, |[a, da]| a[i] * da[i]);
                    (*sum, *dg) = (f64::from(*rounded), 0.0);
                }
            }
        }
    }

    /// Adds a token's terms to a vector of channels and returns the gradient to the gates. The vector is partial
    /// unless `WHOLE`.
    #[inline(always)]
    fn add_terms<S: Lanes, const WHOLE: bool>(&mut self, s: S, of: &GateTerms<'_>, at: usize) -> S::V {
        let (pending, added, rounded) = (&mut self.pending[at..], &mut self.added[at..], &self.rounded[at..]);
        let read = product::<S, WHOLE>(s, of.q, at);
        let mut term = read;
        if of.read_first {
            term = part::<S, WHOLE>(s, pending);
            s.store_part(pending, read);
        }
        if !of.last {
            term = s.sub(term, product::<S, WHOLE>(s, of.k, at));
            if let Some(b) = of.b {
                term = s.sub(term, product::<S, WHOLE>(s, b, at));
            }
        }
        let mut sum = s.add(part::<S, WHOLE>(s, added), term);
        let mut gradient = s.add(part::<S, WHOLE>(s, rounded), sum);
        if let Some([a, da]) = of.a {
            let (a, da) = (part::<S, WHOLE>(s, &a[at..]), part::<S, WHOLE>(s, &da[at..]));
            sum = s.fma(a, da, sum);
            if let Some((by, key)) = of.own {
                let whole = s.fma(s.splat(by), part::<S, WHOLE>(s, &key[at..]), da);
                gradient = s.fma(a, whole, gradient);
            }
        }
        s.store_part(added, sum);
        gradient
    }
}

/// Loads a vector, which is partial unless `WHOLE`.
#[inline(always)]
fn part<S: Lanes, const WHOLE: bool>(s: S, x: &[f32]) -> S::V {
    if WHOLE { s.load(x) } else { s.load_part(x) }
}

/// The product of a row and its gradient, for a vector of channels from `at` on.
#[inline(always)]
fn product<S: Lanes, const WHOLE: bool>(s: S, [x, d]: [&[f32]; 2], at: usize) -> S::V {
    s.mul(part::<S, WHOLE>(s, &x[at..]), part::<S, WHOLE>(s, &d[at..]))
}
