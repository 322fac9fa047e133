//! `longreach info`

use std::ffi::OsString;

use longreach_engine::{CHUNK, Engine, TextEncoder};
use longreach_models::{Checkpoint, DType, EncoderModel, Location, Progress, Task};
use longreach_nn::mixers::parts::Heads;
use longreach_nn::mixers::{Blocks, MixerConfig, Reach};
use longreach_nn::{BodyConfig, KvDtype, ReformerAttention, Sees, WordsConfig};

use super::generate::megabytes;
use crate::failure::Failure;
use crate::machine::device;
use crate::model;

/// Describe a model: architecture, parameters, memory and the size of its state
///
/// Use it to check that a model is supported and fits into memory. For an encoder, the input limit, pooling, prompts and labels are printed as well.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach info
  longreach info tiiuae/falcon-mamba-7b --dtype bf16
  longreach info sentence-transformers/all-MiniLM-L6-v2")]
pub(crate) struct Args {
    /// Directory, weights file or Hugging Face Hub id [default: the built-in model]
    model: Option<OsString>,
    /// Dtype of the weight matrices in memory [default: that of the checkpoint]
    #[arg(long, value_enum)]
    dtype: Option<model::DTypeArg>,
    /// Dtype of the KV cache of attention layers
    #[arg(long, value_enum, default_value_t)]
    kv_dtype: model::KvDtypeArg,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if let Some(name) = &args.model {
        let at = Location::find(name, Progress::Shown)?;
        let dtype = args.dtype.map(DType::from);
        let shown = name.to_string_lossy();
        if TextEncoder::is_at(&at)? {
            let facts = match TextEncoder::load_on(name, dtype, &device(), Progress::Shown) {
                Ok(encoder) => {
                    encoder.notes().iter().for_each(|note| eprintln!("note: {note}"));
                    let mut facts = of_encoder(&shown, &encoder.model);
                    facts.extend(of_vectors(&encoder));
                    facts
                }
                // A model without a tokenizer can still be described.
                Err(longreach_engine::Error::NoTokenizer(_)) => {
                    of_encoder(&shown, &EncoderModel::load_on(&at, dtype, &device())?)
                }
                Err(e) => return Err(e.into()),
            };
            print(facts, Some(&at));
            return Ok(());
        }
    }
    let engine = model::load(args.model.as_deref(), args.dtype)?.with_kv_dtype(args.kv_dtype.into());
    let at = args.model.as_ref().map(|name| Location::find(name, Progress::Hidden)).transpose()?;
    print(facts(&engine), at.as_ref());
    Ok(())
}

