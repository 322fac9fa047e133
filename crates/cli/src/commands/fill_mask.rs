//! `longreach fill-mask`

use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;

/// Say which words a masked language model would put where a text has a mask
///
/// The mask is written as the model writes it, or as `[MASK]`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// The text, with one mask or several
    text: String,
    /// How many words for each
    #[arg(long, short, value_name = "N", default_value_t = 5)]
    number: usize,
    /// An object a mask, a line each
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let encoder = args.encoder.load()?;
    let (mask, _) = encoder.mask()?;
    let text = args.text.replace("[MASK]", &mask);
    for (i, words) in encoder.fill(&text, args.number)?.iter().enumerate() {
        if args.json {
            let word = |w: &longreach_engine::Filled| json!({"word": w.word, "id": w.id, "score": w.score});
            println!("{}", json!({"mask": i, "words": words.iter().map(word).collect::<Vec<_>>()}));
        } else {
            let words =
                words.iter().map(|w| format!("{} {:.4}", w.word.trim(), w.score)).collect::<Vec<_>>().join("  ");
            println!("{i}  {words}");
        }
    }
    Ok(())
}
