//! The rows of some tokens, one behind the other, and what is done to them one by one.

use longreach_simd::{Lanes, math};

use crate::fast_weights::decay::{LEAST_GATE, Runs, scale, take};

/// Numbers that there is room for in the second cache, beside those that come next.
const ROOM: usize = 36 * 1024;

/// Rows of the tokens of a segment, in their order, and one more: that of the first token of the segment behind it, or of no token.
///
/// Rows as wide as a key are scaled for their step, as [`Runs`] has it, and so are gradients: what token `t` writes and what it reads with, in which
/// row ever that is. Those of the first row that the token before it reads with are as they are: it is in another segment.
pub(super) struct Segment<'m> {
    pub(super) tokens: usize,
    /// Queries times the scale.
    pub(super) q: &'m mut [f32],
    pub(super) k: &'m mut [f32],
    /// What is written: values, of which what is erased has been taken off where the own key erases.
    pub(super) v: &'m mut [f32],
    pub(super) runs: Runs<'m>,
    pub(super) d_o: &'m mut [f32],
    pub(super) a: &'m mut [f32],
    pub(super) b: &'m mut [f32],
    pub(super) beta: &'m mut [f32],
    /// Gradients; that to queries without the scale.
    pub(super) dq: &'m mut [f32],
    pub(super) dk: &'m mut [f32],
    pub(super) dv: &'m mut [f32],
    pub(super) da: &'m mut [f32],
    pub(super) db: &'m mut [f32],
    /// To what was erased.
    pub(super) dw: &'m mut [f32],
    /// What was erased, or its gradient, where the one token hands it to the other.
    pub(super) moved: &'m mut [f32],
}

/// What there is room for.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Tokens
    pub(super) most: usize,
    pub(super) k: usize,
    pub(super) v: usize,
    /// Factors a token.
    pub(super) gates: usize,
    /// By the own key or by another.
    pub(super) erases: bool,
    pub(super) general: bool,
}

impl Shape {
    /// So many tokens that their rows, some six of a key and six of a value each, stay in the second cache; not any number, so that some text is cut evenly
    /// whatever its heads' widths.
    ///
    /// Where there are gates, a segment is short if a state is small beside its rows: sums that gates act through start anew with it, and what rounding adds
    /// to a sum is in the gradients of all tokens before.
    pub(super) fn tokens(k: usize, v: usize, gates: usize) -> usize {
        if gates > 0 && k * v <= 16 * (k + v) {
            return if gates > 1 { 32 } else { 16 };
        }
        [Runs::MOST, 96, 64, 48].into_iter().find(|tokens| tokens * 6 * (k + v) <= ROOM).unwrap_or(32)
    }

    /// The widths of the rows in [`Behind`].
    pub(super) fn behind(&self) -> [usize; 4] {
        [self.k, if self.erases { self.k } else { 0 }, self.v, if self.erases { self.v } else { 0 }]
    }

    /// Numbers in all rows.
    pub(super) fn size(&self) -> usize {
        let Self { most, k, v, gates, erases, general } = *self;
        let erasing = if erases { 2 * k + v } else { 0 } + if general { 2 * k + v } else { 0 };
        (most + 1) * (4 * k + 3 * v + 1 + erasing) + Runs::size(most, gates)
    }
}

/// The rows of a segment's first token that the token before it needs: the query, what reads what is erased, the gradients to the output and to what
/// was erased.
pub(super) struct Behind<'m>([&'m mut [f32]; 4]);

impl<'m> Behind<'m> {
    #[inline(always)]
    pub(super) fn new(shape: Shape, rest: &mut &'m mut [f32]) -> Self {
        Self(shape.behind().map(|width| take(rest, width)))
    }

    /// What that token writes to the gradient of the state: of the output, and of what was erased.
    #[inline(always)]
    pub(super) fn writes(&self) -> [(&[f32], &[f32]); 2] {
        let [q, a, d_o, dw] = &self.0;
        [(q, d_o), (a, dw)]
    }

    /// Makes nothing of what the segment's last token writes, where no segment is behind it whose rows would be here.
    #[inline(always)]
    pub(super) fn put_aside<S: Lanes>(&mut self, s: S, shape: Shape, rows: &mut Segment<'_>) {
        let last = (rows.tokens - 1) * shape.k..rows.tokens * shape.k;
        let [key, into, ..] = &mut self.0;
        for (written, to) in
            [(&mut *rows.k, key), (&mut *rows.b, into)].into_iter().take(1 + usize::from(shape.general))
        {
            math::copy(s, &written[last.clone()], to);
            written[last.clone()].fill(0.0);
        }
    }

