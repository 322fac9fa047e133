//! The metadata of a GGUF file from the description of a model: what `keys.rs` and the functions of the architectures
//! read.

use longreach_attention::rotary::{Frequencies, Rotary, Scaling};
use longreach_gguf::{Header, ToValue};
use longreach_nn::mixers::Reach;
use longreach_nn::{ExpertsConfig, ResidualConfig, Score};

use super::mamba::STEP_EPS;
use super::parts::Parts;
use crate::model_types::falcon_mamba;
use crate::{Error, Fields};

/// Metadata, and the small tensors that have factors of rotary frequencies.
pub(super) struct Entries {
    pub(super) header: Header,
    architecture: &'static str,
    /// Tensors of factors, by name.
    pub(super) factors: Vec<(&'static str, Vec<f32>)>,
}

/// The context of models without a limit, as llama.cpp's converter writes it.
const UNLIMITED: usize = 1 << 20;

/// The metadata of a model, but for its name and its tokenizer. Errors if a number exceeds its type.
pub(super) fn entries(architecture: &'static str, f: &Fields, parts: &Parts<'_>) -> Result<Entries, Error> {
    let mut out = Entries { header: Header::new(), architecture, factors: Vec::new() };
    out.header.set("general.architecture", architecture)?;
    out.header.set("general.type", "model")?;
    out.sizes(f, parts)?;
    out.attention(parts)?;
    out.positions(f, parts)?;
    out.windows(parts)?;
    out.experts(parts)?;
    out.recurrences(parts)?;
    out.scales(f, parts)?;
    Ok(out)
}

impl Entries {
    fn set(&mut self, name: &str, value: impl ToValue) -> Result<(), Error> {
        Ok(self.header.set(&format!("{}.{name}", self.architecture), value)?)
    }

    fn size(&mut self, name: &str, value: usize) -> Result<(), Error> {
        let wrong = || Error::Checkpoint {
            file: "the GGUF file".into(),
            message: format!("key `{name}`: {value} exceeds 32 bits"),
        };
        let value = u32::try_from(value).map_err(|_| wrong())?;
        self.set(name, value)
    }

    fn number(&mut self, name: &str, value: f64) -> Result<(), Error> {
        self.set(name, value as f32)
    }

    /// A size of every layer: one number if all agree.
    fn of_layers(&mut self, name: &str, sizes: &[usize]) -> Result<(), Error> {
        match sizes {
            [first, rest @ ..] if rest.iter().all(|size| size == first) => self.size(name, *first),
            sizes => {
                let sizes: Vec<i32> = sizes.iter().map(|size| i32::try_from(*size).unwrap_or(i32::MAX)).collect();
                self.set(name, sizes)
            }
        }
    }

    fn sizes(&mut self, f: &Fields, parts: &Parts<'_>) -> Result<(), Error> {
        let decoder = parts.decoder;
        self.size("block_count", decoder.blocks.len())?;
        self.size("context_length", f.some_size("max_position_embeddings")?.unwrap_or(UNLIMITED))?;
        self.size("embedding_length", decoder.hidden)?;
        self.size("vocab_size", decoder.vocabulary)?;
        if let Some(eps) = parts.eps() {
            self.number("attention.layer_norm_rms_epsilon", eps)?;
            if self.architecture.starts_with("nemotron_h") {
                self.number("attention.layer_norm_epsilon", eps)?;
            }
        }
        if self.architecture.starts_with("nemotron_h") {
            // Layers with a width are those with a feed-forward layer or experts.
            let width = |layer: &super::parts::Layer<'_>| match layer.experts {
                Some(_) => parts.expert().unwrap_or(0),
                None => layer.inner.unwrap_or(0),
            };
            let widths: Vec<usize> = parts.layers.iter().map(width).collect();
            return self.of_layers("feed_forward_length", &widths);
        }
        let given = if f.given("moe_intermediate_size") { f.some_size("intermediate_size")? } else { None };
        let inner = parts.dense().or(given).or(parts.expert()).unwrap_or(0);
        self.size("feed_forward_length", inner)
    }

