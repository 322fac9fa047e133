//! A mechanism's parameters on the command line.

use std::path::PathBuf;

use longreach_attention::softmax::deepspeed::without_comments;
use serde_json::Value;

use crate::failure::Failure;

#[derive(clap::Args)]
pub(crate) struct ParameterArgs {
    /// Its parameters as JSON, comments allowed; for `deepspeed` a ds_config.json as it stands will do
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// As --params, from a file
    #[arg(long, value_name = "FILE", conflicts_with = "params")]
    params_file: Option<PathBuf>,
}

impl ParameterArgs {
    /// What was given, if anything was.
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

/// JSON that `what` holds, comments (`//`, `/* */`) passed over.
pub(crate) fn parse(what: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(&without_comments(text)).map_err(|e| Failure::new(format!("{what}: {e}")))
}
