//! The `config.json` of a model's directory, and the detection of directories that do not contain a loadable model.

use std::path::Path;

use crate::checkpoint::Packing;
use crate::{Error, Fields};

/// The fields and the text of `config.json`.
///
/// Errors if the file is missing, if the directory contains an adapter, or if the weights are quantised in an
/// unsupported way.
pub(crate) fn read_config(directory: &Path) -> Result<(Fields, String), Error> {
    let file = directory.join("config.json");
    let adapter = directory.join("adapter_config.json");
    if adapter.exists() {
        return Err(refused_adapter(&adapter, file.exists()));
    }
    if !file.exists() {
        let endings = |end: &str| {
            let entries = std::fs::read_dir(directory).ok()?;
            entries.flatten().find(|e| e.file_name().to_string_lossy().ends_with(end)).map(|e| e.file_name())
        };
        let hint = if let Some(name) = endings(".gguf") {
            format!("; `{}` is a GGUF file: give its path in place of the directory's", name.to_string_lossy())
        } else if directory.join("params.json").exists() {
            "; `params.json` belongs to a checkpoint in its authors' own format: use the one converted for transformers"
                .into()
        } else {
            String::new()
        };
        let reason = format!("there is no such file, but a model needs one{hint}");
        return Err(Error::NotFound { name: file.display().to_string(), reason });
    }
    let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::Config { file: file.display().to_string(), message: format!("not UTF-8: {e}") })?;
    let fields = Fields::parse(file.display().to_string(), &text)?;
    Packing::of(&fields)?;
    Ok((fields, text))
}

fn refused_adapter(adapter: &Path, beside: bool) -> Error {
    let fields = std::fs::read_to_string(adapter)
        .map_err(|e| Error::io(adapter, e))
        .and_then(|text| Fields::parse(adapter.display().to_string(), &text));
    let fields = match fields {
        Ok(fields) => fields,
        Err(e) => return e,
    };
    let field = |name: &str| fields.get(name).and_then(|v| v.as_str());
    let kind = field("peft_type").unwrap_or("LORA");
    let base = field("base_model_name_or_path").map_or_else(String::new, |base| format!(" for `{base}`"));
    let merge = "merge it into that model (`longreach merge`) and load the result";
    fields.error(if beside {
        format!("an adapter ({kind}){base} next to the weights would not be applied: {merge}, or remove this file to ignore it")
    } else {
        format!("the directory contains an adapter ({kind}){base} but no model: {merge}")
    })
}
