//! A training loop with AdamW: a tiny Mamba-2 learns a repeating sequence.
//!
//! `cargo run --release --example train`

use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Device;
use longreach_models::Model;

const CONFIG: &str = r#"{
    "model_type": "mamba2", "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "expand": 2,
    "num_heads": 4, "head_dim": 16, "state_size": 16, "n_groups": 1, "tie_word_embeddings": true
}"#;

fn main() -> Result<(), longreach_models::Error> {
    let device = Device::flex().autodiff();
    let mut decoder = Model::random("config", CONFIG, 1, &device)?.decoder;
    let mut optimiser = AdamWConfig::new().init();

    let text: Vec<u32> = (0..65).map(|i| (i * i) % 31).collect();
    let targets: Vec<i64> = text[1..].iter().map(|id| *id as i64).collect();
    for step in 0..60 {
        let mut cache = decoder.start(1);
        let hidden = decoder.forward(&text[..64], &mut cache, None);
        let loss = decoder.loss(hidden, &targets);
        if step % 10 == 0 {
            println!("step {step:2}: loss {:.3}", loss.clone().inner().into_data().iter::<f32>().sum::<f32>());
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &decoder);
        decoder = optimiser.step(3e-3, decoder, gradients);
    }
    Ok(())
}
