//! Errors and panics of Rust as exceptions of Python.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, Once, mpsc};
use std::time::Duration;

use longreach_engine::Cancel;
use pyo3::create_exception;
use pyo3::exceptions::{
    PyException, PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyRuntimeError, PyValueError,
};
use pyo3::prelude::*;

use crate::threads;

create_exception!(longreach._core, Error, PyException, "An error of the engine that no builtin exception names.");
create_exception!(
    longreach._core,
    InternalError,
    PyRuntimeError,
    "A defect of longreach: please report it with the message and the place that it names."
);

/// An error that becomes an exception.
pub(crate) enum Failure {
    Op(longreach_attention::Error),
    Engine(longreach_engine::Error),
    Search(longreach_search::Error),
    /// A wrong value, in a message of this crate.
    Value(String),
    /// Ctrl-C, or a caller that closed an iterator.
    Interrupted,
    /// An exception that Python code raised.
    Python(PyErr),
}

impl From<longreach_attention::Error> for Failure {
    fn from(error: longreach_attention::Error) -> Self {
        Self::Op(error)
    }
}

impl From<longreach_engine::Error> for Failure {
    fn from(error: longreach_engine::Error) -> Self {
        match error {
            longreach_engine::Error::Cancelled => Self::Interrupted,
            error => Self::Engine(error),
        }
    }
}

impl From<longreach_search::Error> for Failure {
    fn from(error: longreach_search::Error) -> Self {
        Self::Search(error)
    }
}

impl From<longreach_models::Error> for Failure {
    fn from(error: longreach_models::Error) -> Self {
        Self::Engine(error.into())
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Op(error) => PyValueError::new_err(error.to_string()),
            Failure::Engine(error) => of_engine(error),
            Failure::Search(error) => of_search(error),
            Failure::Value(message) => PyValueError::new_err(message),
            Failure::Interrupted => PyKeyboardInterrupt::new_err(()),
            Failure::Python(error) => error,
        }
    }
}

/// `FileNotFoundError`, `PermissionError` or another `OSError` with the name of the file.
fn of_file(path: &Path, source: &std::io::Error) -> PyErr {
    match source.raw_os_error() {
        // The kind of the exception follows from the number.
        Some(number) => PyOSError::new_err((number, reason(source), path.display().to_string())),
        None => PyOSError::new_err(format!("{}: {source}", path.display())),
    }
}

/// The message of the operating system, without the number that Rust appends.
fn reason(source: &std::io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// `ENOENT`
const NO_SUCH_FILE: i32 = 2;

fn of_engine(error: longreach_engine::Error) -> PyErr {
    use longreach_engine::Error as E;
    match &error {
        E::Io { path, source } => of_file(path, source),
        E::Model(longreach_models::Error::Io { path, source }) => of_file(path, source),
        E::Model(longreach_models::Error::NotFound { name, reason }) => {
            PyFileNotFoundError::new_err((NO_SUCH_FILE, reason.clone(), name.clone()))
        }
        E::NoTokenizer(_)
        | E::NoTemplate(_)
        | E::NotStarted
        | E::NotAnswered
        | E::NotFinite { .. }
        | E::Head { .. }
        | E::NotLate(_) => Error::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

fn of_search(error: longreach_search::Error) -> PyErr {
    match error {
        longreach_search::Error::Io { path, source } => of_file(&path, &source),
        longreach_search::Error::Engine(error) => of_engine(error),
        longreach_search::Error::Interrupted { .. } => PyKeyboardInterrupt::new_err(error.to_string()),
        error => PyValueError::new_err(error.to_string()),
    }
}

thread_local! {
    /// Whether this thread is inside of [`run`].
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Where the last panic of a thread of this library was.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Calls `f` without the interpreter's lock, and turns its errors and panics into exceptions.
pub(crate) fn run<R: Send>(py: Python<'_>, f: impl FnOnce() -> Result<R, Failure> + Send) -> PyResult<R> {
    threads::configure()?;
    caught(|| py.detach(f))
}

/// Calls `f`, and turns its errors and panics into exceptions.
pub(crate) fn caught<R>(f: impl FnOnce() -> Result<R, Failure>) -> PyResult<R> {
    static HOOK: Once = Once::new();
    HOOK.call_once(hook);
    let outer = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    INSIDE.set(outer);
    match result {
        Ok(result) => Ok(result?),
        Err(payload) => {
            let message = payload.downcast_ref::<String>().cloned();
            let message = message.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let message = message.unwrap_or_else(|| "a panic without a message".into());
            let place = PLACE.lock().map(|mut place| place.take()).unwrap_or_default();
            let place = place.map_or_else(String::new, |place| format!(" ({place})"));
            Err(InternalError::new_err(format!("internal error, please report it: {message}{place}")))
        }
    }
}

/// How often work looks for Ctrl-C.
const OFTEN: Duration = Duration::from_millis(50);

/// As [`run`], in the pool of the process, for work that may take long: Ctrl-C sets `cancel`, which the work must heed, and is raised once it has ended.
pub(crate) fn work<R: Send>(
    py: Python<'_>,
    cancel: &Cancel,
    f: impl FnOnce() -> Result<R, Failure> + Send,
) -> PyResult<R> {
    let mut interrupted = None;
    let result = run(py, || {
        let pool = threads::pool()?;
        let (done, wait) = mpsc::sync_channel::<()>(1);
        let mut result = None;
        pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                // Dropped at the end, and by a panic too.
                let _done = done;
                result = Some(f());
            });
            while wait.recv_timeout(OFTEN) == Err(mpsc::RecvTimeoutError::Timeout) {
                if interrupted.is_none()
                    && let Err(error) = Python::attach(|py| py.check_signals())
                {
                    cancel.cancel();
                    interrupted = Some(error);
                }
            }
        });
        result.unwrap_or(Err(Failure::Interrupted))
    });
    match interrupted {
        Some(error) => Err(error),
        None => result,
    }
}

/// Keeps the panics of this library's threads off standard error: they become exceptions.
fn hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let ours = INSIDE.get() || thread.name().is_some_and(|name| name.starts_with("longreach"));
        if !ours && !longreach_search::is_guarded() {
            before(info);
            return;
        }
        if let (Some(at), Ok(mut place)) = (info.location(), PLACE.lock()) {
            *place = Some(at.to_string());
        }
    }));
}
