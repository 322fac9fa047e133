//! The device is a choice of the whole program.

use crate::{longreach, run, stdout};

#[test]
fn every_listed_device_computes_the_same_text() {
    let generate = ["generate", "--prompt", "A trait is", "-n", "4", "--temperature", "0"];
    let want = stdout(&generate);
    let listed = stdout(&["devices"]);
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names.first(), Some(&"cpu"), "{listed}");
    for name in &names {
        assert_eq!(stdout(&[&["--device", name], &generate[..]].concat()), want, "{name}");
    }
    let json: serde_json::Value = serde_json::from_str(&stdout(&["devices", "--json"])).expect("JSON");
    let in_json: Vec<&str> = json.as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(in_json, names);
}

#[test]
fn a_device_that_the_program_was_not_built_for_is_refused() {
    let output = run(&["--device", "cuda:1", "list"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("--device: device `cuda:1`") && said.contains("the feature `cuda`"), "{said}");
    let output = longreach(&["list", "--device", "gpu"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("device `gpu` is unknown; known are cpu, cuda"), "{said}");
}
