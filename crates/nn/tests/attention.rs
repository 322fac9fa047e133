//! Attention as a mixer: for every KV cache, reading at once, in chunks and token by token agree, and they agree with
//! the attention kernels.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use longreach_attention::rotary::{Rotary, Scaling};
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::infllm_v2::InfLlmV2;
use longreach_attention::softmax::streaming::Streaming;
use longreach_attention::softmax::window::Window;
use longreach_attention::softmax::{Attend, Patterned};
use longreach_nn::mixers::{
    Attention, AttentionConfig, Blocks, KvSource, Mixer, OutputGate, QkNorm, Reach, Seen, Shared,
};
use longreach_nn::{BranchState, Builder, LayerState, NormConfig, Random, State};

const ROTARY: Rotary = Rotary { width: 8, theta: 100.0, interleaved: false, scaling: Scaling::Default };

fn config(reach: Reach) -> AttentionConfig {
    let rotary = Some(ROTARY);
    AttentionConfig {
        groups: 2,
        head_dim: 8,
        rotary,
        qk_norm: Some(QkNorm::Head(NormConfig::Rms(1e-6))),
        reach,
        ..AttentionConfig::new(24, 4)
    }
}

/// Blocks of 4 keys, of which a query from position 19 on attends to 6.
const BLOCKS: Blocks = Blocks {
    sizes: InfLlmV2 { kernel: 5, stride: 2, block: 4, init_blocks: 1, window: 8, top: 4, dense_below: 20 },
    unrotated: false,
};

fn build(config: &AttentionConfig) -> Attention {
    build_on(config, &Device::flex())
}

fn build_on(config: &AttentionConfig, device: &Device) -> Attention {
    let mut source = Random::new(5);
    Attention::new(&mut Builder::new(&mut source, device), config).expect("random weights fit")
}

