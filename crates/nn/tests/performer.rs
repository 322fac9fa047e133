//! Redrawing the Performer's random features depends on the draw alone.

use burn::tensor::{Device, Tensor};
use longreach_attention::linear::performer::Kernel;
use longreach_nn::mixers::parts::Heads;
use longreach_nn::mixers::{Mixer, Performer, PerformerConfig, Shared};
use longreach_nn::{Builder, Random};

fn build() -> Performer {
    let heads = Heads { hidden: 16, heads: 2, groups: 2, key: 8, value: 8, conv: None, norm_eps: 1e-5, affine: true };
    let config = PerformerConfig { heads, rows: 12, kernel: Kernel::Softmax, epsilon: 1e-4 };
    Performer::new(&mut Builder::new(&mut Random::new(3), &Device::flex()), &config).expect("random weights fit")
}

fn read(performer: Performer) -> Vec<f32> {
    let x: Vec<f32> = (0..5 * 16).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Tensor::<1>::from_data(&x[..], &Device::flex()).reshape([1, 5, 16]);
    let mixer = Mixer::Performer(performer);
    let mut state = mixer.start(1, &Device::flex());
    mixer.forward(x, &mut state, &mut Shared::default()).into_data().iter::<f32>().collect()
}

/// Uniform between 0 and 1, by a linear congruential generator of Knuth.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn rows_drawn_anew_are_other_rows() {
    let redrawn = |seed: u64| {
        let mut state = seed;
        read(build().redrawn(|| {
            // The sum of twelve uniform numbers minus its mean, which is approximately normal.
            (0..12).map(|_| uniform(&mut state)).sum::<f64>() - 6.0
        }))
    };
    assert_eq!(redrawn(1), redrawn(1));
    assert_ne!(redrawn(1), redrawn(2));
    assert_ne!(read(build()), redrawn(1));
}
