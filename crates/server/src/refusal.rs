//! Errors as OpenAI's API has them: `{"error": {"message", "type", "param", "code"}}`.

use hyper::StatusCode;
use longreach_engine::Error;
use longreach_engine::scheduler::{Failure, Refused};
use serde_json::{Value, json};

/// Why a request was refused or failed.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    /// The path of the field, such as `messages[2].content`.
    pub(crate) param: Option<String>,
    pub(crate) message: String,
    /// Methods that the path has.
    pub(crate) allow: Option<&'static str>,
    /// Whether the connection is closed behind it, since a body was left unread.
    pub(crate) close: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, param: None, message: message.into(), allow: None, close: false }
    }

    /// A field with a value that is not taken.
    pub(crate) fn field(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, code, message) }
    }

    /// A value out of range.
    pub(crate) fn value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::field("invalid_value", param, message)
    }

    /// A value that would change the answer and is not supported.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::field("unsupported_parameter", param, message)
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "internal error: the request id names it")
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down")
    }

    /// The type that belongs to the status.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            403 => "permission_error",
            408 => "timeout_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Full { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message),
            Refused::Choices { .. } => Self::value("n", message),
            Refused::Empty => Self::value("prompt", message),
            _ => Self::shutting_down(),
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closing | Failure::Cancelled => Self::shutting_down(),
            Failure::Engine(error) => error.into(),
            _ => Self::internal(),
        }
    }
}

impl From<Error> for Refusal {
    /// Errors of texts are the client's; those of files and models are not, and are not told.
    fn from(error: Error) -> Self {
        let said = error.to_string();
        let bad = |code, said| Self::new(StatusCode::BAD_REQUEST, code, said);
        match error {
            Error::Template { message, .. } => bad("template_error", format!("the model's chat template: {message}")),
            Error::Grammar { .. } => bad("invalid_schema", said),
            Error::Token { .. } | Error::NoRow { .. } => bad("token_out_of_range", said),
            Error::TooLong { .. } | Error::Untrained { .. } => bad("context_length_exceeded", said),
            Error::Sampling { .. } | Error::Prompt { .. } | Error::Empty(_) => bad("invalid_value", said),
            Error::NotLate(_) | Error::Head { .. } | Error::NoTemplate(_) | Error::NoTokenizer(_) => {
                bad("model_not_for_task", said)
            }
            _ => Self::internal(),
        }
    }
}
