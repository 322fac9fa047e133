//! What a model remembers of the sequences it reads: a typed state a layer.

use burn::tensor::{Tensor, TensorData};

use crate::Keys;

/// The state of one layer.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful of them, one a layer")]
pub enum LayerState {
    /// An attention mixer's.
    Attention {
        /// The keys it may still see.
        near: Keys,
        /// The first keys, where those are always seen.
        sinks: Option<Keys>,
        /// How many tokens were read.
        seen: usize,
    },
    /// A Mamba mixer's.
    Mamba {
        /// The convolution's last inputs, `[B, W - 1, D]`
        conv: Tensor<3>,
        /// `[B, N, D]`
        scan: Tensor<3>,
    },
    /// A Mamba-2 mixer's.
    Mamba2 {
        /// The convolution's last inputs, `[B, W - 1, D + 2 G N]`
        conv: Tensor<3>,
        /// `[B, H, N, P]`
        scan: Tensor<4>,
    },
}

impl LayerState {
    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        match self {
            LayerState::Attention { near, sinks, .. } => near.numbers() + sinks.as_ref().map_or(0, Keys::numbers),
            LayerState::Mamba { conv, scan } => conv.shape().num_elements() + scan.shape().num_elements(),
            LayerState::Mamba2 { conv, scan } => conv.shape().num_elements() + scan.shape().num_elements(),
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its tensors by name: all that [`LayerState::restored`] needs. Of sequences without padding.
    pub fn tensors(&self) -> Vec<(&'static str, TensorData)> {
        match self {
            LayerState::Attention { near, sinks, .. } => {
                let [k, v] = near.get().map(Tensor::into_data);
                let mut tensors = vec![("k", k), ("v", v)];
                if let Some(sinks) = sinks {
                    let [k, v] = sinks.get().map(Tensor::into_data);
                    tensors.extend([("sink_k", k), ("sink_v", v)]);
                }
                tensors
            }
            LayerState::Mamba { conv, scan } => {
                vec![("conv", conv.clone().into_data()), ("scan", scan.clone().into_data())]
            }
            LayerState::Mamba2 { conv, scan } => {
                vec![("conv", conv.clone().into_data()), ("scan", scan.clone().into_data())]
            }
        }
    }

    /// A state as this one, a starting one, with the tensors of another after `tokens` tokens. `get` finds a tensor by name whose shape is the one
    /// given, where that says so.
    pub fn restored(
        self,
        tokens: usize,
        mut get: impl FnMut(&'static str, &[Option<usize>]) -> Result<TensorData, String>,
    ) -> Result<Self, String> {
        fn like<const D: usize>(
            x: &Tensor<D>,
            name: &'static str,
            get: &mut impl FnMut(&'static str, &[Option<usize>]) -> Result<TensorData, String>,
        ) -> Result<Tensor<D>, String> {
            Ok(Tensor::from_data(get(name, &x.dims().map(Some))?, &x.device()))
        }
        let mut keys = |of: &Keys, [k, v]: [&'static str; 2], most: usize| {
            let rows = |x: &Tensor<4>| x.dims().iter().enumerate().map(|(axis, n)| (axis != 1).then_some(*n)).collect();
            let [of_k, of_v] = of.get();
            let (shape_k, shape_v): (Vec<_>, Vec<_>) = (rows(&of_k), rows(&of_v));
            let found: [Tensor<4>; 2] = [
                Tensor::from_data(get(k, &shape_k)?, &of_k.device()),
                Tensor::from_data(get(v, &shape_v)?, &of_v.device()),
            ];
            let [of_keys, of_values] = [&found[0], &found[1]].map(|x| x.dims()[1]);
            if of_keys != of_values || of_keys > most {
                return Err(format!("`{k}` has {of_keys} rows and `{v}` {of_values}: want as many, at most {most}"));
            }
            let [k, v] = found;
            Ok(Keys::of(k, v, None))
        };
        Ok(match self {
            LayerState::Attention { near, sinks, .. } => {
                let near = keys(&near, ["k", "v"], tokens)?;
                let sinks = sinks.map(|sinks| keys(&sinks, ["sink_k", "sink_v"], tokens)).transpose()?;
                LayerState::Attention { near, sinks, seen: tokens }
            }
            LayerState::Mamba { conv, scan } => {
                LayerState::Mamba { conv: like(&conv, "conv", &mut get)?, scan: like(&scan, "scan", &mut get)? }
            }
            LayerState::Mamba2 { conv, scan } => {
                LayerState::Mamba2 { conv: like(&conv, "conv", &mut get)?, scan: like(&scan, "scan", &mut get)? }
            }
        })
    }
}

/// The state of a whole model for a batch of sequences.
#[derive(Clone, Debug)]
pub struct Cache {
    /// A state a layer, in order.
    pub layers: Vec<LayerState>,
    /// How many sequences.
    pub batch: usize,
}

impl Cache {
    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| 4 * layer.len()).sum()
    }
}
