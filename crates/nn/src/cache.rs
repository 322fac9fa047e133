//! The state of a model: what it keeps of the sequences it has read, as one typed state per layer.

use burn::tensor::{Device, Tensor, TensorData};

use crate::Keys;
use crate::hmt::HmtState;

/// The state of one layer: the state of each branch of its block, in order.
#[derive(Clone, Debug)]
pub struct LayerState(pub Vec<BranchState>);

/// The state of a branch.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few per layer")]
pub enum BranchState {
    /// No state: the operation reads each token by itself.
    Nothing,
    /// The state of a mixer.
    Mixer(MixerState),
    /// The last input of a feed-forward layer with token shift, `[B, 1, d]`.
    Shift(Tensor<3>),
    /// The states of parallel branches.
    Parallel(Vec<BranchState>),
}

/// The state of a mixer.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per layer")]
pub enum MixerState {
    /// The state of softmax attention.
    Attention {
        /// The cached keys and values that later queries may attend to.
        near: Keys,
        /// The keys and values of the first tokens, if the mixer attends to them as sinks.
        sinks: Option<Keys>,
        /// The number of tokens read.
        seen: usize,
    },
    /// The state of a mechanism whose state has a fixed size.
    Recurrent(Recurrent),
}

/// A state of fixed size.
#[derive(Clone, Debug)]
pub struct Recurrent {
    /// Past inputs of the layer, oldest first: those of short convolutions and token shifts, `[B, W − 1, D]` each, or
    /// the rows of a memory.
    pub inputs: Vec<Tensor<3>>,
    /// The state of the mechanism. Axes of length 1 are appended if it has fewer than four.
    pub memory: Tensor<4>,
    /// The number of tokens read of each sequence.
    pub seen: Vec<usize>,
}

impl Recurrent {
    /// The initial state of `batch` sequences: zeros of the shapes `[B, W − 1, D]` and `[B, a, b, c]`.
    pub fn zeros(batch: usize, inputs: &[[usize; 2]], [a, b, c]: [usize; 3], device: &Device) -> Self {
        Self {
            inputs: inputs.iter().map(|[w, d]| Tensor::zeros([batch, *w, *d], device)).collect(),
            memory: Tensor::zeros([batch, a, b, c], device),
            seen: vec![0; batch],
        }
    }

    /// The state of sequence `i` of the batch.
    #[must_use]
    pub fn of_sequence(&self, i: usize) -> Self {
        Self {
            inputs: self.inputs.iter().map(|x| x.clone().narrow(0, i, 1)).collect(),
            memory: self.memory.clone().narrow(0, i, 1),
            seen: vec![self.seen[i]],
        }
    }

    /// Concatenates the states of several sequences along the batch axis. Panics if there are none.
    #[must_use]
    pub fn together(states: Vec<Self>) -> Self {
        let inputs = (0..states[0].inputs.len())
            .map(|i| Tensor::cat(states.iter().map(|state| state.inputs[i].clone()).collect(), 0))
            .collect();
        let memory = Tensor::cat(states.iter().map(|state| state.memory.clone()).collect(), 0);
        Self { inputs, memory, seen: states.into_iter().flat_map(|state| state.seen).collect() }
    }
}

/// Looks up a tensor by name. An axis of the expected shape is `None` if its length is not fixed.
pub(crate) type Find<'a> = dyn FnMut(&str, &[Option<usize>]) -> Result<TensorData, String> + 'a;

fn like<const D: usize>(x: &Tensor<D>, name: &str, find: &mut Find<'_>) -> Result<Tensor<D>, String> {
    Ok(Tensor::from_data(find(name, &x.dims().map(Some))?, &x.device()))
}

