//! `longreach info`

use std::ffi::OsString;

use longreach_engine::{CHUNK, Engine, TextEncoder};
use longreach_models::{DType, EncoderModel, Location, Progress, Task};
use longreach_nn::mixers::MixerConfig;
use longreach_nn::mixers::parts::Heads;
use longreach_nn::{BodyConfig, ReformerAttention, Sees, WordsConfig};

use super::generate::megabytes;
use crate::failure::Failure;
use crate::model;

/// Say what a model is, what it needs, and what will compute it here
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory, file of weights or Hub id [default: the model built into this program]
    model: Option<OsString>,
    /// Precision in which matrices are kept [default: as they are stored]
    #[arg(long, value_enum)]
    dtype: Option<model::DTypeArg>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if let Some(name) = &args.model {
        let at = Location::find(name, Progress::Shown)?;
        let dtype = args.dtype.map(DType::from);
        let shown = name.to_string_lossy();
        if TextEncoder::is_at(&at)? {
            let facts = match TextEncoder::load(name, dtype, Progress::Shown) {
                Ok(encoder) => {
                    encoder.notes().iter().for_each(|note| eprintln!("note: {note}"));
                    let mut facts = of_encoder(&shown, &encoder.model);
                    facts.extend(of_vectors(&encoder));
                    facts
                }
                // Without a tokenizer it reads no texts, and can still be described.
                Err(longreach_engine::Error::NoTokenizer(_)) => of_encoder(&shown, &EncoderModel::load(&at, dtype)?),
                Err(e) => return Err(e.into()),
            };
            for (name, value) in facts {
                println!("{name:14} {value}");
            }
            return Ok(());
        }
    }
    let engine = model::load(args.model.as_deref(), args.dtype)?;
    for (name, value) in facts(&engine) {
        println!("{name:14} {value}");
    }
    Ok(())
}

/// What `embed` makes of a text with this model.
fn of_vectors(encoder: &TextEncoder) -> Vec<(&'static str, String)> {
    let pipeline = &encoder.pipeline;
    let mut facts = vec![
        ("embed reads", format!("{} tokens of a text at once", encoder.limit())),
        ("vectors", format!("{} numbers: {}", encoder.width(), pipeline.about())),
    ];
    if !pipeline.prompts.is_empty() {
        let default = match &pipeline.default_prompt {
            Some(name) => format!("; `{name}` if none is named"),
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
            Sees::All => "see everything".into(),
            Sees::Window(w) => format!("see {w} tokens on either side"),
            Sees::Longformer(w) => format!("see {w} tokens on either side and global tokens"),
            Sees::BigBird(b) => {
                format!(
                    "see blocks of {}, {} of them random; everything up to {} tokens",
                    b.block,
                    b.random_blocks,
                    (5 + 2 * b.random_blocks) * b.block
                )
            }
            Sees::Nystrom(n) if n.landmarks == usize::MAX => "see everything".into(),
            Sees::Nystrom(n) => format!("see through {} landmarks", n.landmarks),
            Sees::Sparse(config, _) => format!("see blocks of {} as DeepSpeed lays them out", config.block()),
        };
        format!("{n} layers {what}")
    };
    let (layers, heads, attention) = match &d.body {
        BodyConfig::Blocks(c) => {
            let heads = c.blocks.first().map_or(0, |block| block.attention.heads);
            (c.blocks.len(), heads, ways.iter().map(way).collect::<Vec<_>>().join("; "))
        }
        BodyConfig::Reformer(c) => {
            let hashed = c.blocks.iter().filter(|b| matches!(b, ReformerAttention::Hashed { .. })).count();
            let future = if c.causal { ", the future hidden" } else { "" };
            let local = c.blocks.len() - hashed;
            (c.blocks.len(), c.heads[0], format!("{hashed} layers by hashing, {local} of neighbouring chunks{future}"))
        }
        BodyConfig::Decoder(c) => {
            let heads = c.blocks.iter().flat_map(|block| block.mixers()).find_map(|mixer| match mixer {
                MixerConfig::Attention(attention) => Some(attention.heads),
                _ => None,
            });
            (c.blocks.len(), heads.unwrap_or(0), format!("{} layers see what is before", c.blocks.len()))
        }
    };
    let parameters = model.parameters();
    let memory = |dtype: DType| megabytes((parameters * dtype.bytes()) as u64);
    let head = match &d.head {
        None => "none: it makes vectors".into(),
        Some((Task::Sequence | Task::Token, _)) => {
            let about = d.head.as_ref().map_or("", |(task, _)| task.about());
            format!("{about}: {}", d.labels.join(", "))
        }
        Some((task, _)) => task.about().to_owned(),
    };
    let cx = longreach_burn::context();
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
        ("longest text", d.longest.map_or_else(|| "any".into(), |n| format!("{n} tokens"))),
        ("head", head),
        ("parameters", format!("{parameters} ({:.1} M)", parameters as f64 / 1e6)),
        (
            "weights",
            format!("{} in f32, {} in bf16; loaded as {}", memory(DType::F32), memory(DType::Bf16), model.dtype.name()),
        ),
        ("machine", format!("{} on {} threads", cx.isa, cx.team.threads())),
    ]
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
    let cx = longreach_burn::context();
    let words = match &c.words {
        WordsConfig::Table { tied: true } => ", head tied to the embedding".into(),
        WordsConfig::Table { tied: false } => String::new(),
        WordsConfig::Adaptive(a) => format!(" in {} clusters", a.cutoffs.len() + 1),
    };
    let around = c.hmt.map_or_else(String::new, |h| {
        format!("; a hierarchical memory of {} segments of {} tokens around it", h.queue, h.segment)
    });
    vec![
        ("model", engine.name.clone()),
        ("model_type", d.model_type.into()),
        (
            "architecture",
            format!("{} layers of width {}, vocabulary {}{words}{around}", c.blocks.len(), c.hidden, c.vocabulary),
        ),
        ("mixer", mixer),
        ("parameters", format!("{parameters} ({:.1} M)", parameters as f64 / 1e6)),
        (
            "weights",
            format!("{} in f32, {} in bf16; loaded as {}", memory(DType::F32), memory(DType::Bf16), model.dtype.name()),
        ),
        (
            "state",
            if recurrent {
                format!("{} a sequence, at any length", megabytes(engine.session().state_bytes() as u64))
            } else {
                "grows with the text, by the keys that attention may still see".into()
            },
        ),
        ("tokenizer", if engine.tokenizer().is_ok() { "yes".into() } else { "none: only `forward` works".into() }),
        ("machine", format!("{} on {} threads", cx.isa, cx.team.threads())),
        (
            "reading",
            format!(
                "{CHUNK} tokens at a time; matrices by the packed product in {}, arithmetic-bound",
                model.dtype.name()
            ),
        ),
        ("writing", format!("matrices streamed once a token in {}, memory-bound", model.dtype.name())),
        ("mechanism", mixers.iter().map(|m| m.mechanism()).collect::<Vec<_>>().join(", ")),
    ]
}

