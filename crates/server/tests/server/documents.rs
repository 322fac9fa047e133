//! Files, vector stores, and answers from documents.

use std::net::SocketAddr;

use longreach_engine::CacheConfig;
use longreach_server::{Loaded, Model, Server, Settings};
use serde_json::{Value, json};

use crate::client::{Reply, ask, get, post};
use crate::{MAMBA, encoder, serve, tiny};

fn upload(address: SocketAddr, name: &str, text: &str) -> Reply {
    let body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n--b\r\nContent-Disposition: form-data; \
         name=\"file\"; filename=\"{name}\"\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--b--\r\n"
    );
    ask(address, "POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=b")], &body)
}

/// A text whose paragraphs are longer than half a passage, with an owl in the middle one.
fn text() -> String {
    let filler = |word: &str| format!("{} end.", format!("{word} is written about at length. ").repeat(25));
    format!(
        "{}\n\nThe owl of the forest eats mice at night. {}\n\n{}\n",
        filler("Bread"),
        filler("Night"),
        filler("Iron")
    )
}

fn delete(address: SocketAddr, path: &str) -> Reply {
    ask(address, "DELETE", path, &[], "")
}

#[test]
fn passages_are_found_where_they_are() {
    for with_encoder in [false, true] {
        let server = Server::bind(Settings { port: 0, ..Settings::default() }).expect("bound");
        let mut models = vec![Model { names: vec!["tiny".into()], loaded: Loaded::Decoder(tiny::engine(MAMBA)) }];
        if with_encoder {
            models.push(encoder("st-bert-mean"));
        }
        server.load(models).expect("loaded");
        let address = server.address();
        let file = upload(address, "birds.txt", &text()).json();
        assert_eq!((&file["object"], &file["filename"]), (&json!("file"), &json!("birds.txt")), "{file}");
        let id = file["id"].as_str().expect("an id");
        assert_eq!(get(address, &format!("/v1/files/{id}/content")).text(), text());
        let other = upload(address, "other.md", "Nothing of it here.").json();
        let store = post(address, "/v1/vector_stores", &json!({"name": "all", "file_ids": [id]})).json();
        let at = format!("/v1/vector_stores/{}", store["id"].as_str().unwrap_or_else(|| panic!("{store}")));
        assert_eq!((&store["status"], store["longreach"]["encoder"].is_null()), (&json!("completed"), !with_encoder));
        let added = post(address, &format!("{at}/files"), &json!({"file_id": other["id"]}));
        assert_eq!(added.json()["object"], "vector_store.file", "{}", added.text());
        assert_eq!(get(address, &at).json()["file_counts"]["total"], 2);
        let search = format!("{at}/search");
        let found = post(address, &search, &json!({"query": "What does the owl eat?", "max_num_results": 3})).json();
        let results = found["data"].as_array().unwrap_or_else(|| panic!("{found}"));
        assert!((1..=3).contains(&results.len()), "{found}");
        for result in results {
            // The place is that of the text in the file.
            let place = |name: &str| result["longreach"][name].as_u64().expect("a number") as usize;
            let whole = if result["file_id"] == file["id"] { text() } else { "Nothing of it here.".into() };
            assert_eq!(result["content"][0]["text"], whole[place("start")..place("end")], "{result}");
            let line = 1 + whole[..place("start")].matches('\n').count();
            assert_eq!(place("first_line"), line);
        }
        if !with_encoder {
            assert!(results[0]["content"][0]["text"].as_str().is_some_and(|text| text.contains("owl")), "{found}");
        }
        let scores: Vec<f64> = results.iter().map(|result| result["score"].as_f64().expect("a score")).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        // A file that is deleted leaves the store.
        assert_eq!(delete(address, &format!("/v1/files/{id}")).json()["deleted"], true);
        assert_eq!(get(address, &at).json()["file_counts"]["total"], 1);
        let gone = post(address, &search, &json!({"query": "owl"})).json();
        assert!(gone["data"].as_array().is_some_and(|data| data.iter().all(|found| found["file_id"] == other["id"])));
        assert_eq!(delete(address, &format!("{at}/files/{}", other["id"].as_str().expect("an id"))).status, 200);
        assert_eq!(get(address, &at).json()["longreach"]["passages"], 0);
        assert_eq!(delete(address, &at).json()["deleted"], true);
        assert_eq!(get(address, &at).status, 404);
        server.stop();
    }
}

