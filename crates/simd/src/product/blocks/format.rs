//! The formats: their names and sizes.

use std::fmt;
use std::str::FromStr;

use super::layout::{Layout, with_layout};

/// A block-quantised number format of GGUF files.
///
/// The blocks of the first kind have 32 weights and a factor, some also a minimum; those of the second have 256 weights
/// in sub-blocks of 16 or 32, whose scales are integers of a few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// 32 codes of 4 bits and a factor.
    Q4_0,
    /// 32 codes of 4 bits, a factor and a minimum.
    Q4_1,
    /// 32 codes of 5 bits and a factor.
    Q5_0,
    /// 32 codes of 5 bits, a factor and a minimum.
    Q5_1,
    /// 32 codes of 8 bits and a factor.
    Q8_0,
    /// 32 codes of 4 bits for unevenly spaced values, and a factor.
    Iq4Nl,
    /// 32 four-bit floats and a power of two: the OCP's microscaling format.
    Mxfp4,
    /// 256 codes of 2 bits, with a scale and a minimum for each 16.
    Q2K,
    /// 256 codes of 3 bits, with a scale for each 16.
    Q3K,
    /// 256 codes of 4 bits, with a scale and a minimum for each 32.
    Q4K,
    /// 256 codes of 5 bits, with a scale and a minimum for each 32.
    Q5K,
    /// 256 codes of 6 bits, with a scale for each 16.
    Q6K,
    /// 256 codes of 4 bits for unevenly spaced values, with a scale for each 32.
    Iq4Xs,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 13] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Iq4Nl,
        Self::Mxfp4,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Xs,
    ];

    /// The name, as llama.cpp spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Iq4Nl => "IQ4_NL",
            Self::Mxfp4 => "MXFP4",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Xs => "IQ4_XS",
        }
    }

    /// The number of weights of a block: 32 or 256.
    pub fn block(self) -> usize {
        with_layout!(self, L => L::BLOCK)
    }

    /// The number of bytes of a block.
    pub fn block_bytes(self) -> usize {
        with_layout!(self, L => L::BYTES)
    }

    /// The number of bits that a weight takes, its share of the factors included.
    pub fn bits_per_weight(self) -> f64 {
        (8 * self.block_bytes()) as f64 / self.block() as f64
    }

    /// The number of bytes of a row of `width` weights, or `None` if the row is no whole number of blocks or the number
    /// does not fit.
    pub fn row_bytes(self, width: usize) -> Option<usize> {
        if width.is_multiple_of(self.block()) { (width / self.block()).checked_mul(self.block_bytes()) } else { None }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of the formats'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat(String);

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Format::ALL.map(Format::name);
        write!(f, "there is no block format `{}`; there are {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownFormat {}

impl FromStr for Format {
    type Err = UnknownFormat;

    /// Reads a name in capital or small letters.
    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}
