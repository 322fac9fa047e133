//! A block of a decoder: a list of residual branches, each of which adds to the residual stream `x: [B, T, d]`.
//!
//! $$ x \leftarrow x + \alpha \, \mathrm{norm}_{after}(f(\mathrm{norm}_{before}(x))) $$
//!
//! where `f` mixes tokens, is a feed-forward layer, a mixture of experts, or several of these side by side. Every norm may be absent, and a norm may be of
//! the sum instead (Vaswani et al. 2017). So one shape covers pre-norm and post-norm blocks, Gemma's norms on both sides, Falcon-H1's attention beside
//! Mamba-2, and layers that are a feed-forward layer alone.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::mixers::{Mixer, MixerConfig, Shared};
use crate::{
    BranchState, Builder, ChannelMix, ChannelMixConfig, Error, Experts, ExpertsConfig, FeedForward, FeedForwardConfig,
    GatedFeedForward, GatedFeedForwardConfig, LayerState, Norm, NormConfig,
};

/// A norm and its name within the block.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedNorm {
    /// Its name in a checkpoint.
    pub name: String,
    /// Which norm it is.
    pub norm: NormConfig,
}

impl NamedNorm {
    /// A norm under a name.
    pub fn new(name: impl Into<String>, norm: NormConfig) -> Self {
        Self { name: name.into(), norm }
    }

    pub(crate) fn build(&self, b: &mut Builder, width: usize) -> Result<Norm, Error> {
        Norm::new(b, &self.name, width, self.norm)
    }
}

/// One block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// Its branches, in order.
    pub branches: Vec<BranchConfig>,
    /// The index of an earlier block whose weights it uses, instead of weights of its own. Each of them has a state of its own.
    pub shares: Option<usize>,
}

impl BlockConfig {
    /// A block with weights of its own.
    pub fn new(branches: Vec<BranchConfig>) -> Self {
        Self { branches, shares: None }
    }

    /// Every mixer of the block, those side by side too, in order.
    pub fn mixers(&self) -> impl Iterator<Item = &MixerConfig> {
        self.branches.iter().flat_map(BranchConfig::mixers)
    }
}

/// One residual branch.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchConfig {
    /// The name of its operation within the block, in a checkpoint; empty where the operation's parts have no name before theirs.
    pub name: String,
    /// What it does.
    pub operation: OperationConfig,
    /// The norm of what the operation reads.
    pub before: Option<NamedNorm>,
    /// The norm of what the operation returns.
    pub after: Option<NamedNorm>,
    /// The norm of the sum of the residual stream and the branch.
    pub of_sum: Option<NamedNorm>,
    /// What the branch is multiplied with before it is added.
    pub scale: f32,
}

/// What a branch does.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a few for each layer")]
pub enum OperationConfig {
    /// It mixes tokens.
    Mixer(MixerConfig),
    /// A gated feed-forward layer.
    Gated(GatedFeedForwardConfig),
    /// Two maps with a function between them.
    FeedForward(FeedForwardConfig),
    /// The feed-forward layer of the RWKV models.
    ChannelMix(ChannelMixConfig),
    /// A mixture of experts.
    Experts(ExpertsConfig),
    /// Branches that read the same and whose results are added, each with its own norms and scale.
    Parallel(Vec<BranchConfig>),
}

impl BranchConfig {
    /// An operation under a name, without norms and at scale 1.
    pub fn new(name: impl Into<String>, operation: OperationConfig) -> Self {
        Self { name: name.into(), operation, before: None, after: None, of_sum: None, scale: 1.0 }
    }

    /// A mixer under a name.
    pub fn mixer(name: impl Into<String>, mixer: MixerConfig) -> Self {
        Self::new(name, OperationConfig::Mixer(mixer))
    }

    /// With a norm of what the operation reads.
    #[must_use]
    pub fn before(self, name: impl Into<String>, norm: NormConfig) -> Self {
        Self { before: Some(NamedNorm::new(name, norm)), ..self }
    }

    /// With a norm of what the operation returns.
    #[must_use]
    pub fn after(self, name: impl Into<String>, norm: NormConfig) -> Self {
        Self { after: Some(NamedNorm::new(name, norm)), ..self }
    }

    /// With a norm of the sum.
    #[must_use]
    pub fn of_sum(self, name: impl Into<String>, norm: NormConfig) -> Self {
        Self { of_sum: Some(NamedNorm::new(name, norm)), ..self }
    }

