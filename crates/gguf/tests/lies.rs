//! Every inconsistency of a file is refused by a message that says what and where it is. A lie, a test.

mod common;

use common::{Raw, golden, read, refused};
use longreach_gguf::{Error, FromValue};

#[test]
fn another_magic() {
    let raw = Raw { magic: *b"GGML", ..Raw::new() };
    assert_eq!(refused(raw.file()), "not a GGUF file: begins with \"GGML\", want \"GGUF\"");
}

#[test]
fn an_empty_file() {
    assert_eq!(refused(Vec::new()), "cut short: 4 bytes belong at byte 0, but only 0 are left");
}

#[test]
fn version_1() {
    assert_eq!(refused(Raw { version: 1, ..Raw::new() }.file()), "GGUF version 1, want 2 or 3");
}

#[test]
fn a_later_version() {
    assert_eq!(refused(Raw { version: 4, ..Raw::new() }.file()), "GGUF version 4, want 2 or 3");
}

#[test]
fn big_endian() {
    assert!(refused(golden("big-endian.gguf")).starts_with("a big-endian GGUF file"));
}

#[test]
fn more_tensors_than_bytes() {
    let raw = Raw { tensors: 1 << 60, ..Raw::new() };
    let claim = "claims 1152921504606846976 tensors, which take at least 24 bytes each, but only 8 bytes are left";
    assert_eq!(refused(raw.file()), claim);
}

#[test]
fn more_entries_than_bytes() {
    let raw = Raw { entries: u64::MAX, ..Raw::new() };
    let claim =
        "claims 18446744073709551615 metadata entries, which take at least 13 bytes each, but only 0 bytes are left";
    assert_eq!(refused(raw.file()), claim);
}

#[test]
fn a_tensor_more_than_there_are() {
    let raw = Raw { tensors: 1, ..Raw::new() }.tensor("a", &[4], 0, 0);
    let message = refused(raw.with_data(16));
    assert_eq!(message, "the name of tensor 1: has 506381209866536711 bytes, want 1 to 63");
}

#[test]
fn an_empty_key() {
    assert_eq!(
        refused(Raw::new().key("", 0).u64(7).file()),
        "the key of metadata entry 0: has 0 bytes, want 1 to 65536"
    );
}

#[test]
fn a_key_longer_than_the_limit() {
    let message = refused(Raw::new().key(&"k".repeat(65_537), 0).raw(&[7]).file());
    assert_eq!(message, "the key of metadata entry 0: has 65537 bytes, want 1 to 65536");
}

#[test]
fn a_key_longer_than_the_file() {
    let raw = Raw { entries: 1, ..Raw::new() }.u64(1000).raw(b"general.name");
    assert_eq!(
        refused(raw.file()),
        "the key of metadata entry 0: cut short: 1000 bytes belong at byte 32, but only 12 are left"
    );
}

#[test]
fn a_key_that_is_not_utf8() {
    let raw = Raw { entries: 1, ..Raw::new() }.string(b"a\xff").u32(0).raw(&[7]);
    let message = refused(raw.file());
    assert!(message.starts_with("the key of metadata entry 0: \"a\\xff\" is not UTF-8"), "{message}");
}

#[test]
fn a_key_twice() {
    let raw = Raw::new().key("b", 0).raw(&[7]).key("a", 0).raw(&[7]).key("b", 0).raw(&[8]);
    assert_eq!(refused(raw.file()), "key `b`: occurs twice");
}

#[test]
fn a_key_that_moves_the_cursor_of_a_terminal() {
    let raw = Raw::new().key("a\x1b[2J", 99).raw(&[7]);
    assert_eq!(refused(raw.file()), "key `a\\u{1b}[2J`: has the unknown value type 99");
}

#[test]
fn an_unknown_value_type() {
    assert_eq!(refused(Raw::new().key("a", 13).u64(7).file()), "key `a`: has the unknown value type 13");
}

#[test]
fn an_unknown_type_of_elements() {
    assert_eq!(refused(Raw::new().key("a", 9).u32(77).u64(1).u64(7).file()), "key `a`: has the unknown value type 77");
}

#[test]
fn an_array_of_arrays() {
    let raw = Raw::new().key("a", 9).u32(9).u64(1).u32(0).u64(1).raw(&[7]);
    assert_eq!(refused(raw.file()), "key `a`: is an array of arrays, which is not supported");
}