/// Restores keys and values with the shape of the initial state `of`; at most `most` rows.
pub(crate) fn keys(of: &Keys, [k, v]: [&str; 2], most: usize, find: &mut Find<'_>) -> Result<Keys, String> {
    let rows = |x: &Tensor<4>| x.dims().iter().enumerate().map(|(axis, n)| (axis != 1).then_some(*n)).collect();
    let [of_k, of_v] = of.get();
    let (shape_k, shape_v): (Vec<_>, Vec<_>) = (rows(&of_k), rows(&of_v));
    let found: [Tensor<4>; 2] =
        [Tensor::from_data(find(k, &shape_k)?, &of_k.device()), Tensor::from_data(find(v, &shape_v)?, &of_v.device())];
    let [of_keys, of_values] = [&found[0], &found[1]].map(|x| x.dims()[1]);
    if of_keys != of_values || of_keys > most {
        return Err(format!("`{k}` has {of_keys} rows and `{v}` {of_values}: want equal numbers, at most {most}"));
    }
    let [k, v] = found;
    Ok(Keys::of(k, v, None))
}

impl MixerState {
    fn len(&self) -> usize {
        match self {
            MixerState::Attention { near, sinks, .. } => near.numbers() + sinks.as_ref().map_or(0, Keys::numbers),
            MixerState::Recurrent(r) => {
                let inputs = r.inputs.iter().map(|x| x.shape().num_elements());
                inputs.sum::<usize>() + r.memory.shape().num_elements()
            }
        }
    }

    fn tensors(&self) -> Vec<(String, TensorData)> {
        let mut tensors: Vec<(String, TensorData)> = Vec::new();
        match self {
            MixerState::Attention { near, sinks, .. } => {
                let [k, v] = near.get().map(Tensor::into_data);
                tensors.extend([("k".into(), k), ("v".into(), v)]);
                if let Some(sinks) = sinks {
                    let [k, v] = sinks.get().map(Tensor::into_data);
                    tensors.extend([("sink_k".into(), k), ("sink_v".into(), v)]);
                }
            }
            MixerState::Recurrent(r) => {
                let inputs = r.inputs.iter().enumerate();
                tensors.extend(inputs.map(|(i, x)| (format!("inputs.{i}"), x.clone().into_data())));
                tensors.push(("memory".into(), r.memory.clone().into_data()));
            }
        }
        tensors
    }

    fn restored(self, tokens: usize, find: &mut Find<'_>) -> Result<Self, String> {
        Ok(match self {
            MixerState::Attention { near, sinks, .. } => {
                let near = keys(&near, ["k", "v"], tokens, find)?;
                let sinks = sinks.map(|sinks| keys(&sinks, ["sink_k", "sink_v"], tokens, find)).transpose()?;
                MixerState::Attention { near, sinks, seen: tokens }
            }
            MixerState::Recurrent(r) => {
                let inputs = r.inputs.iter().enumerate();
                MixerState::Recurrent(Recurrent {
                    inputs: inputs.map(|(i, x)| like(x, &format!("inputs.{i}"), find)).collect::<Result<_, _>>()?,
                    memory: like(&r.memory, "memory", find)?,
                    seen: vec![tokens; r.seen.len()],
                })
            }
        })
    }

    fn map(self, f: &mut impl OnTensors) -> Self {
        match self {
            MixerState::Attention { near, sinks, seen } => {
                MixerState::Attention { near: near.map(f), sinks: sinks.map(|sinks| sinks.map(f)), seen }
            }
            MixerState::Recurrent(r) => MixerState::Recurrent(Recurrent {
                inputs: r.inputs.into_iter().map(|x| f.tensor(x)).collect(),
                memory: f.tensor(r.memory),
                seen: r.seen,
            }),
        }
    }
}

impl BranchState {
    fn len(&self) -> usize {
        match self {
            BranchState::Nothing => 0,
            BranchState::Mixer(mixer) => mixer.len(),
            BranchState::Shift(x) => x.shape().num_elements(),
            BranchState::Parallel(branches) => branches.iter().map(Self::len).sum(),
        }
    }

    /// The number of mixers in this branch.
    fn mixers(&self) -> usize {
        match self {
            BranchState::Mixer(_) => 1,
            BranchState::Parallel(branches) => branches.iter().map(Self::mixers).sum(),
            BranchState::Nothing | BranchState::Shift(_) => 0,
        }
    }

    /// The state of the first mixer.
    pub(crate) fn first(&self) -> Option<&MixerState> {
        match self {
            BranchState::Mixer(mixer) => Some(mixer),
            BranchState::Parallel(branches) => branches.iter().find_map(Self::first),
            BranchState::Nothing | BranchState::Shift(_) => None,
        }
    }

