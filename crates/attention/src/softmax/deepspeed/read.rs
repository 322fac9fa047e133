//! Reads a configuration from a file, in DeepSpeed's spelling or that of tutorials.
//!
//! Tutorials use `block_size` for `block`, `sparsity_structure` for `mode`, `local_window_size` in tokens for the
//! number of local blocks, `random_blocks` for `num_random_blocks`, and `enabled`. Such fields are rewritten to
//! DeepSpeed's; where both spellings are given they must agree.

use serde_json::{Map, Value, json};

use super::{Config, OP};
use crate::{Error, error};

const BLOCK: &str = "sparse_attention";

impl Config {
    /// Reads a `ds_config.json`: its `sparse_attention` block, or such a block alone. Comments (`//`, `#`,
    /// `/* */`) are skipped. Errors on malformed JSON and on unknown or inconsistent fields.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let value = serde_json::from_str(&without_comments(json));
        Self::read(value.map_err(|e| Error::read(OP, BLOCK, e))?)
    }

    /// As [`Config::parse`], from parsed JSON.
    pub(crate) fn read(mut file: Value) -> Result<Self, Error> {
        if let Some(block) = file.get_mut(BLOCK) {
            file = block.take();
        }
        let Value::Object(mut fields) = file else {
            return Err(Error::read(OP, BLOCK, format!("{file} is not an object of fields")));
        };
        fields.retain(|_, value| !value.is_null());
        let enabled = take(&mut fields, "enabled", "true or false", Value::as_bool)?.unwrap_or(true);
        one_spelling(&mut fields)?;
        let config: Self = serde_json::from_value(Value::Object(fields)).map_err(|e| Error::read(OP, BLOCK, e))?;
        config.check()?;
        if enabled { Ok(config) } else { Ok(Self::Dense { block: config.block(), different_layout_per_head: false }) }
    }
}

/// Rewrites the fields of tutorials to those of DeepSpeed.
fn one_spelling(fields: &mut Map<String, Value>) -> Result<(), Error> {
    for (theirs, ours) in [("sparsity_structure", "mode"), ("block_size", "block")] {
        if let Some(value) = fields.remove(theirs) {
            put(fields, theirs, ours, value)?;
        }
    }
    fields.entry("mode").or_insert_with(|| "fixed".into());
    let mode = fields["mode"].as_str().unwrap_or_default().to_owned();
    let random = |value: &Value| value.as_bool().map(u64::from).or_else(|| value.as_u64());
    if let Some(random) = take(fields, "random_blocks", "true, false or a number", random)? {
        match mode.as_str() {
            "variable" | "bigbird" => put(fields, "random_blocks", "num_random_blocks", random.into())?,
            _ => {
                error::parameter(OP, "random_blocks", random == 0, random, format!("0: `{mode}` has no random blocks"))?
            }
        }
    }
    if let Some(tokens) = take(fields, "local_window_size", "a number of tokens", Value::as_u64)? {
        let block = fields.get("block").map_or(Some(16), Value::as_u64).unwrap_or_default();
        let whole = tokens > 0 && block > 0 && tokens.is_multiple_of(block);
        error::parameter(OP, "local_window_size", whole, tokens, format!("a multiple of the block of {block}"))?;
        let blocks = tokens / block.max(1);
        let (name, value) = match mode.as_str() {
            "fixed" => ("num_local_blocks", json!(blocks)),
            "variable" => ("local_window_blocks", json!([blocks])),
            // The window has a middle block, so its size is odd.
            "bigbird" | "bslongformer" | "localslidingwindow" => ("num_sliding_window_blocks", json!(blocks | 1)),
            _ => {
                error::parameter(
                    OP,
                    "local_window_size",
                    false,
                    tokens,
                    format!("no such field: `{mode}` has no window"),
                )?;
                return Ok(());
            }
        };
        put(fields, "local_window_size", name, value)?;
    }
    if matches!(mode.as_str(), "variable" | "bslongformer") {
        // These modes list the indices of their global blocks; a number n means the first n blocks.
        if let Some(global) = take(fields, "num_global_blocks", "a number of blocks up to 2^20", few)? {
            put(fields, "num_global_blocks", "global_block_indices", (0..global).collect())?;
        }
    }
    Ok(())
}

fn few(value: &Value) -> Option<u64> {
    value.as_u64().filter(|n| *n <= 1 << 20)
}

/// Removes a field and converts it.
fn take<T>(
    fields: &mut Map<String, Value>,
    name: &'static str,
    want: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(value) = fields.remove(name) else { return Ok(None) };
    let wrong = || Error::Parameter { op: OP, parameter: name, want: want.into(), found: value.to_string() };
    read(&value).map(Some).ok_or_else(wrong)
}

/// Adds a field under DeepSpeed's name; an error if it is there with another value.
fn put(fields: &mut Map<String, Value>, theirs: &'static str, ours: &'static str, value: Value) -> Result<(), Error> {
    if let Some(own) = fields.get(ours).filter(|own| **own != value) {
        let (want, found) = (format!("what `{ours}` says, {own}"), value.to_string());
        return Err(Error::Parameter { op: OP, parameter: theirs, want, found });
    }
    fields.insert(ours.into(), value);
    Ok(())
}

/// Replaces every comment in JSON (`// …` and `# …` to the end of the line, `/* … */`) by spaces, which preserves positions
/// in error messages.
pub fn without_comments(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(['"', '/', '#']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let length = if from.starts_with('"') {
            string(from)
        } else if from.starts_with("//") || from.starts_with('#') {
            from.find('\n').unwrap_or(from.len())
        } else if let Some(inside) = from.strip_prefix("/*") {
            // An unterminated comment is left for the parser to report.
            inside.find("*/").map_or(0, |end| end + 4)
        } else {
            0
        };
        let (token, behind) = from.split_at(length.max(1));
        if token.starts_with('"') || length == 0 {
            out.push_str(token);
        } else {
            out.extend(token.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = behind;
    }
    out + rest
}

/// The length in bytes of the string literal that JSON starts with.
fn string(json: &str) -> usize {
    let mut escaped = false;
    for (at, c) in json.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    json.len()
}
