//! Saving and restoring sessions, bit for bit.
//!
//! A saved state has the layout of a safetensors file: the state of every layer, the logits after the last token, the
//! set of tokens seen, and how often tokens were generated; the tokens and the messages of a conversation. Its metadata holds the fingerprint of model, dtype and tokenizer; restoring it with another is an
//! error, and so is one whose BLAKE3 hash is another: a flipped bit is damage. It is written to any [`Write`] and read from any [`Read`], one tensor at a time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use burn::tensor::{DType, TensorData};
use half::bf16;
use longreach_models::write_atomically;
use longreach_nn::StateError;
use serde::{Deserialize, Serialize};

use crate::writer::RECENT;
use crate::{Engine, Error, Message, Sampler, Session};

/// A restored session and the position of its sampler.
pub struct Resumed {
    /// The restored session.
    pub session: Session,
    /// Seed of the sampler that was saved with it.
    pub seed: u64,
    /// Position of that sampler in its random stream, in 32-bit words.
    pub position: u128,
    /// The hash of the text that it was saved with ([`Engine::read_or_resume`]).
    pub(crate) source: Option<String>,
    /// The messages that were saved with it: see [`Conversation::save`](crate::Conversation::save).
    pub messages: Option<Vec<Message>>,
}

/// The name of the format and its version.
const FORMAT: &str = "longreach state 6";
/// The longest header that is believed.
const LONGEST_HEADER: u64 = 64 << 20;
/// Bytes that are converted at a time.
const PIECE: usize = 1 << 16;

/// What stands for the hash while it is computed: the hash covers the header as well, with these characters in its place.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The metadata of a state. All values are strings, as in every safetensors file.
#[derive(Serialize, Deserialize)]
struct Metadata {
    format: String,
    fingerprint: String,
    /// The BLAKE3 hash of the header, with zeros in place of this hash, and of the bytes of the tensors.
    blake3: String,
    tokens: String,
    recent: String,
    seed: String,
    position: String,
    /// Present if all tokens were read from the beginning in the calls of the model's cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    canonical: Option<String>,
    /// The hash of the text that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// The messages of a conversation, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    messages: Option<String>,
}

/// Where a tensor is, among the bytes after the header.
#[derive(Serialize, Deserialize)]
struct Place {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// A header that was read.
struct Header {
    metadata: Metadata,
    /// The places of the tensors, in the order of their bytes.
    places: Vec<(String, Place)>,
    /// Has hashed the header.
    hasher: blake3::Hasher,
}

/// The values of a saved tensor.
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    U8(Vec<u8>),
    U32(Vec<u32>),
}

impl Values {
    fn dtype(&self) -> &'static str {
        match self {
            Values::F32(_) => "F32",
            Values::Bf16(_) => "BF16",
            Values::U8(_) => "U8",
            Values::U32(_) => "U32",
        }
    }
}

/// What is saved with a session.
#[derive(Clone, Copy, Default)]
pub(crate) struct With<'a> {
    /// The hash of the text that it has read.
    pub(crate) source: Option<&'a str>,
    /// The messages of its conversation.
    pub(crate) messages: Option<&'a [Message]>,
}

/// The restored tensors by name.
type Tensors = HashMap<String, (Vec<usize>, Values)>;

