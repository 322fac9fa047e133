//! `reformer`: LSH and local attention in reversible blocks, axial positions; an encoder, optionally causal. Kitaev
//! et al. 2020.
//!
//! With a `hash_seed`, buckets equal those of Hugging Face. Without one, the seed is 0, whereas Hugging Face draws
//! new rotations in every pass. As in Hugging Face, the bias of the language-model head is in the file but not used.

use longreach_nn::{
    Activation, Bias, BodyConfig, FeedForwardConfig, HeadConfig, Layout, NormConfig, Over, ReformerAttention,
    ReformerConfig, ReformerPositions,
};

use crate::description::activation;
use crate::encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, Heads, Task};
use crate::{Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: EncoderArchitecture =
    EncoderArchitecture { model_type: "reformer", mechanism: "lsh", paper: "Kitaev et al. 2020", describe };

/// A list of two sizes.
fn pair(f: &Fields, name: &str, default: [usize; 2]) -> Result<[usize; 2], Error> {
    let sizes = f.ids(name)?;
    match sizes[..] {
        [] => Ok(default),
        [a, b] if a > 0 && b > 0 && a <= 1 << 24 && b <= 1 << 24 => Ok([a as usize, b as usize]),
        _ => Err(f.error(format!("field `{name}`: want two sizes, found {sizes:?}"))),
    }
}

fn positions(f: &Fields, hidden: usize) -> Result<ReformerPositions, Error> {
    if !f.flag("axial_pos_embds", true)? {
        return Ok(ReformerPositions::Table(f.size("max_position_embeddings", 4096)?));
    }
    let (shape, widths) = (pair(f, "axial_pos_shape", [64, 64])?, pair(f, "axial_pos_embds_dim", [64, 192])?);
    if widths[0] + widths[1] != hidden {
        let message = format!(
            "field `axial_pos_embds_dim`: want two widths that sum to `hidden_size` {hidden}, found {widths:?}"
        );
        return Err(f.error(message));
    }
    Ok(ReformerPositions::Axial { shape, widths })
}

/// The attention of each block.
fn blocks(f: &Fields) -> Result<Vec<ReformerAttention>, Error> {
    // The upper limit of chunks, rounds and buckets, more than any text needs.
    const MOST: usize = 1 << 16;
    let bounded = |name: &str, found: usize| match found {
        0..=MOST => Ok(found),
        _ => Err(f.error(format!("field `{name}`: want at most {MOST}, found {found}"))),
    };
    let chunk = |length: &str, before: &str, after: &str| {
        Ok::<_, Error>([
            f.size(length, 64)?,
            bounded(before, f.count(before, 1)?)?,
            bounded(after, f.count(after, 0)?)?,
        ])
    };
    let local = chunk("local_attn_chunk_length", "local_num_chunks_before", "local_num_chunks_after")?;
    let lsh = chunk("lsh_attn_chunk_length", "lsh_num_chunks_before", "lsh_num_chunks_after")?;
    let rounds = bounded("num_hashes", f.size("num_hashes", 1)?)?;
    let factors: Vec<usize> = f.ids("num_buckets")?.into_iter().map(|n| n as usize).collect();
    let all = factors.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).unwrap_or(usize::MAX);
    if factors.iter().any(|n| *n == 0 || n % 2 != 0) || all > 1 << 24 {
        return Err(f.error(format!("field `num_buckets`: want even numbers, found {factors:?}")));
    }
    let buckets = (!factors.is_empty()).then_some(factors);
    let usual = ["local", "lsh", "local", "lsh", "local", "lsh"].map(serde_json::Value::from).to_vec();
    let named = match f.get("attn_layers") {
        None => usual,
        Some(list) => list.as_array().cloned().unwrap_or_default(),
    };
    let of = |kind: &serde_json::Value| match kind.as_str() {
        Some("local") => Ok(ReformerAttention::Local(local)),
        Some("lsh") => Ok(ReformerAttention::Hashed { chunk: lsh, rounds, buckets: buckets.clone() }),
        _ => Err(f.error(format!("field `attn_layers`: want a list of `local` and `lsh`, found {kind}"))),
    };
    let blocks = named.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    if blocks.is_empty() {
        return Err(f.error("field `attn_layers`: want a list of `local` and `lsh`"));
    }
    Ok(blocks)
}

fn describe(f: &Fields) -> Result<EncoderDescription, Error> {
    let hidden = f.size("hidden_size", 256)?;
    let act = activation(f, "hidden_act", Activation::Relu)?;
    let config = ReformerConfig {
        vocabulary: f.size("vocab_size", 320)?,
        hidden,
        heads: [f.size("num_attention_heads", 12)?, f.size("attention_head_size", 64)?],
        blocks: blocks(f)?,
        positions: positions(f, hidden)?,
        causal: f.flag("is_decoder", false)?,
        norm: NormConfig::Layer(f.number("layer_norm_eps", 1e-12)?, Bias::Yes),
        feed_forward: FeedForwardConfig {
            inner: f.size("feed_forward_size", 512)?,
            activation: act,
            gated: false,
            bias: Bias::Yes,
            names: ["dense.dense", "output.dense"],
            layout: Layout::Same,
        },
        longest: f.size("max_position_embeddings", 4096)?,
        pad: f.id("pad_token_id", 0)?,
        seed: u64::from(f.id("hash_seed", 0)?),
    };
    if config.pad as usize >= config.vocabulary {
        let (pad, size) = (config.pad, config.vocabulary);
        return Err(f.error(format!("field `pad_token_id`: {pad} is not below `vocab_size` {size}")));
    }
    for block in &config.blocks {
        // The upper limit of the number of elements of a pass's rotations.
        const MOST: usize = 1 << 26;
        if let ReformerAttention::Hashed { rounds, buckets: Some(buckets), .. } = block {
            let sizes = [config.heads[0], config.heads[1], *rounds, buckets.iter().sum::<usize>() / 2];
            if sizes.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).is_none_or(|all| all > MOST) {
                return Err(f.error(format!(
                    "fields `num_buckets` and `num_hashes`: {buckets:?} in {rounds} rounds are too many"
                )));
            }
        }
    }
    let longest = config.readable();
    let heads = Heads::of(f, 2 * hidden, config.vocabulary)?;
    let head = heads.task().map(|task| {
        let head = match task {
            Task::MaskedLm => HeadConfig { tied: false, ..heads.words(None, None, "lm_head.decoder", &[]) },
            Task::Sequence => {
                let plain = heads.labelled(Over::First, None, ["classifier.out_proj", "classifier.out_proj.bias"]);
                HeadConfig { dense: Some(("classifier.dense", hidden, Bias::Yes, Activation::Tanh)), ..plain }
            }
            Task::Token => heads.labelled(Over::Tokens, None, ["classifier", "classifier.bias"]),
            Task::Question => heads.ends("qa_outputs", &["qa_outputs.bias"]),
        };
        (task, head)
    });
    Ok(EncoderDescription {
        model_type: "reformer",
        longest: Some(longest),
        pooler: None,
        pad: config.pad,
        separator: None,
        questions: false,
        rewrites: Rewrites::default(),
        global: GlobalByDefault::None,
        head,
        labels: heads.labels(),
        body: BodyConfig::Reformer(config),
    })
}
