//! What is written is read again.

mod common;

use common::read;
use longreach_gguf::{ByteString, Header, Strings, TensorType};
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
            }.expect("set");
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
            match value {
                Any::U32(n) => prop_assert_eq!(found.to::<u32>().ok(), Some(*n)),
                Any::I64(n) => prop_assert_eq!(found.to::<i64>().ok(), Some(*n)),
                Any::F64(bits) => prop_assert_eq!(found.to::<f64>().ok().map(f64::to_bits), Some(*bits)),
                Any::Bool(yes) => prop_assert_eq!(found.to::<bool>().ok(), Some(*yes)),
                Any::Text(text) => prop_assert_eq!(found.to::<&str>().ok(), Some(&text[..])),
                Any::Bytes(bytes) => prop_assert_eq!(found.to::<&[u8]>().ok(), Some(&bytes[..])),
                Any::I16s(array) => prop_assert_eq!(&found.to::<Vec<i16>>().expect("an array"), array),
                Any::F32s(array) => {
                    let bits: Vec<u64> = found.to::<Vec<f64>>().expect("an array").into_iter().map(f64::to_bits).collect();
                    let want: Vec<u64> = array.iter().map(|b| f64::from(f32::from_bits(*b)).to_bits()).collect();
                    prop_assert_eq!(bits, want);
                }
                Any::Bools(array) => prop_assert_eq!(&found.to::<Vec<bool>>().expect("an array"), array),
                Any::Texts(array) => {
                    prop_assert!(found.to::<Strings<'_>>().expect("an array").eq(array.iter().map(|b| &b[..])));
                }
            }
        }
        prop_assert_eq!(file.tensors().len(), declared.len());
        for ((tensor, want), start) in file.tensors().zip(&declared).zip(0..) {
            prop_assert_eq!((tensor.name(), tensor.shape()), (&want.name[..], &want.shape[..]));
            prop_assert_eq!(tensor.tensor_type(), want.tensor_type);
            prop_assert_eq!(tensor.data(), common::data(start, tensor.data().len()));
        }
    }
}
