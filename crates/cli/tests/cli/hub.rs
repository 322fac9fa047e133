//! Models from the Hub, against a small server that speaks its protocol on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{golden, longreach};

/// Serves a golden checkpoint as `owner/name`; breaks the first download of the weights off in the middle.
struct Hub {
    address: String,
    requests: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl Hub {
    fn start(model: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (requests, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, flag) = (Arc::clone(&requests), Arc::clone(&broken));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, flag) = (Arc::clone(&count), Arc::clone(&flag));
                std::thread::spawn(move || serve(stream, model, &count, &flag));
            }
        });
        Self { address, requests, broken }
    }
}

fn serve(stream: TcpStream, model: &str, requests: &AtomicUsize, broken: &AtomicBool) {
    let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
    let mut out = stream;
    loop {
        let Some(Ok(request)) = lines.next() else { return };
        let mut range = None;
        for line in lines.by_ref().map_while(Result::ok).take_while(|l| !l.is_empty()) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                range = value.split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned()));
            }
        }
        requests.fetch_add(1, Ordering::Relaxed);
        let path = request.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/gated/") {
            let _ = out.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
            continue;
        }
        let file = path.strip_prefix("/owner/name/resolve/main/").map(|f| golden(model).join(f));
        let Some(bytes) = file.and_then(|f| std::fs::read(f).ok()) else {
            let _ = out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            continue;
        };
        let (from, to) = match &range {
            Some((a, b)) => (a.parse().unwrap_or(0), b.parse().map_or(bytes.len(), |b: usize| b + 1)),
            None => (0, bytes.len()),
        };
        let body = &bytes[from.min(bytes.len())..to.min(bytes.len())];
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\
             ETag: \"{:x}\"\r\nX-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\n\r\n",
            body.len(),
            to - 1,
            bytes.len(),
            bytes.len() * 7919 + path.len(),
        );
        let _ = out.write_all(head.as_bytes());
        if path.ends_with(".safetensors") && body.len() > 1000 && !broken.swap(true, Ordering::Relaxed) {
            let _ = out.write_all(&body[..body.len() / 2]);
            return;
        }
        let _ = out.write_all(body);
    }
}

fn info(home: &std::path::Path, endpoint: &str, offline: &str, id: &str) -> (Option<i32>, String, String) {
    let output = longreach(&["info", id])
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HUB_OFFLINE", offline)
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_model_is_fetched_once_and_a_broken_download_taken_up() {
    for model in ["mamba-a", "mamba-a-sharded"] {
        let hub = Hub::start(model);
        let home = tempfile::tempdir().expect("a directory");
        let (code, said, error) = info(home.path(), &hub.address, "0", "owner/name");
        assert_eq!(code, Some(0), "{model}: {error}");
        assert!(said.contains("model_type     mamba"), "{said}");
        assert!(hub.broken.load(Ordering::Relaxed), "the download was broken off once");
        // From the cache, without the network.
        let asked = hub.requests.load(Ordering::Relaxed);
        let (code, again, error) = info(home.path(), "http://127.0.0.1:9", "1", "owner/name");
        assert_eq!(code, Some(0), "{model}: {error}");
        assert_eq!(said, again);
        assert_eq!(asked, hub.requests.load(Ordering::Relaxed));
    }
}

#[test]
fn a_model_in_the_cache_needs_no_network() {
    let hub = Hub::start("mamba-a");
    let home = tempfile::tempdir().expect("a directory");
    let (code, want, error) = info(home.path(), &hub.address, "0", "owner/name");
    assert_eq!(code, Some(0), "{error}");
    let cache = home.path().join("hub");
    let dead = "http://127.0.0.1:9";
    let other = tempfile::tempdir().expect("a directory");
    let run = |variables: &[(&str, &std::ffi::OsStr)]| {
        let mut command = longreach(&["info", "owner/name"]);
        for name in [
            "HF_HOME",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_ENDPOINT",
        ] {
            command.env_remove(name);
        }
        let output =
            command.envs(variables.iter().copied()).env("HOME", other.path()).output().expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{variables:?}: {error}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), want, "{variables:?}");
    };
    let (home, cache, dead) = (home.path().as_os_str(), cache.as_os_str(), std::ffi::OsStr::new(dead));
    let on = std::ffi::OsStr::new("ON");
    run(&[("HF_HOME", home), ("HF_ENDPOINT", dead)]);
    run(&[("HF_HUB_CACHE", cache), ("HF_HUB_OFFLINE", on), ("HF_ENDPOINT", dead)]);
    run(&[("HUGGINGFACE_HUB_CACHE", cache), ("HF_HOME", other.path().as_os_str()), ("HF_ENDPOINT", dead)]);
    run(&[("HF_HOME", home), ("TRANSFORMERS_OFFLINE", on), ("HF_ENDPOINT", dead)]);
}

#[test]
fn refusals_say_why() {
    let hub = Hub::start("mamba-a");
    let home = tempfile::tempdir().expect("a directory");
    for (id, endpoint, part) in [
        ("owner/other", hub.address.as_str(), "has no such model or file"),
        ("gated/name", &hub.address, "gated"),
        ("owner/name", "http://127.0.0.1:9", "cannot be reached"),
        // A model may have no owner, and a folder that is not there is no model of the Hub either.
        ("name", &hub.address, "no such directory"),
        ("models/none", &hub.address, "no such directory"),
    ] {
        let (code, _, error) = info(home.path(), endpoint, "0", id);
        assert_eq!(code, Some(2), "{error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.contains(id) && last.contains(part), "{error}");
    }
}

#[test]
fn what_sentence_transformers_have_beside_the_encoder_is_fetched_too() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("t.txt");
    std::fs::write(&file, "The quick river.\nYellow trees near the school.\n").expect("written");
    for model in ["st-roberta-cls", "vocab-only/bert", "colbert"] {
        let path: &'static str = Box::leak(format!("../../../engine/tests/goldens/{model}").into_boxed_str());
        let (hub, home) = (Hub::start(path), tempfile::tempdir().expect("a directory"));
        let vectors = |name: &str, to: &str| {
            let out = home.path().join(to);
            let args = ["embed", "-m", name, "-i", file.to_str().expect("a path"), "-o", out.to_str().expect("a path")];
            let output = longreach(&args)
                .env("HF_HOME", home.path())
                .env("HF_ENDPOINT", &hub.address)
                .env("HF_HUB_OFFLINE", "0")
                .output()
                .expect("the program starts");
            assert!(output.status.success(), "{model}: {}", String::from_utf8_lossy(&output.stderr));
            std::fs::read_to_string(out).expect("vectors")
        };
        assert_eq!(vectors("owner/name", "a.jsonl"), vectors(golden(path).to_str().expect("a path"), "b.jsonl"));
    }
}
