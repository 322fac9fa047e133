//! Whatever happens to the bytes of an index, a piece or a table: errors, or the right answers.

use super::*;

/// Every byte changed, and every length.
fn damages(bytes: &[u8], step: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
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
    flipped.step_by(step).chain(cut.step_by(step)).chain(many)
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
            for damaged in damages(&whole, 1) {
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
    let whole = std::fs::read(&out).expect("a table");
    let (mut read, mut refused) = (0, 0);
    for damaged in damages(&whole, 1) {
        let input = written(at.path(), "damaged.parquet", damaged);
        let documents = || -> Result<usize, longreach_search::Error> {
            let mut documents = input.documents(None)?;
            let mut n = 0;
            while documents.next()?.is_some() {
                n += 1;
            }
            Ok(n)
        };
        match documents() {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > 0);
}