#[test]
fn a_value_that_is_cut() {
    let message = refused(Raw::new().key("a", 10).u32(7).file());
    assert_eq!(message, "key `a`: cut short: 8 bytes belong at byte 37, but only 4 are left");
}

#[test]
fn an_array_longer_than_the_file() {
    let message = refused(Raw::new().key("a", 9).u32(4).u64(1 << 62).u64(7).file());
    let claim = "claims 4611686018427387904 elements, which take at least 4 bytes each, but only 8 bytes are left";
    assert_eq!(message, format!("key `a`: {claim}"));
}

#[test]
fn an_array_of_strings_longer_than_the_file() {
    let message = refused(Raw::new().key("a", 9).u32(8).u64(3).string(b"x").u64(0).file());
    assert_eq!(message, "key `a`: claims 3 elements, which take at least 8 bytes each, but only 17 bytes are left");
}

#[test]
fn a_string_longer_than_the_file() {
    let message = refused(Raw::new().key("a", 8).u64(u64::MAX).raw(b"text").file());
    assert_eq!(message, "key `a`: cut short: 18446744073709551615 bytes belong at byte 45, but only 4 are left");
}

#[test]
fn a_string_in_an_array_longer_than_the_file() {
    let message = refused(Raw::new().key("a", 9).u32(8).u64(2).string(b"x").u64(100).file());
    assert_eq!(message, "key `a`: cut short: 100 bytes belong at byte 66, but only 0 are left");
}

#[test]
fn an_alignment_of_another_type() {
    let message = refused(Raw::new().key("general.alignment", 10).u64(64).file());
    assert_eq!(message, "key `general.alignment`: want u32, found u64");
}

#[test]
fn alignments_that_are_none() {
    for alignment in [0, 24, 1 << 21] {
        let message = refused(Raw::new().key("general.alignment", 4).u32(alignment).file());
        let want = format!("key `general.alignment`: want a power of two up to 1048576, found {alignment}");
        assert_eq!(message, want);
    }
}

#[test]
fn a_tensor_without_a_name() {
    let message = refused(Raw::new().tensor("", &[4], 0, 0).with_data(16));
    assert_eq!(message, "the name of tensor 0: has 0 bytes, want 1 to 63");
}

#[test]
fn a_tensor_with_a_name_of_64_bytes() {
    assert!(read(Raw::new().tensor(&"n".repeat(63), &[4], 0, 0).with_data(16)).is_ok());
    let message = refused(Raw::new().tensor(&"n".repeat(64), &[4], 0, 0).with_data(16));
    assert_eq!(message, "the name of tensor 0: has 64 bytes, want 1 to 63");
}

#[test]
fn a_tensor_twice() {
    let message = refused(Raw::new().tensor("a", &[4], 0, 0).tensor("a", &[4], 0, 32).with_data(64));
    assert_eq!(message, "tensor `a`: occurs twice");
}

#[test]
fn a_tensor_without_axes() {
    assert_eq!(refused(Raw::new().tensor("a", &[], 0, 0).with_data(16)), "tensor `a`: has 0 axes, want 1 to 4");
}

#[test]
fn a_tensor_with_too_many_axes() {
    let message = refused(Raw::new().tensor("a", &[1; 5], 0, 0).with_data(16));
    assert_eq!(message, "tensor `a`: has 5 axes, want 1 to 4");
}

#[test]
fn an_axis_of_0() {
    let message = refused(Raw::new().tensor("a", &[4, 0, 2], 0, 0).with_data(16));
    assert_eq!(message, "tensor `a`: has shape [2, 0, 4], in which an axis is 0");
}

#[test]
fn more_elements_than_fit() {
    let message = refused(Raw::new().tensor("a", &[1 << 32, 1 << 31], 2, 0).with_data(16));
    let want = "has shape [2147483648, 4294967296] of type q4_0, which is 2^63 elements or bytes or more";
    assert_eq!(message, format!("tensor `a`: {want}"));
}

#[test]
fn more_bytes_than_fit() {
    let message = refused(Raw::new().tensor("a", &[1 << 31, 1 << 30], 0, 0).with_data(16));
    let want = "has shape [1073741824, 2147483648] of type f32, which is 2^63 elements or bytes or more";
    assert_eq!(message, format!("tensor `a`: {want}"));
}

