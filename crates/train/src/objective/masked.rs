//! Masked tokens: a part of the tokens is predicted from the others. Devlin et al. 2019, §3.1.

use burn::tensor::Tensor;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::causal::NONE;
use super::{Metrics, Objective, Packed, Roles, Row, chosen, cross_entropy, encoder, largest, numbers, sum_of_nats};
use crate::data::{Example, Target};
use crate::model::Trained;
use crate::texts::Texts;

/// Masked-language modelling.
pub(crate) struct Masked {
    /// The part of the tokens that is predicted.
    pub(crate) part: f64,
}

impl Masked {
    /// The scores of the predicted tokens, `[targets, vocabulary]`, and the targets. The head reads only their rows.
    fn scores(model: &Trained, examples: &[Example]) -> (Tensor<2>, Vec<i64>) {
        let model = encoder(model);
        let packed = Packed::of(model, examples.iter().map(|example| &example.texts[0]));
        let hidden = model.encoder.forward(&packed.reading());
        let [b, t, d] = hidden.dims();
        let targets: Vec<i64> = examples.iter().flat_map(|example| targets(example).iter().copied()).collect();
        let (rows, targets) = chosen(hidden.reshape([b * t, d]), &targets);
        let head = model.head.as_ref().expect("the objective's head was built");
        (head.forward(rows, model.encoder.embeddings()), targets)
    }
}

fn targets(example: &Example) -> &[i64] {
    match &example.target {
        Target::Tokens(targets) => targets,
        _ => &[],
    }
}

impl Objective for Masked {
    fn roles(&self) -> &'static Roles {
        &[(&["text"], &[])]
    }

    fn examples(&self, row: &Row<'_>, texts: &Texts) -> Result<Vec<Example>, String> {
        let mask = texts.mask.ok_or("the tokenizer has no mask token")?;
        let text = texts.around(row.text("text")?, None)?;
        if text.special.iter().all(|special| *special) {
            return Ok(Vec::new());
        }
        // The mask token's id and the size of the vocabulary stand where a drawn example has its targets.
        let size = texts.tokenizer().hugging_face().map_or(0, |t| t.get_vocab_size(true));
        Ok(vec![Example::new(vec![text], Target::Tokens(vec![i64::from(mask), size as i64]))])
    }

    fn drawn(&self, example: &Example, draw: &mut ChaCha8Rng) -> Example {
        let mut text = example.texts[0].clone();
        let &[mask, size] = targets(example) else { return example.clone() };
        let mut targets = vec![NONE; text.ids.len()];
        let places: Vec<usize> = (0..text.ids.len()).filter(|i| !text.special[*i]).collect();
        // At least one token of every text is predicted.
        let always = places[draw.random_range(0..places.len())];
        for i in places {
            if !draw.random_bool(self.part) && i != always {
                continue;
            }
            targets[i] = i64::from(text.ids[i]);
            match draw.random::<f64>() {
                x if x < 0.8 => text.ids[i] = mask as u32,
                x if x < 0.9 => text.ids[i] = draw.random_range(0..size as u32),
                _ => {}
            }
        }
        Example::new(vec![text], Target::Tokens(targets))
    }

    fn loss(&self, model: &Trained, examples: &[Example]) -> Tensor<1> {
        let (scores, targets) = Self::scores(model, examples);
        cross_entropy(scores, &targets)
    }

    fn measure(&self, model: &Trained, examples: &[Example], micro: usize) -> Metrics {
        let (mut nats, mut right, mut count) = (0.0, 0usize, 0usize);
        // The same masks at every evaluation.
        let mut draw = ChaCha8Rng::seed_from_u64(0);
        let drawn: Vec<Example> = examples.iter().map(|example| self.drawn(example, &mut draw)).collect();
        for piece in drawn.chunks(micro.max(1)) {
            let (scores, targets) = Self::scores(model, piece);
            let width = scores.dims()[1];
            let scores = numbers(scores);
            nats += sum_of_nats(&scores, width, &targets);
            right += scores.chunks(width).zip(&targets).filter(|(row, t)| largest(row) as i64 == **t).count();
            count += targets.len();
        }
        let (loss, n) = (nats / count.max(1) as f64, count.max(1) as f64);
        vec![("loss".into(), loss), ("perplexity".into(), loss.exp()), ("accuracy".into(), right as f64 / n)]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use longreach_engine::Pooling;
    use longreach_models::{EncoderModel, Location};

    use super::*;
    use crate::texts::Text;

    #[test]
    fn the_loss_is_that_of_transformers() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        let text = std::fs::read_to_string(goldens.join("more.json")).expect("goldens");
        let want: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let want = &want["masked"];
        let at = Location { directory: goldens.join("bert-masked"), weights: None };
        let model = Trained::Encoder(EncoderModel::load(&at, None).expect("a golden"), Pooling::Mean);
        let list = |value: &serde_json::Value| -> Vec<i64> {
            value.as_array().expect("a list").iter().filter_map(serde_json::Value::as_i64).collect()
        };
        let texts = want["ids"].as_array().expect("texts").iter().zip(want["targets"].as_array().expect("targets"));
        let example = |(ids, targets): (&serde_json::Value, &serde_json::Value)| {
            let ids = list(ids).into_iter().map(|id| id as u32).collect();
            Example::new(vec![Text { ids, ..Text::default() }], Target::Tokens(list(targets)))
        };
        let examples: Vec<Example> = texts.map(example).collect();
        let found = f64::from(numbers(Masked { part: 0.3 }.loss(&model, &examples))[0]);
        let want = want["loss"].as_f64().expect("a loss");
        assert!((found - want).abs() < 1e-5 * want, "{found}, transformers has {want}");
    }
}
