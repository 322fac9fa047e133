//! What stands behind an encoder to make vectors of its hidden states, as sentence-transformers and PyLate write it down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use longreach_models::{Checkpoint, Fields};
use longreach_nn::{Activation, Bias, Builder, Linear};
use serde_json::Value;

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
    fn load(directory: &Path) -> Result<Self, Error> {
        let fields = fields(&directory.join("config.json"))?;
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

    /// How many numbers come out.
    pub(crate) fn outputs(&self) -> usize {
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
    pub(crate) dense: Vec<Dense>,
    /// Whether vectors are divided by their length.
    pub normalize: bool,
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
            dense: Vec::new(),
            normalize: false,
            prompts: BTreeMap::new(),
            default_prompt: None,
            late: None,
            limit: None,
            lower: false,
        }
    }

    /// The pipeline of a directory, and where in it the encoder is.
    pub(crate) fn load(directory: &Path) -> Result<(Self, PathBuf), Error> {
        let mut pipeline = Self::plain();
        let mut encoder = directory.to_owned();
        let file = directory.join("modules.json");
        let wrong = |message: String| Error::Pipeline { file: file.clone(), message };
        if !file.exists() {
            return Ok((pipeline, encoder));
        }
        let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
        let modules: Vec<Value> =
            serde_json::from_str(&text).map_err(|e| wrong(format!("want a list of modules: {e}")))?;
        for module in &modules {
            let part = |name: &str| {
                let found = module.get(name).and_then(Value::as_str);
                found.ok_or_else(|| wrong(format!("a module without a text `{name}`")))
            };
            let (path, kind) = (part("path")?, part("type")?);
            if Path::new(path).components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
                return Err(wrong(format!("module `{kind}`: path `{path}` leads out of the directory")));
            }
            let at = directory.join(path);
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {
                    pipeline.read_encoder(&at)?;
                    encoder = at;
                }
                "Pooling" => pipeline.read_pooling(&at.join("config.json"))?,
                "Dense" => pipeline.dense.push(Dense::load(&at)?),
                "Normalize" => pipeline.normalize = true,
                // It does nothing outside training.
                "Dropout" => {}
                other => {
                    let known = "Transformer, Pooling, Dense, Normalize and Dropout";
                    return Err(wrong(format!("module `{other}` is not known here; known are {known}")));
                }
            }
        }
        let file = directory.join("config_sentence_transformers.json");
        if file.exists() {
            pipeline.read_prompts(&fields(&file)?)?;
        }
        Ok((pipeline, encoder))
    }

    fn read_encoder(&mut self, at: &Path) -> Result<(), Error> {
        let names = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];
        let files = names.map(|name| at.join(format!("sentence_{name}_config.json")));
        if let Some(file) = files.iter().find(|file| file.exists()) {
            let f = fields(file)?;
            self.limit = f.some_size("max_seq_length")?;
            self.lower = f.flag("do_lower_case", false)?;
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

    fn read_prompts(&mut self, f: &Fields) -> Result<(), Error> {
        if let Some(prompts) = f.get("prompts") {
            let map =
                prompts.as_object().ok_or_else(|| f.error("field `prompts`: want an object of names and texts"))?;
            for (name, text) in map {
                let text = text.as_str().ok_or_else(|| f.error(format!("field `prompts`: `{name}`: want a text")))?;
                self.prompts.insert(name.clone(), text.to_owned());
            }
        }
        self.default_prompt = f.text("default_prompt_name")?.map(str::to_owned);
        if let Some(name) = &self.default_prompt
            && !self.prompts.contains_key(name)
        {
            return Err(f.error(format!("field `default_prompt_name`: there is no prompt `{name}`")).into());
        }
        if f.text("model_type")? != Some("ColBERT") && !f.given("query_length") {
            return Ok(());
        }
        let text = |name: &str, default: &str| f.text(name).map(|text| text.unwrap_or(default).to_owned());
        let skiplist = match f.get("skiplist_words") {
            None => "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~".chars().map(String::from).collect(),
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
