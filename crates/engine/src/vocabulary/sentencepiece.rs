//! A parser for SentencePiece models (protocol buffers of `sentencepiece_model.proto`), limited to what a tokenizer needs. Files are not trusted.

/// File names of published models.
pub(super) const FILES: [&str; 3] = ["sentencepiece.bpe.model", "spiece.model", "tokenizer.model"];

/// Longest piece of a BPE model, in bytes: merges are found by trying every split.
const LONGEST: usize = 512;

/// A piece of the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// The type of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The segmentation algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

/// A SentencePiece model.
#[derive(Clone, Debug)]
pub(super) struct SentencePiece {
    pub(super) pieces: Vec<Piece>,
    pub(super) algorithm: Algorithm,
    pub(super) byte_fallback: bool,
    /// Ids of the unknown, beginning-of-text and end-of-text pieces; negative for none.
    pub(super) unk: i64,
    pub(super) bos: i64,
    pub(super) eos: i64,
    pub(super) unk_piece: String,
    pub(super) bos_piece: String,
    pub(super) eos_piece: String,
    pub(super) charsmap: Vec<u8>,
    pub(super) dummy_prefix: bool,
    pub(super) remove_extra_spaces: bool,
    pub(super) escape_spaces: bool,
}

/// A field of a message.
enum Value<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

impl SentencePiece {
    /// Parses a model.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            unk: 0,
            bos: 1,
            eos: 2,
            unk_piece: "<unk>".into(),
            bos_piece: "<s>".into(),
            eos_piece: "</s>".into(),
            charsmap: Vec::new(),
            dummy_prefix: true,
            remove_extra_spaces: true,
            escape_spaces: true,
        };
        fields(bytes, |field, value| match (field, value) {
            (1, Value::Bytes(piece)) => {
                let piece = Piece::parse(piece).map_err(|e| format!("piece {}: {e}", model.pieces.len()))?;
                model.pieces.push(piece);
                Ok(())
            }
            (2, Value::Bytes(trainer)) => model.trainer(trainer).map_err(|e| format!("trainer_spec: {e}")),
            (3, Value::Bytes(normalizer)) => model.normalizer(normalizer).map_err(|e| format!("normalizer_spec: {e}")),
            _ => Ok(()),
        })
        .map_err(|e| format!("not a SentencePiece model: {e}"))?;
        if model.pieces.is_empty() {
            return Err("not a SentencePiece model: it has no pieces".into());
        }
        charsmap_is_sound(&model.charsmap).map_err(|e| format!("normalizer_spec: precompiled_charsmap: {e}"))?;
        Ok(model)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        fields(bytes, |field, value| {
            match (field, value) {
                (3, Value::Number(1)) => self.algorithm = Algorithm::Unigram,
                (3, Value::Number(2)) => self.algorithm = Algorithm::Bpe,
                (3, Value::Number(other)) => {
                    let name = ["word", "char"].get(other.wrapping_sub(3) as usize).copied().unwrap_or("unknown");
                    return Err(format!("model_type: want unigram (1) or bpe (2), found {name} ({other})"));
                }
                (35, Value::Number(n)) => self.byte_fallback = n != 0,
                // Negative ids are encoded as 64-bit two's complement.
                (40, Value::Number(n)) => self.unk = n as i64,
                (41, Value::Number(n)) => self.bos = n as i64,
                (42, Value::Number(n)) => self.eos = n as i64,
                (45, Value::Bytes(b)) => self.unk_piece = text(b)?,
                (46, Value::Bytes(b)) => self.bos_piece = text(b)?,
                (47, Value::Bytes(b)) => self.eos_piece = text(b)?,
                _ => {}
            }
            Ok(())
        })
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        fields(bytes, |field, value| {
            match (field, value) {
                (2, Value::Bytes(b)) => self.charsmap = b.to_vec(),
                (3, Value::Number(n)) => self.dummy_prefix = n != 0,
                (4, Value::Number(n)) => self.remove_extra_spaces = n != 0,
                (5, Value::Number(n)) => self.escape_spaces = n != 0,
                _ => {}
            }
            Ok(())
        })
    }

    /// An error if a piece is too long for BPE.
    pub(super) fn mergeable(&self) -> Result<(), String> {
        let long = self.pieces.iter().enumerate().find(|(_, p)| p.text.len() > LONGEST);
        long.map_or(Ok(()), |(i, p)| Err(format!("piece {i} has {} bytes, want at most {LONGEST}", p.text.len())))
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: PieceKind::Normal };
        fields(bytes, |field, value| {
            match (field, value) {
                (1, Value::Bytes(b)) => piece.text = text(b)?,
                (2, Value::Float(score)) if score.is_finite() => piece.score = score,
                (2, Value::Float(score)) => return Err(format!("score: want a finite number, found {score}")),
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        1 => PieceKind::Normal,
                        2 => PieceKind::Unknown,
                        3 => PieceKind::Control,
                        4 => PieceKind::UserDefined,
                        5 => PieceKind::Unused,
                        6 => PieceKind::Byte,
                        other => return Err(format!("type: want 1 to 6, found {other}")),
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(piece)
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a string that is not UTF-8".into())
}

/// Calls `meet` with the number and value of each field of a message.
fn fields<'a>(mut bytes: &'a [u8], mut meet: impl FnMut(u64, Value<'a>) -> Result<(), String>) -> Result<(), String> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => {
                take(&mut bytes, 8)?;
                continue;
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| "a length is out of range")?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            5 => {
                let four = take(&mut bytes, 4)?.first_chunk().copied().unwrap_or_default();
                Value::Float(f32::from_le_bytes(four))
            }
            other => return Err(format!("a field of the unknown wire type {other}")),
        };
        meet(key >> 3, value)?;
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(n).ok_or("the file is truncated")?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than ten bytes".into())
}

/// Checks that lookups in a `precompiled_charsmap` stay in bounds: a length, a double array of that many bytes (Darts-clone), and zero-terminated strings. The
/// library that uses it does not check.
fn charsmap_is_sound(map: &[u8]) -> Result<(), String> {
    if map.is_empty() {
        return Ok(());
    }
    let (length, rest) = map.split_first_chunk().ok_or("the length is truncated")?;
    let (array, texts) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize / 4 * 4).ok_or("the double array is truncated")?;
    let texts = std::str::from_utf8(texts).map_err(|_| "its strings are not UTF-8")?;
    let units: Vec<usize> = array.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect();
    let offset = |unit: usize| (unit >> 10) << ((unit & (1 << 9)) >> 6);
    let label = |unit: usize| unit & ((1 << 31) | 0xff);
    let mut met = vec![false; units.len()];
    // A node is identified by the base offset of its children.
    let mut open = vec![offset(*units.first().ok_or("the double array is empty")?)];
    while let Some(node) = open.pop() {
        if node | 0xff >= units.len() {
            return Err(format!("a node at {node} exceeds the double array of {} units", units.len()));
        }
        for byte in 1..=0xff {
            let at = node ^ byte;
            if label(units[at]) != byte || std::mem::replace(&mut met[at], true) {
                continue;
            }
            let next = at ^ offset(units[at]);
            if (units[at] >> 8) & 1 == 1 {
                let leaf = *units.get(next).ok_or_else(|| format!("a leaf at {next} exceeds the double array"))?;
                let start = leaf & ((1 << 31) - 1);
                if !texts.is_char_boundary(start) {
                    return Err(format!("a string at byte {start} of {} is out of bounds", texts.len()));
                }
            }
            open.push(next);
        }
    }
    Ok(())
}
