//! What an input is and which of its columns holds the text is decided once; whatever is no text is told by name.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, DictionaryArray, Int64Array, LargeBinaryArray, LargeStringArray, RecordBatch, StringArray,
    StringViewArray, StructArray,
};
use arrow_schema::{DataType, Field};
use longreach_search::Error;
use longreach_search::documents::{Document, Input, Kind, Options};

use super::written;

fn read(input: &Input, options: &Options) -> Result<Vec<Document>, Error> {
    let mut documents = input.read(options)?;
    let mut all = Vec::new();
    while let Some((document, _)) = documents.next()? {
        all.push(document);
    }
    Ok(all)
}

fn texts(input: &Input, options: &Options) -> Vec<String> {
    read(input, options).expect("documents").into_iter().map(|document| document.text).collect()
}

fn named(column: &str) -> Options {
    Options { column: Some(column.into()), ..Options::default() }
}

fn compressed(name: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    if name.ends_with(".zst") {
        return zstd::encode_all(bytes, 0).expect("compressed");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).expect("compressed");
    gzip.finish().expect("compressed")
}

#[test]
fn a_compressed_table_is_the_table() {
    let at = tempfile::tempdir().expect("a directory");
    let jsonl: String = (0..20_000).map(|i| format!("{{\"text\": \"row {i}\"}}\n")).collect();
    for (name, text) in [("a.jsonl", jsonl.as_str()), ("b.csv", "id,text\n1,x\n2,y\n"), ("c.json", "[\"x\", \"y\"]")] {
        let want = texts(&written(at.path(), name, text), &Options::default());
        for end in ["gz", "zst"] {
            let name = format!("{name}.{end}");
            let bytes = compressed(&name, text.as_bytes());
            let input = written(at.path(), &name, &bytes[..]);
            assert!(texts(&input, &Options::default()) == want, "{name}");
            // Cut off, which is an error and no shorter table.
            let short = written(at.path(), &format!("short-{name}"), &bytes[..bytes.len() - 5]);
            let error = read(&short, &Options::default()).expect_err("damaged").to_string();
            assert!(error.contains(&name), "{error}");
        }
        assert!(want.len() >= 2, "{name}");
    }
    // Files that were appended to have several members.
    let mut bytes = compressed("x.gz", b"\"x\"\n");
    bytes.extend(compressed("x.gz", b"\"y\"\n"));
    assert_eq!(texts(&written(at.path(), "d.jsonl.gz", bytes), &Options::default()), ["x", "y"]);
}

