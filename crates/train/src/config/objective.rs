//! The field `objective`: what a model learns.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What a model learns. Decoders learn `causal`, models of tables `table`, encoders all others.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// The next token. Columns: `text`; or `prompt` and `completion`; or `messages`, a list of `role` and `content`, in the model's chat template.
    Causal {
        /// The tokens that count.
        #[serde(default)]
        loss_on: LossOn,
    },
    /// Tokens that were masked. Devlin et al. 2019, §3.1. Column: `text`.
    Masked {
        /// The part of the tokens that is predicted. Of these, 80 % are replaced by the mask, 10 % by another token, and 10 % stay.
        #[serde(default = "masked")]
        part: f64,
    },
    /// A label, several labels, or a number for a text or a pair of texts. Columns: `text`, perhaps `pair`, and `label`; or `labels`, a list of names.
    Texts {
        /// What is predicted.
        #[serde(default)]
        of: TextsOf,
        /// The labels, in order; those that occur in the data if empty.
        #[serde(default)]
        labels: Vec<String>,
        /// The share of a label that is spread over all labels, at least 0 and below 1. Szegedy et al. 2016.
        #[serde(default)]
        label_smoothing: f64,
        /// The weights of labels in the loss, by name, above 0; 1 for those that are not listed.
        #[serde(default)]
        class_weights: BTreeMap<String, f64>,
    },
    /// A label for every word, on its first token. Columns: `tokens`, a list of words, and `tags`, a list of labels.
    Tokens {
        /// The labels, in order; those that occur in the data if empty.
        #[serde(default)]
        labels: Vec<String>,
        /// The share of a label that is spread over all labels, at least 0 and below 1. Szegedy et al. 2016.
        #[serde(default)]
        label_smoothing: f64,
        /// The weights of labels in the loss, by name, above 0; 1 for those that are not listed.
        #[serde(default)]
        class_weights: BTreeMap<String, f64>,
    },
    /// Where the answer to a question begins and ends in a text. Columns: `question`, `context`, and `answer`, the text of the answer, or an object with
    /// `text` and `answer_start` as in SQuAD.
    Spans {
        /// The overlap of the windows of a long text, in tokens.
        #[serde(default = "stride")]
        stride: usize,
    },
    /// Vectors of texts that belong together are closer than those of other texts of the step: multiple negatives ranking (Henderson et al. 2017). Columns:
    /// `anchor`, `positive`, and perhaps `negative`, a text or a list of texts.
    Contrastive {
        /// The factor of the cosines.
        #[serde(default = "scale")]
        scale: f64,
        /// Whether positives also look for their anchor.
        #[serde(default)]
        symmetric: bool,
    },
    /// A column of a table, from others.
    Table {
        /// The name of the column to predict. Rows without a value are not learnt.
        answer: String,
        /// Whether it holds labels or numbers.
        #[serde(default)]
        of: TableOf,
        /// The columns to predict from: numbers if all values to learn are, categories otherwise. With `from`, those of the model, if
        /// empty.
        #[serde(default)]
        columns: Vec<String>,
        /// Those of `columns` that are categories although their values are numbers.
        #[serde(default)]
        categories: Vec<String>,
        /// The most bins of equally many values in the code of a number; the code is the number itself if 0.
        #[serde(default = "bins")]
        bins: usize,
    },
}

impl Default for Objective {
    fn default() -> Self {
        Objective::Causal { loss_on: LossOn::All }
    }
}

impl Objective {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::Causal { .. } => "causal",
            Objective::Masked { .. } => "masked",
            Objective::Texts { .. } => "texts",
            Objective::Tokens { .. } => "tokens",
            Objective::Spans { .. } => "spans",
            Objective::Contrastive { .. } => "contrastive",
            Objective::Table { .. } => "table",
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Objective::Masked { part } if !(*part > 0.0 && *part < 1.0) => {
                Err(format!("`objective.part`: want above 0 and below 1, found {part}"))
            }
            Objective::Contrastive { scale, .. } if !(*scale > 0.0 && scale.is_finite()) => {
                Err(format!("`objective.scale`: want a number above 0, found {scale}"))
            }
            Objective::Texts { of, label_smoothing, class_weights, .. }
                if *of != TextsOf::One && (*label_smoothing != 0.0 || !class_weights.is_empty()) =>
            {
                Err("`objective`: `label_smoothing` and `class_weights` go with `of = \"one\"`".into())
            }
            Objective::Texts { label_smoothing, class_weights, .. }
            | Objective::Tokens { label_smoothing, class_weights, .. } => {
                if !(0.0..1.0).contains(label_smoothing) {
                    return Err(format!(
                        "`objective.label_smoothing`: want at least 0 and below 1, found {label_smoothing}"
                    ));
                }
                match class_weights.iter().find(|(_, weight)| !(**weight > 0.0 && weight.is_finite())) {
                    Some((name, weight)) => {
                        Err(format!("`objective.class_weights.{name}`: want a number above 0, found {weight}"))
                    }
                    None => Ok(()),
                }
            }
            Objective::Table { answer, columns, categories, bins, .. } => {
                if let Some(name) = categories.iter().find(|name| !columns.contains(name)) {
                    return Err(format!("`objective.categories`: `{name}` is not one of `objective.columns`"));
                }
                let twice = |(i, name): (usize, &String)| columns[..i].contains(name) || name == answer;
                if let Some((_, name)) = columns.iter().enumerate().find(|of| twice(*of)) {
                    return Err(format!("`objective.columns`: `{name}` is there twice, or is the answer"));
                }
                match bins {
                    0..=1024 => Ok(()),
                    _ => Err(format!("`objective.bins`: want at most 1024, found {bins}")),
                }
            }
            _ => Ok(()),
        }
    }
}

/// What a column to predict holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TableOf {
    /// Labels.
    #[default]
    Label,
    /// Numbers.
    Number,
}

fn bins() -> usize {
    16
}

/// The tokens whose prediction counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// All.
    #[default]
    All,
    /// Those of the completion, or of the assistant's messages.
    Completion,
}

/// What is predicted of a text.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TextsOf {
    /// One of the labels.
    #[default]
    One,
    /// Any number of the labels.
    Several,
    /// A number.
    Number,
}

fn masked() -> f64 {
    0.15
}

fn stride() -> usize {
    128
}

fn scale() -> f64 {
    20.0
}
