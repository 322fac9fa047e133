//! Block layouts against those of DeepSpeed, and random blocks against those of transformers' BigBird.

use std::path::Path;

use longreach_attention::softmax::bigbird::BigBird;
use longreach_attention::softmax::deepspeed::Config;
use longreach_attention::softmax::{Layout, Pattern, Sizes};
use serde_json::Value;

fn goldens(of: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/layouts.json");
    let text = std::fs::read_to_string(path).expect("goldens");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[of].as_array().expect("a list").clone()
}

fn number(x: &Value) -> usize {
    x.as_u64().expect("a number") as usize
}

fn square(heads: usize, tokens: usize) -> Sizes {
    Sizes { batch: 1, heads, queries: 0..tokens, keys: tokens }
}

#[test]
fn layouts_match_deepspeed() {
    for golden in goldens("deepspeed") {
        let config = Config::parse(&golden["config"].to_string()).expect("a configuration");
        let (n, heads) = (number(&golden["blocks"]), number(&golden["heads"]));
        let block = golden["config"]["block"].as_u64().unwrap_or(16) as usize;
        let layout = config.layout(&square(heads, n * block), number(&golden["seed"]) as u64).expect("a layout");
        let rows = golden["rows"].as_array().expect("heads");
        assert_eq!(layout.heads(), rows.len(), "{}", golden["config"]);
        for (h, rows) in rows.iter().enumerate() {
            for (r, row) in rows.as_array().expect("rows").iter().enumerate() {
                let want: u64 = row.as_str().expect("digits").parse().expect("a number");
                let found = (0..n).filter(|c| layout.visits(h, r, *c)).fold(0u64, |bits, c| bits | 1 << c);
                assert_eq!(
                    found, want,
                    "{}, {n} blocks, head {h}, row {r}: {found:b}, want {want:b}",
                    golden["config"]
                );
            }
        }
    }
}

#[test]
fn random_blocks_match_transformers() {
    for golden in goldens("bigbird") {
        let (tokens, block) = (number(&golden["tokens"]), number(&golden["block"]));
        let pattern = BigBird {
            block,
            random_blocks: number(&golden["random_blocks"]),
            seed: Some(number(&golden["seed"]) as u32),
            max_length: number(&golden["max_length"]),
        };
        let layout = pattern.layout(&square(2, tokens)).expect("a layout");
        let n = tokens / block;
        for (h, rows) in golden["drawn"].as_array().expect("heads").iter().enumerate() {
            for (i, drawn) in rows.as_array().expect("rows").iter().enumerate() {
                let row = i + 1;
                let mut want: Vec<usize> = drawn.as_array().expect("blocks").iter().map(number).collect();
                want.extend(match row {
                    1 => vec![0, 1, 2, n - 1],
                    _ if row == n - 2 => vec![0, n - 3, n - 2, n - 1],
                    _ => vec![0, row - 1, row, row + 1, n - 1],
                });
                want.sort_unstable();
                let found: Vec<usize> = layout
                    .row(h, row)
                    .iter()
                    .flat_map(|v| std::iter::repeat_n(v.keys as usize, v.count as usize))
                    .collect();
                assert_eq!(found, want, "{tokens} tokens, head {h}, row {row}");
            }
        }
    }
}

#[test]
fn bigbird_random_blocks_are_the_first_block_outside_training() {
    let of = square(2, 700);
    let layout = BigBird { block: 16, ..BigBird::default() }.layout(&of).expect("a layout");
    assert_eq!(layout.heads(), 1);
    assert_eq!(layout.count(&of, 0, 1, 300, 3), 4);
    assert_eq!(layout.count(&of, 0, 1, 300, 299), 1);
    assert_eq!(layout.count(&of, 0, 1, 3, 3), 1);
}

fn refused(json: &str) -> String {
    Config::parse(json).and_then(|config| config.layout(&square(4, 160), 0)).expect_err("refused").to_string()
}

