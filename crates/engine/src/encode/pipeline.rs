//! What stands behind an encoder to make vectors of its hidden states, as sentence-transformers and PyLate write it down.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use burn::tensor::{Device, Tensor};
use longreach_models::{Checkpoint, Fields};
use longreach_nn::{Activation, Bias, Builder, Linear};
use serde_json::Value;

use super::{Similarity, normalize};
use crate::Error;

/// A way to make one vector of a text's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The largest of each channel.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of how many there are.
    MeanSqrtLen,
    /// The mean, each token weighing as much as its place counted from 1.
    WeightedMean,
    /// The last token's.
    LastToken,
}

impl Pooling {
    /// All of them, by their names in sentence-transformers.
    pub const ALL: [(&'static str, Pooling); 6] = [
        ("cls", Pooling::Cls),
        ("max", Pooling::Max),
        ("mean", Pooling::Mean),
        ("mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("weightedmean", Pooling::WeightedMean),
        ("lasttoken", Pooling::LastToken),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, pooling)| *pooling)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Appends the vector of the tokens from `skip` on; `rows` are those of a text, of width `d`.
    pub(crate) fn append(self, rows: &[f32], d: usize, skip: usize, out: &mut Vec<f32>) {
        let tokens = rows.len() / d;
        // Where the prompt is all there is, nothing is left out.
        let skip = if skip < tokens { skip } else { 0 };
        let rows = &rows[skip * d..];
        let n = tokens - skip;
        let sum = |weight: &dyn Fn(usize) -> f64| {
            let mut sum = vec![0.0f64; d];
            for (t, row) in rows.chunks_exact(d).enumerate() {
                let w = weight(t);
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += w * f64::from(*x));
            }
            sum
        };
        let divided = |sum: Vec<f64>, by: f64, out: &mut Vec<f32>| out.extend(sum.into_iter().map(|x| (x / by) as f32));
        match self {
            Pooling::Cls => out.extend_from_slice(&rows[..d]),
            Pooling::LastToken => out.extend_from_slice(&rows[(n - 1) * d..]),
            Pooling::Mean => divided(sum(&|_| 1.0), n as f64, out),
            Pooling::MeanSqrtLen => divided(sum(&|_| 1.0), (n as f64).sqrt(), out),
            Pooling::WeightedMean => {
                let weight = |t: usize| (skip + t + 1) as f64;
                divided(sum(&weight), (0..n).map(weight).sum(), out);
            }
            Pooling::Max => {
                let from = out.len();
                out.extend_from_slice(&rows[..d]);
                for row in rows.chunks_exact(d).skip(1) {
                    out[from..].iter_mut().zip(row).for_each(|(most, x)| *most = most.max(*x));
                }
            }
        }
    }
}

/// `φ(W x + b)`, with `x` or a map of it added where it says so.
#[derive(Debug)]
pub(crate) struct Dense {
    linear: Linear,
    activation: Option<Activation>,
    sigmoid: bool,
    residual: Option<Option<Linear>>,
}

impl Dense {
    fn load(directory: &Path, fields: &Fields) -> Result<Self, Error> {
        let (inputs, outputs) = (fields.size("in_features", 1)?, fields.size("out_features", 1)?);
        let named = fields.text("activation_function")?.unwrap_or("torch.nn.modules.activation.Tanh");
        let (mut activation, mut sigmoid) = (None, false);
        match named.rsplit('.').next().unwrap_or_default() {
            "Tanh" => activation = Some(Activation::Tanh),
            "Identity" => {}
            "ReLU" => activation = Some(Activation::Relu),
            "GELU" => activation = Some(Activation::Gelu),
            "SiLU" => activation = Some(Activation::Silu),
            "Sigmoid" => sigmoid = true,
            _ => {
                let message = format!("field `activation_function`: `{named}` is not known here");
                return Err(fields.error(message).into());
            }
        }
        let mut checkpoint = Checkpoint::open(directory)?;
        let mut builder = Builder::new(&mut checkpoint, &Device::flex());
        let wrong = |e: longreach_nn::Error| Error::from(longreach_models::Error::from(e));
        let bias = Bias::from(fields.flag("bias", true)?);
        let linear = Linear::new(&mut builder, "linear", inputs, outputs, bias).map_err(wrong)?;
        let residual = if !fields.flag("use_residual", false)? {
            None
        } else if inputs == outputs {
            Some(None)
        } else {
            Some(Some(Linear::new(&mut builder, "residual", inputs, outputs, Bias::No).map_err(wrong)?))
        };
        Ok(Self { linear, activation, sigmoid, residual })
    }

