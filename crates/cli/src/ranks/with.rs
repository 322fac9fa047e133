//! A program that was built with MPI.

use std::sync::OnceLock;

use longreach_cluster::{Mpi, Ranks};

use super::launched;
use crate::failure::Failure;

static MPI: OnceLock<Mpi> = OnceLock::new();

/// The ranks that this process works with; `None` if it works alone.
pub(crate) fn job() -> Option<&'static dyn Ranks> {
    MPI.get().map(|mpi| mpi as &dyn Ranks)
}

/// Joins the other processes of the job, if there are any. An error if they are of another version.
pub(crate) fn start() -> Result<(), Failure> {
    let Some((_, rank)) = launched() else { return Ok(()) };
    let mpi = Mpi::start(|rank| eprintln!("note: waiting for rank {rank}"))?;
    if mpi.size() == 1 {
        let message = "the program was built with another MPI library than that of mpirun";
        return Err(Failure::of_all(
            rank,
            format!("mpirun has started several processes, but each sees itself alone: {message}"),
        ));
    }
    Ok(MPI.get_or_init(|| mpi).agree("the version", env!("CARGO_PKG_VERSION"))?)
}

/// Waits for the other ranks and ends MPI.
pub(crate) fn finish() -> Result<(), Failure> {
    MPI.get().map_or(Ok(()), |mpi| Ok(mpi.finish()?))
}

/// Ends all processes of the job with this exit status.
pub(crate) fn abort(status: u8) {
    if let Some(mpi) = MPI.get() {
        mpi.abort(status.into());
    }
}