#[test]
fn every_format_gives_its_texts() {
    let at = tempfile::tempdir().expect("a directory");
    let utf16 = |text: &str, big: bool| -> Vec<u8> {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
    };
    let long = "é".repeat(70_000);
    for (name, bytes, want) in [
        ("a.txt", b"a\r\n\n\nb".to_vec(), vec!["a", "", "", "b"]),
        // Every line end of text editors, at the end of the text or not; a mark is no text.
        ("b.txt", b"\xef\xbb\xbfone\rtwo\nthree\r\n".to_vec(), vec!["one", "two", "three"]),
        ("c", b"\r\r\n".to_vec(), vec!["", ""]),
        ("d.txt", utf16("caf\u{e9}\r\n\u{1f600}\n", false), vec!["caf\u{e9}", "\u{1f600}"]),
        ("e.txt", utf16(&format!("{long}\u{1f600}"), true), vec![&format!("{long}\u{1f600}")]),
        ("f.jsonl", b"\xef\xbb\xbf{\"text\": \"x\"}\r{\"text\": \"y\"}\n\n".to_vec(), vec!["x", "y"]),
        ("g.ndjson", b"\"x\"\nnull\n\"y\"".to_vec(), vec!["x", "", "y"]),
        // What Python writes and JSON does not have, in fields nobody asked for and in texts.
        ("h.jsonl", br#"{"text": "x", "n": NaN, "m": [-Infinity]}"#.to_vec(), vec!["x"]),
        ("i.jsonl", b"{\"text\": \"x \\ud83d\"}\n{\"text\": null}".to_vec(), vec!["x \u{fffd}", ""]),
        ("j.json", b" [\n {\"text\": \"x\"},\n {\"text\": \"y, ]}\\\"[\"}\n]\n".to_vec(), vec!["x", "y, ]}\"["]),
        ("k.json", b"[\"x\", \"y\",null]".to_vec(), vec!["x", "y", ""]),
        ("l.json", b"{\"text\": \"x\"}\n{\"text\":\n  \"y\"}{\"text\": \"z\"}".to_vec(), vec!["x", "y", "z"]),
        ("m.json", utf16("[{\"text\": \"\u{e9}\"}]", false), vec!["\u{e9}"]),
        ("n.json", b"[]".to_vec(), vec![]),
        (
            "o.csv",
            b"\xef\xbb\xbfid,text\r\n1,the cat\r\n2,\"a \"\"dog\"\",\nof two lines\"\r\n".to_vec(),
            vec!["the cat", "a \"dog\",\nof two lines"],
        ),
        // The only column that is no number, and the only column.
        ("p.csv", b"id,body\r7,x\r8,\r".to_vec(), vec!["x", ""]),
        ("q.csv", b"words\n2001\nx\n".to_vec(), vec!["2001", "x"]),
        ("r.tsv", b"id\ttext\n1\ta, \"b\"\n".to_vec(), vec!["a, \"b\""]),
        ("s.CSV", utf16("id,text\n1,\u{e9}\n", true), vec!["\u{e9}"]),
    ] {
        let found = texts(&written(at.path(), name, bytes), &Options::default());
        assert_eq!(found, want, "{name}");
    }
}

#[test]
fn bytes_of_lines_are_where_the_file_has_them() {
    let at = tempfile::tempdir().expect("a directory");
    let bytes = b"\xef\xbb\xbfone\r\n\rtwo\nthr\xc3\xa9e";
    for document in read(&written(at.path(), "a.txt", bytes), &Options::default()).expect("documents") {
        let from = document.start as usize;
        assert_eq!(&bytes[from..from + document.text.len()], document.text.as_bytes());
    }
}

#[test]
fn a_format_that_is_named_is_the_one_that_is_read() {
    let at = tempfile::tempdir().expect("a directory");
    let input = written(at.path(), "a.data", "{\"text\": \"x\"}\n{\"text\": \"y\"}\n");
    let of = |format| texts(&input, &Options { format: Some(format), ..Options::default() });
    assert_eq!(of(Kind::Jsonl), ["x", "y"]);
    assert_eq!(of(Kind::Json), ["x", "y"]);
    assert_eq!(of(Kind::Lines), ["{\"text\": \"x\"}", "{\"text\": \"y\"}"]);
    assert_eq!(of(Kind::Text), ["{\"text\": \"x\"}\n{\"text\": \"y\"}\n"]);
    for (name, kind) in Kind::ALL {
        assert_eq!((kind.name(), name.parse()), (name, Ok(kind)));
    }
}

#[test]
fn fields_are_carried_as_texts() {
    let at = tempfile::tempdir().expect("a directory");
    let options = Options { fields: vec!["id".into(), "title".into()], ..Options::default() };
    let carried = |input: &Input| -> Vec<Vec<Option<String>>> {
        read(input, &options).expect("documents").into_iter().map(|document| document.fields).collect()
    };
    let want = [[Some("7"), Some("A")], [Some("8"), None]].map(|row| row.map(|value| value.map(String::from)).to_vec());
    let lines = "{\"id\": 7, \"text\": \"x\", \"title\": \"A\"}\n{\"id\": \"8\", \"text\": \"y\", \"title\": null}\n";
    assert_eq!(carried(&written(at.path(), "a.jsonl", lines)), want);
    let array: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
    let table = RecordBatch::try_from_iter([
        ("title", Arc::new(StringArray::from(vec![Some("A"), None])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
        ("id", array),
    ]);
    assert_eq!(carried(&parquet(at.path(), "b.parquet", &table.expect("a table"))), want);
    let empty = vec![Some("8".to_owned()), Some(String::new())];
    assert_eq!(carried(&written(at.path(), "c.csv", "title,text,id\nA,x,7\n,y,8\n")), [want[0].clone(), empty]);
    // In a folder, texts have none.
    written(at.path(), "d/1.txt", "text");
    written(at.path(), "d/2.jsonl", lines);
    let folder = Input::of(at.path().join("d").to_str().expect("a path")).expect("a folder");
    assert_eq!(carried(&folder), [vec![None, None], want[0].clone(), want[1].clone()]);
}

pub(super) fn parquet(at: &std::path::Path, name: &str, batch: &RecordBatch) -> Input {
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("written");
    written(at, name, bytes)
}

#[test]
fn strings_of_every_kind_are_texts_in_parquet() {
    let at = tempfile::tempdir().expect("a directory");
    let values = || vec![Some("the cat"), None, Some("caf\u{e9}"), Some("the cat")];
    let category: DictionaryArray<Int32Type> = values().into_iter().collect();
    let bytes = || values().into_iter().map(|text| text.map(str::as_bytes)).collect::<Vec<_>>();
    let columns: [ArrayRef; 6] = [
        Arc::new(StringArray::from(values())),
        Arc::new(LargeStringArray::from(values())),
        Arc::new(StringViewArray::from(values())),
        Arc::new(category),
        Arc::new(BinaryArray::from(bytes())),
        Arc::new(LargeBinaryArray::from(bytes())),
    ];
    for column in columns {
        let kind = column.data_type().clone();
        // Columns nobody asked for, one of them of columns.
        let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let inner = Arc::new(Field::new("n", DataType::Int64, true));
        let nested: ArrayRef = Arc::new(StructArray::from(vec![(inner, Arc::clone(&n))]));
        let batch = RecordBatch::try_from_iter([("nested", nested), ("n", n), ("body", column)]).expect("a table");
        let input = parquet(at.path(), "a.parquet", &batch);
        for options in [Options::default(), named("body")] {
            assert_eq!(texts(&input, &options), ["the cat", "", "caf\u{e9}", "the cat"], "{kind}");
        }
        let error = read(&input, &named("n")).expect_err("numbers").to_string();
        assert!(error.contains("column `n`: want strings, found Int64"), "{error}");
        // Parquet by its first bytes.
        std::fs::copy(at.path().join("a.parquet"), at.path().join("table")).expect("copied");
        let other = Input::of(at.path().join("table").to_str().expect("a path")).expect("an input");
        assert_eq!(texts(&other, &Options::default()).len(), 4);
    }
}

#[test]
fn a_folder_is_its_texts_and_the_rows_of_its_tables() {
    let at = tempfile::tempdir().expect("a directory");
    for (name, bytes) in [
        ("d/a.txt", &b"\xef\xbb\xbfa text\nof two lines\n"[..]),
        ("d/b.csv", b"text,n\nx,1\ny,2\n"),
        ("d/c/d.jsonl", b"{\"text\": \"z\"}\n"),
        ("d/c/e.md", b"\xff\xfeh\0i\0"),
        ("d/f.html", b"<html>"),
        ("d/g.empty", b""),
        ("d/h.pdf", b"%PDF-1.7 text"),
        ("d/i", b"PK\x03\x04"),
        ("d/j.txt", b"version https://git-lfs.github.com/spec/v1\n"),
        ("d/k.bin", b"\x7fELF\0"),
        ("d/l.txt", b"latin \xe9"),
        ("d/.hidden", b"hidden"),
        // An index, and the beginning of a job.
        ("d/m/index.json", b"{}"),
        ("d/m/passages.arrow", b""),
        ("d/n.partial/job.json", b"{}"),
        ("d/out.jsonl", b"{\"text\": \"an output\"}\n"),
    ] {
        written(at.path(), name, bytes);
    }
    let input = Input::of(at.path().join("d").to_str().expect("a path")).expect("a folder");
    let options = Options { leave_out: vec![at.path().join("d/out.jsonl")], ..Options::default() };
    let mut documents = input.read(&options).expect("documents");
    let mut found = Vec::new();
    while let Some((document, _)) = documents.next().expect("a document") {
        found.push(document.text);
    }
    assert_eq!(found, ["a text\nof two lines\n", "x", "y", "z", "hi", "<html>", ""]);
    assert_eq!(documents.left_out(), 5);
    // A column of tables that are not there, and a table whose texts nobody can know.
    written(at.path(), "e/a.txt", "x");
    let plain = Input::of(at.path().join("e").to_str().expect("a path")).expect("a folder");
    let error = plain.read(&named("body")).err().expect("no table").to_string();
    assert!(error.contains("has no columns: there is no JSON"), "{error}");
    written(at.path(), "e/package.json", "{\"name\": \"x\", \"version\": \"1\"}");
    let error = read(&plain, &Options::default()).expect_err("which?").to_string();
    assert!(error.contains("package.json: line 1: which field holds the text?"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_those_that_lead_nowhere_are_counted() {
    use std::os::unix::fs::symlink;
    let at = tempfile::tempdir().expect("a directory");
    written(at.path(), "elsewhere/a.txt", "linked folder");
    written(at.path(), "b.txt", "linked file");
    written(at.path(), "d/c/own.txt", "own");
    for (to, name) in [
        (at.path().join("elsewhere"), "d/1"),
        (at.path().join("b.txt"), "d/2.txt"),
        (at.path().join("nowhere"), "d/3"),
        (at.path().join("d"), "d/c/back"),
        ("4".into(), "d/4"),
    ] {
        symlink(to, at.path().join(name)).expect("a link");
    }
    let input = Input::of(at.path().join("d").to_str().expect("a path")).expect("a folder");
    let mut documents = input.documents(None).expect("documents");
    let mut found = Vec::new();
    while let Some((document, _)) = documents.next().expect("a document") {
        found.push(document.text);
    }
    assert_eq!(found, ["linked folder", "linked file", "own"]);
    assert_eq!(documents.broken_links(), 3);
}

#[test]
fn bad_documents_are_named() {
    let at = tempfile::tempdir().expect("a directory");
    let id = "{\"text\": \"x\", \"id\": \"y\"}\n{\"id\": \"z\"}\n";
    for (name, bytes, column, want) in [
        ("a.txt", &b"good\nbad \xff\n"[..], None, "a.txt: line 2: not UTF-8 at byte 4"),
        ("b.txt", b"good\rb\0d\n", None, "b.txt: line 2: a NUL at byte 1"),
        (
            "c.jsonl",
            b"{\"text\": \"x\"}\n\n{\"text\": 3}\n",
            None,
            "c.jsonl: line 3: field `text`: want a string, found the number 3",
        ),
        ("d.jsonl", b"{\"a\": \"x\", \"b\": \"y\", \"n\": 1}\n", None, "Name one with --column: a, b"),
        ("e.jsonl", b"{\"a\": \"x\"}\n", Some("z"), "there is no field `z`; there are a"),
        ("f.jsonl", b"nonsense\n", None, "line 1: not JSON"),
        ("g.parquet", b"PAR1", None, "not a Parquet file"),
        ("h.txt", b"x\n", Some("a"), "has no columns"),
        // One decision a file.
        (
            "i.jsonl",
            b"\"a text\"\n{\"text\": \"another\"}\n",
            None,
            "line 2: want a string, like the first value; found an object",
        ),
        ("j.jsonl", id.as_bytes(), None, "line 2: there is no field `text`; there are id"),
        ("k.jsonl", b"{\"id\": \"x\"}\n{\"id\": \"y\", \"text\": \"z\"}\n", None, "line 2: there is a field `text`"),
        ("l.jsonl", b"{\"id\": 1}\n", None, "line 1: no field holds strings; there are id"),
        ("m.json", b"[{\"text\": \"x\"}, {\"id\": 1}]", None, "line 1: there is no field `text`; there are id"),
        (
            "n.json",
            b"[{\"text\": \"x\"},\n {\"text\": \"x\"",
            None,
            "line 2: not JSON: the value that begins here does not end",
        ),
        ("o.json", b"[{\"text\": \"x\"}\n{\"text\": \"x\"}]", None, "line 2: not JSON: want `,` or `]`"),
        ("p.json", b"[\"x\"]\n\"y\"", None, "line 2: not JSON: unexpected data after the array"),
        ("q.json", b"[\"x\",]", None, "not JSON"),
        ("r.json", b"[\"x\"", None, "the array is not closed"),
        ("s.json", b"3", None, "line 1: want an object, found the number 3"),
        ("t.csv", b"id,text\n1,x\n2\n", None, "line 3: want 2 values, as in the header, found 1"),
        ("u.csv", b"id,text\n1,x\n2,\"y\n3,z\n", None, "line 3: a quoted value is not closed"),
        ("v.csv", b"id;text\n1;x\n", None, "there is one column, `id;text`: want commas"),
        ("w.csv", b"a,b\nx,y\n", None, "which column holds the text? Name one with --column: a, b"),
        ("x.csv", b"id,text\n1,x\n2,\xe9\n", None, "x.csv: line 3: column `text`: not UTF-8 at byte 0"),
        ("y.csv", b"text,text\nx,y\n", None, "there are two columns `text`"),
        ("z.txt", b"\xff\xfex\0\x3d\xd8", None, "not UTF-16, as its byte order mark says"),
        // What is no table and no text, by name or by first bytes.
        ("a.jsonl.bz2", b"BZh9", None, "is compressed: decompress it first"),
        ("a.parquet.gz", b"\x1f\x8b", None, "is compressed: decompress it first"),
        ("a.jsonl.gz", b"\x1f\x8b", None, "a.jsonl.gz"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfd\x00", None, "a.csv.zst"),
        ("b.xlsx", b"PK\x03\x04", None, "is a spreadsheet: export its table as .csv"),
        ("c.pdf", b"%PDF", None, "is a PDF: extract its text first"),
        ("d.docx", b"PK\x03\x04", None, "export its text first"),
        ("e.csv", b"PK\x03\x04", None, "is a zip archive"),
        ("f.txt", b"\x28\xb5\x2f\xfd", None, "is compressed with zstd"),
        ("g.jsonl", b"version https://git-lfs.github.com/spec/v1\n", None, "git lfs pull"),
        ("h.parquet", b"version https://git-lfs.github.com/spec/v1\n", None, "git lfs pull"),
        ("i.arrow", b"ARROW1", None, "is an Arrow file: write its table as .parquet"),
    ] {
        let options = Options { column: column.map(str::to_owned), ..Options::default() };
        let found = match read(&written(at.path(), name, bytes), &options) {
            Ok(documents) => format!("read: {documents:?}"),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(want), "{name}: {found}");
    }
    let input = written(at.path(), "j.jsonl", "{\"text\": \"x\", \"id\": 1}\n");
    let options = Options { fields: vec!["title".into()], ..Options::default() };
    let error = read(&input, &options).expect_err("no such field").to_string();
    assert!(error.contains("there is no field `title`; there are text, id"), "{error}");
    assert!(Input::of("/nowhere/at/all").expect_err("an error").to_string().contains("/nowhere/at/all"));
}
