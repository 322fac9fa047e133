//! What several machines embed is, once it is joined, what one would have embedded.

use longreach_search::documents::Shard;
use longreach_search::join::join;

use super::*;

fn shard(text: &str) -> Shard {
    text.parse().expect("a shard")
}

/// Embeds shards into files of their own.
fn shards(encoder: &TextEncoder, job: &Job<'_>, at: &Path, of: usize) -> Vec<PathBuf> {
    let one = |i: usize| {
        let options = Options { shard: Some(shard(&format!("{i}/{of}"))), ..job.options.clone() };
        let out = at.join(format!("{i}-of-{of}.arrow"));
        let part = Job { options: &options, ..*job };
        part.run(encoder, &out, Existing::Refuse, &mut on).expect("embedded");
        out
    };
    (1..=of).map(one).collect()
}

#[test]
fn joined_shards_are_the_output_of_one_machine() {
    let at = tempfile::tempdir().expect("a directory");
    let texts: Vec<String> =
        lines(10).iter().enumerate().map(|(i, t)| format!("{{\"id\": {i}, \"text\": \"{t}\"}}")).collect();
    let input = written(at.path(), "texts.jsonl", texts.join("\n"));
    for name in ["st-bert-mean", "colbert"] {
        let mut encoder = load(name);
        encoder.set_limit(16).expect("a limit");
        let options = Options { fields: vec!["id".into()], column: Some("text".into()), ..Options::default() };
        for long in [LongDocument::Mean { overlap: 2 }, LongDocument::Parts { overlap: 2 }] {
            let whole = Job { options: &options, long, text: true, ..job(&input) };
            let want = at.path().join("want.jsonl");
            whole.run(&encoder, &want, Existing::Replace, &mut on).expect("embedded");
            let want = std::fs::read_to_string(want).expect("a file");
            // With more shards than documents, some are empty.
            for of in [1, 3, 12] {
                let folder = tempfile::tempdir().expect("a directory");
                let mut parts = shards(&encoder, &whole, folder.path(), of);
                parts.reverse();
                let out = folder.path().join("joined.jsonl");
                let rows = join(&parts, &out, Existing::Refuse).expect("joined");
                assert_eq!(std::fs::read_to_string(out).expect("a file"), want);
                assert_eq!(rows, want.lines().count() as u64);
            }
        }
    }
}

#[test]
fn joined_shards_are_written_in_every_format() {
    let (encoder, at) = (load("st-bert-mean"), tempfile::tempdir().expect("a directory"));
    let input = written(at.path(), "texts.txt", lines(9).join("\n"));
    let parts = shards(&encoder, &job(&input), at.path(), 2);
    for name in ["v.parquet", "v.npy", "v.arrow", "v.jsonl"] {
        let (want, out) = (at.path().join(name), at.path().join(format!("joined-{name}")));
        job(&input).run(&encoder, &want, Existing::Refuse, &mut on).expect("embedded");
        join(&parts, &out, Existing::Refuse).expect("joined");
        if name == "v.parquet" {
            assert_eq!(parquet(&out), parquet(&want));
        } else if name != "v.arrow" {
            assert_eq!(std::fs::read(&out).expect("a file"), std::fs::read(&want).expect("a file"), "{name}");
        }
        let again = join(&parts, &out, Existing::Refuse).expect_err("it exists").to_string();
        assert!(again.contains("already exists"), "{again}");
    }
    let input = join(&parts, &parts[0], Existing::Replace).expect_err("it is a shard").to_string();
    assert!(input.contains("is the input"), "{input}");
}

#[test]
fn an_interrupted_shard_resumes() {
    let (encoder, at) = (load("st-bert-mean"), tempfile::tempdir().expect("a directory"));
    // More documents than a piece has, and short ones.
    let texts: Vec<String> = (0..8300).map(|i| format!("{}", i % 7)).collect();
    let input = written(at.path(), "texts.txt", texts.join("\n"));
    let of = |i| Options { shard: Some(shard(&format!("{i}/2"))), ..PLAIN.clone() };
    let outs = [at.path().join("1.arrow"), at.path().join("2.arrow")];
    for (i, out) in outs.iter().enumerate() {
        let options = of(i + 1);
        let part = Job { options: &options, batch: 8192, ..job(&input) };
        let mut stop =
            |p: &job::Progress| if p.documents > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        part.run(&encoder, out, Existing::Refuse, &mut stop).expect_err("stopped");
        // What is saved is of this shard, and of no other.
        let other = of(2 - i);
        let refused =
            Job { options: &other, ..part }.run(&encoder, out, Existing::Refuse, &mut on).expect_err("another");
        assert!(refused.to_string().contains("another job (shard differ)"), "{refused}");
        let done = part.run(&encoder, out, Existing::Refuse, &mut on).expect("embedded");
        assert!(done.before > 0 && done.documents == 4150, "{done:?}");
    }
    let out = at.path().join("joined.parquet");
    join(&outs, &out, Existing::Refuse).expect("joined");
    assert_eq!(parquet(&out).0, (0..8300).collect::<Vec<u64>>());
}

#[test]
fn shards_that_do_not_fit_are_named() {
    let (encoder, at) = (load("st-bert-mean"), tempfile::tempdir().expect("a directory"));
    let input = written(at.path(), "texts.txt", lines(7).join("\n"));
    let parts = shards(&encoder, &job(&input), at.path(), 3);
    let out = at.path().join("joined.parquet");
    let refused = |shards: &[&PathBuf], message: &str| {
        let shards: Vec<PathBuf> = shards.iter().map(|path| (*path).clone()).collect();
        let error = join(&shards, &out, Existing::Refuse).expect_err("refused").to_string();
        assert!(error.contains(message), "{error}");
        assert!(!out.exists());
    };
    refused(&[&parts[0], &parts[2]], "2 of 3 shards are given; shard 2/3 is missing");
    refused(&[&parts[0], &parts[1], &parts[1]], "is shard 2/3, and so is");
    let other = tempfile::tempdir().expect("a directory");
    let prompted = shards(&encoder, &Job { prompt: "query: ", ..job(&input) }, other.path(), 3);
    refused(&[&parts[0], &parts[1], &prompted[2]], "3-of-3.arrow: is of another job than");
    let two = shards(&encoder, &job(&input), other.path(), 2);
    refused(&[&parts[0], &two[1]], "is one of 2 shards, but");
    // A document fewer: the inputs were not the same.
    let shorter = written(other.path(), "texts.txt", lines(5).join("\n"));
    let folder = tempfile::tempdir().expect("a directory");
    let short = shards(&encoder, &job(&shorter), folder.path(), 3);
    refused(&[&short[0], &parts[1], &parts[2]], "is of an input of 7 documents, but");
    let plain = at.path().join("plain.arrow");
    job(&input).run(&encoder, &plain, Existing::Refuse, &mut on).expect("embedded");
    refused(&[&plain], "plain.arrow: is no shard");
    let options = Options { shard: Some(shard("1/2")), ..PLAIN.clone() };
    let table = Job { options: &options, ..job(&input) };
    let error = table.run(&encoder, &out, Existing::Refuse, &mut on).expect_err("refused").to_string();
    assert!(error.contains("want a name that ends in .arrow"), "{error}");
    for text in ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"] {
        assert!(text.parse::<Shard>().is_err(), "{text}");
    }
}
