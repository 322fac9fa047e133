//! Embeddings and reranking.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use longreach_engine::{Prompt, TextEncoder};
use longreach_models::Progress;
use longreach_server::{Server, Settings};
use serde_json::{Value, json};

use crate::client::post;
use crate::encoder;

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

#[test]
fn embeddings_are_those_of_the_library_in_both_encodings() {
    let server = Server::bind(Settings { port: 0, ..Settings::default() }).expect("bound");
    server.load(vec![encoder("st-bert-mean"), encoder("colbert")]).expect("loaded");
    let at = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/goldens/st-bert-mean");
    let library = TextEncoder::load(&at, None, Progress::Hidden).expect("an encoder");
    let texts = ["A short text.", "Another, which is somewhat longer than the first one.", ""];
    let want = library.embed(&texts, Prompt::Default).expect("vectors");
    let reply = post(server.address(), "/v1/embeddings", &json!({"input": texts}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    let coded = post(server.address(), "/v1/embeddings", &json!({"input": texts, "encoding_format": "base64"})).json();
    for (i, want) in want.iter().enumerate() {
        let got = floats(&answer["data"][i]["embedding"]);
        assert!(got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{i}");
        let bytes = BASE64_STANDARD.decode(coded["data"][i]["embedding"].as_str().expect("a text")).expect("base64");
        let bytes: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
        assert_eq!(bytes, got);
    }
    let short = post(server.address(), "/v1/embeddings", &json!({"input": "A short text.", "dimensions": 4})).json();
    let short = floats(&short["data"][0]["embedding"]);
    let length: f32 = short.iter().map(|x| x * x).sum();
    let unit = library.pipeline.normalizes();
    assert!(short.len() == 4 && (!unit || (length - 1.0).abs() < 1e-5), "{short:?}");
    let long = "word ".repeat(500);
    let refused = post(server.address(), "/v1/embeddings", &json!({"input": ["x", long]}));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("input[1]")), "{}", refused.text());
    for way in ["truncate", "mean"] {
        let reply = post(server.address(), "/v1/embeddings", &json!({"input": ["x", long], "long": way}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["data"].as_array().map(Vec::len), Some(2));
    }
    for (body, param) in [
        (json!({"input": []}), "input"),
        (json!({"input": "x", "dimensions": 100_000}), "dimensions"),
        (json!({"input": "x", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": "x", "model": "colbert"}), "model"),
    ] {
        let reply = post(server.address(), "/v1/embeddings", &body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{}", reply.text());
    }
    // Texts that come together are packed, and have the vectors that they have alone.
    let at = server.address();
    let together: Vec<_> = (0..6)
        .map(|i| {
            std::thread::spawn(move || {
                floats(
                    &post(at, "/v1/embeddings", &json!({"input": format!("Text {i}")})).json()["data"][0]["embedding"],
                )
            })
        })
        .collect();
    for (i, got) in together.into_iter().enumerate() {
        let want = &library.embed(&[&format!("Text {i}")], Prompt::Default).expect("a vector")[0];
        assert!(got.join().expect("a vector").iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{i}");
    }
    server.stop();
}

#[test]
fn documents_are_ranked_best_first() {
    let server = Server::bind(Settings { port: 0, ..Settings::default() }).expect("bound");
    server.load(vec![encoder("labels"), encoder("colbert")]).expect("loaded");
    let documents = ["one text", "another text about trees", "one text", "x"];
    for model in ["labels", "colbert"] {
        let body = json!({"model": model, "query": "a question about trees", "documents": documents, "return_documents": true});
        for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
            let reply = post(server.address(), path, &body);
            assert_eq!(reply.status, 200, "{}", reply.text());
            let answer = reply.json();
            let results = answer["results"].as_array().expect("a list");
            let scores: Vec<f64> = results.iter().map(|r| r["relevance_score"].as_f64().expect("a number")).collect();
            assert!(scores.len() == 4 && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
            let place = |i: usize| results.iter().position(|r| r["index"] == i).expect("there");
            // Equal documents have equal scores and stay in order.
            assert_eq!(place(2), place(0) + 1);
            assert_eq!(
                results[0]["document"]["text"],
                documents[results[0]["index"].as_u64().expect("a number") as usize]
            );
            assert!(answer["usage"]["total_tokens"].as_u64() > Some(4));
        }
        // A document that is cut is as good as its beginning.
        let cut = json!({"model": model, "query": "trees", "max_tokens_per_doc": 2, "return_documents": true,
            "documents": ["one text about trees and texts", "one text"]});
        let cut = post(server.address(), "/rerank", &cut).json();
        let score = |at: usize| cut["results"][at]["relevance_score"].clone();
        assert_eq!(
            (score(0), &cut["results"][0]["document"]["text"]),
            (score(1), &json!("one text about trees and texts"))
        );
        let mut two = body.clone();
        two["top_n"] = 2.into();
        assert_eq!(post(server.address(), "/rerank", &two).json()["results"].as_array().map(Vec::len), Some(2));
    }
    server.stop();
}
