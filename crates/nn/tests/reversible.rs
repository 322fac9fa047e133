//! Reversible blocks: the gradients of a stack that stores no activations equal those of one that stores all.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, activation};
use longreach_attention::softmax::Patterned;
use longreach_attention::softmax::dense::Dense;
use longreach_nn::mixers::{Attention, AttentionConfig, Seen};
use longreach_nn::{Bias, Builder, Error, Linear, Random, Residual, Reversible, reversible};

#[derive(Module, Debug)]
struct Mix {
    attention: Attention,
}

impl Residual for Mix {
    fn residual(&self, x: Tensor<3>) -> Tensor<3> {
        let mechanism = std::sync::Arc::new(Patterned::new(Dense { causal: true }));
        self.attention.both_ways(x, &Seen { mechanism, keep: None, packed: None })
    }
}

#[derive(Module, Debug)]
struct Feed {
    linear: Linear,
}

impl Residual for Feed {
    fn residual(&self, x: Tensor<3>) -> Tensor<3> {
        activation::tanh(self.linear.forward(x))
    }
}

/// The gradients of the parameters, in order.
struct Collect<'a>(&'a Gradients, Vec<Vec<f32>>);

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.0).expect("a gradient");
        self.1.push(gradient.into_data().iter::<f32>().collect());
    }
}

#[test]
fn what_is_kept_does_not_matter() {
    let device = Device::flex().autodiff();
    let mut source = Random::new(1);
    let mut b = Builder::new(&mut source, &device);
    let config = AttentionConfig::new(12, 3);
    let mut block = |i: usize| {
        b.scope(i, |b| {
            let f = Mix { attention: Attention::new(b, &config)? };
            Ok::<_, Error>(Reversible { f, g: Feed { linear: Linear::new(b, "feed", 12, 12, Bias::Yes)? } })
        })
    };
    let blocks: Vec<Reversible<Mix, Feed>> = (0..4).map(|i| block(i).expect("random weights fit")).collect();
    let x = |seed: usize| -> Tensor<3> {
        let numbers: Vec<f32> = (0..2 * 9 * 12).map(|n| ((n * 7919 + seed) % 2003) as f32 / 1001.5 - 1.0).collect();
        Tensor::<1>::from_data(&numbers[..], &device).reshape([2, 9, 12]).require_grad()
    };
    let (x1, x2) = (x(13), x(500));
    let gradients = |y1: Tensor<3>, y2: Tensor<3>| {
        let loss = (y1.clone() * y1).sum() + (y2.clone() * x(77).inner().autodiff()).sum();
        let gradients = loss.backward();
        let mut collect = Collect(&gradients, Vec::new());
        blocks.iter().for_each(|block| block.visit(&mut collect));
        let of_inputs = [&x1, &x2].map(|x| x.grad(&gradients).expect("a gradient").into_data().iter::<f32>().collect());
        collect.1.into_iter().chain(of_inputs).collect::<Vec<Vec<f32>>>()
    };
    let kept = blocks.iter().fold((x1.clone(), x2.clone()), |(x1, x2), block| block.forward(x1, x2));
    let not = reversible(&blocks, x1.clone(), x2.clone());
    for (a, b) in [(&kept.0, &not.0), (&kept.1, &not.1)] {
        let [a, b] = [a, b].map(|x| x.clone().into_data().iter::<f32>().collect::<Vec<_>>());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
    }
    let (kept, not) = (gradients(kept.0, kept.1), gradients(not.0, not.1));
    assert_eq!(kept.len(), 4 * 6 + 2);
    for (n, (kept, not)) in kept.iter().zip(&not).enumerate() {
        let most = kept.iter().fold(1.0f32, |most, x| most.max(x.abs()));
        let apart = kept.iter().zip(not).fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
        assert!(kept.len() == not.len() && apart / most < 1e-5, "gradient {n}: {apart} of {most}");
    }
}
