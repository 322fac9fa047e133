//! How many hostile inputs a test tries.

use proptest::test_runner::{Config, RngSeed};

/// The same `cases` inputs on every run, so that a test's result does not depend on luck. With `PROPTEST_CASES` set, so many
/// fresh ones instead: that is how readers of files are fuzzed for hours.
pub fn config(cases: u32) -> Config {
    let fresh = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    Config {
        cases: fresh.unwrap_or(cases),
        rng_seed: if fresh.is_some() { RngSeed::Random } else { RngSeed::Fixed(0x10ad) },
        failure_persistence: None,
        ..Config::default()
    }
}