    /// The map that Stanford's ColBERT keeps among the weights of its encoder.
    fn of_stanford(directory: &Path, width: usize) -> Result<Self, Error> {
        let mut checkpoint = Checkpoint::open(directory)?;
        let outputs = checkpoint.shape(STANFORD).and_then(|shape| shape.first().copied()).unwrap_or(width);
        let mut builder = Builder::new(&mut checkpoint, &Device::flex());
        let linear = Linear::new(&mut builder, "linear", width, outputs, Bias::No);
        let linear = linear.map_err(|e| Error::from(longreach_models::Error::from(e)))?;
        Ok(Self { linear, activation: None, sigmoid: false, residual: None })
    }

    /// How many numbers come out.
    fn outputs(&self) -> usize {
        self.linear.weight.val().dims()[0]
    }

    /// `[n, in]` → `[n, out]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mut y = self.linear.forward(x.clone());
        if let Some(activation) = self.activation {
            y = longreach_burn::activate(y, activation);
        }
        if self.sigmoid {
            y = burn::tensor::activation::sigmoid(y);
        }
        match &self.residual {
            None => y,
            Some(None) => y + x,
            Some(Some(map)) => y + map.forward(x),
        }
    }
}

/// The name of that map.
pub(crate) const STANFORD: &str = "linear.weight";

/// What is done to vectors, one step after another in the order of `modules.json`.
#[derive(Debug)]
pub(crate) enum Step {
    /// A map.
    Dense(Box<Dense>),
    /// Division by the length.
    Normalize,
    /// The norm of sentence-transformers' `LayerNorm`: mean 0 and variance 1, then a factor and an addend a channel.
    LayerNorm { weight: Vec<f32>, bias: Vec<f32> },
}

impl Step {
    /// `[n, in]` → `[n, out]`, rows one behind the other.
    pub(crate) fn apply(&self, mut x: Vec<f32>, width: usize) -> Vec<f32> {
        match self {
            Step::Dense(dense) => {
                let rows = x.len() / width.max(1);
                let x = Tensor::<1>::from_data(&x[..], &Device::flex()).reshape([rows, width]);
                dense.forward(x).into_data().try_into_vec().unwrap_or_default()
            }
            Step::Normalize => {
                normalize(&mut x, width);
                x
            }
            Step::LayerNorm { weight, bias } => {
                // The constant of PyTorch's LayerNorm.
                const EPS: f64 = 1e-5;
                for row in x.chunks_mut(width.max(1)) {
                    let n = row.len() as f64;
                    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
                    let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
                    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                        *x = ((f64::from(*x) - mean) / (variance + EPS).sqrt() * f64::from(*w) + f64::from(*b)) as f32;
                    }
                }
                x
            }
        }
    }

    /// How many numbers come out, where that is not as many as go in.
    fn outputs(&self) -> Option<usize> {
        match self {
            Step::Dense(dense) => Some(dense.outputs()),
            Step::Normalize | Step::LayerNorm { .. } => None,
        }
    }
}

/// How PyLate's late interaction treats queries and documents. Khattab and Zaharia 2020 (ColBERT), §3.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) query_prefix: String,
    pub(crate) document_prefix: String,
    pub(crate) query_length: usize,
    pub(crate) document_length: usize,
    /// Whether queries are filled up with mask tokens.
    pub(crate) expansion: bool,
    /// Whether other tokens see those.
    pub(crate) attend: bool,
    pub(crate) skiplist: Vec<String>,
}

