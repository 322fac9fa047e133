//! The Performer's rows are drawn anew, and the draw alone decides.

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
    let state = mixer.start(1, &Device::flex());
    mixer.forward(x, state, None, &mut Shared::default()).0.into_data().iter::<f32>().collect()
}

#[test]
fn rows_drawn_anew_are_other_rows() {
    let redrawn = |by: f64| {
        let mut n = 0.0;
        read(build().redrawn(|| {
            n += 1.0;
            (n * by).sin() * 2.0
        }))
    };
    assert_eq!(redrawn(1.3), redrawn(1.3));
    assert_ne!(redrawn(1.3), redrawn(2.1));
    assert_ne!(read(build()), redrawn(1.3));
}