    /// Appends its tensors; `path` is the prefix of their names.
    fn tensors(&self, path: &str, to: &mut Vec<(String, TensorData)>) {
        match self {
            BranchState::Nothing => {}
            BranchState::Mixer(mixer) => {
                to.extend(mixer.tensors().into_iter().map(|(name, data)| (format!("{path}{name}"), data)));
            }
            BranchState::Shift(x) => to.push((format!("{path}shift"), x.clone().into_data())),
            BranchState::Parallel(branches) => {
                branches.iter().enumerate().for_each(|(i, branch)| branch.tensors(&within(path, i), to));
            }
        }
    }

    fn restored(self, tokens: usize, path: &str, find: &mut Find<'_>) -> Result<Self, String> {
        let mut named = |name: &str, shape: &[Option<usize>]| find(&format!("{path}{name}"), shape);
        Ok(match self {
            BranchState::Nothing => BranchState::Nothing,
            BranchState::Mixer(mixer) => BranchState::Mixer(mixer.restored(tokens, &mut named)?),
            BranchState::Shift(x) => BranchState::Shift(like(&x, "shift", &mut named)?),
            BranchState::Parallel(branches) => {
                let branches = branches.into_iter().enumerate();
                let branches = branches.map(|(i, branch)| branch.restored(tokens, &within(path, i), find));
                BranchState::Parallel(branches.collect::<Result<_, _>>()?)
            }
        })
    }

    fn map(self, f: &mut impl OnTensors) -> Self {
        match self {
            BranchState::Nothing => BranchState::Nothing,
            BranchState::Mixer(mixer) => BranchState::Mixer(mixer.map(f)),
            BranchState::Shift(x) => BranchState::Shift(f.tensor(x)),
            BranchState::Parallel(branches) => {
                BranchState::Parallel(branches.into_iter().map(|branch| branch.map(f)).collect())
            }
        }
    }

    /// Applied after [`Repeat`]: copies the positions of the first sequence to all `batch` sequences.
    fn repeat_positions(&mut self, batch: usize) {
        match self {
            BranchState::Mixer(MixerState::Recurrent(r)) => r.seen = vec![r.seen[0]; batch],
            BranchState::Mixer(MixerState::Attention { near, .. }) => {
                assert!(near.keep().is_none(), "only a state without padding can be repeated");
            }
            BranchState::Parallel(branches) => branches.iter_mut().for_each(|b| b.repeat_positions(batch)),
            BranchState::Nothing | BranchState::Shift(_) => {}
        }
    }
}

/// The path of part `i` of a state.
fn within(path: &str, i: usize) -> String {
    format!("{path}{i}.")
}

impl LayerState {
    /// The number of elements it holds.
    pub fn len(&self) -> usize {
        self.0.iter().map(BranchState::len).sum()
    }

    /// Whether it holds no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path of the tensors of branch `i`; empty if the layer has at most one mixer.
    fn path(&self, i: usize) -> String {
        let mixers: usize = self.0.iter().map(BranchState::mixers).sum();
        if mixers <= 1 && !matches!(self.0[i], BranchState::Parallel(_)) { String::new() } else { within("", i) }
    }

    /// Its tensors by name. Padding marks are not saved: the sequences must contain no padding.
    pub fn tensors(&self) -> Vec<(String, TensorData)> {
        let mut tensors = Vec::new();
        self.0.iter().enumerate().for_each(|(i, branch)| branch.tensors(&self.path(i), &mut tensors));
        tensors
    }

    /// Restores a state from the tensors saved after `tokens` tokens; `self` is an initial state: see
    /// [`Cache::restored`]. Errors if a tensor is missing or does not fit.
    pub fn restored(
        self,
        tokens: usize,
        mut find: impl FnMut(&str, &[Option<usize>]) -> Result<TensorData, String>,
    ) -> Result<Self, String> {
        let find: &mut Find<'_> = &mut find;
        let paths: Vec<String> = (0..self.0.len()).map(|i| self.path(i)).collect();
        let branches = self.0.into_iter().zip(paths).map(|(branch, path)| branch.restored(tokens, &path, find));
        Ok(Self(branches.collect::<Result<_, _>>()?))
    }
}