    /// The factors of embeddings, branches and logits.
    fn scales(&mut self, f: &Fields, parts: &Parts<'_>) -> Result<(), Error> {
        let decoder = parts.decoder;
        let branch = decoder.blocks.first().and_then(|block| block.branches.first());
        match self.architecture {
            "granitehybrid" => {
                self.number("embedding_scale", f64::from(decoder.embedding_scale))?;
                self.number("residual_scale", f.number("residual_multiplier", 1.0)?)?;
                self.number("logit_scale", f.number("logits_scaling", 1.0)?)
            }
            "minicpm" => {
                self.number("embedding_scale", f64::from(decoder.embedding_scale))?;
                self.number("residual_scale", branch.map_or(1.0, |branch| f64::from(branch.scale)))?;
                self.number("logit_scale", f64::from(decoder.logits_scale).recip())
            }
            "minimax-01" => match branch.map(|branch| branch.residual) {
                Some(ResidualConfig::Normed(alpha)) => self.number("residual_scale", f64::from(alpha)),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn attention(&mut self, parts: &Parts<'_>) -> Result<(), Error> {
        let Some(attention) = parts.first(|layer| layer.attention) else { return self.size("attention.head_count", 0) };
        self.size("attention.head_count", attention.heads)?;
        let groups = |layer: &super::parts::Layer<'_>| layer.attention.map_or(0, |attention| attention.groups);
        // Where another mixer stands beside attention in every layer, or takes turns at regular distances, layers need
        // not be told apart.
        let regular = parts.first(|layer| layer.delta).is_some() || self.architecture == "minimax-01";
        let groups: Vec<usize> =
            if regular { vec![attention.groups] } else { parts.layers.iter().map(groups).collect() };
        self.of_layers("attention.head_count_kv", &groups)?;
        self.size("attention.key_length", attention.head_dim)?;
        self.size("attention.value_length", attention.head_dim)?;
        if let Some(cap) = attention.softcap {
            self.number("attn_logit_softcapping", f64::from(cap))?;
        }
        if let Some(cap) = parts.decoder.logits_cap {
            self.number("final_logit_softcapping", f64::from(cap))?;
        }
        if self.architecture == "granitehybrid" {
            let scale = attention.scale.unwrap_or((attention.head_dim as f32).powf(-0.5));
            self.number("attention.scale", f64::from(scale))?;
        }
        Ok(())
    }

    /// Rotary positions: those of layers of full reach, and the base of those with windows.
    fn positions(&mut self, f: &Fields, parts: &Parts<'_>) -> Result<(), Error> {
        let rotary =
            |slides: bool| parts.first(|layer| layer.attention?.rotary.as_ref().filter(|_| layer.slides() == slides));
        let Some(attention) = parts.first(|layer| layer.attention) else { return Ok(()) };
        let Some(far) = rotary(false).or(rotary(true)) else {
            if self.architecture != "jamba" {
                self.size("rope.dimension_count", attention.head_dim)?;
                self.number("rope.freq_base", 10_000.0)?;
                self.set("rope.scaling.finetuned", false)?;
            }
            return Ok(());
        };
        self.size("rope.dimension_count", far.width)?;
        self.number("rope.freq_base", far.theta)?;
        if self.architecture == "phi3" && far.scaling == Scaling::Default {
            // llama.cpp wants the key of this architecture.
            let longest = f.some_size("original_max_position_embeddings")?.or(f.some_size("max_position_embeddings")?);
            self.size("rope.scaling.original_context_length", longest.unwrap_or(4096))?;
        }
        if let Some(near) = rotary(true)
            && (near.theta != far.theta || matches!(self.architecture, "gemma3" | "olmo2"))
        {
            self.number("rope.freq_base_swa", near.theta)?;
        }
        self.scaling(far)
    }

    fn scaling(&mut self, rotary: &Rotary) -> Result<(), Error> {
        match &rotary.scaling {
            Scaling::Linear { factor } => {
                self.set("rope.scaling.type", "linear")?;
                self.number("rope.scaling.factor", *factor)
            }
            Scaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, .. } => {
                self.set("rope.scaling.type", "yarn")?;
                self.number("rope.scaling.factor", *factor)?;
                self.size("rope.scaling.original_context_length", *original_max_position_embeddings)?;
                self.number("rope.scaling.yarn_beta_fast", *beta_fast)?;
                self.number("rope.scaling.yarn_beta_slow", *beta_slow)?;
                let magnitude = frequencies(rotary, 1).map_or(1.0, |found| found.factor);
                if (magnitude - (0.1 * factor.ln() + 1.0)).abs() > 1e-9 {
                    self.number("rope.scaling.yarn_attn_factor", magnitude)?;
                }
                Ok(())
            }
            Scaling::LongRope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                if self.architecture == "minicpm" {
                    self.set("rope.scaling.type", "longrope")?;
                }
                let floats = |factors: &[f64]| factors.iter().map(|x| *x as f32).collect();
                self.factors.push(("rope_factors_long.weight", floats(long_factor)));
                self.factors.push(("rope_factors_short.weight", floats(short_factor)));
                self.size("rope.scaling.original_context_length", *original_max_position_embeddings)?;
                let magnitude = frequencies(rotary, 1).map_or(1.0, |found| found.factor);
                self.number("rope.scaling.attn_factor", magnitude)
            }
            Scaling::Llama3 { .. } => {
                let plain = Rotary { scaling: Scaling::Default, ..rotary.clone() };
                if let (Some(plain), Some(scaled)) = (frequencies(&plain, 1), frequencies(rotary, 1)) {
                    let divisors = plain.inverse.iter().zip(&scaled.inverse).map(|(w, scaled)| (w / scaled) as f32);
                    self.factors.push(("rope_freqs.weight", divisors.collect()));
                }
                Ok(())
            }
            // The others have no keys, which the comparison of what was written with the model then finds.
            _ => Ok(()),
        }
    }

    fn windows(&mut self, parts: &Parts<'_>) -> Result<(), Error> {
        let window = parts.first(|layer| match layer.attention?.reach {
            Reach::Window(width) => Some(width),
            _ => None,
        });
        let Some(window) = window else {
            // llama.cpp wants the key of this architecture.
            return if self.architecture == "phi3" { self.size("attention.sliding_window", 0) } else { Ok(()) };
        };
        self.size("attention.sliding_window", window)?;
        let slides: Vec<bool> = parts.layers.iter().map(|layer| layer.slides()).collect();
        let usual = |i: usize| match self.architecture {
            "gemma2" | "gpt-oss" => i.is_multiple_of(2),
            "gemma3" => !(i + 1).is_multiple_of(6),
            "llama" | "phi3" => true,
            // What other architectures do is written out.
            _ => !slides[i],
        };
        if (0..slides.len()).any(|i| slides[i] != usual(i)) {
            self.set("attention.sliding_window_pattern", slides)?;
        }
        Ok(())
    }

    fn experts(&mut self, parts: &Parts<'_>) -> Result<(), Error> {
        let Some(experts) = parts.first(|layer| layer.experts) else {
            if self.architecture == "granitehybrid" {
                // Files of this architecture have these keys without experts, too.
                self.size("expert_count", 0)?;
                self.size("expert_used_count", 0)?;
                self.size("expert_shared_feed_forward_length", parts.dense().unwrap_or(0))?;
            }
            return Ok(());
        };
        let ExpertsConfig { count, chosen, router, .. } = experts;
        self.size("expert_count", *count)?;
        self.size("expert_used_count", *chosen)?;
        if let Some(inner) = parts.expert() {
            self.size("expert_feed_forward_length", inner)?;
        }
        if let Some(shared) = parts.shared() {
            self.size("expert_shared_feed_forward_length", shared)?;
        }
        if let Some(latent) = &experts.latent {
            self.size("moe_latent_size", latent.width)?;
        }
        if router.score == Score::Sigmoid {
            self.set("expert_gating_func", 2u32)?;
            self.set("expert_weights_norm", router.normalize.is_some())?;
            self.number("expert_weights_scale", f64::from(router.scale))?;
        }
        if self.architecture == "nemotron_h_moe" {
            let (groups, kept) = router.groups.map_or((1, 1), |groups| (groups.count, groups.kept));
            self.size("expert_group_count", groups)?;
            self.size("expert_group_used_count", kept)?;
            self.size("expert_shared_count", 1)?;
        }
        if self.architecture == "lfm2moe" {
            let dense = parts.layers.iter().take_while(|layer| layer.experts.is_none()).count();
            self.size("leading_dense_block_count", dense)?;
        }
        Ok(())
    }

    fn recurrences(&mut self, parts: &Parts<'_>) -> Result<(), Error> {
        let mut ssm = |sizes: [(&str, usize); 4]| {
            sizes.into_iter().try_for_each(|(name, size)| self.size(&format!("ssm.{name}"), size))
        };
        if let Some(of) = parts.first(|layer| layer.mamba) {
            let rank = ("time_step_rank", of.rank);
            ssm([("conv_kernel", of.conv), ("inner_size", of.inner), ("state_size", of.state), rank])?;
            if self.architecture == "mamba" {
                use longreach_nn::mixers::InnerNorm;
                self.set("ssm.dt_b_c_rms", of.inner_norm.is_some())?;
                if let Some(InnerNorm::Plain(eps)) = of.inner_norm
                    && eps != falcon_mamba::EPS
                {
                    self.number(STEP_EPS, eps)?;
                }
            }
        }
        if let Some(of) = parts.first(|layer| layer.duality) {
            let inner = ("inner_size", of.heads.saturating_mul(of.head_dim));
            // The rank is the number of heads.
            let rank = ("time_step_rank", of.heads);
            let mut ssm = |sizes: [(&str, usize); 5]| {
                sizes.into_iter().try_for_each(|(name, size)| self.size(&format!("ssm.{name}"), size))
            };
            ssm([("conv_kernel", of.conv), inner, ("state_size", of.state), rank, ("group_count", of.groups)])?;
        }
        if let Some(of) = parts.first(|layer| layer.delta) {
            self.delta(parts, of)?;
        }
        if let Some(of) = parts.first(|layer| layer.conv) {
            self.size("shortconv.l_cache", of.taps)?;
        }
        Ok(())
    }

    /// The gated delta rule, and which layers have attention instead.
    fn delta(&mut self, parts: &Parts<'_>, of: &longreach_nn::mixers::GatedDeltaConfig) -> Result<(), Error> {
        let heads = &of.heads;
        self.size("ssm.conv_kernel", heads.conv.as_ref().map_or(0, |conv| conv.taps))?;
        self.size("ssm.state_size", heads.key)?;
        self.size("ssm.group_count", heads.groups)?;
        self.size("ssm.time_step_rank", heads.heads)?;
        self.size("ssm.inner_size", heads.heads.saturating_mul(heads.value))?;
        let recurrent: Vec<bool> = parts.layers.iter().map(|layer| layer.delta.is_some()).collect();
        let every = recurrent.iter().position(|recurrent| !recurrent).map_or(recurrent.len() + 1, |first| first + 1);
        self.size("full_attention_interval", every)?;
        if (0..recurrent.len()).any(|i| recurrent[i] == (i + 1).is_multiple_of(every)) {
            self.set("attention.recurrent_layers", recurrent)?;
        }
        Ok(())
    }
}

/// The frequencies of rotary positions in a sequence of a length; `None` if they are not valid.
pub(super) fn frequencies(rotary: &Rotary, length: usize) -> Option<Frequencies> {
    rotary.scaling.frequencies(rotary.width, rotary.theta, length).ok()
}
