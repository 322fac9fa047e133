//! A tensor in a checkpoint file, and reading a part of it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use longreach_simd::file::Mapped;
use longreach_simd::product::{Blocks, Format};
use safetensors::Dtype;

use super::numbers::mxfp4;
use super::packed::Packed;
use super::view::View;

/// A tensor in one of a checkpoint's files.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The index of the file.
    pub(super) file: usize,
    /// The type of the elements as they are read: bf16 for 4-bit floats, which it represents exactly.
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Stored,
}

/// The bytes of a tensor.
#[derive(Clone)]
pub(super) enum Stored {
    /// A range of bytes of the mapped file.
    There(Range<usize>),
    /// A tensor of a PyTorch file, read on demand.
    Pickled(pytorch_reader::Tensor),
    /// Bytes that are no range of one of the files: those of several tensors, or of a file of another format.
    Apart(Bytes),
    /// Blocks of a few bits, row after row. They are read as f32.
    Blocks(Format, Bytes),
    /// 4-bit floats with a scale for every 32 of a row (MXFP4), in two ranges of bytes of the mapped file.
    Mxfp4 {
        /// Two codes a byte.
        codes: Range<usize>,
        /// The index of the file that has the scales, and their range: a power of two a byte.
        scales: (usize, Range<usize>),
    },
    /// Integers of a few bits with scales and zero points in tensors of their own. They are read as f32.
    Packed(Box<Packed>),
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stored::There(range) => range.fmt(f),
            Stored::Pickled(tensor) => tensor.name.fmt(f),
            Stored::Apart(bytes) => bytes.len().fmt(f),
            Stored::Blocks(format, bytes) => write!(f, "{format} {}", bytes.len()),
            Stored::Mxfp4 { codes, .. } => codes.fmt(f),
            Stored::Packed(packed) => packed.codes().range.fmt(f),
        }
    }
}

