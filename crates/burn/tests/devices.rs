//! Which crates know what computes: only this one.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("readable").path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// A device travels as an argument, and the default is [`longreach_burn::cpu`]: code that names a backend would not run on
/// another.
#[test]
fn no_other_crate_names_a_backend() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join("crates")).expect("the crates") {
        let of = entry.expect("readable").path();
        if !of.ends_with("burn") {
            sources(&of.join("src"), &mut found);
        }
    }
    sources(&root.join("python/src"), &mut found);
    sources(&root.join("bench/src"), &mut found);
    assert!(found.len() > 300, "{} files", found.len());
    let mut named = Vec::new();
    for path in found {
        let text = std::fs::read_to_string(&path).expect("text");
        for (i, line) in text.lines().enumerate() {
            if ["Flex", "::flex", "burn_flex", "CubeBackend", "backend::Cube", "burn_cubecl"]
                .iter()
                .any(|name| line.contains(name))
            {
                named.push(format!("{}:{}: {}", path.display(), i + 1, line.trim()));
            }
        }
    }
    assert!(named.is_empty(), "a backend is named outside of crates/burn:\n{}", named.join("\n"));
}
