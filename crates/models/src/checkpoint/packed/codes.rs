//! Unpacking codes and zero points.

use std::ops::Range;

use bytes::Bytes;

use super::{Order, Packed};

/// Where the code of each of eight rows is in a word of AWQ.
const AWQ: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Packed {
    /// Writes the codes of a range of rows, a byte each, row after row. Those with sign get half of the range added.
    pub(super) fn unpack(&self, files: &[(String, Bytes)], rows: Range<usize>, out: &mut [u8]) {
        let (bytes, [all, width], bits) = (self.codes.of(files), self.shape, self.bits);
        let mask = ((1_usize << bits) - 1) as u8;
        match self.order {
            Order::Rows => {
                let row_bytes = (width * bits).div_ceil(32) * 4;
                for (row, out) in rows.zip(out.chunks_mut(width)) {
                    let bytes = &bytes[row * row_bytes..][..row_bytes];
                    for (column, code) in out.iter_mut().enumerate() {
                        *code = bytes[column * bits / 8] >> (column * bits % 8) & mask;
                    }
                }
            }
            Order::Signed => {
                let bytes = &bytes[rows.start * width..rows.end * width];
                out.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte ^ 0x80);
            }
            Order::Float8 => out.copy_from_slice(&bytes[rows.start * width..rows.end * width]),
            Order::Gptq { .. } => {
                for column in 0..width {
                    let at = column * bits;
                    let words = &bytes[at / 32 * all * 4..][..all * 4];
                    for (i, row) in rows.clone().enumerate() {
                        out[i * width + column] = words[row * 4 + at % 32 / 8] >> (at % 8) & mask;
                    }
                }
            }
            Order::Awq => {
                for column in 0..width {
                    let words = &bytes[column * all / 2..][..all / 2];
                    for (i, row) in rows.clone().enumerate() {
                        let at = AWQ[row % 8];
                        out[i * width + column] = words[row / 8 * 4 + at / 2] >> (at % 2 * 4) & mask;
                    }
                }
            }
        }
    }

    /// The zero point of a group of a row, among codes as [`Packed::unpack`] writes them.
    pub(super) fn zero(&self, files: &[(String, Bytes)], row: usize, group: usize) -> i32 {
        let (rows, bits) = (self.shape[0], self.bits);
        let mask = (1 << bits) - 1;
        let Some(zeros) = &self.zeros else { return if self.order == Order::Float8 { 0 } else { 1 << (bits - 1) } };
        let bytes = zeros.of(files);
        let at = row * bits;
        match self.order {
            Order::Rows => i32::from(bytes[(at / 32 * self.groups + group) * 4 + at % 32 / 8] >> (at % 8)) & mask,
            Order::Signed | Order::Float8 => i32::from(bytes[row / self.rows * self.groups + group] ^ 0x80),
            Order::Gptq { less_by_one } => {
                let words = (rows * bits).div_ceil(32);
                let stored = i32::from(bytes[(group * words + at / 32) * 4 + at % 32 / 8] >> (at % 8)) & mask;
                (stored + i32::from(less_by_one)) & mask
            }
            Order::Awq => {
                let at = AWQ[row % 8];
                i32::from(bytes[group * rows / 2 + row / 8 * 4 + at / 2] >> (at % 2 * 4)) & mask
            }
        }
    }
}
