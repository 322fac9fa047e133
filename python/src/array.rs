//! Tensors of Python in and out, without a copy, by the DLPack protocol.
//!
//! This file and `arrow.rs` have the `unsafe` code of this crate: DLPack hands over an address, and what lies there cannot be checked.
#![expect(unsafe_code, reason = "DLPack hands over addresses")]

use std::sync::Arc;

use dlpark::allocation::dynamic::Initialized;
use dlpark::ffi::{DLDataTypeCode, DLDevice, DLDeviceType, DLManagedTensor, DLManagedTensorVersioned};
use dlpark::interop::ndarray::array_view_from_dlpack_mut_unchecked;
use dlpark::metadata::Dynamic;
use dlpark::python::{DlpackExporter, ExportRequest, ImportedDlpack, export_dlpack, from_dlpack};
use dlpark::{DlpackElement, DlpackFlags, Managed, ManagedTensorBase, TryFromDlpack};
use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// A tensor of the caller, borrowed for a call.
pub(crate) struct Input {
    name: String,
    tensor: ImportedDlpack,
    kind: Kind,
}

/// The numbers that a tensor may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F64,
    F16,
    Bf16,
    U8,
    I32,
    I64,
}

impl Input {
    /// Borrows the memory of `object`; `name` is its argument in errors. Errors if it is not a tensor on the CPU, or of another type.
    pub(crate) fn of(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let tensor = from_dlpack(object.as_borrowed(), None, None)?;
        let found = tensor.validate().map_err(|e| PyValueError::new_err(format!("`{name}`: {e}")))?;
        let device = found.device().device_type;
        if device != DLDeviceType::CPU {
            return Err(PyValueError::new_err(format!(
                "`{name}` is on another device than the CPU: move it there first"
            )));
        }
        let (code, bits) = (found.dtype().code, found.dtype().bits);
        let kind = match (code, bits) {
            (DLDataTypeCode::FLOAT, 32) => Kind::F32,
            (DLDataTypeCode::FLOAT, 64) => Kind::F64,
            (DLDataTypeCode::FLOAT, 16) => Kind::F16,
            (DLDataTypeCode::BFLOAT, 16) => Kind::Bf16,
            (DLDataTypeCode::UINT, 8) => Kind::U8,
            (DLDataTypeCode::INT, 32) => Kind::I32,
            (DLDataTypeCode::INT, 64) => Kind::I64,
            _ => {
                let want = "float32, float16, bfloat16, bool, uint8, int32 or int64";
                return Err(PyTypeError::new_err(format!(
                    "`{name}` has a type of {bits} bits that is not supported: want {want}"
                )));
            }
        };
        Ok(Self { name: name.to_owned(), tensor, kind })
    }

    /// The name of the argument.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The type of its numbers.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// A view of its numbers; an error if they are of another type, or its strides are negative.
    pub(crate) fn view<'a, T: DlpackElement + 'a>(&'a self) -> PyResult<ArrayViewD<'a, T>> {
        let found = self.tensor.validate().map_err(|e| PyValueError::new_err(format!("`{}`: {e}", self.name)))?;
        if found.num_elements() == 0 {
            // Strides and address of a tensor without elements may be anything.
            let shape: Vec<usize> = found.shape().iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect();
            return ArrayViewD::from_shape(shape, &[]).map_err(|e| PyValueError::new_err(e.to_string()));
        }
        // SAFETY: the producer keeps the memory alive and of this shape until the managed tensor is dropped, which the
        // view borrows. That the caller does not write to it meanwhile is the contract of the call, as with numpy.
        let view = unsafe {
            match &self.tensor {
                ImportedDlpack::Legacy(tensor) => ArrayViewD::<T>::try_from_dlpack(tensor, ()),
                ImportedDlpack::Versioned(tensor) => ArrayViewD::<T>::try_from_dlpack(tensor, ()),
            }
        };
        view.map_err(|e| PyValueError::new_err(format!("`{}`: {e}", self.name)))
    }

    /// A view through which a call changes the tensor. Errors if it may not be written to, is not in f32, or has elements that overlap.
    pub(crate) fn view_mut(&mut self) -> PyResult<ArrayViewMutD<'_, f32>> {
        if self.kind != Kind::F32 {
            return Err(PyTypeError::new_err(format!("`{}` is changed in place: want float32", self.name)));
        }
        // SAFETY: as in `view`; the caller asked for this tensor to be changed, and the call has no other view of it.
        let view = unsafe {
            match &mut self.tensor {
                ImportedDlpack::Legacy(tensor) => array_view_from_dlpack_mut_unchecked::<f32, _>(tensor),
                ImportedDlpack::Versioned(tensor) => array_view_from_dlpack_mut_unchecked::<f32, _>(tensor),
            }
        };
        view.map_err(|e| PyValueError::new_err(format!("`{}`: {e}", self.name)))
    }

