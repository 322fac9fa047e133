//! Detection of document formats by file name and first bytes, and of unsupported files, so that errors can say what they are.

use std::path::Path;
use std::str::FromStr;

use serde_json::Value;

use super::source::Source;
use crate::Error;

/// A format of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text with one document per line.
    Lines,
    /// Text that is one document.
    Text,
    /// One JSON object or string per line.
    Jsonl,
    /// A JSON array of objects or strings, or a sequence of such values.
    Json,
    /// Comma-separated values with a header row, quoted with `"`.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// Parquet.
    Parquet,
}

impl Kind {
    /// All of them, by name.
    pub const ALL: [(&'static str, Kind); 7] = [
        ("lines", Kind::Lines),
        ("text", Kind::Text),
        ("jsonl", Kind::Jsonl),
        ("json", Kind::Json),
        ("csv", Kind::Csv),
        ("tsv", Kind::Tsv),
        ("parquet", Kind::Parquet),
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Whether its documents are rows with columns.
    pub fn is_table(self) -> bool {
        !matches!(self, Kind::Lines | Kind::Text)
    }

    /// The format by the extension of a file name; `None` if unknown, an error if it is known to be unsupported.
    pub fn of_name(path: &Path) -> Result<Option<Self>, String> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let what = match &extension[..] {
            "jsonl" | "ndjson" => return Ok(Some(Kind::Jsonl)),
            "json" => return Ok(Some(Kind::Json)),
            "csv" => return Ok(Some(Kind::Csv)),
            "tsv" => return Ok(Some(Kind::Tsv)),
            "parquet" => return Ok(Some(Kind::Parquet)),
            // Parquet is read from any place, so that it cannot be decompressed on the way; it is compressed inside.
            "gz" | "zst" => match path.file_stem().map(|inner| Self::of_name(Path::new(inner))) {
                Some(Ok(Some(kind))) if kind != Kind::Parquet => return Ok(Some(kind)),
                _ => COMPRESSED,
            },
            "tgz" | "bz2" | "xz" | "zip" | "tar" | "7z" | "rar" => COMPRESSED,
            "xlsx" | "xls" | "ods" => "a spreadsheet: export its table as .csv",
            "docx" | "doc" | "odt" | "rtf" | "pptx" | "ppt" | "epub" => "not plain text: export its text first",
            "pdf" => PDF,
            "arrow" | "feather" => ARROW,
            "npy" | "npz" | "pkl" | "pickle" => "not a table of texts: convert it to .jsonl, .csv or .parquet",
            _ => return Ok(None),
        };
        Err(format!("is {what}; .{extension} files are not supported (if it is plain text, set --format)"))
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| *kind).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("want {names}")
        })
    }
}

const COMPRESSED: &str = "compressed: decompress it first";
const PDF: &str = "a PDF: extract its text first (pdftotext)";
const ARROW: &str = "an Arrow file: write its table as .parquet";

/// Recognises an unsupported file by its first bytes and describes it, to complete the sentence "it is …".
pub(super) fn refused(head: &[u8]) -> Option<&'static str> {
    let known = [
        (&b"\x1f\x8b"[..], "compressed with gzip: decompress it first (gunzip)"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it first (unzstd)"),
        (b"\xfd7zXZ\0", "compressed with xz: decompress it first (unxz)"),
        (
            b"PK\x03\x04",
            "a zip archive, as .docx and .xlsx files are: extract it, or export its text (a table as .csv)",
        ),
        (b"7z\xbc\xaf\x27\x1c", COMPRESSED),
        (b"%PDF-", PDF),
        (b"\xd0\xcf\x11\xe0", "an older Office file, as .doc and .xls files are: export its text (a table as .csv)"),
        (b"{\\rtf", "rich text: export its text first"),
        (b"ARROW1\0\0", ARROW),
        (b"PAR1", "a Parquet file: give it a name that ends in .parquet"),
        (b"SQLite format 3\0", "a SQLite database: export its table as .csv"),
        (b"\x7fELF", "an executable"),
        (b"\x89PNG", "an image"),
        (b"\xff\xd8\xff", "an image"),
    ];
    if let Some((_, what)) = known.iter().find(|(start, _)| head.starts_with(start)) {
        return Some(what);
    }
    if head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY") {
        return Some("compressed with bzip2: decompress it first (bunzip2)");
    }
    // HTML and empty files count as text here.
    let markup = head.trim_ascii_start().first() == Some(&b'<') || head.starts_with(b"\xef\xbb\xbf<");
    if head.is_empty() || markup { None } else { longreach_models::recognise(head) }
}

/// The format of an unnamed source: JSON Lines if the first non-blank line is a JSON object, otherwise one document per line.
pub(super) fn of_first_line(source: &mut Source) -> Result<Kind, Error> {
    let first = source.first_line()?;
    let object = |line: &[u8]| {
        let value = longreach_models::json::parse(std::str::from_utf8(line).ok()?, NULL).ok()?;
        matches!(value, Value::Object(_)).then_some(())
    };
    Ok(if first.is_some_and(|line| object(line).is_some()) { Kind::Jsonl } else { Kind::Lines })
}

/// Reads `NaN` and `Infinity`, which Python writes to JSON, as null.
pub(super) const NULL: longreach_models::json::NotNumbers = longreach_models::json::NotNumbers::Null;
