//! What a machine does to a server: it is killed while it works, and its disk is full. No answer is lost or changed by it that was not under way.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::serve::started;

/// Sends a request and returns its answer without waiting for the end of it.
fn open(address: &str, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

fn ask(address: &str, method: &str, path: &str, body: &str) -> String {
    let mut answer = String::new();
    open(address, method, path, body).read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer
}

/// The answer to a long prompt: what it says, and how much of the prompt was kept.
fn answer(address: &str, prompt: &str) -> (serde_json::Value, u64) {
    let body = serde_json::json!({"prompt": prompt, "max_tokens": 8, "seed": 5, "logprobs": 1}).to_string();
    let answer = ask(address, "POST", "/v1/completions", &body);
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let mut body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let cached = body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    (body["choices"].take(), cached)
}

fn metric(address: &str, name: &str) -> u64 {
    let metrics = ask(address, "GET", "/metrics", "");
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Waits until the states that were read are in their files.
fn written(address: &str) {
    let start = Instant::now();
    while metric(address, "longreach_cache_pending_bytes") > 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "states are not written");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(mut server: Child) {
    assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill").success());
    assert!(server.wait().expect("an end").success());
}

fn prompt(i: usize) -> String {
    format!("Chapter {i}. ") + &"A value has one owner, and a reference borrows it. ".repeat(12)
}

/// Every state that a killed server left is right or is not used: with them, each answer is that of a server that keeps nothing.
#[test]
fn a_killed_server_leaves_nothing_wrong_behind() {
    let (fresh, address) = started(&["--cache-ram", "0"]);
    let cold: Vec<_> = (0..4).map(|i| answer(&address, &prompt(i)).0).collect();
    end(fresh);
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().to_str().expect("a path");
    for round in 0..3 {
        let (mut server, address) = started(&["--cache-dir", directory]);
        if round > 0 {
            // What was read before it was killed is found.
            let (again, cached) = answer(&address, &prompt(0));
            assert_eq!((&again, cached > 0), (&cold[0], true), "round {round}");
        }
        answer(&address, &prompt(0));
        written(&address);
        // It is killed while it reads, writes, and keeps states.
        let running: Vec<_> = (1..4)
            .map(|i| {
                let body = serde_json::json!({"prompt": prompt(i), "max_tokens": 4000, "stream": true}).to_string();
                open(&address, "POST", "/v1/completions", &body)
            })
            .collect();
        let mut first = BufReader::new(&running[round]);
        first.read_exact(&mut [0; 20]).expect("a beginning");
        std::thread::sleep(Duration::from_millis(7 * round as u64));
        server.kill().expect("killed");
        server.wait().expect("an end");
    }
    let (server, address) = started(&["--cache-dir", directory]);
    for (i, cold) in cold.iter().enumerate() {
        assert_eq!(&answer(&address, &prompt(i)).0, cold, "prompt {i}");
    }
    written(&address);
    end(server);
    let mut folders = vec![folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.contains("tmp"), "{name} is left");
            folders.extend(entry.path().is_dir().then(|| entry.path()));
        }
    }
}

/// A file system of a few bytes that is unmounted at the end.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1300k", "none"]).arg(at);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Whether it was unmounted does not concern the test.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// With a full disk, answers are those of a server without one.
#[test]
#[allow(clippy::print_stderr, reason = "says whether the test ran")]
fn a_full_disk_changes_no_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_small) = Small::mount(folder.path()) else {
        eprintln!("NOT RUN: a small file system can be mounted by root alone");
        return;
    };
    let (fresh, address) = started(&["--cache-ram", "0"]);
    let cold: Vec<_> = (0..4).map(|i| answer(&address, &prompt(i)).0).collect();
    end(fresh);
    let (server, address) = started(&["--cache-dir", folder.path().to_str().expect("a path")]);
    for (i, cold) in cold.iter().enumerate() {
        assert_eq!(&answer(&address, &prompt(i)).0, cold, "prompt {i}");
        written(&address);
    }
    assert!(metric(&address, "longreach_cache_write_failures") > 0, "the disk was not full");
    // What is in memory is found all the same.
    let (again, cached) = answer(&address, &prompt(3));
    assert_eq!((&again, cached > 0), (&cold[3], true));
    end(server);
}
