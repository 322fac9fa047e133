//! Hostile files: whatever the bytes, reading ends in a value or an error, and takes no more memory than a few times
//! the file.

mod common;

use std::time::Instant;

use common::{Raw, golden, path, read};
use longreach_gguf::{Error, Gguf, Header, OneOrMany, Strings, Value};
use longreach_testkit::{Counting, peak};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Asks for everything that a file has, in every way.
fn exercise(file: &Gguf) {
    fn value(value: Value<'_>) -> Result<(), Error> {
        std::hint::black_box((value.preview(), value.count(), value.element_type()));
        value.to::<u8>()?;
        value.to::<i64>()?;
        value.to::<f32>()?;
        value.to::<bool>()?;
        Ok(())
    }
    for entry in file.metadata().iter() {
        let key = entry.key();
        assert_eq!(file.metadata().value(key).map(|found| found.preview()), Some(entry.preview()));
        let _ = value(entry);
        let _ = (entry.to::<u64>(), entry.to::<f64>(), entry.to::<bool>(), entry.to::<&str>(), entry.to::<&[u8]>());
        let _ = (entry.to::<Vec<u64>>(), entry.to::<Vec<bool>>().is_ok(), entry.to::<Vec<&str>>().is_ok());
        let _ = entry.to::<OneOrMany<f32>>();
        if let Ok(strings) = entry.to::<Strings<'_>>() {
            assert_eq!(strings.len(), strings.count());
        }
        if let Ok(elements) = entry.elements() {
            elements.for_each(|element| drop(value(element)));
        }
    }
    for tensor in file.tensors() {
        assert_eq!(tensor.tensor_type().bytes_of(tensor.shape()), Some(tensor.data().len()));
        assert_eq!(tensor.bytes(), tensor.data());
        assert_eq!(file.tensor(tensor.name()).map(|found| found.data().as_ptr()), Some(tensor.data().as_ptr()));
        std::hint::black_box((tensor.elements(), format!("{tensor:?}")));
    }
}

/// Writes a file again as it was read, but for the padding, and reads that.
fn rewrite(file: &Gguf) {
    let mut header = Header::new();
    header.set_all(file.metadata()).expect("what was read can be written");
    for tensor in file.tensors() {
        header.declare(tensor.name(), tensor.shape(), tensor.tensor_type()).expect("what was read can be written");
    }
    let mut writer = header.write_to(Vec::new()).expect("written");
    file.tensors().for_each(|tensor| writer.tensor(tensor.name(), tensor.data()).expect("written"));
    let again = read(writer.finish().expect("written")).expect("a file");
    let values = file.metadata().iter().filter(|value| !value.key().starts_with("split."));
    values
        .for_each(|value| assert_eq!(again.metadata().value(value.key()).map(|v| v.preview()), Some(value.preview())));
    assert!(file.tensors().map(|t| (t.name(), t.data())).eq(again.tensors().map(|t| (t.name(), t.data()))));
}

/// Reads a file and asks for everything; checks the memory that this takes, and that an error names the file.
fn survive(bytes: &[u8]) {
    let (length, bytes) = (bytes.len(), bytes.to_vec());
    let (used, opened) = peak(|| read(bytes));
    assert!(used <= 8 * length + 2048, "opening takes {used} bytes for a file of {length}");
    match opened {
        Ok(file) => {
            let (used, ()) = peak(|| exercise(&file));
            // An array of bytes that is read as 64-bit integers is eight times as large.
            assert!(used <= 10 * length + 4096, "reading takes {used} bytes for a file of {length}");
        }
        Err(error) => assert!(error.to_string().starts_with("model.gguf: "), "{error}"),
    }
}

const GOLDENS: [&str; 6] =
    ["values.gguf", "shapes.gguf", "version-2.gguf", "tensors.gguf", "big-endian.gguf", "split-00001-of-00003.gguf"];

/// The bytes of a golden up to a few behind the header.
fn header(name: &str) -> usize {
    golden(name).len().min(1800)
}

