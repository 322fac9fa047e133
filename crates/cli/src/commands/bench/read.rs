//! `longreach bench read`

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use longreach_engine::{Engine, Session};
use serde_json::json;

use crate::failure::Failure;
use crate::model::ModelArgs;

/// Measure how the cost per token of a language model changes as the text grows
///
/// The text is random tokens. At each position the same tokens are read alternately from the state at that position and from the state at the first position,
/// so that other load on the machine slows both alike. The ratio of the two times is the relative cost per token: 1 everywhere for a model with a state of
/// fixed size.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach bench read
  longreach bench read --model state-spaces/mamba-130m-hf --at 8192,65536 --tokens 2048
  longreach bench read --at 1024,1000000 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Positions in the text, in tokens and ascending; the first is the reference
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [8_192, 65_536, 1_000_000])]
    at: Vec<u64>,
    /// Tokens to read in each measurement
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Number of measurements per position
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Print one JSON object per position, one per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if !args.at.is_sorted_by(|a, b| a < b) {
        return Err(Failure::new("--at: want positions in strictly ascending order"));
    }
    // What a token costs does not depend on the length that the model was trained for.
    let engine = args.model.load()?.extrapolating();
    let mut session = engine.session();
    let mut first: Option<Session> = None;
    let progress = ProgressBar::new(args.at.last().copied().unwrap_or(0));
    progress.set_style(ProgressStyle::with_template("reading {bar:32} {pos}/{len} tokens, {eta} left")?);
    for &at in &args.at {
        while session.tokens() < at {
            let n = (at - session.tokens()).min(65_536);
            session.read(&text(&engine, session.tokens(), n))?;
            progress.set_position(session.tokens());
        }
        let start = first.get_or_insert_with(|| session.clone());
        let ids = text(&engine, at, u64::from(args.tokens));
        let mut seconds = [Vec::new(), Vec::new()];
        for i in 0..=args.repeats {
            for (seconds, from) in seconds.iter_mut().zip([&*start, &session]) {
                let mut from = from.clone();
                let clock = Instant::now();
                from.read(&ids)?;
                // The first run is a warm-up.
                if i > 0 {
                    seconds.push(clock.elapsed().as_secs_f64());
                }
            }
        }
        let mut ratios: Vec<f64> = seconds[1].iter().zip(&seconds[0]).map(|(here, start)| here / start).collect();
        let here = median(&mut seconds[1]);
        let (ratio, rate) = (median(&mut ratios), f64::from(args.tokens) / here);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let (state, peak) = (session.state_bytes(), crate::machine::peak());
        if args.json {
            let line = json!({
                "at": at, "tokens": args.tokens, "tokens_per_second": rate, "cost": ratio, "cost_least": least,
                "cost_most": most, "state_bytes": state, "peak_bytes": peak,
            });
            progress.suspend(|| println!("{line}"));
        } else {
            let peak = peak.map_or_else(String::new, |peak| format!(", peak {:.0} MB", peak as f64 / 1e6));
            let state = state as f64 / 1e6;
            progress.suspend(|| {
                println!(
                    "at {at}: {rate:.0} tok/s, cost per token {ratio:.2} ({least:.2} to {most:.2}) times that at {}; state {state:.2} MB{peak}",
                    args.at[0]
                )
            });
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// Tokens of a random text.
fn text(engine: &Engine, from: u64, n: u64) -> Vec<u32> {
    let vocabulary = engine.model.decoder.vocabulary() as u64;
    (from..from + n)
        .map(|i| (i.wrapping_mul(6_364_136_223_846_793_005) >> 33) % vocabulary.max(1))
        .map(|id| id as u32)
        .collect()
}

/// Sorts the numbers and returns their median.
fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
