//! Split files: all parts are found from any one, they have to belong together, and parts are written as the `gguf`
//! package writes them.

mod common;

use std::path::{Path, PathBuf};

use common::{Raw, data, golden, path};
use longreach_gguf::{Gguf, Header, TensorType, split_path};

fn part(number: usize) -> String {
    format!("split-{number:05}-of-00003.gguf")
}

/// The goldens in a directory of their own, where they can be changed.
fn parts() -> (tempfile::TempDir, impl Fn(usize) -> PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path().to_owned();
    let path = move |number| at.join(part(number));
    for number in 1..=3 {
        std::fs::write(path(number), golden(&part(number))).expect("written");
    }
    (directory, path)
}

/// Changes the number in the entry with this key in a file.
fn change(file: &Path, key: &str, number: u8) {
    let mut bytes = std::fs::read(file).expect("a file");
    let at = bytes.windows(key.len()).position(|found| found == key.as_bytes()).expect("the key") + key.len() + 4;
    bytes[at] = number;
    std::fs::write(file, bytes).expect("written");
}

/// The message of the error of opening a file, without its directory.
fn refused(path: &Path) -> String {
    let message = Gguf::open(path).expect_err("an error").to_string();
    message.replace(&format!("{}/", path.parent().expect("a directory").display()), "")
}

#[test]
fn any_part_opens_all() {
    for given in 1..=3 {
        let file = Gguf::open(path(&part(given))).expect("a file");
        assert_eq!(file.metadata().require::<u32>("llama.block_count").ok(), Some(2));
        let files: Vec<&str> = file.files().collect();
        assert!(files.iter().zip(1..).all(|(found, number)| found.ends_with(&part(number))), "{files:?}");
        assert_eq!(file.contents().map(|bytes| bytes.len()).collect::<Vec<_>>(), [480, 416, 192]);
        for (index, (tensor, rows)) in file.tensors().zip([12, 12, 24, 1, 1]).enumerate() {
            assert_eq!((tensor.name(), tensor.shape()), (&format!("t.{index}")[..], &[rows, 2][..]));
            assert_eq!(tensor.data(), data(index, 8 * rows));
            assert!(file.tensor(tensor.name()).is_some_and(|found| found.file() == tensor.file()));
        }
        assert_eq!(file.tensors().len(), 5);
    }
}

#[test]
fn a_missing_part() {
    for (missing, given) in [(1, 2), (2, 3), (3, 1)] {
        let (_directory, path) = parts();
        std::fs::remove_file(path(missing)).expect("removed");
        let (given_name, missing_name) = (part(given), part(missing));
        let want = format!("{given_name}: is part {given} of 3 of a split file, but {missing_name} does not exist");
        assert_eq!(refused(&path(given)), want);
    }
}

#[test]
fn a_part_twice() {
    let (_directory, path) = parts();
    std::fs::copy(path(2), path(3)).expect("copied");
    assert_eq!(refused(&path(1)), format!("{}: is part 2 of 3, want part 3 of 3, which its name says", part(3)));
    assert_eq!(refused(&path(3)), format!("{}: is named part 3 of 3, but is part 2 of 3", part(3)));
}

#[test]
fn a_part_with_another_number_of_parts() {
    let (_directory, path) = parts();
    change(&path(2), "split.count", 4);
    assert_eq!(refused(&path(1)), format!("{}: is part 2 of 4, want part 2 of 3, which its name says", part(2)));
}

#[test]
fn a_part_with_another_number_of_tensors() {
    let (_directory, path) = parts();
    change(&path(2), "split.tensors.count", 6);
    assert_eq!(refused(&path(1)), format!("{}: key `split.tensors.count`: is 6, but 5 in {}", part(2), part(1)));
}

#[test]
fn a_number_of_tensors_that_all_parts_agree_on() {
    let (_directory, path) = parts();
    (1..=3).for_each(|number| change(&path(number), "split.tensors.count", 6));
    assert_eq!(
        refused(&path(3)),
        format!("{}: key `split.tensors.count`: is 6, but the 3 parts have 5 tensors", part(3))
    );
}

