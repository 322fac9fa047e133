//! The files of kept states and of rows: a header, tensors as they lie in memory, and a hash of all before it.
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | `lrcache1` |
//! | 4 | 1: a state, 2: rows |
//! | 32 | the key |
//! | 8, 8, 8 | tokens; tokens from the nearest state before it; `w`, an f64 |
//! | 4, and for each 8 + 4 + 32 n | the reaches, and the keys of their rows |
//! | 4, and for each 4 + n, 4, 4, 8 n | the tensors: name, type (0: f32, 1: bf16, 2: words of Q8_0 blocks), shape |
//! | | the numbers, little-endian |
//! | 32 | BLAKE3 of everything before |

use std::collections::HashMap;

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use longreach_nn::{StateError, StateTensor};

use super::key::Key;
use super::ram::Worth;

const MAGIC: &[u8; 8] = b"lrcache1";
/// Bytes of the hash at the end.
const HASH: usize = 32;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    State,
    Rows,
}

impl Kind {
    /// The ending of its files' names.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Kind::State => "state",
            Kind::Rows => "rows",
        }
    }
}

/// What is known of a file before its tensors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) tokens: usize,
    pub(super) worth: Worth,
    /// For each reach, the keys of its rows.
    pub(super) reached: Vec<(usize, Vec<Key>)>,
}

/// The bytes of a file.
pub(super) fn encode(header: &Header, tensors: &[StateTensor]) -> Vec<u8> {
    let mut out = Vec::new();
    let int = |out: &mut Vec<u8>, n: usize| out.extend((n as u32).to_le_bytes());
    let long = |out: &mut Vec<u8>, n: usize| out.extend((n as u64).to_le_bytes());
    out.extend(MAGIC);
    int(&mut out, if header.kind == Kind::State { 1 } else { 2 });
    out.extend(header.key);
    long(&mut out, header.tokens);
    long(&mut out, header.worth.gap);
    out.extend(header.worth.weight.to_le_bytes());
    int(&mut out, header.reached.len());
    for (reach, keys) in &header.reached {
        long(&mut out, *reach);
        int(&mut out, keys.len());
        keys.iter().for_each(|key| out.extend(key));
    }
    put_tensors(&mut out, tensors);
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// Appends tensors: their number, names, types and shapes, then their numbers.
pub(crate) fn put_tensors(out: &mut Vec<u8>, tensors: &[StateTensor]) {
    let int = |out: &mut Vec<u8>, n: usize| out.extend((n as u32).to_le_bytes());
    int(out, tensors.len());
    for tensor in tensors {
        int(out, tensor.name.len());
        out.extend(tensor.name.as_bytes());
        int(
            out,
            match tensor.dtype {
                DType::BF16 => 1,
                DType::F16 => 2,
                _ => 0,
            },
        );
        int(out, tensor.shape.len());
        tensor.shape.iter().for_each(|n| out.extend((*n as u64).to_le_bytes()));
    }
    for data in tensors.iter().flat_map(StateTensor::data) {
        match data.dtype() {
            DType::BF16 => out.extend(data.iter::<bf16>().flat_map(bf16::to_le_bytes)),
            DType::F16 => out.extend(data.iter::<f16>().flat_map(f16::to_le_bytes)),
            _ => out.extend(data.iter::<f32>().flat_map(f32::to_le_bytes)),
        }
    }
}

/// The tensors that [`put_tensors`] has written, and nothing else; `None` if the bytes are others.
pub(crate) fn take_tensors(bytes: &[u8]) -> Option<Tensors> {
    let mut bytes = Bytes(bytes);
    let tensors = bytes.tensors()?;
    bytes.0.is_empty().then_some(tensors)
}

/// Bytes that are taken from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn int(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn long(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).ok()
    }

    fn header(&mut self) -> Option<Header> {
        if self.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let kind = match self.int()? {
            1 => Kind::State,
            2 => Kind::Rows,
            _ => return None,
        };
        let (key, tokens, gap) = (self.array()?, self.long()?, self.long()?);
        let weight = f64::from_le_bytes(self.array()?);
        let mut reached = Vec::new();
        for _ in 0..self.int()? {
            let (reach, n) = (self.long()?, self.int()?);
            let keys = self.take(n.checked_mul(HASH)?)?;
            reached.push((reach, keys.as_chunks().0.to_vec()));
        }
        Some(Header { kind, key, tokens, worth: Worth { gap, weight }, reached })
    }

    fn tensors(&mut self) -> Option<Tensors> {
        let mut places = Vec::new();
        for _ in 0..self.int()? {
            let n = self.int()?;
            let name = std::str::from_utf8(self.take(n)?).ok()?.to_owned();
            let (dtype, rank) = (self.int()?, self.int()?);
            let shape = (0..rank).map(|_| self.long()).collect::<Option<Vec<usize>>>()?;
            places.push((name, dtype, shape));
        }
        let mut tensors = HashMap::new();
        for (name, dtype, shape) in places {
            let numbers = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n))?;
            let data = match dtype {
                0 => {
                    let words = self.take(numbers.checked_mul(4)?)?.as_chunks().0.iter();
                    TensorData::new(words.map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>(), shape)
                }
                1 => {
                    let words = self.take(numbers.checked_mul(2)?)?.as_chunks().0.iter();
                    TensorData::new(words.map(|b| bf16::from_le_bytes(*b)).collect::<Vec<bf16>>(), shape)
                }
                2 => {
                    let words = self.take(numbers.checked_mul(2)?)?.as_chunks().0.iter();
                    TensorData::new(words.map(|b| f16::from_le_bytes(*b)).collect::<Vec<f16>>(), shape)
                }
                _ => return None,
            };
            tensors.insert(name, data);
        }
        Some(Tensors(tensors))
    }
}

