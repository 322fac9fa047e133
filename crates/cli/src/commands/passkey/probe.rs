//! `longreach passkey probe`

use std::path::PathBuf;

use longreach_engine::{Engine, Sampler, Sampling};
use longreach_models::{check_writable, write_atomically};
use longreach_search::split::sentences;
use serde_json::json;

use super::picture;
use super::task::{HAYSTACK, Probe, Task};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::lengths::lengths;
use crate::model::{ContextArgs, ModelArgs};
use crate::progress;
use crate::prompts::Prompt;

/// Test a language model with needles in a haystack and variable tracking, over lengths and depths
///
/// The tasks are those of RULER (Hsieh et al. 2024): facts are hidden in a text that says nothing else, and the question comes after it. The grade is the share of
/// the wanted numbers or names that the answer contains, in percent. Answers are greedy. The prompt is the chat template's, if the model has one, and ends with
/// the beginning of the answer.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach passkey probe --model HuggingFaceTB/SmolLM2-135M-Instruct --lengths 512,1k,2k --samples 5
  longreach passkey probe --model Qwen/Qwen3-0.6B --task tracking --lengths 1k..32k --plot tracking.svg
  longreach passkey probe --model Qwen/Qwen3-0.6B --window 1020 --lengths 2k,8k --depths 0,0.5,0.9,1")]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Tasks
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Task::Single, Task::Multikey, Task::Multivalue, Task::Tracking])]
    task: Vec<Task>,
    /// Lengths of prompt and answer in tokens of the model: a range that doubles, or a list; k is 1024 and M is 1024 squared
    #[arg(long, value_name = "A..B or A,B,…", default_value = "512..2k")]
    lengths: String,
    /// Depths of the first needle that is asked for: 0 is the beginning of the text, 1 its end; other needles are anywhere
    #[arg(long, value_name = "D", value_delimiter = ',', default_values_t = [0.0, 0.25, 0.5, 0.75, 1.0])]
    depths: Vec<f64>,
    /// Number of texts for each task, length and depth
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Seed that the needles are drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Make the haystack from the sentences of this text [default: five short sentences that repeat]
    #[arg(long, value_name = "FILE")]
    haystack: Option<PathBuf>,
    /// Print one JSON object for each task, length and depth, one per line
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
    /// Draw a heat map of each task
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// The result of a task at one length and depth.
pub(super) struct Cell {
    pub(super) task: Task,
    pub(super) length: usize,
    pub(super) depth: f64,
    /// The mean grade of its texts, from 0 to 1.
    pub(super) grade: f64,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let lengths = lengths(&args.lengths)?;
    if let Some(depth) = args.depths.iter().find(|depth| !(0.0..=1.0).contains(*depth)) {
        return Err(Failure::new(format!("--depths: want 0 to 1, found {depth}")));
    }
    if let Some(plot) = &args.plot {
        check_writable(plot, &args.haystack.iter().map(|file| &**file).collect::<Vec<_>>())?;
    }
    let haystack = haystack(&args)?;
    let engine = args.model.load_for(&args.context)?;
    if let (Some(longest), Some(last)) = (engine.longest(), lengths.last())
        && *last > longest
    {
        return Err(Failure::new(format!(
            "--lengths: {last} tokens, but the model reads {longest}: ask for shorter lengths, keep a window (--window), or read on regardless (--extrapolate)"
        )));
    }
    let interrupt = Interrupt::watched()?;
    let total = args.task.len() * lengths.len() * args.depths.len() * usize::from(args.samples);
    let bar = progress::things("probing", "texts", total as u64)?;
    let mut cells = Vec::new();
    'tasks: for &task in &args.task {
        for &length in &lengths {
            for &depth in &args.depths {
                let mut sum = 0.0;
                for sample in 0..args.samples {
                    if interrupt.asked() {
                        break 'tasks;
                    }
                    let seed = args.seed.wrapping_add(u64::from(sample));
                    let (probe, prompt) = probe(&engine, task, &haystack, (length, depth, seed))?;
                    sum += grade(&engine, &probe, &prompt)?;
                    bar.inc(1);
                }
                cells.push(Cell { task, length, depth, grade: sum / f64::from(args.samples) });
            }
        }
    }
    bar.finish_and_clear();
    if interrupt.asked() {
        eprintln!("interrupted: only finished cells are reported");
    }
    report(&args, &engine.name, &cells);
    if let Some(file) = &args.plot {
        let svg = picture::heat_maps(&engine.name, &cells)?;
        write_atomically(file, |out| out.write_all(svg.as_bytes()))?;
    }
    Ok(())
}

