//! What a run leaves: models in the layout of Hugging Face, adapters in the files of PEFT, the curve and the report.

use std::path::Path;

use longreach_models::{DType, write_atomically};
use serde_json::json;

use super::Run;
use crate::Error;
use crate::model::{AdapterConfig, WEIGHTS, copy_files, write_tokenizer};
use crate::report::{curve, page};

impl Run {
    /// Writes the model, with the average in place of its weights if there is one, to `directory/name`; with low-rank updates, the adapter to
    /// `directory/adapter` and the merged model to `directory/name`.
    pub(super) fn write_model(&mut self, name: &str) -> Result<(), Error> {
        let directory = self.config.output.join(name);
        let fresh = self.config.output.join(format!("{name}.new"));
        for path in [&fresh, &directory] {
            if path.exists() {
                std::fs::remove_dir_all(path).map_err(|e| Error::io(path, e))?;
            }
            if path == &fresh {
                std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
                self.write_weights(name, &fresh)?;
            }
        }
        std::fs::rename(&fresh, &directory).map_err(|e| Error::io(&directory, e))
    }

    fn write_weights(&mut self, name: &str, to: &Path) -> Result<(), Error> {
        let own = self.learner.model.network();
        if let Some(average) = &self.learner.average {
            self.learner.model.put(average.values.placed(own.clone()));
        }
        let written = match self.config.lora {
            Some(_) => self.write_adapter(name).and_then(|adapter| self.merge(&adapter, to)),
            None => self.write_whole(to),
        };
        self.learner.model.put(own);
        written
    }

    fn write_whole(&self, to: &Path) -> Result<(), Error> {
        let model = &self.learner.model;
        // A model of random weights is written in half precision; another one in that of the checkpoint, which was f32 or is widened.
        let dtype = if self.config.from.is_none() { DType::Bf16 } else { DType::F32 };
        let dtype = if model.decoder().is_some() { dtype } else { DType::F32 };
        model.save(dtype, &to.join("model.safetensors"))?;
        write_atomically(&to.join("config.json"), |out| out.write_all(model.config().as_bytes()))?;
        match &self.at {
            Some(at) if at.gguf().is_none() => copy_files(&at.directory, to)?,
            Some(at) => write_tokenizer(at, to)?,
            None => {}
        }
        let tokenizer = self.texts.as_ref().and_then(|texts| texts.tokenizer().hugging_face());
        let given = self.at.is_none() || self.config.tokenizer.file.is_some();
        if let Some(tokenizer) = tokenizer.filter(|_| given) {
            let text = tokenizer.to_string(false).map_err(|e| Error::Tokenizer(e.to_string()))?;
            write_atomically(&to.join("tokenizer.json"), |out| out.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    /// Writes the adapter beside the model that it belongs to.
    fn write_adapter(&self, name: &str) -> Result<std::path::PathBuf, Error> {
        let Some(lora) = &self.config.lora else { return Err(Error::Text("there is no adapter".into())) };
        let directory =
            self.config.output.join(if name == "model" { "adapter".into() } else { format!("{name}-adapter") });
        std::fs::create_dir_all(&directory).map_err(|e| Error::io(&directory, e))?;
        let (model, file) = (&self.learner.model, directory.join(WEIGHTS));
        let network = model.network();
        let heads = crate::model::save_adapter(&network, model.names(), &file)?;
        // Whole names, since other layers may end alike.
        let targets = json!(self.updated);
        let task = match (&self.config.objective, heads.is_empty()) {
            (crate::Objective::Causal { .. }, _) => Some("CAUSAL_LM"),
            (crate::Objective::Texts { .. }, _) => Some("SEQ_CLS"),
            (crate::Objective::Tokens { .. }, _) => Some("TOKEN_CLS"),
            (crate::Objective::Spans { .. }, _) => Some("QUESTION_ANS"),
            (crate::Objective::Contrastive { .. }, _) => Some("FEATURE_EXTRACTION"),
            (crate::Objective::Masked { .. } | crate::Objective::Table { .. }, _) => None,
        };
        let of_gpt2 = model.config().contains("\"gpt2\"");
        AdapterConfig {
            peft_type: "LORA".into(),
            base_model_name_or_path: self.config.from.clone(),
            task_type: task.map(str::to_owned),
            r: lora.rank,
            lora_alpha: lora.alpha,
            lora_dropout: 0.0,
            target_modules: targets,
            modules_to_save: (!heads.is_empty()).then_some(heads),
            bias: "none".into(),
            fan_in_fan_out: of_gpt2,
            use_rslora: false,
            use_dora: false,
            rank_pattern: serde_json::Map::new(),
            alpha_pattern: serde_json::Map::new(),
            inference_mode: true,
        }
        .write(&directory)?;
        Ok(directory)
    }

    fn merge(&self, adapter: &Path, to: &Path) -> Result<(), Error> {
        let Some(from) = &self.config.from else { return Err(Error::Text("there is no model to merge into".into())) };
        let config = self.learner.model.encoder().map(|model| model.config.as_str());
        crate::merge(from, adapter, to, config)
    }

    /// Writes the curve of the loss.
    pub(super) fn write_curve(&self) -> Result<(), Error> {
        let picture = curve::svg(&self.losses, &self.held_out_losses());
        Ok(write_atomically(&self.config.output.join("loss.svg"), |out| out.write_all(picture.as_bytes()))?)
    }

    fn held_out_losses(&self) -> Vec<(usize, f32)> {
        let loss = |(step, metrics): &(usize, crate::objective::Metrics)| {
            let (_, loss) = metrics.iter().find(|(name, _)| name == "loss")?;
            Some((*step, *loss as f32))
        };
        self.standing.evaluations.iter().filter_map(loss).collect()
    }

    /// Writes `report.html`.
    pub(super) fn write_report(&self, learning: usize) -> Result<(), Error> {
        let picture = curve::svg(&self.losses, &self.held_out_losses());
        let standing = &self.standing;
        let facts = [
            ("objective", self.config.objective.name().to_owned()),
            ("model", self.config.from.clone().unwrap_or_else(|| "random weights".into())),
            ("parameters", self.learner.model.parameters().to_string()),
            ("trained parameters", learning.to_string()),
            ("steps", self.learner.step.to_string()),
            ("tokens", standing.tokens.to_string()),
            ("skipped steps", self.learner.skipped.to_string()),
            ("seconds", format!("{:.0}", standing.seconds)),
        ];
        let title = format!("Training: {}", self.config.output.display());
        let (evaluations, samples) = (&standing.evaluations, &standing.samples);
        let text = page(&title, &picture, &facts, evaluations, samples, &self.config.text);
        Ok(write_atomically(&self.config.output.join("report.html"), |out| out.write_all(text.as_bytes()))?)
    }
}
