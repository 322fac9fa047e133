//! `longreach bench generate`

use std::time::Instant;

use indicatif::ProgressBar;
use longreach_engine::Engine;
use longreach_models::DType;
use longreach_nn::{Cache, WordsConfig};
use longreach_simd::memory;
use longreach_simd::norm::Rows;
use longreach_simd::product::{Order, Weights, linear_in};
use serde_json::json;

use crate::failure::Failure;
use crate::model::ModelArgs;

/// Measure how fast a language model reads and writes on this machine
///
/// The text is random tokens. `prefill` is the reading of a prompt, `decode` the writing of tokens one at a time after a text of --depth tokens. Between these
/// measurements the limits of the machine are measured, too: the bytes that all threads read in a second, which bound decoding, and the operations of a
/// matrix product in the same precision, which bound prefill. All are medians; those of the model are printed with their quartiles.
///
/// The share of a limit is printed where the work is known, which it is not for experts: for decoding, one pass over the weights and the state; for prefill,
/// two operations per weight and token, without those of attention. The sequences of a batch share the text before.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach bench generate
  longreach bench generate --model FILE.gguf --prompt 512,4096 --tokens 64
  longreach bench generate --model DIR --dtype bf16 --depth 0,8192,32768 --batch 1,4 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Lengths of the prompt, in tokens
    #[arg(long, short, value_name = "N", value_delimiter = ',', default_values_t = [1024])]
    prompt: Vec<usize>,
    /// Tokens to write in each measurement
    #[arg(long, short = 'n', value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Tokens before those that are written
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0])]
    depth: Vec<usize>,
    /// Number of sequences that are written together
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1])]
    batch: Vec<usize>,
    /// Number of measurements of each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Print one JSON object per measurement, one per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.batch.contains(&0) || args.prompt.contains(&0) {
        return Err(Failure::new("--batch and --prompt: want numbers of at least 1"));
    }
    let engine = args.model.load()?;
    let longest =
        args.depth.iter().map(|depth| depth.max(&1) + args.tokens as usize).chain(args.prompt.iter().copied());
    if let (Some(most), Some(longest)) = (longest.max(), engine.model.decoder.longest())
        && most > longest
    {
        return Err(Failure::new(format!("{most} tokens: the model reads at most {longest}")));
    }
    let progress = ProgressBar::new_spinner();
    let work = Work::of(&engine);
    let mut limits = Limits::new(&engine, &work);
    let mut lines = Vec::new();
    for &n in &args.prompt {
        progress.set_message(format!("prefill of {n} tokens"));
        progress.tick();
        let ids = text(&engine, n);
        let mut times = Vec::new();
        for i in 0..=args.repeats {
            let mut session = engine.session();
            let clock = Instant::now();
            session.read(&ids)?;
            // The first run is a warm-up.
            if i > 0 {
                times.push(clock.elapsed().as_secs_f64() / n as f64);
            }
            limits.measure();
        }
        lines.push(Line { what: "prefill", at: n, batch: 1, times, bytes: None, operations: work.operations });
    }
    for &depth in &args.depth {
        progress.set_message(format!("reading {depth} tokens"));
        progress.tick();
        // One token at least: there is no output before the first.
        let mut session = engine.session();
        session.read(&text(&engine, depth.max(1)))?;
        for &batch in &args.batch {
            progress.set_message(format!("decode of {batch} at {depth}"));
            progress.tick();
            let cache = session.state().select(&vec![0; batch]);
            let mut times = Vec::new();
            for i in 0..=args.repeats {
                let seconds = decode(&engine, cache.clone(), args.tokens as usize);
                if i > 0 {
                    times.extend(seconds.into_iter().map(|s| s / batch as f64));
                }
                limits.measure();
            }
            let bytes = work.weights.map(|weights| weights / batch as f64 + session.state_bytes() as f64);
            lines.push(Line { what: "decode", at: depth, batch, times, bytes, operations: None });
        }
    }
    progress.finish_and_clear();
    print(&engine, &args, lines, limits);
    Ok(())
}

/// Seconds of each of `n` steps of all sequences of `cache`, logits included.
fn decode(engine: &Engine, mut cache: Cache, n: usize) -> Vec<f64> {
    let ids = text(engine, n * cache.batch);
    let steps = ids.chunks(cache.batch.max(1)).map(|ids| {
        let clock = Instant::now();
        engine.run(|| {
            let decoder = &engine.model.decoder;
            let hidden = decoder.forward(ids, &mut cache, None);
            std::hint::black_box(decoder.logits(hidden).into_data());
        });
        clock.elapsed().as_secs_f64()
    });
    steps.collect()
}

/// What a token takes.
struct Work {
    /// The bytes of the weights that a token reads; `None` if it depends on the token.
    weights: Option<f64>,
    /// Operations of the matrices, for each token of a prompt.
    operations: Option<f64>,
}

impl Work {
    fn of(engine: &Engine) -> Self {
        let (model, c) = (&engine.model, &engine.model.description.decoder);
        // An embedding that is not tied to the head is read one row a token.
        let looked_up = match c.words {
            WordsConfig::Table { tied: true } => 0,
            _ => c.vocabulary * c.hidden,
        };
        let parameters = model.parameters();
        let types = model.checkpoint.as_ref().map(longreach_models::Checkpoint::block_types).unwrap_or_default();
        let stored: f64 = match types.is_empty() {
            true => (parameters * model.dtype.bytes()) as f64,
            false => types.iter().map(|(_, bytes)| *bytes as f64).sum(),
        };
        let share = (parameters - looked_up) as f64 / parameters.max(1) as f64;
        let all = !c.blocks.iter().any(|block| block.has_experts());
        let head = if looked_up == 0 { c.vocabulary * c.hidden } else { 2 * looked_up };
        Self {
            weights: all.then_some(stored * share),
            // The head works for the last token of a prompt only.
            operations: all.then_some(2.0 * parameters.saturating_sub(head) as f64),
        }
    }
}