    fn mixers(&self) -> Box<dyn Iterator<Item = &MixerConfig> + '_> {
        match &self.operation {
            OperationConfig::Mixer(mixer) => Box::new(std::iter::once(mixer)),
            OperationConfig::Parallel(branches) => Box::new(branches.iter().flat_map(Self::mixers)),
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// What a branch computes.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few for each layer")]
pub enum Operation {
    /// It mixes tokens.
    Mixer(Mixer),
    /// A gated feed-forward layer.
    Gated(GatedFeedForward),
    /// Two maps with a function between them.
    FeedForward(FeedForward),
    /// The feed-forward layer of the RWKV models.
    ChannelMix(ChannelMix),
    /// A mixture of experts.
    Experts(Experts),
    /// Several side by side.
    Parallel(Vec<Branch>),
}

/// One residual branch: see [`BranchConfig`].
#[derive(Module, Debug)]
pub struct Branch {
    operation: Operation,
    before: Option<Norm>,
    after: Option<Norm>,
    of_sum: Option<Norm>,
    scale: f64,
}

/// `norm(x)`, or `x` where there is no norm.
fn normed(norm: Option<&Norm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

impl Branch {
    fn new(b: &mut Builder, d: usize, c: &BranchConfig) -> Result<Self, Error> {
        let mut norm = |norm: &Option<NamedNorm>| norm.as_ref().map(|norm| norm.build(b, d)).transpose();
        let (before, after, of_sum) = (norm(&c.before)?, norm(&c.after)?, norm(&c.of_sum)?);
        let operation = b.scope(&c.name, |b| {
            Ok::<_, Error>(match &c.operation {
                OperationConfig::Mixer(c) => Operation::Mixer(Mixer::new(b, c)?),
                OperationConfig::Gated(c) => Operation::Gated(GatedFeedForward::new(b, d, c)?),
                OperationConfig::FeedForward(c) => Operation::FeedForward(FeedForward::new(b, d, c)?),
                OperationConfig::ChannelMix(c) => Operation::ChannelMix(ChannelMix::new(b, d, c)?),
                OperationConfig::Experts(c) => Operation::Experts(Experts::new(b, d, c)?),
                OperationConfig::Parallel(branches) => {
                    if branches.is_empty() {
                        return Err(b.error("no branches side by side: want at least one"));
                    }
                    let branches = branches.iter().map(|c| Self::new(b, d, c));
                    Operation::Parallel(branches.collect::<Result<_, _>>()?)
                }
            })
        })?;
        Ok(Self { operation, before, after, of_sum, scale: f64::from(c.scale) })
    }

    /// The state before the first token.
    fn start(&self, batch: usize, d: usize, device: &Device) -> BranchState {
        match &self.operation {
            Operation::Mixer(mixer) => BranchState::Mixer(mixer.start(batch, device)),
            Operation::ChannelMix(_) => BranchState::Shift(Tensor::zeros([batch, 1, d], device)),
            Operation::Parallel(branches) => {
                BranchState::Parallel(branches.iter().map(|branch| branch.start(batch, d, device)).collect())
            }
            Operation::Gated(_) | Operation::FeedForward(_) | Operation::Experts(_) => BranchState::Nothing,
        }
    }

    fn prepared(self) -> Self {
        let operation = match self.operation {
            Operation::Mixer(mixer) => Operation::Mixer(mixer.prepared()),
            Operation::Parallel(branches) => {
                Operation::Parallel(branches.into_iter().map(Self::prepared).collect::<Vec<_>>())
            }
            other => other,
        };
        Self { operation, ..self }
    }

    /// What the branch adds to `x: [B, T, d]`, and the state after it.
    fn forward(
        &self,
        x: Tensor<3>,
        state: BranchState,
        mask: Option<&Tensor<3>>,
        shared: &mut Shared,
    ) -> (Tensor<3>, BranchState) {
        let x = normed(self.before.as_ref(), x);
        let (y, state) = match (&self.operation, state) {
            (Operation::Mixer(mixer), BranchState::Mixer(state)) => {
                let (y, state) = mixer.forward(x, state, mask.cloned(), shared);
                (y, BranchState::Mixer(state))
            }
            (Operation::ChannelMix(mix), BranchState::Shift(before)) => {
                let (y, last) = mix.forward(x, before, mask);
                (y, BranchState::Shift(last))
            }
            (Operation::Parallel(branches), BranchState::Parallel(states)) if branches.len() == states.len() => {
                let mut sum: Option<Tensor<3>> = None;
                let mut after = Vec::with_capacity(states.len());
                for (branch, state) in branches.iter().zip(states) {
                    let (y, state) = branch.forward(x.clone(), state, mask, shared);
                    sum = Some(match sum.take() {
                        Some(sum) => sum + y,
                        None => y,
                    });
                    after.push(state);
                }
                (sum.unwrap_or(x), BranchState::Parallel(after))
            }
            (Operation::Gated(layer), state) => (layer.forward(x), state),
            (Operation::FeedForward(layer), state) => (layer.forward(x), state),
            (Operation::Experts(layer), state) => (layer.forward(x), state),
            _ => panic!("a cache made by another model"),
        };
        let y = normed(self.after.as_ref(), y);
        (if self.scale == 1.0 { y } else { y.mul_scalar(self.scale) }, state)
    }
}

/// One block: see [`BlockConfig`].
#[derive(Module, Debug)]
pub struct Block {
    branches: Vec<Branch>,
}

impl Block {
    pub(crate) fn new(b: &mut Builder, d: usize, c: &BlockConfig) -> Result<Self, Error> {
        Ok(Self { branches: c.branches.iter().map(|c| Branch::new(b, d, c)).collect::<Result<_, _>>()? })
    }

    pub(crate) fn start(&self, batch: usize, d: usize, device: &Device) -> LayerState {
        LayerState(self.branches.iter().map(|branch| branch.start(batch, d, device)).collect())
    }

    pub(crate) fn prepared(self) -> Self {
        Self { branches: self.branches.into_iter().map(Branch::prepared).collect() }
    }

    /// `x: [B, T, d]` with the state before it → the output and the state after it.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<3>,
        state: LayerState,
        mask: Option<&Tensor<3>>,
        shared: &mut Shared,
    ) -> (Tensor<3>, LayerState) {
        let mut after = Vec::with_capacity(self.branches.len());
        for (branch, state) in self.branches.iter().zip(state.0) {
            let (y, state) = branch.forward(x.clone(), state, mask, shared);
            x = normed(branch.of_sum.as_ref(), x + y);
            after.push(state);
        }
        (x, LayerState(after))
    }
}
