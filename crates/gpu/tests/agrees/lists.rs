//! Lists have exactly the pairs of the pattern, and their transpose the same entries. No device is needed.

use longreach_attention::softmax::{self, Pattern, STATIC, Sizes};
use longreach_gpu::softmax::{ENTRY, FULL, Lists, Within};
use longreach_gpu::tile::{Limits, Plan};
use ndarray::Array2;
use serde_json::{Value, json};

/// How often each pair of a plane is listed.
fn listed(lists: &Lists, plan: &Plan, of: &Sizes, b: usize, h: usize) -> Array2<f32> {
    let mut counts = Array2::zeros((of.queries.len(), of.keys));
    let plane = (b % lists.planes.0) * lists.planes.1 + h % lists.planes.1;
    for tile in 0..lists.tiles {
        let (first, rows) = (lists.words[2 * tile] as usize, lists.words[2 * tile + 1] as usize);
        let at = lists.start + plane * (lists.tiles + 1) + tile;
        for entry in lists.words[at]..lists.words[at + 1] {
            let at = lists.entry + entry as usize * ENTRY;
            let [cell, bits, weight, of_tile] = [0, 1, 2, 3].map(|n| lists.words[at + n]);
            assert_eq!(of_tile as usize, tile);
            for r in 0..rows {
                for c in 0..plan.keys.min(of.keys - cell as usize * plan.keys) {
                    let word = lists.bits + bits.wrapping_add((r * plan.keys / 32 + c / 32) as u32) as usize;
                    if bits == FULL || lists.words[word] >> (c % 32) & 1 == 1 {
                        counts[[first + r, cell as usize * plan.keys + c]] += f32::from_bits(weight).exp();
                    }
                }
            }
        }
    }
    counts
}

fn lists_are(pattern: &dyn Pattern, of: &Sizes, within: Within<'_>, plan: &Plan) {
    let lists = Lists::of(pattern, of, within, plan).expect("sizes that fit");
    for b in 0..of.batch {
        for h in 0..of.heads {
            let found = listed(&lists, plan, of, b, h);
            for (t, i) in of.queries.clone().enumerate() {
                for j in 0..of.keys {
                    let kept = within.keep.is_none_or(|keep| keep[[b, j]]);
                    let count = if kept { pattern.count(of, b, h, i, j) } else { 0 };
                    assert_eq!(found[[t, j]], count as f32, "{} {of:?} {b} {h} {i} {j}", pattern.name());
                }
            }
        }
    }
    // Each entry is in its cell's column once, in the order of its tile.
    for plane in 0..lists.planes.0 * lists.planes.1 {
        let mut all = Vec::new();
        for cell in 0..lists.cells {
            let at = lists.column + plane * (lists.cells + 1) + cell;
            let items = &lists.words[lists.item + lists.words[at] as usize..lists.item + lists.words[at + 1] as usize];
            assert!(
                items.is_sorted()
                    && items.iter().all(|e| lists.words[lists.entry + *e as usize * ENTRY] == cell as u32)
            );
            all.extend_from_slice(items);
        }
        all.sort_unstable();
        let at = lists.start + plane * (lists.tiles + 1);
        let entries: Vec<u32> = (lists.words[at]..lists.words[at + lists.tiles]).collect();
        assert_eq!(all, entries);
    }
}

#[test]
fn lists_are_the_pattern() {
    let plan = Plan::softmax("softmax", &Limits::LEAST, 16, 16).expect("a width within the bound");
    let wide = Plan { keys: 96, rows: 48, ..plan };
    for (name, example) in STATIC.iter().filter(|(name, _)| *name != "masked") {
        let parameters: Value = serde_json::from_str(example).expect("JSON");
        let tokens = if ["bigbird", "deepspeed", "sparse_transformer"].contains(name) { 512 } else { 333 };
        let of = Sizes { batch: 2, heads: 2, queries: 0..tokens, keys: tokens };
        let pattern = softmax::named(name, &parameters, &of).expect("an example");
        let keep = Array2::from_shape_fn((2, tokens), |(b, j)| b == 0 || j % 5 != 0 && j < 200);
        for plan in [&plan, &wide] {
            lists_are(&*pattern, &of, Within::default(), plan);
            lists_are(&*pattern, &of, Within { keep: Some(keep.view()), packed: None }, plan);
        }
    }
    for (queries, keys) in [(0..1, 1), (60..70, 70), (0..0, 10), (0..5, 0), (31..32, 200), (0..40, 30)] {
        let of = Sizes { batch: 1, heads: 1, queries, keys };
        for parameters in [json!({"causal": true}), json!({"causal": false})] {
            let dense = softmax::named("dense", &parameters, &of);
            let Ok(dense) = dense else { continue };
            lists_are(&*dense, &of, Within::default(), &plan);
        }
    }
}

#[test]
fn packed_sequences_are_apart() {
    let plan = Plan::softmax("softmax", &Limits::LEAST, 16, 16).expect("a width within the bound");
    let bounds = [0, 40, 41, 41, 170, 200];
    let of = Sizes { batch: 1, heads: 2, queries: 0..200, keys: 200 };
    for (name, parameters) in
        [("dense", json!({"causal": true})), ("longnet", json!({"segments": [16, 64], "dilations": [1, 2]}))]
    {
        let pattern = softmax::named(name, &parameters, &of).expect("valid");
        let lists =
            Lists::of(&*pattern, &of, Within { keep: None, packed: Some(&bounds) }, &plan).expect("bounds that fit");
        for h in 0..2 {
            let found = listed(&lists, &plan, &of, 0, h);
            for range in bounds.windows(2).map(|w| w[0]..w[1]) {
                let own = Sizes { queries: 0..range.len(), keys: range.len(), ..of.clone() };
                let alone = softmax::named(name, &parameters, &own).expect("valid");
                for i in range.clone() {
                    for j in 0..200 {
                        let inside = range.contains(&j);
                        let count = if inside { alone.count(&own, 0, h, i - range.start, j - range.start) } else { 0 };
                        assert_eq!(found[[i, j]], count as f32, "{name} {range:?} {h} {i} {j}");
                    }
                }
            }
        }
    }
    let pattern = softmax::named("dense", &json!({}), &of).expect("valid");
    let error = Lists::of(&*pattern, &of, Within { keep: None, packed: Some(&[0, 30]) }, &plan)
        .expect_err("bounds that end early");
    assert!(error.to_string().contains("packed boundaries must rise from 0 to 200"), "{error}");
}
