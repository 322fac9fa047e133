//! Laws of mixers that are read in both directions, and of what is built on them.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use longreach_nn::mixers::parts::{Heads, Short};
use longreach_nn::mixers::{
    AttentionConfig, GatedDeltaConfig, GatedNorm, Mamba2Config, MixerConfig, Rwkv4Config, Shared,
};
use longreach_nn::{
    Bidirectional, BidirectionalConfig, Builder, Cells, GatedFeedForwardConfig, MixedBlockConfig, MixedConfig,
    MixedEncoder, NormConfig, Random, SequenceConfig, Sequences, Tabular, TabularConfig,
};
use longreach_testkit::tolerance;
use ndarray::Array2;

const WIDTH: usize = 16;

/// Mixers with a short convolution, a token shift, a matrix state, and keys.
fn mixers() -> Vec<(&'static str, MixerConfig)> {
    let conv = Some(Short { taps: 4, bias: false });
    let heads = Heads { hidden: WIDTH, heads: 2, groups: 2, key: 8, value: 8, conv, norm_eps: 1e-5, affine: true };
    let mamba2 = Mamba2Config {
        hidden: WIDTH,
        heads: 4,
        head_dim: 8,
        state: 8,
        groups: 1,
        conv: 4,
        conv_bias: true,
        bias: false,
        out_bias: false,
        norm: GatedNorm::AfterGate(1e-5),
        multipliers: [1.0; 5],
        step_limit: (0.0, f32::INFINITY),
        step: (1e-3, 0.1),
    };
    let delta = GatedDeltaConfig { heads, up_to_two: false, gated: true, cyclic: false };
    vec![
        ("gated delta", MixerConfig::GatedDelta(delta)),
        ("mamba2", MixerConfig::Mamba2(mamba2)),
        ("rwkv4", MixerConfig::Rwkv4(Rwkv4Config { hidden: WIDTH, inner: WIDTH })),
        ("attention", MixerConfig::Attention(AttentionConfig::new(WIDTH, 2))),
    ]
}

fn both(mixer: MixerConfig, tied: bool, device: &Device) -> Bidirectional {
    let mut source = Random::new(3);
    Bidirectional::new(&mut Builder::new(&mut source, device), &BidirectionalConfig { mixer, tied }).expect("a mixer")
}

