//! The thread on which the tokens that may follow are found, while the engine's thread computes the next logits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::Error;
use crate::grammar::{Mask, Masked};

/// The thread. A clone is the same one; it ends when the last is gone.
#[derive(Clone)]
pub(super) struct Masks(Sender<Box<dyn FnOnce() + Send>>);

/// A text of a grammar, and the tokens that may follow.
pub(super) struct Made {
    pub(super) masked: Masked,
    pub(super) mask: Mask,
}

/// Where a mask comes out. It is closed without one after a fault.
pub(super) type Making = Receiver<Result<Made, Error>>;

impl Masks {
    pub(super) fn start() -> Self {
        let (jobs, received) = channel::<Box<dyn FnOnce() + Send>>();
        let work = move || {
            for job in received {
                // A fault ends the request whose mask it was, since nothing comes out.
                catch_unwind(AssertUnwindSafe(job)).ok();
            }
        };
        std::thread::Builder::new().name("masks".into()).spawn(work).expect("a thread");
        Self(jobs)
    }

    /// Finds the tokens that may follow the text that `begin` returns.
    pub(super) fn make(&self, begin: impl FnOnce() -> Masked + Send + 'static) -> Making {
        let (done, making) = channel();
        let job = move || {
            let mut masked = begin();
            let made = masked.next().map(|mask| Made { masked, mask });
            // Nobody waits for it any more if the request is gone.
            done.send(made).ok();
        };
        self.0.send(Box::new(job)).ok();
        making
    }
}
