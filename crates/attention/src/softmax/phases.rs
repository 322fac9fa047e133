//! Dilated patterns without gaps: the tokens of one phase of a dilation form a sequence with a band as its pattern.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array, Array1, Array3, Array4, Axis, Dimension, Slice, s};

use super::band::Band;
use super::tile::zeros;
use super::{Cotangent, Gradient, Inputs, Output, OutputView, Pattern};
use crate::{Error, Sequences};

/// The pattern of a head: a band, in steps of a dilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) band: Band,
    pub(super) dilation: usize,
}

/// Heads with the same pattern, and the groups that they read.
struct Heads {
    heads: Range<usize>,
    groups: Range<usize>,
    steps: Steps,
}

/// One phase of a call: the tokens whose positions are congruent to `phase` modulo the dilation, for some heads.
struct Phase<'a> {
    of: &'a Heads,
    phase: usize,
    /// The index of its first query, and that query's position among the keys of the phase.
    first: usize,
    offset: usize,
    /// The number of keys in all phases.
    keys: usize,
    bias: Option<Array4<f32>>,
    alibi: Option<Array1<f32>>,
    bounds: Option<Vec<usize>>,
}

fn heads(h: usize, g: usize, of: &dyn Fn(usize) -> Steps) -> Vec<Heads> {
    let per_group = h / g;
    let mut parts: Vec<Heads> = Vec::new();
    for head in 0..h {
        // Whole groups with the same pattern are merged; a group whose heads differ is split into parts of its own.
        let group = head / per_group;
        let whole = |group: usize| (group * per_group..(group + 1) * per_group).all(|h| of(h) == of(group * per_group));
        let joins = |last: &Heads| last.groups.end == group + 1 || (whole(group) && whole(group - 1));
        match parts.last_mut() {
            Some(last) if last.steps == of(head) && joins(last) => {
                last.heads.end = head + 1;
                last.groups.end = group + 1;
            }
            _ => parts.push(Heads { heads: head..head + 1, groups: group..group + 1, steps: of(head) }),
        }
    }
    parts
}

impl<'a> Phase<'a> {
    /// The phase whose first query is `first`.
    fn of<T>(x: &Inputs<'_, T>, of: &'a Heads, first: usize) -> Self {
        let step = of.steps.dilation;
        let phase = (x.offset + first) % step;
        let stride = step.min(isize::MAX as usize) as isize;
        let every = |from: usize| Slice::new(from as isize, None, stride);
        let keys = x.k.dim().1;
        let bias = x.bias.as_ref().map(|bias| {
            let heads = if bias.dim().1 == 1 { 0..1 } else { of.heads.clone() };
            let mut part = bias.slice(s![.., heads, .., ..]);
            part.slice_axis_inplace(Axis(2), every(first));
            part.slice_axis_inplace(Axis(3), every(phase.min(keys)));
            part.as_standard_layout().into_owned()
        });
        let alibi = x.alibi.as_ref().map(|alibi| alibi.slice(s![of.heads.clone()]).mapv(|m| m * step as f32));
        let bounds = match x.sequences {
            Sequences::Batch => None,
            // The number of the phase's tokens before each bound.
            Sequences::Packed(bounds) => Some(bounds.iter().map(|n| n.saturating_sub(phase).div_ceil(step)).collect()),
        };
        Self { of, phase, first, keys, offset: (x.offset + first - phase) / step, bias, alibi, bounds }
    }

    /// The index of the task whose phase contains query `i`.
    fn query(&self, i: usize) -> usize {
        i % self.of.steps.dilation
    }

    /// The index of the task whose phase contains key `j`; tasks are ordered by their first query.
    fn key(&self, j: usize) -> usize {
        let (step, place) = (self.of.steps.dilation, j % self.of.steps.dilation);
        if place >= self.phase { place - self.phase } else { place + (step - self.phase) }
    }

    fn step(&self) -> isize {
        self.of.steps.dilation.min(isize::MAX as usize) as isize
    }

    fn queries(&self) -> Slice {
        Slice::new(self.first as isize, None, self.step())
    }

    fn keys(&self) -> Slice {
        Slice::new(self.phase.min(self.keys) as isize, None, self.step())
    }

