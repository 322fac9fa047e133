//! Frequency scaling for contexts longer than in training, by the names of Hugging Face's `rope_type`.

use std::f64::consts::PI;

use serde::Deserialize;
use serde_json::{Value, json};

use super::OP;
use crate::{Error, error};

/// How frequencies are scaled. Fields have the names of `rope_parameters` in a `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum Scaling {
    /// No scaling.
    #[default]
    Default,
    /// Positions divided by a factor. Chen et al. 2023.
    Linear {
        /// The divisor of positions.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than in training ("NTK-aware").
    Dynamic {
        /// The rate of growth.
        factor: f64,
        /// The longest sequence in training.
        max_position_embeddings: usize,
    },
    /// Low frequencies are divided, high ones unchanged, with a ramp between. Peng et al. 2023 (YaRN), eq. 13–17.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// The longest sequence in training.
        original_max_position_embeddings: usize,
        /// Frequencies with at least this many rotations in that sequence are unchanged.
        #[serde(default = "thirty_two")]
        beta_fast: f64,
        /// Frequencies with at most this many rotations are divided by the whole factor.
        #[serde(default = "one")]
        beta_slow: f64,
        /// The magnitude; by default `0.1 ln factor + 1`.
        #[serde(default)]
        attention_factor: Option<f64>,
        /// Together with `mscale_all_dim`, the magnitude is the quotient of the magnitudes for both.
        #[serde(default)]
        mscale: Option<f64>,
        /// See `mscale`.
        #[serde(default)]
        mscale_all_dim: Option<f64>,
        /// Whether the ends of the ramp are rounded to whole channels.
        #[serde(default = "yes")]
        truncate: bool,
    },
    /// One divisor per pair, with other divisors for long sequences. Ding et al. 2024 (LongRoPE).
    LongRope {
        /// The divisors for sequences no longer than in training.
        short_factor: Vec<f64>,
        /// The divisors for longer sequences.
        long_factor: Vec<f64>,
        /// The longest sequence in training.
        original_max_position_embeddings: usize,
        /// The growth of the context, which sets the magnitude.
        factor: f64,
        /// The magnitude; by default `√(1 + ln factor / ln original)`.
        #[serde(default)]
        attention_factor: Option<f64>,
    },
    /// Low frequencies are divided, high ones unchanged, with interpolation by wavelength between. Llama 3.1.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// The longest sequence in training.
        original_max_position_embeddings: usize,
        /// A frequency is low if its wavelength exceeds the original length divided by this.
        low_freq_factor: f64,
        /// A frequency is high if its wavelength is below the original length divided by this.
        high_freq_factor: f64,
    },
    /// Only the first pairs are rotated, at the frequencies they have when all are. Gemma 4.
    Proportional {
        /// The share of the pairs that is rotated.
        partial_rotary_factor: f64,
        /// The divisor of frequencies.
        #[serde(default = "one")]
        factor: f64,
    },
}

/// The fields of all scalings, and those of the rotation itself, which `config.json` has in the same object.
const FIELDS: &[&str] = &[
    "rope_type",
    "factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "partial_rotary_factor",
    "rope_theta",
    "mrope_section",
    "mrope_interleaved",
    "finetuned",
];

fn one() -> f64 {
    1.0
}

fn thirty_two() -> f64 {
    32.0
}

fn yes() -> bool {
    true
}

/// The frequencies and the magnitude of the rotation.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// `ω` per pair, in radians per position
    pub inverse: Vec<f64>,
    /// `m`, the factor of cosines and sines
    pub factor: f64,
}