/// A mixer and its sizes in words.
fn sizes(mixer: &MixerConfig) -> String {
    let heads = |h: &Heads| {
        let conv = h.conv.map_or_else(String::new, |c| format!(", convolutions over {}", c.taps));
        format!("{} heads of {} by {} numbers of state{conv}", h.heads, h.key, h.value)
    };
    let name = mixer.mechanism();
    let sizes = match mixer {
        MixerConfig::Attention(c) => {
            format!("{} heads of {} channels, {} of keys and values", c.heads, c.head_dim, c.groups)
        }
        MixerConfig::TransformerXl(c) => {
            format!("{} heads of {} channels, {} tokens remembered", c.heads, c.head_dim, c.memory)
        }
        MixerConfig::Compressive(c) => format!(
            "{} heads of {} channels, segments of {}, {} tokens remembered and {} times {} compressed",
            c.heads, c.head_dim, c.segment, c.memory, c.compressed, c.rate
        ),
        MixerConfig::Mamba(m) => {
            format!("{} channels of {} numbers of state, convolution over {}", m.inner, m.state, m.conv)
        }
        MixerConfig::Mamba2(m) => format!(
            "{} heads of {} by {} numbers of state in {} groups, convolution over {}",
            m.heads, m.state, m.head_dim, m.groups, m.conv
        ),
        MixerConfig::LinearAttention(c) => heads(&c.heads),
        MixerConfig::Performer(c) => format!("{}, {} random features", heads(&c.heads), c.rows),
        MixerConfig::CosFormer(c) => heads(&c.heads),
        MixerConfig::Retention(c) => heads(&c.heads),
        MixerConfig::Lightning(c) => format!("{} heads of {1} by {1} numbers of state", c.heads, c.head_dim),
        MixerConfig::Gla(c) => heads(&c.heads),
        MixerConfig::Hgrn2(c) => heads(&c.heads),
        MixerConfig::DeltaRule(c) => heads(&c.heads),
        MixerConfig::GatedDelta(c) => heads(&c.heads),
        MixerConfig::Kda(c) => heads(&c.heads),
        MixerConfig::Rwkv4(c) => format!("{} channels", c.inner),
        MixerConfig::Rwkv5(c) => format!("{} heads of {1} by {1} numbers of state", c.hidden / c.head_dim, c.head_dim),
        MixerConfig::Rwkv6(c) => format!("{} heads of {} by {} numbers of state", c.heads, c.key, c.value),
        MixerConfig::Rwkv7(c) => format!("{} heads of {1} by {1} numbers of state", c.hidden / c.head_dim, c.head_dim),
        MixerConfig::Infini(c) => {
            let rule = if c.delta { "delta" } else { "linear" };
            format!("{}, {rule} memory, segments of {} tokens", heads(&c.heads), c.segment)
        }
        MixerConfig::RgLru(c) => {
            format!("{} channels, gates of {} blocks, convolution over {}", c.inner, c.blocks, c.conv)
        }
    };
    format!("{name}, {sizes}")
}
