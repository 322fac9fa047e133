//! The parts of a decoder that the metadata of a GGUF file tell apart.

use longreach_nn::mixers::{
    AttentionConfig, GatedConvConfig, GatedDeltaConfig, Mamba2Config, MambaConfig, MixerConfig, Reach,
};
use longreach_nn::{BranchConfig, DecoderConfig, ExpertConfig, ExpertsConfig, NormConfig, OperationConfig};

/// The parts of a decoder, layer by layer.
pub(super) struct Parts<'a> {
    pub(super) decoder: &'a DecoderConfig,
    pub(super) layers: Vec<Layer<'a>>,
}

/// The parts of a layer, as far as it has them.
#[derive(Default)]
pub(super) struct Layer<'a> {
    pub(super) attention: Option<&'a AttentionConfig>,
    pub(super) mamba: Option<&'a MambaConfig>,
    pub(super) duality: Option<&'a Mamba2Config>,
    pub(super) delta: Option<&'a GatedDeltaConfig>,
    pub(super) conv: Option<&'a GatedConvConfig>,
    pub(super) experts: Option<&'a ExpertsConfig>,
    /// The width of the feed-forward layer; beside experts, that of an expert of all tokens.
    pub(super) inner: Option<usize>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(decoder: &'a DecoderConfig) -> Self {
        let layer = |branches: &'a [BranchConfig]| {
            let mut layer = Layer::default();
            branches.iter().for_each(|branch| layer.add(branch));
            layer
        };
        Self { decoder, layers: decoder.blocks.iter().map(|block| layer(&block.branches)).collect() }
    }

    /// The first of a kind of part.
    pub(super) fn first<T>(&self, part: impl Fn(&Layer<'a>) -> Option<T>) -> Option<T> {
        self.layers.iter().find_map(part)
    }

    /// The width of the feed-forward layers that are no experts.
    pub(super) fn dense(&self) -> Option<usize> {
        self.first(|layer| layer.inner.filter(|_| layer.experts.is_none()))
    }

    /// The width of each expert.
    pub(super) fn expert(&self) -> Option<usize> {
        Some(width(&self.first(|layer| layer.experts)?.expert))
    }

    /// The width of the expert of all tokens.
    pub(super) fn shared(&self) -> Option<usize> {
        self.first(|layer| {
            let shared = layer.experts?.shared.as_ref();
            shared.map(|shared| width(&shared.expert)).or(layer.inner)
        })
    }

    /// ε of the norms.
    pub(super) fn eps(&self) -> Option<f64> {
        match self.decoder.last_norm.as_ref()?.norm {
            NormConfig::Rms(eps) | NormConfig::RmsPlusOne(eps) | NormConfig::Layer(eps, _) => Some(eps),
        }
    }
}

impl<'a> Layer<'a> {
    fn add(&mut self, branch: &'a BranchConfig) {
        match &branch.operation {
            OperationConfig::Parallel(list) => list.iter().for_each(|branch| self.add(branch)),
            OperationConfig::Experts(experts) => self.experts = Some(experts),
            OperationConfig::Gated(of) => self.inner = Some(of.inner),
            OperationConfig::FeedForward(of) => self.inner = Some(of.inner),
            OperationConfig::Mixer(MixerConfig::Attention(of)) => self.attention = Some(of),
            OperationConfig::Mixer(MixerConfig::Mamba(of)) => self.mamba = Some(of),
            OperationConfig::Mixer(MixerConfig::Mamba2(of)) => self.duality = Some(of),
            OperationConfig::Mixer(MixerConfig::GatedDelta(of)) => self.delta = Some(of),
            OperationConfig::Mixer(MixerConfig::GatedConv(of)) => self.conv = Some(of),
            _ => {}
        }
    }

    /// Whether the layer attends to a window.
    pub(super) fn slides(&self) -> bool {
        self.attention.is_some_and(|attention| matches!(attention.reach, Reach::Window(_)))
    }
}

fn width(expert: &ExpertConfig) -> usize {
    match expert {
        ExpertConfig::Gated(of) => of.inner,
        ExpertConfig::Plain(of) => of.inner,
    }
}
