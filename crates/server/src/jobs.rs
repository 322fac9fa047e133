//! Work of encoders on the engine's thread.

use longreach_engine::scheduler::Scheduler;
use tokio::sync::oneshot;

use crate::refusal::Refusal;

/// Runs jobs between the steps of the scheduler.
pub(crate) struct Jobs(pub(crate) Scheduler);

impl Jobs {
    /// Runs a job and waits for what it returns. A fault in it is an internal error. If nobody waits any more, it is not begun.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let (done, result) = oneshot::channel();
        self.0.job(move || {
            if !done.is_closed() {
                // The client may have gone meanwhile.
                done.send(job()).ok();
            }
        });
        result.await.map_err(|_| Refusal::internal())
    }
}