/// What makes vectors of hidden states.
#[derive(Debug)]
pub struct Pipeline {
    /// Ways to make a vector, the results one behind the other.
    pub pooling: Vec<Pooling>,
    /// Whether a prompt's tokens are pooled as well.
    pub include_prompt: bool,
    /// What follows the pooling, in order.
    pub(crate) steps: Vec<Step>,
    /// How many of a vector's first numbers are kept, where the directory says it.
    pub truncate: Option<usize>,
    /// How vectors are compared, where the directory says it.
    pub similarity: Option<Similarity>,
    /// Whether the directory says how vectors are made; otherwise they are means of hidden states.
    pub described: bool,
    /// Texts that are put before others, by their names.
    pub prompts: BTreeMap<String, String>,
    /// The one of them that is taken where none is asked for.
    pub default_prompt: Option<String>,
    pub(crate) late: Option<Late>,
    /// The longest text in tokens, where the directory says it.
    pub(crate) limit: Option<usize>,
    pub(crate) lower: bool,
}

fn fields(file: &Path) -> Result<Fields, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
    Ok(Fields::parse(file.display().to_string(), &text)?)
}

impl Pipeline {
    /// What a directory without a description of its own gets: the mean of the last hidden states.
    fn plain() -> Self {
        Self {
            pooling: vec![Pooling::Mean],
            include_prompt: true,
            steps: Vec::new(),
            truncate: None,
            similarity: None,
            described: false,
            prompts: BTreeMap::new(),
            default_prompt: None,
            late: None,
            limit: None,
            lower: false,
        }
    }

    /// Whether the vectors that come out have length 1.
    pub fn normalizes(&self) -> bool {
        matches!(self.steps.last(), Some(Step::Normalize))
    }

    /// Has vectors divided by their length at the end, or not; what is done before the last step stays.
    pub fn set_normalize(&mut self, normalize: bool) {
        while !normalize && self.normalizes() {
            self.steps.pop();
        }
        if normalize && !self.normalizes() {
            self.steps.push(Step::Normalize);
        }
    }

    /// How many numbers a vector has where hidden states have `width`.
    pub(crate) fn width(&self, width: usize) -> usize {
        let pooled = width * if self.late.is_some() { 1 } else { self.pooling.len().max(1) };
        let width = self.steps.iter().filter_map(Step::outputs).next_back().unwrap_or(pooled);
        self.truncate.map_or(width, |most| width.min(most))
    }

    /// That each step takes what the one before gives, where hidden states have `width`.
    pub(crate) fn check(&self, width: usize) -> Result<(), Error> {
        let mut width = width * if self.late.is_some() { 1 } else { self.pooling.len().max(1) };
        for (i, step) in self.steps.iter().enumerate() {
            let want = match step {
                Step::Dense(dense) => dense.linear.weight.val().dims()[1],
                Step::LayerNorm { weight, .. } => weight.len(),
                Step::Normalize => width,
            };
            if want != width {
                let message =
                    format!("step {} behind the pooling takes vectors of {want} numbers, and gets {width}", i + 1);
                return Err(Error::Pipeline { file: "modules.json".into(), message });
            }
            width = step.outputs().unwrap_or(width);
        }
        Ok(())
    }

    /// Vectors of `width` numbers each, one behind the other, through all that follows the pooling.
    pub(crate) fn finished(&self, mut x: Vec<f32>, mut width: usize) -> Vec<f32> {
        for step in &self.steps {
            x = step.apply(x, width);
            width = step.outputs().unwrap_or(width);
        }
        match self.truncate {
            Some(most) if most < width => x.chunks(width).flat_map(|row| &row[..most]).copied().collect(),
            _ => x,
        }
    }

