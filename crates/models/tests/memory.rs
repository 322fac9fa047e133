//! Recomputed activations take the memory of one block, whatever the number of blocks.

use burn::tensor::Device;
use longreach_models::Model;
use longreach_testkit::{Counting, peak};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TOKENS: usize = 192;
const WIDTH: usize = 32;

/// The peak of a forward and a backward pass beyond what the model holds, in bytes.
fn of_a_step(layers: usize, recompute: bool) -> usize {
    let config = format!(
        r#"{{"model_type": "longreach", "vocab_size": 40, "hidden_size": {WIDTH}, "intermediate_size": 128, "head_dim": 16,
            "num_hidden_layers": {layers}, "mixer": "dense"}}"#
    );
    let model = Model::random("config.json", &config, 7, &Device::flex().autodiff()).expect("a model");
    let decoder = model.decoder.clone().recomputing(recompute);
    let ids: Vec<u32> = (0..TOKENS as u32).map(|t| t * t % 40).collect();
    let targets: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    let step = || {
        let hidden = decoder.forward(&ids, &mut decoder.start(1), None);
        drop(decoder.loss(hidden, &targets).backward());
    };
    // Once before: what is made once, such as threads and tables of angles, does not count.
    step();
    peak(step).0
}

#[test]
fn recomputed_blocks_keep_their_inputs_alone() {
    let [few, many] = [4, 12].map(|layers| [false, true].map(|recompute| of_a_step(layers, recompute)));
    assert!(2 * many[1] < many[0], "{} bytes, stored {}", many[1], many[0]);
    // A block keeps its input and the gradients of its parameters. The stored activations are several times as many.
    let [stored, recomputed] = [0, 1].map(|i| many[i].saturating_sub(few[i]) / 8);
    let input = 4 * TOKENS * WIDTH;
    let parameters = 4 * (4 * WIDTH * WIDTH + 3 * WIDTH * 128 + 2 * WIDTH);
    assert!(recomputed < 3 * input + parameters, "{recomputed} bytes a block, of which the input has {input}");
    assert!(stored > 4 * recomputed, "{stored} bytes a block, recomputed {recomputed}");
}
