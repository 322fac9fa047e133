//! Backpropagation through time in segments: the gradient through all segments equals that of reading the text at
//! once, whatever their length; the truncated one stops at the state.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use longreach_models::Model;
use longreach_nn::{Segments, Through};

const TOKENS: usize = 23;

/// Fields of a configuration: a mixer, and other changed fields.
const MODELS: &[&str] = &[
    r#""mixer": "dense""#,
    r#""mixer": {"type": "window", "window": 6}"#,
    r#""mixer": {"type": "transformer_xl", "memory": 9}"#,
    r#""mixer": {"type": "infini", "segment": 4}"#,
    r#""mixer": {"type": "infini", "segment": 4, "delta": false}"#,
    r#""mixer": {"type": "compressive", "segment": 4, "memory": 4, "compressed": 3, "rate": 2, "compression": "mean"}"#,
    r#""mixer": ["mamba2", "gated_delta"]"#,
    r#""mixer": ["rwkv7", "mamba"]"#,
    r#""mixer": "dense", "hmt": {"segment": 5, "sensory": 2, "summary": 3, "queue": 3, "width": 8}"#,
];

fn model(fields: &str) -> Model {
    let config = format!(
        r#"{{"model_type": "longreach", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "head_dim": 12, {fields}}}"#
    );
    Model::random("config.json", &config, 7, &Device::flex().autodiff()).expect("a model")
}

/// Two texts, and targets some of which are ignored.
fn text() -> (Vec<u32>, Vec<i64>) {
    let ids = (0..2 * TOKENS as u32).map(|t| (t * t * 11 + 5) % 40).collect();
    let targets = (0..2 * TOKENS as i64).map(|t| if t % 5 == 0 { -100 } else { (t * 7 + 3) % 40 }).collect();
    (ids, targets)
}

/// The name and the values of a parameter.
type Parameter = (String, Vec<f32>);

/// The gradient of every parameter; zeros if it has none.
fn flat(model: &Model, gradients: GradientsParams) -> Vec<Parameter> {
    struct All<'a> {
        model: &'a Model,
        gradients: GradientsParams,
        found: Vec<Parameter>,
    }
    impl ModuleVisitor for All<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id);
            let n = param.val().shape().num_elements();
            let numbers = gradient.map_or_else(|| vec![0.0; n], |g| g.into_data().iter::<f32>().collect());
            let name = self.model.names.get(param.id).expect("a name").0;
            self.found.push((name.to_owned(), numbers));
        }
    }
    let mut all = All { model, gradients, found: Vec::new() };
    model.decoder.visit(&mut all);
    all.found
}

fn learn(model: &Model, length: usize, through: Through) -> (f32, Vec<Parameter>) {
    let (ids, targets) = text();
    let learnt = Segments { length, through }.learn(&model.decoder, &ids, &targets, model.decoder.start(2));
    (learnt.loss, flat(model, learnt.gradients))
}

/// The largest difference of two gradients, divided by the largest magnitude in the first, over all parameters.
fn apart(a: &[Parameter], b: &[Parameter]) -> (f32, String) {
    let most = |x: &[f32]| x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let of = |((name, a), (_, b)): (&Parameter, &Parameter)| {
        let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        (most(&difference) / most(a).max(1e-6), name.clone())
    };
    a.iter().zip(b).map(of).max_by(|a, b| a.0.total_cmp(&b.0)).expect("parameters")
}

#[test]
fn through_all_segments_the_gradient_is_that_of_the_whole() {
    for fields in MODELS {
        let model = model(fields);
        let (ids, targets) = text();
        let hidden = model.decoder.forward(&ids, &mut model.decoder.start(2), None);
        let loss = model.decoder.loss(hidden, &targets);
        let value = loss.clone().inner().into_data().iter::<f32>().sum::<f32>();
        let whole = flat(&model, GradientsParams::from_grads(loss.backward(), &model.decoder));
        for length in [3, 5, 8, 100] {
            let (loss, gradient) = learn(&model, length, Through::All);
            assert!((loss - value).abs() < 1e-5, "{fields}, segments of {length}: {loss}, want {value}");
            let (apart, name) = apart(&whole, &gradient);
            assert!(apart < 2e-4, "{fields}, segments of {length}, `{name}`: {apart:.1e} of the largest");
        }
    }
}

#[test]
fn a_gradient_that_stops_at_the_state_is_that_of_each_segment_by_itself() {
    for fields in MODELS {
        let model = model(fields);
        let whole = learn(&model, TOKENS, Through::All);
        let (loss, stopped) = learn(&model, 8, Through::Segment);
        assert!((loss - whole.0).abs() < 1e-5, "{fields}: the loss is the same, {loss} and {}", whole.0);
        let (apart_, _) = apart(&whole.1, &stopped);
        assert!(apart_ > 1e-3, "{fields}: something flows through the state, and here it does not: {apart_:.1e}");
        // The reference: each segment starts from a detached state.
        let (ids, targets) = text();
        let (mut cache, mut sum) = (model.decoder.start(2), Vec::<Parameter>::new());
        let counted = targets.iter().filter(|t| **t >= 0).count() as f32;
        for from in (0..TOKENS).step_by(8) {
            let to = TOKENS.min(from + 8);
            let ids: Vec<u32> = ids.chunks(TOKENS).flat_map(|row| &row[from..to]).copied().collect();
            let own: Vec<i64> = targets.chunks(TOKENS).flat_map(|row| &row[from..to]).copied().collect();
            let given = Segments { length: 100, through: Through::All }.learn(&model.decoder, &ids, &own, cache);
            let share = own.iter().filter(|t| **t >= 0).count() as f32 / counted;
            cache = given.cache;
            for (i, (name, part)) in flat(&model, given.gradients).into_iter().enumerate() {
                match sum.get_mut(i) {
                    Some((_, sum)) => sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x * share),
                    None => sum.push((name, part.into_iter().map(|x| x * share).collect())),
                }
            }
        }
        let (apart, name) = apart(&sum, &stopped);
        assert!(apart < 2e-4, "{fields}, `{name}`: {apart:.1e} of the largest");
    }
}
