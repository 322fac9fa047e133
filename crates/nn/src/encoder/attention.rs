//! The attention of an encoder: its projections and its attention pattern.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use longreach_attention::lowrank::nystrom::{Padding, Start};
use longreach_attention::rotary::Angles;
use longreach_attention::softmax::bigbird::BigBird;
use longreach_attention::softmax::deepspeed;
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::longformer::Longformer;
use longreach_attention::softmax::window::Window;
use longreach_attention::softmax::{Attend, Patterned, Sizes};
use longreach_burn as ops;
use ndarray::{Array2, s};

use crate::linear::Bias;
use crate::mixers::{Attention, AttentionConfig};
use crate::{Builder, Error, Init, Layout, Linear, Precision};

/// The attention pattern: the keys that a query attends to.
#[derive(Clone, Debug, PartialEq)]
pub enum Sees {
    /// All keys.
    All,
    /// This many tokens on either side.
    Window(usize),
    /// This many tokens on either side, and global tokens, which have projections of their own. Beltagy et al. 2020.
    Longformer(usize),
    /// Block-sparse: neighbouring, first and last, and random blocks; full attention for short texts. Zaheer et al.
    /// 2020.
    BigBird(BigBird),
    /// Landmarks, each the mean of several keys. Xiong et al. 2021.
    Nystrom(NystromConfig),
    /// A block layout of DeepSpeed for the given maximum number of tokens; shorter texts use its leading part.
    /// Rajbhandari et al. 2020.
    Sparse(deepspeed::Config, usize),
}

/// The sizes of Nyström attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NystromConfig {
    /// The number of landmarks.
    pub landmarks: usize,
    /// The width of the convolution over the values; `None` if there is none.
    pub conv: Option<usize>,
    /// The initial value of the iterative pseudo-inverse.
    pub start: Start,
}

/// The number of iterations of the pseudo-inverse, as in the authors' models.
const ITERATIONS: usize = 6;

impl Sees {
    /// Whether a text of `tokens` tokens gets full attention in spite of its pattern: with BigBird at most `5 + 2r`
    /// blocks, as in Hugging Face.
    pub fn whole(&self, tokens: usize) -> bool {
        matches!(self, Sees::BigBird(b) if tokens <= (5 + 2 * b.random_blocks) * b.block)
    }

    /// Whether one call supports several sequences packed in one row; otherwise they are computed one at a time.
    fn packs(&self) -> bool {
        matches!(self, Sees::All | Sees::Window(_) | Sees::Longformer(_))
    }
}

/// An encoder's attention.
#[derive(Module, Debug)]
pub struct SelfAttention {
    attention: Attention,
    global: Option<GlobalProjections>,
    /// `[H, width]`
    conv: Option<Param<Tensor<2>>>,
    #[module(skip)]
    sees: Sees,
    /// The layout of [`Sees::Sparse`].
    #[module(skip)]
    layout: Option<Arc<dyn Attend>>,
}

/// The projections of Longformer's global tokens.
#[derive(Module, Debug)]
struct GlobalProjections {
    q: Linear,
    k: Linear,
    v: Linear,
}

/// The arguments of an attention call.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    /// Which tokens are not padding, `[B, T]`.
    pub keep: Option<&'a Array2<bool>>,
    /// Which tokens are global, `[B, T]`
    pub global: Option<&'a Array2<bool>>,
    /// The bounds of packed sequences, in a batch of one row.
    pub packed: Option<&'a [usize]>,
    /// The angles of rotary positions, if the attention uses them.
    pub angles: Option<Arc<Angles>>,
}

impl SelfAttention {
    /// Builds the attention under the builder's scope. Errors if a weight is missing or has another shape.
    pub(super) fn new(b: &mut Builder, c: &AttentionConfig, sees: &Sees) -> Result<Self, Error> {
        let attention = Attention::new(b, c)?;
        let global = match sees {
            Sees::Longformer(_) => {
                let width = c.heads * c.head_dim;
                let mut linear = |name: &str| {
                    Linear::with_layout(b, &format!("{name}_global"), [width, c.hidden], Bias::from(c.bias), c.layout)
                };
                let (q, k, v) = (linear(c.names.q)?, linear(c.names.k)?, linear(c.names.v)?);
                Some(GlobalProjections { q, k, v })
            }
            _ => None,
        };
        let conv = match sees {
            Sees::Nystrom(NystromConfig { conv: Some(width), .. }) => {
                let layout = Layout::Filters;
                let name = "self.conv.weight";
                Some(b.param(name, [c.heads, *width], layout, Precision::Full, Init::Normal(0.02))?)
            }
            _ => None,
        };
        let layout = match sees {
            Sees::Sparse(config, longest) => {
                let keys = longest.next_multiple_of(config.block());
                let layout = config.layout(&Sizes { batch: 1, heads: c.heads, queries: 0..keys, keys }, 0);
                let layout = layout.map_err(|e| b.error(e.to_string()))?;
                Some(Arc::new(Patterned::new(layout)) as Arc<dyn Attend>)
            }
            _ => None,
        };
        Ok(Self { attention, global, conv, sees: sees.clone(), layout })
    }

