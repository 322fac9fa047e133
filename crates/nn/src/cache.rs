//! What a model remembers of the sequences it reads: a typed state a layer.

use burn::tensor::Tensor;

/// The state of one layer.
#[derive(Clone, Debug)]
pub enum LayerState {
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
            LayerState::Mamba { conv, scan } => conv.shape().num_elements() + scan.shape().num_elements(),
            LayerState::Mamba2 { conv, scan } => conv.shape().num_elements() + scan.shape().num_elements(),
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