#[test]
fn a_number_beyond_the_last() {
    let (_directory, path) = parts();
    change(&path(2), "split.no", 3);
    assert_eq!(refused(&path(1)), format!("{}: key `split.no`: is 3, but `split.count` is 3", part(2)));
}

#[test]
fn a_part_that_is_a_whole_file() {
    let (_directory, path) = parts();
    std::fs::write(path(2), golden("shapes.gguf")).expect("written");
    assert_eq!(refused(&path(1)), format!("{}: is a whole file, want part 2 of 3, which its name says", part(2)));
}

#[test]
fn a_part_with_a_tensor_of_another() {
    let (_directory, path) = parts();
    let mut bytes = std::fs::read(path(3)).expect("a file");
    let at = bytes.windows(3).position(|found| found == b"t.4").expect("the name");
    bytes[at + 2] = b'0';
    std::fs::write(path(3), bytes).expect("written");
    assert_eq!(refused(&path(3)), format!("{}: tensor `t.0`: is in two parts", part(1)));
}

#[test]
fn a_part_without_its_number() {
    let (_directory, path) = parts();
    let mut bytes = std::fs::read(path(2)).expect("a file");
    let at = bytes.windows(8).position(|found| found == b"split.no").expect("the key");
    bytes[at] = b'x';
    std::fs::write(path(2), bytes).expect("written");
    assert_eq!(refused(&path(1)), format!("{}: key `split.no`: is missing", part(2)));
}

#[test]
fn a_part_under_another_name() {
    let (directory, path) = parts();
    for name in ["model.gguf", "split-2-of-3.gguf", "split-00002-of-00003", "00002-of-00003.gguf"] {
        let other = directory.path().join(name);
        std::fs::copy(path(2), &other).expect("copied");
        let end = "so its name must end in -00002-of-00003.gguf as those of the others do";
        assert_eq!(refused(&other), format!("{name}: is part 2 of 3 of a split file, {end}"));
    }
}

#[test]
fn a_whole_file_may_be_named_as_a_part() {
    let (_directory, path) = parts();
    std::fs::write(path(1), golden("shapes.gguf")).expect("written");
    assert_eq!(Gguf::open(path(1)).expect("a file").tensors().len(), 5);
}

#[test]
fn names_of_parts() {
    let of = |path: &str| split_path(Path::new(path), 2, 11);
    assert_eq!(of("a/model.gguf"), Path::new("a/model-00002-of-00011.gguf"));
    assert_eq!(of("model-1.5b.Q4_K_M"), Path::new("model-1.5b.Q4_K_M-00002-of-00011.gguf"));
}

/// The header of the goldens, unsplit.
fn whole(alignment: Option<u32>) -> Header {
    let mut header = Header::new();
    header.set("general.architecture", "llama").expect("set");
    header.set("llama.block_count", 2u32).expect("set");
    if let Some(alignment) = alignment {
        header.set("general.alignment", alignment).expect("set");
    }
    for (index, rows) in [12, 12, 24, 1, 1].into_iter().enumerate() {
        header.declare(&format!("t.{index}"), &[rows, 2], TensorType::F32).expect("declared");
    }
    header
}

/// Writes the parts of a split file.
fn write(parts: Vec<Header>) -> Vec<Vec<u8>> {
    let mut index = 0..;
    let written = parts.into_iter().map(|part| {
        let (size, tensors) = (part.file_bytes(), part.tensors().to_vec());
        let mut writer = part.write_to(Vec::new()).expect("begun");
        for (tensor, index) in tensors.iter().zip(&mut index) {
            writer.tensor(&tensor.name, &data(index, tensor.bytes as usize)).expect("written");
        }
        let file = writer.finish().expect("written");
        assert_eq!(file.len() as u64, size);
        file
    });
    written.collect()
}

#[test]
fn parts_are_written_as_the_package_writes_them() {
    let written = write(whole(None).split(480).expect("parts"));
    assert!(written == (1..=3).map(|number| golden(&part(number))).collect::<Vec<_>>());
}

