//! The number of random inputs that a property test tries.

use proptest::test_runner::{Config, RngSeed};

/// Runs a test on `cases` inputs that are the same on every run, so that its result does not depend on luck. If the
/// environment variable `PROPTEST_CASES` is set, runs it on that many new inputs instead: this is how file readers are
/// fuzzed for hours.
pub fn config(cases: u32) -> Config {
    let fresh = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    Config {
        cases: fresh.unwrap_or(cases),
        rng_seed: if fresh.is_some() { RngSeed::Random } else { RngSeed::Fixed(0x10ad) },
        failure_persistence: None,
        ..Config::default()
    }
}
