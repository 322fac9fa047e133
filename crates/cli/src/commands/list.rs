//! `longreach list`

use longreach_attention::MECHANISMS;
use longreach_models::MODELS;
use longreach_simd::Isa;
use serde_json::json;

use crate::failure::Failure;

/// List the mechanisms and models there are, and what this machine offers
#[derive(clap::Args)]
pub(crate) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// As the tables of the README
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(&as_json())?);
    } else if args.markdown {
        print!("{}", markdown());
    } else {
        print!("{}", text());
    }
    Ok(())
}

fn forms(mechanism: &longreach_attention::Mechanism) -> Vec<&'static str> {
    mechanism.forms.iter().map(|f| f.name()).collect()
}

fn path(mechanism: &longreach_attention::Mechanism) -> String {
    [mechanism.family, mechanism.name].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/")
}

fn isas() -> Vec<&'static str> {
    Isa::available().iter().map(|isa| isa.name()).collect()
}

fn as_json() -> serde_json::Value {
    let cx = longreach_burn::context();
    json!({
        "mechanisms": MECHANISMS.iter().map(|m| json!({
            "path": path(m), "forms": forms(m), "cost": m.cost, "state": m.state, "paper": m.paper,
        })).collect::<Vec<_>>(),
        "models": MODELS.iter().map(|m| json!({
            "model_type": m.model_type, "mechanism": m.mechanism, "paper": m.paper,
        })).collect::<Vec<_>>(),
        "machine": { "isa": isas(), "using": cx.isa.name(), "threads": cx.team.threads() },
    })
}

fn text() -> String {
    let cx = longreach_burn::context();
    let mut out = String::from("mechanisms\n");
    for m in MECHANISMS {
        out += &format!("  {:28} {:30} {:36} {}\n", path(m), m.cost, forms(m).join(" "), m.paper);
    }
    out += "models (model_type)\n";
    for m in MODELS {
        out += &format!("  {:28} {:14} {}\n", m.model_type, m.mechanism, m.paper);
    }
    out + &format!("machine\n  {}, using {} on {} threads\n", isas().join(" "), cx.isa, cx.team.threads())
}

fn markdown() -> String {
    let mut out = String::from("| mechanism | forms | time | state | paper |\n| --- | --- | --- | --- | --- |\n");
    for m in MECHANISMS {
        out += &format!("| `{}` | {} | {} | {} | {} |\n", path(m), forms(m).join(", "), m.cost, m.state, m.paper);
    }
    out += "\n| `model_type` | mechanism | paper |\n| --- | --- | --- |\n";
    for m in MODELS {
        out += &format!("| `{}` | {} | {} |\n", m.model_type, m.mechanism, m.paper);
    }
    out
}