#[test]
fn a_row_that_is_not_whole_blocks() {
    let message = refused(Raw::new().tensor("a", &[48, 2], 2, 0).with_data(64));
    assert_eq!(message, "tensor `a`: has rows of 48 elements, which are not whole blocks of 32 (q4_0)");
}

#[test]
fn removed_types() {
    for (number, name) in [(4, "q4_2"), (5, "q4_3"), (31, "q4_0_4_4"), (38, "iq4_nl_8_8")] {
        let message = refused(Raw::new().tensor("a", &[32], number, 0).with_data(64));
        assert!(
            message.starts_with(&format!("tensor `a`: has type {number} ({name}), which was removed")),
            "{message}"
        );
    }
}

#[test]
fn an_unknown_type() {
    let message = refused(Raw::new().tensor("a", &[32], 43, 0).with_data(64));
    assert_eq!(message, "tensor `a`: has the unknown type 43; the known types have numbers up to 42");
}

#[test]
fn an_offset_that_is_not_aligned() {
    let message = refused(Raw::new().tensor("a", &[4], 0, 16).with_data(64));
    assert_eq!(message, "tensor `a`: begins at offset 16 of the data, want a multiple of 32");
}

#[test]
fn data_cut_short() {
    let message = refused(Raw::new().tensor("a", &[8, 4], 0, 32).with_data(100));
    let want = "cut short by 60 bytes: ends at byte 256, but the file has only 196; download it again";
    assert_eq!(message, format!("tensor `a`: {want}"));
}

#[test]
fn data_cut_short_by_a_byte() {
    let message = refused(Raw::new().tensor("a", &[4], 0, 0).with_data(15));
    let want = "cut short by 1 bytes: ends at byte 80, but the file has only 79; download it again";
    assert_eq!(message, format!("tensor `a`: {want}"));
    assert!(read(Raw::new().tensor("a", &[4], 0, 0).with_data(16)).is_ok());
}

#[test]
fn data_cut_within_the_padding() {
    let message = refused(Raw::new().tensor("a", &[4], 0, 0).file());
    let want = "cut short by 23 bytes: ends at byte 80, but the file has only 57; download it again";
    assert_eq!(message, format!("tensor `a`: {want}"));
}

#[test]
fn an_offset_that_overflows() {
    let message = refused(Raw::new().tensor("a", &[4], 0, u64::MAX - 31).with_data(16));
    assert_eq!(message, "tensor `a`: has 16 bytes at the impossible offset 18446744073709551584");
}

#[test]
fn tensors_that_overlap() {
    let raw = Raw::new().tensor("b", &[4], 0, 32).tensor("a", &[16], 0, 0);
    let message = refused(raw.with_data(64));
    assert_eq!(message, "tensor `b`: begins at byte 128, where tensor `a` lies, which ends at byte 160");
}

#[test]
fn gaps_between_tensors_and_another_order_are_no_lie() {
    let raw = Raw::new().tensor("b", &[4], 0, 96).tensor("a", &[4], 0, 32);
    let file = read(raw.with_data(200)).expect("a file");
    assert_eq!(file.tensors().map(|tensor| tensor.data()[0]).collect::<Vec<_>>(), [7, 7]);
}

#[test]
fn a_part_in_memory() {
    let message = refused(golden("split-00002-of-00003.gguf"));
    assert_eq!(message, "is part 2 of 3 of a split file: open it by its path");
}

/// The message of the error of reading a value, or of all of an array, as another type.
fn asked<T: for<'a> FromValue<'a>>(raw: Raw) -> String {
    let file = read(raw.file()).expect("a file");
    let error = file.metadata().require::<T>("a").err().expect("an error");
    assert!(matches!(&error, Error::Key { file, key, .. } if file == "model.gguf" && key == "a"), "{error:?}");
    error.to_string().strip_prefix("model.gguf: key `a`: ").expect("the file and the key").to_owned()
}

#[test]
fn a_value_that_is_missing() {
    assert_eq!(asked::<u32>(Raw::new()), "is missing");
}

