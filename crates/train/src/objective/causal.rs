//! The next token: `−ln p(x_{t+1} | x_{≤t})`.

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use longreach_engine::Message;
use longreach_nn::{Cache, Decoder, Segments, Through};

use super::{Learnt, Metrics, Objective, Roles, Row, in_pieces, numbers, sum_of_nats};
use crate::config::{Flow, LossOn, Packing, SegmentsOf};
use crate::data::{Example, Target};
use crate::model::{Network, Trained};
use crate::texts::{Text, Texts};

/// The target of a token that does not count.
pub(crate) const NONE: i64 = -100;

/// Next-token prediction.
pub(crate) struct Causal {
    loss_on: LossOn,
    segments: Option<Segments>,
    packing: Packing,
}

impl Causal {
    pub(crate) fn new(loss_on: LossOn, segments: Option<SegmentsOf>, packing: Packing) -> Self {
        let segments = segments.map(|SegmentsOf { length, through }| {
            let through = if through == Flow::All { Through::All } else { Through::Segment };
            Segments { length, through }
        });
        Self { loss_on, segments, packing }
    }

    /// The hidden states of examples, their targets, and the state after them.
    fn read(&self, decoder: &Decoder, examples: &[Example]) -> (Tensor<3>, Vec<i64>, Cache) {
        let mut cache = decoder.start(examples.len());
        let length = |example: &Example| example.texts[0].ids.len();
        let one_length = examples.windows(2).all(|pair| length(&pair[0]) == length(&pair[1]));
        if one_length || self.packing == Packing::Padded {
            let (ids, targets) = rows(examples);
            let hidden = decoder.forward(&ids, &mut cache, None);
            return (hidden, targets, cache);
        }
        let (mut ids, mut targets, mut bounds) = (Vec::new(), Vec::new(), vec![0]);
        for example in examples {
            let Target::Tokens(of) = &example.target else { continue };
            ids.extend(&example.texts[0].ids);
            targets.extend(of);
            bounds.push(ids.len());
        }
        let hidden = decoder.forward_packed(&ids, &bounds, &mut cache);
        (hidden, targets, cache)
    }

    /// The loss and the gradients of `ids` and `targets`, contiguous rows of equal length for the sequences of `cache`, after what the cache holds.
    pub(crate) fn learn_after(&self, model: &Trained, ids: &[u32], targets: &[i64], mut cache: Cache) -> Learnt {
        let decoder = decoder(model);
        if let Some(segments) = self.segments {
            let learnt = segments.learn(decoder, ids, targets, cache);
            return Learnt { loss: learnt.loss, gradients: learnt.gradients };
        }
        let hidden = decoder.forward(ids, &mut cache, None);
        learnt(decoder, hidden, targets, cache)
    }
}

/// The loss of hidden states, without auxiliary losses, and the gradients of both.
fn learnt(decoder: &Decoder, hidden: Tensor<3>, targets: &[i64], mut cache: Cache) -> Learnt {
    let mut loss = decoder.loss(hidden, targets);
    let value = super::value(&loss);
    if let Some(more) = cache.loss.take() {
        loss = loss + more;
    }
    drop(cache);
    let network = Network::Decoder(decoder.clone());
    Learnt { loss: value, gradients: GradientsParams::from_grads(loss.backward(), &network) }
}

fn decoder(model: &Trained) -> &Decoder {
    model.decoder().expect("the objective was checked when the model was built")
}

/// Rows of equal length, without packing: shorter ones are continued by tokens that do not count, which causal models do not see before.
fn rows(examples: &[Example]) -> (Vec<u32>, Vec<i64>) {
    let longest = examples.iter().map(|example| example.texts[0].ids.len()).max().unwrap_or(0);
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for example in examples {
        let Target::Tokens(of) = &example.target else { continue };
        ids.extend(&example.texts[0].ids);
        targets.extend(of);
        let more = longest - of.len();
        ids.extend(std::iter::repeat_n(0, more));
        targets.extend(std::iter::repeat_n(NONE, more));
    }
    (ids, targets)
}

/// A text whose tokens all predict the next, of which only some count.
fn example(ids: Vec<u32>, counts: &[bool], length: usize) -> Vec<Example> {
    let n = ids.len().min(length + 1);
    if n < 2 {
        return Vec::new();
    }
    let targets: Vec<i64> = (1..n).map(|i| if counts[i] { i64::from(ids[i]) } else { NONE }).collect();
    if targets.iter().all(|target| *target < 0) {
        return Vec::new();
    }
    let text = Text { ids: ids[..n - 1].to_vec(), ..Text::default() };
    vec![Example::new(vec![text], Target::Tokens(targets))]
}