#[test]
fn no_part_is_larger_than_the_limit_unless_a_tensor_is() {
    let header = whole(None);
    assert_eq!(write(header.split(header.file_bytes()).expect("parts")), write(vec![header.clone()]));
    let mut single = Header::new();
    single.declare("t", &[1000], TensorType::F32).expect("declared");
    assert_eq!(write(single.split(0).expect("parts")), write(vec![single]));
    for limit in 0..header.file_bytes() {
        let parts = header.split(limit).expect("parts");
        assert!(parts.iter().all(|part| part.tensors().len() == 1 || part.file_bytes() <= limit));
        let names = parts.iter().flat_map(|part| part.tensors());
        assert!(names.eq(header.tensors()), "{limit}");
        // No part has room for the first tensor of the next.
        for pair in parts.windows(2) {
            let (mut full, next) = (pair[0].clone(), &pair[1].tensors()[0]);
            full.declare(&next.name, &next.shape, next.tensor_type).expect("declared");
            assert!(full.file_bytes() > limit, "{limit}");
        }
    }
}

#[test]
fn a_split_file_equals_the_whole() {
    for alignment in [None, Some(64), Some(8)] {
        let directory = tempfile::tempdir().expect("a directory");
        let header = whole(alignment);
        let path = directory.path().join("model.gguf");
        std::fs::write(&path, &write(vec![header.clone()])[0]).expect("written");
        let written = write(header.split(450).expect("parts"));
        for (index, bytes) in written.iter().enumerate() {
            std::fs::write(split_path(&path, index + 1, written.len()), bytes).expect("written");
        }
        let whole = Gguf::open(&path).expect("a file");
        let split = Gguf::open(split_path(&path, 2, written.len())).expect("a file");
        assert!(split.files().len() > 1);
        let all = |file: &Gguf| -> Vec<_> {
            file.tensors().map(|t| (t.name().to_owned(), t.shape().to_vec(), t.tensor_type(), t.bytes())).collect()
        };
        assert_eq!(all(&whole), all(&split));
        for value in whole.metadata().iter() {
            assert_eq!(split.metadata().value(value.key()).map(|found| found.preview()), Some(value.preview()));
        }
        // Putting it together again gives the whole file.
        let mut again = Header::new();
        again.set_all(split.metadata()).expect("set");
        split.tensors().for_each(|t| again.declare(t.name(), t.shape(), t.tensor_type()).expect("declared"));
        assert_eq!(write(vec![again])[0], std::fs::read(&path).expect("a file"));
    }
}

#[test]
fn a_part_whose_data_may_begin_at_two_places() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut parts = whole(Some(64)).split(450).expect("parts");
    // As llama.cpp and the package write it: in the first part only.
    parts[1..].iter_mut().for_each(|part| part.remove("general.alignment"));
    let path = |part: usize| split_path(&directory.path().join("a.gguf"), part, 4);
    for (index, bytes) in write(parts).iter().enumerate() {
        std::fs::write(path(index + 1), bytes).expect("written");
    }
    let want = "the data may begin at a multiple of 32, the default, or of 64, which the first part says";
    let file = "a-00002-of-00004.gguf";
    assert_eq!(refused(&path(1)), format!("{file}: key `general.alignment`: is missing: {want}"));
}

#[test]
fn a_first_part_without_tensors() {
    let directory = tempfile::tempdir().expect("a directory");
    let part = |number: u32| {
        let raw = Raw::new().key("split.no", 4).u32(number).key("split.count", 5).u32(2);
        raw.key("split.tensors.count", 11).u64(1)
    };
    let path = |part: usize| split_path(&directory.path().join("a.gguf"), part, 2);
    std::fs::write(path(1), part(0).file()).expect("written");
    std::fs::write(path(2), part(1).tensor("t", &[4], 0, 0).with_data(16)).expect("written");
    let file = Gguf::open(path(2)).expect("a file");
    assert_eq!(file.tensors().map(|t| (t.name(), t.data()[0])).collect::<Vec<_>>(), [("t", 7)]);
}
