//! How the elements of a tensor are stored: as numbers, or in blocks of a few bits each.

use std::fmt;

use crate::tensor::MOST_AXES;

macro_rules! tensor_types {
    ($($(#[$doc:meta])* $type:ident = $number:literal, $name:literal, $elements:literal elements in $bytes:literal bytes;)*) => {
        /// The type of a tensor's elements.
        ///
        /// A type stores a fixed number of elements in a block of a fixed number of bytes; a row of a tensor, which is
        /// its innermost axis, is a whole number of blocks. Plain numbers are blocks of one element.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[non_exhaustive]
        #[allow(non_camel_case_types, reason = "the names of llama.cpp")]
        pub enum TensorType {
            $($(#[$doc])* $type = $number,)*
        }

        impl TensorType {
            /// All types, by number.
            pub const ALL: &[TensorType] = &[$(TensorType::$type,)*];

            /// The number of the type in files.
            pub fn number(self) -> u32 {
                match self { $(TensorType::$type => $number,)* }
            }

            /// The name of the type as llama.cpp prints it, such as `f32` or `q4_K`.
            pub fn name(self) -> &'static str {
                match self { $(TensorType::$type => $name,)* }
            }

            /// The number of elements in a block.
            pub fn block_elements(self) -> usize {
                match self { $(TensorType::$type => $elements,)* }
            }

            /// The number of bytes of a block.
            pub fn block_bytes(self) -> usize {
                match self { $(TensorType::$type => $bytes,)* }
            }
        }
    };
}

tensor_types! {
    /// 32-bit floats.
    F32 = 0, "f32", 1 elements in 4 bytes;
    /// 16-bit floats.
    F16 = 1, "f16", 1 elements in 2 bytes;
    /// 4 bits and a scale for each 32.
    Q4_0 = 2, "q4_0", 32 elements in 18 bytes;
    /// 4 bits, a scale and a minimum for each 32.
    Q4_1 = 3, "q4_1", 32 elements in 20 bytes;
    /// 5 bits and a scale for each 32.
    Q5_0 = 6, "q5_0", 32 elements in 22 bytes;
    /// 5 bits, a scale and a minimum for each 32.
    Q5_1 = 7, "q5_1", 32 elements in 24 bytes;
    /// 8 bits and a scale for each 32.
    Q8_0 = 8, "q8_0", 32 elements in 34 bytes;
    /// 8 bits, a scale and a sum for each 32: an operand of products, which no file contains.
    Q8_1 = 9, "q8_1", 32 elements in 36 bytes;
    /// 2 bits in super-blocks of 16 blocks with scales and minima.
    Q2_K = 10, "q2_K", 256 elements in 84 bytes;
    /// 3 bits in super-blocks of 16 blocks with scales.
    Q3_K = 11, "q3_K", 256 elements in 110 bytes;
    /// 4 bits in super-blocks of 8 blocks with scales and minima.
    Q4_K = 12, "q4_K", 256 elements in 144 bytes;
    /// 5 bits in super-blocks of 8 blocks with scales and minima.
    Q5_K = 13, "q5_K", 256 elements in 176 bytes;
    /// 6 bits in super-blocks of 16 blocks with scales.
    Q6_K = 14, "q6_K", 256 elements in 210 bytes;
    /// 8 bits and sums in super-blocks: an operand of products, which no file contains.
    Q8_K = 15, "q8_K", 256 elements in 292 bytes;
    /// 2.06 bits, by a codebook of groups of 8.
    IQ2_XXS = 16, "iq2_xxs", 256 elements in 66 bytes;
    /// 2.31 bits, by a codebook of groups of 8.
    IQ2_XS = 17, "iq2_xs", 256 elements in 74 bytes;
    /// 3.06 bits, by a codebook of groups of 4.
    IQ3_XXS = 18, "iq3_xxs", 256 elements in 98 bytes;
    /// 1.56 bits, by a codebook of groups of 8.
    IQ1_S = 19, "iq1_s", 256 elements in 50 bytes;
    /// 4 bits by a table of 16 unevenly spaced values, and a scale for each 32.
    IQ4_NL = 20, "iq4_nl", 32 elements in 18 bytes;
    /// 3.44 bits, by a codebook of groups of 4.
    IQ3_S = 21, "iq3_s", 256 elements in 110 bytes;
    /// 2.56 bits, by a codebook of groups of 8.
    IQ2_S = 22, "iq2_s", 256 elements in 82 bytes;
    /// The values of `IQ4_NL` in super-blocks of 8 blocks with scales.
    IQ4_XS = 23, "iq4_xs", 256 elements in 136 bytes;
    /// 8-bit integers.
    I8 = 24, "i8", 1 elements in 1 bytes;
    /// 16-bit integers.
    I16 = 25, "i16", 1 elements in 2 bytes;
    /// 32-bit integers.
    I32 = 26, "i32", 1 elements in 4 bytes;
    /// 64-bit integers.
    I64 = 27, "i64", 1 elements in 8 bytes;
    /// 64-bit floats.
    F64 = 28, "f64", 1 elements in 8 bytes;
    /// 1.75 bits, by a codebook of groups of 8.
    IQ1_M = 29, "iq1_m", 256 elements in 56 bytes;
    /// bfloat16: the upper 16 bits of a 32-bit float.
    BF16 = 30, "bf16", 1 elements in 2 bytes;
    /// Ternary values, 5 in a byte.
    TQ1_0 = 34, "tq1_0", 256 elements in 54 bytes;
    /// Ternary values, 4 in a byte.
    TQ2_0 = 35, "tq2_0", 256 elements in 66 bytes;
    /// 4-bit floats and a power of two for each 32: the OCP format.
    MXFP4 = 39, "mxfp4", 32 elements in 17 bytes;
    /// 4-bit floats and an 8-bit float for each 16: NVIDIA's format.
    NVFP4 = 40, "nvfp4", 64 elements in 36 bytes;
    /// One bit and a scale for each 128.
    Q1_0 = 41, "q1_0", 128 elements in 18 bytes;
    /// 2 bits and a scale for each 64.
    Q2_0 = 42, "q2_0", 64 elements in 18 bytes;
}

/// Types that llama.cpp once had and does not read any more.
const REMOVED: [(u32, &str); 8] = [
    (4, "q4_2"),
    (5, "q4_3"),
    (31, "q4_0_4_4"),
    (32, "q4_0_4_8"),
    (33, "q4_0_8_8"),
    (36, "iq4_nl_4_4"),
    (37, "iq4_nl_4_8"),
    (38, "iq4_nl_8_8"),
];

impl TensorType {
    /// The type with this number in files; `None` if it is unknown or was removed from the format.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.number() == number)
    }

    /// The type with this name, in upper or lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// The bytes of a tensor of this type with a shape that has the innermost axis last. `None` if there are not 1 to
    /// 4 axes, if one is 0, if a row is not a whole number of blocks, or if the size is 2⁶³ or more.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        self.size(shape).ok()
    }

    /// The type with this number in a file, or the reason why there is none.
    pub(crate) fn find(number: u32) -> Result<Self, String> {
        Self::from_number(number).ok_or_else(|| match REMOVED.iter().find(|(removed, _)| *removed == number) {
            Some((_, name)) => format!(
                "has type {number} ({name}), which was removed from the format: convert the original model again"
            ),
            None => {
                let known = Self::ALL.iter().map(|t| t.number()).max().unwrap_or_default();
                format!("has the unknown type {number}; the known types have numbers up to {known}")
            }
        })
    }

    /// The bytes of a tensor, or the reason why the shape is invalid.
    pub(crate) fn size(self, shape: &[usize]) -> Result<usize, String> {
        const LIMIT: u64 = 1 << 63;
        let row = match shape {
            [.., row] if shape.len() <= MOST_AXES => *row,
            _ => return Err(format!("has {} axes, want 1 to {MOST_AXES}", shape.len())),
        };
        if shape.contains(&0) {
            return Err(format!("has shape {shape:?}, in which an axis is 0"));
        }
        let block = self.block_elements();
        if !row.is_multiple_of(block) {
            return Err(format!("has rows of {row} elements, which are not whole blocks of {block} ({self})"));
        }
        let product =
            |sizes: &[usize], by: usize| sizes.iter().try_fold(by, |product, size| product.checked_mul(*size));
        let below = |n: &usize| u64::try_from(*n).is_ok_and(|n| n < LIMIT);
        let elements = product(shape, 1).filter(below);
        let bytes = elements.and_then(|n| (n / block).checked_mul(self.block_bytes())).filter(below);
        bytes.ok_or_else(|| format!("has shape {shape:?} of type {self}, which is 2^63 elements or bytes or more"))
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