#[test]
fn every_byte_changed() {
    for name in GOLDENS {
        let mut bytes = golden(name);
        for at in 0..header(name) {
            let old = bytes[at];
            let flipped = (0..8).map(|bit| old ^ (1 << bit));
            for new in flipped.chain([0, 1, 0x7f, 0x80, 0xff]) {
                bytes[at] = new;
                survive(&bytes);
            }
            bytes[at] = old;
        }
    }
}

#[test]
fn every_number_changed() {
    for name in GOLDENS {
        let bytes = golden(name);
        for at in 0..header(name) - 8 {
            for new in [0, 1 << 31, 1 << 40, 1 << 62, 1 << 63, u64::MAX - 31, u64::MAX] {
                let mut bytes = bytes.clone();
                bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
                survive(&bytes);
            }
        }
    }
}

#[test]
fn every_cut() {
    for name in GOLDENS {
        let bytes = golden(name);
        (0..header(name)).chain(bytes.len() - 99..bytes.len()).for_each(|length| survive(&bytes[..length]));
        // Two bytes too many in the middle, and two too few.
        for at in 0..header(name) - 2 {
            survive(&[&bytes[..at], &bytes[at + 2..]].concat());
            survive(&[&bytes[..at + 2], &bytes[at..]].concat());
        }
    }
}

#[test]
fn every_byte_of_a_part_changed() {
    let directory = tempfile::tempdir().expect("a directory");
    let parts: Vec<_> = (1..=3).map(|part| format!("split-{part:05}-of-00003.gguf")).collect();
    for part in &parts {
        std::fs::copy(path(part), directory.path().join(part)).expect("copied");
    }
    for (index, part) in parts.iter().enumerate() {
        let (file, bytes) = (directory.path().join(part), golden(part));
        for at in 0..bytes.len().min(300) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            // Truncating a file would wait for the disk.
            std::fs::remove_file(&file).expect("removed");
            std::fs::write(&file, changed).expect("written");
            match Gguf::open(directory.path().join(&parts[(index + at) % 3])) {
                Ok(opened) => exercise(&opened),
                Err(error) => assert!(error.to_string().contains("-of-00003.gguf: "), "{error}"),
            }
        }
        std::fs::write(&file, bytes).expect("written");
    }
}

#[test]
fn as_many_entries_and_tensors_as_fit_and_long_keys() {
    let mut entries = Raw::new();
    for n in 0..50_000u32 {
        // Keys of two characters of two bytes each, and values of a byte.
        let two = [n % 250, n / 250].map(|c| char::from_u32(0x100 + c).expect("a character"));
        entries = entries.key(&String::from_iter(two), 0).raw(&[7]);
    }
    survive(&entries.file());
    let long = vec![0xff; 1 << 16];
    survive(&Raw { entries: 1, ..Raw::new() }.string(&long).u32(0).raw(&[7]).file());
    survive(&Raw::new().key(&"\u{7f}".repeat(1 << 16), 99).raw(&[7]).file());
    let mut tensors = Raw::new().key("general.alignment", 4).u32(1);
    for n in 0..50_000u32 {
        let two = [n % 250, n / 250].map(|c| char::from_u32(0x100 + c).expect("a character"));
        tensors = tensors.tensor(&String::from_iter(two), &[1], 24, u64::from(n));
    }
    let mut tensors = tensors.file();
    tensors.extend([7; 50_000]);
    assert_eq!(read(tensors.clone()).expect("a file").tensors().len(), 50_000);
    survive(&tensors);
}

/// Opens a file whose rest is a hole of 64 GiB, which takes no space; checks that opening takes no memory to speak of.
fn open_large(header: Vec<u8>) -> Result<Gguf, Error> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("large.gguf");
    std::fs::write(&path, header).expect("written");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("a file");
    file.set_len(LARGE + 64).expect("a file system with holes");
    let (used, opened) = peak(|| Gguf::open(&path));
    assert!(used < 4096, "{used} bytes");
    opened
}

const LARGE: u64 = 1 << 36;