#[test]
fn configurations_parse_with_deepspeed_defaults() {
    let whole = r#"{"train_batch_size": 8, "sparse_attention": {"mode": "variable", "block": 32, "num_random_blocks": 1,
        "local_window_blocks": [4], "global_block_indices": [0], "attention": "bidirectional", "horizontal_global_attention": false,
        "different_layout_per_head": true}}"#;
    let layout: Layout = Config::parse(whole).expect("valid").layout(&square(4, 320), 1).expect("a layout");
    assert_eq!((layout.block(), layout.blocks(), layout.heads()), (32, 10, 4));
    assert!(matches!(Config::parse("{}"), Ok(Config::Fixed { block: 16, num_local_blocks: 4, .. })));
}

#[test]
fn contradictory_configurations_are_refused() {
    let unknown = refused(r#"{"sparse_attention": {"mode": "fixed", "num_locl_blocks": 4}}"#);
    assert!(unknown.contains("num_locl_blocks") && unknown.contains("num_local_blocks"), "{unknown}");
    let mode = refused(r#"{"mode": "sparse"}"#);
    assert!(mode.contains("sparse") && mode.contains("bslongformer"), "{mode}");
    for (json, field) in [
        (r#"{"num_local_blocks": 4, "num_global_blocks": 3}"#, "num_global_blocks"),
        (r#"{"num_different_global_patterns": 2}"#, "num_different_global_patterns"),
        (r#"{"attention": "unidirectional", "horizontal_global_attention": true}"#, "horizontal_global_attention"),
        (r#"{"block": 0}"#, "block"),
        (r#"{"block": 48}"#, "tokens"),
        (
            r#"{"mode": "variable", "global_block_indices": [4], "global_block_end_indices": [4]}"#,
            "global_block_end_indices",
        ),
        (r#"{"mode": "variable", "local_window_blocks": []}"#, "local_window_blocks"),
        (r#"{"mode": "bigbird", "num_random_blocks": 11}"#, "num_random_blocks"),
        (r#"{"mode": "bigbird", "num_random_blocks": 2, "attention": "unidirectional"}"#, "num_random_blocks"),
        (r#"{"mode": "bslongformer", "num_sliding_window_blocks": 11}"#, "num_sliding_window_blocks"),
    ] {
        let message = refused(json);
        assert!(message.starts_with(&format!("deepspeed: `{field}`")), "{json}: {message}");
    }
    assert!(refused(r#"{"attention": "both"}"#).contains("bidirectional"));
    assert!(refused("[").contains("line 1"));
}

/// As printed in a tutorial, with its comment.
const TUTORIAL: &str = r#"{
  "sparse_attention": {
    "enabled": true,
    "block_size": 64,
    "sparsity_structure": "fixed", // "fixed", "bigbird", "bslongformer", ou "variable"
    "local_window_size": 256,
    "num_global_blocks": 1,
    "random_blocks": false
  }
}"#;

#[test]
fn tutorial_file_with_comments_parses() {
    let same = |tutorial: &str, deepspeed: &str| {
        let [found, want] =
            [tutorial, deepspeed].map(|json| Config::parse(json).unwrap_or_else(|e| panic!("{json}: {e}")));
        assert_eq!(found, want, "{tutorial}");
    };
    same(TUTORIAL, r#"{"mode": "fixed", "block": 64, "num_local_blocks": 4, "num_global_blocks": 1}"#);
    let of = |structure: &str| TUTORIAL.replace("\"fixed\",", &format!("\"{structure}\","));
    same(
        &of("bigbird"),
        r#"{"mode": "bigbird", "block": 64, "num_sliding_window_blocks": 5, "num_global_blocks": 1, "num_random_blocks": 0}"#,
    );
    same(
        &of("bslongformer"),
        r#"{"mode": "bslongformer", "block": 64, "num_sliding_window_blocks": 5, "global_block_indices": [0]}"#,
    );
    same(
        &of("variable"),
        r#"{"mode": "variable", "block": 64, "local_window_blocks": [4], "global_block_indices": [0], "num_random_blocks": 0}"#,
    );
    same(
        &of("bigbird").replace("false", "3"),
        r#"{"mode": "bigbird", "block": 64, "num_sliding_window_blocks": 5, "num_random_blocks": 3}"#,
    );
    same(&of("variable").replace("false", "true"), r#"{"mode": "variable", "block": 64, "num_random_blocks": 1}"#);
    same(
        &of("variable").replace("blocks\": 1", "blocks\": 3"),
        r#"{"mode": "variable", "block": 64, "global_block_indices": [0, 1, 2]}"#,
    );
    same(&TUTORIAL.replace("true", "false"), r#"{"mode": "dense", "block": 64}"#);
    // Comments of shells and of Python, before the file, within it and behind it; but not within strings.
    same(
        &format!("# ds_config.json\n{}\n# of \"mode\"", of("bigbird").replace("//", "#")),
        r#"{"mode": "bigbird", "block": 64, "num_sliding_window_blocks": 5, "num_random_blocks": 0}"#,
    );
    assert_eq!(longreach_attention::softmax::deepspeed::without_comments("[\"#1\"]# 2"), "[\"#1\"]   ");
    // Both spellings with the same value, and each alone.
    same(
        r#"{"mode": "bigbird", "sparsity_structure": "bigbird", "block": 32, "block_size": 32}"#,
        r#"{"mode": "bigbird", "block": 32}"#,
    );
    same(r#"{"local_window_size": 32}"#, r#"{"num_local_blocks": 2}"#);
    same("{/* of /**/ \"mode\": /* ,\" */ \"bigbird\" // }\n}", r#"{"mode": "bigbird"}"#);
}

#[test]
fn contradictory_spellings_are_refused() {
    for (json, message) in [
        (r#"{"block": 16, "block_size": 32}"#, "`block_size` is 32, want what `block` says, 16"),
        (
            r#"{"mode": "fixed", "sparsity_structure": "bigbird"}"#,
            "`sparsity_structure` is \"bigbird\", want what `mode` says, \"fixed\"",
        ),
        (
            r#"{"local_window_size": 32, "num_local_blocks": 4}"#,
            "`local_window_size` is 2, want what `num_local_blocks` says, 4",
        ),
        (
            r#"{"mode": "bigbird", "random_blocks": true, "num_random_blocks": 2}"#,
            "`random_blocks` is 1, want what `num_random_blocks` says, 2",
        ),
        (
            r#"{"mode": "variable", "num_global_blocks": 2, "global_block_indices": [0]}"#,
            "`num_global_blocks` is [0,1], want what `global_block_indices` says, [0]",
        ),
        (r#"{"local_window_size": 40}"#, "`local_window_size` is 40, want a multiple of the block of 16"),
        (
            r#"{"mode": "dense", "local_window_size": 16}"#,
            "`local_window_size` is 16, want no such field: `dense` has no window",
        ),
        (r#"{"random_blocks": true}"#, "`random_blocks` is 1, want 0: `fixed` has no random blocks"),
        (r#"{"enabled": "yes"}"#, "`enabled` is \"yes\", want true or false"),
        (r#"{"random_blocks": -1}"#, "`random_blocks` is -1, want true, false or a number"),
        (r#"{"sparse_attention": {"block_sise": 64}}"#, "unknown field `block_sise`"),
        ("[1]", "[1] is not an object of fields"),
    ] {
        let found = refused(json);
        assert!(found.starts_with("deepspeed: `") && found.contains(message), "{json}: {found}");
    }
    // An error gives the line and column in the file.
    assert!(
        refused("{ // a comment\n  \"block\": 16,,\n}").contains("line 2 column 15"),
        "{}",
        refused("{ // a comment\n  \"block\": 16,,\n}")
    );
    // Comment markers in a string are part of the string; an unterminated comment is an error.
    assert!(refused(r#"{"mode": "a // b \" /* c */"}"#).contains(r#"a // b " /* c */"#));
    assert!(refused("{} /* open").contains("line 1"));
}

#[test]
fn unidirectional_layouts_mask_tokens_or_blocks() {
    use longreach_attention::softmax::named;
    let of = square(4, 160);
    let seen = |hidden: &str, (i, j): (usize, usize)| {
        let json = serde_json::json!({"mode": "fixed", "attention": "unidirectional", "hidden": hidden});
        named("deepspeed", &json, &of).expect("a layout").count(&of, 0, 0, i, j)
    };
    for (pair, tokens, blocks) in
        [((20, 20), 1, 1), ((20, 21), 0, 1), ((20, 31), 0, 1), ((20, 32), 0, 0), ((31, 16), 1, 1)]
    {
        assert_eq!((seen("tokens", pair), seen("blocks", pair)), (tokens, blocks), "{pair:?}");
    }
}