    fn inputs<'x, T>(&'x self, x: &'x Inputs<'_, T>) -> Inputs<'x, T> {
        let (heads, groups) = (self.of.heads.clone(), self.of.groups.clone());
        let mut part = Inputs {
            earlier: &[],
            q: x.q.slice(s![.., .., heads.clone(), ..]),
            k: x.k.slice(s![.., .., groups.clone(), ..]),
            v: x.v.slice(s![.., .., groups, ..]),
            scale: x.scale,
            offset: self.offset,
            softcap: x.softcap,
            bias: self.bias.as_ref().map(|bias| bias.view()),
            alibi: self.alibi.as_ref().map(|alibi| alibi.view()),
            sinks: x.sinks.as_ref().map(|sinks| sinks.slice(s![heads])),
            weights: x.weights.as_ref().map(|weights| weights.view()),
            keep: x.keep.as_ref().map(|keep| keep.view()),
            sequences: self.bounds.as_ref().map_or(Sequences::Batch, |bounds| Sequences::Packed(bounds)),
        };
        part.q.slice_axis_inplace(Axis(1), self.queries());
        part.k.slice_axis_inplace(Axis(1), self.keys());
        part.v.slice_axis_inplace(Axis(1), self.keys());
        if let Some(weights) = &mut part.weights {
            weights.slice_axis_inplace(Axis(1), self.keys());
        }
        if let Some(keep) = &mut part.keep {
            keep.slice_axis_inplace(Axis(1), self.keys());
        }
        part
    }
}

/// Checks the inputs before they are split. Returns the numbers of heads and groups.
fn check<T>(op: &'static str, x: &Inputs<'_, T>) -> Result<(usize, usize), Error> {
    let (of, groups) = x.sizes(op)?;
    if let Sequences::Packed(_) = x.sequences {
        x.sequences.ranges(op, of.batch, of.keys)?;
    }
    Ok((of.heads, groups))
}

/// Attention of each head under the pattern that `of` returns, computed by `kernel`. Dilations are at least 1.
pub(super) fn forward<T: Stored>(
    op: &'static str,
    x: &Inputs<'_, T>,
    of: &dyn Fn(usize) -> Steps,
    kernel: fn(&Inputs<'_, T>, &dyn Pattern, &Cx) -> Result<Output, Error>,
    cx: &Cx,
) -> Result<Output, Error> {
    let (h, g) = check(op, x)?;
    let (b, t, ..) = x.q.dim();
    let parts = heads(h, g, of);
    if let [part] = &parts[..]
        && part.steps.dilation == 1
    {
        return kernel(x, &part.steps.band, cx);
    }
    let e = x.v.dim().3;
    let mut out = zeros((b, t, h, e));
    let mut lse = Array3::zeros((b, t, h));
    for part in parts {
        let mut tasks = tasks(x, &part, t);
        distribute(&mut tasks, &mut out, |task| &mut task.out, |phase, i| phase.query(i));
        distribute(&mut tasks, &mut lse, |task| &mut task.lse, |phase, i| phase.query(i));
        let failed = Mutex::new(None);
        // Many phases run one per thread; few run one after another, each on all threads.
        for_each(tasks, cx, |mut task| {
            let phase = &task.phase;
            match kernel(&phase.inputs(x), &part.steps.band, cx) {
                Ok(got) => {
                    let heads = part.heads.clone();
                    task.out.put(got.out.as_slice().unwrap_or_default(), heads.start * e..heads.end * e);
                    task.lse.put(got.lse.as_slice().unwrap_or_default(), heads);
                }
                Err(error) => *lock(&failed) = Some(error),
            }
        });
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
    }
    Ok(Output { out, lse })
}

/// A phase, and the output rows that it writes.
struct Task<'p, 'o> {
    phase: Phase<'p>,
    out: Tokens<'o>,
    lse: Tokens<'o>,
    dk: Tokens<'o>,
    dv: Tokens<'o>,
}

/// The tokens of one phase of all sequences.
#[derive(Default)]
struct Tokens<'o>(Vec<&'o mut [f32]>);

impl Tokens<'_> {
    /// Writes rows to some columns.
    fn put(&mut self, rows: &[f32], columns: Range<usize>) {
        for (to, from) in self.0.iter_mut().zip(rows.chunks(columns.len().max(1))) {
            to[columns.clone()].copy_from_slice(from);
        }
    }

    /// Adds rows to some columns, or overwrites them if `first`.
    fn add(&mut self, rows: &[f32], columns: Range<usize>, first: bool) {
        if first {
            return self.put(rows, columns);
        }
        for (to, from) in self.0.iter_mut().zip(rows.chunks(columns.len().max(1))) {
            to[columns.clone()].iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }
}

fn tasks<'p, 'o, T>(x: &Inputs<'_, T>, part: &'p Heads, t: usize) -> Vec<Task<'p, 'o>> {
    let task = |first| Task {
        phase: Phase::of(x, part, first),
        out: Tokens::default(),
        lse: Tokens::default(),
        dk: Tokens::default(),
        dv: Tokens::default(),
    };
    (0..part.steps.dilation.min(t)).map(task).collect()
}

/// Distributes the tokens of `[B, T, …]` among the tasks; `of` returns a token's task.
fn distribute<'p, 'o, D: Dimension>(
    tasks: &mut [Task<'p, 'o>],
    to: &'o mut Array<f32, D>,
    field: for<'t> fn(&'t mut Task<'p, 'o>) -> &'t mut Tokens<'o>,
    of: fn(&Phase<'p>, usize) -> usize,
) {
    let (shape, Some(first)) = (to.shape().to_vec(), tasks.first()) else { return };
    let width: usize = shape[2..].iter().product();
    let places: Vec<usize> = (0..shape[1]).map(|i| of(&first.phase, i)).collect();
    let tokens = to.as_slice_mut().unwrap_or_default().chunks_mut(width.max(1));
    for (i, token) in tokens.enumerate() {
        if let Some(task) = tasks.get_mut(places[i % shape[1]]) {
            field(task).0.push(token);
        }
    }
}