#[test]
fn a_large_file_costs_no_more_than_its_header() {
    // Reading the data, or the array, would take minutes.
    let raw = Raw::new().tensor("a", &[LARGE], 24, 0);
    let file = open_large(raw.file()).expect("a file");
    assert_eq!(file.tensor("a").map(|a| a.elements() as u64), Some(LARGE));
    let raw = Raw::new().key("a", 9).u32(0).u64(LARGE / 2);
    let file = open_large(raw.file()).expect("a file");
    assert_eq!(file.metadata().value("a").map(|a| a.count() as u64), Some(LARGE / 2));
}

#[test]
fn a_large_file_cannot_claim_memory() {
    for raw in [Raw { entries: LARGE / 13, ..Raw::new() }, Raw { tensors: LARGE / 24, ..Raw::new() }] {
        let message = open_large(raw.file()).expect_err("an error").to_string();
        assert!(
            message.ends_with(" 0: has 0 bytes, want 1 to 65536") || message.ends_with(" 0: has 0 bytes, want 1 to 63"),
            "{message}"
        );
    }
}

/// The configuration of the property tests: the same inputs on every run.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(0x10ad), failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survive(&bytes);
        survive(&[b"GGUF\x03\0\0\0", &bytes[..]].concat());
        survive(&[b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0", &bytes[..]].concat());
    }

    #[test]
    fn bytes_changed_in_several_places(
        name in 0..GOLDENS.len(),
        changes in proptest::collection::vec((0usize..2400, any::<u8>()), 1..6),
        cut in 0usize..4000,
    ) {
        let mut bytes = golden(GOLDENS[name]);
        for (at, new) in changes {
            let at = at % bytes.len();
            bytes[at] = new;
        }
        bytes.truncate(bytes.len() - if cut % 2 == 0 { 0 } else { cut % bytes.len() });
        survive(&bytes);
        if let Ok(file) = read(bytes) {
            rewrite(&file);
        }
    }
}

/// Changes files at random for as many seconds as the environment variable `GGUF_FUZZ_SECONDS` says.
#[test]
#[ignore = "a fuzzing run, which is started by hand"]
fn fuzz() {
    let seconds = std::env::var("GGUF_FUZZ_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let (began, goldens) = (Instant::now(), GOLDENS.map(golden));
    let mut state = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64);
    let first = state;
    // SplitMix64.
    let mut below = |n: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % n.max(1) as u64) as usize
    };
    let (mut files, mut valid) = (0u64, 0u64);
    while began.elapsed().as_secs() < seconds {
        let mut bytes = goldens[below(goldens.len())].clone();
        for _ in 0..1 + below(6) {
            let (at, other) = (below(bytes.len().min(2400)), &goldens[below(goldens.len())]);
            let end = (at + below(64)).min(bytes.len());
            match below(8) {
                0 | 1 => bytes[at..end.min(at + 1)].iter_mut().for_each(|b| *b ^= 1 << below(8)),
                2 => bytes[at..end.min(at + 1)].fill(below(256) as u8),
                3 => bytes[at..end.min(at + 8)].fill([0, 0x7f, 0x80, 0xff][below(4)]),
                4 => bytes.truncate(bytes.len() - below(bytes.len()).min(below(2000))),
                5 => drop(bytes.drain(at..end)),
                6 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                _ => {
                    let from = below(other.len());
                    let part = other[from..].iter().copied().take(below(200)).collect::<Vec<_>>();
                    drop(bytes.splice(at..end, part));
                }
            }
        }
        let shown = bytes.clone();
        let survived = std::panic::catch_unwind(|| {
            survive(&shown);
            read(shown).map(|file| rewrite(&file)).is_ok()
        });
        valid += u64::from(survived.unwrap_or_else(|_| panic!("seed {first}, file {files}: {bytes:?}")));
        files += 1;
    }
    assert!(valid > 0 && valid < files, "{valid} of {files} files are valid");
    std::io::Write::write_all(&mut std::io::stderr(), format!("{files} files, {valid} of them valid\n").as_bytes())
        .expect("written");
}
