//! Errors of calls on a device.

/// What a call on a device can fail with.
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
    /// A type that the kernel does not read.
    #[error("{op}: `{input}` is {found}, want {want}")]
    Type {
        /// The operation.
        op: &'static str,
        /// The input's name.
        input: &'static str,
        /// The permitted types.
        want: &'static str,
        /// The given type.
        found: &'static str,
    },
    /// A size that exceeds what kernels support.
    #[error("{op}: {what} is {found}, and the GPU kernels take at most {most}; the CPU kernels have no such bound")]
    Size {
        /// The operation.
        op: &'static str,
        /// The size.
        what: &'static str,
        /// Its bound.
        most: usize,
        /// The given size.
        found: usize,
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
    /// A pattern, or bounds of sequences, that the CPU's kernels refuse too.
    #[error(transparent)]
    Call(#[from] longreach_attention::Error),
    /// What the driver reported.
    #[error("{op}: the device failed: {message}")]
    Device {
        /// What was being done.
        op: &'static str,
        /// The driver's message.
        message: String,
    },
}

/// Checks a shape.
pub(crate) fn shape(op: &'static str, input: &'static str, want: &[usize], found: &[usize]) -> Result<(), Error> {
    if want == found {
        return Ok(());
    }
    Err(Error::Shape { op, input, want: want.to_vec(), found: found.to_vec() })
}

/// Checks the bound of a size.
pub(crate) fn most(op: &'static str, what: &'static str, most: usize, found: usize) -> Result<(), Error> {
    if found <= most { Ok(()) } else { Err(Error::Size { op, what, most, found }) }
}
