//! What hybrids of attention and state spaces share: kinds of layers, and the Mamba-2 of Bamba and its relatives.

use longreach_nn::mixers::{GatedNorm, Mamba2Config, MixerConfig};
use serde_json::Value;

use super::fla::divided;
use crate::description::silu;
use crate::{Error, Fields};

/// The kinds of the layers, from a list of names; `None` if the field is absent. Each name must be a key of `kinds`.
pub(crate) fn kinds<T: Copy>(f: &Fields, name: &str, kinds: &[(&str, T)]) -> Result<Option<Vec<T>>, Error> {
    let Some(found) = f.get(name) else { return Ok(None) };
    let kind = |value: &Value| kinds.iter().find(|(kind, _)| value.as_str() == Some(kind)).map(|(_, kind)| *kind);
    let list: Option<Vec<T>> = found.as_array().and_then(|list| list.iter().map(kind).collect());
    let want: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
    let wrong = || f.error(format!("field `{name}`: want a list of {}, found {found}", want.join(", ")));
    list.map(Some).ok_or_else(wrong)
}

/// An error unless there is a kind for each layer.
pub(crate) fn as_many<T>(f: &Fields, name: &str, kinds: &[T], layers: usize) -> Result<(), Error> {
    if kinds.len() == layers {
        return Ok(());
    }
    Err(f.error(format!("field `{name}`: want {layers} entries, one for each layer, found {}", kinds.len())))
}

/// The Mamba-2 of `bamba` and `granitemoehybrid`, from the fields `mamba_*`.
pub(crate) fn mamba2(f: &Fields, hidden: usize, heads: usize, norm_eps: f64) -> Result<MixerConfig, Error> {
    let inner = f.size("mamba_expand", 2)?.saturating_mul(hidden);
    let norm = GatedNorm::AfterGate(norm_eps);
    Ok(MixerConfig::Mamba2(Mamba2Config { norm, ..mamba2_sizes(f, hidden, inner, heads)? }))
}

/// Mamba-2 of `inner` channels without a norm, from the fields `mamba_*`; `heads` is the number of heads if none is given.
pub(crate) fn mamba2_sizes(f: &Fields, hidden: usize, inner: usize, heads: usize) -> Result<Mamba2Config, Error> {
    silu(f)?;
    let heads = f.size("mamba_n_heads", heads)?;
    let head_dim = match f.text("mamba_d_head") {
        Ok(None | Some("auto")) => divided(f, "mamba_n_heads", inner, heads)?,
        _ => f.size("mamba_d_head", 1)?,
    };
    let groups = f.size("mamba_n_groups", 1)?;
    divided(f, "mamba_n_groups", heads, groups)?;
    let bias = f.flag("mamba_proj_bias", false)?;
    Ok(Mamba2Config {
        hidden,
        heads,
        head_dim,
        state: f.size("mamba_d_state", 256)?,
        groups,
        conv: f.size("mamba_d_conv", 4)?,
        conv_bias: f.flag("mamba_conv_bias", true)?,
        bias,
        out_bias: bias,
        norm: GatedNorm::Absent,
        multipliers: [1.0; 5],
        step_limit: f.bounds("time_step_limit", (0.0, f32::INFINITY))?,
        step: (1e-3, 0.1),
    })
}
