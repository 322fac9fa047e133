//! Matching of tensor names: prefixes of wrappers, omitted prefixes of bare bodies, and legacy names.

use longreach_nn::Error as NnError;

use super::stored::{Entry, Stored};
use super::{Checkpoint, Part};

/// How the names in a file differ from the names that a model uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Naming {
    /// A prefix of all names in the file, with its trailing dot: `module.` of `DataParallel`, `_orig_mod.` of
    /// `torch.compile`, or the key of a dictionary that contains the weights besides other entries.
    wrapper: String,
    /// The prefix of the body, with its trailing dot, if the file omits it: a checkpoint of a bare body.
    without: Option<String>,
}

impl Checkpoint {
    /// Detects how the file names the parts of a model. `body` is the prefix of all parts but the heads, and `probe`
    /// is a tensor within the body that every checkpoint contains.
    ///
    /// Detects names with the body's prefix and names of a bare body, each with or without a prefix of a wrapper.
    pub fn named_as(mut self, body: &str, probe: &str) -> Self {
        let body = if body.is_empty() { String::new() } else { format!("{body}.") };
        let whole = format!("{body}{probe}");
        let before = |name: &str| -> Option<String> {
            let ends = self.tensors.keys().filter_map(|found| found.strip_suffix(name));
            ends.filter(|before| before.is_empty() || before.ends_with('.'))
                .min_by_key(|before| before.len())
                .map(str::to_owned)
        };
        let (wrapper, bare) = match (before(&whole), before(probe)) {
            (Some(wrapper), _) => (wrapper, false),
            (None, Some(wrapper)) => (wrapper, true),
            (None, None) => return self,
        };
        self.naming = Naming { wrapper, without: (bare && !body.is_empty()).then_some(body) };
        self
    }

    /// The tensor that the model calls `name`, and its name in the file.
    pub(super) fn entry(&self, name: &str) -> Option<(&str, &Entry)> {
        let Naming { wrapper, without } = &self.naming;
        let known = |name: &str| {
            let stored = self.tensors.get_key_value(name).or_else(|| self.tensors.get_key_value(&old(name)?));
            stored.map(|(name, entry)| (&name[..], entry))
        };
        let bare = without.as_deref().and_then(|body| name.strip_prefix(body));
        known(&format!("{wrapper}{name}"))
            .or_else(|| known(&format!("{wrapper}{}", bare?)))
            .or_else(|| known(name))
            .or_else(|| known(bare?))
    }

    /// The names in the file of the tensors that contain the model's tensor `name`, and its part of them.
    pub(super) fn find(&self, name: &str) -> Option<(Vec<String>, Part)> {
        let stored = |name: &String| Some(self.entry(name)?.0.to_owned());
        let rewritten = self.rewrites.of(name).find_map(|(files, part)| {
            let files: Option<Vec<String>> = files.iter().map(stored).collect();
            Some((files?, part))
        });
        rewritten.or_else(|| Some((vec![self.entry(name)?.0.to_owned()], Part::default())))
    }

    /// The error for a missing tensor, which lists the most similar names.
    pub(super) fn missing(&self, name: &str) -> NnError {
        const SHOWN: usize = 4;
        let mut names = self.names();
        let parts: Vec<&str> = name.split('.').collect();
        let shared = |found: &str| {
            let found: Vec<&str> = found.split('.').collect();
            let behind = parts.iter().rev().zip(found.iter().rev()).take_while(|(a, b)| a == b).count();
            let before = parts.iter().zip(&found).take_while(|(a, b)| a == b).count();
            2 * behind + before
        };
        names.sort_by_cached_key(|found| std::cmp::Reverse(shared(found)));
        let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let there = match names.len() {
            0 => "the file has no tensors".into(),
            n if n <= SHOWN => format!("the file has {shown}"),
            n => format!("the file has {n} tensors, of which the nearest by name are {shown}"),
        };
        NnError::Missing { origin: self.origin(), name: name.to_owned(), there }
    }

    /// The sorted names of the weights in the files that the model did not read.
    ///
    /// Excluded are buffers, copies of weights that were read (such as the output layer of a model with tied
    /// embeddings), and training state stored next to the weights. O(bytes of the unread tensors) time.
    pub fn unused(&self) -> Vec<String> {
        // Layers that predict further tokens, and parts of models of text and other media.
        const OTHERS: [&str; 7] =
            ["mtp", "visual", "vision_tower", "multi_modal_projector", "audio_tower", "embed_vision", "embed_audio"];
        const BUFFERS: [&str; 15] = [
            // Read as fields of the configuration.
            "rope_freqs.weight",
            "rope_factors_long.weight",
            "rope_factors_short.weight",
            "position_ids",
            "token_type_ids",
            "inv_freq",
            "num_batches_tracked",
            "masked_bias",
            "attn.bias",
            "causal_mask",
            "rotary_emb.cos_cached",
            // The decays of lightning attention, which follow from the shape.
            "self_attn.slope_rate",
            "self_attn.query_decay",
            "self_attn.key_decay",
            "self_attn.diagonal_decay",
        ];
        let wrapper = &self.naming.wrapper;
        let copy = |name: &str| {
            let Some(of) = self.tensors.get(name) else { return false };
            let same = |other: &Entry| other.dtype == of.dtype && other.shape == of.shape && self.equal(of, other);
            self.used.iter().filter_map(|name| self.tensors.get(name)).any(same)
        };
        let mut names = self.names();
        // Layers behind the last that predict further tokens, as DeepSeek stores them.
        let further: Vec<String> =
            names.iter().filter_map(|name| Some(format!("{}.", name.strip_suffix(".eh_proj.weight")?))).collect();
        names.retain(|name| {
            !self.used.contains(name)
                && !self.rewrites.leaves(name)
                && !further.iter().any(|layer| name.starts_with(layer))
                && (wrapper.is_empty() || name.starts_with(&wrapper[..]))
                && !BUFFERS.iter().any(|buffer| name.ends_with(buffer))
                && !name.split('.').take(2).any(|part| OTHERS.contains(&part))
                && !copy(name)
        });
        names
    }

    fn equal(&self, a: &Entry, b: &Entry) -> bool {
        match (&a.bytes, &b.bytes) {
            (Stored::There(x), Stored::There(y)) => self.files[a.file].1[x.clone()] == self.files[b.file].1[y.clone()],
            (Stored::Pickled(x), Stored::Pickled(y)) => matches!((x.read(), y.read()), (Ok(x), Ok(y)) if x == y),
            _ => false,
        }
    }
}

/// Another name of a tensor: that of a norm's weight or bias in early BERT checkpoints, or that of GPT-NeoX's head in files
/// of transformers 5.
fn old(name: &str) -> Option<String> {
    if name == "embed_out.weight" {
        return Some("lm_head.weight".into());
    }
    let norm = name.rsplit('.').nth(1).is_some_and(|part| part == "LayerNorm");
    let (of, new) = name.rsplit_once('.')?;
    match new {
        "weight" if norm => Some(format!("{of}.gamma")),
        "bias" if norm => Some(format!("{of}.beta")),
        _ => None,
    }
}