/// The sentences of the haystack.
fn haystack(args: &Args) -> Result<Vec<String>, Failure> {
    let Some(file) = &args.haystack else { return Ok(HAYSTACK.map(str::to_owned).to_vec()) };
    let text = std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let all: Vec<String> = sentences(&text)
        .into_iter()
        .map(|sentence| text[sentence.bytes].split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    if all.is_empty() {
        return Err(Failure::new(format!("{}: the file holds no text", file.display())));
    }
    Ok(all)
}

/// The longest text that fits with its question and its answer, and its prompt.
fn probe(
    engine: &Engine,
    task: Task,
    haystack: &[String],
    (length, depth, seed): (usize, f64, u64),
) -> Result<(Probe, Prompt), Failure> {
    let prompt = |probe: &Probe| {
        let begins = if engine.chat_template().is_ok() { "" } else { "\n" };
        Prompt::begun(engine, &probe.text, &format!("\n\n{}", probe.question), &format!("{begins}{}", probe.answer))
    };
    let found =
        task.probe(haystack, depth, seed, |probe| Ok::<_, Failure>(prompt(probe)?.len() + probe.most <= length))?;
    let Some(found) = found else {
        return Err(Failure::new(format!(
            "--lengths: {length} tokens have no room for the needles, the question and the answer of `{}`",
            task.name()
        )));
    };
    let prompt = prompt(&found)?;
    Ok((found, prompt))
}

/// The grade of the model's answer.
fn grade(engine: &Engine, probe: &Probe, prompt: &Prompt) -> Result<f64, Failure> {
    let mut session = engine.session();
    session.read(&prompt.ids())?;
    let mut sampler = Sampler::new(Sampling::greedy())?;
    let (_, reply) = session.answer(&mut sampler, probe.most, |_| {})?;
    Ok(probe.grade(&reply.text))
}

fn report(args: &Args, model: &str, cells: &[Cell]) {
    if args.csv {
        println!("task,length,depth,samples,grade");
    }
    for cell in cells {
        let (task, samples) = (cell.task.name(), args.samples);
        if args.json {
            let object = json!({
                "model": model, "task": task, "length": cell.length, "depth": cell.depth, "samples": samples, "grade": cell.grade,
            });
            println!("{object}");
        } else if args.csv {
            println!("{task},{},{},{samples},{}", cell.length, cell.depth, cell.grade);
        }
    }
    if args.json || args.csv {
        return;
    }
    println!("{model}: percent of what was wanted, by depth (rows) and tokens (columns), {} texts each", args.samples);
    for task in &args.task {
        let of_task: Vec<&Cell> = cells.iter().filter(|cell| cell.task == *task).collect();
        let (lengths, depths) = axes(&of_task);
        if lengths.is_empty() {
            continue;
        }
        print!("\n{:10}", task.name());
        lengths.iter().for_each(|length| print!(" {length:>8}"));
        println!();
        for depth in depths {
            print!("{depth:>10}");
            for length in &lengths {
                let cell = of_task.iter().find(|cell| cell.length == *length && cell.depth.total_cmp(&depth).is_eq());
                match cell {
                    Some(cell) => print!(" {:>8.0}", 100.0 * cell.grade),
                    None => print!(" {:>8}", "-"),
                }
            }
            println!();
        }
    }
}

/// The lengths and the depths of cells, ascending.
pub(super) fn axes(cells: &[&Cell]) -> (Vec<usize>, Vec<f64>) {
    let mut lengths: Vec<usize> = cells.iter().map(|cell| cell.length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut depths: Vec<f64> = cells.iter().map(|cell| cell.depth).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    (lengths, depths)
}
