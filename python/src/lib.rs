//! `longreach._core`: the engine as an extension module of Python. The package in `python/longreach` is what users see.

mod array;
mod arrow;
mod cli;
mod embedding;
mod encoder;
mod error;
mod model;
mod ops;
mod search;
mod session;
mod threads;

use pyo3::prelude::*;

/// The interpreter aligns objects to 16 bytes. What needs more stands behind a pointer.
const fn fits<T>() {
    assert!(align_of::<T>() <= 16, "an object of Python is not aligned as this type needs");
}

const _: () = {
    fits::<array::Array>();
    fits::<arrow::Table>();
    fits::<encoder::Encoder>();
    fits::<model::Model>();
    fits::<search::Index>();
    fits::<session::Session>();
    fits::<session::Stream>();
};

#[pymodule(gil_used = false)]
mod _core {
    use super::*;

    #[pymodule_export]
    use crate::array::Array;
    #[pymodule_export]
    use crate::arrow::Table;
    #[pymodule_export]
    use crate::cli::main;
    #[pymodule_export]
    use crate::embedding::embed_files;
    #[pymodule_export]
    use crate::encoder::Encoder;
    #[pymodule_export]
    use crate::error::{Error, InternalError};
    #[pymodule_export]
    use crate::model::{Model, load};
    #[pymodule_export]
    use crate::ops::{
        _panic, _sample, _work, backward, data_ptr, describe, forward, names, saved, shapes, step_in_place,
        without_comments,
    };
    #[pymodule_export]
    use crate::search::{Index, build_index};
    #[pymodule_export]
    use crate::session::{Session, Stream};
    #[pymodule_export]
    use crate::threads::{_after_fork, get_num_threads, set_num_threads};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
