//! Connections: idle ones, slow ones, and what is no HTTP.

use std::io::Read;
use std::time::{Duration, Instant};

use longreach_server::Settings;
use serde_json::json;

use crate::client::{Connection, get, post};
use crate::{MAMBA, serve};

#[test]
#[cfg(unix)]
fn a_unix_socket_is_for_its_user_and_is_gone_with_the_server() {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("socket");
    let settings = || Settings { socket: Some(path.clone()), ..Settings::default() };
    let server = serve(MAMBA, settings());
    assert_eq!(std::fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    // A second server does not take it.
    assert!(longreach_server::Server::bind(Settings { port: 0, ..settings() }).is_err());
    let mut stream = UnixStream::connect(&path).expect("connected");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("an answer");
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("\"status\":\"ok\""), "{reply}");
    server.stop();
    assert!(!path.exists());
    // One that was left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    serve(MAMBA, settings()).stop();
}

#[test]
fn a_thousand_idle_connections_are_in_nobodys_way() {
    let server = serve(MAMBA, Settings::default());
    let mut idle: Vec<Connection> = (0..1_000).map(|_| Connection::open(server.address())).collect();
    // Half of them have begun a header.
    idle.iter_mut().step_by(2).for_each(|client| client.send(b"GET /health HT"));
    let answer = post(server.address(), "/v1/completions", &json!({"prompt": "x", "max_tokens": 3}));
    assert_eq!(answer.status, 200);
    let metrics = get(server.address(), "/metrics");
    let open = metrics.text().lines().find(|line| line.starts_with("longreach_connections")).expect("a gauge");
    assert!(open.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()) >= Some(1_000), "{open}");
    let first = &mut idle[0];
    first.send(b"TP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(first.reply().expect("an answer").status, 200);
    server.stop();
}

/// A connection may be idle between two requests for longer than a header may take from its first byte.
#[test]
fn idle_connections_live_longer_than_headers() {
    let (idle, header) = (Duration::from_secs(20), Duration::from_millis(300));
    let server = serve(MAMBA, Settings { idle, header, ..Settings::default() });
    let mut client = Connection::open(server.address());
    for _ in 0..3 {
        std::thread::sleep(2 * header);
        client.ask("GET", "/health", &[], "");
        assert_eq!(client.reply().expect("an answer").status, 200);
    }
    // A stream that takes longer than a header may is not cut, and its connection serves another request.
    let body = json!({"prompt": "x", "max_tokens": 4000, "stream": true, "ignore_eos": true});
    client.ask("POST", "/v1/completions", &[], &body.to_string());
    std::thread::sleep(2 * header);
    client.reply().expect("a stream").events();
    client.send(b"GET /health HT");
    let start = Instant::now();
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).ok();
    assert!(start.elapsed() < Duration::from_secs(10), "a header that does not end holds its connection");
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    server.stop();
    let server = serve(MAMBA, Settings { idle: header, header, ..Settings::default() });
    let mut client = Connection::open(server.address());
    assert_eq!(client.stream.read_to_end(&mut rest).ok(), Some(0), "an idle connection is closed");
    server.stop();
}

#[test]
fn all_bodies_together_are_bounded() {
    let server = serve(MAMBA, Settings { most_body: 100_000, ..Settings::default() });
    let head =
        "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99000\r\n\r\n";
    let part = format!("{head}{}", " ".repeat(98_000));
    // Nine bodies of 98,000 bytes, which is more than eight of the longest: one of them is refused.
    let mut slow: Vec<Connection> = (0..9).map(|_| Connection::open(server.address())).collect();
    for client in &mut slow {
        client.send(part.as_bytes());
        client.stream.get_ref().set_read_timeout(Some(Duration::from_millis(20))).expect("a time");
    }
    let start = Instant::now();
    let refused = loop {
        if let Some(reply) = slow.iter_mut().find_map(Connection::reply) {
            break reply;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "all were taken");
    };
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("queue_full")));
    assert_eq!(post(server.address(), "/tokenize", &json!({"content": "x"})).status, 200);
    drop(slow);
    let body = format!("{{\"content\": \"x\"{}}}", " ".repeat(90_000));
    while crate::client::ask(server.address(), "POST", "/tokenize", &[], &body).status != 200 {
        assert!(start.elapsed() < Duration::from_secs(120), "their bytes still count");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.stop();
}

#[test]
fn what_is_no_http_is_closed_and_headers_are_bounded() {
    let server = serve(MAMBA, Settings::default());
    let long = format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let many = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    for bytes in ["\u{0}\u{1}\u{2}\r\n\r\n", "GET /health HTTP/9.9\r\n\r\n", &long, &many] {
        let mut client = Connection::open(server.address());
        use std::io::Write;
        // The server may close before all of it is sent.
        client.stream.get_mut().write_all(bytes.as_bytes()).ok();
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest).ok();
        let rest = String::from_utf8_lossy(&rest);
        let refused = rest.is_empty() || rest.starts_with("HTTP/1.1 4") || rest.starts_with("HTTP/1.0 4");
        assert!(refused, "{:.40}: {rest}", bytes.escape_debug());
    }
    assert_eq!(get(server.address(), "/health").status, 200);
    server.stop();
}

#[test]
fn the_page_is_whole_and_loads_nothing_from_elsewhere() {
    let server = serve(MAMBA, Settings::default());
    let mut size = 0;
    let mut scripts = Vec::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/page");
    for file in std::fs::read_dir(folder).expect("the page") {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        let path = if name == "index.html" { "/".to_owned() } else { format!("/{name}") };
        let kind = match name.rsplit('.').next() {
            Some("html") => "text/html",
            Some("js") => "text/javascript",
            Some("css") => "text/css",
            _ => "image/svg+xml",
        };
        scripts.extend(name.ends_with(".js").then(|| path.clone()));
        let reply = get(server.address(), &path);
        assert!(reply.header("content-type").is_some_and(|found| found.starts_with(kind)), "{path}");
        assert!(reply.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'self'")));
        let text = reply.text();
        assert!(text.len() > 200, "{path}");
        for outside in ["src=\"http", "href=\"http", "from \"http", "//cdn", "@import", "url(", "innerHTML", "eval("] {
            assert!(!text.contains(outside), "{path} has {outside}");
        }
        size += text.len();
    }
    // What is kept for a stopped server is all of the page but what keeps it.
    let worker = get(server.address(), "/worker.js");
    for path in
        scripts.iter().map(String::as_str).filter(|path| *path != "/worker.js").chain(["/page.css", "/icon.svg"])
    {
        assert!(worker.text().contains(&format!("\"{path}\"")), "the worker does not keep {path}");
    }
    let page = get(server.address(), "/");
    assert!(!page.text().contains("<script>") && !page.text().contains("onclick") && !page.text().contains("style="));
    assert!(size < 200_000, "{size}");
    server.stop();
    let server = serve(MAMBA, Settings { page: false, ..Settings::default() });
    assert_eq!(get(server.address(), "/").status, 404);
    server.stop();
}
