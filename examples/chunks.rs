//! Chunked prefill, then decoding: the cache carries the state from one call to the next.
//!
//! `cargo run --release --example chunks`

use longreach_models::{LoadOptions, Model};

fn main() -> Result<(), longreach_models::Error> {
    let model = Model::embedded(&longreach_engine::EMBEDDED, &LoadOptions::default())?;
    let decoder = &model.decoder;
    let ids: Vec<u32> = (0..1000).map(|i| (i * 37 + 11) % decoder.vocabulary() as u32).collect();

    // Prefill of the whole text in one call.
    let mut whole = decoder.start(1);
    let at_once = decoder.forward(&ids, &mut whole, None).narrow(1, 999, 1);

    // Prefill of the same text in chunks of 256 tokens, then the last ten tokens one at a time.
    let mut cache = decoder.start(1);
    for chunk in ids[..990].chunks(256) {
        decoder.forward(chunk, &mut cache, None);
    }
    let mut last = None;
    for id in &ids[990..] {
        last = Some(decoder.forward(&[*id], &mut cache, None));
    }

    let logits = |hidden| decoder.logits::<3>(hidden).into_data().iter::<f32>().collect::<Vec<f32>>();
    let (a, b) = (logits(at_once), last.map(logits).unwrap_or_default());
    let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("largest difference of {} logits: {difference:e}", a.len());
    println!("state: {} bytes, independent of the length", cache.bytes());
    assert!(difference < 1e-3);
    Ok(())
}
