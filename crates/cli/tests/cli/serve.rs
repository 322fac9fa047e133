//! `longreach serve` as a process: it says where it listens, answers, and ends when it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::longreach;

/// A server that listens, and its address.
pub(crate) fn started(args: &[&str]) -> (Child, String) {
    let mut command = longreach(&[&["serve", "--port", "0"], args].concat());
    let mut server = command.stderr(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(server.stderr.take().expect("standard error")).lines();
    let line = lines.find_map(|line| Some(line.ok()?.strip_prefix("listening on http://")?.to_owned()));
    // What it says later must not fill the pipe.
    std::thread::spawn(move || lines.count());
    (server, line.expect("an address"))
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn refused(args: &[&str], part: &str) {
    let output = longreach(&[&["serve"], args].concat()).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), said.contains(part), said.lines().count()),
        (Some(2), true, 1),
        "{args:?}: {said}"
    );
}

#[test]
fn a_server_answers_and_ends_when_asked() {
    let (mut server, address) = started(&["--api-key", "secret", "--alias", "gpt=longreach-default"]);
    let body = r#"{"model": "gpt", "prompt": "A trait is", "max_tokens": 3, "seed": 1}"#;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer secret\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = ask(&address, &format!("{head}{body}"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\":3"), "{answer}");
    let answer = ask(&address, "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let port = address.rsplit(':').next().expect("a port");
    refused(&["--port", port], &address);
    let id = server.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
    assert_eq!(server.wait().expect("ended").code(), Some(0));
}

#[test]
fn what_would_be_open_or_wrong_is_refused_before_a_model_is_loaded() {
    refused(&["--host", "0.0.0.0", "--port", "0"], "--api-key, or --no-auth");
    refused(&["--host", "nowhere", "--port", "0"], "want an address");
    refused(&["--api-key-file", "/nonexistent/keys", "--port", "0"], "/nonexistent/keys");
    refused(&["--alias", "gpt=none", "--port", "0"], "there is no model none");
}
