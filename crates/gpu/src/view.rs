//! Tensors on a device: a buffer, a shape, a type. They are contiguous, row-major; who has strides copies first.

use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::server::Handle;
use half::{bf16, f16};

use crate::device::Device;
use crate::error::Error;
use crate::tile::load::Store;

/// The type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32 bits.
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper 16 bits of an f32.
    BF16,
}

impl DType {
    /// Bytes of a number.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

/// A tensor on a device. Its buffer has at least the bytes of its shape.
#[derive(Clone, Debug)]
pub struct View {
    handle: Handle,
    shape: Vec<usize>,
    dtype: DType,
}

/// Unsigned integers on a device: lists, indices.
#[derive(Clone, Debug)]
pub struct Words {
    handle: Handle,
    length: usize,
}

/// Bytes of a buffer, of which no device makes an empty one, and of which pairs of bf16 fill whole words.
fn bytes(numbers: usize, size: usize) -> usize {
    (numbers * size).next_multiple_of(4).max(4)
}

impl View {
    /// A tensor whose numbers are not set.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Self {
        let numbers = shape.iter().product();
        let handle = device.client().empty(bytes(numbers, dtype.size()));
        Self { handle, shape: shape.to_vec(), dtype }
    }

    /// A copy of numbers, rounded to `dtype`. Missing numbers are 0 and excess ones are left out.
    pub fn upload(device: &Device, numbers: &[f32], shape: &[usize], dtype: DType) -> Self {
        let count: usize = shape.iter().product();
        let mut data: Vec<u8> = match dtype {
            DType::F32 => numbers.iter().take(count).flat_map(|x| x.to_le_bytes()).collect(),
            DType::F16 => numbers.iter().take(count).flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            DType::BF16 => numbers.iter().take(count).flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        };
        data.resize(bytes(count, dtype.size()), 0);
        Self { handle: device.client().create_from_slice(&data), shape: shape.to_vec(), dtype }
    }

    /// A tensor over a buffer that exists. An error if the buffer is smaller than the shape.
    pub fn over(handle: Handle, shape: &[usize], dtype: DType) -> Result<Self, Error> {
        let wanted = shape.iter().try_fold(dtype.size(), |n, axis| n.checked_mul(*axis));
        let has = handle.size_in_used() as usize;
        if wanted.is_none_or(|wanted| wanted > has) {
            let want = format!("a shape that fits a buffer of {has} bytes");
            return Err(Error::Parameter { op: "view", parameter: "shape", want, found: format!("{shape:?}") });
        }
        Ok(Self { handle, shape: shape.to_vec(), dtype })
    }

    /// Its numbers, widened. Waits for the launches that write them.
    pub fn read(&self, device: &Device) -> Result<Vec<f32>, Error> {
        let failed = |e| Error::Device { op: "read", message: format!("{e:?}") };
        let data = device.client().read_one(self.handle.clone()).map_err(failed)?;
        let halves = || data.chunks_exact(2).map(|x| [x[0], x[1]]).take(self.len());
        Ok(match self.dtype {
            DType::F32 => {
                data.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).take(self.len()).collect()
            }
            DType::F16 => halves().map(|x| f16::from_le_bytes(x).to_f32()).collect(),
            DType::BF16 => halves().map(|x| bf16::from_le_bytes(x).to_f32()).collect(),
        })
    }

    /// The same numbers under another shape. An error if it has another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, Error> {
        let wanted = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
        if wanted != Some(self.len()) {
            let want = format!("a shape of {} elements", self.len());
            return Err(Error::Parameter { op: "reshape", parameter: "shape", want, found: format!("{shape:?}") });
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its buffer.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How kernels on `device` read it: the type of the buffer's elements, and what these hold.
    pub fn stored(&self, device: &Device) -> (ElemType, Store) {
        match self.dtype {
            DType::F32 => (ElemType::Float(FloatKind::F32), Store::Native),
            DType::F16 => (ElemType::Float(FloatKind::F16), Store::Native),
            DType::BF16 if device.facts().bf16 => (ElemType::Float(FloatKind::BF16), Store::Native),
            DType::BF16 => (ElemType::UInt(UIntKind::U32), Store::Pairs),
        }
    }

    /// The type in which kernels on `device` write a tensor of this one's type: f32 where they cannot write it, which
    /// is narrowed by a second launch.
    pub fn written(&self, device: &Device) -> DType {
        if self.stored(device).1 == Store::Pairs { DType::F32 } else { self.dtype }
    }

    /// An error unless it is in f32.
    pub(crate) fn is_f32(&self, op: &'static str, input: &'static str) -> Result<(), Error> {
        if self.dtype == DType::F32 {
            return Ok(());
        }
        Err(Error::Type { op, input, want: "f32", found: self.dtype.name() })
    }

    /// An error unless another input has the same type.
    pub(crate) fn same_type(&self, op: &'static str, input: &'static str, other: &Self) -> Result<(), Error> {
        if self.dtype == other.dtype {
            return Ok(());
        }
        Err(Error::Type { op, input, want: self.dtype.name(), found: other.dtype.name() })
    }

    /// Elements of the buffer as kernels on `device` see it.
    pub(crate) fn elements(&self, device: &Device) -> usize {
        match self.stored(device).1 {
            Store::Native => self.len().max(1),
            Store::Pairs => self.len().div_ceil(2).max(1),
        }
    }
}

impl Words {
    /// A copy of some words.
    pub fn upload(device: &Device, words: &[u32]) -> Self {
        let mut data: Vec<u8> = words.iter().flat_map(|x| x.to_le_bytes()).collect();
        data.resize(bytes(words.len(), 4), 0);
        Self { handle: device.client().create_from_slice(&data), length: words.len() }
    }

    /// The number of words.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Their buffer.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}
