//! A block of a decoder: a list of residual branches, each of which adds to the residual stream `x: [B, T, d]`.
//!
//! $$ x \leftarrow x + \alpha \, \mathrm{norm}_{after}(f(\mathrm{norm}_{before}(x))) $$
//!
//! where `f` mixes tokens, is a feed-forward layer, a mixture of experts, or several of these in parallel. Each norm
//! is optional, and a norm may be applied to the sum instead (Vaswani et al. 2017), or the residual stream replaced by its
//! norm before the branch is added (MiniMax-01 2025). This covers pre-norm and
//! post-norm blocks, Gemma's norms before and after an operation, Falcon-H1's parallel attention and Mamba-2, and
//! blocks that consist of a feed-forward layer only.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::mixers::{Mixer, MixerConfig, Shared};
use crate::{
    BranchState, Builder, ChannelMix, ChannelMixConfig, Cut, Error, Experts, ExpertsConfig, FeedForward,
    FeedForwardConfig, GatedFeedForward, GatedFeedForwardConfig, Init, LayerState, Norm, NormConfig, PerLayerGate,
    PerLayerGateConfig, Zamba, ZambaConfig,
};

/// A norm with its name within the block.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedNorm {
    /// Its name in a checkpoint.
    pub name: String,
    /// Which norm it is.
    pub norm: NormConfig,
}

impl NamedNorm {
    /// The norm `norm` under the name `name`.
    pub fn new(name: impl Into<String>, norm: NormConfig) -> Self {
        Self { name: name.into(), norm }
    }

    pub(crate) fn build(&self, b: &mut Builder, width: usize) -> Result<Norm, Error> {
        Norm::new(b, &self.name, width, self.norm)
    }
}

/// The configuration of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// Its branches, in order.
    pub branches: Vec<BranchConfig>,
    /// The index of an earlier block whose weights this block uses instead of its own. Each of them keeps its own
    /// state.
    pub shares: Option<usize>,
    /// The name of a learned factor of the residual stream behind the block, which is one number. Gemma 4.
    pub scalar: Option<String>,
}

impl BlockConfig {
    /// A block with weights of its own.
    pub fn new(branches: Vec<BranchConfig>) -> Self {
        Self { branches, shares: None, scalar: None }
    }

    /// All mixers of the block in order, including those of parallel branches.
    pub fn mixers(&self) -> impl Iterator<Item = &MixerConfig> {
        self.branches.iter().flat_map(BranchConfig::mixers)
    }

    /// Whether a token uses some of the block's weights only.
    pub fn has_experts(&self) -> bool {
        self.branches.iter().any(BranchConfig::has_experts)
    }
}

/// One residual branch.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchConfig {
    /// The name of the operation within the block in a checkpoint. If empty, the names of its parts have no prefix.
    pub name: String,
    /// The operation `f`.
    pub operation: OperationConfig,
    /// The norm of the operation's input.
    pub before: Option<NamedNorm>,
    /// A factor of the operation's input, after its norm.
    pub input_scale: f32,
    /// The norm of the operation's output.
    pub after: Option<NamedNorm>,
    /// The norm of the residual stream after the branch was added to it.
    pub of_sum: Option<NamedNorm>,
    /// `α`: the factor of the branch before it is added to the residual stream.
    pub scale: f32,
    /// What it is added to.
    pub residual: ResidualConfig,
}

/// What the output of a branch is added to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ResidualConfig {
    /// The residual stream as it is.
    #[default]
    Stream,
    /// The operation's input, which is the normed residual stream, times this factor.
    Normed(f32),
}

/// The operation of a branch.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there are few per layer")]
pub enum OperationConfig {
    /// A token mixer.
    Mixer(MixerConfig),
    /// A gated feed-forward layer.
    Gated(GatedFeedForwardConfig),
    /// A feed-forward layer: two linear maps with an activation between them.
    FeedForward(FeedForwardConfig),
    /// The feed-forward layer of the RWKV models.
    ChannelMix(ChannelMixConfig),
    /// A mixture of experts.
    Experts(ExpertsConfig),
    /// Branches that read the same input and whose outputs are summed. Each has its own norms and scale.
    Parallel(Vec<BranchConfig>),
    /// A mixer behind attention that reads the embeddings, too.
    Zamba(Box<ZambaConfig>),
    /// A gate of the layer's own embeddings of the tokens.
    PerLayer(PerLayerGateConfig),
}

impl BranchConfig {
    /// The operation under the name `name`, without norms and with scale 1.
    pub fn new(name: impl Into<String>, operation: OperationConfig) -> Self {
        Self {
            name: name.into(),
            operation,
            before: None,
            input_scale: 1.0,
            after: None,
            of_sum: None,
            scale: 1.0,
            residual: ResidualConfig::Stream,
        }
    }

    /// The mixer under the name `name`, without norms and with scale 1.
    pub fn mixer(name: impl Into<String>, mixer: MixerConfig) -> Self {
        Self::new(name, OperationConfig::Mixer(mixer))
    }

