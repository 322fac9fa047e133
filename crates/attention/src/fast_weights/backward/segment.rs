//! The rows of some tokens, one behind the other, and what is done to them one by one.

use longreach_simd::{Lanes, math};

use crate::fast_weights::decay::{Runs, scale, take};

/// A gate that leaves less than this of the state leaves less than its rounding: its gradient is zero, and the sums that gates act through start
/// anew, so that what rounding has added to them stays behind. `e⁻¹⁷`
const NOTHING_LEFT: f32 = 4.14e-8;

/// Numbers that there is room for in the second cache, beside those that come next.
const ROOM: usize = 72 * 1024;

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
    /// What gates leave.
    pub(super) factors: &'m mut [f32],
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
    /// An even number of tokens whose rows, some six of a key and six of a value each, stay in the second cache.
    pub(super) fn tokens(k: usize, v: usize) -> usize {
        (ROOM / (6 * (k + v)).max(1)).clamp(16, Runs::MOST) / 2 * 2
    }

    /// Numbers in all rows.
    pub(super) fn size(&self) -> usize {
        let Self { most, k, v, gates, erases, general } = *self;
        let erasing = if erases { 2 * k + v } else { 0 } + if general { 2 * k + v } else { 0 };
        (most + 1) * (4 * k + 3 * v + gates + 1 + erasing) + Runs::size(most, gates)
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
            factors: rows(true, gates),
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

    /// Makes room for the tokens before those that are here, whose first stays as the one behind them.
    #[inline(always)]
    pub(super) fn before<S: Lanes>(&mut self, s: S, tokens: usize, shape: Shape) {
        let Shape { k, v, .. } = shape;
        let none = self.tokens == 0;
        let rows = [&mut *self.q, &mut *self.a, &mut *self.d_o, &mut *self.dw];
        for (rows, width) in rows.into_iter().zip([k, k, v, v]).filter(|(rows, _)| !rows.is_empty()) {
            let (first, rest) = rows.split_at_mut(width);
            let last = &mut rest[(tokens - 1) * width..tokens * width];
            if none { last.fill(0.0) } else { math::copy(s, first, last) }
        }
        self.tokens = tokens;
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

/// How a gate acts through sums: one for each channel of a key, or one for all.
pub(super) struct Through {
    /// `X_t`, that of one gate in the first place.
    sums: Vec<f64>,
    /// What a token leaves to be counted by the one before it.
    held: Vec<f32>,
}

/// What a token adds to the sums, gradients with what they belong to.
pub(super) struct Shares<'a> {
    /// Where the query reads before the token is written, the token before it counts this.
    pub(super) early: bool,
    pub(super) q: [&'a [f32]; 2],
    pub(super) k: [&'a [f32]; 2],
    /// What the own key reads with, times the gate.
    pub(super) own: Option<[&'a [f32]; 2]>,
    /// What reads the erased, and where it goes: the first is counted by the token before it.
    pub(super) general: Option<[[&'a [f32]; 2]; 2]>,
}

impl Through {
    pub(super) fn new(gates: usize, k: usize) -> Self {
        Self { sums: vec![0.0; gates], held: vec![0.0; if gates > 1 { k } else { 1 }] }
    }

    /// Starts anew from a state and the gradient to the state after the next token, times what that token's gate leaves, both `[V, K]`.
    #[inline(always)]
    pub(super) fn start(&mut self, states: [&[f32]; 2], k: usize) {
        let [state, d] = states.map(|x| x.chunks_exact(k));
        if let [sum] = &mut self.sums[..] {
            let mut partial = [0.0f64; 8];
            for (state, d) in state.zip(d) {
                for (state, d) in state.chunks(8).zip(d.chunks(8)) {
                    for ((sum, state), d) in partial.iter_mut().zip(state).zip(d) {
                        *sum += f64::from(*state) * f64::from(*d);
                    }
                }
            }
            *sum = partial.iter().sum::<f64>();
            return;
        }
        self.sums.fill(0.0);
        for (state, d) in state.zip(d) {
            for ((sum, state), d) in self.sums.iter_mut().zip(state).zip(d) {
                *sum += f64::from(*state) * f64::from(*d);
            }
        }
    }

    /// What the next token's own key read of the state.
    #[inline(always)]
    pub(super) fn add<S: Lanes>(&mut self, s: S, a: &[f32], da: &[f32]) {
        if let [sum] = &mut self.sums[..] {
            *sum += f64::from(math::dot(s, a, da));
            return;
        }
        for ((sum, a), da) in self.sums.iter_mut().zip(a).zip(da) {
            *sum += f64::from(*a) * f64::from(*da);
        }
    }

    /// Counts a token: its gate's gradient.
    #[inline(always)]
    pub(super) fn token<S: Lanes>(&mut self, s: S, left: &[f32], of: Shares<'_>, dg: &mut [f32]) {
        let (sums, held) = (&mut self.sums[..], &mut self.held[..]);
        if let ([sum], [held], [dg]) = (&mut *sums, &mut *held, &mut *dg) {
            let (read, counted) = (math::dot(s, of.q[0], of.q[1]), f64::from(*held));
            *held = if of.early { read } else { 0.0 };
            let read = if of.early { 0.0 } else { f64::from(read) };
            *sum += counted + read - f64::from(math::dot(s, of.k[0], of.k[1]));
            if let Some(own) = of.own {
                *sum += f64::from(math::dot(s, own[0], own[1]));
            }
            if let Some([[a, da], [b, db]]) = of.general {
                *held += math::dot(s, a, da);
                *sum -= f64::from(math::dot(s, b, db));
            }
            *sum = if left[0] < NOTHING_LEFT { 0.0 } else { *sum };
            *dg = *sum as f32;
            return;
        }
        // A token's share in f32, whose rounding is that of the gradients themselves; what the shares of many tokens add up to in f64.
        let mut shares = [0.0; 16];
        let vectors = sums.chunks_mut(S::LANES).zip(held.chunks_mut(S::LANES));
        let rows = left.chunks(S::LANES).zip(dg.chunks_mut(S::LANES));
        for (i, ((sums, held), (left, dg))) in vectors.zip(rows).enumerate() {
            let at = i * S::LANES;
            let (read, written) = (product(s, of.q, at), product(s, of.k, at));
            let mut share = s.sub(if of.early { s.splat(0.0) } else { read }, written);
            if let Some(own) = of.own {
                share = s.add(share, product(s, own, at));
            }
            if of.early {
                share = s.add(share, s.load_part(held));
                s.store_part(held, read);
            }
            if let Some([a, b]) = of.general {
                share = s.add(share, s.sub(s.load_part(held), product(s, b, at)));
                s.store_part(held, product(s, a, at));
            }
            s.store_part(&mut shares, share);
            for (((sum, share), left), dg) in sums.iter_mut().zip(&shares).zip(left).zip(dg) {
                *sum = if *left < NOTHING_LEFT { 0.0 } else { *sum + f64::from(*share) };
                *dg = *sum as f32;
            }
        }
    }
}

/// A vector of a row times one of its gradient, from `at` on.
#[inline(always)]
fn product<S: Lanes>(s: S, [x, d]: [&[f32]; 2], at: usize) -> S::V {
    s.mul(s.load_part(&x[at..]), s.load_part(&d[at..]))
}
