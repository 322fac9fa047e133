//! The commands of docs/training.md, on tiny models in place of those of the Hub.

use std::path::Path;
use std::process::Command;

/// The tiny models.
fn tiny(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../train/tests/goldens");
    root.join(name).canonicalize().expect("a golden").display().to_string()
}

#[test]
fn every_command_of_the_page_on_training_runs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/training.md");
    let mut page = std::fs::read_to_string(page).expect("a page");
    for (id, name) in [
        ("google-bert/bert-base-uncased", "bert"),
        ("sentence-transformers/all-MiniLM-L6-v2", "bert"),
        ("HuggingFaceTB/SmolLM2-135M", "llama"),
    ] {
        page = page.replace(id, &tiny(name));
    }
    let folder = tempfile::tempdir().expect("a directory");
    let program = Path::new(env!("CARGO_BIN_EXE_longreach")).parent().expect("a directory");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let (mut files, mut scripts) = (0, Vec::new());
    for block in page.split("\n```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').expect("a block");
        match kind {
            "toml" => {
                let name = text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a name");
                std::fs::write(folder.path().join(name), text).expect("written");
                files += 1;
            }
            "sh" => scripts.push(text),
            _ => panic!("a block of {kind}"),
        }
    }
    assert!(files >= 6 && scripts.len() >= 6, "{files} files, {} scripts", scripts.len());
    for script in scripts {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", script]).current_dir(folder.path()).env("PATH", &path).env("HF_HUB_OFFLINE", "1");
        let output = shell.output().expect("a shell");
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    for left in
        ["reviews/best/model.safetensors", "reviews/report.html", "answers/adapter/adapter_config.json", "vectors.npy"]
    {
        assert!(folder.path().join(left).exists(), "{left}");
    }
}

#[test]
fn steps_are_measured() {
    let folder = tempfile::tempdir().expect("a directory");
    let (csv, svg) = (folder.path().join("steps.csv"), folder.path().join("steps.svg"));
    let files = ["--csv", csv.to_str().expect("a path"), "--svg", svg.to_str().expect("a path")];
    let sizes = ["--model", "tiny", "--lengths", "64,128", "--block", "16", "--window", "64"];
    let args = [&["bench", "train", "--repeat", "1"][..], &sizes, &files].concat();
    let output = Command::new(env!("CARGO_BIN_EXE_longreach")).args(args).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains("fixed, recomputed") && table.contains("longest measured text within 4 GiB: dense 128"),
        "{table}"
    );
    // Two lengths, of which one is as short as the window, four kinds of attention, activations stored and not.
    let csv = std::fs::read_to_string(csv).expect("written");
    assert_eq!(csv.lines().count(), 17, "{csv}");
    assert!(csv.contains("\ndense,off,64,") && csv.contains("\nfixed,on,128,"), "{csv}");
    let svg = std::fs::read_to_string(svg).expect("written");
    assert!(svg.contains("dense, recomputed") && svg.contains("peak memory"), "{svg}");
}
