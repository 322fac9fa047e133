//! What a `quantization_config` says of a checkpoint.

use std::path::Path;

use serde_json::Value;

use crate::{Error, Fields};

/// How the matrices of a checkpoint are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// compressed-tensors: integers of 4 or 8 bits, whose number and groups follow from the tensors, or 8-bit floats.
    Compressed,
    /// 8-bit floats with one scale for each block of `[rows, columns]`; `None`: one for each row or for the whole matrix.
    Float8(Option<[usize; 2]>),
    /// GPTQ.
    Gptq {
        /// Bits of a code: 4 or 8.
        bits: usize,
        /// Whether the stored zero points are less by one (`checkpoint_format` is not `gptq_v2`).
        less_by_one: bool,
    },
    /// AWQ, four bits.
    Awq,
}

/// What can be done about weights that are not read.
const HINT: &str = "use the original weights, with --dtype int8 to save memory, or a GGUF file of the same model, which has 4-bit weights too";

impl Packing {
    /// That of the model in a directory; `None` if its weights are not packed. Errors if they are in an unsupported way.
    pub(crate) fn at(directory: &Path) -> Result<Option<Self>, Error> {
        for (name, whole) in [("config.json", false), ("quantize_config.json", true)] {
            let file = directory.join(name);
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let fields = Fields::parse(file.display().to_string(), &text)?;
            if let Some(packing) = if whole { Self::of_gptq(&fields)? } else { Self::of(&fields)? } {
                return Ok(Some(packing));
            }
        }
        Ok(None)
    }

    /// That of a `config.json`. Errors as [`Packing::at`] does.
    pub(crate) fn of(fields: &Fields) -> Result<Option<Self>, Error> {
        let Some(found) = fields.get("quantization_config") else { return Ok(None) };
        let method = found.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        let packing = match method {
            // 4-bit floats are dequantised as they are read.
            "mxfp4" if fields.text("model_type")? == Some("gpt_oss") => return Ok(None),
            "gptq" => gptq(found),
            "awq" => awq(found),
            "compressed-tensors" => compressed(found),
            "fp8" => float8(found),
            _ => Err(format!("weights quantized with `{method}` are not supported")),
        };
        let refused = |message| fields.error(format!("field `quantization_config`: {message}: {HINT}"));
        packing.map(Some).map_err(refused)
    }

    /// That of the `quantize_config.json` of older GPTQ checkpoints.
    fn of_gptq(fields: &Fields) -> Result<Option<Self>, Error> {
        let of = |name: &str| fields.get(name).cloned().unwrap_or(Value::Null);
        let names = ["bits", "checkpoint_format"];
        let found = Value::Object(names.iter().map(|name| ((*name).to_owned(), of(name))).collect());
        gptq(&found).map(Some).map_err(|message| fields.error(format!("{message}: {HINT}")))
    }
}

fn integer(found: &Value, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| found.get(name)).and_then(Value::as_u64)
}

fn gptq(found: &Value) -> Result<Packing, String> {
    let bits = match integer(found, &["bits"]) {
        Some(bits @ (4 | 8)) => bits as usize,
        Some(bits) => return Err(format!("GPTQ weights of {bits} bits are not supported, only of 4 and 8")),
        None => return Err("`bits` of GPTQ weights is missing or not an integer".into()),
    };
    match found.get("checkpoint_format").and_then(Value::as_str) {
        None | Some("gptq") => Ok(Packing::Gptq { bits, less_by_one: true }),
        Some("gptq_v2") => Ok(Packing::Gptq { bits, less_by_one: false }),
        Some(other) => {
            Err(format!("GPTQ weights in the format `{other}` are not supported, only `gptq` and `gptq_v2`"))
        }
    }
}

fn awq(found: &Value) -> Result<Packing, String> {
    match integer(found, &["bits", "w_bit"]) {
        None | Some(4) => {}
        Some(bits) => return Err(format!("AWQ weights of {bits} bits are not supported, only of 4")),
    }
    let version = ["version", "format"].iter().find_map(|name| found.get(name)).and_then(Value::as_str);
    match version.map(str::to_lowercase).as_deref() {
        None | Some("gemm") => Ok(Packing::Awq),
        Some(other) => Err(format!("AWQ weights in the format `{other}` are not supported, only `gemm`")),
    }
}

fn float8(found: &Value) -> Result<Packing, String> {
    let Some(sizes) = found.get("weight_block_size").filter(|sizes| !sizes.is_null()) else {
        return Ok(Packing::Float8(None));
    };
    let sizes: Option<Vec<u64>> = sizes.as_array().map(|all| all.iter().filter_map(Value::as_u64).collect());
    match sizes.as_deref() {
        Some([rows @ 1..=65_536, columns @ 1..=65_536]) => {
            Ok(Packing::Float8(Some([*rows as usize, *columns as usize])))
        }
        _ => Err("`weight_block_size` of 8-bit floats is not a pair of sizes".into()),
    }
}

fn compressed(found: &Value) -> Result<Packing, String> {
    let formats = |value: &Value| value.get("format").and_then(Value::as_str).map(str::to_owned);
    let groups = found.get("config_groups").and_then(Value::as_object);
    let all = [formats(found)].into_iter().chain(groups.into_iter().flat_map(|groups| groups.values().map(formats)));
    for format in all.flatten() {
        if !["pack-quantized", "int-quantized", "float-quantized", "dense", "mixed-precision"].contains(&&format[..]) {
            return Err(format!(
                "compressed-tensors weights in the format `{format}` are not supported, only `pack-quantized`, `int-quantized` and `float-quantized`"
            ));
        }
    }
    if found.get("sparsity_config").and_then(formats).is_some_and(|format| format != "dense") {
        return Err("compressed-tensors weights with sparsity are not supported".into());
    }
    let status = found.get("quantization_status").and_then(Value::as_str);
    match status {
        None | Some("compressed") => Ok(Packing::Compressed),
        Some(other) => Err(format!("compressed-tensors weights with the status `{other}` are not supported")),
    }
}