impl Entry {
    /// Bytes of an element.
    fn size(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// The type of the elements as stored, and the bytes they take.
    pub(super) fn type_and_bytes(&self) -> (String, u64) {
        match &self.bytes {
            Stored::Blocks(format, bytes) => (format.name().to_owned(), bytes.len() as u64),
            Stored::Packed(packed) => packed.type_and_bytes(),
            _ => (format!("{:?}", self.dtype), (self.shape.iter().product::<usize>() * self.size()) as u64),
        }
    }

    /// The format of its blocks, or of those that are made of it; `None` if it does not consist of any.
    pub(super) fn format(&self) -> Option<Format> {
        match &self.bytes {
            Stored::Blocks(format, _) => Some(*format),
            Stored::Packed(packed) => packed.format(),
            _ => None,
        }
    }

    /// All its blocks, row after row; `None` if it has no format.
    pub(super) fn all_blocks(&self, files: &[(String, Bytes)]) -> Option<Bytes> {
        match &self.bytes {
            Stored::Blocks(_, bytes) => Some(bytes.clone()),
            Stored::Packed(packed) => packed.blocks(files, 0..*self.shape.first()?).map(Bytes::from),
            _ => None,
        }
    }

    /// All bytes as stored.
    pub(super) fn all(&self, files: &[(String, Bytes)]) -> Result<Bytes, String> {
        match &self.bytes {
            Stored::There(range) => Ok(files[self.file].1.slice(range.clone())),
            Stored::Pickled(tensor) => tensor.read().map(Bytes::from).map_err(|e| e.to_string()),
            Stored::Apart(bytes) => Ok(bytes.clone()),
            Stored::Blocks(format, _) => Err(format!("blocks of {format} are not read as bytes")),
            Stored::Mxfp4 { .. } => Err("4-bit floats in blocks are not read as bytes".into()),
            Stored::Packed(_) => Err("packed integers are not read as bytes".into()),
        }
    }

    /// The elements of a view, contiguous and in order. They are not copied if they lie so in the file.
    pub(super) fn read(&self, view: &View, files: &[(String, Bytes)]) -> Result<Bytes, String> {
        if let Stored::Mxfp4 { codes, scales: (file, scales) } = &self.bytes {
            let bounds = view.bounds();
            let (codes, scales) = (&files[self.file].1[codes.clone()], &files[*file].1[scales.clone()]);
            let numbers = mxfp4(codes, scales, bounds.clone());
            let mut bytes = Vec::with_capacity(2 * view.len());
            view.each(|at| bytes.extend_from_slice(&numbers[at - bounds.start].to_le_bytes()));
            return Ok(bytes.into());
        }
        if let Stored::Blocks(format, bytes) = &self.bytes {
            return self.dequantised(view, |rows, width| {
                let all = self.shape.iter().product::<usize>() / width;
                let blocks = Blocks::new(*format, [all, width], Arc::new(bytes.clone()), 0..bytes.len())
                    .map_err(|e| e.to_string())?;
                let mut numbers = vec![0.0; rows.len() * width];
                blocks.rows(rows).dequantise(&longreach_burn::context(), &mut numbers);
                Ok(numbers)
            });
        }
        if let Stored::Packed(packed) = &self.bytes {
            return self.dequantised(view, |rows, _| Ok(packed.numbers(files, rows)));
        }
        let (all, size) = (self.all(files)?, self.size());
        if view.is_contiguous() {
            let Range { start, end } = view.bounds();
            return Ok(all.slice(start * size..end * size));
        }
        let mut bytes = Vec::with_capacity(size * view.len());
        view.each(|at| bytes.extend_from_slice(&all[at * size..(at + 1) * size]));
        Ok(bytes.into())
    }

    /// The elements of a view as f32, of which `numbers` gives those of a range of rows of a width.
    fn dequantised(
        &self,
        view: &View,
        numbers: impl FnOnce(Range<usize>, usize) -> Result<Vec<f32>, String>,
    ) -> Result<Bytes, String> {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let bounds = view.bounds();
        let rows = bounds.start / width..bounds.end.div_ceil(width);
        let numbers = numbers(rows.clone(), width)?;
        let mut out = Vec::with_capacity(4 * view.len());
        view.each(|at| out.extend_from_slice(&numbers[at - rows.start * width].to_le_bytes()));
        Ok(out.into())
    }

    /// The view as a matrix of blocks: where it lies if its rows lie one behind another, otherwise a copy of them. `None`
    /// if it has no format, or does not consist of whole rows.
    pub(super) fn blocks(&self, view: &View, [rows, width]: [usize; 2], files: &[(String, Bytes)]) -> Option<Blocks> {
        let format = self.format()?;
        if self.shape.last() != Some(&width) {
            return None;
        }
        let row = format.row_bytes(width)?;
        let contiguous = view.is_contiguous().then(|| view.bounds().start / width);
        let of = |bytes: Bytes, start: usize| {
            Blocks::new(format, [rows, width], Arc::new(bytes), start..start + rows * row).ok()
        };
        match (&self.bytes, contiguous) {
            (Stored::Blocks(_, bytes), Some(first)) => return of(bytes.clone(), first * row),
            (Stored::Packed(packed), Some(first)) => {
                return of(packed.blocks(files, first..first + rows)?.into(), 0);
            }
            _ => {}
        }
        let bytes = self.all_blocks(files)?;
        let mut copy = Vec::with_capacity(rows * row);
        for at in view.rows(width)? {
            copy.extend_from_slice(bytes.get(at * row..(at + 1) * row)?);
        }
        of(copy.into(), 0)
    }

    /// Drops the pages of a view that is not read again.
    pub(super) fn release(&self, view: &View, mapped: &[Mapped]) {
        self.release_bytes(view, 0..view.len() * self.size(), mapped);
    }

    /// Drops the pages of a range of bytes of a view that is not read again, if the view is contiguous.
    pub(super) fn release_bytes(&self, view: &View, part: Range<usize>, mapped: &[Mapped]) {
        if let (Some(mapped), Stored::Packed(packed)) = (mapped.get(self.file), &self.bytes)
            && view.len() == self.shape.iter().product::<usize>()
        {
            mapped.release(packed.codes().range.clone());
        }
        if let (Some(mapped), Stored::There(range)) = (mapped.get(self.file), &self.bytes)
            && view.is_contiguous()
        {
            let start = range.start + view.bounds().start * self.size();
            mapped.release(start + part.start..start + part.end);
        }
    }
}
