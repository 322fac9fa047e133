//! The laws of every mechanism.

use longreach_attention::MECHANISMS;
use longreach_attention::operation::Sample;
use longreach_gpu::DType;
use serde_json::{Value, json};

use super::call::holds;
use crate::harness::{DTYPES, devices};

/// Optional inputs.
pub(super) const MORE: [&str; 6] = ["g", "beta", "skip", "z", "reset", "bias"];

/// The parameters that a mechanism needs.
fn needed(name: &str) -> Value {
    if name == "cosformer" { json!({"length": 512}) } else { json!({}) }
}

/// Odd lengths, with all optional inputs; the first alone takes the time of compiling.
fn lengths(name: &str) {
    let Some([device, _]) = devices() else { return };
    for tokens in [0, 1, 15, 16, 17, 63, 64, 65, 100, 257] {
        let sample = Sample { batch: 2, tokens, heads: 2, width: 16, seed: 2 };
        holds(device, name, &needed(name), sample, &MORE, DType::F32, true);
    }
}

/// Every type, without optional inputs, and a width that fills nothing.
fn types(name: &str) {
    let Some([device, _]) = devices() else { return };
    for dtype in DTYPES.into_iter().filter(|dtype| *dtype != DType::F16 || device.facts().f16) {
        let sample = Sample { batch: 1, tokens: 65, heads: 2, width: 12, seed: 3 };
        holds(device, name, &needed(name), sample, &[], dtype, true);
    }
}

/// Sequences in one row, some of them empty or shorter than a convolution.
fn packed(name: &str) {
    let Some([device, _]) = devices() else { return };
    let mut parameters = needed(name);
    parameters["cu_seqlens"] = json!([0, 2, 3, 3, 150, 200]);
    let sample = Sample { batch: 1, tokens: 200, heads: 2, width: 16, seed: 4 };
    holds(device, name, &parameters, sample, &MORE, DType::F32, true);
}

macro_rules! laws {
    ($($name:ident)+) => {
        const NAMES: &[&str] = &[$(stringify!($name)),+];
        $(mod $name {
            #[test]
            fn gpu_agrees_lengths() {
                super::lengths(stringify!($name));
            }

            #[test]
            fn gpu_agrees_types() {
                super::types(stringify!($name));
            }

            #[test]
            fn gpu_agrees_packed() {
                super::packed(stringify!($name));
            }
        })+
    };
}

laws! {
    mamba rwkv4 rg_lru scan mamba2 linear_attention performer cosformer retention lightning gla hgrn2 rwkv5 rwkv6
    delta_rule gated_delta kda dplr rwkv7 short_conv
}

#[test]
fn every_mechanism_with_a_state_has_its_law() {
    let without = ["softmax", "lowrank", "memory"];
    let with = MECHANISMS.iter().filter(|m| !without.contains(&m.family) && m.name != "rotary");
    assert_eq!(with.map(|m| m.name).collect::<Vec<_>>(), NAMES);
}
