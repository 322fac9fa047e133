//! What a model remembers of the sequences it reads: a typed state a layer.

use burn::tensor::{Device, Tensor, TensorData};

use crate::Keys;
use crate::hmt::HmtState;

/// The state of one layer: that of each branch of its block, in order.
#[derive(Clone, Debug)]
pub struct LayerState(pub Vec<BranchState>);

/// The state of a branch.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few for each layer")]
pub enum BranchState {
    /// Of an operation that reads each token by itself.
    Nothing,
    /// A mixer's.
    Mixer(MixerState),
    /// The last input of a feed-forward layer that reads the token before, `[B, 1, d]`.
    Shift(Tensor<3>),
    /// Of branches side by side.
    Parallel(Vec<BranchState>),
}

/// The state of a mixer.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful of them, one a layer")]
pub enum MixerState {
    /// Attention's.
    Attention {
        /// The keys it may still see.
        near: Keys,
        /// The first keys, where those are always seen.
        sinks: Option<Keys>,
        /// How many tokens were read.
        seen: usize,
    },
    /// Of a mechanism with a state of fixed size.
    Recurrent(Recurrent),
}

/// A state of fixed size.
#[derive(Clone, Debug)]
pub struct Recurrent {
    /// The last inputs of convolutions and token shifts, `[B, W − 1, D]` each, oldest first.
    pub inputs: Vec<Tensor<3>>,
    /// What the mechanism calls its state; axes of length 1 are put behind where it has fewer than four.
    pub memory: Tensor<4>,
    /// How many tokens of each sequence were read.
    pub seen: Vec<usize>,
}

impl Recurrent {
    /// Before the first token of `batch` sequences: zeros of the shapes `[W − 1, D]` and `[.., .., ..]` behind the batch's axis.
    pub fn zeros(batch: usize, inputs: &[[usize; 2]], [a, b, c]: [usize; 3], device: &Device) -> Self {
        Self {
            inputs: inputs.iter().map(|[w, d]| Tensor::zeros([batch, *w, *d], device)).collect(),
            memory: Tensor::zeros([batch, a, b, c], device),
            seen: vec![0; batch],
        }
    }

    /// That of one sequence of the batch.
    #[must_use]
    pub fn of_sequence(&self, i: usize) -> Self {
        Self {
            inputs: self.inputs.iter().map(|x| x.clone().narrow(0, i, 1)).collect(),
            memory: self.memory.clone().narrow(0, i, 1),
            seen: vec![self.seen[i]],
        }
    }

    /// Those of several sequences as that of their batch. Panics if there is none.
    #[must_use]
    pub fn together(states: Vec<Self>) -> Self {
        let inputs = (0..states[0].inputs.len())
            .map(|i| Tensor::cat(states.iter().map(|state| state.inputs[i].clone()).collect(), 0))
            .collect();
        let memory = Tensor::cat(states.iter().map(|state| state.memory.clone()).collect(), 0);
        Self { inputs, memory, seen: states.into_iter().flat_map(|state| state.seen).collect() }
    }
}

/// Finds a tensor by its name, of the shape given where that is fixed.
pub(crate) type Find<'a> = dyn FnMut(&str, &[Option<usize>]) -> Result<TensorData, String> + 'a;

fn like<const D: usize>(x: &Tensor<D>, name: &str, find: &mut Find<'_>) -> Result<Tensor<D>, String> {
    Ok(Tensor::from_data(find(name, &x.dims().map(Some))?, &x.device()))
}

