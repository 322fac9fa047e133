use longreach_testkit::goldens::Golden;
use longreach_testkit::tolerance;
use serde_json::json;

use crate::{golden, stdout, text};

#[test]
fn forward_is_transformers_whole_in_chunks_and_in_steps() {
    for name in ["mamba-b", "mamba2-b", "falcon_mamba-a"] {
        let folder = tempfile::tempdir().expect("a directory");
        let expected = Golden::read(golden(name).join("expected.safetensors"));
        for (ids, mask, logits) in
            [("input_ids", None, "logits"), ("padded_ids", Some("attention_mask"), "padded_logits")]
        {
            if (name, mask.is_some()) == ("mamba-b", true) {
                // In the reference, the outputs of a model with biases depend on the padding before a text.
                continue;
            }
            let rows = |name: &str| {
                let (shape, data) = expected.integers(name);
                data.chunks(shape[1]).map(<[i64]>::to_vec).collect::<Vec<_>>()
            };
            let tokens = folder.path().join("tokens.json");
            let mut content = json!({ "input_ids": rows(ids) });
            if let Some(mask) = mask {
                content["attention_mask"] = json!(rows(mask));
            }
            std::fs::write(&tokens, content.to_string()).expect("written");
            for path in [&[][..], &["--chunk", "7"], &["--step"]] {
                let out = folder.path().join("out.safetensors");
                let (model, tokens, to) = (golden(name), text(&tokens), text(&out));
                stdout(&[&["forward", "--model", text(&model), "--tokens", tokens, "--out", to], path].concat());
                let got = Golden::read(&out);
                let (want, got) = (expected.floats(logits), got.floats("logits"));
                assert_eq!(got.0, want.0);
                // Rows at padding, which no one reads, may differ.
                let there = mask.map(|mask| rows(mask).concat());
                let width = want.0[2];
                for (i, (g, w)) in got.1.iter().zip(&want.1).enumerate() {
                    if there.as_ref().is_some_and(|there| there[i / width] == 0) {
                        continue;
                    }
                    assert!((g - w).abs() <= tolerance::LOGITS, "{name} {ids} {path:?}: {g}, want {w}");
                }
            }
        }
    }
}