/// The limits of the machine.
struct Limits {
    engine: Engine,
    memory: Vec<f32>,
    weights: Vec<half::bf16>,
    /// Bytes and operations per second.
    rates: [Vec<f64>; 2],
}

/// The matrix of the product that is measured, and the rows that it multiplies.
const SIDE: usize = 1024;

impl Limits {
    /// A buffer as large as the weights, so that the caches hold as little of it.
    fn new(engine: &Engine, work: &Work) -> Self {
        let bytes = work.weights.unwrap_or(0.0).clamp(64e6, 2e9) as usize;
        let weights = vec![half::bf16::ONE; SIDE * SIDE];
        Self { engine: engine.clone(), memory: vec![1.0; bytes / 4], weights, rates: [Vec::new(), Vec::new()] }
    }

    fn measure(&mut self) {
        let Self { engine, memory, weights, rates } = self;
        engine.run(|| {
            let cx = longreach_burn::context();
            let clock = Instant::now();
            memory::read(&cx, memory);
            rates[0].push(4.0 * memory.len() as f64 / clock.elapsed().as_secs_f64());
            let (rows, mut out) = (&memory[..SIDE * SIDE], vec![0.0; SIDE * SIDE]);
            let rows = Rows { data: rows, count: SIDE, width: SIDE, stride: SIDE };
            let weights = match engine.model.dtype {
                DType::Bf16 => Weights::Bf16(weights),
                _ => Weights::F32(rows.data),
            };
            let clock = Instant::now();
            linear_in(&cx, Order::Packed, rows, weights, None, &mut out);
            std::hint::black_box(&out);
            rates[1].push(2.0 * (SIDE * SIDE * SIDE) as f64 / clock.elapsed().as_secs_f64());
        });
    }
}

/// The measurements of one job.
struct Line {
    what: &'static str,
    /// Tokens of the prompt, or before the written ones.
    at: usize,
    batch: usize,
    /// Seconds per token.
    times: Vec<f64>,
    /// Bytes read for a token, if known.
    bytes: Option<f64>,
    /// Operations for a token, if known.
    operations: Option<f64>,
}

/// The first quartile, the median and the third quartile.
fn quartiles(mut numbers: Vec<f64>) -> [f64; 3] {
    numbers.sort_by(f64::total_cmp);
    [1, 2, 3].map(|i| numbers[(numbers.len() * i / 4).min(numbers.len() - 1)])
}

fn print(engine: &Engine, args: &Args, lines: Vec<Line>, limits: Limits) {
    let [read, product] = limits.rates.map(|rates| quartiles(rates)[1]);
    let (cx, model, peak) = (longreach_burn::context(), &engine.model, crate::machine::peak());
    let blocks = model.checkpoint.as_ref().map(longreach_models::Checkpoint::block_types).unwrap_or_default();
    let stored = blocks.first().map_or_else(|| model.dtype.name().to_owned(), |(name, _)| name.clone());
    if !args.json {
        let peak = peak.map_or_else(String::new, |peak| format!(", peak memory {:.0} MB", peak as f64 / 1e6));
        println!("{}: {stored}, KV cache in {}{peak}", engine.name, engine.kv_dtype().name());
        println!(
            "machine: {} on {} threads, reads {:.1} GB/s, {:.0} GFLOP/s in {} products",
            cx.isa,
            cx.team.threads(),
            read / 1e9,
            product / 1e9,
            model.dtype.name()
        );
    }
    for line in lines {
        let [fast, middle, slow] = quartiles(line.times);
        // Products of blocks are of another kind than the one measured.
        let operations = line.operations.filter(|_| blocks.is_empty());
        let share = line.bytes.map(|bytes| bytes / middle / read);
        let share = share.or(operations.map(|operations| operations / middle / product));
        if args.json {
            let line = json!({
                "model": engine.name, "stored": stored, "kv_dtype": engine.kv_dtype().name(), "what": line.what, "at": line.at,
                "batch": line.batch, "tokens_per_second": 1.0 / middle, "quartiles": [1.0 / slow, 1.0 / fast], "share": share,
                "bytes_per_token": line.bytes, "operations_per_token": operations, "read_bytes_per_second": read,
                "product_operations_per_second": product, "threads": cx.team.threads(), "isa": cx.isa.to_string(), "peak_bytes": peak,
            });
            println!("{line}");
            continue;
        }
        let job = match (line.what, line.batch) {
            ("decode", 1) => format!("decode at {}", line.at),
            ("decode", batch) => format!("decode at {}, {batch} together", line.at),
            (what, _) => format!("{what} of {}", line.at),
        };
        let share = match (share, line.bytes) {
            (Some(share), Some(bytes)) => {
                format!("; {:.1} MB a token, {:.0} % of the read bandwidth", bytes / 1e6, 100.0 * share)
            }
            (Some(share), None) => format!("; {:.0} % of the product's rate", 100.0 * share),
            (None, _) => String::new(),
        };
        println!("{job:24} {:8.1} tok/s ({:.1} to {:.1}){share}", 1.0 / middle, 1.0 / slow, 1.0 / fast);
    }
}

/// Tokens of a random text.
fn text(engine: &Engine, n: usize) -> Vec<u32> {
    let vocabulary = engine.model.decoder.vocabulary().max(1) as u64;
    (0..n as u64).map(|i| ((i.wrapping_mul(6_364_136_223_846_793_005) >> 33) % vocabulary) as u32).collect()
}
