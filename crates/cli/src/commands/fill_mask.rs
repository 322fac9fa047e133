//! `longreach fill-mask`

use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;

/// Predict the masked words of a text with a masked language model
///
/// Use it to try out models such as BERT or RoBERTa. Write the mask as `[MASK]` or as the model's own mask token. One line is printed per mask, with the
/// most probable tokens and their probabilities.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach fill-mask --model bert-base-uncased \"Paris is the [MASK] of France.\"
  longreach fill-mask --model roberta-base --number 10 --json \"A [MASK] has four [MASK].\"")]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Text with one or more masks
    text: String,
    /// Number of tokens to print for each mask
    #[arg(long, short, value_name = "N", default_value_t = 5)]
    number: usize,
    /// Print one JSON object per mask, one per line
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