    /// What the steps hold, in order, as bytes.
    pub(crate) fn contents(&self, part: &mut impl FnMut(&[u8])) {
        let mut numbers = |name: &str, x: &[f32]| {
            part(name.as_bytes());
            part(&x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        };
        for step in &self.steps {
            match step {
                Step::Dense(dense) => {
                    let name = format!("{:?} {} {:?}", dense.activation, dense.sigmoid, dense.residual.is_some());
                    let residual = dense.residual.iter().flatten();
                    for linear in std::iter::once(&dense.linear).chain(residual) {
                        let data = |x: burn::tensor::TensorData| x.iter::<f32>().collect::<Vec<f32>>();
                        numbers(&name, &data(linear.weight.val().into_data()));
                        linear.bias.iter().for_each(|bias| numbers(&name, &data(bias.val().into_data())));
                    }
                }
                Step::Normalize => numbers("normalize", &[]),
                Step::LayerNorm { weight, bias } => {
                    numbers("norm", weight);
                    numbers("norm", bias);
                }
            }
        }
    }

    /// The steps in words, for people.
    pub fn about(&self) -> String {
        let mut parts = Vec::new();
        if self.late.is_none() {
            let ways = self.pooling.iter().map(|pooling| pooling.name()).collect::<Vec<_>>().join(" and ");
            parts.push(format!("{ways} of the tokens{}", if self.include_prompt { "" } else { " behind the prompt" }));
        } else {
            parts.push("a vector a token, compared by the sum of best matches".into());
        }
        for step in &self.steps {
            parts.push(match step {
                Step::Dense(dense) => format!("a map to {} numbers", dense.outputs()),
                Step::Normalize => "divided by the length".into(),
                Step::LayerNorm { .. } => "LayerNorm".into(),
            });
        }
        parts.extend(self.truncate.map(|most| format!("the first {most} numbers")));
        parts.join(", then ")
    }

    /// The pipeline of a directory, and where in it the encoder is.
    pub(crate) fn load(directory: &Path) -> Result<(Self, PathBuf), Error> {
        let mut pipeline = Self::plain();
        let file = directory.join("modules.json");
        if !file.exists() {
            pipeline.read_stanford(directory)?;
            return Ok((pipeline, directory.to_owned()));
        }
        pipeline.described = true;
        let wrong = |message: String| Error::Pipeline { file: file.clone(), message };
        let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
        let modules: Vec<Value> = serde_json::from_str(&text).map_err(|e| {
            wrong(match longreach_models::recognise(text.as_bytes()) {
                Some(what) => format!("this file is {what}"),
                None => format!("want a list of modules: {e}"),
            })
        })?;
        // What is in `config_sentence_transformers.json` says which of the modules are for every token.
        let settings = directory.join("config_sentence_transformers.json");
        if settings.exists() {
            pipeline.read_settings(&fields(&settings)?)?;
        }
        let (mut encoder, mut pooled) = (None, pipeline.late.is_some());
        for module in &modules {
            let part = |name: &str| {
                let found = module.get(name).and_then(Value::as_str);
                found.ok_or_else(|| wrong(format!("a module without a text `{name}`")))
            };
            let (path, kind) = (part("path")?, part("type")?);
            let at = within(directory, path)
                .ok_or_else(|| wrong(format!("module `{kind}`: path `{path}` leads out of the directory")))?;
            if !["sentence_transformers.", "pylate."].iter().any(|package| kind.starts_with(package)) {
                return Err(wrong(format!("module `{kind}` is code of the model's own, which is not run here")));
            }
            let name = kind.rsplit('.').next().unwrap_or_default();
            match name {
                "Transformer" if encoder.is_none() => {
                    pipeline.read_encoder(&at)?;
                    encoder = Some(at);
                }
                "Transformer" => return Err(wrong("a second module `Transformer` is not supported".into())),
                _ if encoder.is_none() => {
                    return Err(wrong(format!("module `{name}`: want a `Transformer` before it")));
                }
                "Pooling" if pooled => return Err(wrong("a second module `Pooling` is not supported".into())),
                "Pooling" => {
                    pipeline.read_pooling(&at.join("config.json"))?;
                    pooled = true;
                }
                // It does nothing outside training.
                "Dropout" => {}
                "Dense" | "Normalize" | "LayerNorm" => pipeline.read_step(name, &at, pooled)?,
                other => {
                    let known = "Transformer, Pooling, Dense, LayerNorm, Normalize and Dropout";
                    return Err(wrong(format!("module `{other}` is not supported; supported are {known}")));
                }
            }
        }
        if !pooled {
            return Err(wrong(
                "it has no module `Pooling`, and nothing says that the model has a vector a token".into(),
            ));
        }
        let encoder = encoder.ok_or_else(|| wrong("it has no module `Transformer`".into()))?;
        Ok((pipeline, encoder))
    }

    fn read_step(&mut self, name: &str, at: &Path, pooled: bool) -> Result<(), Error> {
        let file = at.join("config.json");
        // `Normalize` had no file for long.
        let f = if name == "Normalize" && !file.exists() { Fields::parse("", "{}")? } else { fields(&file)? };
        let want = if self.late.is_some() { "token_embeddings" } else { "sentence_embedding" };
        for field in ["module_input_name", "module_output_name"] {
            // PyLate's own modules name nothing.
            let found = f.text(field)?.unwrap_or(want);
            if found != want && !(self.late.is_some() && found == "sentence_embedding") {
                return Err(f.error(format!("field `{field}`: want \"{want}\", found \"{found}\"")).into());
            }
        }
        if !pooled {
            return Err(f.error(format!("module `{name}` stands before the pooling, which is not supported")).into());
        }
        self.steps.push(match name {
            "Dense" => Step::Dense(Box::new(Dense::load(at, &f)?)),
            "Normalize" => Step::Normalize,
            _ => {
                let n = f.size("dimension", 1)?;
                let mut checkpoint = Checkpoint::open(at)?;
                let mut builder = Builder::new(&mut checkpoint, &Device::flex());
                let mut vector = |name: &str| {
                    let vector = builder.vector(name, n, longreach_nn::Init::Constant(1.0));
                    let vector = vector.map_err(|e| Error::from(longreach_models::Error::from(e)))?;
                    Ok::<Vec<f32>, Error>(vector.val().into_data().try_into_vec().unwrap_or_default())
                };
                Step::LayerNorm { weight: vector("norm.weight")?, bias: vector("norm.bias")? }
            }
        });
        Ok(())
    }

    /// What Stanford's own ColBERT writes: `artifact.metadata`, and a map among the weights.
    fn read_stanford(&mut self, directory: &Path) -> Result<(), Error> {
        let config = directory.join("config.json");
        if !config.exists() {
            return Ok(());
        }
        let config = fields(&config)?;
        let named = config.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str());
        if named != Some("HF_ColBERT") {
            return Ok(());
        }
        let file = directory.join("artifact.metadata");
        let f = if file.exists() { fields(&file)? } else { Fields::parse("artifact.metadata", "{}")? };
        let text = |name: &str, default: &str| f.text(name).map(|text| text.unwrap_or(default).to_owned());
        self.late = Some(Late {
            query_prefix: text("query_token_id", "[unused0]")?,
            document_prefix: text("doc_token_id", "[unused1]")?,
            query_length: f.size("query_maxlen", 32)?,
            document_length: f.size("doc_maxlen", 220)?,
            expansion: true,
            attend: f.flag("attend_to_mask_tokens", false)?,
            skiplist: if f.flag("mask_punctuation", true)? { punctuation() } else { Vec::new() },
        });
        self.steps = vec![
            Step::Dense(Box::new(Dense::of_stanford(directory, config.size("hidden_size", 768)?)?)),
            Step::Normalize,
        ];
        self.described = true;
        Ok(())
    }

