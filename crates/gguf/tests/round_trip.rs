//! What is written is read again.

mod common;

use common::read;
use longreach_gguf::{ByteString, Error, Header, Strings, TensorType, Value};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

#[derive(Clone, Debug)]
enum Any {
    U32(u32),
    I64(i64),
    F64(u64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    I16s(Vec<i16>),
    F32s(Vec<u32>),
    Bools(Vec<bool>),
    Texts(Vec<Vec<u8>>),
}

fn value() -> impl Strategy<Value = Any> {
    prop_oneof![
        any::<u32>().prop_map(Any::U32),
        any::<i64>().prop_map(Any::I64),
        any::<u64>().prop_map(Any::F64),
        any::<bool>().prop_map(Any::Bool),
        any::<String>().prop_map(Any::Text),
        any::<Vec<u8>>().prop_map(Any::Bytes),
        any::<Vec<i16>>().prop_map(Any::I16s),
        any::<Vec<u32>>().prop_map(Any::F32s),
        any::<Vec<bool>>().prop_map(Any::Bools),
        vec(any::<Vec<u8>>(), 0..20).prop_map(Any::Texts),
    ]
}

fn set(header: &mut Header, key: &str, value: &Any) -> Result<(), Error> {
    match value {
        Any::U32(n) => header.set(key, *n),
        Any::I64(n) => header.set(key, *n),
        Any::F64(bits) => header.set(key, f64::from_bits(*bits)),
        Any::Bool(yes) => header.set(key, *yes),
        Any::Text(text) => header.set(key, &text[..]),
        Any::Bytes(bytes) => header.set(key, ByteString(bytes)),
        Any::I16s(array) => header.set(key, array),
        Any::F32s(array) => header.set(key, array.iter().map(|b| f32::from_bits(*b)).collect::<Vec<_>>()),
        Any::Bools(array) => header.set(key, array),
        Any::Texts(array) => header.set(key, array.iter().map(|b| ByteString(b)).collect::<Vec<_>>()),
    }
}

fn same(found: Value<'_>, value: &Any) -> bool {
    // Not-a-numbers are compared after the conversion that reading makes.
    let wide = |bits: &u32| f64::from(f32::from_bits(*bits)).to_bits();
    match value {
        Any::U32(n) => found.to::<u32>().is_ok_and(|x| x == *n),
        Any::I64(n) => found.to::<i64>().is_ok_and(|x| x == *n),
        Any::F64(bits) => found.to::<f64>().is_ok_and(|x| x.to_bits() == *bits),
        Any::Bool(yes) => found.to::<bool>().is_ok_and(|x| x == *yes),
        Any::Text(text) => found.to::<&str>().is_ok_and(|x| x == text),
        Any::Bytes(bytes) => found.to::<&[u8]>().is_ok_and(|x| x == bytes),
        Any::I16s(array) => found.to::<Vec<i16>>().is_ok_and(|x| x == *array),
        Any::F32s(array) => {
            found.to::<Vec<f64>>().is_ok_and(|x| x.iter().map(|x| x.to_bits()).eq(array.iter().map(wide)))
        }
        Any::Bools(array) => found.to::<Vec<bool>>().is_ok_and(|x| x == *array),
        Any::Texts(array) => found.to::<Strings<'_>>().is_ok_and(|x| x.eq(array.iter().map(|b| &b[..]))),
    }
}

/// A tensor: the numbers of its type, of its blocks in a row, and of its other axes.
fn tensor() -> impl Strategy<Value = (usize, usize, Vec<usize>)> {
    (0..TensorType::ALL.len(), 1usize..4, vec(1usize..4, 0..4))
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 300, rng_seed: RngSeed::Fixed(0x10ad), failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_written_is_read(
        values in btree_map("[a-z.]{1,40}|\\PC{1,9}", value(), 0..12),
        tensors in btree_map("[a-z.0-9]{1,63}", tensor(), 0..8),
        alignment in prop_oneof![Just(None), (0u32..9).prop_map(Some)],
        piece in 1usize..700,
    ) {
        let mut header = Header::new();
        if let Some(power) = alignment {
            header.set("general.alignment", 1u32 << power).expect("set");
        }
        for (key, value) in &values {
            set(&mut header, key, value).expect("set");
        }
        for (name, (t, blocks, axes)) in &tensors {
            let t = TensorType::ALL[*t];
            let shape: Vec<usize> = axes.iter().copied().take(3).chain([blocks * t.block_elements()]).collect();
            header.declare(name, &shape, t).expect("declared");
        }
        let (size, declared) = (header.file_bytes(), header.tensors().to_vec());
        let mut writer = header.write_to(Vec::new()).expect("begun");
        for (tensor, start) in declared.iter().zip(0..) {
            writer.begin(&tensor.name).expect("begun");
            for data in common::data(start, tensor.bytes as usize).chunks(piece) {
                writer.extend(data).expect("written");
            }
        }
        let bytes = writer.finish().expect("written");
        prop_assert_eq!(bytes.len() as u64, size);

        let file = read(bytes).expect("a file");
        let all = file.metadata();
        prop_assert_eq!(all.len(), values.len() + usize::from(alignment.is_some()));
        for (key, value) in &values {
            let found = all.value(key).expect("a value");
            prop_assert!(same(found, value), "{key}: {found:?}, {value:?}");
        }
        prop_assert_eq!(file.tensors().len(), declared.len());
        for ((tensor, want), start) in file.tensors().zip(&declared).zip(0..) {
            prop_assert_eq!((tensor.name(), tensor.shape()), (&want.name[..], &want.shape[..]));
            prop_assert_eq!(tensor.tensor_type(), want.tensor_type);
            prop_assert_eq!(tensor.data(), common::data(start, tensor.data().len()));
        }
    }
}
