//! What cannot be stored is refused, and so are data that differ from the declaration.

mod common;

use std::io::Write;

use common::read;
use longreach_gguf::{Error, Header, TensorType, Writer};

/// The header of a file with the tensors `a`, of 16 bytes, and `b`, of 18.
fn header() -> Header {
    let mut header = Header::new();
    header.declare("a", &[2, 2], TensorType::F32).expect("declared");
    header.declare("b", &[32], TensorType::Q4_0).expect("declared");
    header
}

fn writer() -> Writer<Vec<u8>> {
    header().write_to(Vec::new()).expect("begun")
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn a_tensor_out_of_turn() {
    assert_eq!(message(writer().tensor("b", &[0; 18])), "tensor `b`: is not the next tensor, which is `a`");
}

#[test]
fn a_tensor_that_was_not_declared() {
    let mut writer = Header::new().write_to(Vec::new()).expect("begun");
    assert_eq!(message(writer.tensor("c", &[])), "tensor `c`: comes after the last tensor that was declared");
}

#[test]
fn too_few_data() {
    let want = "tensor `a`: 16 bytes were declared, but only 15 were given";
    assert_eq!(message(writer().tensor("a", &[0; 15])), want);
    let mut writer = writer();
    writer.begin("a").expect("begun");
    writer.extend(&[0; 15]).expect("written");
    assert_eq!(message(writer.begin("b")), want);
    assert_eq!(message(writer.finish()), want);
}

#[test]
fn too_many_data() {
    let mut writer = writer();
    writer.begin("a").expect("begun");
    writer.extend(&[0; 15]).expect("written");
    assert_eq!(message(writer.extend(&[0; 4])), "tensor `a`: 16 bytes were declared, but 19 were given");
}

#[test]
fn data_of_no_tensor() {
    assert_eq!(message(writer().extend(&[1])), "data were given before a tensor was begun");
}

#[test]
fn data_that_are_missing() {
    let mut writer = writer();
    writer.tensor("a", &[0; 16]).expect("written");
    assert_eq!(message(writer.finish()), "tensor `b`: was declared, but its data were not given");
}

#[test]
fn a_tensor_twice() {
    assert_eq!(message(header().declare("a", &[1], TensorType::F32)), "tensor `a`: is declared twice");
}

#[test]
fn tensors_that_cannot_be_read_again() {
    let declare = |name: &str, shape: &[usize], t| message(header().declare(name, shape, t));
    assert_eq!(declare("", &[1], TensorType::F32), "tensor ``: its name has 0 bytes, want 1 to 63");
    assert!(declare(&"n".repeat(64), &[1], TensorType::F32).ends_with("its name has 64 bytes, want 1 to 63"));
    assert_eq!(declare("c", &[], TensorType::F32), "tensor `c`: has 0 axes, want 1 to 4");
    assert_eq!(declare("c", &[1; 5], TensorType::F32), "tensor `c`: has 5 axes, want 1 to 4");
    assert_eq!(declare("c", &[2, 0], TensorType::F32), "tensor `c`: has shape [2, 0], in which an axis is 0");
    let want = "tensor `c`: has rows of 33 elements, which are not whole blocks of 32 (q4_0)";
    assert_eq!(declare("c", &[2, 33], TensorType::Q4_0), want);
    let want = "tensor `c`: has shape [4611686018427387904, 2] of type i8, which is 2^63 elements or bytes or more";
    assert_eq!(declare("c", &[1 << 62, 2], TensorType::I8), want);
    let mut header = header();
    header.declare("c", &[1 << 62], TensorType::I8).expect("declared");
    let want = "tensor `d`: with it, the tensors have 2^63 bytes or more";
    assert_eq!(message(header.declare("d", &[1 << 62], TensorType::I8)), want);
}

#[test]
fn keys_that_cannot_be_read_again() {
    assert_eq!(message(header().set("", 1u8)), "key ``: has 0 bytes, want 1 to 65536");
    assert!(message(header().set(&"k".repeat(65_537), 1u8)).ends_with("has 65537 bytes, want 1 to 65536"));
    assert_eq!(message(header().set("split.count", 2u16)), "key `split.count`: is set by splitting alone");
    let want = "key `general.alignment`: want a u32 that is a power of two up to 1048576";
    assert_eq!(message(header().set("general.alignment", 64u64)), want);
    for alignment in [0u32, 24, 1 << 21] {
        assert_eq!(message(header().set("general.alignment", alignment)), want);
    }
}

#[test]
fn a_value_is_replaced_in_its_place_or_removed() {
    let mut header = Header::new();
    for (key, n) in [("c", 0u8), ("a", 1), ("b", 2), ("a", 5)] {
        header.set(key, n).expect("set");
    }
    header.remove("c");
    header.remove("d");
    header.set("a", 3u8).expect("set");
    let file = read(header.write_to(Vec::new()).and_then(Writer::finish).expect("written")).expect("a file");
    let all: Vec<_> = file.metadata().iter().map(|v| (v.key(), v.to::<u8>().ok())).collect();
    assert_eq!(all, [("a", Some(3)), ("b", Some(2))]);
}

#[test]
fn an_empty_array_keeps_its_type() {
    let mut header = Header::new();
    header.set("a", Vec::<String>::new()).expect("set");
    let file = read(header.write_to(Vec::new()).and_then(Writer::finish).expect("written")).expect("a file");
    assert_eq!(file.metadata().require::<Vec<&str>>("a").ok(), Some(vec![]));
    assert_eq!(format!("{:?}", file.metadata()), "{\"a\": []}");
}

/// An output with room for some bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(self.0);
        self.0 -= n;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_is_full() {
    let size = header().file_bytes();
    for room in 0..size {
        let written = header().write_to(Full(room as usize)).and_then(|mut writer| {
            writer.tensor("a", &[0; 16])?;
            writer.tensor("b", &[0; 18])?;
            writer.finish()
        });
        assert!(matches!(written, Err(Error::Write(_))), "{room}");
    }
}
