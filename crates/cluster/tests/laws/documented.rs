//! The table of `docs/distributed.md` is what the model says.

use longreach_cluster::model::{Machine, Reading, Ring};

#[test]
fn the_table_of_the_documentation_is_that_of_the_model() {
    let machine = Machine { tokens: 300.0, operations: 1e11, bytes: 1.25e8, latency: 1e-4 };
    let reading = Reading { tokens: 1e6, chunk: 512.0, layers: 24.0, state: 18.9e6 };
    let ring = Ring { tokens: 1e6, heads: 32.0, groups: 8.0, width: 128.0 };
    let page = include_str!("../../../../docs/distributed.md");
    for n in [1.0, 8.0, 64.0, 1024.0] {
        let line = format!(
            "| {n} | {:.0} | {:.1} % | {:.0} | {:.1} % |",
            reading.seconds(&machine, n),
            100.0 * reading.efficiency(&machine, n),
            ring.seconds(&machine, n),
            100.0 * ring.efficiency(&machine, n)
        );
        assert!(page.lines().any(|known| known == line), "want {line}");
    }
}
