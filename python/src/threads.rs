//! The threads of the process: how many there are, after a fork too.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use longreach_simd::{Cx, Isa};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The most threads that are sensible.
const MOST: usize = 1024;

/// Sets how many threads share the work. No result depends on it.
#[pyfunction]
pub(crate) fn set_num_threads(py: Python<'_>, n: usize) -> PyResult<()> {
    if n == 0 || n > MOST {
        return Err(PyValueError::new_err(format!("set_num_threads: want a number from 1 to {MOST}, found {n}")));
    }
    configure()?;
    // The threads of the context before are joined.
    py.detach(|| {
        let isa = longreach_burn::context().isa;
        longreach_burn::reconfigure(Cx::with_isa(isa, n));
        POOL.store(None);
    });
    Ok(())
}

/// How many threads share the work.
#[pyfunction]
pub(crate) fn get_num_threads() -> PyResult<usize> {
    configure()?;
    Ok(longreach_burn::context().team.threads())
}

/// Makes the threads anew in the child of a fork.
#[pyfunction]
pub(crate) fn _after_fork() {
    longreach_burn::after_fork();
    if let Some(pool) = POOL.swap(None) {
        // Its threads are the parent's. Ending them here would wait for ever.
        std::mem::forget(pool);
    }
}

/// Configures threads and instruction set by the environment: `LONGREACH_NUM_THREADS` and `LONGREACH_ISA`.
pub(crate) fn configure() -> PyResult<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_some() {
        return Ok(());
    }
    let isa = match std::env::var("LONGREACH_ISA") {
        Ok(name) => name.parse().map_err(|e| PyValueError::new_err(format!("LONGREACH_ISA: {e}")))?,
        Err(_) => Isa::detect(),
    };
    let threads = match std::env::var("LONGREACH_NUM_THREADS") {
        Ok(text) => text.trim().parse().ok().filter(|n| (1..=MOST).contains(n)).ok_or_else(|| {
            PyValueError::new_err(format!("LONGREACH_NUM_THREADS: want a number from 1 to {MOST}, found `{text}`"))
        })?,
        // The affinity of the process and the quota of its control group bound it.
        Err(_) => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    // The command line configures the process itself, before it runs anything.
    let _ = longreach_burn::configure(Cx::with_isa(isa, threads));
    let _ = DONE.set(());
    Ok(())
}

/// The pool that Burn's own operations work in. The default pool of the process cannot be replaced, and a forked child has
/// none of its threads.
static POOL: ArcSwapOption<ThreadPool> = ArcSwapOption::const_empty();

/// The pool of this process.
pub(crate) fn pool() -> PyResult<Arc<ThreadPool>> {
    if let Some(pool) = POOL.load_full() {
        return Ok(pool);
    }
    let threads = longreach_burn::context().team.threads();
    let built = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("longreach-pool-{i}")).build();
    let pool = Arc::new(built.map_err(|e| PyRuntimeError::new_err(format!("no thread could be started: {e}")))?);
    POOL.store(Some(Arc::clone(&pool)));
    Ok(pool)
}