#[test]
fn a_value_of_another_type() {
    assert_eq!(asked::<u32>(Raw::new().key("a", 6).u32(0)), "want an integer, found f32");
    assert_eq!(asked::<u32>(Raw::new().key("a", 7).raw(&[1])), "want an integer, found bool");
    assert_eq!(asked::<f32>(Raw::new().key("a", 4).u32(1)), "want a float, found u32");
    assert_eq!(asked::<bool>(Raw::new().key("a", 0).raw(&[1])), "want true or false, found u8");
    assert_eq!(asked::<Vec<u32>>(Raw::new().key("a", 4).u32(1)), "want an array, found u32");
    assert_eq!(asked::<u32>(Raw::new().key("a", 9).u32(4).u64(1).u32(1)), "want an integer, found an array of u32");
    assert_eq!(
        asked::<bool>(Raw::new().key("a", 9).u32(7).u64(1).raw(&[1])),
        "want true or false, found an array of bool"
    );
}

#[test]
fn a_string_of_another_type() {
    let file = read(Raw::new().key("a", 4).u32(1).key("b", 9).u32(0).u64(0).file()).expect("a file");
    let text = |key: &str| file.metadata().require::<&str>(key).expect_err("an error").to_string();
    assert_eq!(text("a"), "model.gguf: key `a`: want a string, found u32");
    assert_eq!(text("b"), "model.gguf: key `b`: want a string, found an array of u8");
    let strings = |key: &str| file.metadata().require::<longreach_gguf::Strings<'_>>(key).err().map(|e| e.to_string());
    assert_eq!(strings("b").as_deref(), Some("model.gguf: key `b`: want an array of strings, found an array of u8"));
}

#[test]
fn an_integer_that_does_not_fit() {
    assert_eq!(asked::<u8>(Raw::new().key("a", 4).u32(256)), "want 0 to 255, found 256");
    assert_eq!(asked::<u32>(Raw::new().key("a", 5).u32(u32::MAX)), "want 0 to 4294967295, found -1");
    let array = Raw::new().key("a", 9).u32(1).u64(3).raw(&[1, 2, 0x80]);
    assert_eq!(asked::<Vec<u64>>(array), "element 2: want 0 to 18446744073709551615, found -128");
}

#[test]
fn a_float_that_does_not_fit() {
    let of = |x: f64| Raw::new().key("a", 12).u64(x.to_bits());
    assert_eq!(asked::<f32>(of(1e300)), "want a 32-bit float, found 1e300");
    let infinite = read(of(f64::INFINITY).file()).expect("a file");
    assert_eq!(infinite.metadata().require::<f32>("a").ok(), Some(f32::INFINITY));
}

#[test]
fn a_boolean_of_2() {
    assert_eq!(asked::<bool>(Raw::new().key("a", 7).raw(&[2])), "want true (1) or false (0), found [2]");
}

#[test]
fn a_string_that_is_not_utf8() {
    let file = read(Raw::new().key("a", 8).string(b"a\xff").file()).expect("a file");
    assert_eq!(file.metadata().require::<&[u8]>("a").ok(), Some(&b"a\xff"[..]));
    let message = file.metadata().require::<&str>("a").expect_err("an error").to_string();
    assert!(message.starts_with("model.gguf: key `a`: want UTF-8: "), "{message}");
}

#[test]
fn long_strings_are_cut_in_a_preview() {
    let of = |text: &[u8]| {
        let file = read(Raw::new().key("a", 8).string(text).file()).expect("a file");
        file.metadata().iter().map(|value| value.preview()).collect::<String>()
    };
    assert_eq!(of(&[b'x'; 64]), format!("{:?}", "x".repeat(64)));
    assert_eq!(of(&[b'x'; 65]), format!("{:?}…", "x".repeat(64)));
    assert_eq!(of("𝄞".repeat(64).as_bytes()), format!("{:?}", "𝄞".repeat(64)));
    assert_eq!(of("𝄞".repeat(65).as_bytes()), format!("{:?}…", "𝄞".repeat(64)));
    assert_eq!(of(&[0xff; 65]), format!("{:?}…", "\u{fffd}".repeat(64)));
}

#[test]
fn a_wrong_value_that_nobody_asks_for_is_no_lie() {
    let file = read(Raw::new().key("a", 7).raw(&[2]).key("b", 0).raw(&[5]).file()).expect("a file");
    assert_eq!(file.metadata().require::<u64>("b").ok(), Some(5));
    assert_eq!(file.metadata().iter().map(|value| value.preview()).collect::<Vec<_>>(), ["[2]", "5"]);
}
