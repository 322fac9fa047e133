//! The state of a whole model for a batch of sequences.

use std::fmt;

use burn::tensor::{DType, Tensor, TensorData};
use half::f16;

use super::KvDtype;
use super::layer::{LayerState, transposed};
use crate::hmt::HmtState;

/// Why a saved state cannot be restored: a tensor is missing or does not fit. Displays as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError(pub String);

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StateError {}

/// Looks up a tensor by name. An axis of the expected shape is `None` if its length is not fixed.
pub(crate) type Find<'a> = dyn FnMut(&str, &[Option<usize>]) -> Result<TensorData, StateError> + 'a;

/// Looks up a tensor of a fixed shape.
pub(crate) fn lookup(name: &str, shape: &[usize], find: &mut Find<'_>) -> Result<TensorData, StateError> {
    find(name, &shape.iter().copied().map(Some).collect::<Vec<_>>())
}

/// A tensor of a state, to be saved.
#[derive(Clone, Debug)]
pub struct StateTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// f32, or bf16 for keys and values that are stored so, or f16 for the words of Q8_0 blocks.
    pub dtype: DType,
    /// Its values in order, flattened. They share memory with the state.
    pieces: Vec<Tensor<1>>,
}

impl StateTensor {
    /// A whole tensor.
    pub(crate) fn of<const D: usize>(name: String, x: Tensor<D>) -> Self {
        Self { name, shape: x.dims().to_vec(), dtype: x.dtype(), pieces: vec![flat(x)] }
    }

    /// A vector that belongs to no layer.
    pub fn vector(name: &str, numbers: &[f32]) -> Self {
        let device = longreach_burn::cpu();
        Self::of(name.to_owned(), Tensor::<1>::from_data(TensorData::new(numbers.to_vec(), [numbers.len()]), &device))
    }

    /// A tensor `[1, n, G, D]`, in pieces along its second axis.
    pub(crate) fn pieces(name: String, pieces: Vec<Tensor<4>>) -> Self {
        let mut shape = pieces[0].dims().to_vec();
        shape[1] = pieces.iter().map(|x| x.dims()[1]).sum();
        Self { name, shape, dtype: pieces[0].dtype(), pieces: pieces.into_iter().map(flat).collect() }
    }

    /// Its values in pieces; each is copied out of the state when it is asked for.
    pub fn data(&self) -> impl Iterator<Item = TensorData> + '_ {
        self.pieces.iter().map(|x| x.clone().into_data())
    }

    /// All its values, in f32; the words of Q8_0 blocks as they are.
    pub fn whole(&self) -> TensorData {
        if self.dtype == DType::F16 {
            let words: Vec<f16> = self.data().flat_map(|data| data.iter::<f16>().collect::<Vec<_>>()).collect();
            return TensorData::new(words, self.shape.clone());
        }
        let numbers: Vec<f32> = self.data().flat_map(|data| data.iter::<f32>().collect::<Vec<_>>()).collect();
        TensorData::new(numbers, self.shape.clone())
    }
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n = x.shape().num_elements();
    if n == 0 { Tensor::zeros([0], (&x.device(), x.dtype())) } else { x.reshape([n]) }
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

/// An operation on every tensor of a state. The tensors are visited in a fixed order.
pub trait OnTensors {
    /// Maps one tensor.
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D>;
}

impl Cache {
    /// The size of the state in bytes, including the unused capacity of cached keys. Memory that several states share
    /// counts in each.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerState::bytes).sum::<usize>() + self.hmt.as_ref().map_or(0, HmtState::bytes)
    }

    /// The same state, whose cached keys and values are stored in `dtype`: for initial states, or to go on in another type.
    #[must_use]
    pub fn with_keys_in(self, dtype: KvDtype) -> Self {
        Self { layers: self.layers.into_iter().map(|layer| layer.with_keys_in(dtype)).collect(), ..self }
    }

    /// The number of tokens read of each sequence; zeros if no layer has a state.
    pub fn positions(&self) -> Vec<usize> {
        let of_layers =
            || self.layers.iter().flat_map(LayerState::states).next().map(|state| state.positions().to_vec());
        let of_hmt = self.hmt.as_ref().map(HmtState::positions);
        of_hmt.or_else(of_layers).unwrap_or_else(|| vec![0; self.batch])
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

    /// The states of the sequences `rows`, in this order. Sequences that are not listed leave the batch; one that is
    /// listed several times is forked. Panics if a row is out of range.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            layers: self.layers.iter().map(|layer| layer.select(rows)).collect(),
            hmt: self.hmt.as_ref().map(|hmt| hmt.select(rows)),
            loss: None,
            batch: rows.len(),
        }
    }

    /// One batch of the sequences of several states of one model, in order; they may have read different numbers of
    /// tokens. Panics if there are no states, or if they belong to different models.
    #[must_use]
    pub fn join(caches: impl IntoIterator<Item = Self>) -> Self {
        let caches: Vec<Self> = caches.into_iter().collect();
        let batch = caches.iter().map(|cache| cache.batch).sum();
        let (mut layers, mut memories) = (Vec::new(), Vec::new());
        for cache in caches {
            layers.push(cache.layers);
            memories.extend(cache.hmt);
        }
        Self {
            layers: transposed(layers.into_iter()).map(LayerState::join).collect(),
            hmt: (!memories.is_empty()).then(|| HmtState::join(memories)),
            loss: None,
            batch,
        }
    }

    /// The tensors of a single sequence by name, as [`Cache::restored`] needs them. Panics unless there is one
    /// sequence: [`Cache::select`] one.
    pub fn tensors(&self) -> Vec<StateTensor> {
        assert_eq!(self.batch, 1, "the state of one sequence can be saved");
        let mut tensors = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            layer.append_tensors(&format!("layers.{i}."), &mut tensors);
        }
        tensors.extend(self.hmt.iter().flat_map(HmtState::tensors));
        tensors
    }

    /// Restores the state of a single sequence from the tensors saved after `tokens` tokens; `self` is an initial
    /// state. `find` returns a tensor by name, whose shape must match the axes that are given. Errors if a tensor is
    /// missing or does not fit.
    pub fn restored(
        self,
        tokens: usize,
        mut find: impl FnMut(&str, &[Option<usize>]) -> Result<TensorData, StateError>,
    ) -> Result<Self, StateError> {
        let hmt = self.hmt.map(|hmt| hmt.restored(tokens, &mut find)).transpose()?;
        let within = hmt.as_ref().map_or(tokens, HmtState::within);
        let layers = self.layers.into_iter().enumerate();
        let layers =
            layers.map(|(i, layer)| layer.restored(within, |name, shape| find(&format!("layers.{i}.{name}"), shape)));
        Ok(Self { layers: layers.collect::<Result<_, _>>()?, hmt, loss: None, batch: self.batch })
    }
}
