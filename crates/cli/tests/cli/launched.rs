//! A program without MPI that `mpirun` has started several times: copies of it would do the same work and write the same files.

use crate::longreach;

#[test]
fn one_of_several_processes_without_mpi_says_so() {
    let folder = tempfile::tempdir().expect("a directory");
    let state = folder.path().join("a.state");
    let call = ["generate", "--prompt", "A trait", "-n", "2", "--save-state", crate::text(&state)];
    for (size, rank, number) in [
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "0"),
        ("PMI_SIZE", "PMI_RANK", "1"),
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "0"),
    ] {
        let output = longreach(&call).env(size, "4").env(rank, number).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(output.stdout.is_empty() && !state.exists());
        // One line for the whole job.
        match number {
            "0" => assert!(said.contains("one of 4 processes") && said.contains("--ranks off"), "{said}"),
            _ => assert_eq!(said, ""),
        }
    }
    let job = |call: &[&str], size: &str| {
        let output = longreach(call).env("OMPI_COMM_WORLD_SIZE", size).output().expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(job(&call, "1").0, Some(0), "one process is no job");
    assert_eq!(job(&[&call[..], &["--ranks", "off"]].concat(), "4").0, Some(0));
    assert_eq!(job(&["list"], "4").0, Some(0), "what reads no text is not refused");
    let (status, said) = job(&["score", "/nonexistent"], "4");
    assert!(status == Some(2) && said.contains("score works in one process"), "{said}");
}
