//! A decoder of full attention whose KV cache is bounded: the first tokens as sinks and the most recent ones.
//!
//! The weights are those of the model; positions are counted within the cache. Xiao et al. 2024 (StreamingLLM), §3.2.

use longreach_attention::softmax::streaming::Streaming;

use crate::mixers::{AttentionConfig, KvSource, MixerConfig, Reach};
use crate::{BranchConfig, DecoderConfig, OperationConfig};

impl DecoderConfig {
    /// Bounds the KV cache of every layer with full attention to the first `streaming.sinks` tokens and the last
    /// `streaming.recent` ones; returns the number of these layers. Windows and recurrent layers stay as they are.
    ///
    /// The error is a message: no layer has full attention, `recent` is 0, or positions cannot be counted within a
    /// cache, because they are learned, are distances of ALiBi, or belong to keys that layers share.
    pub fn stream(&mut self, streaming: Streaming) -> Result<usize, String> {
        if streaming.recent == 0 {
            return Err("a window of 0 tokens: want at least 1".into());
        }
        if streaming.recent.checked_add(streaming.sinks).is_none() {
            return Err(format!(
                "a window of {} tokens beside {} sinks is too large",
                streaming.recent, streaming.sinks
            ));
        }
        if self.positions.is_some() {
            return Err("the model has learned positions, which are those in the text and not in a window".into());
        }
        if self.hmt.is_some() {
            return Err("the model has a hierarchical memory, which divides the text into segments".into());
        }
        let (mut changed, mut refused) = (0, None);
        for (i, block) in self.blocks.iter_mut().enumerate() {
            for branch in &mut block.branches {
                each_attention(branch, &mut |attention| {
                    let what = match attention {
                        Full::Latent => Some("latent attention"),
                        Full::Attention(c) => refusal(c).or_else(|| {
                            c.reach = Reach::Sinks(streaming);
                            changed += 1;
                            None
                        }),
                    };
                    refused = refused.or(what.map(|what| (i, what)));
                });
            }
        }
        match refused {
            Some((i, what)) => Err(format!("layer {i} has {what}, which goes with no window and sinks")),
            None if changed == 0 => {
                Err("no layer has full attention: the state of the model does not grow without limit".into())
            }
            None => Ok(changed),
        }
    }

    /// Whether a layer attends to all tokens before, so that its KV cache grows with the text.
    pub fn attends_fully(&self) -> bool {
        let mut found = false;
        for branch in self.blocks.clone().iter_mut().flat_map(|block| &mut block.branches) {
            each_attention(branch, &mut |_| found = true);
        }
        found
    }
}

/// A mixer with full attention.
enum Full<'a> {
    Attention(&'a mut AttentionConfig),
    Latent,
}

/// Calls `each` with every mixer of a branch that attends to all tokens before.
fn each_attention(branch: &mut BranchConfig, each: &mut dyn FnMut(Full<'_>)) {
    let mut attention = |c: &mut AttentionConfig| {
        if c.reach == Reach::Full {
            each(Full::Attention(c));
        }
    };
    match &mut branch.operation {
        OperationConfig::Mixer(MixerConfig::Attention(c)) => attention(c),
        OperationConfig::Mixer(MixerConfig::Mla(_)) => each(Full::Latent),
        OperationConfig::Parallel(branches) => branches.iter_mut().for_each(|branch| each_attention(branch, each)),
        OperationConfig::Zamba(c) => attention(&mut c.attention),
        _ => {}
    }
}

/// What of full attention does not go with sinks; `None` if nothing.
fn refusal(c: &AttentionConfig) -> Option<&'static str> {
    if c.alibi {
        Some("ALiBi")
    } else if c.learned_sinks {
        Some("learned sinks")
    } else if c.source != KvSource::Own || c.values_are_keys {
        Some("shared keys")
    } else if c.sparse.is_some() {
        Some("a sparse layout")
    } else {
        None
    }
}
