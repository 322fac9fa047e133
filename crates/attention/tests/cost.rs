//! Mechanisms other than attention over pairs cost time linear in the tokens: twice as many tokens take twice the
//! operations.
//!
//! The tests count operations of scalar lanes on one thread (`longreach_simd::count`), not plain Rust arithmetic.

use longreach_attention::operation::{Named, Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS, Mechanism};
use longreach_simd::{Cx, Isa, count};
use ndarray::{ArrayD, IxDyn};
use serde_json::Value;

/// A multiple of the chunks of all kernels, which have 128 tokens or fewer, and of the blocks of 384 rows of a matrix
/// product.
const TOKENS: usize = 384;

/// Heads so wide that kernels take four vectors at a time, and then a single one.
const SAMPLE: Sample = Sample { batch: 1, tokens: TOKENS, heads: 2, width: 40, seed: 1 };

/// The tokens of the sample repeated, because the cost of a chunk may depend on the strength of its gates.
fn inputs(operation: &Named, times: usize) -> Tensors {
    let mut tensors = operation.sample(&SAMPLE);
    for input in operation.signature().inputs {
        let by_token = matches!(input.axes.get(1), Some(&"T" | &"S"));
        let Some(once) = tensors.get(input.name).filter(|_| by_token) else { continue };
        let mut shape = once.shape().to_vec();
        shape[1] *= times;
        let repeated = ArrayD::from_shape_fn(IxDyn(&shape), |mut at: IxDyn| {
            at[1] %= TOKENS;
            once[at]
        });
        tensors.insert(input.name.into(), repeated);
    }
    tensors
}

/// The operations of each form and of the gradient.
fn costs(name: &str, times: usize) -> Vec<(&'static str, u64)> {
    let operation = named(name).expect("a mechanism");
    let (signature, cx) = (operation.signature(), Cx::with_isa(Isa::SCALAR, 1));
    let parameters: Value = serde_json::from_str(signature.example).expect("JSON");
    let mut inputs = inputs(&operation, times);
    let (mut costs, mut output) = (Vec::new(), None);
    for form in signature.forms.iter().filter(|form| **form != Form::Naive) {
        let (outputs, cost) = count::operations(|| operation.forward(&inputs, &parameters, *form, &cx));
        output = outputs.unwrap_or_else(|e| panic!("{name} {}: {e}", form.name())).remove("o");
        costs.push((form.name(), cost));
    }
    inputs.insert("do".into(), output.expect("an output"));
    let (gradients, cost) = count::operations(|| operation.backward(&inputs, &parameters, &cx));
    assert!(!gradients.unwrap_or_else(|e| panic!("{name}: {e}")).is_empty(), "{name}: no gradient");
    costs.push(("gradient", cost));
    costs
}

#[test]
fn operations_are_linear_in_the_tokens() {
    // Of the memories, Infini-attention is linear; Transformer-XL's attention is over pairs, and the others have no
    // tokens.
    let linear = |mechanism: &&Mechanism| match mechanism.family {
        "softmax" | "lowrank" => false,
        "memory" => mechanism.name == "infini",
        _ => true,
    };
    for mechanism in MECHANISMS.iter().filter(linear) {
        let [once, twice, thrice] = [1, 2, 3].map(|times| costs(mechanism.name, times));
        for (((form, one), (_, two)), (_, three)) in once.into_iter().zip(twice).zip(thrice) {
            let what = format!("{} {}: {one}, {two}, {three} operations", mechanism.name, form);
            assert!(0 < one && one < two && two < three, "{what}");
            // Each further token costs the same; the first and the last may differ.
            assert_eq!(two - one, three - two, "{what}");
            let ratio = two as f64 / one as f64;
            assert!((1.9..=2.1).contains(&ratio), "{what}");
        }
    }
}

/// A quadratic cost is detected: twice the tokens are four times the pairs.
#[test]
fn attention_over_pairs_is_quadratic() {
    for ((form, one), (_, two)) in costs("dense", 1).into_iter().zip(costs("dense", 2)) {
        assert!(2 * two > 5 * one, "{form}: {one}, {two} operations");
    }
}