    /// The address that a kernel reads, for tests.
    pub(crate) fn address(&self) -> PyResult<usize> {
        let found = self.tensor.validate().map_err(|e| PyValueError::new_err(e.to_string()))?;
        Ok(found.data_ptr() as usize + found.byte_offset() as usize)
    }

    /// Its numbers in f32: those of the caller, or widened.
    pub(crate) fn floats(&self) -> PyResult<Floats<'_>> {
        Ok(match self.kind {
            Kind::F32 => Floats::Lent(self.view()?),
            Kind::F64 => Floats::Own(self.view::<f64>()?.mapv(|x| x as f32)),
            Kind::F16 => Floats::Own(self.view::<f16>()?.mapv(f16::to_f32)),
            Kind::Bf16 => Floats::Own(self.view::<bf16>()?.mapv(bf16::to_f32)),
            Kind::U8 => Floats::Own(self.view::<u8>()?.mapv(f32::from)),
            Kind::I32 => Floats::Own(self.view::<i32>()?.mapv(|x| x as f32)),
            Kind::I64 => Floats::Own(self.view::<i64>()?.mapv(|x| x as f32)),
        })
    }
}

/// Numbers that were lent or converted.
pub(crate) enum Floats<'a> {
    Lent(ArrayViewD<'a, f32>),
    Own(ArrayD<f32>),
}

impl Floats<'_> {
    pub(crate) fn view(&self) -> ArrayViewD<'_, f32> {
        match self {
            Self::Lent(view) => view.view(),
            Self::Own(array) => array.view(),
        }
    }
}

/// The numbers of a result.
#[derive(Clone)]
enum Data {
    F32(Arc<ArrayD<f32>>),
    F64(Arc<ArrayD<f64>>),
}

/// A result, which any library that knows DLPack adopts without a copy. The memory is freed when the last tensor that shows it goes.
#[pyclass(frozen, module = "longreach._core")]
pub(crate) struct Array(Data);

impl From<ArrayD<f32>> for Array {
    fn from(array: ArrayD<f32>) -> Self {
        Self(Data::F32(Arc::new(array.as_standard_layout().into_owned())))
    }
}

impl From<ArrayD<f64>> for Array {
    fn from(array: ArrayD<f64>) -> Self {
        Self(Data::F64(Arc::new(array.as_standard_layout().into_owned())))
    }
}

impl Array {
    fn exported<M: ManagedTensorBase>(&self) -> PyResult<Managed<M>> {
        let wrong = |e: dlpark::metadata::Error| PyValueError::new_err(e.to_string());
        match &self.0 {
            Data::F32(array) => finished(shared(array).map_err(wrong)?),
            Data::F64(array) => finished(shared(array).map_err(wrong)?),
        }
    }
}

#[pymethods]
impl Array {
    /// The shape.
    #[getter]
    fn shape(&self) -> Vec<usize> {
        match &self.0 {
            Data::F32(array) => array.shape().to_vec(),
            Data::F64(array) => array.shape().to_vec(),
        }
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(u32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Py<PyAny>> {
        export_dlpack(self, py, ExportRequest::parse(stream, max_version, dl_device, copy)?)
    }

    fn __dlpack_device__(&self) -> (u32, i32) {
        (DLDeviceType::CPU.0, 0)
    }
}

/// A managed tensor that shares the memory of an array.
fn shared<T: DlpackElement + Send + Sync, M: ManagedTensorBase>(
    array: &Arc<ArrayD<T>>,
) -> Result<Initialized<M>, dlpark::metadata::Error> {
    let prepared = Dynamic::new(array.shape(), array.strides()).prepare_as::<M>()?;
    let mut tensor = prepared.initialize(Arc::clone(array));
    tensor.set_data(array.as_ptr().cast_mut().cast());
    tensor.set_dtype(T::DTYPE);
    tensor.set_device(DLDevice::CPU);
    Ok(tensor)
}

fn finished<M: ManagedTensorBase>(tensor: Initialized<M>) -> PyResult<Managed<M>> {
    // SAFETY: pointer, shape, strides and type are those of an array in standard layout, which the tensor's context keeps
    // alive. No Rust code reads the array after it was handed over, so that the receiver may write to it.
    Ok(unsafe { tensor.finish() })
}

impl DlpackExporter for Array {
    fn device(&self) -> DLDevice {
        DLDevice::CPU
    }

    fn flags(&self) -> DlpackFlags {
        DlpackFlags::empty()
    }

    fn prepare_export(&self, _py: Python<'_>, _request: &ExportRequest<'_>) -> PyResult<()> {
        Ok(())
    }

    fn export_legacy(&self, _py: Python<'_>) -> PyResult<Managed<DLManagedTensor>> {
        self.exported()
    }

    fn export_versioned(&self, _py: Python<'_>) -> PyResult<Managed<DLManagedTensorVersioned>> {
        self.exported()
    }
}