/// Prints facts, and how the files of the weights are cached.
fn print(mut facts: Vec<(&'static str, String)>, at: Option<&Location>) {
    let files = at.and_then(|at| at.weight_files().ok());
    facts.extend(files.and_then(|files| Some(("page cache", super::warm::described(&files)?))));
    for (name, value) in facts {
        println!("{name:14} {value}");
    }
}

/// How `embed` makes a vector with this model: input limit, width, prompts and similarity.
fn of_vectors(encoder: &TextEncoder) -> Vec<(&'static str, String)> {
    let pipeline = &encoder.pipeline;
    let mut facts = vec![
        ("embed reads", format!("{} tokens at once", encoder.limit())),
        ("vectors", format!("{} dimensions: {}", encoder.width(), pipeline.about())),
    ];
    if !pipeline.prompts.is_empty() {
        let default = match &pipeline.default_prompt {
            Some(name) => format!("; default `{name}`"),
            None => String::new(),
        };
        facts
            .push(("prompts", format!("{}{default}", pipeline.prompts.keys().cloned().collect::<Vec<_>>().join(", "))));
    }
    facts.extend(pipeline.similarity.map(|similarity| ("similarity", similarity.name().to_owned())));
    facts
}

fn of_encoder(name: &str, model: &EncoderModel) -> Vec<(&'static str, String)> {
    let d = &model.description;
    let mut ways: Vec<(&Sees, usize)> = Vec::new();
    for attention in model.encoder.attentions() {
        match ways.iter_mut().find(|(sees, _)| *sees == attention.sees()) {
            Some((_, n)) => *n += 1,
            None => ways.push((attention.sees(), 1)),
        }
    }
    let way = |(sees, n): &(&Sees, usize)| {
        let what = match sees {
            Sees::All => "full attention".into(),
            Sees::Window(w) => format!("a window of {w} tokens on either side"),
            Sees::Longformer(w) => format!("a window of {w} tokens on either side and global tokens"),
            Sees::BigBird(b) => {
                format!(
                    "block-sparse attention, blocks of {}, {} of them random; full attention up to {} tokens",
                    b.block,
                    b.random_blocks,
                    (5 + 2 * b.random_blocks) * b.block
                )
            }
            Sees::Nystrom(n) if n.landmarks == usize::MAX => "full attention".into(),
            Sees::Nystrom(n) => format!("{} Nyström landmarks", n.landmarks),
            Sees::Sparse(config, _) => format!("a DeepSpeed layout of blocks of {}", config.block()),
        };
        format!("{n} layers with {what}")
    };
    let (layers, heads, attention) = match &d.body {
        BodyConfig::Blocks(c) => {
            let heads = c.blocks.first().map_or(0, |block| block.attention.heads);
            (c.blocks.len(), heads, ways.iter().map(way).collect::<Vec<_>>().join("; "))
        }
        BodyConfig::Reformer(c) => {
            let hashed = c.blocks.iter().filter(|b| matches!(b, ReformerAttention::Hashed { .. })).count();
            let future = if c.causal { ", causal" } else { "" };
            let local = c.blocks.len() - hashed;
            (
                c.blocks.len(),
                c.heads[0],
                format!("{hashed} layers with LSH attention, {local} with local attention{future}"),
            )
        }
        BodyConfig::Decoder(c) => {
            let heads = c.blocks.iter().flat_map(|block| block.mixers()).find_map(|mixer| match mixer {
                MixerConfig::Attention(attention) => Some(attention.heads),
                _ => None,
            });
            (c.blocks.len(), heads.unwrap_or(0), format!("{} causal layers", c.blocks.len()))
        }
    };
    let parameters = model.parameters();
    let memory = |dtype: DType| megabytes((parameters * dtype.bytes()) as u64);
    let head = match &d.head {
        None => "none: use `embed` or `search`".into(),
        Some((Task::Sequence | Task::Token, _)) => {
            let about = d.head.as_ref().map_or("", |(task, _)| task.about());
            format!("{about}: {}", d.labels.join(", "))
        }
        Some((task, _)) => task.about().to_owned(),
    };
    let cx = &*longreach_burn::context();
    let (loaded, _) = kept(model.checkpoint.as_ref(), model.dtype, parameters);
    vec![
        ("model", name.to_owned()),
        ("model_type", d.model_type.into()),
        (
            "architecture",
            format!(
                "encoder, {layers} layers of width {}, {heads} heads, vocabulary {}",
                d.body.width(),
                d.body.vocabulary()
            ),
        ),
        ("attention", attention),
        ("input limit", d.longest.map_or_else(|| "none".into(), |n| format!("{n} tokens"))),
        ("head", head),
        ("parameters", format!("{parameters} ({:.1} M)", parameters as f64 / 1e6)),
        ("weights", format!("{} in f32, {} in bf16; {loaded}", memory(DType::F32), memory(DType::Bf16))),
        ("machine", format!("{} on {} threads", cx.isa, cx.team.threads())),
    ]
}

/// How the weights are kept in memory: the shares of block types, or the dtype.
fn kept(checkpoint: Option<&Checkpoint>, dtype: DType, parameters: usize) -> (String, String) {
    let types = checkpoint.map(Checkpoint::block_types).unwrap_or_default();
    if types.is_empty() {
        return (format!("loaded as {}", dtype.name()), format!("{} weights", dtype.name()));
    }
    let parts: Vec<String> = types.iter().map(|(name, bytes)| format!("{name} {}", megabytes(*bytes))).collect();
    let bits = 8.0 * types.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>() / parameters.max(1) as f64;
    let largest = types.first().map_or_else(String::new, |(name, _)| name.clone());
    (format!("in place: {} ({bits:.2} bits a weight)", parts.join(", ")), format!("{largest} blocks"))
}

fn facts(engine: &Engine) -> Vec<(&'static str, String)> {
    let (d, model) = (&engine.model.description, &engine.model);
    let c = &d.decoder;
    let parameters = model.parameters();
    let memory = |dtype: DType| megabytes((parameters * dtype.bytes()) as u64);
    let (mut mixers, mut counts): (Vec<&MixerConfig>, Vec<usize>) = (Vec::new(), Vec::new());
    for mixer in c.blocks.iter().flat_map(|block| block.mixers()) {
        match mixers.iter().position(|m| m.mechanism() == mixer.mechanism()) {
            Some(at) => counts[at] += 1,
            None => {
                mixers.push(mixer);
                counts.push(1);
            }
        }
    }
    let every = mixers.len() == 1;
    let described = mixers.iter().zip(counts).map(|(mixer, n)| {
        let layers = if every { String::new() } else { format!("{n} layers of ") };
        format!("{layers}{}", sizes(mixer))
    });
    let mixer = described.collect::<Vec<_>>().join("; ");
    let recurrent = c.hmt.is_some() || !mixers.iter().any(|mixer| matches!(mixer, MixerConfig::Attention(_)));
    let cx = &*longreach_burn::context();
    let words = match &c.words {
        WordsConfig::Table { tied: true } => ", tied embeddings".into(),
        WordsConfig::Table { tied: false } => String::new(),
        WordsConfig::Adaptive(a) => format!(" in {} adaptive clusters", a.cutoffs.len() + 1),
    };
    let around = c.hmt.map_or_else(String::new, |h| {
        format!("; wrapped in a hierarchical memory of {} segments of {} tokens", h.queue, h.segment)
    });
    let (loaded, kind) = kept(model.checkpoint.as_ref(), model.dtype, parameters);
    vec![
        ("model", engine.name.clone()),
        ("model_type", d.model_type.into()),
        (
            "architecture",
            format!("{} layers of width {}, vocabulary {}{words}{around}", c.blocks.len(), c.hidden, c.vocabulary),
        ),
        ("mixer", mixer),
        ("parameters", format!("{parameters} ({:.1} M)", parameters as f64 / 1e6)),
        ("weights", format!("{} in f32, {} in bf16; {loaded}", memory(DType::F32), memory(DType::Bf16))),
        (
            "state",
            if recurrent {
                format!("{} per sequence, at any length", megabytes(engine.session().state_bytes() as u64))
            } else {
                kv_cache(c.blocks.iter().flat_map(|block| block.mixers()), engine.kv_dtype())
            },
        ),
        (
            "context",
            match engine.longest() {
                Some(longest) => format!("{longest} tokens; longer texts need --window or --extrapolate"),
                None => "texts of any length".into(),
            },
        ),
        (
            "tokenizer",
            if engine.tokenizer().is_ok() { "yes".into() } else { "none: only `forward` can run this model".into() },
        ),
        ("machine", format!("{} on {} threads", cx.isa, cx.team.threads())),
        ("reading", format!("{CHUNK} tokens at a time; packed matrix products with {kind}, compute-bound")),
        ("writing", format!("{kind} streamed once per token, memory-bound")),
        ("mechanism", mixers.iter().map(|m| m.mechanism()).collect::<Vec<_>>().join(", ")),
    ]
}

/// The size of a KV cache: per token in layers of full reach, and at most in layers with windows.
fn kv_cache<'a>(mixers: impl Iterator<Item = &'a MixerConfig>, dtype: KvDtype) -> String {
    let (mut token, mut most) = (0, 0);
    for mixer in mixers {
        if let MixerConfig::Attention(attention) = mixer {
            let (bytes, tokens) = attention.cache_size(dtype);
            match tokens {
                None => token += bytes,
                Some(tokens) => most += bytes * tokens,
            }
        }
        if let MixerConfig::Mla(attention) = mixer {
            token += attention.cache_size(dtype);
        }
    }
    let windows = megabytes(most as u64);
    match (token, most) {
        (0, _) => format!("KV cache of at most {windows} per sequence, at any length"),
        (token, 0) => format!("KV cache of {:.1} kB per token and sequence", token as f64 / 1e3),
        (token, _) => {
            format!("KV cache of {:.1} kB per token and sequence, and at most {windows} of windows", token as f64 / 1e3)
        }
    }
}

