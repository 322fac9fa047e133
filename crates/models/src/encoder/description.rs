//! What an encoder's model type says of a configuration.

use longreach_nn::{Activation, BodyConfig, HeadConfig};

use crate::{Error, Fields, Rewrites};

/// A supported encoder model type.
#[derive(Clone, Copy, Debug)]
pub struct EncoderArchitecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The mechanism of its attention.
    pub mechanism: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// Parses its configuration.
    pub describe: fn(&Fields) -> Result<EncoderDescription, Error>,
}

/// The task of a checkpoint's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Masked language modelling: scores of the vocabulary for every token.
    MaskedLm,
    /// Sequence classification: scores of labels for a text.
    Sequence,
    /// Token classification: scores of labels for every token.
    Token,
    /// Extractive question answering: for every token, the scores of being the first and the last token of the
    /// answer.
    Question,
}

impl Task {
    /// The task of the head named in `architectures`, if there is one.
    pub(crate) fn of(fields: &Fields) -> Option<Task> {
        let named = fields.get("architectures")?.as_array()?.first()?.as_str()?;
        let ends = |end: &str| named.ends_with(end);
        [
            ("ForMaskedLM", Task::MaskedLm),
            ("ForPreTraining", Task::MaskedLm),
            ("ModelWithLMHead", Task::MaskedLm),
            ("LMHeadModel", Task::MaskedLm),
            ("ForCausalLM", Task::MaskedLm),
            ("ForSequenceClassification", Task::Sequence),
            ("ForTokenClassification", Task::Token),
            ("ForQuestionAnswering", Task::Question),
        ]
        .into_iter()
        .find(|(end, _)| ends(end))
        .map(|(_, task)| task)
    }

    /// A description of the head.
    pub fn about(self) -> &'static str {
        match self {
            Task::MaskedLm => "a language model's head",
            Task::Sequence => "a head that classifies texts",
            Task::Token => "a head that classifies tokens",
            Task::Question => "a head that answers questions",
        }
    }
}

/// The transformation of label scores, as in the classification pipeline of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreScale {
    /// Softmax: probabilities of mutually exclusive labels.
    Softmax,
    /// The logistic function of each score: labels are independent.
    Sigmoid,
    /// The raw scores: regression, and rerankers that ask for them.
    Identity,
}

impl ScoreScale {
    /// Determined by the configuration of a sentence-transformers cross-encoder, else by `problem_type`, else by the
    /// number of labels.
    pub(crate) fn of(fields: &Fields, labels: usize) -> Result<Self, Error> {
        let of_cross_encoder = fields.objects("sentence_transformers")?;
        let own = match of_cross_encoder.first() {
            Some(own) => own.text("activation_fn")?,
            None => None,
        };
        let own = match own {
            Some(own) => Some(own),
            None => fields.text("sbert_ce_default_activation_function")?,
        };
        if let Some(function) = own.filter(|_| labels == 1) {
            return match function.rsplit('.').next().unwrap_or_default() {
                "Sigmoid" => Ok(ScoreScale::Sigmoid),
                "Identity" => Ok(ScoreScale::Identity),
                _ => Err(fields.error(format!(
                    "activation `{function}` of a cross-encoder is not supported: want Sigmoid or Identity"
                ))),
            };
        }
        match fields.text("problem_type")? {
            Some("regression") => Ok(ScoreScale::Identity),
            Some("multi_label_classification") => Ok(ScoreScale::Sigmoid),
            None | Some("single_label_classification") if labels == 1 => Ok(ScoreScale::Sigmoid),
            None | Some("single_label_classification") => Ok(ScoreScale::Softmax),
            Some(other) => {
                let want = "want regression, single_label_classification or multi_label_classification";
                Err(fields.error(format!("field `problem_type`: {want}, found \"{other}\"")))
            }
        }
    }
}

/// An encoder as described by its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderDescription {
    /// `model_type`.
    pub model_type: &'static str,
    /// The body: everything except the task heads.
    pub body: BodyConfig,
    /// The name of the pooler within the body and its activation, for types that may have one.
    pub pooler: Option<(&'static str, Activation)>,
    /// The task head, if there is one.
    pub head: Option<(Task, HeadConfig)>,
    /// The names of the labels, for heads that score labels.
    pub labels: Vec<String>,
    /// The maximum number of tokens of a text, if there is one.
    pub longest: Option<usize>,
    /// The padding token.
    pub pad: u32,
    /// The token that separates two texts.
    pub separator: Option<u32>,
    /// The default global tokens, which depend on the head.
    pub global: GlobalByDefault,
    /// Whether token types mark the question: as in BigBird, the question's tokens have type 0 by default and all
    /// others type 1, and no answer starts or ends in the question.
    pub questions: bool,
    /// What its checkpoints store differently.
    pub rewrites: Rewrites,
}

/// The tokens that are global by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalByDefault {
    /// No token.
    None,
    /// The first token.
    First,
    /// All tokens before the first separator: the question.
    Question,
}