    fn read_encoder(&mut self, at: &Path) -> Result<(), Error> {
        let names = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];
        let files = names.map(|name| at.join(format!("sentence_{name}_config.json")));
        if let Some(file) = files.iter().find(|file| file.exists()) {
            let f = fields(file)?;
            self.limit = f.some_size("max_seq_length")?;
            self.lower = f.flag("do_lower_case", false)?;
            match f.text("transformer_task")? {
                None | Some("feature-extraction") => {}
                Some(task) => {
                    let message = format!("field `transformer_task`: want \"feature-extraction\", found \"{task}\"");
                    return Err(f.error(message).into());
                }
            }
            let output = f.objects("modality_config")?;
            let output = output.first().map(|of| of.objects("text")).transpose()?.unwrap_or_default();
            if let Some(found) = output.first().map(|of| of.text("method_output_name")).transpose()?.flatten()
                && found != "last_hidden_state"
            {
                let want = "field `modality_config.text.method_output_name`: want \"last_hidden_state\"";
                return Err(f.error(format!("{want}, found \"{found}\"")).into());
            }
            if let Some(more) = f.get("processing_kwargs")
                && more.as_object().is_none_or(|map| !map.is_empty())
            {
                return Err(f.error(format!("field `processing_kwargs`: {more} is not supported, want none")).into());
            }
        }
        Ok(())
    }

    fn read_pooling(&mut self, file: &Path) -> Result<(), Error> {
        let f = fields(file)?;
        let wrong = |found: &str| f.error(format!("field `pooling_mode`: `{found}` is not known here")).into();
        let named = |name: &str| Pooling::named(name).ok_or_else(|| wrong(name));
        self.pooling = match f.get("pooling_mode") {
            Some(Value::String(one)) => vec![named(one)?],
            Some(Value::Array(list)) => {
                list.iter().map(|one| named(one.as_str().unwrap_or("?"))).collect::<Result<_, Error>>()?
            }
            Some(other) => return Err(wrong(&other.to_string())),
            None => {
                let mut found = Vec::new();
                for (field, pooling) in [
                    ("pooling_mode_cls_token", Pooling::Cls),
                    ("pooling_mode_max_tokens", Pooling::Max),
                    ("pooling_mode_mean_tokens", Pooling::Mean),
                    ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
                    ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
                    ("pooling_mode_lasttoken", Pooling::LastToken),
                ] {
                    if f.flag(field, false)? {
                        found.push(pooling);
                    }
                }
                if found.is_empty() { vec![Pooling::Mean] } else { found }
            }
        };
        self.include_prompt = f.flag("include_prompt", true)?;
        Ok(())
    }

    /// `config_sentence_transformers.json`
    fn read_settings(&mut self, f: &Fields) -> Result<(), Error> {
        self.truncate = f.some_size("truncate_dim")?;
        self.similarity = match f.text("similarity_fn_name")? {
            // That of late interaction, which has no other.
            None | Some("MaxSim") => None,
            Some(name) => Some(name.parse().map_err(|e| f.error(format!("field `similarity_fn_name`: {e}")))?),
        };
        if let Some(prompts) = f.get("prompts") {
            let map =
                prompts.as_object().ok_or_else(|| f.error("field `prompts`: want an object of names and texts"))?;
            // A prompt that is null is none.
            for (name, text) in map.iter().filter(|(_, text)| !text.is_null()) {
                let text = text.as_str().ok_or_else(|| f.error(format!("field `prompts`: `{name}`: want a text")))?;
                self.prompts.insert(name.clone(), text.to_owned());
            }
        }
        self.default_prompt = f.text("default_prompt_name")?.map(str::to_owned);
        if let Some(name) = &self.default_prompt
            && !f.get("prompts").and_then(Value::as_object).is_some_and(|map| map.contains_key(name))
        {
            return Err(f.error(format!("field `default_prompt_name`: there is no prompt `{name}`")).into());
        }
        if f.text("model_type")? != Some("ColBERT") && !f.given("query_length") {
            return Ok(());
        }
        let text = |name: &str, default: &str| f.text(name).map(|text| text.unwrap_or(default).to_owned());
        let skiplist = match f.get("skiplist_words") {
            None => punctuation(),
            Some(list) => {
                let words =
                    list.as_array().and_then(|list| list.iter().map(|w| w.as_str().map(str::to_owned)).collect());
                words.ok_or_else(|| f.error("field `skiplist_words`: want a list of words"))?
            }
        };
        self.late = Some(Late {
            query_prefix: text("query_prefix", "[Q] ")?,
            document_prefix: text("document_prefix", "[D] ")?,
            query_length: f.size("query_length", 32)?,
            document_length: f.size("document_length", 180)?,
            expansion: f.flag("do_query_expansion", true)?,
            attend: f.flag("attend_to_expansion_tokens", false)?,
            skiplist,
        });
        Ok(())
    }
}

/// What PyLate and Stanford's ColBERT leave out of documents: Python's `string.punctuation`.
fn punctuation() -> Vec<String> {
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~".chars().map(String::from).collect()
}

/// A path of `modules.json` within the directory; nothing if it leads out of it.
fn within(directory: &Path, path: &str) -> Option<PathBuf> {
    let mut at = directory.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => at.push(name),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(at)
}
