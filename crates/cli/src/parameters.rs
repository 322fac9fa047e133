//! The options `--params` and `--params-file`, which hold a mechanism's parameters.

use std::path::PathBuf;

use longreach_attention::softmax::deepspeed::without_comments;
use serde_json::Value;

use crate::failure::Failure;

#[derive(clap::Args)]
pub(crate) struct ParameterArgs {
    /// Parameters as a JSON object, with comments allowed; `deepspeed` accepts a whole ds_config.json
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Read the parameters from a file instead
    #[arg(long, value_name = "FILE", conflicts_with = "params")]
    params_file: Option<PathBuf>,
}

impl ParameterArgs {
    /// The parameters, or `None` if neither option was given.
    pub(crate) fn read(&self) -> Result<Option<Value>, Failure> {
        match (&self.params, &self.params_file) {
            (Some(text), _) => parse("--params", text).map(Some),
            (None, Some(file)) => {
                let text =
                    std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
                parse(&file.display().to_string(), &text).map(Some)
            }
            (None, None) => Ok(None),
        }
    }
}

/// Parses JSON with comments (`//`, `#`, `/* */`); errors name `what`, the option or file it came from.
pub(crate) fn parse(what: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(&without_comments(text)).map_err(|e| Failure::new(format!("{what}: {e}")))
}