    /// The opposite of [`Behind::put_aside`].
    #[inline(always)]
    pub(super) fn take_back<S: Lanes>(&self, s: S, shape: Shape, rows: &mut Segment<'_>) {
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
        let Shape { most, k, v, gates, erases, general } = shape;
        let runs = Runs::new(most, gates, rest);
        let mut rows = |there: bool, width: usize| take(rest, if there { (most + 1) * width } else { 0 });
        Self {
            tokens: 0,
            q: rows(true, k),
            k: rows(true, k),
            v: rows(true, v),
            runs,
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

    /// Room for so many tokens, of which the first of those behind them follow, if there are any.
    #[inline(always)]
    pub(super) fn begin<S: Lanes>(&mut self, s: S, tokens: usize, shape: Shape, behind: Option<&Behind<'_>>) {
        self.tokens = tokens;
        let rows = [&mut *self.q, &mut *self.a, &mut *self.d_o, &mut *self.dw];
        for (i, (rows, width)) in rows.into_iter().zip(shape.behind()).enumerate().filter(|(_, (_, width))| *width > 0)
        {
            let last = &mut rows[tokens * width..(tokens + 1) * width];
            match behind {
                None => last.fill(0.0),
                Some(behind) => math::copy(s, behind.0[i], last),
            }
        }
    }

    /// Its first token's rows are kept for the tokens before it.
    #[inline(always)]
    pub(super) fn leave<S: Lanes>(&self, s: S, behind: &mut Behind<'_>) {
        for (rows, to) in [&*self.q, &*self.a, &*self.d_o, &*self.dw].into_iter().zip(&mut behind.0) {
            math::copy(s, &rows[..to.len()], to);
        }
    }

    /// All its tokens have been gathered, `early` if queries read before a token is written: what stands for the one behind is scaled, and the last cut is made.
    #[inline(always)]
    pub(super) fn ready<S: Lanes>(&mut self, s: S, shape: Shape, early: bool) {
        let (n, k) = (self.tokens, shape.k);
        for rows in [early.then_some(&mut *self.q), shape.erases.then_some(&mut *self.a)].into_iter().flatten() {
            scale(s, self.runs.left(n - 1), &mut rows[n * k..(n + 1) * k]);
        }
        self.runs.end();
    }
}

/// How a gate acts through sums: one for each channel of a key, or one for all. They are f64, to which what some tokens add is added at a time.
///
/// A gate of less than [`LEAST_GATE`] leaves less than the state's rounding: its gradient is zero, and its sum starts anew, so that what rounding has
/// added stays behind.
pub(super) struct Through {
    /// `X_t`, that of one gate in the first place.
    sums: Vec<f64>,
    /// The same, rounded, and what tokens have added since.
    rounded: Vec<f32>,
    added: Vec<f32>,
    /// How many tokens those were.
    tokens: usize,
    /// What a query that reads early leaves to be counted by the token before it.
    held: Vec<f32>,
}

/// How many tokens' shares are summed in f32, whose rounding is that of the shares themselves.
const TOGETHER: usize = 16;

/// What a token adds to the sums, gradients with what they belong to. None has a part in it that the token's own writes and reads have in common.
pub(super) struct Shares<'a> {
    /// Where the query reads before the token is written, the token before it counts this.
    pub(super) early: bool,
    /// Whether it is the text's last token: no gate comes after its writes, which are counted nowhere.
    pub(super) last: bool,
    pub(super) q: [&'a [f32]; 2],
    pub(super) k: [&'a [f32]; 2],
    /// What reads the erased, which is counted by the token before it.
    pub(super) a: Option<[&'a [f32]; 2]>,
    /// Where the erased goes, if not to the own key.
    pub(super) b: Option<[&'a [f32]; 2]>,
    /// Where that is read with the own key times the gate: the key of the token before it, and how much of that makes the gradient to `a` whole.
    pub(super) own: Option<(f32, &'a [f32])>,
}

impl Through {
    pub(super) fn new(gates: usize, k: usize) -> Self {
        let numbers = if gates > 1 { gates } else { 0 };
        Self {
            sums: vec![0.0; gates],
            rounded: vec![0.0; numbers],
            added: vec![0.0; numbers],
            tokens: 0,
            held: vec![0.0; if gates > 1 { k } else { 1 }],
        }
    }

    /// Adds what has been added in f32 to the sums.
    #[inline(always)]
    fn settle(&mut self) {
        self.tokens = 0;
        for ((sum, rounded), added) in self.sums.iter_mut().zip(&mut self.rounded).zip(&mut self.added) {
            *sum += f64::from(*added);
            *rounded = *sum as f32;
            *added = 0.0;
        }
    }

    /// Starts anew from a state and the gradient to the state after the next token, times what that token's gate leaves, both `[V, K]`.
    #[inline(always)]
    pub(super) fn start<S: Lanes>(&mut self, s: S, states: [&[f32]; 2], k: usize) {
        let [state, d] = states;
        if let [sum] = &mut self.sums[..] {
            *sum = 0.0;
            for (state, d) in state.chunks(TOGETHER * k).zip(d.chunks(TOGETHER * k)) {
                *sum += f64::from(math::dot(s, state, d));
            }
            return;
        }
        self.sums.fill(0.0);
        self.added.fill(0.0);
        for (state, d) in state.chunks(TOGETHER * k).zip(d.chunks(TOGETHER * k)) {
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
            self.settle();
        }
    }

    /// What reads of the state that the next token erases.
    #[inline(always)]
    pub(super) fn add<S: Lanes>(&mut self, s: S, a: &[f32], da: &[f32]) {
        if let [sum] = &mut self.sums[..] {
            *sum += f64::from(math::dot(s, a, da));
            return;
        }
        for ((sum, a), da) in self.sums.iter_mut().zip(a).zip(da) {
            *sum += f64::from(*a) * f64::from(*da);
        }
        self.settle();
    }

    /// Counts a token, given its gates and whether there is a cut before it: the gradients to the gates, written past the caches if that is asked for.
    #[inline(always)]
    pub(super) fn token<S: Lanes>(
        &mut self,
        s: S,
        past: bool,
        (gates, cut): (&[f32], bool),
        of: Shares<'_>,
        dg: &mut [f32],
    ) {
        self.tokens += 1;
        if self.tokens > TOGETHER {
            self.settle();
        }
        if let ([sum], [held], [dg]) = (&mut self.sums[..], &mut self.held[..], &mut *dg) {
            let (read, counted) = (math::dot(s, of.q[0], of.q[1]), f64::from(*held));
            *held = if of.early { read } else { 0.0 };
            let read = if of.early { 0.0 } else { f64::from(read) };
            *sum += counted + read;
            if !of.last {
                *sum -= f64::from(math::dot(s, of.k[0], of.k[1]));
                if let Some([b, db]) = of.b {
                    *sum -= f64::from(math::dot(s, b, db));
                }
            }
            *sum = if gates[0] < LEAST_GATE { 0.0 } else { *sum };
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
            let gradient = self.share::<S, true>(s, &of, at);
            if past { s.store_non_temporal(&mut dg[at..], gradient) } else { s.store(&mut dg[at..], gradient) }
        }
        if whole < dg.len() {
            let gradient = self.share::<S, false>(s, &of, whole);
            s.store_part(&mut dg[whole..], gradient);
        }
        if cut {
            self.settle();
            let sums = self.sums.iter_mut().zip(&mut self.rounded);
            for (i, (((sum, rounded), gate), dg)) in sums.zip(gates).zip(dg).enumerate() {
                if *gate < LEAST_GATE {
                    *rounded = of.a.map_or(0.0, |[a, da]| a[i] * da[i]);
                    (*sum, *dg) = (f64::from(*rounded), 0.0);
                }
            }
        }
    }

    /// Adds a token's share to some channels, a whole vector of them or what there is: the gradients to the gates.
    #[inline(always)]
    fn share<S: Lanes, const WHOLE: bool>(&mut self, s: S, of: &Shares<'_>, at: usize) -> S::V {
        let (held, added, rounded) = (&mut self.held[at..], &mut self.added[at..], &self.rounded[at..]);
        let read = product::<S, WHOLE>(s, of.q, at);
        let mut share = read;
        if of.early {
            share = part::<S, WHOLE>(s, held);
            s.store_part(held, read);
        }
        if !of.last {
            share = s.sub(share, product::<S, WHOLE>(s, of.k, at));
            if let Some(b) = of.b {
                share = s.sub(share, product::<S, WHOLE>(s, b, at));
            }
        }
        let mut sum = s.add(part::<S, WHOLE>(s, added), share);
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

/// A whole vector, or what there is of one.
#[inline(always)]
fn part<S: Lanes, const WHOLE: bool>(s: S, x: &[f32]) -> S::V {
    if WHOLE { s.load(x) } else { s.load_part(x) }
}

/// A vector of a row times one of its gradient, from `at` on.
#[inline(always)]
fn product<S: Lanes, const WHOLE: bool>(s: S, [x, d]: [&[f32]; 2], at: usize) -> S::V {
    s.mul(part::<S, WHOLE>(s, &x[at..]), part::<S, WHOLE>(s, &d[at..]))
}