    /// Adds a norm of the operation's input.
    #[must_use]
    pub fn before(self, name: impl Into<String>, norm: NormConfig) -> Self {
        Self { before: Some(NamedNorm::new(name, norm)), ..self }
    }

    /// Adds a norm of the operation's output.
    #[must_use]
    pub fn after(self, name: impl Into<String>, norm: NormConfig) -> Self {
        Self { after: Some(NamedNorm::new(name, norm)), ..self }
    }

    /// Adds a norm of the sum of the residual stream and the branch.
    #[must_use]
    pub fn of_sum(self, name: impl Into<String>, norm: NormConfig) -> Self {
        Self { of_sum: Some(NamedNorm::new(name, norm)), ..self }
    }

    fn mixers(&self) -> Box<dyn Iterator<Item = &MixerConfig> + '_> {
        match &self.operation {
            OperationConfig::Mixer(mixer) => Box::new(std::iter::once(mixer)),
            OperationConfig::Parallel(branches) => Box::new(branches.iter().flat_map(Self::mixers)),
            OperationConfig::Zamba(c) => Box::new(std::iter::once(&c.mixer.3)),
            _ => Box::new(std::iter::empty()),
        }
    }

    fn has_experts(&self) -> bool {
        match &self.operation {
            OperationConfig::Experts(_) => true,
            OperationConfig::Parallel(branches) => branches.iter().any(Self::has_experts),
            _ => false,
        }
    }
}

/// The built operation of a branch.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few per layer")]
pub enum Operation {
    /// A token mixer.
    Mixer(Mixer),
    /// A gated feed-forward layer.
    Gated(GatedFeedForward),
    /// A feed-forward layer: two linear maps with an activation between them.
    FeedForward(FeedForward),
    /// The feed-forward layer of the RWKV models.
    ChannelMix(ChannelMix),
    /// A mixture of experts.
    Experts(Experts),
    /// Parallel branches.
    Parallel(Vec<Branch>),
    /// A mixer behind attention that reads the embeddings, too.
    Zamba(Zamba),
    /// A gate of the layer's own embeddings of the tokens.
    PerLayer(PerLayerGate),
}

/// One residual branch: see [`BranchConfig`].
#[derive(Module, Debug)]
pub struct Branch {
    operation: Operation,
    before: Option<Norm>,
    after: Option<Norm>,
    of_sum: Option<Norm>,
    input_scale: f64,
    scale: f64,
    /// The factor of a normed residual.
    normed: Option<f64>,
}

