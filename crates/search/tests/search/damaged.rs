//! Whatever happens to the bytes of an index, a piece or a table: errors, or the right answers.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};

use super::*;

/// Every byte changed, and every length.
fn damages(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flipped = (0..bytes.len()).flat_map(move |i| {
        [0x55, 0x80, 0xff, 0x01].into_iter().skip(i % 2).step_by(2).map(move |with| {
            let mut damaged = bytes.to_vec();
            damaged[i] ^= with;
            damaged
        })
    });
    let cut = (0..bytes.len()).map(|n| bytes[..n].to_vec());
    // Many bytes at once.
    let many = (0..200).map(move |seed: usize| {
        let mut damaged = bytes.to_vec();
        for i in (seed..bytes.len()).step_by(7 + seed % 61) {
            damaged[i] ^= (seed * 31 + i) as u8;
        }
        damaged
    });
    flipped.chain(cut).chain(many)
}

#[test]
fn a_damaged_index_answers_rightly_or_not_at_all() {
    let at = tempfile::tempdir().expect("a directory");
    let input = written(at.path(), "x.txt", "the quick river\nyellow trees\nan old stone bridge\n");
    let cx = Cx::new(1);
    for name in ["st-bert-mean", "colbert"] {
        let mut encoder = load(name);
        let to = at.path().join(name);
        index::build(&mut encoder, &build(&input), &to, &mut on).expect("built");
        let question = |index: &Index| -> Result<Vec<_>, longreach_search::Error> {
            let found = index.with(&encoder)?.ask(&cx, "yellow trees", 9)?;
            Ok(found.into_iter().map(|f| (f.row, f.bytes, f.text, f.score)).collect())
        };
        let want = question(&Index::open(&cx, &to).expect("an index")).expect("found");
        let mut opened = 0;
        for file in ["passages.arrow", "index.json"] {
            let place = to.join(file);
            let whole = std::fs::read(&place).expect("a file");
            for damaged in damages(&whole) {
                std::fs::write(&place, damaged).expect("written");
                if let Ok(index) = Index::open(&cx, &to)
                    && let Ok(found) = question(&index)
                {
                    assert_eq!(found, want, "{name}: {file}");
                    opened += 1;
                }
            }
            std::fs::write(&place, whole).expect("written");
        }
        // Some bytes are padding, or names that are only shown.
        assert!(opened > 0);
    }
}

#[test]
fn a_damaged_table_is_read_or_refused() {
    let at = tempfile::tempdir().expect("a directory");
    let encoder = load("st-bert-mean");
    let texts: Vec<String> = (0..3).map(|i| format!("the river {i}")).collect();
    let input = written(at.path(), "x.txt", texts.join("\n"));
    let out = at.path().join("v.parquet");
    Job { text: true, ..job(&input) }.run(&encoder, &out, Existing::Refuse, &mut on).expect("embedded");
    // And one that is not compressed, with elements that are missing and others that repeat.
    let bytes = [Some(&b"river"[..]), None, Some(b"river"), Some(b"caf\xc3\xa9")].repeat(3);
    let columns = [("text", Arc::new(BinaryArray::from(bytes)) as ArrayRef)];
    documents::parquet(at.path(), "plain.parquet", &RecordBatch::try_from_iter(columns).expect("a table"));
    // The reader's own panics, which become errors, are not printed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !longreach_search::is_guarded() {
            hook(info);
        }
    }));
    for name in ["v.parquet", "plain.parquet"] {
        let whole = std::fs::read(at.path().join(name)).expect("a table");
        let (mut read, mut refused) = (0, 0);
        for damaged in damages(&whole) {
            let input = written(at.path(), "damaged.parquet", damaged);
            let documents = || -> Result<(), longreach_search::Error> {
                let mut documents = input.documents(None)?;
                while documents.next()?.is_some() {}
                Ok(())
            };
            match documents() {
                Ok(()) => read += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(read > 0 && refused > 0, "{name}");
    }
}

#[test]
fn a_damaged_piece_is_made_again_or_refused() {
    let at = tempfile::tempdir().expect("a directory");
    let encoder = load("st-bert-mean");
    let texts: Vec<String> = (0..4097).map(|i| if i < 4 { "river" } else { "" }.to_owned()).collect();
    let input = written(at.path(), "x.txt", texts.join("\n") + "\nend");
    let out = at.path().join("v.npy");
    let first = job::partial(&out).join("000000.arrow");
    let mut stop = |_: &job::Progress| if first.exists() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let whole = at.path().join("whole.npy");
    job(&input).run(&encoder, &whole, Existing::Refuse, &mut on).expect("embedded");
    let want = std::fs::read(&whole).expect("vectors");
    job(&input).run(&encoder, &out, Existing::Refuse, &mut stop).expect_err("interrupted");
    let kept: Vec<(PathBuf, Vec<u8>)> = [first.clone(), job::partial(&out).join("job.json")]
        .map(|path| (path.clone(), std::fs::read(path).expect("kept")))
        .into();
    for (path, bytes) in &kept {
        let n = bytes.len();
        // The ends, where the file says what it holds, and some places between.
        for i in (0..n.min(400)).step_by(9).chain((n.saturating_sub(2500)..n).step_by(23)).chain([n / 3, n / 2]) {
            std::fs::create_dir_all(job::partial(&out)).expect("a folder");
            kept.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("put back"));
            let mut damaged = bytes.clone();
            damaged[i] ^= 0x15;
            std::fs::write(path, damaged).expect("written");
            let _ = std::fs::remove_file(&out);
            if job(&input).run(&encoder, &out, Existing::Refuse, &mut on).is_ok() {
                assert!(std::fs::read(&out).expect("vectors") == want, "{}: byte {i}", path.display());
            }
        }
    }
}