/// The state of a whole model for a batch of sequences.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The state of each layer, in order.
    pub layers: Vec<LayerState>,
    /// The state of the hierarchical memory around the layers, if there is one.
    pub hmt: Option<HmtState>,
    /// The sum of the auxiliary losses of the layers since it was last taken, `[1]`; `None` if no layer has one.
    pub loss: Option<Tensor<1>>,
    /// The number of sequences.
    pub batch: usize,
}

/// Detaches every tensor from its graph.
struct Cut;

impl OnTensors for Cut {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        x.detach()
    }
}

/// Repeats every tensor along the batch axis.
struct Repeat(usize);

impl OnTensors for Repeat {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        x.repeat_dim(0, self.0)
    }
}

/// An operation on every tensor of a state. The tensors are visited in a fixed order.
pub trait OnTensors {
    /// Maps one tensor.
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D>;
}

impl Keys {
    pub(crate) fn map(self, f: &mut impl OnTensors) -> Self {
        let keep = self.keep().cloned();
        let [k, v] = self.get();
        Keys::of(f.tensor(k), f.tensor(v), keep)
    }
}

impl LayerState {
    fn map(self, f: &mut impl OnTensors) -> Self {
        Self(self.0.into_iter().map(|branch| branch.map(f)).collect())
    }
}

impl Cache {
    /// The size of the state in bytes.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| 4 * layer.len()).sum::<usize>() + self.hmt.as_ref().map_or(0, HmtState::bytes)
    }

    /// Applies `f` to every tensor of the state.
    #[must_use]
    pub fn map(self, f: &mut impl OnTensors) -> Self {
        Self {
            layers: self.layers.into_iter().map(|layer| layer.map(f)).collect(),
            hmt: self.hmt.map(|hmt| hmt.map(f)),
            loss: self.loss,
            batch: self.batch,
        }
    }

    /// Detaches the state from its graph: no gradient flows back through it.
    #[must_use]
    pub fn detached(self) -> Self {
        self.map(&mut Cut)
    }

    /// Repeats the state of one sequence for a batch of `batch` sequences. Panics if the state has several sequences
    /// or padding.
    #[must_use]
    pub fn repeated(self, batch: usize) -> Self {
        assert_eq!(self.batch, 1, "only the state of a single sequence can be repeated");
        let mut all = self.map(&mut Repeat(batch));
        all.layers.iter_mut().flat_map(|layer| &mut layer.0).for_each(|branch| branch.repeat_positions(batch));
        if let Some(hmt) = &mut all.hmt {
            hmt.tail = vec![hmt.tail[0].clone(); batch];
        }
        Self { batch, ..all }
    }

    /// All its tensors by name, as [`Cache::restored`] needs them. Padding marks are not saved: the sequences must
    /// contain no padding.
    pub fn tensors(&self) -> Vec<(String, TensorData)> {
        let layer = |(i, layer): (usize, &LayerState)| {
            layer.tensors().into_iter().map(move |(name, data)| (format!("layers.{i}.{name}"), data))
        };
        let mut tensors: Vec<_> = self.layers.iter().enumerate().flat_map(layer).collect();
        tensors.extend(self.hmt.iter().flat_map(HmtState::tensors));
        tensors
    }

    /// Restores the state of a model from the tensors saved after `tokens` tokens; `self` is an initial state. `find`
    /// returns a tensor by name, whose shape must match the axes that are given. Errors if a tensor is missing or
    /// does not fit.
    pub fn restored(
        self,
        tokens: usize,
        mut find: impl FnMut(&str, &[Option<usize>]) -> Result<TensorData, String>,
    ) -> Result<Self, String> {
        let hmt = self.hmt.map(|hmt| hmt.restored(tokens, &mut find)).transpose()?;
        let within = hmt.as_ref().map_or(tokens, HmtState::within);
        let layers = self.layers.into_iter().enumerate();
        let layers =
            layers.map(|(i, layer)| layer.restored(within, |name, shape| find(&format!("layers.{i}.{name}"), shape)));
        Ok(Self { layers: layers.collect::<Result<_, _>>()?, hmt, loss: None, batch: self.batch })
    }
}
