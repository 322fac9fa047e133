//! Files that the `gguf` package has made are read as it has made them, and the same files are written.

mod common;

use common::{data, golden, path, read};
use longreach_gguf::{ByteString, Gguf, Header, OneOrMany, Strings, TensorType, ValueType, Writer};

#[test]
fn values_of_all_types() {
    let file = Gguf::open(path("values.gguf")).expect("a file");
    let all = file.metadata();
    assert_eq!((file.version(), file.tensors().len(), all.len()), (3, 0, 27));
    assert_eq!(all.require::<&str>("general.architecture").ok(), Some("llama"));
    assert_eq!(all.require::<u8>("u8").ok(), Some(u8::MAX));
    assert_eq!(all.require::<i8>("i8").ok(), Some(i8::MIN));
    assert_eq!(all.require::<u16>("u16").ok(), Some(u16::MAX));
    assert_eq!(all.require::<i16>("i16").ok(), Some(i16::MIN));
    assert_eq!(all.require::<u32>("u32").ok(), Some(u32::MAX));
    assert_eq!(all.require::<i32>("i32").ok(), Some(i32::MIN));
    assert_eq!(all.require::<u64>("u64").ok(), Some(u64::MAX));
    assert_eq!(all.require::<i64>("i64").ok(), Some(i64::MIN));
    assert_eq!(all.require::<f32>("f32").ok(), Some(0.1));
    assert_eq!(all.require::<f64>("f32").ok(), Some(0.1f32.into()));
    assert_eq!(all.require::<f64>("f64").ok(), Some(1e300));
    assert_eq!(all.require::<bool>("true").ok(), Some(true));
    assert_eq!(all.require::<bool>("false").ok(), Some(false));
    assert_eq!(all.require::<&str>("string").ok(), Some("žluťoučký kůň\n"));
    assert_eq!(all.require::<&[u8]>("general.architecture").ok(), Some(&b"llama"[..]));
    assert_eq!(all.require("array.uint8").ok(), Some(vec![0u8, 1, 255]));
    assert_eq!(all.require("array.int8").ok(), Some(vec![-128i64, 127]));
    assert_eq!(all.require("array.uint16").ok(), Some(vec![65535u32]));
    assert_eq!(all.require("array.int16").ok(), Some(vec![-32768i16, 3]));
    assert_eq!(all.require("array.uint32").ok(), Some(vec![1usize, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(all.require("array.int32").ok(), Some(vec![-1i32, 0, 1]));
    assert_eq!(all.require("array.uint64").ok(), Some(vec![1u64 << 63]));
    assert_eq!(all.require("array.int64").ok(), Some(vec![-(1i64 << 40), 1 << 40]));
    assert_eq!(all.require("array.float32").ok(), Some(vec![0.5f32, -1.5, f32::INFINITY]));
    assert_eq!(all.require("array.float64").ok(), Some(vec![1e-300f64]));
    assert_eq!(all.require("array.bool").ok(), Some(vec![true, false, true]));
    assert_eq!(all.require("array.string").ok(), Some(vec!["", "a b", "▁the"]));
    let tokens: Strings<'_> = all.require("tokens").expect("strings");
    assert_eq!(tokens.len(), 3);
    assert_eq!(tokens.collect::<Vec<_>>(), [&b"\xe2\x96"[..], b"", b"\xff\x00"]);
    assert_eq!(all.require("tokens").ok(), Some(vec![&b"\xe2\x96"[..], b"", b"\xff\x00"]));
    assert_eq!(all.get::<u32>("absent").ok(), Some(None));
}

#[test]
fn a_value_or_an_array() {
    let file = Gguf::open(path("values.gguf")).expect("a file");
    let of = |key| file.metadata().require::<OneOrMany<i64>>(key).expect("integers");
    assert_eq!(of("u8"), OneOrMany::One(255));
    assert_eq!(of("array.int32"), OneOrMany::Many(vec![-1, 0, 1]));
    assert_eq!((of("u8").at(1000), of("array.int32").at(0), of("array.int32").at(3)), (Some(&255), Some(&-1), None));
}

#[test]
fn entries_are_listed_in_order_with_a_preview() {
    let file = Gguf::open(path("values.gguf")).expect("a file");
    let listed: Vec<String> = file
        .metadata()
        .iter()
        .map(|v| format!("{} {} {} {} {}", v.key(), v.value_type(), v.element_type(), v.count(), v.preview()))
        .collect();
    for line in [
        "general.architecture string string 1 \"llama\"",
        "i64 i64 i64 1 -9223372036854775808",
        "f32 f32 f32 1 0.1",
        "f64 f64 f64 1 1e300",
        "true bool bool 1 true",
        "string string string 1 \"žluťoučký kůň\\n\"",
        "array.uint32 array u32 8 [1, 2, 3, 4, 5, 6, …]",
        "array.float32 array f32 3 [0.5, -1.5, inf]",
        "array.bool array bool 3 [true, false, true]",
        "array.string array string 3 [\"\", \"a b\", \"▁the\"]",
        "tokens array string 3 [\"�\", \"\", \"�\\0\"]",
    ] {
        assert!(listed.iter().any(|found| found == line), "{line}: {listed:#?}");
    }
    assert_eq!((&listed[0][..7], &listed[1][..2], &listed[26][..6]), ("general", "u8", "tokens"));
}

/// The type with the number that the package gives it.
fn types_of_the_package() -> impl Iterator<Item = (usize, TensorType)> {
    let all = TensorType::ALL.iter().filter(|t| !matches!(t, TensorType::Q8_1 | TensorType::Q2_0));
    all.map(|t| (usize::try_from(t.number()).expect("small"), *t))
}

#[test]
fn tensors_of_all_types() {
    let file = Gguf::open(path("tensors.gguf")).expect("a file");
    let expected: Vec<_> = types_of_the_package().collect();
    assert_eq!(file.tensors().len(), expected.len());
    for (tensor, (number, t)) in file.tensors().zip(expected) {
        assert_eq!(tensor.name(), format!("of.{}", t.name().to_uppercase()));
        assert_eq!(tensor.tensor_type(), t);
        assert_eq!(tensor.shape(), [2, 3 * t.block_elements()]);
        assert_eq!(tensor.elements(), 6 * t.block_elements());
        assert_eq!(tensor.data(), data(number, 6 * t.block_bytes()));
        assert_eq!(file.tensor(tensor.name()).map(|found| found.bytes()), Some(tensor.bytes()));
    }
}

/// The tensors of the goldens with various shapes: name, start of the data, shape, type.
const SHAPES: [(&str, usize, &[usize], TensorType); 5] = [
    ("axes.1", 0, &[5], TensorType::I8),
    ("axes.2", 1, &[2, 3], TensorType::I8),
    ("axes.3", 2, &[1, 2, 7], TensorType::I8),
    ("axes.4", 3, &[2, 1, 3, 4], TensorType::I8),
    ("matrix", 9, &[3, 2], TensorType::F32),
];

#[test]
fn shapes_have_the_outermost_axis_first_and_alignment_is_kept_to() {
    for (name, version) in [("shapes.gguf", 3), ("version-2.gguf", 2)] {
        let file = Gguf::open(path(name)).expect("a file");
        assert_eq!(file.version(), version);
        assert_eq!(file.tensors().len(), SHAPES.len());
        for (tensor, (name, start, shape, t)) in file.tensors().zip(SHAPES) {
            assert_eq!((tensor.name(), tensor.shape(), tensor.tensor_type()), (name, shape, t));
            assert_eq!(tensor.data(), data(start, t.bytes_of(shape).expect("a size")));
        }
    }
}

#[test]
fn a_big_endian_file_is_refused_by_name() {
    let message = Gguf::open(path("big-endian.gguf")).expect_err("an error").to_string();
    assert!(message.contains("big-endian.gguf: a big-endian GGUF file"), "{message}");
    assert!(message.contains("0x3000000"), "{message}");
}

#[test]
fn tensors_keep_the_file_mapped() {
    let file = Gguf::open(path("shapes.gguf")).expect("a file");
    let tensor = file.tensor("matrix").expect("a tensor");
    let (bytes, place) = (tensor.bytes(), tensor.data().as_ptr());
    tensor.release();
    drop(file);
    assert_eq!(bytes.as_ptr(), place);
    assert_eq!(bytes, data(9, 24));
}

/// How many KiB of a mapped file are in memory.
#[cfg(target_os = "linux")]
fn resident(file: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
    let of_file = maps.lines().skip_while(|line| !line.ends_with(&file.display().to_string()));
    let rss = of_file.filter_map(|line| line.strip_prefix("Rss:")).next().expect("a mapping");
    rss.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
#[cfg(target_os = "linux")]
fn released_data_are_dropped_from_memory_and_read_again() {
    const BYTES: usize = 1 << 24;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    let mut header = Header::new();
    header.declare("a", &[BYTES], TensorType::I8).expect("declared");
    let mut writer = header.write_to(std::fs::File::create(&path).expect("a file")).expect("begun");
    writer.tensor("a", &data(5, BYTES)).expect("written");
    writer.finish().expect("written");
    let file = Gguf::open(&path).expect("a file");
    let tensor = file.tensor("a").expect("a tensor");
    // Pages may be as large as 2 MiB.
    let small = BYTES / 1024 / 4;
    assert!(resident(&path) < small);
    assert_eq!(tensor.data(), data(5, BYTES));
    assert!(resident(&path) >= BYTES / 1024);
    tensor.release();
    assert!(resident(&path) < small);
    assert_eq!(tensor.data(), data(5, BYTES));
}

#[test]
fn values_are_written_as_the_package_writes_them() {
    let mut header = Header::new();
    let of_u32 = vec![1u32, 2, 3, 4, 5, 6, 7, 8];
    let mut write = || {
        header.set("general.architecture", "llama")?;
        header.set("u8", u8::MAX)?;
        header.set("i8", i8::MIN)?;
        header.set("u16", u16::MAX)?;
        header.set("i16", i16::MIN)?;
        header.set("u32", u32::MAX)?;
        header.set("i32", i32::MIN)?;
        header.set("u64", u64::MAX)?;
        header.set("i64", i64::MIN)?;
        header.set("f32", 0.1f32)?;
        header.set("f64", 1e300f64)?;
        header.set("true", true)?;
        header.set("false", false)?;
        header.set("string", "žluťoučký kůň\n".to_owned())?;
        header.set("array.uint8", [0u8, 1, 255])?;
        header.set("array.int8", [-128i8, 127])?;
        header.set("array.uint16", [65535u16])?;
        header.set("array.int16", vec![-32768i16, 3])?;
        header.set("array.uint32", &of_u32)?;
        header.set("array.int32", &[-1i32, 0, 1][..])?;
        header.set("array.uint64", [1u64 << 63])?;
        header.set("array.int64", [-(1i64 << 40), 1 << 40])?;
        header.set("array.float32", [0.5f32, -1.5, f32::INFINITY])?;
        header.set("array.float64", [1e-300f64])?;
        header.set("array.bool", [true, false, true])?;
        header.set("array.string", ["", "a b", "▁the"])?;
        header.set("tokens", [ByteString(b"\xe2\x96"), ByteString(b""), ByteString(b"\xff\x00")])?;
        assert_eq!(header.file_bytes(), golden("values.gguf").len() as u64);
        header.clone().write_to(Vec::new())?.finish()
    };
    assert_eq!(write().expect("written"), golden("values.gguf"));
}

#[test]
fn tensors_are_written_as_the_package_writes_them() {
    let mut header = Header::new();
    header.set("general.architecture", "llama").expect("set");
    for (_, t) in types_of_the_package() {
        header.declare(&format!("of.{}", t.name().to_uppercase()), &[2, 3 * t.block_elements()], t).expect("declared");
    }
    assert_eq!(header.file_bytes(), golden("tensors.gguf").len() as u64);
    let mut writer = header.write_to(Vec::new()).expect("begun");
    for (number, t) in types_of_the_package() {
        // In pieces, the first of which is empty.
        writer.begin(&format!("of.{}", t.name().to_uppercase())).expect("begun");
        let data = data(number, 6 * t.block_bytes());
        for piece in [&[], &data[..5], &data[5..], &[]] {
            writer.extend(piece).expect("written");
        }
    }
    assert_eq!(writer.finish().expect("written"), golden("tensors.gguf"));
}

#[test]
fn an_alignment_is_written_as_the_package_writes_it() {
    let mut header = Header::new();
    header.set("general.architecture", "llama").expect("set");
    header.set("general.alignment", 64u32).expect("set");
    header.set("llama.block_count", 1u32).expect("set");
    for (name, _, shape, t) in SHAPES {
        header.declare(name, shape, t).expect("declared");
    }
    let mut writer = header.write_to(Vec::new()).expect("begun");
    for (name, start, shape, t) in SHAPES {
        writer.tensor(name, &data(start, t.bytes_of(shape).expect("a size"))).expect("written");
    }
    assert_eq!(writer.finish().expect("written"), golden("shapes.gguf"));
}

#[test]
fn metadata_of_another_file_are_written_as_they_are() {
    let file = read(golden("values.gguf")).expect("a file");
    let mut header = Header::new();
    header.set_all(file.metadata()).expect("set");
    let written = header.write_to(Vec::new()).and_then(Writer::finish).expect("written");
    assert_eq!(written, golden("values.gguf"));
}

#[test]
fn types_are_found_by_number_and_by_name() {
    for t in TensorType::ALL {
        assert_eq!(TensorType::from_number(t.number()), Some(*t));
        assert_eq!(TensorType::from_name(t.name()), Some(*t));
        assert_eq!(TensorType::from_name(&t.name().to_uppercase()), Some(*t));
    }
    assert_eq!((TensorType::from_number(4), TensorType::from_name("q4")), (None, None));
    assert_eq!(ValueType::F64.number(), 12);
}
