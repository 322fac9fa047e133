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

/// A state that one device has saved is read on by the other.
#[test]
fn a_saved_state_moves_between_devices() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name);
    let read = |state: &str| {
        ["generate", "--prompt", "A trait is", "-n", "1", "--temperature", "0", "--save-state", state]
            .map(str::to_owned)
    };
    let go_on = |state: &str| {
        ["generate", "--prompt", " and so", "-n", "8", "--temperature", "0", "--load-state", state].map(str::to_owned)
    };
    let (cpu, gpu) = (at("cpu.state"), at("gpu.state"));
    let Some(_) = on_gpu(&read(text(&gpu)).each_ref().map(String::as_str)) else { return };
    crate::stdout(&read(text(&cpu)).each_ref().map(String::as_str));
    let want = crate::stdout(&go_on(text(&cpu)).each_ref().map(String::as_str));
    assert_eq!(crate::stdout(&go_on(text(&gpu)).each_ref().map(String::as_str)), want);
    assert_eq!(on_gpu(&go_on(text(&cpu)).each_ref().map(String::as_str)).expect("it was there").0, want);
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