impl Session {
    /// Saves the session and the position of the sampler to a file, atomically. An error before the first token, or if
    /// the file cannot be written.
    ///
    /// ```
    /// use longreach_engine::{Engine, Sampler, Sampling};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let file = folder.path().join("text.state");
    /// let (engine, mut sampler) = (Engine::embedded(None)?, Sampler::new(Sampling::greedy())?);
    /// let mut session = engine.session();
    /// session.read_text("Ownership is")?;
    /// session.save(&file, &sampler)?;
    ///
    /// let mut resumed = engine.resume(&file)?.session;
    /// assert_eq!(resumed.tokens(), session.tokens());
    /// assert_eq!(resumed.next_token(&mut sampler)?, session.next_token(&mut sampler)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save(&self, file: &Path, sampler: &Sampler) -> Result<(), Error> {
        self.save_with(file, sampler, &With::default())
    }

    /// As [`Session::save`], with what belongs to the session.
    pub(crate) fn save_with(&self, file: &Path, sampler: &Sampler, with: &With<'_>) -> Result<(), Error> {
        self.logits()?;
        let mut result = Ok(());
        write_atomically(file, |out| {
            result = self.write_to(out, sampler, with);
            match &mut result {
                Err(Error::Io { source, .. }) => Err(std::mem::replace(source, std::io::ErrorKind::Other.into())),
                _ => Ok(()),
            }
        })?;
        result
    }

    /// As [`Session::save`], to any writer: a pipe, a socket, memory. Besides buffers no memory is needed.
    pub fn save_to(&self, out: &mut dyn Write, sampler: &Sampler) -> Result<(), Error> {
        self.write_to(out, sampler, &With::default())
    }

    fn write_to(&self, out: &mut dyn Write, sampler: &Sampler, with: &With<'_>) -> Result<(), Error> {
        let logits = self.logits()?;
        let tensors = self.cache.tensors();
        let seen: Vec<u8> = self.history.seen.iter().map(|s| u8::from(*s)).collect();
        let numbers: Vec<(&str, Vec<usize>, Vec<u32>)> = [
            Some(("recent", vec![self.recent.ids.len()], self.recent.ids.clone())),
            Some(("written", vec![self.history.written.len(), 2], flat(&self.history.written))),
            self.text.as_ref().map(|text| ("text", vec![text.len()], text.clone())),
        ]
        .into_iter()
        .flatten()
        .collect();
        let logits = TensorData::new(logits.to_vec(), [logits.len()]);

        let mut header = serde_json::Map::new();
        let metadata = Metadata {
            format: FORMAT.into(),
            fingerprint: self.engine.fingerprint(),
            blake3: NO_HASH.into(),
            tokens: self.tokens.to_string(),
            recent: if self.recent.cut { "cut" } else { "whole" }.into(),
            seed: sampler.seed().to_string(),
            position: sampler.position().to_string(),
            canonical: self.canonical.then(|| "yes".into()),
            source: with.source.map(str::to_owned),
            messages: with.messages.map(|messages| serde_json::json!(messages).to_string()),
        };
        let json = |value: Result<serde_json::Value, serde_json::Error>| value.expect("strings and numbers");
        header.insert("__metadata__".into(), json(serde_json::to_value(metadata)));
        let mut end = 0;
        let mut place = |name: &str, dtype: &str, shape: Vec<usize>, size: usize| {
            let from = end;
            end += (shape.iter().product::<usize>() * size) as u64;
            let place = Place { dtype: dtype.into(), shape, data_offsets: [from, end] };
            header.insert(name.into(), json(serde_json::to_value(place)));
        };
        place("logits", "F32", vec![self.logits.len()], 4);
        for tensor in &tensors {
            let (dtype, size) = if tensor.dtype == DType::BF16 { ("BF16", 2) } else { ("F32", 4) };
            place(&tensor.name, dtype, tensor.shape.clone(), size);
        }
        place("seen", "U8", vec![seen.len()], 1);
        numbers.iter().for_each(|(name, shape, _)| place(name, "U32", shape.clone(), 4));

        let mut header = serde_json::Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let write_tensors = |out: &mut dyn Write| {
            for data in std::iter::once(logits.clone()).chain(tensors.iter().flat_map(|tensor| tensor.data())) {
                write_numbers(out, &data)?;
            }
            out.write_all(&seen)?;
            let bytes = numbers.iter().flat_map(|(_, _, ids)| ids).flat_map(|id| id.to_le_bytes());
            out.write_all(&bytes.collect::<Vec<u8>>())
        };
        let mut write = || {
            // The hash stands before what it is a hash of, so that a reader needs no end: the tensors are passed over twice.
            let mut hasher = blake3::Hasher::new();
            hasher.update(header.as_bytes());
            write_tensors(&mut hasher)?;
            let header = header.replacen(NO_HASH, hasher.finalize().to_hex().as_str(), 1);
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(header.as_bytes())?;
            write_tensors(out)
        };
        write().map_err(|source| Error::Io { path: "the saved state".into(), source })
    }
}

/// Tokens and how often each was generated, in turns.
fn flat(written: &BTreeMap<u32, u32>) -> Vec<u32> {
    written.iter().flat_map(|(id, count)| [*id, *count]).collect()
}

/// Writes f32 or bf16 numbers in little-endian order.
fn write_numbers(out: &mut dyn Write, data: &TensorData) -> std::io::Result<()> {
    fn write<const N: usize>(out: &mut dyn Write, numbers: impl Iterator<Item = [u8; N]>) -> std::io::Result<()> {
        let mut piece = Vec::with_capacity(PIECE);
        for bytes in numbers {
            piece.extend(bytes);
            if piece.len() == PIECE {
                out.write_all(&piece)?;
                piece.clear();
            }
        }
        out.write_all(&piece)
    }
    match data.dtype() {
        DType::BF16 => write(out, data.iter::<bf16>().map(bf16::to_le_bytes)),
        _ => write(out, data.iter::<f32>().map(f32::to_le_bytes)),
    }
}

