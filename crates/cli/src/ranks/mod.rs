//! The processes that `mpirun` has started, where there are several: they work on one text together.

use clap::ValueEnum;
use longreach_cluster::{Channel, Ranks};

use crate::failure::Failure;

#[cfg(feature = "mpi")]
mod with;
#[cfg(not(feature = "mpi"))]
mod without;

#[cfg(feature = "mpi")]
pub(crate) use with::{abort, finish, job, start};
#[cfg(not(feature = "mpi"))]
pub(crate) use without::{abort, finish, job, start};

/// Whether a text is read with all processes of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Together {
    /// If the process is one of several that `mpirun` or `srun` has started.
    #[default]
    Auto,
    /// Each process by itself.
    Off,
}

/// What launchers say of the processes that they start: the variables of the number of processes, and of that of this one.
const LAUNCHERS: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
];

/// The number of processes of the job and that of this one, if there are several.
pub(crate) fn launched() -> Option<(usize, usize)> {
    let number = |name| std::env::var(name).ok()?.trim().parse::<usize>().ok();
    let found = LAUNCHERS.iter().find_map(|(size, rank)| Some((number(size)?, number(rank).unwrap_or(0))));
    found.filter(|(size, _)| *size > 1)
}

/// Whether this process writes: all but rank 0 are silent.
pub(crate) fn leads() -> bool {
    job().is_none_or(|ranks| ranks.rank() == 0)
}

/// An error for a command that is not shared by several processes, of process `rank`.
pub(crate) fn refuse(command: &str, rank: usize) -> Failure {
    let message = "works in one process, and mpirun has started several: start one, or use --ranks off";
    Failure::of_all(rank, format!("{command} {message}"))
}

/// The bytes that all ranks have sent. Every rank must call it.
pub(crate) fn sent(ranks: &dyn Ranks) -> Result<u64, Failure> {
    let all = ranks.all_gather(Channel::Control, ranks.sent().to_le_bytes().to_vec())?;
    Ok(all.iter().filter_map(|bytes| bytes.first_chunk().map(|n| u64::from_le_bytes(*n))).sum())
}
