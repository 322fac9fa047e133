//! Models on a GPU, software Vulkan included, against the same models on the CPU.

use std::process::Output;

use crate::{golden, longreach, text};

/// Runs a command on the GPU; `None` without one, unless `LONGREACH_GPU_REQUIRED` wants it.
fn on_gpu(args: &[&str]) -> Option<(String, String)> {
    let Output { status, stdout, stderr } =
        longreach(&[args, &["--device", "vulkan"]].concat()).output().expect("the program starts");
    let [out, said] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    if !status.success() && said.contains("0 of this kind") && std::env::var_os("LONGREACH_GPU_REQUIRED").is_none() {
        eprintln!("NOT RUN: {said}");
        return None;
    }
    assert!(status.success(), "{args:?}: {said}");
    Some((out, said))
}

#[track_caller]
fn same(args: &[&str]) {
    let Some((out, said)) = on_gpu(args) else { return };
    assert_eq!(out, crate::stdout(args), "{args:?}");
    assert!(!said.contains("computed on the CPU"), "{args:?}: {said}");
}

#[test]
fn the_built_in_model_writes_what_it_writes_on_the_cpu() {
    same(&["generate", "--prompt", "In this chapter, we", "-n", "12", "--temperature", "0"]);
}

/// A state that one device has saved is read on by the other, in the precision that both have.
#[test]
fn a_saved_state_moves_between_devices() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let call = |prompt: &str, n: &str, option: &str, state: &str| {
        let fixed = ["generate", "--temperature", "0", "--dtype", "f32", "--prompt"];
        [&fixed[..], &[prompt, "-n", n, option, state]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let cpu = |call: Vec<String>| crate::stdout(&call.iter().map(String::as_str).collect::<Vec<_>>());
    let gpu = |call: Vec<String>| on_gpu(&call.iter().map(String::as_str).collect::<Vec<_>>());
    if gpu(call("A trait is", "1", "--save-state", &at("gpu"))).is_none() {
        return;
    }
    cpu(call("A trait is", "1", "--save-state", &at("cpu")));
    let want = cpu(call(" and so", "8", "--load-state", &at("cpu")));
    assert_eq!(cpu(call(" and so", "8", "--load-state", &at("gpu"))), want);
    assert_eq!(gpu(call(" and so", "8", "--load-state", &at("cpu"))).expect("it was there").0, want);
}

#[test]
fn a_precision_that_a_gpu_does_not_have_is_refused() {
    let args =
        ["generate", "--model", text(&golden("llama-a")), "--dtype", "bf16", "--device", "vulkan"].map(str::to_owned);
    let output = longreach(&args.each_ref().map(String::as_str)).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && (said.contains("want f32 on a GPU") || said.contains("0 of this kind")),
        "{said}"
    );
}