impl Engine {
    /// Restores a saved session. An error if the file is damaged, or was saved with another model, dtype or tokenizer.
    pub fn resume(&self, file: &Path) -> Result<Resumed, Error> {
        let open = File::open(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
        self.resume_from(BufReader::new(open), file)
    }

    /// As [`Engine::resume`], from any reader; `name` is its source in errors. The format and the fingerprint are
    /// checked before anything else is read, and lengths are believed only as far as there are bytes.
    pub fn resume_from(&self, mut input: impl Read, name: &Path) -> Result<Resumed, Error> {
        let wrong = |message: String| Error::State { path: name.to_owned(), message };
        let Header { metadata, places, mut hasher } = read_header(&mut input).map_err(wrong)?;
        if metadata.fingerprint != self.fingerprint() {
            let (want, found) = (self.fingerprint(), &metadata.fingerprint);
            let found = found.get(..12).unwrap_or(found).to_owned();
            return Err(Error::OtherModel { path: name.to_owned(), want: want[..12].to_owned(), found });
        }
        let mut tensors = read_tensors(&mut input, places, &mut hasher).map_err(wrong)?;
        let found = hasher.finalize().to_hex();
        if *found.as_str() != *metadata.blake3 {
            let want = metadata.blake3.get(..12).unwrap_or(&metadata.blake3);
            let found = &found.as_str()[..12];
            return Err(wrong(format!(
                "the file is damaged: its BLAKE3 hash: want {want}…, found {found}…; read the text again, or copy the file again"
            )));
        }
        self.restored(&metadata, &mut tensors).map_err(wrong)
    }

    fn restored(&self, metadata: &Metadata, tensors: &mut Tensors) -> Result<Resumed, String> {
        fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
            text.parse().map_err(|_| format!("{name}: `{text}` is not a number, or out of range"))
        }
        let (seed, position) = (number("seed", &metadata.seed)?, number("position", &metadata.position)?);
        let mut session = Session::new(self.clone());
        session.tokens = number("tokens", &metadata.tokens)?;
        session.canonical = metadata.canonical.is_some();
        let read = usize::try_from(session.tokens).map_err(|_| "tokens: out of range".to_owned())?;
        let floats = |tensors: &mut Tensors, name: &str, want: &[Option<usize>]| match take(tensors, name, "F32", want)?
        {
            (shape, Values::F32(numbers)) => Ok(TensorData::new(numbers, shape)),
            _ => Err(format!("tensor `{name}`: want F32")),
        };
        // Only cached keys and values are stored in bf16; the fingerprint has shown that they are in bf16 where they should be.
        let get = |name: &str, want: &[Option<usize>]| match tensors.get(name) {
            Some((_, Values::Bf16(_))) => match take(tensors, name, "BF16", want) {
                Ok((shape, Values::Bf16(numbers))) => Ok(TensorData::new(numbers, shape)),
                Ok(_) => Err(StateError(format!("tensor `{name}`: want BF16"))),
                Err(error) => Err(StateError(error)),
            },
            _ => floats(tensors, name, want).map_err(StateError),
        };
        session.cache = session.cache.restored(read, get).map_err(|e| e.to_string())?;
        let vocabulary = [Some(session.vocabulary())];
        session.logits =
            floats(tensors, "logits", &vocabulary)?.try_into_vec().map_err(|e| format!("logits: {e:?}"))?;
        if let (_, Values::U8(seen)) = take(tensors, "seen", "U8", &vocabulary)? {
            session.history.seen = seen.into_iter().map(|s| s != 0).collect();
        }
        if let (shape, Values::U32(recent)) = take(tensors, "recent", "U32", &[None])? {
            if recent.len() > RECENT {
                return Err(format!("tensor `recent`: want U32 [at most {RECENT}], found U32 {shape:?}"));
            }
            session.recent.ids = recent;
        }
        session.recent.cut = session.tokens > 0 && metadata.recent != "whole";
        if let (_, Values::U32(written)) = take(tensors, "written", "U32", &[None, Some(2)])? {
            session.history.written = written.as_chunks::<2>().0.iter().map(|[id, count]| (*id, *count)).collect();
        }
        if tensors.contains_key("text")
            && let (shape, Values::U32(text)) = take(tensors, "text", "U32", &[None])?
        {
            if text.len() > read {
                return Err(format!("tensor `text`: want U32 [at most {read}], found U32 {shape:?}"));
            }
            session.text = Some(text);
        }
        let messages = metadata.messages.as_ref().map(|json| serde_json::from_str(json)).transpose();
        let messages = messages.map_err(|e| format!("messages: {e}"))?;
        Ok(Resumed { session, seed, position, source: metadata.source.clone(), messages })
    }
}

