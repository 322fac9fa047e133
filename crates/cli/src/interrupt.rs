//! Long work with a bar, which Ctrl-C ends where it can be taken up again.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// A bar over steps, with what is left of them and a message.
pub(crate) fn steps(length: u64) -> Result<ProgressBar, Failure> {
    let bar = ProgressBar::new(length);
    let style = "{bar:32} {pos}/{len} steps, {eta} left, {msg}";
    bar.set_style(ProgressStyle::with_template(style).map_err(Failure::new)?);
    Ok(bar)
}

/// Whether the user has asked for an end.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// The first Ctrl-C from now on asks for an end, the second ends the program at once.
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

    /// What long work is told after each of its steps.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
