//! `longreach info`

use longreach_engine::{CHUNK, Engine};
use longreach_models::{DType, MixerConfig};

use super::generate::megabytes;
use crate::failure::Failure;
use crate::model;

/// Say what a model is, what it needs, and what will compute it here
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory, .safetensors file or Hub id [default: the model built into this program]
    model: Option<String>,
    /// Precision in which matrices are kept [default: as they are stored]
    #[arg(long, value_enum)]
    dtype: Option<model::DTypeArg>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let engine = model::load(args.model.as_deref(), args.dtype)?;
    for (name, value) in facts(&engine) {
        println!("{name:14} {value}");
    }
    Ok(())
}

fn facts(engine: &Engine) -> Vec<(&'static str, String)> {
    let (d, model) = (&engine.model.description, &engine.model);
    let c = &d.decoder;
    let parameters = model.parameters();
    let memory = |dtype: DType| megabytes((parameters * dtype.bytes()) as u64);
    let mixer = match &d.mixer {
        MixerConfig::Mamba(m) => {
            format!("Mamba, {} channels of {} numbers of state, convolution over {}", m.inner, m.state, m.conv)
        }
        MixerConfig::Mamba2(m) => format!(
            "Mamba-2, {} heads of {} by {} numbers of state in {} groups, convolution over {}",
            m.heads, m.state, m.head_dim, m.groups, m.conv
        ),
    };
    let scan = match &d.mixer {
        MixerConfig::Mamba(_) => {
            "diagonal/mamba recurrent: its decays differ in every channel and state, so no matrix form exists"
        }
        MixerConfig::Mamba2(_) => {
            "linear/mamba2 recurrent: as fast as the chunk form here and unchanged by cutting (bench/records)"
        }
    };
    let cx = longreach_burn::context();
    let tied = if c.tied { ", head tied to the embedding" } else { "" };
    vec![
        ("model", engine.name.clone()),
        ("model_type", d.model_type.into()),
        ("architecture", format!("{} layers of width {}, vocabulary {}{tied}", c.layers, c.hidden, c.vocabulary)),
        ("mixer", mixer),
        ("parameters", format!("{parameters} ({:.1} M)", parameters as f64 / 1e6)),
        (
            "weights",
            format!("{} in f32, {} in bf16; loaded as {}", memory(DType::F32), memory(DType::Bf16), model.dtype.name()),
        ),
        ("state", format!("{} a sequence, at any length", megabytes(engine.session().state_bytes() as u64))),
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
        ("scan", scan.into()),
    ]
}
