//! The decoder: for every combination of mixer, head and feed-forward layer, reading at once, in chunks and token by
//! token agree, and the sequences of a batch are independent.

use burn::tensor::{Device, Tensor};
use longreach_nn::mixers::{
    AttentionConfig, GatedNorm, InnerNorm, KvSource, Mamba2Config, MambaConfig, MixerConfig, Reach,
};
use longreach_nn::{
    BlockConfig, BranchConfig, Builder, Decoder, DecoderConfig, DecoderNames, GatedFeedForwardConfig, NamedNorm,
    NormConfig, OperationConfig, Random, WordsConfig,
};

/// A model with Mamba, Mamba-2 and sliding-window attention blocks.
fn decoder(tied: bool, feed_forward: Option<usize>) -> Decoder {
    let mut source = Random::new(3);
    let mut builder = Builder::new(&mut source, &Device::flex());
    let mamba = MambaConfig {
        hidden: 24,
        inner: 40,
        state: 7,
        conv: 3,
        rank: 2,
        conv_bias: true,
        bias: true,
        inner_norm: Some(InnerNorm::Plain(1e-6)),
        step: (0.001, 0.1),
    };
    let mamba2 = Mamba2Config {
        hidden: 24,
        heads: 4,
        head_dim: 12,
        state: 10,
        groups: 2,
        conv: 4,
        conv_bias: false,
        bias: false,
        out_bias: false,
        norm: GatedNorm::AfterGate(1e-5),
        multipliers: [1.0; 5],
        step_limit: (0.0, f32::INFINITY),
        step: (0.001, 0.1),
    };
    let attention = AttentionConfig { reach: Reach::Window(6), ..AttentionConfig::new(24, 3) };
    let mixers = [MixerConfig::Mamba(mamba), MixerConfig::Mamba2(mamba2), MixerConfig::Attention(attention)];
    let norm = NormConfig::Rms(1e-5);
    let block = |mixer| {
        let mut branches = vec![BranchConfig::mixer("mixer", mixer).before("norm", norm)];
        branches.extend(feed_forward.map(|inner| {
            let layer = OperationConfig::Gated(GatedFeedForwardConfig::silu(inner));
            BranchConfig::new("feed_forward", layer).before("second_norm", norm)
        }));
        BlockConfig::new(branches)
    };
    let names = DecoderNames::new(["body", "embedding", "blocks", "head"]);
    let config = DecoderConfig {
        last_norm: Some(NamedNorm::new("last_norm", norm)),
        words: WordsConfig::Table { tied },
        ..DecoderConfig::new([50, 24], mixers.into_iter().map(block).collect(), names)
    };
    Decoder::new(&mut builder, &config).expect("random weights fit")
}

fn read(decoder: &Decoder, rows: &[Vec<u32>], cuts: &[usize]) -> Vec<f32> {
    let mut cache = decoder.start(rows.len());
    let mut from = 0;
    let mut parts = Vec::new();
    for &to in cuts.iter().chain([&rows[0].len()]) {
        let ids: Vec<u32> = rows.iter().flat_map(|row| &row[from..to]).copied().collect();
        parts.push(decoder.logits(decoder.forward(&ids, &mut cache, None)));
        from = to;
    }
    let all: Tensor<3> = Tensor::cat(parts, 1);
    all.into_data().iter::<f32>().collect()
}

#[test]
fn every_path_and_every_batch_agree() {
    let rows: Vec<Vec<u32>> = (0..3).map(|b| (0..21).map(|t| (t * 11 + b * 17 + 5) % 50).collect()).collect();
    for (tied, feed_forward) in [(true, None), (false, None), (false, Some(31))] {
        let decoder = decoder(tied, feed_forward);
        let whole = read(&decoder, &rows, &[]);
        assert!(whole.iter().all(|x| x.is_finite()));
        let steps: Vec<usize> = (1..21).collect();
        for cuts in [&[5, 6, 13][..], &steps] {
            for (a, b) in whole.iter().zip(read(&decoder, &rows, cuts)) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
        for (b, row) in rows.iter().enumerate() {
            let alone = read(&decoder, std::slice::from_ref(row), &[]);
            for (a, b) in whole[b * alone.len()..].iter().zip(&alone) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }
}

#[test]
fn keys_that_no_earlier_layer_shares_are_refused() {
    let block = |source| {
        let attention = AttentionConfig { source, ..AttentionConfig::new(24, 3) };
        BlockConfig::new(vec![BranchConfig::mixer("mixer", MixerConfig::Attention(attention))])
    };
    let build = |sources: [KvSource; 2]| {
        let names = DecoderNames::new(["body", "embedding", "blocks", "head"]);
        let config = DecoderConfig::new([50, 24], sources.map(block).to_vec(), names);
        Decoder::new(&mut Builder::new(&mut Random::new(3), &Device::flex()), &config).map(|_| ())
    };
    build([KvSource::Shared(0), KvSource::Layer(0)]).expect("the first layer shares its keys");
    for sources in [[KvSource::Own, KvSource::Layer(0)], [KvSource::Layer(0), KvSource::Shared(0)]] {
        let error = build(sources).expect_err("refused").to_string();
        assert!(error.contains("uses the keys of 0, which no earlier layer shares"), "{error}");
    }
}