/// Keys and values as `of`, a starting row, has them, at most `most`.
pub(crate) fn keys(of: &Keys, [k, v]: [&str; 2], most: usize, find: &mut Find<'_>) -> Result<Keys, String> {
    let rows = |x: &Tensor<4>| x.dims().iter().enumerate().map(|(axis, n)| (axis != 1).then_some(*n)).collect();
    let [of_k, of_v] = of.get();
    let (shape_k, shape_v): (Vec<_>, Vec<_>) = (rows(&of_k), rows(&of_v));
    let found: [Tensor<4>; 2] =
        [Tensor::from_data(find(k, &shape_k)?, &of_k.device()), Tensor::from_data(find(v, &shape_v)?, &of_v.device())];
    let [of_keys, of_values] = [&found[0], &found[1]].map(|x| x.dims()[1]);
    if of_keys != of_values || of_keys > most {
        return Err(format!("`{k}` has {of_keys} rows and `{v}` {of_values}: want as many, at most {most}"));
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

    /// How many mixers there are in it.
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

    /// Its tensors, with names that begin with `path` where it has tensors of its own.
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

    /// After [`Repeat`]: the positions of `batch` sequences, which are those of the first.
    fn repeat_positions(&mut self, batch: usize) {
        match self {
            BranchState::Mixer(MixerState::Recurrent(r)) => r.seen = vec![r.seen[0]; batch],
            BranchState::Mixer(MixerState::Attention { near, .. }) => {
                assert!(near.keep().is_none(), "a state without padding");
            }
            BranchState::Parallel(branches) => branches.iter_mut().for_each(|b| b.repeat_positions(batch)),
            BranchState::Nothing | BranchState::Shift(_) => {}
        }
    }
}

/// The path of the `i`th part of a state.
fn within(path: &str, i: usize) -> String {
    format!("{path}{i}.")
}

impl LayerState {
    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        self.0.iter().map(BranchState::len).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path of a branch's tensors: none where the layer has one mixer at most, so that names need none.
    fn path(&self, i: usize) -> String {
        let mixers: usize = self.0.iter().map(BranchState::mixers).sum();
        if mixers <= 1 && !matches!(self.0[i], BranchState::Parallel(_)) { String::new() } else { within("", i) }
    }

    /// Its tensors by name. Of sequences without padding.
    pub fn tensors(&self) -> Vec<(String, TensorData)> {
        let mut tensors = Vec::new();
        self.0.iter().enumerate().for_each(|(i, branch)| branch.tensors(&self.path(i), &mut tensors));
        tensors
    }

    /// A state as this one, a starting one, with the tensors of another after `tokens` tokens: see [`Cache::restored`].
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
    /// A state a layer, in order.
    pub layers: Vec<LayerState>,
    /// Of a hierarchical memory around the layers.
    pub hmt: Option<HmtState>,
    /// What layers added to the loss since it was last taken, where they learn by one of their own, `[1]`.
    pub loss: Option<Tensor<1>>,
    /// How many sequences.
    pub batch: usize,
}

/// Cuts the graph behind every tensor.
struct Cut;

impl OnTensors for Cut {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        x.detach()
    }
}

/// As many of every tensor, one behind the other.
struct Repeat(usize);

impl OnTensors for Repeat {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        x.repeat_dim(0, self.0)
    }
}

/// Something done to every tensor of a state, in an order that is always the same.
pub trait OnTensors {
    /// Done to one.
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
    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| 4 * layer.len()).sum::<usize>() + self.hmt.as_ref().map_or(0, HmtState::bytes)
    }

    /// With something done to every tensor that is carried on.
    #[must_use]
    pub fn map(self, f: &mut impl OnTensors) -> Self {
        Self {
            layers: self.layers.into_iter().map(|layer| layer.map(f)).collect(),
            hmt: self.hmt.map(|hmt| hmt.map(f)),
            loss: self.loss,
            batch: self.batch,
        }
    }

    /// The same, with nothing flowing back from it.
    #[must_use]
    pub fn detached(self) -> Self {
        self.map(&mut Cut)
    }

    /// That of one sequence for `batch` that have all read the same. Panics on one of several, or with padding.
    #[must_use]
    pub fn repeated(self, batch: usize) -> Self {
        assert_eq!(self.batch, 1, "the state of one sequence");
        let mut all = self.map(&mut Repeat(batch));
        all.layers.iter_mut().flat_map(|layer| &mut layer.0).for_each(|branch| branch.repeat_positions(batch));
        if let Some(hmt) = &mut all.hmt {
            hmt.tail = vec![hmt.tail[0].clone(); batch];
        }
        Self { batch, ..all }
    }

    /// All its tensors by name: what [`Cache::restored`] needs. Of sequences without padding.
    pub fn tensors(&self) -> Vec<(String, TensorData)> {
        let layer = |(i, layer): (usize, &LayerState)| {
            layer.tensors().into_iter().map(move |(name, data)| (format!("layers.{i}.{name}"), data))
        };
        let mut tensors: Vec<_> = self.layers.iter().enumerate().flat_map(layer).collect();
        tensors.extend(self.hmt.iter().flat_map(HmtState::tensors));
        tensors
    }

    /// A state as this one, a starting one, with the tensors of another after `tokens` tokens. `find` finds a tensor by name whose shape is the one
    /// given, where that says so.
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
