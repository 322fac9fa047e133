//! The thread team: each piece runs once; nesting, panics, forks, and many small jobs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use longreach_simd::{Team, after_fork};

#[test]
fn every_piece_runs_once() {
    for threads in [0, 1, 2, 5] {
        let team = Team::new(threads);
        for pieces in [0, 1, 2, 3, 100] {
            let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            team.run(pieces, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
                // Inside a job, the calling thread runs a nested one alone.
                team.run(2, |_| {});
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn pieces_cover_both_once() {
    for threads in [1, 3] {
        let team = Team::new(threads);
        for pieces in [0, 1, 4, 5, 11] {
            let (mut a, mut b) = (vec![0; 2 * pieces], vec![0; 3 * pieces]);
            team.for_each_pieces((&mut a, 2 * 4), (&mut b, 3 * 4), |i, a, b| {
                assert_eq!((a.len(), b.len()), (2 * 4.min(pieces - 4 * i), 3 * 4.min(pieces - 4 * i)));
                a.iter_mut().chain(b).for_each(|x| *x += 1 + i);
            });
            let seen = |each: usize| (0..each * pieces).map(|n| 1 + n / (each * 4)).collect::<Vec<_>>();
            assert_eq!((a, b), (seen(2), seen(3)));
            team.for_each_pieces((&mut [0; 3], 0), (&mut [0; 3], 1), |_, _, _| panic!("no piece has nothing"));
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

#[test]
fn in_the_child_of_a_fork_a_team_is_its_caller() {
    let team = Team::new(3);
    after_fork();
    assert_eq!(team.threads(), 1);
    let caller = std::thread::current().id();
    let done = AtomicUsize::new(0);
    team.run(50, |_| {
        assert_eq!(std::thread::current().id(), caller);
        done.fetch_add(1, Ordering::Relaxed);
    });
    team.for_each(0..50, |_| assert_eq!(std::thread::current().id(), caller));
    assert_eq!(done.into_inner(), 50);
    assert_eq!(Team::new(3).threads(), 3);
}
