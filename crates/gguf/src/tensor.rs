//! Tensors of a file, and the check of where they lie.

use std::fmt;

use bytes::Bytes;

use crate::gguf::Part;
use crate::{Error, TensorType};

/// The most axes of a tensor.
pub(crate) const MOST_AXES: usize = 4;

/// A tensor's entry in the header.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) name: Box<str>,
    pub(crate) axes: usize,
    /// The sizes of the axes, outermost first; 0 behind the last.
    pub(crate) sizes: [usize; MOST_AXES],
    pub(crate) tensor_type: TensorType,
    /// Where the data begin: in the data, as the file has it, until [`place`] makes it a position in the file.
    pub(crate) start: usize,
    /// The size of the data.
    pub(crate) bytes: usize,
    /// The index of the file.
    pub(crate) part: usize,
}

/// Turns the offsets of tensors into positions in the file.
///
/// `end` is where the header ends, and `length` is that of the file. Errors if an offset is not a multiple of the
/// alignment, if data reach past the end of the file, or if tensors overlap.
pub(crate) fn place(
    file: &str,
    tensors: &mut [Info],
    end: usize,
    alignment: usize,
    length: usize,
) -> Result<(), Error> {
    for tensor in &mut *tensors {
        let wrong = |message| Error::tensor(file, &tensor.name, message);
        let (offset, bytes) = (tensor.start, tensor.bytes);
        if !offset.is_multiple_of(alignment) {
            return Err(wrong(format!("begins at offset {offset} of the data, want a multiple of {alignment}")));
        }
        let start = end.checked_next_multiple_of(alignment).and_then(|data| data.checked_add(offset));
        let range = start.and_then(|start| Some((start, start.checked_add(bytes)?)));
        match range {
            Some((start, end)) if end <= length => tensor.start = start,
            Some((_, end)) => {
                let missing = end - length;
                return Err(wrong(format!(
                    "cut short by {missing} bytes: ends at byte {end}, but the file has only {length}; \
                     download it again"
                )));
            }
            None => return Err(wrong(format!("has {bytes} bytes at the impossible offset {offset}"))),
        }
    }
    let mut order: Vec<&Info> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.start);
    for pair in order.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let end = first.start + first.bytes;
        if end > second.start {
            let (name, at) = (first.name.escape_debug(), second.start);
            let message = format!("begins at byte {at}, where tensor `{name}` lies, which ends at byte {end}");
            return Err(Error::tensor(file, &second.name, message));
        }
    }
    Ok(())
}

/// A tensor of a file.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub(crate) info: &'a Info,
    pub(crate) part: &'a Part,
}

impl<'a> Tensor<'a> {
    /// The name.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// The sizes of the axes, outermost first, as PyTorch has them: a matrix is `[rows, columns]`. 1 to 4 axes, none
    /// of which is 0.
    pub fn shape(&self) -> &'a [usize] {
        &self.info.sizes[..self.info.axes]
    }

    /// The type of the elements.
    pub fn tensor_type(&self) -> TensorType {
        self.info.tensor_type
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// The data: all rows one after another, each of which is a whole number of blocks.
    pub fn data(&self) -> &'a [u8] {
        &self.part.bytes[self.info.start..self.info.start + self.info.bytes]
    }

    /// The data as [`Bytes`], which keep the file mapped. Copies nothing.
    pub fn bytes(&self) -> Bytes {
        self.part.bytes.slice(self.info.start..self.info.start + self.info.bytes)
    }

    /// The name of the file that contains the tensor.
    pub fn file(&self) -> &'a str {
        &self.part.file
    }

    /// Drops the data from memory; they are read from disk again on the next access.
    pub fn release(&self) {
        if let Some(mapped) = &self.part.mapped {
            mapped.release(self.info.start..self.info.start + self.info.bytes);
        }
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.name(), self.shape(), self.tensor_type())
    }
}