/// Runs one task per thread if there are enough of them, else one after another.
fn for_each<T: Send>(tasks: Vec<T>, cx: &Cx, run: impl Fn(T) + Sync) {
    if tasks.len() < 2 * cx.team.threads() {
        tasks.into_iter().for_each(run);
    } else {
        cx.team.for_each(tasks, run);
    }
}

fn lock<T>(x: &Mutex<T>) -> MutexGuard<'_, T> {
    x.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The gradient of [`forward`].
pub(super) fn backward<T: Stored>(
    op: &'static str,
    x: &Inputs<'_, T>,
    of: &dyn Fn(usize) -> Steps,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let (h, g) = check(op, x)?;
    let t = x.q.dim().1;
    let parts = heads(h, g, of);
    if let [part] = &parts[..]
        && part.steps.dilation == 1
    {
        return super::backward(x, &part.steps.band, output, d, cx);
    }
    let mut gradient = Gradient {
        q: zeros(x.q.dim()),
        k: zeros(x.k.dim()),
        v: zeros(x.v.dim()),
        sinks: x.sinks.map(|sinks| Array1::zeros(sinks.dim())),
        bias: x.bias.map(|bias| Array4::zeros(bias.dim())),
    };
    let (width, e) = (x.q.dim().3, x.v.dim().3);
    let mut written = 0;
    for part in parts {
        let mut tasks = tasks(x, &part, t);
        distribute(&mut tasks, &mut gradient.q, |task| &mut task.out, |phase, i| phase.query(i));
        distribute(&mut tasks, &mut gradient.k, |task| &mut task.dk, |phase, j| phase.key(j));
        distribute(&mut tasks, &mut gradient.v, |task| &mut task.dv, |phase, j| phase.key(j));
        // Parts that share a group with an earlier part add to what that has written.
        let first = part.groups.start >= written;
        written = part.groups.end;
        let rest = Mutex::new(Vec::new());
        let failed = Mutex::new(None);
        for_each(tasks, cx, |mut task| {
            let phase = &task.phase;
            let heads = part.heads.clone();
            let [mut out, mut dout] = [output.out.slice(s![.., .., heads.clone(), ..]), d.out];
            dout.slice_collapse(s![.., .., heads.clone(), ..]);
            let mut lse = output.lse.slice(s![.., .., heads.clone()]);
            let mut dlse = d.lse;
            for view in [&mut out, &mut dout] {
                view.slice_axis_inplace(Axis(1), phase.queries());
            }
            lse.slice_axis_inplace(Axis(1), phase.queries());
            if let Some(dlse) = &mut dlse {
                dlse.slice_collapse(s![.., .., heads.clone()]);
                dlse.slice_axis_inplace(Axis(1), phase.queries());
            }
            let output = OutputView { out, lse };
            let d = Cotangent { out: dout, lse: dlse };
            let got = match super::backward(&phase.inputs(x), &part.steps.band, output, &d, cx) {
                Ok(got) => got,
                Err(error) => return *lock(&failed) = Some(error),
            };
            let columns = |of: &Range<usize>, width: usize| of.start * width..of.end * width;
            task.out.put(got.q.as_standard_layout().as_slice().unwrap_or_default(), columns(&heads, width));
            task.dk.add(got.k.as_standard_layout().as_slice().unwrap_or_default(), columns(&part.groups, width), first);
            task.dv.add(got.v.as_standard_layout().as_slice().unwrap_or_default(), columns(&part.groups, e), first);
            if got.sinks.is_some() || got.bias.is_some() {
                lock(&rest).push((phase.first, phase.queries(), phase.keys(), got.sinks, got.bias));
            }
        });
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        // In the order of the phases, so that the result does not depend on scheduling.
        let mut rest = rest.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        rest.sort_by_key(|(first, ..)| *first);
        for (_, queries, keys, sinks, bias) in rest {
            let heads = part.heads.clone();
            if let (Some(to), Some(got)) = (&mut gradient.sinks, &sinks) {
                let mut to = to.slice_mut(s![heads.clone()]);
                to += got;
            }
            if let (Some(to), Some(got)) = (&mut gradient.bias, &bias) {
                let heads = if to.dim().1 == 1 { 0..1 } else { heads };
                let mut to = to.slice_mut(s![.., heads, .., ..]);
                to.slice_axis_inplace(Axis(2), queries);
                to.slice_axis_inplace(Axis(3), keys);
                to += got;
            }
        }
    }
    Ok(gradient)
}
