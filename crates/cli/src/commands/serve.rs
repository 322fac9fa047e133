//! `longreach serve`

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longreach_engine::scheduler::Limits;
use longreach_engine::{CacheConfig, TextEncoder};
use longreach_models::{DType, Location, Progress};
use longreach_server::{Loaded, Log, Model, Server, Settings};

use super::convert::size;
use crate::failure::Failure;
use crate::machine::device;
use crate::model::DTypeArg;

/// Serve models over OpenAI's API
///
/// Clients of OpenAI's API work with `http://127.0.0.1:8080/v1` as their base URL, and a page to talk to a model is at `http://127.0.0.1:8080/`. Decoders write
/// (chat and completions), encoders embed, and rerankers rank; what a model can do is seen from its files. Requests run together, and the tokens of each are
/// those that it has alone. Without a model, the built-in one is served.
///
/// The port is taken before the models are loaded; until they are, requests get status 503. SIGTERM or Ctrl-C ends the server once the requests under way are
/// answered, for which they have --drain seconds; a second one ends it at once.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach serve --model HuggingFaceTB/SmolLM2-135M-Instruct
  longreach serve --model model.gguf --model sentence-transformers/all-MiniLM-L6-v2 --alias gpt-4o=model --port 8000
  LONGREACH_SERVE_API_KEY=secret longreach serve --host 0.0.0.0
  curl http://127.0.0.1:8080/v1/completions -H 'content-type: application/json' -d '{\"prompt\": \"A trait is\", \"max_tokens\": 30}'")]
