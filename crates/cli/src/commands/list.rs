//! `longreach list`

use longreach_attention::operation::{Argument, Choice, Named, Parameter, named};
use longreach_attention::{MECHANISMS, Mechanism};
use longreach_models::{ENCODERS, MODELS};
use longreach_simd::Isa;
use serde_json::json;

use crate::failure::Failure;

/// List mechanisms, supported model types and instruction sets
///
/// Each mechanism is listed with its cost, forms and paper. With the name of a mechanism, its inputs and outputs with their shapes, its parameters with their
/// defaults, and a command to run it are printed instead.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach list
  longreach list window
  longreach list gla --json")]
pub(crate) struct Args {
    /// Mechanism to describe
    #[arg(conflicts_with = "markdown")]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the tables of docs/mechanisms.md in Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        let operation = named(name)?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&one_as_json(&operation))?);
        } else {
            print!("{}", one(&operation));
        }
    } else if args.json {
        println!("{}", serde_json::to_string_pretty(&as_json())?);
    } else if args.markdown {
        print!("{}", markdown());
    } else {
        print!("{}", text());
    }
    Ok(())
}

fn forms(mechanism: &Mechanism) -> Vec<&'static str> {
    mechanism.forms.iter().map(|f| f.name()).collect()
}

fn path(mechanism: &Mechanism) -> String {
    [mechanism.family, mechanism.name].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/")
}

/// Describes the inputs, parameters and outputs of one mechanism.
fn one(operation: &Named) -> String {
    let (m, signature) = (operation.mechanism(), operation.signature());
    let mut out = format!("{}: {}\n", path(m), m.paper);
    out += &format!("time {}, state {} numbers per sequence\n", m.cost, m.state);
    out += &format!("forms {}, and the gradient\n", forms(m).join(" "));
    if !m.note.is_empty() {
        out += &format!("note {}\n", m.note);
    }
    let tensors = |title: &str, list: &[Argument]| {
        let mut out = format!("{title}\n");
        for argument in list {
            let needed = if argument.needed { "" } else { "optional: " };
            let mut about = format!("{needed}{}", argument.about);
            if !argument.with.is_empty() {
                about += &format!("; together with {}", argument.with.join(", "));
            }
            if !argument.gradient {
                about += "; no gradient";
            }
            out += &format!("  {:10} {:30} {about}\n", argument.name, argument.shape());
        }
        out
    };
    out += &tensors("inputs", &signature.inputs);
    out += "parameters\n";
    for parameter in &signature.parameters {
        let Parameter { name, default, .. } = parameter;
        let default = if default.is_empty() { "required".into() } else { format!("default {default}") };
        out += &format!("  {name:14} {default:26} {}{}\n", parameter.about, choices(parameter));
    }
    out += &tensors("outputs", &signature.outputs);
    let starts: Vec<String> = starts(&signature.outputs).iter().map(|name| format!("`{name}`")).collect();
    out += &format!("with --grad, the inputs also include {} (`do` is required), ", starts.join(", "));
    out += "and the gradient of each given input `x` is written as `dx`\nexample\n";
    let parameters =
        if signature.example == "{}" { String::new() } else { format!(" --params '{}'", signature.example) };
    out + &format!("  longreach op {}{parameters} --inputs IN.safetensors --out OUT.safetensors\n", m.name)
}

/// The names of the output gradients that `--grad` accepts.
fn starts(outputs: &[Argument]) -> Vec<String> {
    outputs.iter().filter(|output| output.gradient).map(|output| format!("d{}", output.name)).collect()
}

/// The values that a parameter may take, as a suffix of its description; empty if they are open.
fn choices(parameter: &Parameter) -> String {
    let booleans = parameter.default == "true" || parameter.default == "false";
    if !parameter.closed || booleans && parameter.choices.len() > 1 {
        return String::new();
    }
    let one = |choice: &Choice| match choice.tensors {
        [] => choice.value.to_owned(),
        tensors => format!("{} (with {})", choice.value, tensors.join(", ")),
    };
    // A value is listed once for each combination with other parameters.
    let mut known: Vec<String> = parameter.choices.iter().map(one).collect();
    known.dedup();
    format!(": {}", known.join(", "))
}

/// As `longreach list NAME --json` prints it.
pub(crate) fn one_as_json(operation: &Named) -> serde_json::Value {
    let (m, signature) = (operation.mechanism(), operation.signature());
    let tensors = |list: &[Argument]| -> Vec<serde_json::Value> {
        let one = |a: &Argument| json!({"name": a.name, "shape": a.axes, "optional": !a.needed, "kind": a.kind.name(), "about": a.about, "gradient": a.gradient, "with": a.with});
        list.iter().map(one).collect()
    };
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    let choice = |c: &Choice| json!({"value": value(c.value), "with": value(c.with), "tensors": c.tensors});
    let parameter = |p: &Parameter| {
        let choices: Vec<serde_json::Value> = p.choices.iter().map(choice).collect();
        json!({
            "name": p.name, "default": p.default, "about": p.about, "needed": p.default.is_empty(),
            "choices": choices, "closed": p.closed,
        })
    };
    json!({
        "path": path(m), "paper": m.paper, "cost": m.cost, "state": m.state, "note": m.note,
        "forms": forms(m),
        "inputs": tensors(&signature.inputs), "outputs": tensors(&signature.outputs),
        "starts": starts(&signature.outputs), "saved": signature.saved,
        "parameters": signature.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "example": signature.example,
    })
}

fn isas() -> Vec<&'static str> {
    Isa::available().iter().map(|isa| isa.name()).collect()
}

fn as_json() -> serde_json::Value {
    let cx = &*longreach_burn::context();
    json!({
        "mechanisms": MECHANISMS.iter().map(|m| json!({
            "path": path(m), "forms": forms(m), "cost": m.cost, "state": m.state, "paper": m.paper,
        })).collect::<Vec<_>>(),
        "models": MODELS.iter().map(|m| json!({
            "model_type": m.model_type, "mechanism": m.mechanism, "paper": m.paper,
        })).collect::<Vec<_>>(),
        "encoders": ENCODERS.iter().map(|m| json!({
            "model_type": m.model_type, "mechanism": m.mechanism, "paper": m.paper,
        })).collect::<Vec<_>>(),
        "machine": { "isa": isas(), "using": cx.isa.name(), "threads": cx.team.threads() },
    })
}

fn text() -> String {
    let cx = &*longreach_burn::context();
    let mut out = String::from("mechanisms\n");
    for m in MECHANISMS {
        out += &format!("  {:28} {:30} {:36} {}\n", path(m), m.cost, forms(m).join(" "), m.paper);
    }
    out += "models (model_type)\n";
    for m in MODELS {
        out += &format!("  {:28} {:14} {}\n", m.model_type, m.mechanism, m.paper);
    }
    out += "encoders (model_type)\n";
    for m in ENCODERS {
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
    out += "\n| `model_type` of an encoder | mechanism | paper |\n| --- | --- | --- |\n";
    for m in ENCODERS {
        out += &format!("| `{}` | {} | {} |\n", m.model_type, m.mechanism, m.paper);
    }
    out
}
