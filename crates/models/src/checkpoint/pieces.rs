//! Single weights as they are stored, for writing them to another file.

use bytes::Bytes;
use longreach_nn::Error as NnError;
use safetensors::Dtype;

use super::numbers::widen;
use super::rewrite::Values;
use super::stored::{Entry, Stored};
use super::view::View;
use super::{Checkpoint, Part};

/// Where a weight of a model lies in the files.
pub(super) struct Located {
    /// The names of the stored tensors that have it.
    pub(super) names: Vec<String>,
    /// These tensors, joined.
    pub(super) entry: Entry,
    /// Its part of them.
    pub(super) part: Part,
    /// The elements of the part.
    pub(super) view: View,
}

/// How a weight is stored.
pub(crate) struct PieceKind {
    /// The type of its elements as they are read: f32 for blocks, and bf16 for MXFP4.
    pub(crate) dtype: Dtype,
    /// Whether they are stored in blocks of MXFP4, which have no type of their own.
    pub(crate) mxfp4: bool,
    /// What the elements are, if not the model's values.
    pub(crate) values: Option<Values>,
}

/// A weight as it is stored.
pub(crate) struct Piece {
    /// The type of the elements.
    pub(crate) dtype: Dtype,
    /// The elements, in order.
    pub(crate) bytes: Bytes,
    /// What the elements are, if not the model's values.
    pub(crate) values: Option<Values>,
}

impl Piece {
    /// The stored numbers; `None` if the type is none of floats.
    pub(crate) fn numbers(&self) -> Option<Vec<f32>> {
        widen(self.dtype, &self.bytes)
    }
}

impl Checkpoint {
    /// The place of the model's weight `name`, which has this shape in the file. Errors if it is missing or has another
    /// shape.
    pub(super) fn locate(&self, name: &str, shape: &[usize]) -> Result<Located, NnError> {
        let Some((names, part)) = self.find(name) else {
            return Err(self.missing(name));
        };
        let entry = match &names[..] {
            [one] => self.tensors[one].clone(),
            several => self.joined(several)?,
        };
        let want = part.stored_shape(shape);
        // The sizes of the model are those of the file before anything is computed from them.
        match (entry.shape == want).then(|| part.view(shape)).flatten() {
            Some(view) => Ok(Located { names, entry, part, view }),
            None => {
                let (origin, name) = (self.files[entry.file].0.clone(), names.join("`, `"));
                Err(NnError::Shape { origin, name, want, found: entry.shape })
            }
        }
    }

    /// How the model's weight `name`, which has this shape in the file, is stored. Errors as [`Checkpoint::piece`] does.
    pub(crate) fn piece_kind(&self, name: &str, shape: &[usize]) -> Result<PieceKind, NnError> {
        let Located { entry, part, .. } = self.locate(name, shape)?;
        let mxfp4 = matches!(entry.bytes, Stored::Mxfp4 { .. });
        Ok(PieceKind { dtype: entry.dtype, mxfp4, values: part.values() })
    }

    /// Marks the stored tensors of the model's weight `name` as used.
    pub(crate) fn mark_used(&mut self, name: &str) {
        self.used.extend(self.find(name).into_iter().flat_map(|(names, _)| names));
    }

    /// The model's weight `name`, which has this shape in the file, as it is stored. Errors if it is missing, has another
    /// shape, or cannot be read.
    pub(crate) fn piece(&self, name: &str, shape: &[usize]) -> Result<Piece, NnError> {
        let Located { names, entry, part, view } = self.locate(name, shape)?;
        let wrong = |e| {
            let message = format!("tensor `{}`: {e}", names.join("`, `"));
            NnError::Origin { origin: self.files[entry.file].0.clone(), message }
        };
        let bytes = entry.read(&view, &self.files).map_err(wrong)?;
        Ok(Piece { dtype: entry.dtype, bytes, values: part.values() })
    }

    /// Drops the pages of the model's weight `name`, which is not read again.
    pub(crate) fn release_piece(&self, name: &str, shape: &[usize]) {
        if let Ok(Located { names, entry, view, .. }) = self.locate(name, shape)
            && names.len() == 1
            && matches!(entry.bytes, Stored::There(_))
        {
            entry.release(&view, &self.mapped);
        }
    }
}
