//! The thread team: every piece once, nesting, panics, and many small jobs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use longreach_simd::Team;

#[test]
fn every_piece_runs_once() {
    for threads in [0, 1, 2, 5] {
        let team = Team::new(threads);
        for pieces in [0, 1, 2, 3, 100] {
            let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            team.run(pieces, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
                // From inside a job the caller alone runs the nested one.
                team.run(2, |_| {});
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn many_small_jobs_with_pauses() {
    let team = Team::new(3);
    let sum = AtomicUsize::new(0);
    for round in 0..2000 {
        team.for_each(0..7, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        if round % 400 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }
    assert_eq!(sum.into_inner(), 2000 * 21);
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_lives_on() {
    let team = Team::new(2);
    let result = catch_unwind(AssertUnwindSafe(|| team.run(10, |i| assert!(i != 4, "piece four"))));
    assert!(result.is_err());
    let done = AtomicUsize::new(0);
    team.run(10, |_| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.into_inner(), 10);
}
