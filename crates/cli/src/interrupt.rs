//! Progress bars, and Ctrl-C for long commands that can be resumed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// A progress bar over `length` steps, with the time left and a message.
pub(crate) fn steps(length: u64) -> Result<ProgressBar, Failure> {
    let bar = ProgressBar::new(length);
    let style = "{bar:32} {pos}/{len} steps, {eta} left, {msg}";
    bar.set_style(ProgressStyle::with_template(style).map_err(Failure::new)?);
    Ok(bar)
}

/// Whether Ctrl-C was pressed.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Installs the handler: the first Ctrl-C requests a clean stop, the second exits at once with status 130.
    pub(crate) fn watched() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        })?;
        Ok(Self(asked))
    }

    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// `Break` once a stop was requested; long commands check it after each step.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