/// Takes a tensor out; an axis of its shape is `None` if it may have any length.
fn take(
    tensors: &mut Tensors,
    name: &str,
    dtype: &str,
    want: &[Option<usize>],
) -> Result<(Vec<usize>, Values), String> {
    let (shape, values) = tensors.remove(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
    let fits = shape.len() == want.len() && shape.iter().zip(want).all(|(n, want)| want.is_none_or(|w| w == *n));
    if !fits || values.dtype() != dtype {
        let want: Vec<String> = want.iter().map(|n| n.map_or("any".into(), |n| n.to_string())).collect();
        return Err(format!("tensor `{name}`: want {dtype} [{}], found {} {shape:?}", want.join(", "), values.dtype()));
    }
    Ok((shape, values))
}

const CUT: &str = "not a complete state file";

/// Reads the header: the metadata, and the places of the tensors in the order of their bytes. Errors if the format is
/// another, or the tensors leave gaps or overlap.
fn read_header(input: &mut impl Read) -> Result<Header, String> {
    let mut length = [0; 8];
    input.read_exact(&mut length).map_err(|e| format!("{CUT}: {e}"))?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(format!("{CUT}: a header of {length} bytes, want at most {LONGEST_HEADER}"));
    }
    let bytes = read_bytes(input, length)?;
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes).map_err(|e| format!("{CUT}: its header: {e}"))?;
    let metadata = header.remove("__metadata__").unwrap_or_default();
    let format = metadata.get("format").and_then(|format| format.as_str()).unwrap_or_default();
    if format != FORMAT {
        let older = format.starts_with("longreach state ");
        let hint = if older { ": it was saved by another version; read the text again" } else { "" };
        return Err(format!("format: want `{FORMAT}`, found `{format}`{hint}"));
    }
    let metadata: Metadata = serde_json::from_value(metadata).map_err(|e| format!("metadata: {e}"))?;
    let mut hasher = blake3::Hasher::new();
    let hash = metadata.blake3.as_bytes();
    match bytes.windows(NO_HASH.len()).position(|window| window == hash) {
        Some(at) => {
            hasher.update(&bytes[..at]).update(NO_HASH.as_bytes()).update(&bytes[at + NO_HASH.len()..]);
        }
        None => return Err(format!("blake3: want {} hexadecimal digits, found {}", NO_HASH.len(), hash.len())),
    }
    let places = header.into_iter().map(|(name, place)| {
        let place: Place = serde_json::from_value(place).map_err(|e| format!("tensor `{name}`: {e}"))?;
        Ok((name, place))
    });
    let mut places = places.collect::<Result<Vec<_>, String>>()?;
    places.sort_by_key(|(_, place)| place.data_offsets);
    let mut end = 0;
    for (name, Place { data_offsets: [from, to], .. }) in &places {
        if *from != end || to < from {
            return Err(format!("tensor `{name}`: its bytes are {from}..{to}, want them to begin at {end}"));
        }
        end = *to;
    }
    Ok(Header { metadata, places, hasher })
}

/// Reads `n` bytes. Memory grows with the bytes that are there.
fn read_bytes(input: &mut impl Read, n: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    input.take(n).read_to_end(&mut bytes).map_err(|e| format!("{CUT}: {e}"))?;
    if bytes.len() as u64 == n { Ok(bytes) } else { Err(format!("{CUT}: it ends within {n} bytes")) }
}

/// Reads all tensors, in the order of their bytes, which are hashed.
fn read_tensors(
    input: &mut impl Read,
    places: Vec<(String, Place)>,
    hasher: &mut blake3::Hasher,
) -> Result<Tensors, String> {
    let mut tensors = Tensors::new();
    for (name, Place { dtype, shape, data_offsets: [from, to] }) in places {
        let size: u64 = match &dtype[..] {
            "F32" | "U32" => 4,
            "BF16" => 2,
            "U8" => 1,
            other => return Err(format!("tensor `{name}`: want F32, BF16, U32 or U8, found {other}")),
        };
        let bytes = shape.iter().try_fold(size, |all, n| all.checked_mul(*n as u64));
        if bytes != Some(to - from) {
            return Err(format!("tensor `{name}`: {dtype} {shape:?} in {} bytes", to - from));
        }
        let bytes = read_bytes(input, to - from)?;
        hasher.update(&bytes);
        let words = || bytes.as_chunks::<4>().0.iter();
        let values = match &dtype[..] {
            "F32" => Values::F32(words().map(|b| f32::from_le_bytes(*b)).collect()),
            "BF16" => Values::Bf16(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b)).collect()),
            "U32" => Values::U32(words().map(|b| u32::from_le_bytes(*b)).collect()),
            _ => Values::U8(bytes),
        };
        tensors.insert(name, (shape, values));
    }
    Ok(tensors)
}
