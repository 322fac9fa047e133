//! What the server was told at its start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use longreach_engine::CacheConfig;
use longreach_engine::scheduler::Limits;

use crate::refusal::Refusal;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen at.
    pub host: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// A Unix socket to listen at as well. A socket that is there is replaced; only the user of the server can connect.
    pub socket: Option<PathBuf>,
    /// Keys that clients must show; none lets everybody in.
    pub keys: Vec<String>,
    /// Names besides those of this machine by which a server on a loopback address may be called.
    pub hosts: Vec<String>,
    /// Origins whose pages may use the server, such as `http://localhost:3000`.
    pub origins: Vec<String>,
    /// Unknown fields of requests are ignored instead of refused.
    pub lenient: bool,
    /// Whether the page is served.
    pub page: bool,
    /// The longest body of a request in bytes.
    pub most_body: u64,
    /// The most tokens of an answer.
    pub most_tokens: usize,
    /// The longest prompt in tokens, if it is limited besides what the model reads.
    pub most_input: Option<usize>,
    /// How many answers run and wait.
    pub limits: Limits,
    /// Where the states of what was read are kept; each key finds its own alone.
    pub cache: CacheConfig,
    /// The most bytes of the states that are kept by name (`/v1/states`).
    pub states: u64,
    /// The most bytes of the documents that clients upload (`/v1/files`) and of their vectors.
    pub documents: u64,
    /// The longest that a request may take.
    pub longest: Duration,
    /// How long a connection may be idle.
    pub idle: Duration,
    /// How long a header may take, from its first byte.
    pub header: Duration,
    /// How long requests under way may go on after the server was asked to end.
    pub drain: Duration,
    /// What is written about each request.
    pub log: Log,
}

/// The log of requests, on standard error. Prompts and answers are never in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Nothing.
    None,
    /// A line of words.
    Text,
    /// A line of JSON.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 8080,
            socket: None,
            keys: Vec::new(),
            hosts: Vec::new(),
            origins: Vec::new(),
            lenient: false,
            page: true,
            most_body: 32 << 20,
            most_tokens: 4096,
            most_input: None,
            limits: Limits::default(),
            cache: CacheConfig::default(),
            states: 1 << 30,
            documents: 256 << 20,
            longest: Duration::from_secs(3600),
            idle: Duration::from_secs(75),
            header: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            log: Log::None,
        }
    }
}

impl Settings {
    /// Refuses a prompt that is longer than the operator allows.
    pub(crate) fn check_input(&self, tokens: usize, param: &str) -> Result<(), Refusal> {
        match self.most_input {
            Some(most) if tokens > most => {
                let message = format!("the prompt has {tokens} tokens: this server takes at most {most} (--max-input)");
                Err(Refusal::field("context_length_exceeded", param, message))
            }
            _ => Ok(()),
        }
    }
}
