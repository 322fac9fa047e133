//! Layers of long-sequence models, and the decoders and encoders built from them.
//!
//! A module is built by a [`Builder`], which requests each weight by name from a [`Source`]: a checkpoint returns the
//! tensors of its files, [`Random`] returns an initialisation. One definition of a model therefore serves loading and
//! training.
//!
//! Shapes: tokens are `[B, T, d]`. State is passed in and returned explicitly, in a [`Cache`].
//!
//! ```
//! use longreach_nn::mixers::{AttentionConfig, MixerConfig};
//! use longreach_nn::{BlockConfig, BranchConfig, Builder, Decoder, DecoderConfig, DecoderNames, NormConfig, Random};
//!
//! let mixer = MixerConfig::Attention(AttentionConfig::new(24, 3));
//! let block = BlockConfig::new(vec![BranchConfig::mixer("mixer", mixer).before("norm", NormConfig::Rms(1e-5))]);
//! let names = DecoderNames::new(["body", "embedding", "blocks", "head"]);
//! let config = DecoderConfig::new([50, 24], vec![block.clone(), block], names);
//! let decoder = Decoder::new(&mut Builder::new(&mut Random::new(1), &longreach_burn::cpu()), &config)?;
//!
//! let mut cache = decoder.start(1);
//! let hidden = decoder.forward(&[3, 1, 4], &mut cache, None);
//! assert_eq!(decoder.logits(hidden).dims(), [1, 3, 50]);
//! # Ok::<(), longreach_nn::Error>(())
//! ```

mod adaptive;
mod block;
mod body;
mod builder;
mod channel_mix;
mod conv;
mod cut;
mod decoder;
mod dropout;
mod encoder;
mod experts;
mod feed_forward;
mod heads;
mod hmt;
mod inputs;
mod linear;
mod low_rank;
pub mod mixers;
mod norm;
mod packed;
mod padding;
mod per_layer;
mod random;
mod recompute;
mod reformer;
mod reversible;
mod rotary;
mod segments;
mod state;
mod streaming;
mod weight;
mod words;
mod zamba;

pub use adaptive::{Adaptive, AdaptiveConfig};
pub use block::{Block, BlockConfig, Branch, BranchConfig, NamedNorm, Operation, OperationConfig, ResidualConfig};
pub use body::{Body, BodyConfig};
pub use builder::{Builder, Error, Init, Layout, Names, Precision, Source, Spec, Update};
pub use channel_mix::{ChannelMix, ChannelMixConfig, ChannelMixNames};
pub use conv::ShortConv;
pub use cut::{ARITHMETIC, Calls, Cut};
pub use decoder::{Between, Decoder, DecoderConfig, DecoderNames, Moment};
pub use dropout::Dropout;
pub use encoder::{
    Encoder, EncoderBlock, EncoderBlockConfig, EncoderConfig, EncoderNames, NystromConfig, Positions, Reading, Sees,
    SelfAttention,
};
pub use experts::{
    ExpertConfig, ExpertGroups, Experts, ExpertsConfig, LatentConfig, RouterConfig, Score, SharedConfig,
};
pub use feed_forward::{Activation, Clamp, FeedForward, FeedForwardConfig, GatedFeedForward, GatedFeedForwardConfig};
pub use heads::{Head, HeadConfig, Over, Pooler, gathered};
pub use hmt::{Hmt, HmtConfig, HmtState};
pub use inputs::{Inputs, Squares};
pub use linear::{Bias, Embedding, Linear};
pub use low_rank::LowRank;
pub use norm::{LayerNorm, Norm, NormConfig, Order, RmsNorm};
pub use per_layer::{PerLayer, PerLayerConfig, PerLayerGate, PerLayerGateConfig};
pub use random::Random;
pub use reformer::{Reformer, ReformerAttention, ReformerBlock, ReformerConfig, ReformerPositions};
pub use reversible::{Residual, Reversible, reversible};
pub use rotary::RotaryCache;
pub use segments::{Learnt, Segments, Through};
pub use state::{
    BranchState, Cache, KvCache, KvDtype, KvRows, LayerState, Mark, OnTensors, PartValue, ROWS, State, StateError,
    StateTensor, first_row,
};
pub use weight::Weight;
pub use words::{Table, Words, WordsConfig};
pub use zamba::{Zamba, ZambaConfig};
