//! What a decoder allocates for one more token.

use std::sync::Arc;

use burn::tensor::Device;
use longreach_burn::with_context;
use longreach_models::Model;
use longreach_simd::Cx;
use longreach_testkit::{Counting, MIXERS, allocated};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Mixers that copy the keys and values of the current segment for every token: their number is bounded by the segment.
const COPIES: &str = r#""infini""#;

/// A decoder of one layer of width 64.
fn model(mixer: &str, head: usize) -> Model {
    let config = format!(
        r#"{{"model_type": "longreach", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 1, "head_dim": {head}, "mixer": {{"type": {mixer}}}}}"#
    );
    Model::random("config.json", &config, 7, &Device::flex()).expect("a model").prepared()
}

/// Bytes that a token allocates behind `read` tokens, on average over a few tokens. A growing segment of the KV cache is not
/// enlarged by any of them.
fn of_a_token(model: &Model, read: u32) -> usize {
    const TOKENS: u32 = 24;
    with_context(&Arc::new(Cx::new(1)), || {
        let mut cache = model.decoder.start(1);
        let ids: Vec<u32> = (0..read).map(|t| (t * t * 11 + 5) % 40).collect();
        model.decoder.forward(&ids, &mut cache, None);
        model.decoder.forward(&[3], &mut cache, None);
        let (memory, ()) = allocated(|| {
            for t in 0..TOKENS {
                std::hint::black_box(model.decoder.forward(&[t], &mut cache, None));
            }
        });
        memory.bytes / TOKENS as usize
    })
}

/// What is allocated for a token grows neither with the number of tokens before it nor with the size of the state: neither
/// is copied.
#[test]
fn a_token_copies_neither_cache_nor_state() {
    for mixer in MIXERS.iter().filter(|mixer| !mixer.starts_with(COPIES)) {
        let narrow = model(mixer, 8);
        let (early, late) = (of_a_token(&narrow, 130), of_a_token(&narrow, 390));
        // Keys and values of a token are 512 bytes. Selection scores blocks of at least two tokens.
        let grown = late.saturating_sub(early) / (390 - 130);
        assert!(grown <= 128, "{mixer}: {early} bytes behind 130 tokens, {late} behind 390");
        // Heads of four times the width, a fourth as many: matrix states are four times as large.
        let wide = of_a_token(&model(mixer, 32), 130);
        assert!(wide <= early + early / 3, "{mixer}: {early} bytes with heads of 8, {wide} with heads of 32");
    }
}
