//! What can be wrong with a call.

/// An input that does not fit, with the operation and both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape that disagrees with the other inputs.
    #[error("{op}: `{input}` has shape {found:?}, want {want:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which input.
        input: &'static str,
        /// The shape it should have.
        want: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A view whose tokens are not contiguous in memory.
    #[error("{op}: a token of `{input}` is not contiguous in memory; copy it to standard layout first")]
    Layout {
        /// The operation.
        op: &'static str,
        /// Which input.
        input: &'static str,
    },
    /// Heads that cannot be divided among the groups.
    #[error("{op}: {heads} heads cannot share {groups} groups")]
    Groups {
        /// The operation.
        op: &'static str,
        /// Heads of the values.
        heads: usize,
        /// Groups of keys and queries.
        groups: usize,
    },
    /// A parameter out of its range.
    #[error("{op}: `{parameter}` is {found}, want {want}")]
    Parameter {
        /// The operation.
        op: &'static str,
        /// Which parameter.
        parameter: &'static str,
        /// What it may be.
        want: String,
        /// What it is.
        found: String,
    },
    /// JSON that is not what is read from it.
    #[error("{op}: `{what}`: {message}")]
    Read {
        /// The operation.
        op: &'static str,
        /// What was read.
        what: &'static str,
        /// What is wrong, with the field's name.
        message: String,
    },
    /// Boundaries of packed sequences that do not cover the tokens in order.
    #[error(
        "{op}: packed boundaries must rise from 0 to {tokens} in a batch of one, found {found:?} in a batch of {batch}"
    )]
    Boundaries {
        /// The operation.
        op: &'static str,
        /// How many tokens there are.
        tokens: usize,
        /// How many rows the batch has.
        batch: usize,
        /// What was given.
        found: Vec<usize>,
    },
}

impl Error {
    /// The same, of the operation that was called, not of the one it is made of.
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

    /// JSON of `what` that cannot be read, in one line.
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

/// Checks a number that kernels compute with in f32, where it may be doubled.
pub(crate) fn number(op: &'static str, name: &'static str, x: impl Into<f64>) -> Result<(), Error> {
    const MOST: f64 = f32::MAX as f64 / 2.0;
    let x = x.into();
    // Steps are checked, too, and allocate nothing where all is well.
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

/// An error if a value was found that is none of those wanted.
pub(crate) fn none(
    op: &'static str,
    name: &'static str,
    found: Option<impl std::fmt::Debug>,
    want: impl Into<String>,
) -> Result<(), Error> {
    found.map_or(Ok(()), |found| parameter(op, name, false, found, want))
}
