//! A program that was built without MPI.

use longreach_cluster::Ranks;

use super::launched;
use crate::failure::Failure;

/// There are no other ranks.
pub(crate) fn job() -> Option<&'static dyn Ranks> {
    None
}

/// An error if the process is one of several: each would do the same work and write the same files.
pub(crate) fn start() -> Result<(), Failure> {
    let Some((size, rank)) = launched() else { return Ok(()) };
    let message = "build it with `--features mpi`, or let each process work by itself with --ranks off";
    Err(Failure::of_all(
        rank,
        format!("this is one of {size} processes, and this program was built without MPI: {message}"),
    ))
}

/// Does nothing: there is one process.
pub(crate) fn finish() -> Result<(), Failure> {
    Ok(())
}

/// Does nothing: there is one process.
pub(crate) fn abort(_: u8) {}
