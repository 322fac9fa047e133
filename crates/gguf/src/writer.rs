//! Writing the data of a file behind its header.

use std::io::Write;

use crate::{Declared, Error};

/// Takes the data of the tensors of a file, one after another in the order in which the header declares them.
///
/// The data of a tensor are given whole, by [`Writer::tensor`], or piece by piece, by [`Writer::begin`] and
/// [`Writer::extend`]. An error names the tensor whose data differ from the declaration. A file is complete only after
/// [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    tensors: std::vec::IntoIter<Declared>,
    alignment: usize,
    /// The tensor whose data are being written.
    current: Option<Declared>,
    /// How many bytes of it are missing.
    missing: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(mut out: W, header: &[u8], tensors: Vec<Declared>, alignment: usize) -> Result<Self, Error> {
        out.write_all(header).map_err(Error::Write)?;
        Ok(Self { out, tensors: tensors.into_iter(), alignment, current: None, missing: 0 })
    }

    /// Writes the data of the next tensor, which has to be `name`. Errors if it is another, if the size of the data is
    /// not what was declared, or if the output cannot be written.
    pub fn tensor(&mut self, name: &str, data: &[u8]) -> Result<(), Error> {
        self.begin(name)?;
        self.extend(data)?;
        self.complete()
    }

    /// Begins the next tensor, which has to be `name`. Errors if it is another, or if the data of the one before are
    /// not complete.
    pub fn begin(&mut self, name: &str) -> Result<(), Error> {
        self.complete()?;
        match self.tensors.as_slice().first() {
            Some(next) if next.name == name => {}
            Some(next) => {
                let next = next.name.escape_debug();
                return Err(wrong(name, format!("is not the next tensor, which is `{next}`")));
            }
            None => return Err(wrong(name, "comes after the last tensor that was declared")),
        }
        self.current = self.tensors.next();
        self.missing = self.current.as_ref().map_or(0, |tensor| tensor.bytes);
        Ok(())
    }

    /// Writes the next piece of the tensor's data. Errors if there are more data than declared, if no tensor was begun,
    /// or if the output cannot be written.
    pub fn extend(&mut self, data: &[u8]) -> Result<(), Error> {
        let Some(Declared { name, bytes, .. }) = &self.current else {
            return Err(Error::content("data were given before a tensor was begun"));
        };
        let Some(missing) = self.missing.checked_sub(data.len() as u64) else {
            let found = u128::from(bytes - self.missing) + data.len() as u128;
            return Err(wrong(name, format!("{bytes} bytes were declared, but {found} were given")));
        };
        self.out.write_all(data).map_err(Error::Write)?;
        self.missing = missing;
        if missing == 0 && !data.is_empty() {
            let padding = bytes.next_multiple_of(self.alignment as u64) - bytes;
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding), &mut self.out)
                .map_err(Error::Write)?;
        }
        Ok(())
    }

    /// Completes the file and returns the output, flushed. Errors if data are missing, or if the output cannot be
    /// written.
    pub fn finish(mut self) -> Result<W, Error> {
        self.complete()?;
        if let Some(next) = self.tensors.next() {
            return Err(wrong(&next.name, "was declared, but its data were not given"));
        }
        self.out.flush().map_err(Error::Write)?;
        Ok(self.out)
    }

    /// Checks that the current tensor, if any, is complete.
    fn complete(&self) -> Result<(), Error> {
        match &self.current {
            Some(Declared { name, bytes, .. }) if self.missing > 0 => {
                let found = bytes - self.missing;
                Err(wrong(name, format!("{bytes} bytes were declared, but only {found} were given")))
            }
            _ => Ok(()),
        }
    }
}

fn wrong(tensor: &str, message: impl std::fmt::Display) -> Error {
    Error::content(format!("tensor `{}`: {message}", tensor.escape_debug()))
}