impl Objective for Causal {
    fn roles(&self) -> &'static Roles {
        &[(&["prompt", "completion"], &[]), (&["messages"], &[]), (&["text"], &[])]
    }

    fn examples(&self, row: &Row<'_>, texts: &Texts) -> Result<Vec<Example>, String> {
        let all = self.loss_on == LossOn::All;
        let mut ids = Vec::new();
        let mut counts = Vec::new();
        let mut add = |new: Vec<u32>, counted: bool| {
            counts.extend(std::iter::repeat_n(counted, new.len()));
            ids.extend(new);
        };
        if let Some(messages) = row.get("messages") {
            let parsed: Vec<serde_json::Value> =
                serde_json::from_str(messages).map_err(|e| format!("`messages`: not a list: {e}"))?;
            let field = |message: &serde_json::Value, name: &str| {
                let text = message.get(name).and_then(|value| value.as_str()).map(str::to_owned);
                text.ok_or_else(|| format!("`messages`: a message has no text `{name}`"))
            };
            let messages = parsed.iter().map(|m| Ok(Message::new(field(m, "role")?, field(m, "content")?)));
            let messages = messages.collect::<Result<Vec<_>, String>>()?;
            for (answer, text) in texts.conversation(&messages)? {
                add(texts.plain(&text)?, all || answer);
            }
            return Ok(example(ids, &counts, texts.length));
        }
        add(texts.prefix()?, false);
        match row.get("prompt") {
            Some(prompt) => {
                add(texts.plain(prompt)?, all);
                add(texts.plain(row.text("completion")?)?, true);
            }
            None => add(texts.plain(row.text("text")?)?, true),
        }
        add(texts.end().into_iter().collect(), true);
        Ok(example(ids, &counts, texts.length))
    }

    fn loss(&self, model: &Trained, examples: &[Example]) -> Tensor<1> {
        let decoder = decoder(model);
        let (hidden, targets, mut cache) = self.read(decoder, examples);
        let loss = decoder.loss(hidden, &targets);
        match cache.loss.take() {
            Some(more) => loss + more,
            None => loss,
        }
    }

    fn learn(&self, model: &mut Trained, examples: &[Example], micro: usize) -> Learnt {
        if self.segments.is_none() && examples.len() > micro {
            return in_pieces(self, model, examples, micro);
        }
        // All at once, of which the reported loss is that of the tokens without auxiliary losses.
        let decoder = decoder(model);
        if self.segments.is_some() {
            let (ids, targets) = rows(examples);
            return self.learn_after(model, &ids, &targets, decoder.start(examples.len()));
        }
        let (hidden, targets, cache) = self.read(decoder, examples);
        learnt(decoder, hidden, &targets, cache)
    }

    fn measure(&self, model: &Trained, examples: &[Example], micro: usize) -> Metrics {
        let decoder = decoder(model);
        let (mut nats, mut count) = (0.0, 0usize);
        for piece in examples.chunks(micro.max(1)) {
            let (hidden, targets, _) = self.read(decoder, piece);
            let [b, t, d] = hidden.dims();
            let (rows, targets) = super::chosen(hidden.reshape([b * t, d]), &targets);
            for (from, part) in targets.chunks(256).enumerate().map(|(i, part)| (i * 256, part)) {
                let logits = numbers(decoder.logits(rows.clone().narrow(0, from, part.len())));
                nats += sum_of_nats(&logits, decoder.vocabulary(), part);
            }
            count += targets.len();
        }
        let loss = nats / count.max(1) as f64;
        vec![("loss".into(), loss), ("perplexity".into(), loss.exp())]
    }
}

/// The total loss of a page in nats, computed in chunks from its start.
pub(crate) fn nats(decoder: &Decoder, end: u32, page: &[u32]) -> f64 {
    let mut ids = vec![end];
    ids.extend(page);
    let mut cache = decoder.start(1);
    let mut sum = 0.0;
    for at in (0..page.len()).step_by(512) {
        let to = (at + 512).min(page.len());
        let targets: Vec<i64> = ids[at + 1..to + 1].iter().map(|id| i64::from(*id)).collect();
        let hidden = decoder.forward(&ids[at..to], &mut cache, None);
        let logits: Tensor<3> = decoder.logits(hidden);
        sum += sum_of_nats(&numbers(logits), decoder.vocabulary(), &targets);
    }
    sum
}