fn rows(shape: [usize; 3], seed: usize, device: &Device) -> Tensor<3> {
    let n = shape.iter().product::<usize>();
    let x: Vec<f32> = (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect();
    Tensor::from_data(TensorData::new(x, shape), device)
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let x = if x.is_autodiff() { x.inner() } else { x };
    x.into_data().iter::<f32>().collect()
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    let [a, b] = [a, b].map(|x| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
    tolerance::assert_close(what, &a, &b, tolerance::LOGITS);
}

#[test]
fn it_is_the_sum_of_both_readings() {
    let device = longreach_burn::cpu();
    for (name, config) in mixers() {
        for tied in [true, false] {
            let both = both(config.clone(), tied, &device);
            let x = rows([2, 11, WIDTH], 1, &device);
            let [there, back] = both.mixers();
            let seen = there.forward(x.clone(), &mut there.start(2, &device), &mut Shared::default());
            // Token by token from the end, each sequence by its own state.
            let (mut state, mut tokens) = (back.start(2, &device), Vec::new());
            for t in (0..11).rev() {
                tokens.push(back.forward(x.clone().narrow(1, t, 1), &mut state, &mut Shared::default()));
            }
            tokens.reverse();
            let want = seen + Tensor::cat(tokens, 1);
            let found = both.forward(x, &Sequences::default());
            close(&format!("{name}, tied {tied}"), &numbers(found), &numbers(want));
        }
    }
}

#[test]
fn packed_is_padded_is_alone() {
    let device = longreach_burn::cpu();
    let lengths = [7, 1, 12];
    for (name, config) in mixers() {
        let both = both(config, false, &device);
        let alone: Vec<Tensor<3>> = lengths.iter().map(|n| rows([1, *n, WIDTH], *n, &device)).collect();
        let each: Vec<Tensor<3>> = alone.iter().map(|x| both.forward(x.clone(), &Sequences::default())).collect();
        let bounds = [0, 7, 8, 20];
        let packed = Sequences { packed: Some(&bounds), ..Sequences::default() };
        let packed = both.forward(Tensor::cat(alone.clone(), 1), &packed);
        close(&format!("{name}, packed"), &numbers(packed), &numbers(Tensor::cat(each.clone(), 1)));
        // The first sequence is padded on the left and the others on the right, with numbers that are not zero.
        let from = |i: usize| if i == 0 { 12 - lengths[i] } else { 0 };
        let noise = |n: usize| (n > 0).then(|| rows([1, n, WIDTH], 77, &device));
        let padded = alone.iter().enumerate().map(|(i, x)| {
            let parts = [noise(from(i)), Some(x.clone()), noise(12 - lengths[i] - from(i))];
            Tensor::cat(parts.into_iter().flatten().collect(), 1)
        });
        let padded = Tensor::cat(padded.collect(), 0);
        let keep = Array2::from_shape_fn((3, 12), |(b, t)| t >= from(b) && t < from(b) + lengths[b]);
        let out = both.forward(padded, &Sequences { keep: Some(&keep), ..Sequences::default() });
        for (i, want) in each.into_iter().enumerate() {
            let own = out.clone().narrow(0, i, 1).narrow(1, from(i), lengths[i]);
            close(&format!("{name}, padded {i}"), &numbers(own), &numbers(want));
        }
    }
}

/// Adds `by` to one number of a parameter.
struct Moved(ParamId, usize, f32);

impl ModuleMapper for Moved {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.id != self.0 {
            return param;
        }
        let (shape, device) = (param.val().dims(), param.val().device());
        let mut values = numbers(param.val());
        values[self.1] += self.2;
        Param::initialized(param.id, Tensor::from_data(TensorData::new(values, shape), &device))
    }
}

/// For every parameter the gradient of its number in the middle, and the slope of the loss.
struct Gradients<'a>(&'a burn::tensor::Gradients, Vec<(ParamId, usize, f32)>);

impl burn::module::ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.val().grad(self.0) else { return };
        let gradient = numbers(gradient);
        let at = gradient.len() / 2;
        self.1.push((param.id, at, gradient[at]));
    }
}

#[track_caller]
fn slopes<M: Module>(what: &str, model: &M, loss: impl Fn(&M) -> Tensor<1>) {
    let gradients = loss(model).backward();
    let mut found = Gradients(&gradients, Vec::new());
    model.visit(&mut found);
    assert!(found.1.len() > 3, "{what}: {} gradients", found.1.len());
    for (id, at, gradient) in found.1 {
        let step = 5e-4;
        let [above, below] =
            [step, -step].map(|by| f64::from(numbers(loss(&model.clone().map(&mut Moved(id, at, by))))[0]));
        let slope = (above - below) / f64::from(2.0 * step);
        let apart = (slope - f64::from(gradient)).abs();
        assert!(apart <= 2e-2 * slope.abs().max(0.1), "{what}: gradient {gradient}, slope {slope}");
    }
}

#[test]
fn gradients_are_slopes() {
    let device = longreach_burn::cpu().autodiff();
    for (name, config) in mixers() {
        let both = both(config, name == "rwkv4", &device);
        let bounds = [0, 5, 9];
        slopes(name, &both, |both| {
            let x = rows([1, 9, WIDTH], 5, &device);
            let packed = Sequences { packed: Some(&bounds), ..Sequences::default() };
            (both.forward(x, &packed) * rows([1, 9, WIDTH], 6, &device)).sum()
        });
    }
}

fn encoder(sequence: SequenceConfig) -> MixedConfig {
    let block = MixedBlockConfig { mixer: sequence, feed_forward: GatedFeedForwardConfig::silu(24) };
    MixedConfig { hidden: WIDTH, blocks: vec![block; 2], norm: NormConfig::Rms(1e-5) }
}

