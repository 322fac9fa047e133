//! Models in bf16 and int8 give the logits of the same model in f32 but for rounding.

use longreach_models::DType;

use crate::{decoders, load, text};

/// Largest errors of logits in bf16 and int8, root mean square relative to those in f32. The goldens have random weights, which
/// amplify a rounding several times; these bounds are somewhat above what the worst of them shows (0.084 and 0.28). A matrix
/// with wrong scales or in a wrong order gives errors above 1.
const BOUNDS: [f64; 2] = [0.1, 0.3];
/// The same for mixtures of experts, where rounding changes which expert a token gets (0.33 and 0.44).
const OF_EXPERTS: [f64; 2] = [0.4, 0.5];

#[test]
fn models_in_fewer_bits_give_the_logits_of_the_model_in_f32() {
    for folder in decoders() {
        let logits = |dtype| {
            let model = load(&folder, Some(dtype));
            let n = model.decoder.longest().unwrap_or(24).min(24);
            let ids = text(&model, n);
            let hidden = model.decoder.forward(&ids, &mut model.decoder.start(1), None);
            model.decoder.logits(hidden).into_data().iter::<f64>().collect::<Vec<f64>>()
        };
        let config = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
        let bounds = if config.contains("experts") { OF_EXPERTS } else { BOUNDS };
        let want = logits(DType::F32);
        let size = want.iter().map(|x| x * x).sum::<f64>();
        for (dtype, bound) in [DType::Bf16, DType::Int8].into_iter().zip(bounds) {
            let error = logits(dtype).iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            let error = (error / size).sqrt();
            assert!(error <= bound, "{} in {}: {error:.3}", folder.display(), dtype.name());
        }
    }
}
