//! Mamba, Falcon Mamba, and Mamba-2.

use serde_json::json;

use super::Read;
use super::keys::Keys;
use super::names::{around, of_layers};
use crate::{Error, Rewrite, Step, Values};

/// Mamba's tensors after `prefix` and before those of the file; the decay is stored as `−exp(A_log)`.
pub(super) fn selective(prefix: &str, [inner, taps]: [usize; 2]) -> Vec<Rewrite> {
    let ours = |name: &str| format!("{prefix}.{name}");
    let one = |name: &str, file: &str, steps: Vec<Step>| Rewrite::new(ours(name), format!("blk.*.{file}"), steps);
    let parts = [
        ("in_proj.weight", "ssm_in.weight"),
        ("conv1d.bias", "ssm_conv1d.bias"),
        ("x_proj.weight", "ssm_x.weight"),
        ("dt_proj.weight", "ssm_dt.weight"),
        ("dt_proj.bias", "ssm_dt.bias"),
        ("D", "ssm_d"),
        ("out_proj.weight", "ssm_out.weight"),
        ("dt_layernorm.weight", "ssm_dt_norm.weight"),
        ("b_layernorm.weight", "ssm_b_norm.weight"),
        ("c_layernorm.weight", "ssm_c_norm.weight"),
    ];
    let mut all: Vec<Rewrite> = parts.into_iter().map(|(name, file)| one(name, file, Vec::new())).collect();
    all.push(one("conv1d.weight", "ssm_conv1d.weight", vec![Step::Stored(vec![inner, taps])]));
    all.push(one("A_log", "ssm_a", vec![Step::Values(Values::NegativeExponential)]));
    all
}

/// The sizes of Mamba-2's tensors.
pub(super) struct Duality {
    pub(super) heads: usize,
    pub(super) inner: usize,
    pub(super) groups: usize,
    pub(super) state: usize,
    pub(super) taps: usize,
}

impl Duality {
    pub(super) fn of(keys: &Keys<'_>) -> Result<Self, Error> {
        let size = |name: &str| keys.size(name).map(|n| n as usize);
        Ok(Self {
            // The number of heads, whatever its name.
            heads: size("ssm.time_step_rank")?,
            inner: size("ssm.inner_size")?,
            groups: size("ssm.group_count")?,
            state: size("ssm.state_size")?,
            taps: size("ssm.conv_kernel")?,
        })
    }

    /// Mamba-2's tensors after `prefix`.
    pub(super) fn tensors(&self, prefix: &str) -> Vec<Rewrite> {
        let one = |name: &str, file: &str, steps: Vec<Step>| {
            Rewrite::new(format!("{prefix}.{name}"), format!("blk.*.{file}"), steps)
        };
        let mixed = self.inner + 2 * self.groups * self.state;
        let column = || Step::Stored(vec![self.heads, 1]);
        vec![
            one("in_proj.weight", "ssm_in.weight", Vec::new()),
            one("in_proj.bias", "ssm_in.bias", Vec::new()),
            one("conv1d.weight", "ssm_conv1d.weight", vec![Step::Stored(vec![mixed, self.taps])]),
            one("conv1d.bias", "ssm_conv1d.bias", Vec::new()),
            one("dt_bias", "ssm_dt.bias", Vec::new()),
            one("A_log", "ssm_a", vec![column(), Step::Values(Values::NegativeExponential)]),
            one("D", "ssm_d", vec![column()]),
            one(
                "norm.weight",
                "ssm_norm.weight",
                vec![Step::Stored(vec![self.groups, self.inner / self.groups.max(1)])],
            ),
            one("out_proj.weight", "ssm_out.weight", Vec::new()),
            one("out_proj.bias", "ssm_out.bias", Vec::new()),
        ]
    }
}

fn parts() -> Vec<Rewrite> {
    [
        around(["backbone.embeddings", "backbone.norm_f", "lm_head"]),
        of_layers("backbone.layers", &[("norm", "attn_norm")]),
    ]
    .concat()
}

/// The key of the ε with which Falcon Mamba norms steps, `B` and `C`, where it is not that of its checkpoints.
pub(super) const STEP_EPS: &str = "ssm.dt_b_c_rms_epsilon";

/// `mamba`, and Falcon Mamba, whose steps, `B` and `C` are normed without weights.
pub(super) fn mamba(keys: &Keys<'_>) -> Result<Read, Error> {
    let falcon = keys.flag("ssm.dt_b_c_rms")?.unwrap_or(false);
    let mut fields = keys.common(if falcon { "falcon_mamba" } else { "mamba" })?;
    let (inner, taps) = (keys.size("ssm.inner_size")?, keys.size("ssm.conv_kernel")?);
    for (name, value) in [
        ("intermediate_size", json!(inner)),
        ("state_size", json!(keys.size("ssm.state_size")?)),
        ("conv_kernel", json!(taps)),
        ("time_step_rank", json!(keys.size("ssm.time_step_rank")?)),
        ("use_bias", json!(false)),
        ("use_conv_bias", json!(true)),
    ] {
        fields.insert(name.into(), value);
    }
    // llama.cpp has no key of it.
    if let Some(eps) = keys.number(STEP_EPS)? {
        fields.insert("mixer_rms_eps".into(), json!(eps));
    }
    let mut rewrites = selective("backbone.layers.*.mixer", [inner as usize, taps as usize]);
    rewrites.extend(parts());
    Ok(Read::new(fields, rewrites))
}

/// `mamba2`
pub(super) fn mamba2(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.common("mamba2")?;
    let sizes = Duality::of(keys)?;
    let hidden = keys.size("embedding_length")? as usize;
    if sizes.heads == 0 || !sizes.inner.is_multiple_of(sizes.heads) || !sizes.inner.is_multiple_of(hidden.max(1)) {
        return Err(keys.error(
            "ssm.inner_size",
            format!("{} channels of {} heads in a model of {hidden}", sizes.inner, sizes.heads),
        ));
    }
    for (name, value) in [
        ("num_heads", json!(sizes.heads)),
        ("head_dim", json!(sizes.inner / sizes.heads)),
        ("expand", json!(sizes.inner / hidden)),
        ("state_size", json!(sizes.state)),
        ("n_groups", json!(sizes.groups)),
        ("conv_kernel", json!(sizes.taps)),
        ("use_bias", json!(keys.shape("blk.0.ssm_in.bias").is_some())),
        ("use_conv_bias", json!(keys.shape("blk.0.ssm_conv1d.bias").is_some())),
    ] {
        fields.insert(name.into(), value);
    }
    let mut rewrites = sizes.tensors("backbone.layers.*.mixer");
    rewrites.extend(parts());
    Ok(Read::new(fields, rewrites))
}
