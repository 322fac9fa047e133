//! Adapters in the files of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use longreach_models::{Checkpoint, DType};
use longreach_nn::{Error as NnError, Init, Layout, Names, Precision, Source, Spec, Update};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The names of the files.
pub(super) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// The name of a factor of a layer's update in PEFT's files.
pub(super) fn key(layer: &str, factor: &str) -> String {
    format!("base_model.model.{layer}.lora_{factor}.weight")
}

/// The fields of `adapter_config.json` that decide what an adapter computes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct AdapterConfig {
    pub(crate) peft_type: String,
    pub(crate) base_model_name_or_path: Option<String>,
    pub(crate) task_type: Option<String>,
    pub(crate) r: usize,
    pub(crate) lora_alpha: f64,
    #[serde(default)]
    pub(crate) lora_dropout: f64,
    pub(crate) target_modules: serde_json::Value,
    #[serde(default)]
    pub(crate) modules_to_save: Option<Vec<String>>,
    #[serde(default = "none")]
    pub(crate) bias: String,
    #[serde(default)]
    pub(crate) fan_in_fan_out: bool,
    #[serde(default)]
    pub(crate) use_rslora: bool,
    #[serde(default)]
    pub(crate) use_dora: bool,
    #[serde(default)]
    pub(crate) rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(crate) alpha_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(crate) inference_mode: bool,
}

fn none() -> String {
    "none".into()
}

impl AdapterConfig {
    /// Reads the configuration of an adapter. Errors if the file cannot be read, or describes another kind of adapter.
    fn read(directory: &Path) -> Result<Self, Error> {
        let file = directory.join(CONFIG);
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let wrong = |message: String| Error::Config { file: file.display().to_string(), message };
        let config: Self = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let refused = |field: &str, found: String, want: &str| {
            Err(wrong(format!("field `{field}`: want {want}, found {found}; merge it with PEFT (`merge_and_unload`)")))
        };
        if config.peft_type != "LORA" {
            return refused("peft_type", config.peft_type, "LORA");
        }
        if config.use_dora {
            return refused("use_dora", "true".into(), "false");
        }
        if config.bias != "none" {
            return refused("bias", config.bias, "none");
        }
        if !config.alpha_pattern.is_empty() {
            return refused("alpha_pattern", format!("{} entries", config.alpha_pattern.len()), "none");
        }
        if config.r == 0 {
            return refused("r", "0".into(), "at least 1");
        }
        Ok(config)
    }

    /// Writes `adapter_config.json`.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        Ok(longreach_models::write_atomically(&directory.join(CONFIG), |out| out.write_all(text.as_bytes()))?)
    }
}

/// The tensors of an adapter.
pub(super) struct AdapterWeights {
    config: AdapterConfig,
    weights: Checkpoint,
}

impl AdapterWeights {
    /// Opens the adapter of a directory.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let config = AdapterConfig::read(directory)?;
        let weights = Checkpoint::open_files(&[directory.join(WEIGHTS)])?.keep_as(Some(DType::F32));
        Ok(Self { config, weights })
    }

    /// The update with the factors `names` of a matrix `[out, in]`; `None` if the adapter has none for it.
    pub(super) fn update(&mut self, names: [String; 2], [out, inputs]: [usize; 2]) -> Result<Option<Update>, NnError> {
        let Some(&[rank, _]) = self.weights.shape(&names[0]) else { return Ok(None) };
        let alpha = self.config.lora_alpha;
        let scale = if self.config.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 } as f32;
        let a = self.numbers(&names[0], [rank, inputs])?;
        let b = self.numbers(&names[1], [out, rank])?;
        Ok(Some(Update { names, rank, scale, a, b }))
    }

    /// A whole tensor that the adapter replaces: a head that was trained with it.
    pub(super) fn saved(&mut self, spec: &Spec, name: &str) -> Result<Option<burn::tensor::TensorData>, NnError> {
        let name = format!("base_model.model.{name}");
        if !self.weights.has(&name) {
            return Ok(None);
        }
        self.weights.get(&Spec { name, ..spec.clone() }).map(Some)
    }

    /// The keys that were not read.
    pub(super) fn unused(&self) -> Vec<String> {
        self.weights.unused()
    }

    fn numbers(&mut self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>, NnError> {
        let spec = Spec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            layout: Layout::Same,
            precision: Precision::Full,
            init: Init::Constant(0.0),
        };
        Ok(self.weights.get(&spec)?.iter::<f32>().collect())
    }
}

/// Writes the parameters of a network that are trained as an adapter: the factors of the updates under their names, and heads, whose module names are returned.
pub(crate) fn save_adapter<M: Module>(network: &M, names: &Names, file: &Path) -> Result<Vec<String>, Error> {
    let mut collected = Collect { names, tensors: Vec::new(), heads: Vec::new() };
    network.visit(&mut collected);
    let views = collected.tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.expect("the bytes match the shape"))
    });
    let wrong = |e: safetensors::SafeTensorError| Error::Text(format!("{}: {e}", file.display()));
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    longreach_models::write_atomically(file, |out| out.write_all(&bytes))?;
    collected.heads.sort();
    collected.heads.dedup();
    Ok(collected.heads)
}

struct Collect<'a> {
    names: &'a Names,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
    heads: Vec<String>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some((name, layout)) = self.names.get(param.id).filter(|_| param.is_require_grad()) else { return };
        let value = param.val().inner();
        let shape = value.dims().to_vec();
        let data = layout.to_disk(&shape, value.into_data().iter::<f32>().collect());
        let bytes = data.into_iter().flat_map(f32::to_le_bytes).collect();
        let name = if name.starts_with("base_model.") {
            name.to_owned()
        } else {
            // The outermost module of a head, such as `classifier`, or the pooler within the body.
            let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
            let pooler = module.split('.').find(|part| *part == "pooler");
            self.heads.push(pooler.or_else(|| module.split('.').next()).unwrap_or(module).to_owned());
            format!("base_model.model.{name}")
        };
        self.tensors.push((name, layout.on_disk(&shape), bytes));
    }
}
