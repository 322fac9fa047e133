//! Errors of calls.

/// An invalid argument, with the operation's name and both sides of the mismatch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape that disagrees with those of the other inputs.
    #[error("{op}: `{input}` has shape {found:?}, want {want:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The input's name.
        input: &'static str,
        /// The required shape.
        want: Vec<usize>,
        /// The given shape.
        found: Vec<usize>,
    },
    /// An array whose tokens are not contiguous in memory.
    #[error("{op}: a token of `{input}` is not contiguous in memory; copy it to standard layout first")]
    Layout {
        /// The operation.
        op: &'static str,
        /// The input's name.
        input: &'static str,
    },
    /// A number of heads that is not a multiple of the number of groups.
    #[error("{op}: {heads} heads cannot share {groups} groups")]
    Groups {
        /// The operation.
        op: &'static str,
        /// The number of heads of the values.
        heads: usize,
        /// The number of groups of the keys and queries.
        groups: usize,
    },
    /// A parameter out of range.
    #[error("{op}: `{parameter}` is {found}, want {want}")]
    Parameter {
        /// The operation.
        op: &'static str,
        /// The parameter's name.
        parameter: &'static str,
        /// The permitted values.
        want: String,
        /// The given value.
        found: String,
    },
    /// JSON that cannot be deserialised.
    #[error("{op}: `{what}`: {message}")]
    Read {
        /// The operation.
        op: &'static str,
        /// What was being read.
        what: &'static str,
        /// The deserialiser's message, with the field's name.
        message: String,
    },
    /// Boundaries of packed sequences that do not cover the tokens in order.
    #[error(
        "{op}: packed boundaries must rise from 0 to {tokens} in a batch of one, found {found:?} in a batch of {batch}"
    )]
    Boundaries {
        /// The operation.
        op: &'static str,
        /// The number of tokens.
        tokens: usize,
        /// The number of rows of the batch.
        batch: usize,
        /// The given boundaries.
        found: Vec<usize>,
    },
}

impl Error {
    /// The same error under another operation's name: that of the call, rather than of a mechanism it is composed of.
    pub(crate) fn of(mut self, operation: &'static str) -> Self {
        match &mut self {
            Self::Shape { op, .. }
            | Self::Layout { op, .. }
            | Self::Groups { op, .. }
            | Self::Parameter { op, .. }
            | Self::Read { op, .. }
            | Self::Boundaries { op, .. } => *op = operation,
        }
        self
    }

    /// An error in the JSON of `what`, in one line.
    pub(crate) fn read(op: &'static str, what: &'static str, message: impl std::fmt::Display) -> Self {
        Self::Read { op, what, message: message.to_string() }
    }
}

/// Checks a shape.
pub(crate) fn shape(op: &'static str, input: &'static str, want: &[usize], found: &[usize]) -> Result<(), Error> {
    if want == found {
        return Ok(());
    }
    Err(Error::Shape { op, input, want: want.to_vec(), found: found.to_vec() })
}

/// Checks that sizes are not 0.
pub(crate) fn some<const N: usize>(op: &'static str, sizes: [(&'static str, usize); N]) -> Result<(), Error> {
    sizes.into_iter().try_for_each(|(name, size)| parameter(op, name, size > 0, size, "at least 1"))
}

/// Checks a number that kernels use in f32 and may double.
pub(crate) fn number(op: &'static str, name: &'static str, x: impl Into<f64>) -> Result<(), Error> {
    const MOST: f64 = f32::MAX as f64 / 2.0;
    let x = x.into();
    // Decoding steps are checked too, so the success path allocates nothing.
    if x.abs() <= MOST {
        return Ok(());
    }
    parameter(op, name, false, x, format!("a number of at most {MOST:.1e} in size"))
}

/// Checks a parameter.
pub(crate) fn parameter(
    op: &'static str,
    parameter: &'static str,
    ok: bool,
    found: impl std::fmt::Debug,
    want: impl Into<String>,
) -> Result<(), Error> {
    if ok {
        return Ok(());
    }
    Err(Error::Parameter { op, parameter, want: want.into(), found: format!("{found:?}") })
}

/// An error if `found` is a value: the first that is out of range.
pub(crate) fn none(
    op: &'static str,
    name: &'static str,
    found: Option<impl std::fmt::Debug>,
    want: impl Into<String>,
) -> Result<(), Error> {
    found.map_or(Ok(()), |found| parameter(op, name, false, found, want))
}
