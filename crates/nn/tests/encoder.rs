//! The encoder's skeleton: packed is padded is alone, whatever its norms and feed-forward layers.

use std::sync::Arc;

use burn::tensor::Device;
use longreach_attention::rotary::{Rotary, Scaling};
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::window::Window;
use longreach_attention::softmax::{Attend, Patterned};
use longreach_nn::mixers::{Attention, AttentionConfig};
use longreach_nn::{
    Activation, Bias, Builder, Encoder, EncoderConfig, EncoderNames, FeedForwardConfig, NormConfig, Order, Random,
    Reading,
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

fn encoder(modern: bool) -> Encoder {
    let norm = if modern { NormConfig::Layer(1e-5, Bias::No) } else { NormConfig::Layer(1e-12, Bias::Yes) };
    let activation = if modern { Activation::GeGlu } else { Activation::Gelu };
    let config = EncoderConfig {
        vocabulary: 50,
        hidden: 24,
        layers: 3,
        positions: (!modern).then_some(64),
        types: (!modern).then_some(2),
        norm,
        order: if modern { Order::Before } else { Order::Behind },
        embedding_norm: true,
        first_unnormed: modern,
        last_norm: modern,
        feed_forward: FeedForwardConfig { inner: 40, activation, bias: (!modern).into(), names: ["first", "second"] },
        names: NAMES,
    };
    let rotary = Rotary { width: 6, theta: 100.0, interleaved: false, scaling: Scaling::Default };
    let attention = AttentionConfig {
        bias: !modern,
        out_bias: !modern,
        rotary: modern.then_some(rotary),
        ..AttentionConfig::new(24, 4)
    };
    let mut source = Random::new(3);
    let mut builder = Builder::new(&mut source, &Device::flex());
    Encoder::new(&mut builder, &config, |b, _| Attention::new(b, &attention)).expect("random weights fit")
}

fn mechanism(i: usize) -> Arc<dyn Attend> {
    if i == 1 {
        Arc::new(Patterned::new(Dense { causal: false }))
    } else {
        Arc::new(Patterned::new(Window { left: 3, right: 3 }))
    }
}

#[test]
fn packed_is_padded_is_alone() {
    let rows: [Vec<u32>; 3] = [17, 5, 30].map(|n| (0..n).map(|t| (t * 11 + n * 7) % 50).collect());
    for modern in [false, true] {
        let encoder = encoder(modern);
        let read = |ids: &[u32], batch: usize, keep: Option<&Array2<bool>>, packed: Option<&[usize]>| {
            let reading = Reading { ids, batch, types: None, keep, packed, mechanism: &mechanism };
            encoder.forward(&reading).into_data().iter::<f32>().collect::<Vec<f32>>()
        };
        let alone: Vec<Vec<f32>> = rows.iter().map(|row| read(row, 1, None, None)).collect();
        assert!(alone.iter().flatten().all(|x| x.is_finite()));
        let packed = read(&rows.concat(), 1, None, Some(&[0, 17, 22, 52]));
        let padded: Vec<u32> = rows.iter().flat_map(|row| (0..30).map(|t| row.get(t).copied().unwrap_or(0))).collect();
        let keep = Array2::from_shape_fn((3, 30), |(b, t)| t < rows[b].len());
        let padded = read(&padded, 3, Some(&keep), None);
        let mut from = 0;
        for (b, alone) in alone.iter().enumerate() {
            let others = [&packed[from..from + alone.len()], &padded[b * 30 * 24..][..alone.len()]];
            for other in others {
                assert!(alone.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5), "modern {modern}, row {b}");
            }
            from += alone.len();
        }
    }
}