#[test]
fn an_answer_from_documents_is_that_of_its_prompt_and_the_second_question_reads_no_document() {
    let cache = CacheConfig { ram: 64 << 20, ..CacheConfig::default() };
    let server = serve(MAMBA, Settings { cache, ..Settings::default() });
    let address = server.address();
    let id = upload(address, "birds.txt", &text()).json()["id"].clone();
    let asked = |question: &str, documents: Value| {
        let body = json!({"messages": [{"role": "user", "content": question}], "documents": documents, "max_tokens": 8,
            "temperature": 0});
        let reply = post(address, "/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let whole = json!({"file_ids": [id]});
    // The questions are long, so that more than a cut is behind the document.
    let (one, two) = ("Who eats mice? ".repeat(18), "What is of iron? ".repeat(16));
    let first = asked(&one, whole.clone());
    let second = asked(&two, whole.clone());
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    let prompt = second["usage"]["prompt_tokens"].as_u64().expect("a number");
    let behind = "Answer from the text above: \nassistant\n".len() + two.len() + 2;
    assert!(cached(&first) == 0 && cached(&second) + 64 + behind as u64 > prompt && prompt > 2000, "{second}");
    assert_eq!(second["documents"], json!([{"number": 1, "file_id": id, "filename": "birds.txt"}]));
    // The same text by hand.
    let content = format!("File: birds.txt\n\n{}\n\nAnswer from the text above: {two}", text().trim());
    let by_hand = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0});
    let by_hand = post(address, "/v1/chat/completions", &by_hand).json();
    assert_eq!(second["choices"], by_hand["choices"]);
    // From passages, which are told with their places.
    let read = json!({"file_ids": [id], "read": "passages", "max_num_results": 2});
    let passages = asked("Who is the owl of the forest?", read.clone());
    let told = passages["documents"].as_array().expect("documents");
    assert!(
        (1..=2).contains(&told.len()) && told[0]["text"].as_str().is_some_and(|text| text.contains("owl")),
        "{passages}"
    );
    assert!(told[0]["cited"].is_boolean() && passages["usage"]["prompt_tokens"].as_u64() < Some(prompt), "{passages}");
    let mut body = json!({"messages": [{"role": "user", "content": "Who is the owl of the forest?"}], "documents": read,
        "max_tokens": 8, "temperature": 0});
    body["stream"] = true.into();
    let events = post(address, "/v1/chat/completions", &body).events();
    assert_eq!(events.last().expect("an event")["documents"], passages["documents"]);
    server.stop();
}

#[test]
fn documents_are_apart_and_bounded() {
    let keys = vec!["one".to_owned(), "two".to_owned()];
    let server = serve(MAMBA, Settings { documents: 5000, keys, ..Settings::default() });
    let address = server.address();
    let form = |size: usize| {
        format!("--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n{}\r\n--b--\r\n", "x".repeat(size))
    };
    let kind = ("content-type", "multipart/form-data; boundary=b");
    let (one, two) = (("authorization", "Bearer one"), ("authorization", "Bearer two"));
    let file = ask(address, "POST", "/v1/files", &[kind, one], &form(3000)).json();
    let path = format!("/v1/files/{}", file["id"].as_str().expect("an id"));
    assert_eq!(ask(address, "GET", &path, &[one], "").status, 200);
    assert_eq!(ask(address, "GET", &path, &[two], "").status, 404);
    assert_eq!(ask(address, "DELETE", &path, &[two], "").status, 404);
    assert_eq!(ask(address, "GET", "/v1/files", &[two], "").json()["data"], json!([]));
    let body = json!({"file_ids": [file["id"]]}).to_string();
    let refused = ask(address, "POST", "/v1/vector_stores", &[two], &body).json();
    assert_eq!((&refused["error"]["code"], &refused["error"]["param"]), (&json!("not_found"), &json!("file_ids[0]")));
    let full = ask(address, "POST", "/v1/files", &[kind, two], &form(3000)).json();
    assert_eq!(full["error"]["code"], "documents_full", "{full}");
    assert_eq!(ask(address, "POST", "/v1/files", &[one], "{}").status, 415);
    assert_eq!(ask(address, "POST", "/v1/files", &[kind, one], "no form").status, 400);
    server.stop();
}
