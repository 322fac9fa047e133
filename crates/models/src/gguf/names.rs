//! The names of tensors in GGUF files, beside those of the models.

use crate::{Rewrite, Step, Values};

/// A tensor `ours` with its weight and its bias, which the file calls `file`.
pub(super) fn both(ours: &str, file: &str) -> Vec<Rewrite> {
    ["weight", "bias"].map(|kind| Rewrite::new(format!("{ours}.{kind}"), format!("{file}.{kind}"), [])).to_vec()
}

/// Tensors of every layer, with their weights and biases: names of the model's after `at`, names of the file's after
/// `blk.N`.
pub(super) fn of_layers(at: &str, names: &[(&str, &str)]) -> Vec<Rewrite> {
    names.iter().flat_map(|(ours, file)| both(&format!("{at}.*.{ours}"), &format!("blk.*.{file}"))).collect()
}

/// The embedding table, the head, and the last norm; `names` are those of the model.
pub(super) fn around([embedding, norm, head]: [&str; 3]) -> Vec<Rewrite> {
    [both(embedding, "token_embd"), both(norm, "output_norm"), both(head, "output")].concat()
}

/// Those of Llama's attention, after the name of the mixer.
pub(super) const ATTENTION: [(&str, &str); 6] = [
    ("q_proj", "attn_q"),
    ("k_proj", "attn_k"),
    ("v_proj", "attn_v"),
    ("o_proj", "attn_output"),
    ("q_norm", "attn_q_norm"),
    ("k_norm", "attn_k_norm"),
];

/// Tensors of the part `part` of every layer: names of the model's after it.
pub(super) fn of_part(at: &str, part: &str, names: &[(&str, &str)]) -> Vec<Rewrite> {
    let one = |(ours, file): &(&str, &str)| both(&format!("{at}.*.{part}.{ours}"), &format!("blk.*.{file}"));
    names.iter().flat_map(one).collect()
}

/// Experts, whose matrices are one tensor for all: those of the model after `at.*.mixture.experts.N`.
pub(super) fn experts(at: &str, list: &str, count: usize, names: &[(&str, &str)]) -> Vec<Rewrite> {
    let one = |(ours, file): &(&str, &str)| {
        ["weight", "bias"].map(|kind| {
            let (ours, file) = (format!("{at}.*.{list}.*.{ours}.{kind}"), format!("blk.*.{file}.{kind}"));
            Rewrite::new(ours, file, [Step::Nth(count)])
        })
    };
    names.iter().flat_map(one).collect()
}

/// The matrices of gated experts.
pub(super) const EXPERTS: [(&str, &str); 3] =
    [("gate_proj", "ffn_gate_exps"), ("up_proj", "ffn_up_exps"), ("down_proj", "ffn_down_exps")];

/// The matrices of gated feed-forward layers.
pub(super) const FEED_FORWARD: [(&str, &str); 3] =
    [("gate_proj", "ffn_gate"), ("up_proj", "ffn_up"), ("down_proj", "ffn_down")];

/// The same where norms, but that of a mixer's output, are stored with 1 added to their weights.
pub(super) fn plus_one(rewrites: Vec<Rewrite>) -> Vec<Rewrite> {
    let norm = |rewrite: &Rewrite| {
        let mut files = rewrite.files().iter();
        files.any(|file| file.ends_with("norm.weight") && !file.ends_with("ssm_norm.weight"))
    };
    let one = |rewrite: Rewrite| if norm(&rewrite) { rewrite.then(Step::Values(Values::OnePlus)) } else { rewrite };
    rewrites.into_iter().map(one).collect()
}

/// The same where the rows of queries and keys, in heads of this many, are in pairs.
pub(super) fn paired(rewrites: Vec<Rewrite>, width: usize) -> Vec<Rewrite> {
    let one = |rewrite: Rewrite| match rewrite.ours().rsplit('.').nth(1) {
        Some("q_proj" | "k_proj") => rewrite.then(Step::Paired(width)),
        _ => rewrite,
    };
    rewrites.into_iter().map(one).collect()
}
