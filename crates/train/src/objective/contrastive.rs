//! Vectors of texts that belong together are closer than those of other texts of the step: cross-entropy of `scale · cos` over the positives and negatives of
//! all anchors. Henderson et al. 2017, §4.4.
//!
//! If a step does not fit at once, its vectors are computed in pieces without a graph, then the gradient of the vectors, then each piece again with it, so that
//! the loss of a step is the same in any pieces. Gao et al. 2021.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use longreach_engine::Pooling;
use longreach_nn::{Over, gathered};

use super::{Learnt, Metrics, Objective, Packed, Roles, Row, cross_entropy, encoder, list, numbers, value};
use crate::data::{Example, Target};
use crate::metric;
use crate::model::{Network, Trained};
use crate::texts::{Text, Texts};

/// Multiple negatives ranking.
pub(crate) struct Contrastive {
    pub(crate) scale: f64,
    pub(crate) symmetric: bool,
}

/// The vectors of unit length of texts, `[texts, width]`.
fn vectors(model: &Trained, texts: &[&Text]) -> Tensor<2> {
    let Trained::Encoder(of, pooling) = model else {
        unreachable!("the objective was checked when the model was built")
    };
    let packed = Packed::of(encoder(model), texts.iter().copied());
    let hidden = of.encoder.forward(&packed.reading());
    let over = match pooling {
        Pooling::Cls => Over::First,
        Pooling::LastToken => Over::Last,
        _ => Over::Mean,
    };
    let pooled = gathered(over, hidden, &packed.bounds, None);
    let length = pooled.clone().powi_scalar(2).sum_dim(1).sqrt().clamp_min(1e-12);
    pooled / length
}

/// The texts of a step: all anchors, then all positives, then the negatives.
fn texts(examples: &[Example]) -> Vec<&Text> {
    let most = examples.iter().map(|example| example.texts.len()).max().unwrap_or(0);
    (0..most).flat_map(|i| examples.iter().filter_map(move |example| example.texts.get(i))).collect()
}

impl Contrastive {
    /// The loss of the vectors of a step of `n` anchors.
    fn of(&self, vectors: Tensor<2>, n: usize) -> Tensor<1> {
        let all = vectors.dims()[0];
        let anchors = vectors.clone().narrow(0, 0, n);
        let others = vectors.narrow(0, n, all - n);
        let scores = anchors.matmul(others.swap_dims(0, 1)).mul_scalar(self.scale);
        let own: Vec<i64> = (0..n as i64).collect();
        let forth = cross_entropy(scores.clone(), &own);
        if !self.symmetric {
            return forth;
        }
        let back = cross_entropy(scores.narrow(1, 0, n).swap_dims(0, 1), &own);
        (forth + back) / 2.0
    }
}

impl Objective for Contrastive {
    fn roles(&self) -> &'static Roles {
        &[(&["anchor", "positive"], &["negative"])]
    }

    fn examples(&self, row: &Row<'_>, texts: &Texts) -> Result<Vec<Example>, String> {
        let mut all = vec![texts.around(row.text("anchor")?, None)?, texts.around(row.text("positive")?, None)?];
        if let Some(negative) = row.get("negative") {
            let several = if negative.starts_with('[') { list(negative).ok() } else { None };
            for text in several.unwrap_or_else(|| vec![negative.to_owned()]) {
                all.push(texts.around(&text, None)?);
            }
        }
        Ok(vec![Example::new(all, Target::None)])
    }

    fn count(&self, examples: &[Example]) -> f64 {
        examples.len() as f64
    }

    fn loss(&self, model: &Trained, examples: &[Example]) -> Tensor<1> {
        self.of(vectors(model, &texts(examples)), examples.len())
    }

    fn learn(&self, model: &mut Trained, examples: &[Example], micro: usize) -> Learnt {
        let network = model.network();
        if examples.len() <= micro {
            let loss = self.loss(model, examples);
            let sum = value(&loss);
            return Learnt { loss: sum, gradients: GradientsParams::from_grads(loss.backward(), &network) };
        }
        let texts = texts(examples);
        let device = longreach_burn::cpu();
        let still: Vec<Tensor<2>> =
            model.still(|model| texts.chunks(micro).map(|piece| vectors(model, piece)).collect());
        let parts: Vec<usize> = still.iter().map(|part| part.dims()[0]).collect();
        let leaf = Tensor::from_inner(Tensor::cat(still, 0)).require_grad();
        let loss = self.of(leaf.clone(), examples.len());
        let sum = value(&loss);
        let of_vectors = leaf.grad(&loss.backward()).unwrap_or_else(|| Tensor::zeros(leaf.dims(), &device));
        let mut gradients = GradientsAccumulator::<Network>::new();
        let mut at = 0;
        for (piece, n) in texts.chunks(micro).zip(parts) {
            let weights = Tensor::from_inner(of_vectors.clone().narrow(0, at, n));
            let weighed = (vectors(model, piece) * weights).sum();
            gradients.accumulate(&network, GradientsParams::from_grads(weighed.backward(), &network));
            at += n;
        }
        debug_assert!(network.num_params() > 0);
        Learnt { loss: sum, gradients: gradients.grads() }
    }

    fn measure(&self, model: &Trained, examples: &[Example], micro: usize) -> Metrics {
        let texts = texts(examples);
        let (mut all, mut width) = (Vec::new(), 1);
        for piece in texts.chunks(micro.max(1)) {
            let of = vectors(model, piece);
            width = of.dims()[1].max(1);
            all.extend(numbers(of));
        }
        let n = examples.len();
        let rows: Vec<&[f32]> = all.chunks(width).collect();
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let rank = |i: usize| {
            let own = cosine(rows[i], rows[n + i]);
            // Copies of the positive count as found.
            (n..rows.len())
                .filter(|j| cosine(rows[i], rows[*j]) > own + 1e-9 && texts[*j].ids != texts[n + i].ids)
                .count()
        };
        let ranks: Vec<usize> = (0..n).map(rank).collect();
        let mut metrics: Metrics = metric::ranks(&ranks).into_iter().map(|(name, x)| (name.to_owned(), x)).collect();
        metrics.rotate_right(1);
        metrics
    }
}