/// Describes a mixer and its sizes.
fn sizes(mixer: &MixerConfig) -> String {
    let heads = |h: &Heads| {
        let conv = h.conv.map_or_else(String::new, |c| format!(", convolutions of width {}", c.taps));
        format!("{} heads with a {} by {} state{conv}", h.heads, h.key, h.value)
    };
    let name = mixer.mechanism();
    let sizes = match mixer {
        MixerConfig::Attention(c) => {
            let window = match (c.reach, c.cache_size(KvDtype::F32)) {
                (Reach::Blocks(Blocks { sizes, .. }), _) => format!(
                    ", {} blocks of {} keys from token {} on",
                    sizes.top.saturating_add(sizes.window / sizes.block),
                    sizes.block,
                    sizes.dense_below
                ),
                (_, (_, Some(tokens))) => format!(", reach of {} tokens", tokens + 1),
                (_, (_, None)) => String::new(),
            };
            format!("{} heads of {} channels, {} KV heads{window}", c.heads, c.head_dim, c.groups)
        }
        MixerConfig::Mla(c) => format!(
            "{} heads of {} and {} channels, latent of {}, values of {}",
            c.heads, c.nope, c.rope, c.latent, c.value
        ),
        MixerConfig::TransformerXl(c) => {
            format!("{} heads of {} channels, memory of {} tokens", c.heads, c.head_dim, c.memory)
        }
        MixerConfig::Compressive(c) => format!(
            "{} heads of {} channels, segments of {}, memory of {} tokens and {} vectors compressed {} to 1",
            c.heads, c.head_dim, c.segment, c.memory, c.compressed, c.rate
        ),
        MixerConfig::Mamba(m) => {
            format!("{} channels of state size {}, convolution of width {}", m.inner, m.state, m.conv)
        }
        MixerConfig::GatedConv(c) => format!("{} channels, convolution of width {}", c.hidden, c.taps),
        MixerConfig::Mamba2(m) => format!(
            "{} heads with a {} by {} state in {} groups, convolution of width {}",
            m.heads, m.state, m.head_dim, m.groups, m.conv
        ),
        MixerConfig::LinearAttention(c) => heads(&c.heads),
        MixerConfig::Performer(c) => format!("{}, {} random features", heads(&c.heads), c.rows),
        MixerConfig::CosFormer(c) => heads(&c.heads),
        MixerConfig::Retention(c) => heads(&c.heads),
        MixerConfig::Lightning(c) => format!("{} heads with a {1} by {1} state", c.heads, c.head_dim),
        MixerConfig::Gla(c) => heads(&c.heads),
        MixerConfig::Hgrn2(c) => heads(&c.heads),
        MixerConfig::DeltaRule(c) => heads(&c.heads),
        MixerConfig::GatedDelta(c) => heads(&c.heads),
        MixerConfig::Kda(c) => heads(&c.heads),
        MixerConfig::Rwkv4(c) => format!("{} channels", c.inner),
        MixerConfig::Rwkv5(c) => format!("{} heads with a {1} by {1} state", c.hidden / c.head_dim, c.head_dim),
        MixerConfig::Rwkv6(c) => format!("{} heads with a {} by {} state", c.heads, c.key, c.value),
        MixerConfig::Rwkv7(c) => format!("{} heads with a {1} by {1} state", c.hidden / c.head_dim, c.head_dim),
        MixerConfig::Infini(c) => {
            let rule = if c.delta { "delta" } else { "linear" };
            format!("{}, {rule} memory, segments of {} tokens", heads(&c.heads), c.segment)
        }
        MixerConfig::RgLru(c) => {
            format!("{} channels, gates of {} blocks, convolution of width {}", c.inner, c.blocks, c.conv)
        }
    };
    format!("{name}, {sizes}")
}
