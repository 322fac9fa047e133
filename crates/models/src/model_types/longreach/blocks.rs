//! The blocks of a `longreach` model, from its configuration.
//!
//! Without `"blocks"`, each block is a mixer and, unless `intermediate_size` is 0, a gated feed-forward layer, both
//! pre-norm. `"blocks"` is a list that the layers cycle through. A block is a list of residual branches, or shares
//! the weights of an earlier layer:
//!
//! ```json
//! {"model_type": "longreach", "hidden_size": 256, "num_hidden_layers": 6, "norm": "rms_plus_one",
//!  "blocks": [
//!    {"branches": [{"mixer": "dense", "norm_after": "rms_plus_one"},
//!                  {"feed_forward": {"intermediate_size": 1024, "activation": "gelu_tanh"}, "norm_after": "rms_plus_one"}]},
//!    {"branches": [{"parallel": [{"mixer": "dense", "scale": 0.5}, {"mixer": "mamba2"}]}]},
//!    {"branches": [{"feed_forward": {"intermediate_size": 1024, "activation": "relu", "gated": false}}]},
//!    {"branches": [{"experts": {"count": 8, "chosen": 2, "intermediate_size": 256}, "scale": 0.5}]},
//!    {"shares": 0}]}
//! ```
//!
//! A branch has one operation and optionally `scale` and three norms: `norm` (of its input; by default the model's
//! norm, or none within `parallel`), `norm_after` (of its output) and `norm_of_sum`, each `rms`, `rms_plus_one`,
//! `layer` or `none`.

use longreach_nn::{
    Activation, Bias, BlockConfig, BranchConfig, ExpertsConfig, FeedForwardConfig, GatedFeedForwardConfig, Layout,
    NormConfig, OperationConfig, RouterConfig,
};

use super::{NAMED, mixer};
use crate::description::activation;
use crate::{Error, Fields};

/// The norm named in a field, with the model's ε; `None` if the name is `none`.
pub(super) fn norm(f: &Fields, field: &str, default: &str) -> Result<Option<NormConfig>, Error> {
    let eps = f.number("norm_eps", 1e-5)?;
    Ok(match f.text(field)?.unwrap_or(default) {
        "rms" => Some(NormConfig::Rms(eps)),
        "rms_plus_one" => Some(NormConfig::RmsPlusOne(eps)),
        "layer" => Some(NormConfig::Layer(eps, Bias::Yes)),
        "none" => None,
        other => {
            let want = "rms, rms_plus_one, layer or none";
            return Err(f.error(format!("field `{field}`: want {want}, found \"{other}\"")));
        }
    })
}

/// All `layers` blocks of a model of width `hidden`.
pub(super) fn blocks(fields: &Fields, hidden: usize, layers: usize) -> Result<Vec<BlockConfig>, Error> {
    let given = fields.objects("blocks")?;
    let of = Model { fields, hidden, layers };
    if given.is_empty() {
        return (0..layers).map(|i| of.usual(i)).collect();
    }
    if let Some(field) = ["mixer", "intermediate_size"].into_iter().find(|field| fields.given(field)) {
        return Err(fields.error(format!("field `{field}`: `blocks` describes each block instead")));
    }
    let mut blocks: Vec<BlockConfig> = Vec::with_capacity(layers);
    for i in 0..layers {
        let f = &given[i % given.len()];
        known(f, "blocks", &["branches", "shares"])?;
        let block = match f.get("shares") {
            Some(_) => {
                let shared = f.count("shares", 0)?;
                let other = blocks.get(shared).cloned().ok_or_else(|| {
                    f.error(format!("field `shares` of block {i}: want an earlier layer's index, found {shared}"))
                })?;
                BlockConfig { shares: Some(other.shares.unwrap_or(shared)), ..other }
            }
            None => BlockConfig::new(of.branches(f, "branches", i, true)?),
        };
        blocks.push(block);
    }
    Ok(blocks)
}

/// Errors if an object has a field that is not in `names`.
fn known(f: &Fields, what: &str, names: &[&str]) -> Result<(), Error> {
    match f.names().find(|name| !names.contains(name)) {
        Some(name) => Err(f.error(format!("field `{name}` in `{what}`: want one of {}", names.join(", ")))),
        None => Ok(()),
    }
}

struct Model<'a> {
    fields: &'a Fields,
    hidden: usize,
    layers: usize,
}

