//! `GET /metrics`: numbers for Prometheus.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use longreach_engine::CacheStats;
use longreach_engine::scheduler::Numbers;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfModel {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Finished {
    model: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    endpoint: String,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: String,
    isa: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTier {
    tier: &'static str,
}

type OfTiers = Family<OfTier, Gauge>;

type Times = Family<OfModel, Histogram, fn() -> Histogram>;

/// 1, 2.5 and 5 times powers of ten, from a millisecond to a thousand seconds.
fn histogram() -> Histogram {
    let powers = (-3..3).map(|power| 10f64.powi(power));
    Histogram::new(powers.flat_map(|power| [power, 2.5 * power, 5.0 * power]).chain([1000.0]))
}

/// The numbers of a server.
pub(crate) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter>,
    running: Gauge,
    waiting: Gauge,
    connections: Gauge,
    steps: Gauge<u64, AtomicU64>,
    memory: Gauge<u64, AtomicU64>,
    files: Gauge,
    kept_bytes: OfTiers,
    kept_states: OfTiers,
    evictions: OfTiers,
    reused: OfTiers,
    pending: Gauge,
    rejected: Gauge,
    failures: Gauge,
    finished: Family<Finished, Counter>,
    prompt: Family<OfModel, Counter>,
    cached: Family<OfModel, Counter>,
    written: Family<OfModel, Counter>,
    queue: Times,
    first: Times,
    between: Times,
    whole: Times,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let times = || Times::new_with_constructor(histogram);
        let mut metrics = Self {
            registry: Registry::default(),
            answered: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            connections: Gauge::default(),
            steps: Gauge::default(),
            memory: Gauge::default(),
            files: Gauge::default(),
            kept_bytes: OfTiers::default(),
            kept_states: OfTiers::default(),
            evictions: OfTiers::default(),
            reused: OfTiers::default(),
            pending: Gauge::default(),
            rejected: Gauge::default(),
            failures: Gauge::default(),
            finished: Family::default(),
            prompt: Family::default(),
            cached: Family::default(),
            written: Family::default(),
            queue: times(),
            first: times(),
            between: times(),
            whole: times(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("longreach_http_requests", "Answered HTTP requests", self.answered.clone());
        r.register("longreach_requests_running", "Sequences that are read or written", self.running.clone());
        r.register("longreach_requests_waiting", "Requests that wait for a place", self.waiting.clone());
        r.register("longreach_connections", "Open connections", self.connections.clone());
        r.register("longreach_steps", "Steps of writing", self.steps.clone());
        r.register("longreach_requests_finished", "Answers by how they ended", self.finished.clone());
        r.register("longreach_prompt_tokens", "Tokens of prompts", self.prompt.clone());
        r.register(
            "longreach_cached_prompt_tokens",
            "Tokens of prompts that a kept state had read",
            self.cached.clone(),
        );
        r.register("longreach_generation_tokens", "Tokens that were written", self.written.clone());
        r.register("longreach_queue_seconds", "Time in the queue", self.queue.clone());
        r.register("longreach_time_to_first_token_seconds", "Time to the first token", self.first.clone());
        r.register("longreach_inter_token_seconds", "Time between tokens", self.between.clone());
        r.register("longreach_request_seconds", "Time of a request", self.whole.clone());
        r.register("process_resident_memory_bytes", "Memory of the process", self.memory.clone());
        r.register("process_open_fds", "Open files of the process", self.files.clone());
        r.register("longreach_cache_bytes", "Bytes of kept states", self.kept_bytes.clone());
        r.register("longreach_cache_states", "Kept states", self.kept_states.clone());
        r.register("longreach_cache_evictions", "States that made room for others", self.evictions.clone());
        r.register("longreach_cache_reused_tokens", "Tokens that a kept state had read", self.reused.clone());
        r.register("longreach_cache_pending_bytes", "Bytes that wait to be written", self.pending.clone());
        r.register("longreach_cache_rejected", "Files of states that were not believed", self.rejected.clone());
        r.register("longreach_cache_write_failures", "States that could not be written", self.failures.clone());
        let build: Family<Build, Gauge> = Family::default();
        let isa = longreach_burn::context().isa.to_string();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION").into(), isa }).set(1);
        r.register("longreach_build_info", "Version and instruction set", build);
    }

    /// Makes the numbers of a model, at 0.
    pub(crate) fn model(&self, id: &str) {
        let of = OfModel { model: id.to_owned() };
        for counter in [&self.prompt, &self.cached, &self.written] {
            drop(counter.get_or_create(&of));
        }
        for times in [&self.queue, &self.first, &self.between, &self.whole] {
            drop(times.get_or_create(&of));
        }
        for reason in ["stop", "length", "tool_calls", "cancelled", "error"] {
            drop(self.finished.get_or_create(&Finished { model: id.to_owned(), reason: reason.into() }));
        }
    }

    /// A request was answered. `endpoint` is one of the server's own names.
    pub(crate) fn answered(&self, endpoint: &str, code: u16) {
        self.answered.get_or_create(&Answered { endpoint: endpoint.to_owned(), code }).inc();
    }

    pub(crate) fn connections(&self, open: usize) {
        self.connections.set(open as i64);
    }

    fn time(times: &Times, model: &str, took: Duration) {
        times.get_or_create(&OfModel { model: model.to_owned() }).observe(took.as_secs_f64());
    }

    pub(crate) fn queued(&self, model: &str, took: Duration) {
        Self::time(&self.queue, model, took);
    }

    pub(crate) fn first(&self, model: &str, took: Duration) {
        Self::time(&self.first, model, took);
    }

    pub(crate) fn between(&self, model: &str, took: Duration) {
        Self::time(&self.between, model, took);
    }

    /// A request is over: how each answer ended, its tokens (prompt, cached, written), and its time.
    pub(crate) fn finished(
        &self,
        model: &str,
        reasons: impl Iterator<Item = &'static str>,
        [prompt, cached, written]: [usize; 3],
        took: Duration,
    ) {
        for reason in reasons {
            self.finished.get_or_create(&Finished { model: model.to_owned(), reason: reason.into() }).inc();
        }
        let of = OfModel { model: model.to_owned() };
        self.prompt.get_or_create(&of).inc_by(prompt as u64);
        self.cached.get_or_create(&of).inc_by(cached as u64);
        self.written.get_or_create(&of).inc_by(written as u64);
        Self::time(&self.whole, model, took);
    }

    /// The text for Prometheus.
    pub(crate) fn text(&self, numbers: Numbers, cache: Option<CacheStats>) -> String {
        let cache = cache.unwrap_or_default();
        let put = |family: &OfTiers, ram: u64, disk: u64| {
            family.get_or_create(&OfTier { tier: "ram" }).set(ram as i64);
            family.get_or_create(&OfTier { tier: "disk" }).set(disk as i64);
        };
        put(&self.kept_bytes, cache.ram_bytes as u64, cache.disk_bytes);
        put(&self.kept_states, cache.ram_states as u64, cache.disk_states as u64);
        put(&self.evictions, cache.ram_evictions, cache.disk_evictions);
        put(&self.reused, cache.tokens_from_ram, cache.tokens_from_disk);
        self.pending.set(cache.pending_bytes as i64);
        self.rejected.set(cache.rejected as i64);
        self.failures.set(cache.write_failures as i64);
        self.running.set(numbers.running as i64);
        self.waiting.set(numbers.waiting as i64);
        self.steps.set(numbers.steps);
        self.memory.set(resident().unwrap_or(0));
        self.files.set(std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as i64));
        let mut text = String::new();
        // Writing to a string does not fail.
        encode(&mut text, &self.registry).ok();
        text
    }
}

/// Resident memory in bytes; `None` where `/proc` does not report it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