/// `norm(x)`, or `x` where there is no norm.
fn normed(norm: Option<&Norm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

fn scaled(x: Tensor<3>, by: f64) -> Tensor<3> {
    if by == 1.0 { x } else { x.mul_scalar(by) }
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
                OperationConfig::Zamba(c) => Operation::Zamba(Zamba::new(b, d, c)?),
                OperationConfig::PerLayer(c) => Operation::PerLayer(PerLayerGate::new(b, d, c)?),
                OperationConfig::Parallel(branches) => {
                    if branches.is_empty() {
                        return Err(b.error("a list of parallel branches is empty: want at least one"));
                    }
                    let branches = branches.iter().map(|c| Self::new(b, d, c));
                    Operation::Parallel(branches.collect::<Result<_, _>>()?)
                }
            })
        })?;
        let [input_scale, scale] = [c.input_scale, c.scale].map(f64::from);
        let normed = match c.residual {
            ResidualConfig::Stream => None,
            ResidualConfig::Normed(by) => Some(f64::from(by)),
        };
        Ok(Self { operation, before, after, of_sum, input_scale, scale, normed })
    }

    /// The initial state for `batch` sequences.
    fn start(&self, batch: usize, d: usize, device: &Device) -> BranchState {
        match &self.operation {
            Operation::Mixer(mixer) => BranchState::Operation(mixer.start(batch, device)),
            Operation::ChannelMix(_) => BranchState::Operation(ChannelMix::start(batch, d, device)),
            Operation::Zamba(layer) => layer.start(batch, device),
            Operation::Parallel(branches) => {
                BranchState::Parallel(branches.iter().map(|branch| branch.start(batch, d, device)).collect())
            }
            Operation::Gated(_) | Operation::FeedForward(_) | Operation::Experts(_) | Operation::PerLayer(_) => {
                BranchState::Nothing
            }
        }
    }

    fn shares_keys(&self) -> bool {
        match &self.operation {
            Operation::Mixer(mixer) => mixer.shares_keys(),
            Operation::Parallel(branches) => branches.iter().any(Self::shares_keys),
            _ => false,
        }
    }

    fn reads_few_as_one(&self) -> bool {
        match &self.operation {
            Operation::Mixer(mixer) => mixer.reads_few_as_one(),
            Operation::Parallel(branches) => branches.iter().all(Self::reads_few_as_one),
            _ => true,
        }
    }

    fn cut(&self) -> Cut {
        match &self.operation {
            Operation::Mixer(mixer) => mixer.cut(),
            Operation::Parallel(branches) => branches.iter().map(Self::cut).fold(Cut::ANY, Cut::and),
            _ => Cut::ANY,
        }
    }

    fn prepared(self) -> Self {
        let operation = match self.operation {
            Operation::Mixer(mixer) => Operation::Mixer(mixer.prepared()),
            Operation::Zamba(layer) => Operation::Zamba(layer.prepared()),
            Operation::Parallel(branches) => {
                Operation::Parallel(branches.into_iter().map(Self::prepared).collect::<Vec<_>>())
            }
            other => other,
        };
        Self { operation, ..self }
    }

    /// The residual stream `x: [B, T, d]` with the branch added; the state becomes that after the last token.
    fn added(&self, x: Tensor<3>, state: &mut BranchState, shared: &mut Shared) -> Tensor<3> {
        let sum = match self.normed {
            Some(by) => {
                let input = normed(self.before.as_ref(), x);
                let y = self.output(input.clone(), state, shared);
                scaled(input, by) + shared.dropped(y)
            }
            None => {
                let y = self.forward(x.clone(), state, shared);
                x + shared.dropped(y)
            }
        };
        normed(self.of_sum.as_ref(), sum)
    }

    /// The contribution of the branch to `x: [B, T, d]`; the state becomes that after the last token.
    fn forward(&self, x: Tensor<3>, state: &mut BranchState, shared: &mut Shared) -> Tensor<3> {
        self.output(normed(self.before.as_ref(), x), state, shared)
    }

    /// The contribution of the branch for the normed input.
    fn output(&self, x: Tensor<3>, state: &mut BranchState, shared: &mut Shared) -> Tensor<3> {
        let x = scaled(x, self.input_scale);
        let y = match (&self.operation, state) {
            (Operation::Mixer(mixer), BranchState::Operation(state)) => mixer.forward(x, state, shared),
            (Operation::ChannelMix(mix), BranchState::Operation(state)) => mix.forward(x, state, shared),
            (Operation::Parallel(branches), BranchState::Parallel(states)) if branches.len() == states.len() => {
                let mut sum: Option<Tensor<3>> = None;
                for (branch, state) in branches.iter().zip(states) {
                    let y = branch.forward(x.clone(), state, shared);
                    sum = Some(match sum.take() {
                        Some(sum) => sum + y,
                        None => y,
                    });
                }
                sum.unwrap_or(x)
            }
            (Operation::Zamba(layer), BranchState::Parallel(states)) => layer.forward(x, states, shared),
            (Operation::Gated(layer), _) => layer.forward(x),
            (Operation::FeedForward(layer), _) => layer.forward(x),
            (Operation::Experts(layer), _) => layer.forward(x),
            (Operation::PerLayer(layer), _) => layer.forward(x, shared),
            _ => panic!("the cache belongs to another model"),
        };
        let y = normed(self.after.as_ref(), y);
        scaled(y, self.scale)
    }
}

/// A block: see [`BlockConfig`].
#[derive(Module, Debug)]
pub struct Block {
    branches: Vec<Branch>,
    scalar: Option<Param<Tensor<1>>>,
}

impl Block {
    pub(crate) fn new(b: &mut Builder, d: usize, c: &BlockConfig) -> Result<Self, Error> {
        let branches = c.branches.iter().map(|c| Branch::new(b, d, c)).collect::<Result<_, _>>()?;
        let scalar = c.scalar.as_ref().map(|name| b.vector(name, 1, Init::Constant(1.0))).transpose()?;
        Ok(Self { branches, scalar })
    }

    pub(crate) fn start(&self, batch: usize, d: usize, device: &Device) -> LayerState {
        LayerState(self.branches.iter().map(|branch| branch.start(batch, d, device)).collect())
    }

    /// Whether it reads the embeddings beside the residual stream.
    pub(crate) fn reads_embeddings(&self) -> bool {
        self.branches.iter().any(|branch| matches!(branch.operation, Operation::Zamba(_)))
    }

    /// Whether other blocks use its keys and values, or it uses theirs.
    pub(crate) fn shares_keys(&self) -> bool {
        self.branches.iter().any(Branch::shares_keys)
    }

    /// See [`Decoder::reads_few_as_one`](crate::Decoder::reads_few_as_one).
    pub(crate) fn reads_few_as_one(&self) -> bool {
        self.branches.iter().all(Branch::reads_few_as_one)
    }

    /// See [`Decoder::cut`](crate::Decoder::cut).
    pub(crate) fn cut(&self) -> Cut {
        self.branches.iter().map(Branch::cut).fold(Cut::ANY, Cut::and)
    }

    pub(crate) fn prepared(self) -> Self {
        Self { branches: self.branches.into_iter().map(Branch::prepared).collect(), ..self }
    }

    /// Maps `x: [B, T, d]` to the output, and the state before it to that after it.
    pub(crate) fn forward(&self, mut x: Tensor<3>, state: &mut LayerState, shared: &mut Shared) -> Tensor<3> {
        for (branch, state) in self.branches.iter().zip(&mut state.0) {
            x = branch.added(x, state, shared);
        }
        match &self.scalar {
            Some(scalar) => x * scalar.val().unsqueeze(),
            None => x,
        }
    }
}