pub(crate) struct Args {
    /// Directory, weights file or Hugging Face Hub id; may be repeated [default: the built-in model]
    ///
    /// The first of each kind is what requests get that name no model.
    #[arg(long, short, value_name = "MODEL")]
    model: Vec<OsString>,
    /// Another name for a model, which is given by its id; may be repeated
    #[arg(long, value_name = "NAME=ID", value_parser = alias)]
    alias: Vec<(String, String)>,
    /// Dtype of the weight matrices in memory [default: that of the checkpoint]
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
    /// Address to listen at; one that other machines reach needs a key, or --no-auth
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen at; 0 takes a free one, which is printed
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Unix socket to listen at as well, for programs of the same user
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Key that clients must send as `Authorization: Bearer KEY`; may be repeated
    ///
    /// LONGREACH_SERVE_API_KEY has another one, and keeps it out of the list of processes. Each key has an equal share of the machine.
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// File with a key on each line; lines that begin with # are comments
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Let everybody in who reaches the address
    #[arg(long, conflicts_with_all = ["api_key", "api_key_file"])]
    no_auth: bool,
    /// Number of answers that are read or written at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_running: u32,
    /// Number of requests that may wait for a place; more get status 429
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_queue: u32,
    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Memory for states of what was read: a prompt that begins like an earlier one goes on from there, with the same tokens; 0 keeps none [default: an eighth
    /// of the memory]
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    cache_ram: Option<u64>,
    /// Keep states in a directory as well, where they outlive the server
    ///
    /// Whoever can read the files can turn them back into text.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Bytes of the directory of --cache-dir, such as 500MB or 20GiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "10GB", requires = "cache_dir")]
    cache_disk: u64,
    /// Memory for the states of answers that are read or written: requests wait until theirs fit, or nothing else runs [default: half of the memory]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    running_ram: Option<u64>,
    /// Memory for the states that clients keep by name (/v1/states) [default: an eighth of the memory]
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    states_ram: Option<u64>,
    /// Memory for the documents that clients upload (/v1/files) and for their vectors
    #[arg(long, value_name = "SIZE", value_parser = size_or_none, default_value = "256MiB")]
    documents_ram: u64,
    /// The longest prompt in tokens [default: what the model reads]
    #[arg(long, value_name = "N")]
    max_input: Option<usize>,
    /// The longest body of a request, such as 500KB or 1GiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "32MiB")]
    max_body: u64,
    /// The longest that a request may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    request_timeout: u32,
    /// How long requests under way may go on when the server ends, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u32,
    /// Origin whose web pages may use the server, such as http://localhost:3000; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Name besides localhost that clients on this machine may call the server by; may be repeated
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Ignore unknown fields of requests instead of refusing them; the header x-ignored-parameters names them
    #[arg(long)]
    lenient: bool,
    /// Serve no page
    #[arg(long)]
    no_page: bool,
    /// Write a line about each request to standard error: without prompts, answers or keys
    #[arg(long, value_enum)]
    log: Option<LogArg>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogArg {
    /// Words
    Text,
    /// JSON
    Json,
}

/// A number of bytes, or 0.
fn size_or_none(given: &str) -> Result<u64, String> {
    if given == "0" { Ok(0) } else { size(given) }
}

/// The memory of this machine in bytes; 4 GiB where `/proc` does not report it.
fn memory() -> u64 {
    let read = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    };
    read().unwrap_or(4 << 30)
}

fn alias(given: &str) -> Result<(String, String), String> {
    match given.split_once('=') {
        Some((name, id)) if !name.is_empty() && !id.is_empty() => Ok((name.into(), id.into())),
        _ => Err("want NAME=ID".into()),
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let settings = args.settings()?;
    // The port is bound before the models are loaded, so that a taken one fails at once.
    let socket = settings.socket.clone();
    let server = Server::bind(settings)?;
    server.load(args.models()?)?;
    let address = server.address();
    server.run(|| {
        eprintln!("listening on http://{address}");
        if let Some(socket) = socket {
            eprintln!("listening on unix:{}", socket.display());
        }
    });
    Ok(())
}

impl Args {
    fn settings(&self) -> Result<Settings, Failure> {
        let host = match self.host.as_str() {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            host => host.trim_matches(['[', ']']).parse().map_err(|_| {
                Failure::new(format!("--host {host}: want an address such as 127.0.0.1, 0.0.0.0 or ::1"))
            })?,
        };
        let keys = if self.no_auth { Vec::new() } else { self.keys()? };
        if keys.is_empty() && !self.no_auth && !host.is_loopback() {
            return Err(Failure::new(format!(
                "--host {host} can be reached from other machines: set --api-key, or --no-auth to let everybody in"
            )));
        }
        let seconds = |n: u32| Duration::from_secs(u64::from(n));
        Ok(Settings {
            host,
            port: self.port,
            socket: self.socket.clone(),
            keys,
            hosts: self.allow_host.clone(),
            origins: self.cors_origin.clone(),
            lenient: self.lenient,
            page: !self.no_page,
            most_body: self.max_body,
            most_tokens: self.max_tokens as usize,
            most_input: self.max_input,
            limits: Limits {
                running: self.max_running as usize,
                waiting: self.max_queue as usize,
                bytes: self.running_ram.unwrap_or_else(|| memory() / 2),
            },
            cache: CacheConfig {
                ram: usize::try_from(self.cache_ram.unwrap_or_else(|| memory() / 8)).unwrap_or(usize::MAX),
                directory: self.cache_dir.clone(),
                disk: self.cache_disk,
            },
            states: self.states_ram.unwrap_or_else(|| memory() / 8),
            documents: self.documents_ram,
            longest: seconds(self.request_timeout),
            drain: seconds(self.drain),
            log: match self.log {
                None => Log::None,
                Some(LogArg::Text) => Log::Text,
                Some(LogArg::Json) => Log::Json,
            },
            ..Settings::default()
        })
    }

    /// The keys of the options, of the file and of the environment.
    fn keys(&self) -> Result<Vec<String>, Failure> {
        let mut keys = self.api_key.clone();
        keys.extend(std::env::var("LONGREACH_SERVE_API_KEY"));
        if let Some(file) = &self.api_key_file {
            let failed = |e| Failure::new(format!("{}: {e}", file.display()));
            let text = std::fs::read_to_string(file).map_err(failed)?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let before = keys.len();
            keys.extend(lines.map(str::to_owned));
            if keys.len() == before {
                return Err(Failure::new(format!("{}: the file has no key", file.display())));
            }
        }
        match keys.iter().any(String::is_empty) {
            true => Err(Failure::new("--api-key: a key is empty")),
            false => Ok(keys),
        }
    }

    fn models(&self) -> Result<Vec<Model>, Failure> {
        let dtype = self.dtype.map(DType::from);
        let mut models = Vec::new();
        for name in &self.model {
            let loaded = if TextEncoder::is_at(&Location::find(name, Progress::Shown)?)? {
                let encoder = TextEncoder::load_on(name, dtype, &device(), Progress::Shown)?;
                encoder.notes().iter().for_each(|note| eprintln!("note: {note}"));
                Loaded::Encoder(Box::new(encoder))
            } else {
                Loaded::Decoder(crate::model::load(Some(name), self.dtype)?)
            };
            models.push(Model { names: vec![id(name)], loaded });
        }
        if models.is_empty() {
            let loaded = Loaded::Decoder(crate::model::load(None, self.dtype)?);
            models.push(Model { names: vec!["longreach-default".into()], loaded });
        }
        for (i, model) in models.iter().enumerate() {
            if models[..i].iter().any(|other| other.names[0] == model.names[0]) {
                return Err(Failure::new(format!("two models have the id {}: rename a directory", model.names[0])));
            }
        }
        for (name, id) in &self.alias {
            let Some(at) = models.iter().position(|model| model.names[0] == *id) else {
                let known = models.iter().map(|model| model.names[0].as_str()).collect::<Vec<_>>().join(", ");
                return Err(Failure::new(format!("--alias {name}={id}: there is no model {id}, served are {known}")));
            };
            models[at].names.push(name.clone());
        }
        Ok(models)
    }
}

/// The id of a model: the last part of its path without the ending of a weights file, or its id on the Hub. It never tells where files are.
fn id(name: &OsStr) -> String {
    let path = Path::new(name);
    if !path.exists() {
        return name.to_string_lossy().into_owned();
    }
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let last = if whole.is_file() && whole.extension().is_none_or(|end| end != "gguf") {
        whole.parent()
    } else {
        Some(&*whole)
    };
    let last = last.and_then(Path::file_name).map(|last| last.to_string_lossy().into_owned()).unwrap_or_default();
    last.strip_suffix(".gguf").map_or(last.clone(), str::to_owned)
}