    /// The attention pattern.
    pub fn sees(&self) -> &Sees {
        &self.sees
    }

    pub(super) fn config(&self) -> &AttentionConfig {
        self.attention.config()
    }

    /// The outputs of the heads for `x: [B, T, d]`: `[B, T, H, width]`, before the output projection.
    pub(super) fn heads(&self, x: Tensor<3>, call: &Call<'_>) -> Tensor<4> {
        let global = match (&self.global, call.global) {
            (Some(projections), Some(marks)) if marks.iter().any(|m| *m) => Some((projections, marks)),
            _ => None,
        };
        let kept = global.is_some().then(|| x.clone());
        let [q, k, v] = self.attention.project(x);
        let (q, k) = match &call.angles {
            Some(angles) => (ops::rotary(q, angles), ops::rotary(k, angles)),
            None => (q, k),
        };
        let out = match call.packed {
            Some(bounds) if !self.sees.packs() => {
                let each = bounds.windows(2).filter(|w| w[0] < w[1]).map(|w| {
                    let part = |x: &Tensor<4>| x.clone().narrow(1, w[0], w[1] - w[0]);
                    self.attend([part(&q), part(&k), part(&v)], &Call { packed: None, keep: None, ..call.clone() })
                });
                Tensor::cat(each.collect(), 1)
            }
            _ => self.attend([q, k, v], call),
        };
        match (global, kept) {
            (Some((projections, marks)), Some(x)) => self.see_all(projections, marks, x, out, call),
            _ => out,
        }
    }

    /// The output projection.
    pub(super) fn out(&self, heads: Tensor<4>) -> Tensor<3> {
        self.attention.joined(heads)
    }

    fn attend(&self, [q, k, v]: [Tensor<4>; 3], call: &Call<'_>) -> Tensor<4> {
        if let Sees::Nystrom(c) = &self.sees {
            let options = ops::NystromOptions {
                keep: call.keep.cloned(),
                landmarks: c.landmarks,
                iterations: ITERATIONS,
                start: c.start,
                padding: Padding::Seen,
                scale: self.attention.options(all()).scale,
            };
            return ops::nystrom(ops::Nystrom { q, k, v, conv: self.conv.as_ref().map(|conv| conv.val()), options });
        }
        let (mechanism, bias) = (self.mechanism(q.dims(), call), self.bias(q.dims()[1], &q.device()));
        let mut options = self.attention.options(mechanism);
        options.keep = call.keep.cloned();
        options.packed = call.packed.map(<[usize]>::to_vec);
        let sinks = self.attention.learned_sinks();
        ops::attention(ops::Attention { q, k, v, bias, sinks, options }).0
    }

    /// The mechanism for `[B, T, H, width]`. Texts that do not get full attention are long enough for a BigBird layout.
    fn mechanism(&self, [batch, t, heads, _]: [usize; 4], call: &Call<'_>) -> Arc<dyn Attend> {
        if let Some(layout) = &self.layout {
            return layout.clone();
        }
        let sizes = || Sizes { batch, heads, queries: 0..t, keys: t };
        match &self.sees {
            Sees::Window(w) => Arc::new(Patterned::new(Window { left: *w, right: *w })),
            Sees::Longformer(w) => match call.global {
                Some(marks) if marks.iter().any(|m| *m) => {
                    Arc::new(Patterned::new(Longformer::new(*w, marks.view()).without_global_queries()))
                }
                _ => Arc::new(Patterned::new(Window { left: *w, right: *w })),
            },
            Sees::BigBird(bigbird) if !self.sees.whole(t) => {
                let random_blocks = if odd(bigbird) { 0 } else { bigbird.random_blocks };
                let layout = BigBird { random_blocks, ..*bigbird }.layout(&sizes());
                Arc::new(Patterned::new(layout.unwrap_or_else(|e| panic!("{e}"))))
            }
            _ => all(),
        }
    }

