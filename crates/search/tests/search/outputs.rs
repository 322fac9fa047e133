//! What is read is never written over, and an output is checked before the work begins.

use longreach_search::output::{check_file, check_index};

use super::*;

#[test]
fn an_output_is_refused_before_the_work_begins() {
    let at = tempfile::tempdir().expect("a directory");
    let input = written(at.path(), "x.jsonl", "{\"text\": \"the cat\"}\n");
    let folder = Input::of(at.path().to_str().expect("a path")).expect("a folder");
    written(at.path(), "old.npy", "old");
    std::fs::hard_link(at.path().join("x.jsonl"), at.path().join("hard.jsonl")).expect("a link");
    #[cfg(unix)]
    std::os::unix::fs::symlink(at.path().join("x.jsonl"), at.path().join("soft.jsonl")).expect("a link");
    #[cfg(not(unix))]
    std::fs::hard_link(at.path().join("x.jsonl"), at.path().join("soft.jsonl")).expect("a link");
    for (name, input, existing, want) in [
        ("x.jsonl", &input, Existing::Replace, "is the input"),
        ("hard.jsonl", &input, Existing::Replace, "is the input"),
        ("soft.jsonl", &input, Existing::Replace, "is the input"),
        ("./x.jsonl", &input, Existing::Replace, "is the input"),
        ("x.jsonl", &folder, Existing::Replace, "is the input"),
        ("old.npy", &input, Existing::Refuse, "already exists: choose another name"),
        ("no/such/v.npy", &input, Existing::Replace, "cannot access the folder"),
        ("x.jsonl/v.npy", &input, Existing::Replace, "is not a folder"),
        ("v.csv", &input, Existing::Replace, ".parquet, .arrow, .npy or .jsonl"),
    ] {
        let error = check_file(&at.path().join(name), input, existing).expect_err("an error").to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    if std::path::Path::new("/proc/self").exists() {
        let error = check_file(Path::new("/proc/v.npy"), &input, Existing::Replace).expect_err("an error").to_string();
        assert!(error.contains("cannot be written in /proc"), "{error}");
    }
    check_file(&at.path().join("old.npy"), &input, Existing::Replace).expect("it may be replaced");
    check_file(&at.path().join("new.npy"), &folder, Existing::Refuse).expect("a new file");
    // An index is a folder, and only another index is replaced by one.
    written(at.path(), "index/index.json", "{}");
    written(at.path(), "index/passages.arrow", "");
    written(at.path(), "work/paper.txt", "not to be lost");
    for (name, existing, want) in [
        ("index", Existing::Refuse, "already exists"),
        ("work", Existing::Replace, "is not an index"),
        ("", Existing::Replace, "is the input or contains it"),
    ] {
        let error = check_index(&at.path().join(name), &input, existing).expect_err("an error").to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    check_index(&at.path().join("index"), &input, Existing::Replace).expect("it may be replaced");
}

#[test]
fn an_output_in_the_folder_that_is_read_is_no_document() {
    let at = tempfile::tempdir().expect("a directory");
    let folder = at.path().join("d");
    written(at.path(), "d/a.txt", "the cat");
    let input = Input::of(folder.to_str().expect("a path")).expect("a folder");
    let encoder = load("st-bert-mean");
    let out = folder.join("v.jsonl");
    let done = job(&input).run(&encoder, &out, Existing::Refuse, &mut on).expect("embedded");
    assert_eq!(done.documents, 1);
    // Now it is a file of the folder: it is not replaced, as it might be a document.
    let error = job(&input).run(&encoder, &out, Existing::Replace, &mut on).expect_err("an error").to_string();
    assert!(error.contains("is the input"), "{error}");
    std::fs::remove_file(&out).expect("removed");
    let (to, mut encoder) = (folder.join("index"), encoder);
    for existing in [Existing::Refuse, Existing::Replace] {
        let what = Build { existing, ..build(&input) };
        let done = index::build(&mut encoder, &what, &to, &mut on).expect("built");
        assert_eq!((done.documents, done.left_out), (1, 0));
        assert!(!job::partial(&to).exists());
    }
}

#[test]
fn no_documents_are_no_success() {
    let at = tempfile::tempdir().expect("a directory");
    let encoder = load("st-bert-mean");
    std::fs::create_dir_all(at.path().join("d/e")).expect("folders");
    written(at.path(), "d/.hidden.txt", "hidden");
    let folder = Input::of(at.path().join("d").to_str().expect("a path")).expect("a folder");
    let inputs = [
        written(at.path(), "a.txt", ""),
        written(at.path(), "b.jsonl", "\n\n"),
        written(at.path(), "c.csv", "id,text\n"),
        written(at.path(), "d.json", "[]"),
        written(at.path(), "e.json", ""),
        folder,
    ];
    for input in inputs {
        let out = at.path().join("v.npy");
        let error = job(&input).run(&encoder, &out, Existing::Refuse, &mut on).expect_err("nothing").to_string();
        assert!(error.contains("holds no document"), "{error}");
        assert!(!out.exists() && !job::partial(&out).exists());
    }
}