/// The header of a file whose first bytes these are; `None` if it is none. It is not believed: see [`decode`].
pub(super) fn peek(bytes: &[u8]) -> Option<Header> {
    Bytes(bytes).header()
}

/// The tensors of a file by name.
#[derive(Debug, Default)]
pub(crate) struct Tensors(HashMap<String, TensorData>);

impl Tensors {
    /// Takes a tensor out; an axis of the wanted shape is `None` if it may have any length.
    pub(crate) fn take(&mut self, name: &str, want: &[Option<usize>]) -> Result<TensorData, StateError> {
        let data = self.0.remove(name).ok_or_else(|| StateError(format!("tensor `{name}` is missing")))?;
        let shape = data.shape().as_slice().to_vec();
        let fits = shape.len() == want.len() && shape.iter().zip(want).all(|(n, want)| want.is_none_or(|w| w == *n));
        if fits { Ok(data) } else { Err(StateError(format!("tensor `{name}`: want {want:?}, found {shape:?}"))) }
    }
}

/// The header and the tensors of a file. Nothing is believed before the hash of all bytes is right; `None` if it is not, the key
/// is another, or the file is no such file.
pub(super) fn decode(bytes: &[u8], key: &Key) -> Option<(Header, Tensors)> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let mut bytes = Bytes(body);
    let header = bytes.header().filter(|header| header.key == *key)?;
    let tensors = bytes.tensors()?;
    bytes.0.is_empty().then_some((header, tensors))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (Header, Vec<u8>) {
        let header = Header {
            kind: Kind::State,
            key: [3; 32],
            tokens: 130,
            worth: Worth { gap: 64, weight: 8.0 },
            reached: vec![(usize::MAX, vec![[1; 32], [2; 32]]), (511, Vec::new())],
        };
        let bytes = encode(&header, &[]);
        (header, bytes)
    }

    #[test]
    fn a_file_comes_back_and_no_changed_byte_of_it_is_believed() {
        let (header, bytes) = file();
        assert_eq!(decode(&bytes, &header.key).expect("a file").0, header);
        assert_eq!(peek(&bytes).expect("a header"), header);
        assert!(decode(&bytes, &[4; 32]).is_none(), "another key");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(decode(&changed, &header.key).is_none(), "bit {bit} of byte {at}");
                let _ = peek(&changed);
            }
            assert!(decode(&bytes[..at], &header.key).is_none(), "{at} bytes");
        }
    }

    /// Files whose hash is right, but whose lengths are not: nothing is allocated for them, and nothing panics.
    #[test]
    fn lengths_beyond_the_file_are_refused() {
        let (header, bytes) = file();
        let body = &bytes[..bytes.len() - HASH];
        for at in 0..body.len() {
            for byte in [0, 0x7f, 0xff] {
                let mut changed = body.to_vec();
                changed[at] = byte;
                let hash = *blake3::hash(&changed).as_bytes();
                changed.extend(hash);
                let _ = decode(&changed, &header.key);
            }
        }
    }
}