    /// The logarithm of each key's multiplicity, for block sizes whose multiplicity the kernel does not support.
    /// Outside training, all random blocks are the first block, whose keys therefore count once more per random
    /// block. O(T²) memory, for block sizes that no published model uses.
    fn bias(&self, t: usize, device: &Device) -> Option<Tensor<4>> {
        let Sees::BigBird(bigbird) = &self.sees else { return None };
        if self.sees.whole(t) || !odd(bigbird) {
            return None;
        }
        let (block, blocks) = (bigbird.block, t.div_ceil(bigbird.block));
        let more = (1.0 + bigbird.random_blocks as f32).ln();
        let of = |i: usize, j: usize| {
            let inner = (1..blocks - 1).contains(&(i / block));
            if inner && j < block { more } else { 0.0 }
        };
        let bias: Vec<f32> = (0..t * t).map(|at| of(at / t, at % t)).collect();
        Some(Tensor::<1>::from_data(&bias[..], device).reshape([1, 1, t, t]))
    }

    /// Replaces the rows of global tokens in `out` by their full attention over their sequence, with projections of
    /// their own.
    ///
    /// If global tokens are few, keys and values are not materialised: since `q · (W x) = (Wᵀ q) · x`, one query per
    /// head and global token attends to the tokens themselves, and the result is projected afterwards.
    fn see_all(
        &self,
        projections: &GlobalProjections,
        marks: &Array2<bool>,
        x: Tensor<3>,
        mut out: Tensor<4>,
        call: &Call<'_>,
    ) -> Tensor<4> {
        let c = self.config();
        let [_, t, d] = x.dims();
        let whole = [0, t];
        for (b, marks) in marks.outer_iter().enumerate() {
            for bounds in call.packed.unwrap_or(&whole).windows(2) {
                let tokens = bounds[0]..bounds[1];
                let at: Vec<usize> = tokens.clone().filter(|t| marks[*t]).collect();
                if at.is_empty() {
                    continue;
                }
                let text = x.clone().narrow(0, b, 1).narrow(1, tokens.start, tokens.len());
                let rows: Vec<i32> = at.iter().map(|i| (i - tokens.start) as i32).collect();
                let rows = Tensor::<1, Int>::from_data(&rows[..], &x.device());
                let n = at.len();
                let q = projections.q.forward(text.clone().select(1, rows)).reshape([1, n, c.heads, c.head_dim]);
                let mut options = self.attention.options(all());
                options.keep = call.keep.map(|keep| keep.slice(s![b..b + 1, tokens.clone()]).to_owned());
                let attention =
                    |q, k, v| ops::attention(ops::Attention { q, k, v, bias: None, sinks: None, options }).0;
                let seen = if 2 * n * c.heads <= d {
                    // [H, width, d]
                    let weight = |linear: &Linear| linear.weight.full().reshape([c.heads, c.head_dim, d]);
                    let q = q.reshape([n, c.heads, c.head_dim]).swap_dims(0, 1).matmul(weight(&projections.k));
                    let q = q.swap_dims(0, 1).reshape([1, n, c.heads, d]);
                    let text = text.reshape([1, tokens.len(), 1, d]);
                    let seen = attention(q, text.clone(), text).reshape([n, c.heads, d]);
                    let seen = seen.swap_dims(0, 1).matmul(weight(&projections.v).swap_dims(1, 2)).swap_dims(0, 1);
                    let seen = seen.reshape([1, n, c.heads, c.head_dim]);
                    match &projections.v.bias {
                        Some(bias) => seen + bias.val().reshape([1, 1, c.heads, c.head_dim]),
                        None => seen,
                    }
                } else {
                    let heads = |x: Tensor<3>| x.reshape([1, tokens.len(), c.heads, c.head_dim]);
                    let (k, v) = (projections.k.forward(text.clone()), projections.v.forward(text));
                    attention(q, heads(k), heads(v))
                };
                out = put(out, b, &at, seen);
            }
        }
        out
    }
}

/// `to` with the rows `at` of sequence `b` replaced.
fn put(to: Tensor<4>, b: usize, at: &[usize], rows: Tensor<4>) -> Tensor<4> {
    let [batch, t, heads, width] = to.dims();
    let mut to = to.reshape([1, batch * t, heads, width]);
    let mut from = 0;
    while from < at.len() {
        let run = (1..at.len() - from).take_while(|n| at[from + n] == at[from] + n).count() + 1;
        to = ops::put_rows(to, rows.clone().narrow(1, from, run), b * t + at[from]);
        from += run;
    }
    to.reshape([batch, t, heads, width])
}

/// Whether the kernel does not support multiplicities for blocks of this size.
fn odd(bigbird: &BigBird) -> bool {
    !bigbird.block.is_multiple_of(16) && bigbird.random_blocks > 0
}

fn all() -> Arc<dyn Attend> {
    Arc::new(Patterned::new(Dense { causal: false }))
}
