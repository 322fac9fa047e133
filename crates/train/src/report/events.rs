//! Event files of TensorBoard: records of a length, its checksum, a protocol buffer and its checksum.
//!
//! The format is that of `tensorflow/core/lib/io/record_writer.h`; the messages are `Event`, `Summary` and `SummaryMetadata` of `tensorflow/core`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;

/// An event file.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

/// CRC-32C of bytes (Castagnoli), bit by bit: records are short.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// The checksum as records have it.
fn masked(bytes: &[u8]) -> u32 {
    crc(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A field of bytes: a string or a message.
fn bytes(field: u64, content: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked(&length).to_le_bytes());
    out.extend_from_slice(message);
    out.extend(masked(message).to_le_bytes());
    out
}

/// An `Event`: the time, the step, and a field.
fn event(seconds: f64, step: usize, field: u64, content: &[u8]) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(seconds.to_le_bytes());
    varint(2 << 3, &mut out);
    varint(step as u64, &mut out);
    bytes(field, content, &mut out);
    out
}

/// A `Summary` of one scalar.
fn scalar(tag: &str, value: f64) -> Vec<u8> {
    let mut entry = Vec::new();
    bytes(1, tag.as_bytes(), &mut entry);
    varint(2 << 3 | 5, &mut entry);
    entry.extend((value as f32).to_le_bytes());
    let mut summary = Vec::new();
    bytes(1, &entry, &mut summary);
    summary
}

/// A `Summary` of one text, a tensor of strings with the metadata of the plugin `text`.
fn text(tag: &str, value: &str) -> Vec<u8> {
    let (mut plugin, mut metadata, mut tensor, mut entry) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    bytes(1, b"text", &mut plugin);
    bytes(1, &plugin, &mut metadata);
    // DT_STRING, a shape of one element.
    tensor.extend([1 << 3, 7]);
    bytes(2, &[0x12, 0x02, 0x08, 0x01], &mut tensor);
    bytes(8, value.as_bytes(), &mut tensor);
    bytes(1, tag.as_bytes(), &mut entry);
    bytes(8, &tensor, &mut entry);
    bytes(9, &metadata, &mut entry);
    let mut summary = Vec::new();
    bytes(1, &entry, &mut summary);
    summary
}

impl Events {
    /// Creates a new file in a directory, for the steps after `step`.
    pub(super) fn create(directory: &Path, step: usize) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory, e))?;
        let now = now();
        let path = directory.join(format!("events.out.tfevents.{:010}.{step}.longreach", now as u64));
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut events = Self { path, file };
        events.write(&event(now, step, 3, b"brain.Event:2"))?;
        Ok(events)
    }

    fn write(&mut self, message: &[u8]) -> Result<(), Error> {
        self.file.write_all(&record(message)).map_err(|e| Error::io(&self.path, e))
    }

    /// Writes scalars by their tags.
    pub(super) fn scalars<'t>(&mut self, step: usize, of: impl Iterator<Item = (&'t str, f64)>) -> Result<(), Error> {
        let now = now();
        of.into_iter().try_for_each(|(tag, value)| self.write(&event(now, step, 5, &scalar(tag, value))))
    }

    /// Writes a text.
    pub(super) fn text(&mut self, step: usize, tag: &str, value: &str) -> Result<(), Error> {
        self.write(&event(now(), step, 5, &text(tag, value)))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specification() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc(b"123456789"), 0xe306_9283);
    }

    /// The bytes are those that Google's protobuf for Python writes for the fields of `event.proto` and `summary.proto`.
    #[test]
    fn a_scalar_is_the_message_that_protobuf_writes() {
        let message = event(1.5, 300, 5, &scalar("train/loss", 2.25));
        let want = "09000000000000f83f10ac022a130a110a0a747261696e2f6c6f73731500001040";
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, want);
        let framed = record(&message);
        assert_eq!(framed.len(), message.len() + 16);
        assert_eq!(framed[..8], (message.len() as u64).to_le_bytes());
    }
}
