//! A tensor in a checkpoint file, and reading a part of it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use longreach_simd::file::Mapped;
use longreach_simd::product::{Blocks, Format};
use safetensors::Dtype;

use super::numbers::mxfp4;
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
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stored::There(range) => range.fmt(f),
            Stored::Pickled(tensor) => tensor.name.fmt(f),
            Stored::Apart(bytes) => bytes.len().fmt(f),
            Stored::Blocks(format, bytes) => write!(f, "{format} {}", bytes.len()),
            Stored::Mxfp4 { codes, .. } => codes.fmt(f),
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
            _ => (format!("{:?}", self.dtype), (self.shape.iter().product::<usize>() * self.size()) as u64),
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
            return self.dequantised(view, *format, bytes);
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

    /// The elements of a view of blocks, as f32.
    fn dequantised(&self, view: &View, format: Format, bytes: &Bytes) -> Result<Bytes, String> {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let bounds = view.bounds();
        let rows = bounds.start / width..bounds.end.div_ceil(width);
        let all = self.shape.iter().product::<usize>() / width;
        let blocks =
            Blocks::new(format, [all, width], Arc::new(bytes.clone()), 0..bytes.len()).map_err(|e| e.to_string())?;
        let mut numbers = vec![0.0; rows.len() * width];
        blocks.rows(rows.clone()).dequantise(&longreach_burn::context(), &mut numbers);
        let mut out = Vec::with_capacity(4 * view.len());
        view.each(|at| out.extend_from_slice(&numbers[at - rows.start * width].to_le_bytes()));
        Ok(out.into())
    }

    /// The view as a matrix of blocks where it lies; `None` if it is not stored in blocks, or its rows do not lie one
    /// behind another.
    pub(super) fn blocks(&self, view: &View, [rows, width]: [usize; 2]) -> Option<Blocks> {
        let Stored::Blocks(format, bytes) = &self.bytes else { return None };
        if !view.is_contiguous() || self.shape.last() != Some(&width) {
            return None;
        }
        let row = format.row_bytes(width)?;
        let start = view.bounds().start / width * row;
        Blocks::new(*format, [rows, width], Arc::new(bytes.clone()), start..start + rows * row).ok()
    }

    /// Drops the pages of a view that is not read again.
    pub(super) fn release(&self, view: &View, mapped: &[Mapped]) {
        self.release_bytes(view, 0..view.len() * self.size(), mapped);
    }

    /// Drops the pages of a range of bytes of a view that is not read again, if the view is contiguous.
    pub(super) fn release_bytes(&self, view: &View, part: Range<usize>, mapped: &[Mapped]) {
        if let (Some(mapped), Stored::There(range)) = (mapped.get(self.file), &self.bytes)
            && view.is_contiguous()
        {
            let start = range.start + view.bounds().start * self.size();
            mapped.release(start + part.start..start + part.end);
        }
    }
}