/// Distinct values between −1 and 1.
fn tokens(batch: usize, tokens: usize) -> Tensor<3> {
    let numbers: Vec<f32> = (0..batch * tokens * 24).map(|n| ((n * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0).collect();
    Tensor::<1>::from_data(&numbers[..], &Device::flex()).reshape([batch, tokens, 24])
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let apart = a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(apart < 1e-5, "{what}: {apart}");
}

/// The output of reading `x` in chunks cut at `cuts`, and the state after the last chunk.
fn read(mixer: &Mixer, x: &Tensor<3>, cuts: &[usize]) -> (Vec<f32>, State) {
    let [b, t, _] = x.dims();
    let mut state = mixer.start(b, &Device::flex());
    let (mut from, mut parts) = (0, Vec::new());
    for &to in cuts.iter().chain([&t]) {
        parts.push(mixer.forward(x.clone().narrow(1, from, to - from), &mut state, &mut Shared::default()));
        from = to;
    }
    (numbers(Tensor::<3>::cat(parts, 1)), state)
}

#[test]
fn every_cache_reads_whole_in_chunks_and_in_steps() {
    let x = tokens(2, 70);
    let steps: Vec<usize> = (1..70).collect();
    let streaming = Streaming { sinks: 3, recent: 9 };
    let plain = AttentionConfig { rotary: None, alibi: true, learned_sinks: true, ..config(Reach::Window(12)) };
    let configs = [
        config(Reach::Full),
        AttentionConfig { softcap: Some(5.0), bias: true, out_bias: true, ..config(Reach::Full) },
        config(Reach::Window(1)),
        config(Reach::Window(12)),
        config(Reach::Window(1000)),
        plain,
        config(Reach::Sinks(streaming)),
        AttentionConfig { rotary: None, ..config(Reach::Sinks(streaming)) },
        // Frequencies that depend on the length are those of the cache, which does not grow with the text.
        AttentionConfig {
            rotary: Some(Rotary { scaling: Scaling::Dynamic { factor: 2.0, max_position_embeddings: 8 }, ..ROTARY }),
            ..config(Reach::Sinks(streaming))
        },
        config(Reach::Sinks(Streaming { sinks: 0, recent: 9 })),
        config(Reach::Sinks(Streaming { sinks: 100, recent: 1 })),
        config(Reach::Blocks(BLOCKS)),
        config(Reach::Blocks(Blocks { unrotated: true, ..BLOCKS })),
        AttentionConfig { rotary: None, gate: Some(OutputGate::Channel), ..config(Reach::Blocks(BLOCKS)) },
    ];
    for config in configs {
        let mixer = Mixer::Attention(build(&config));
        let (whole, state) = read(&mixer, &x, &[]);
        for cuts in [&[5, 6, 13, 64][..], &[40], &steps] {
            let (pieces, after) = read(&mixer, &x, cuts);
            close(&format!("{:?} cut at {cuts:?}", config.reach), &whole, &pieces);
            // The first sequence saved and restored.
            let state_of = |state| LayerState(vec![BranchState::Operation(state)]);
            let after = after.select(&[0]);
            let tensors = state_of(after.clone()).tensors();
            let get = |name: &str, _: &[Option<usize>]| {
                Ok(tensors.iter().find(|tensor| tensor.name == name).expect("a tensor of the state").whole())
            };
            let start = state_of(mixer.start(1, &Device::flex()));
            let mut again = start.restored(70, get).expect("what was saved");
            let Some(BranchState::Operation(again)) = again.0.pop() else { panic!("a mixer's state") };
            let more = tokens(1, 3);
            let next = |mut state| numbers(mixer.forward(more.clone(), &mut state, &mut Shared::default()));
            assert_eq!(next(after), next(again), "{:?} restored", config.reach);
        }
        let most = match config.reach {
            Reach::Full | Reach::Blocks(_) => usize::MAX,
            Reach::Window(width) => width + 512,
            Reach::Sinks(Streaming { sinks, recent }) => recent + sinks + 512,
        };
        // Keys and values of two sequences, with two groups of eight channels.
        let kept = LayerState(vec![BranchState::Operation(state)]).bytes() / 4;
        assert!(kept / (2 * 2 * 2 * 8) <= most, "{:?} keeps {kept} numbers", config.reach);
    }
}

/// Beside the KV cache, the state has one summary for each complete window and the keys of incomplete windows, however the
/// text was divided.
#[test]
fn summaries_are_those_of_the_text() {
    let (x, t) = (tokens(1, 70), 70);
    let mixer = Mixer::Attention(build(&config(Reach::Blocks(BLOCKS))));
    let tensors = |cuts: &[usize]| {
        let state = LayerState(vec![BranchState::Operation(read(&mixer, &x, cuts).1)]);
        let part = |name: &str| {
            let tensors = state.tensors();
            tensors.iter().find(|tensor| tensor.name == name).expect("a part of the state").whole()
        };
        [part("0.summaries.k"), part("0.tail.k")]
    };
    let whole = tensors(&[]);
    let n = (t - 5) / 2 + 1;
    assert_eq!(whole[0].shape().to_vec(), [1, n, 2, 8]);
    assert_eq!(whole[1].shape().to_vec(), [1, t - 2 * n, 2, 8]);
    let steps: Vec<usize> = (1..t).collect();
    for cuts in [&[1, 3, 4, 40][..], &steps] {
        for (part, whole) in tensors(cuts).iter().zip(&whole) {
            assert_eq!(part.shape(), whole.shape(), "cut at {cuts:?}");
            let values = |data: &TensorData| data.iter::<f32>().collect::<Vec<_>>();
            close(&format!("cut at {cuts:?}"), &values(part), &values(whole));
        }
    }
}

/// With all blocks selected, attention and its gradient are those of dense attention; with fewer they are others.
#[test]
fn all_blocks_are_dense_attention() {
    let device = Device::flex().autodiff();
    let of = |reach: Reach| {
        let mixer = Mixer::Attention(build_on(&config(reach), &device));
        let x = tokens(2, 50).autodiff().require_grad();
        let out = mixer.forward(x.clone(), &mut mixer.start(2, &device), &mut Shared::default());
        let gradients = (out.clone() * out.clone()).sum().backward();
        [numbers(out.inner()), numbers(x.grad(&gradients).expect("a gradient"))]
    };
    let dense = of(Reach::Full);
    let sizes = InfLlmV2 { dense_below: 0, ..BLOCKS.sizes };
    let all = of(Reach::Blocks(Blocks { sizes: InfLlmV2 { top: 99, ..sizes }, ..BLOCKS }));
    let some = of(Reach::Blocks(Blocks { sizes, ..BLOCKS }));
    for (dense, (all, some)) in dense.iter().zip(all.iter().zip(&some)) {
        close("all blocks", all, dense);
        assert!(some.iter().zip(dense).any(|(a, b)| (a - b).abs() > 1e-3), "nothing is left out");
    }
}

#[test]
fn a_decoder_sees_the_past_of_an_encoder() {
    let x = tokens(1, 33);
    let mechanisms: [(Reach, Arc<dyn Attend>); 2] = [
        (Reach::Full, Arc::new(Patterned::new(Dense { causal: true }))),
        (Reach::Window(5), Arc::new(Patterned::new(Window { left: 4, right: 0 }))),
    ];
    for (reach, mechanism) in mechanisms {
        let attention = build(&config(reach));
        let seen = Seen { mechanism, keep: None, packed: None };
        let both = numbers(attention.both_ways(x.clone(), &seen));
        close("one pass", &both, &read(&Mixer::Attention(attention), &x, &[]).0);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    for (config, want) in [
        (AttentionConfig { groups: 3, ..config(Reach::Full) }, "4 heads of 8 channels cannot share 3 groups"),
        (config(Reach::Window(0)), "a window of 0 tokens"),
        (
            config(Reach::Blocks(Blocks { sizes: InfLlmV2 { init_blocks: 4, ..BLOCKS.sizes }, ..BLOCKS })),
            "4 selected blocks beside the window: want more than the 4 first ones",
        ),
        (
            config(Reach::Blocks(Blocks { sizes: InfLlmV2 { stride: 3, ..BLOCKS.sizes }, ..BLOCKS })),
            "`block` is 4, want a multiple of the stride, 3",
        ),
        (
            AttentionConfig { source: KvSource::Shared(0), ..config(Reach::Blocks(BLOCKS)) },
            "neither joined projections, adapters, sinks nor selected blocks",
        ),
        (AttentionConfig { head_dim: 6, ..config(Reach::Full) }, "rotary positions of 8 channels in heads of 6"),
    ] {
        let mut source = Random::new(5);
        let error = Attention::new(&mut Builder::new(&mut source, &Device::flex()), &config).expect_err("an error");
        assert!(error.to_string().contains(want), "{error}");
    }
}