fn sequences() -> Vec<SequenceConfig> {
    let delta = mixers().swap_remove(0).1;
    let both = SequenceConfig::Bidirectional(BidirectionalConfig { mixer: delta, tied: false });
    vec![SequenceConfig::Attention(AttentionConfig::new(WIDTH, 2)), both]
}

#[test]
fn an_encoder_reads_packed_sequences_alone() {
    let device = longreach_burn::cpu();
    for config in sequences() {
        let mut source = Random::new(5);
        let encoder = MixedEncoder::new(&mut Builder::new(&mut source, &device), &encoder(config)).expect("an encoder");
        let all = [6, 3].map(|n| rows([1, n, WIDTH], n, &device));
        let want = all.clone().map(|x| encoder.forward(x, &Sequences::default()));
        let bounds = [0, 6, 9];
        let sequences = Sequences { packed: Some(&bounds), ..Sequences::default() };
        let found = encoder.forward(Tensor::cat(all.to_vec(), 1), &sequences);
        close("packed", &numbers(found.clone()), &numbers(Tensor::cat(want.to_vec(), 1)));
        // The first token sees the last one, in its own sequence.
        let x = Tensor::cat(vec![all[0].clone().narrow(1, 0, 5), rows([1, 1, WIDTH], 9, &device)], 1);
        let other = encoder.forward(x, &Sequences::default());
        assert_ne!(numbers(other.narrow(1, 0, 1)), numbers(want[0].clone().narrow(1, 0, 1)));
    }
}

fn table(sequence: SequenceConfig, device: &Device) -> Tabular {
    let config = TabularConfig { numbers: 2, code: 3, categories: vec![2, 4], encoder: encoder(sequence), outputs: 2 };
    let mut source = Random::new(7);
    Tabular::new(&mut Builder::new(&mut source, device), &config).expect("a table")
}

/// Three rows; the second lacks its first number and its second category.
const CODES: [f32; 18] = [1.0, 0.5, 0.0, 1.0, 1.0, 0.3, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 1.0, 1.0, 1.0, 0.1, 0.0, 0.0];
const KNOWN: [bool; 6] = [true, true, false, true, true, true];
const CATEGORIES: [u32; 6] = [1, 4, 2, 0, 2, 1];

#[test]
fn rows_of_a_table_are_each_alone_and_missing_numbers_have_no_code() {
    let device = longreach_burn::cpu();
    for config in sequences() {
        let table = table(config, &device);
        let cells = Cells { rows: 3, codes: &CODES, known: &KNOWN, categories: &CATEGORIES };
        let all = numbers(table.forward(&cells));
        for row in 0..3 {
            let alone = Cells {
                rows: 1,
                codes: &CODES[6 * row..][..6],
                known: &KNOWN[2 * row..][..2],
                categories: &CATEGORIES[2 * row..][..2],
            };
            close("alone", &numbers(table.forward(&alone)), &all[2 * row..][..2]);
        }
        let mut codes = CODES;
        codes[6..9].copy_from_slice(&[9.0, -3.0, 2.0]);
        close("missing", &numbers(table.forward(&Cells { codes: &codes, ..cells })), &all);
        // What is there matters, in every column.
        for (at, which) in [(0, 0), (3, 0), (0, 1), (1, 1)] {
            let (mut codes, mut categories) = (CODES, CATEGORIES);
            if which == 0 {
                codes[at] += 0.5
            } else {
                categories[at] -= 1
            }
            let other = numbers(table.forward(&Cells { codes: &codes, categories: &categories, ..cells }));
            assert_ne!(other[..2], all[..2], "{which} {at}");
            close("other rows", &other[2..], &all[2..]);
        }
    }
}

#[test]
fn gradients_of_a_table_are_slopes() {
    let device = longreach_burn::cpu().autodiff();
    for config in sequences() {
        let cells = Cells { rows: 3, codes: &CODES, known: &KNOWN, categories: &CATEGORIES };
        slopes("table", &table(config, &device), |table| {
            let y = table.forward(&cells);
            (y.clone() * y).sum()
        });
    }
}
