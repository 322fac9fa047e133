//! The types that cached keys and values are stored in.

use burn::tensor::{DType, Tensor};
use longreach_burn as ops;

/// How cached keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// As they are computed.
    #[default]
    F32,
    /// Rounded to bf16, in half the memory.
    Bf16,
    /// Rounded to blocks of 32 codes of 8 bits with a factor, in 34 / 128 of the memory. The last block of a row whose width is no
    /// multiple of 32 is filled up with zeros.
    Q8_0,
}

impl KvDtype {
    /// Its name, as in files and options.
    pub fn name(self) -> &'static str {
        match self {
            KvDtype::F32 => "f32",
            KvDtype::Bf16 => "bf16",
            KvDtype::Q8_0 => "q8_0",
        }
    }

    /// Bytes of a row of `width` numbers.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            KvDtype::F32 => 4 * width,
            KvDtype::Bf16 => 2 * width,
            KvDtype::Q8_0 => 2 * ops::q8_words(width),
        }
    }

    /// How many elements of a tensor a row of `width` numbers takes.
    pub(super) fn elements(self, width: usize) -> usize {
        if self == KvDtype::Q8_0 { ops::q8_words(width) } else { width }
    }

    pub(super) fn of_tensors(self) -> DType {
        match self {
            KvDtype::F32 => DType::F32,
            KvDtype::Bf16 => DType::BF16,
            KvDtype::Q8_0 => DType::F16,
        }
    }
}

/// A tensor in f32, or one that is stored already, in the type that it is stored in.
pub(super) fn stored(x: Tensor<4>, dtype: KvDtype) -> Tensor<4> {
    match dtype {
        _ if x.dtype() == dtype.of_tensors() => x,
        KvDtype::Q8_0 => ops::to_q8(x),
        _ => x.cast(dtype.of_tensors()),
    }
}

/// As [`stored`], of a tensor of rows of `width` numbers that are stored in any type.
pub(super) fn stored_anew(x: Tensor<4>, width: usize, dtype: KvDtype) -> Tensor<4> {
    let numbers = match x.dtype() {
        DType::F32 => x,
        DType::F16 => ops::of_q8(x).narrow(3, 0, width),
        _ => x.cast(DType::F32),
    };
    stored(numbers, dtype)
}
