//! The `config.json` of a model's directory, and what in a directory tells that it is no model that can be loaded as it is.

use std::path::Path;

use crate::{Error, Fields};

/// The fields of `config.json` and its text.
///
/// An error if there is none, if an adapter lies in the directory, or if the weights are quantised in a way that is not read.
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
            format!("; there is `{}`, a GGUF file, the format of llama.cpp, which is not read", name.to_string_lossy())
        } else if directory.join("params.json").exists() {
            "; there is `params.json`, of a checkpoint in its authors' own format: use the one made for transformers"
                .into()
        } else {
            String::new()
        };
        let reason = format!("there is no such file, and a model is described by it{hint}");
        return Err(Error::NotFound { name: file.display().to_string(), reason });
    }
    let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::Config { file: file.display().to_string(), message: format!("not UTF-8: {e}") })?;
    let fields = Fields::parse(file.display().to_string(), &text)?;
    if let Some(quantised) = fields.get("quantization_config") {
        let method = quantised.get("quant_method").and_then(|m| m.as_str()).unwrap_or("unknown");
        return Err(fields.error(format!(
            "field `quantization_config`: the weights are quantized by `{method}`, which is not read: use the unquantized checkpoint, with --dtype int8 if memory is short"
        )));
    }
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
    let merge = "merge it into that model (`merge_and_unload` of PEFT) and load the result";
    fields.error(if beside {
        format!("an adapter ({kind}){base} lies beside the weights and would not be applied: {merge}, or take this file away to use the weights without it")
    } else {
        format!("the directory holds an adapter ({kind}){base} and no model: {merge}")
    })
}
