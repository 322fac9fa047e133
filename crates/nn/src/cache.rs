//! What a model remembers of the sequences it reads: a typed state a layer.

use burn::tensor::{Device, Tensor, TensorData};

use crate::Keys;
use crate::hmt::HmtState;

/// The state of one layer: its mixer's, and the last input of a feed-forward layer that looks back on it.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// The mixer's.
    pub mixer: MixerState,
    /// `[B, 1, d]`
    pub shift: Option<Tensor<3>>,
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

impl LayerState {
    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        let shift = self.shift.as_ref().map_or(0, |x| x.shape().num_elements());
        shift
            + match &self.mixer {
                MixerState::Attention { near, sinks, .. } => near.numbers() + sinks.as_ref().map_or(0, Keys::numbers),
                MixerState::Recurrent(r) => {
                    let inputs = r.inputs.iter().map(|x| x.shape().num_elements());
                    inputs.sum::<usize>() + r.memory.shape().num_elements()
                }
            }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its tensors by name. Of sequences without padding.
    pub fn tensors(&self) -> Vec<(String, TensorData)> {
        let mut tensors: Vec<(String, TensorData)> = Vec::new();
        match &self.mixer {
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
        tensors.extend(self.shift.as_ref().map(|x| ("shift".into(), x.clone().into_data())));
        tensors
    }

    /// A state as this one, a starting one, with the tensors of another after `tokens` tokens: see [`Cache::restored`].
    pub fn restored(
        self,
        tokens: usize,
        mut find: impl FnMut(&str, &[Option<usize>]) -> Result<TensorData, String>,
    ) -> Result<Self, String> {
        let find: &mut Find<'_> = &mut find;
        let mixer = match self.mixer {
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
        };
        let shift = self.shift.map(|x| like(&x, "shift", find)).transpose()?;
        Ok(Self { mixer, shift })
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
        let mixer = match self.mixer {
            MixerState::Attention { near, sinks, seen } => {
                MixerState::Attention { near: near.map(f), sinks: sinks.map(|sinks| sinks.map(f)), seen }
            }
            MixerState::Recurrent(r) => MixerState::Recurrent(Recurrent {
                inputs: r.inputs.into_iter().map(|x| f.tensor(x)).collect(),
                memory: f.tensor(r.memory),
                seen: r.seen,
            }),
        };
        Self { mixer, shift: self.shift.map(|x| f.tensor(x)) }
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
        for layer in &mut all.layers {
            match &mut layer.mixer {
                MixerState::Recurrent(r) => r.seen = vec![r.seen[0]; batch],
                MixerState::Attention { near, .. } => assert!(near.keep().is_none(), "a state without padding"),
            }
        }
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
