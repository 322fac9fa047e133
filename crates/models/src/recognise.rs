//! Recognising files by their first bytes if they are not what their name suggests, so that an error can state the
//! cause.

use std::io::Read;
use std::path::Path;

/// Identifies a file by its first bytes; the result completes the sentence "this file is …". `None` if they are not
/// recognised.
///
/// A few dozen bytes are enough. Recognised are empty files, git-lfs pointers, HTML and XML pages, GGUF, zip and gzip
/// archives, HDF5, numpy arrays, pickles, and PyTorch's two formats.
pub fn recognise(start: &[u8]) -> Option<&'static str> {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let tag = |tag: &[u8]| text.get(..tag.len()).is_some_and(|found| found.eq_ignore_ascii_case(tag));
    Some(if start.is_empty() {
        "empty"
    } else if start.starts_with(b"version https://git-lfs") {
        "a git-lfs pointer instead of the file itself: fetch it with `git lfs pull`"
    } else if tag(b"<!doctype html") || tag(b"<html") {
        "an HTML page that a server sent instead of the file: download it again"
    } else if tag(b"<?xml") {
        "an XML document that a server sent instead of the file: download it again"
    } else if start.starts_with(b"GGUF") {
        "a GGUF file, the format of llama.cpp: give it a name that ends in .gguf, or use the model's safetensors"
    } else if start.starts_with(b"\x89HDF") {
        "an HDF5 file of Keras, which is not supported: use the model's safetensors"
    } else if start.starts_with(b"\x93NUMPY") {
        "a numpy array"
    } else if start.starts_with(b"\x1f\x8b") {
        "compressed with gzip: decompress it first"
    } else if start.starts_with(b"PK\x03\x04") {
        "a zip archive, as `torch.save` writes it: is it a PyTorch checkpoint?"
    } else if start.starts_with(b"\x80") && start.get(1).is_some_and(|protocol| (2..=5).contains(protocol)) {
        "a pickle, as older versions of `torch.save` write it: is it a PyTorch checkpoint?"
    } else if !start.is_empty() && start.iter().all(|b| *b == 0) {
        "all zeros: its download was not completed"
    } else {
        return None;
    })
}

/// Identifies the file by its first bytes; also `None` if it cannot be read.
pub fn recognise_file(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    std::fs::File::open(path).ok()?.take(512).read_to_end(&mut start).ok()?;
    recognise(&start)
}

#[cfg(test)]
mod tests {
    use super::recognise;

    #[test]
    fn known_kinds_are_named_and_others_are_not() {
        for (start, word) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs"),
            (b"\n <!DOCTYPE HTML><html>", "HTML"),
            (b"\xef\xbb\xbf<html lang=en>", "HTML"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04", "zip"),
            (b"\x80\x02}q", "pickle"),
            (b"\0\0\0\0\0\0\0\0", "zeros"),
        ] {
            assert!(recognise(start).is_some_and(|said| said.contains(word)), "{word}");
        }
        for start in [&b"{\"a\": 1}"[..], b"\x10\0\0\0\0\0\0\0{", b"text", b"\x80", b"<htm"] {
            assert_eq!(recognise(start), None);
        }
    }
}