impl Scaling {
    /// Whether the frequencies depend on the length of the text.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Scaling::Dynamic { .. } | Scaling::LongRope { .. })
    }

    /// Reads `rope_scaling` or `rope_parameters` of a model's `config.json`. `null` means no scaling, fields that are
    /// `null` count as absent, and the older key `type` is read as `rope_type`. As in transformers, `longest`, the
    /// model's own `max_position_embeddings`, is the default of `original_max_position_embeddings`, of the length in
    /// `dynamic`, and of the numerator of `longrope`'s factor. An unknown field is an error; fields of the rotation
    /// itself and of other scalings are accepted.
    pub fn from_config(parameters: &Value, longest: Option<usize>) -> Result<Self, Error> {
        const SCALING: &str = "scaling";
        let mut fields = match parameters {
            Value::Null => return Ok(Self::Default),
            Value::Object(fields) => fields.clone(),
            other => return Err(Error::read(OP, SCALING, format!("{other} is not an object of fields"))),
        };
        fields.retain(|_, value| !value.is_null());
        let older = fields.remove("type");
        let kind = fields.entry("rope_type").or_insert_with(|| older.unwrap_or_else(|| "default".into()));
        let name = kind.as_str().unwrap_or_default().to_owned();
        let length = match name.as_str() {
            "dynamic" => Some("max_position_embeddings"),
            "yarn" | "longrope" | "llama3" => Some("original_max_position_embeddings"),
            _ => None,
        };
        if let Some(unknown) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
            let message = format!("unknown field `{unknown}`, want one of {}", FIELDS.join(", "));
            return Err(Error::read(OP, SCALING, message));
        }
        if let Some(field) = length.filter(|field| !fields.contains_key(*field)) {
            let Some(longest) = longest else {
                let missing =
                    format!("`{name}` needs `{field}`, or the parameter `max_position_embeddings` in its place");
                return Err(Error::read(OP, SCALING, missing));
            };
            fields.insert(field.into(), longest.into());
        }
        if let (Some(longest), Some(original)) = (longest, fields.get("original_max_position_embeddings")) {
            let growth = longest as f64 / original.as_f64().unwrap_or(1.0);
            if name == "longrope" {
                fields.entry("factor").or_insert_with(|| json!(growth));
            }
        }
        serde_json::from_value(Value::Object(fields)).map_err(|e| Error::read(OP, SCALING, e))
    }

    /// The frequencies of `width` channels with base `theta`, in a sequence of `length` tokens.
    pub fn frequencies(&self, width: usize, theta: f64, length: usize) -> Result<Frequencies, Error> {
        error::parameter(OP, "width", width.is_multiple_of(2), width, "an even number")?;
        error::parameter(OP, "theta", theta > 0.0 && theta.is_finite(), theta, "a positive number")?;
        let of = |theta: f64| (0..width / 2).map(move |i| theta.powf(-2.0 * i as f64 / width as f64));
        let positive = |name, x: f64| error::parameter(OP, name, x > 0.0 && x.is_finite(), x, "a positive number");
        let plain = |inverse: Vec<f64>| Frequencies { inverse, factor: 1.0 };
        Ok(match self {
            Scaling::Default => plain(of(theta).collect()),
            Scaling::Linear { factor } => {
                positive("factor", *factor)?;
                plain(of(theta).map(|w| w / factor).collect())
            }
            Scaling::Dynamic { factor, max_position_embeddings: most } => {
                positive("factor", *factor)?;
                positive("max_position_embeddings", *most as f64)?;
                error::parameter(OP, "width", width > 2, width, "more than 2 where the base is scaled")?;
                let longer = factor * length.max(*most) as f64 / *most as f64 - (factor - 1.0);
                plain(of(theta * longer.powf(width as f64 / (width as f64 - 2.0))).collect())
            }
            Scaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast,
                beta_slow,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            } => {
                positive("factor", *factor)?;
                positive("original_max_position_embeddings", *original as f64)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                // The channel with this many rotations in the longest sequence in training.
                let channel =
                    |turns: f64| width as f64 * (*original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (mut low, mut high) = (channel(*beta_fast), channel(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let inverse = of(theta).enumerate().map(|(i, w)| w / factor * ramp(i) + w * (1.0 - ramp(i))).collect();
                let magnitude = |scale: f64| if *factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let quotient = mscale.zip(*mscale_all_dim).filter(|(a, b)| *a != 0.0 && *b != 0.0);
                let own = quotient.map_or(magnitude(1.0), |(a, b)| magnitude(a) / magnitude(b));
                Frequencies { inverse, factor: attention_factor.unwrap_or(own) }
            }
            Scaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                factor,
                attention_factor,
            } => {
                positive("factor", *factor)?;
                positive("original_max_position_embeddings", *original as f64)?;
                for (name, factors) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                    let fits = factors.len() == width / 2 && factors.iter().all(|x| *x > 0.0);
                    error::parameter(OP, name, fits, factors, format!("{} positive numbers", width / 2))?;
                }
                let factors = if length > *original { long_factor } else { short_factor };
                let inverse = of(theta).zip(factors).map(|(w, by)| w / by).collect();
                let own = if *factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (*original as f64).ln()).sqrt() };
                Frequencies { inverse, factor: attention_factor.unwrap_or(own) }
            }
            Scaling::Llama3 { factor, original_max_position_embeddings, low_freq_factor, high_freq_factor } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                let above = high_freq_factor > low_freq_factor;
                error::parameter(
                    OP,
                    "high_freq_factor",
                    above,
                    high_freq_factor,
                    format!("more than {low_freq_factor}"),
                )?;
                let original = *original_max_position_embeddings as f64;
                let scaled = |w: f64| {
                    let wavelength = 2.0 * PI / w;
                    if wavelength < original / high_freq_factor {
                        w
                    } else if wavelength > original / low_freq_factor {
                        w / factor
                    } else {
                        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * w / factor + smooth * w
                    }
                };
                plain(of(theta).map(scaled).collect())
            }
            Scaling::Proportional { partial_rotary_factor, factor } => {
                positive("factor", *factor)?;
                let share = (0.0..=1.0).contains(partial_rotary_factor);
                error::parameter(OP, "partial_rotary_factor", share, partial_rotary_factor, "from 0 to 1")?;
                // The order of operations and the rounding are those of the Python code.
                let turning = (partial_rotary_factor * width as f64 / 2.0) as usize;
                plain(of(theta).enumerate().map(|(i, w)| if i < turning { w / factor } else { 0.0 }).collect())
            }
        })
    }
}
