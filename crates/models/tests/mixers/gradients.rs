//! Laws of training, for every mixer and every shape of block: packed texts are each text alone, and recomputed activations
//! have the same gradients.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use longreach_models::Model;
use longreach_nn::{Cache, Decoder};
use longreach_testkit::tolerance;

use super::{HMT, hierarchical_on, models_on, numbers};

/// Every model that the other laws are about, with recorded gradients.
fn models() -> impl Iterator<Item = (String, Model)> {
    let device = Device::flex().autodiff();
    let memory = hierarchical_on(r#""dense""#, HMT, &device).expect("a model");
    models_on(device).chain([("a memory".to_owned(), memory)])
}

fn text(seed: usize, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|t| ((t * t * 11 + seed * 17 + 5) % 40) as u32).collect()
}

/// The gradients of the parameters, in order; zeros where there is none.
struct Collect<'a>(&'a Gradients, Vec<Vec<f32>>);

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let x = param.val();
        let n = x.shape().num_elements();
        let gradient = x.grad(self.0).map_or_else(|| vec![0.0; n], |g| g.into_data().iter::<f32>().collect());
        self.1.push(gradient);
    }
}

/// The gradients of a loss of `hidden: [1, T, d]`, in which the text `seed` has weights of its own, and of auxiliary losses.
fn gradients(decoder: &Decoder, hidden: &[(Tensor<3>, usize)], cache: &mut Cache) -> Vec<Vec<f32>> {
    let weighed = hidden.iter().map(|(hidden, seed)| {
        let [b, t, d] = hidden.dims();
        let weights: Vec<f32> = (0..b * t * d).map(|i| ((i * 7919 + seed * 31) % 2003) as f32 / 1001.5 - 1.0).collect();
        let weights = Tensor::<1>::from_data(&weights[..], &hidden.device()).reshape([b, t, d]);
        (hidden.clone() * hidden.clone() * weights).sum()
    });
    let loss = weighed.chain(cache.loss.take()).reduce(|sum, loss| sum + loss).expect("a text");
    let gradients = loss.backward();
    let mut collect = Collect(&gradients, Vec::new());
    decoder.visit(&mut collect);
    collect.1
}

#[track_caller]
fn close(what: &str, a: &[f32], b: &[f32]) {
    let [a, b] = [a, b].map(|x| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
    tolerance::assert_close(what, &a, &b, tolerance::LOGITS);
}

/// Texts of different lengths, among them one of a single token, are read on: the second call continues each.
#[test]
fn packed_texts_are_each_alone() {
    const CALLS: [[usize; 4]; 2] = [[9, 1, 13, 6], [3, 12, 1, 2]];
    for (mixer, model) in models() {
        let decoder = &model.decoder;
        let mut cache = decoder.start(4);
        let mut alone: Vec<Cache> = (0..4).map(|_| decoder.start(1)).collect();
        let (mut packed, mut each): (Vec<_>, Vec<_>) = (Vec::new(), vec![Vec::new(); 4]);
        for (call, lengths) in CALLS.iter().enumerate() {
            let texts: Vec<Vec<u32>> = (0..4).map(|i| text(i + 4 * call, lengths[i])).collect();
            let mut bounds = vec![0];
            bounds.extend(lengths.iter().scan(0, |end, n| {
                *end += n;
                Some(*end)
            }));
            let out = decoder.forward_packed(&texts.concat(), &bounds, &mut cache);
            for (i, ids) in texts.iter().enumerate() {
                let own = out.clone().narrow(1, bounds[i], lengths[i]);
                let want = decoder.forward(ids, &mut alone[i], None);
                let what = format!("{mixer}: text {i} of call {call}");
                close(&what, &numbers(own.clone().inner()), &numbers(want.clone().inner()));
                packed.push((own, i + 4 * call));
                each[i].push((want, i + 4 * call));
            }
        }
        let read: Vec<usize> = (0..4).map(|i| CALLS[0][i] + CALLS[1][i]).collect();
        if alone[0].layers.iter().any(|layer| layer.states().next().is_some()) && alone[0].hmt.is_none() {
            assert_eq!(cache.positions(), read, "{mixer}");
        }
        let got = gradients(decoder, &packed, &mut cache);
        let mut want: Vec<Vec<f32>> = Vec::new();
        for (hidden, cache) in each.iter().zip(&mut alone) {
            let own = gradients(decoder, hidden, cache);
            if want.is_empty() {
                want = own;
            } else {
                want.iter_mut().zip(own).for_each(|(w, o)| w.iter_mut().zip(o).for_each(|(w, o)| *w += o));
            }
        }
        for (n, (got, want)) in got.iter().zip(&want).enumerate() {
            close(&format!("{mixer}: gradient {n}"), got, want);
        }
    }
}

/// Bit for bit, as the second run of a block repeats the first.
#[test]
fn recomputed_activations_have_the_same_gradients() {
    for (mixer, model) in models() {
        let [kept, not] = [false, true].map(|recompute| {
            let decoder = model.decoder.clone().recomputing(recompute);
            let mut cache = decoder.start(2);
            let ids = [text(1, 19), text(2, 19)].concat();
            let hidden = decoder.forward(&ids, &mut cache, None);
            let numbers = numbers(hidden.clone().inner());
            let positions = cache.positions();
            (numbers, positions, gradients(&decoder, &[(hidden, 3)], &mut cache))
        });
        assert_eq!((&kept.0, &kept.1), (&not.0, &not.1), "{mixer}");
        for (n, (kept, not)) in kept.2.iter().zip(&not.2).enumerate() {
            let differ = kept.iter().zip(not).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            let most = kept.iter().zip(not).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
            assert_eq!(differ, 0, "{mixer}: gradient {n} of {} numbers: {most}", kept.len());
        }
    }
}
