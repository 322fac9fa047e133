//! Keys and values in blocks of Q8_0, on every decoder that caches them: near those in f32, and the laws of a cache to the bit.

use burn::tensor::DType as Stored;
use longreach_models::Model;
use longreach_nn::{Cache, KvDtype, StateError, StateTensor};

use crate::{Bits, bits, decoders, load, state, text};

/// The largest error of logits with keys in Q8_0, root mean square relative to those with keys in f32. The goldens have random weights,
/// which amplify a rounding many times: the worst of them shows 0.060, and 0.042 with keys in bf16. A cache with wrong factors or in a
/// wrong order gives errors near 1.
const BOUND: f64 = 0.1;
/// The same for mixtures of experts, where rounding changes which expert a token gets (0.25).
const OF_EXPERTS: f64 = 0.4;

/// The logits of some tokens.
fn next(model: &Model, cache: &mut Cache, ids: &[u32]) -> Bits {
    bits(model.decoder.logits(model.decoder.forward(ids, cache, None)))
}

fn start(model: &Model) -> Cache {
    model.decoder.start(1).with_keys_in(KvDtype::Q8_0)
}

/// Whether the cache has blocks.
fn has_blocks(cache: &Cache) -> bool {
    cache.tensors().iter().any(|tensor| tensor.dtype == Stored::F16)
}

#[test]
fn logits_are_near_those_with_keys_in_f32() {
    let mut all = Vec::new();
    for folder in decoders() {
        let model = load(&folder, None);
        let n = model.decoder.longest().unwrap_or(24).min(24);
        let ids = text(&model, n);
        let read = |keys: KvDtype| {
            let mut cache = model.decoder.start(1).with_keys_in(keys);
            let logits = [next(&model, &mut cache, &ids[..n / 2]), next(&model, &mut cache, &ids[n / 2..])].concat();
            (logits.into_iter().map(|x| f64::from(f32::from_bits(x))).collect::<Vec<_>>(), has_blocks(&cache))
        };
        let ((want, _), (got, blocks)) = (read(KvDtype::F32), read(KvDtype::Q8_0));
        if !blocks {
            assert!(got == want, "{}: nothing is cached in blocks", folder.display());
            continue;
        }
        let size = want.iter().filter(|x| x.is_finite()).map(|x| x * x).sum::<f64>();
        let error = |got: &[f64]| {
            let apart = want.iter().zip(got).filter(|(a, _)| a.is_finite()).map(|(a, b)| (a - b).powi(2));
            (apart.sum::<f64>() / size).sqrt()
        };
        let (error, of_bf16) = (error(&got), error(&read(KvDtype::Bf16).0));
        let config = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
        let bound = if config.contains("experts") { OF_EXPERTS } else { BOUND };
        assert!(error > 0.0 && error <= bound, "{}: {error:.4}, and {of_bf16:.4} in bf16", folder.display());
        all.push(error);
    }
    assert!(all.len() > 60, "{} models", all.len());
    all.sort_by(f64::total_cmp);
    assert!(all[all.len() / 2] < 0.015, "the median: {:.4}", all[all.len() / 2]);
}

/// A saved state restores to the bit, a fork changes nothing of the other, a state goes back to a mark, and sequences that are read
/// together are those that are read alone.
#[test]
fn caches_in_blocks_have_the_laws_of_others() {
    let mut count = 0;
    for folder in decoders().iter().step_by(3) {
        let (model, name) = (load(folder, None), folder.display());
        if model.decoder.longest().is_some_and(|longest| longest < 90) {
            continue;
        }
        let ids = text(&model, 70);
        let mut cache = start(&model);
        next(&model, &mut cache, &ids);
        if !has_blocks(&cache) {
            continue;
        }
        let want = next(&model, &mut cache.clone(), &[1, 2, 3]);
        let tensors = cache.tensors();
        let find = |name: &str, _: &[Option<usize>]| {
            let found = tensors.iter().find(|tensor| tensor.name == name);
            found.map(StateTensor::whole).ok_or_else(|| StateError(format!("no {name}")))
        };
        let mut again = start(&model).restored(70, find).expect("what was saved");
        assert!(state(&again) == state(&cache), "{name}: the restored state");
        assert!(next(&model, &mut again, &[1, 2, 3]) == want, "{name}: restored");

        let mut fork = cache.clone();
        next(&model, &mut fork, &[7, 7, 7, 9]);
        assert!(next(&model, &mut cache.clone(), &[1, 2, 3]) == want, "{name}: after a fork was read");

        let (mut back, mark) = (cache.clone(), cache.mark());
        next(&model, &mut back, &[4, 5]);
        let kept = back.rewind(mark, 1);
        if kept == 0 {
            next(&model, &mut back, &[4]);
        }
        let mut plain = cache.clone();
        next(&model, &mut plain, &[4]);
        if model.decoder.reads_few_as_one() {
            assert!(state(&back) == state(&plain), "{name}: the state taken back");
            assert!(next(&model, &mut back, &[1]) == next(&model, &mut plain.clone(), &[1]), "{name}: taken back");
        }

        let mut other = start(&model);
        next(&model, &mut other, &ids[..7]);
        let mut both = Cache::join([cache.clone(), other.clone()]);
        let alone = [next(&model, &mut cache.clone(), &[4]), next(&model, &mut other, &[5])].concat();
        assert!(next(&model, &mut both, &[4, 5]) == alone, "{name}: together");
        let mut first = both.select(&[0]);
        assert!(next(&model, &mut first, &[6]) == next(&model, &mut plain, &[6]), "{name}: selected");
        count += 1;
    }
    assert!(count > 20, "{count} models");
}

/// A saved tensor of another type is refused.
#[test]
fn saved_keys_of_another_type_are_refused() {
    let folder = crate::goldens().join("llama-b");
    let model = load(&folder, None);
    let ids = text(&model, 9);
    for (saved, wanted) in
        [(KvDtype::F32, KvDtype::Q8_0), (KvDtype::Q8_0, KvDtype::F32), (KvDtype::Q8_0, KvDtype::Bf16)]
    {
        let mut cache = model.decoder.start(1).with_keys_in(saved);
        next(&model, &mut cache, &ids);
        let tensors = cache.tensors();
        let find = |name: &str, _: &[Option<usize>]| {
            Ok(tensors.iter().find(|tensor| tensor.name == name).expect("a tensor").whole())
        };
        let error = model.decoder.start(1).with_keys_in(wanted).restored(9, find).expect_err("another type");
        assert!(error.0.contains(&format!("want keys in {}", wanted.name())), "{error}");
    }
}