impl Model<'_> {
    /// The model's norm.
    fn norm(&self) -> Result<NormConfig, Error> {
        norm(self.fields, "norm", "rms")?.ok_or_else(|| self.fields.error("field `norm`: want a norm"))
    }

    /// The default block: a mixer and a gated feed-forward layer.
    fn usual(&self, i: usize) -> Result<BlockConfig, Error> {
        let (f, hidden, norm) = (self.fields, self.hidden, self.norm()?);
        let mixers = f.named("mixer", "type")?;
        if mixers.is_empty() {
            return Err(f.error(format!("field `mixer` is missing: want one of {}", NAMED.join(", "))));
        }
        let (name, own) = &mixers[i % mixers.len()];
        let mixer = mixer(name, own, hidden, (i, self.layers))?;
        let mut branches = vec![BranchConfig::mixer("mixer", mixer).before("mixer_norm", norm)];
        // A width of 0 means no feed-forward layer.
        let inner = f.count("intermediate_size", (hidden * 8 / 3).div_ceil(32) * 32)?;
        if inner > 0 {
            let layer = OperationConfig::Gated(GatedFeedForwardConfig::silu(inner));
            branches.push(BranchConfig::new("feed_forward", layer).before("feed_forward_norm", norm));
        }
        Ok(BlockConfig::new(branches))
    }

    /// The branches in a field of `f`, in layer `i`. If `first`, a branch has the model's norm by default.
    fn branches(&self, f: &Fields, field: &str, i: usize, first: bool) -> Result<Vec<BranchConfig>, Error> {
        let given = f.objects(field)?;
        if given.is_empty() {
            return Err(f.error(format!("field `{field}` of block {i}: want a list of branches")));
        }
        let mut branches: Vec<BranchConfig> = Vec::with_capacity(given.len());
        for f in &given {
            let names = ["mixer", "feed_forward", "experts", "parallel"];
            let others = ["norm", "norm_after", "norm_of_sum", "scale"];
            known(f, field, &[&names[..], &others].concat())?;
            let mut operations = names.into_iter().filter(|name| f.get(name).is_some());
            let (Some(kind), None) = (operations.next(), operations.next()) else {
                return Err(f.error(format!("a branch of block {i}: want one of {}", names.join(", "))));
            };
            let operation = match kind {
                "mixer" => self.mixer(f, i)?,
                "feed_forward" => self.feed_forward(f)?,
                "experts" => self.experts(f)?,
                _ => OperationConfig::Parallel(self.branches(f, "parallel", i, false)?),
            };
            let twice = branches.iter().filter(|branch| branch.name.starts_with(kind)).count();
            let name = if twice == 0 { kind.to_owned() } else { format!("{kind}_{twice}") };
            branches.push(self.normed(f, BranchConfig::new(name, operation), first)?);
        }
        Ok(branches)
    }

    /// Adds the norms and the scale of a branch.
    fn normed(&self, f: &Fields, branch: BranchConfig, first: bool) -> Result<BranchConfig, Error> {
        // The model's ε and norm, overridden by the branch.
        let mut own = self.fields.clone();
        for field in ["norm", "norm_after", "norm_of_sum"] {
            if let Some(value) = f.get(field) {
                own.set(field, value.clone());
            }
        }
        let before = if first || f.given("norm") { norm(&own, "norm", "rms")? } else { None };
        let (after, of_sum) = (norm(&own, "norm_after", "none")?, norm(&own, "norm_of_sum", "none")?);
        // A norm of the sum replaces the default norm of the input.
        let before = before.filter(|_| of_sum.is_none() || f.given("norm"));
        let name = branch.name.clone();
        let mut branch = BranchConfig { scale: f.number("scale", 1.0)? as f32, ..branch };
        if let Some(norm) = before {
            branch = branch.before(format!("{name}_norm"), norm);
        }
        if let Some(norm) = after {
            branch = branch.after(format!("{name}_norm_after"), norm);
        }
        if let Some(norm) = of_sum {
            branch = branch.of_sum(format!("{name}_norm_of_sum"), norm);
        }
        Ok(branch)
    }

    fn mixer(&self, f: &Fields, i: usize) -> Result<OperationConfig, Error> {
        let mut own = self.fields.clone();
        own.set("mixer", f.get("mixer").cloned().unwrap_or_default());
        let found = own.named("mixer", "type")?;
        let [(name, own)] = &found[..] else {
            return Err(f.error(format!("field `mixer` of block {i}: want one mixer")));
        };
        Ok(OperationConfig::Mixer(mixer(name, own, self.hidden, (i, self.layers))?))
    }

    /// The fields of an object in a field, whose value may also be a width alone.
    fn sized(f: &Fields, field: &str) -> Result<Fields, Error> {
        if f.get(field).is_some_and(serde_json::Value::is_number) {
            let mut map = serde_json::Map::new();
            map.insert("intermediate_size".into(), f.size(field, 1)?.into());
            return Ok(f.within(map));
        }
        let mut found = f.objects(field)?;
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(f.error(format!("field `{field}`: want a width or one object"))),
        }
    }

    fn gated(&self, f: &Fields) -> Result<GatedFeedForwardConfig, Error> {
        let activation = activation(f, "activation", Activation::Silu)?;
        let inner = f.size("intermediate_size", (self.hidden * 8 / 3).div_ceil(32) * 32)?;
        Ok(GatedFeedForwardConfig { activation, ..GatedFeedForwardConfig::silu(inner) })
    }

    fn feed_forward(&self, f: &Fields) -> Result<OperationConfig, Error> {
        let f = &Self::sized(f, "feed_forward")?;
        known(f, "feed_forward", &["intermediate_size", "activation", "gated"])?;
        let gated = self.gated(f)?;
        if f.flag("gated", true)? {
            return Ok(OperationConfig::Gated(gated));
        }
        Ok(OperationConfig::FeedForward(FeedForwardConfig {
            inner: gated.inner,
            activation: gated.activation,
            gated: false,
            bias: Bias::No,
            names: ["up_proj", "down_proj"],
            layout: Layout::Same,
        }))
    }

    fn experts(&self, f: &Fields) -> Result<OperationConfig, Error> {
        let f = &Self::sized(f, "experts")?;
        known(f, "experts", &["count", "chosen", "intermediate_size", "activation", "normalize"])?;
        let router = RouterConfig::softmax("router", f.flag("normalize", true)?);
        let size = [f.layers("count", 8)?, f.size("chosen", 2)?];
        Ok(OperationConfig::Experts(ExpertsConfig::new(size, router, self.gated(f)?)))
    }
}
