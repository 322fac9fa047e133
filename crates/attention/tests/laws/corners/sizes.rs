//! Sizes of 0, and parameters at the limits of their types.

use std::collections::BTreeSet;

use longreach_attention::MECHANISMS;
use longreach_attention::operation::{Sample, Tensors, named};
use ndarray::{ArrayD, Slice};
use serde_json::{Value, json};

use super::{CX, axes, none, outcome, small, tokens, uniform, walk};

/// A size of 0 is never an internal error; if the definition accepts it, so do the other forms and the gradient.
#[test]
fn sizes_of_zero_are_empty_or_refused() {
    let mut wrong = Vec::new();
    for (mechanism, tokens) in MECHANISMS.iter().flat_map(|mechanism| [1, 64].map(|tokens| (mechanism, tokens))) {
        let operation = named(mechanism.name).expect("a mechanism");
        let full = operation.sample(&Sample { batch: 2, tokens, heads: 2, width: 4, seed: 3 });
        let letters: BTreeSet<&str> = full.keys().flat_map(|name| axes(&operation, name)).copied().collect();
        let mut zeros: Vec<Vec<&str>> = letters.iter().map(|letter| vec![*letter]).collect();
        zeros.extend([vec!["T", "S"], vec!["H", "G", "H or 1"], vec!["B", "B or 1"], vec!["D", "E"], vec!["K", "V"]]);
        zeros.push(letters.iter().copied().collect());
        for zero in zeros {
            let empty = |name: &String, x: &ArrayD<f32>| {
                let axes = axes(&operation, name);
                let cut = |at: ndarray::AxisDescription| {
                    if zero.contains(&axes[at.axis.0]) { Slice::from(0..0) } else { Slice::from(..) }
                };
                (name.clone(), x.slice_each_axis(cut).to_owned())
            };
            let tensors: Tensors = full.iter().map(|(name, x)| empty(name, x)).collect();
            walk(&operation, &tensors, &small(mechanism.name)[0], |_| true, &mut wrong);
        }
    }
    none(wrong);
}

/// Values at the limits of types, and between.
fn ends() -> Vec<Value> {
    let whole = [0, 1, 16, 1 << 32, 1_000_000_000_000, 1 << 63, u64::MAX - 15, u64::MAX];
    let numbers = [0.5, 1e-45, 1e18, 3e38, 1e39, -1e39, f64::MAX];
    whole.map(|n| json!(n)).into_iter().chain(numbers.map(|n| json!(n))).chain([json!(-1)]).collect()
}

/// Parameters that are fields of another parameter, with the parameters they require.
fn fields(name: &str) -> Vec<(&'static str, Value, &'static str)> {
    let with = |json: Value, names: &'static [&'static str], of: &'static str| {
        names.iter().map(move |name| (*name, json.clone(), of)).collect::<Vec<_>>()
    };
    const LAYOUT: &[&str] = &[
        "block",
        "num_local_blocks",
        "num_global_blocks",
        "num_different_global_patterns",
        "num_random_blocks",
        "local_window_blocks",
        "global_block_indices",
        "global_block_end_indices",
        "num_sliding_window_blocks",
        "seed",
    ];
    let mode = |mode: &str| with(json!({"mode": mode, "block": 16}), LAYOUT, "");
    let scaling = |json: Value, names| with(json!({"scaling": json}), names, "scaling");
    match name {
        "deepspeed" => ["dense", "fixed", "variable", "bigbird", "bslongformer", "localslidingwindow"].map(mode).concat(),
        "rotary" => [
            scaling(json!({"rope_type": "linear", "factor": 2.0}), &["factor"]),
            scaling(json!({"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 8}), &["factor", "max_position_embeddings"]),
            scaling(
                json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}),
                &["factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"],
            ),
            scaling(
                json!({"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 8, "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0]}),
                &["factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"],
            ),
            scaling(
                json!({"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
                &["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"],
            ),
            scaling(json!({"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5}), &["factor", "partial_rotary_factor"]),
        ]
        .concat(),
        _ => Vec::new(),
    }
}

/// For any value of a parameter, alone or in a list, the result is that of the definition, or an error that names the
/// parameter.
#[test]
fn extreme_parameters_match_the_definition_or_are_refused() {
    let mut wrong = Vec::new();
    for mechanism in MECHANISMS {
        let operation = named(mechanism.name).expect("a mechanism");
        let tokens = tokens(mechanism.name);
        let mut tensors = operation.sample(&Sample { batch: 1, tokens, heads: 2, width: 4, seed: 3 });
        if mechanism.name == "compressive" {
            tensors.insert("w".into(), uniform(&[4, 4, 3], 1));
            tensors.insert("b".into(), uniform(&[4], 2));
        }
        let own =
            operation.signature().parameters.into_iter().map(|parameter| parameter.name).filter(|name| *name != "…");
        let base = |name: &'static str| small(mechanism.name).into_iter().map(move |json| (name, json, ""));
        let parameters: Vec<_> = own.flat_map(base).chain(fields(mechanism.name)).collect();
        // The error may also name a parameter that is incompatible, a wrong type, or the bounds of sequences.
        let told = |error: &str| {
            let named = parameters.iter().any(|(name, ..)| error.contains(&format!("`{name}`")));
            named
                || ["packed boundaries", "invalid type", "invalid value", "`queries`"]
                    .iter()
                    .any(|part| error.contains(part))
        };
        for (name, base, under) in parameters.clone() {
            for value in ends() {
                let given = |value: Value| {
                    let mut given = base.clone();
                    match under {
                        "" => given[name] = value,
                        under => given[under][name] = value,
                    }
                    given
                };
                let mut try_it = |value: Value| {
                    walk(&operation, &tensors, &given(value), |error| error.contains(name) || told(error), &mut wrong);
                };
                let form = operation.signature().forms[0];
                let alone = outcome(|| operation.forward(&tensors, &given(value.clone()), form, &CX()));
                if matches!(&alone, Ok(Err(error)) if error.contains("expected a sequence")) {
                    try_it(json!([value]));
                    try_it(json!([value, value]));
                } else {
                    try_it(value);
                }
            }
        }
    }
    none(wrong);
}
