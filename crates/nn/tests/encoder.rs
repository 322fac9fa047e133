//! The encoder: packed, padded and single sequences agree for all norms, feed-forward layers and attention patterns;
//! and recording gradients does not change the results.

use burn::tensor::Device;
use longreach_attention::rotary::{Rotary, Scaling};
use longreach_attention::softmax::deepspeed;
use longreach_nn::mixers::{AttentionConfig, Fused};
use longreach_nn::{
    Activation, Bias, Builder, Encoder, EncoderBlockConfig, EncoderConfig, EncoderNames, FeedForwardConfig, Layout,
    NormConfig, Order, Positions, Random, Reading, Sees,
};
use ndarray::Array2;

const NAMES: EncoderNames = EncoderNames {
    body: "body",
    embedding: "embedding",
    positions: "positions",
    types: "types",
    embedding_norm: "embedding_norm",
    layers: "layers",
    attention: "attention",
    norm: "norm",
    feed_forward: "feed_forward",
    second_norm: "second_norm",
    last_norm: "last_norm",
};

const LONGEST: usize = 1600;

fn encoder(modern: bool, sees: &[Sees], device: &Device) -> Encoder {
    let norm = if modern { NormConfig::Layer(1e-5, Bias::No) } else { NormConfig::Layer(1e-12, Bias::Yes) };
    let rotary = Rotary { width: 6, theta: 100.0, interleaved: false, scaling: Scaling::Default };
    let attention = AttentionConfig {
        bias: !modern,
        out_bias: !modern,
        rotary: modern.then_some(rotary),
        fused: if modern { Fused::Parts } else { Fused::No },
        ..AttentionConfig::new(24, 4)
    };
    let block = |sees: &Sees| EncoderBlockConfig { attention: attention.clone(), sees: sees.clone() };
    let config = EncoderConfig {
        vocabulary: 50,
        hidden: 24,
        blocks: sees.iter().map(block).collect(),
        positions: (!modern).then_some(Positions { rows: LONGEST + 2, first: 2, skip: Some(1) }),
        types: (!modern).then_some(2),
        scale: None,
        norm,
        order: if modern { Order::Before } else { Order::Behind },
        first_unnormed: modern,
        last_norm: modern,
        feed_forward: FeedForwardConfig {
            inner: 40,
            activation: Activation::Gelu,
            gated: modern,
            bias: (!modern).into(),
            names: ["first", "second"],
            layout: Layout::Same,
        },
        names: NAMES,
    };
    let mut source = Random::new(3);
    Encoder::new(&mut Builder::new(&mut source, device), &config).expect("random weights fit")
}

fn text(n: usize) -> Vec<u32> {
    (0..n).map(|t| ((t * 11 + n * 7) % 48 + 2) as u32).collect()
}

fn read(encoder: &Encoder, reading: &Reading<'_>) -> Vec<f32> {
    encoder.forward(reading).into_data().iter::<f32>().collect()
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let apart = a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(apart < 2e-5, "{what}: {apart}");
}

/// Every attention pattern that does not depend on padding.
fn ways() -> Vec<(&'static str, Vec<Sees>)> {
    let sparse = r#"{"mode": "bslongformer", "block": 4, "num_sliding_window_blocks": 3}"#;
    let sparse = deepspeed::Config::parse(sparse).expect("a layout");
    vec![
        ("windows", vec![Sees::Window(3), Sees::All, Sees::Window(5)]),
        ("longformer", vec![Sees::Longformer(3), Sees::Longformer(7)]),
        ("sparse", vec![Sees::Sparse(sparse, LONGEST)]),
    ]
}

#[test]
fn packed_is_padded_is_alone() {
    let rows: Vec<Vec<u32>> = [17, 14, 30].map(text).into();
    for modern in [false, true] {
        for (name, sees) in ways() {
            // No global tokens, one per row, and several in one row but none in another.
            for globals in [&[][..], &[(0, 0), (1, 0), (2, 0)], &[(0, 3), (0, 4), (0, 9), (2, 29), (2, 1), (2, 2)]] {
                let encoder = encoder(modern, &sees, &Device::flex());
                let marks = |b: usize, n: usize| Array2::from_shape_fn((1, n), |(_, t)| globals.contains(&(b, t)));
                let alone: Vec<Vec<f32>> = rows
                    .iter()
                    .enumerate()
                    .map(|(b, row)| {
                        read(&encoder, &Reading { global: Some(&marks(b, row.len())), ..Reading::one(row) })
                    })
                    .collect();
                let bounds = [0, 17, 31, 61];
                let all = Array2::from_shape_fn((1, 61), |(_, t)| {
                    let b = bounds.iter().rposition(|start| *start <= t).expect("a row");
                    globals.contains(&(b, t - bounds[b]))
                });
                let ids = rows.concat();
                let packed = Reading { packed: Some(&bounds), global: Some(&all), ..Reading::one(&ids) };
                let packed = read(&encoder, &packed);
                let at = |b: usize, t: usize| rows[b].get(t).copied().unwrap_or(1);
                let padded: Vec<u32> = (0..3 * 30).map(|i| at(i / 30, i % 30)).collect();
                let keep = Array2::from_shape_fn((3, 30), |(b, t)| t < rows[b].len());
                let all = Array2::from_shape_fn((3, 30), |place| globals.contains(&place));
                let padded = Reading { batch: 3, keep: Some(&keep), global: Some(&all), ..Reading::one(&padded) };
                let padded = read(&encoder, &padded);
                for (b, alone) in alone.iter().enumerate() {
                    let what = format!("{name}, modern {modern}, row {b}, globals {globals:?}");
                    close(&what, alone, &packed[bounds[b] * 24..bounds[b + 1] * 24]);
                    // A block layout counts padding as well.
                    if name != "sparse" {
                        close(&what, alone, &padded[b * 30 * 24..][..alone.len()]);
                    }
                }
            }
        }
    }
}

#[test]
fn many_tokens_are_as_few_and_as_with_gradients() {
    // More tokens than one block of rows, in one text and in several.
    let rows: Vec<Vec<u32>> = [LONGEST, 9, 700].map(text).into();
    for modern in [false, true] {
        let sees = [Sees::Window(3), Sees::All];
        let plain = encoder(modern, &sees, &Device::flex());
        let recorded = encoder(modern, &sees, &Device::flex().autodiff());
        let ids = rows.concat();
        let bounds = [0, LONGEST, LONGEST + 9, LONGEST + 709];
        let packed = read(&plain, &Reading { packed: Some(&bounds), ..Reading::one(&ids) });
        for (b, row) in rows.iter().enumerate() {
            let mine = &packed[bounds[b] * 24..bounds[b + 1] * 24];
            close("alone", mine, &read(&plain, &Reading::one(row)));
            close("recorded", mine, &read(&recorded, &Reading::one(row)));
        }
    }
}
