//! JSON as read and written by Python's `json` module, a superset of JSON: `NaN`, `Infinity` and `-Infinity` are
//! literals, numbers may exceed the range of an f64, which makes them infinite, and strings may contain unpaired
//! surrogates.

use std::borrow::Cow;

use serde_json::Value;

/// The replacement of `NaN`, `Infinity` and `-Infinity`, which JSON does not have, and of numbers that exceed the
/// range of an f64, which Python reads as `Infinity` or `-Infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNumbers {
    /// They become `null`.
    Null,
    /// They become strings.
    Text,
}

/// Parses a JSON text that Python may have written.
///
/// An unpaired surrogate in a string becomes U+FFFD, as in UTF-16 decoders; a leading byte order mark is skipped.
/// Errors are those of [`serde_json`]. O(n) time; plain JSON is parsed once and not copied.
pub fn parse(text: &str, not_numbers: NotNumbers) -> Result<Value, serde_json::Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).or_else(|e| match standard(text, not_numbers) {
        Cow::Borrowed(_) => Err(e),
        Cow::Owned(text) => serde_json::from_str(&text),
    })
}

/// Replaces everything that Python writes and JSON does not have.
fn standard(text: &str, not_numbers: NotNumbers) -> Cow<'_, str> {
    let mut out = String::new();
    // How much has been copied to `out`, and the position of the scan.
    let (mut copied, mut at) = (0, 0);
    let mut in_string = false;
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let (length, replacement) = match bytes[at] {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => escape(&bytes[at..]),
            b'-' | b'I' | b'N' | b'0'..=b'9' if !in_string => {
                let (length, word) = not_a_number(&text[at..]);
                let replacement = word.map(|word| match not_numbers {
                    NotNumbers::Null => "null".to_owned(),
                    NotNumbers::Text => format!("\"{word}\""),
                });
                (length, replacement)
            }
            _ => (1, None),
        };
        if let Some(replacement) = replacement {
            out.push_str(&text[copied..at]);
            out.push_str(&replacement);
            copied = at + length;
        }
        at += length;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// The length of the number or literal at the start of `text`, and its name if it has no f64 value.
fn not_a_number(text: &str) -> (usize, Option<&'static str>) {
    if let Some(word) = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| text.starts_with(word)) {
        return (word.len(), Some(word));
    }
    let number = |b: &u8| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let length = text.bytes().take_while(number).count().max(1);
    match text[..length].parse::<f64>() {
        Ok(f64::INFINITY) => (length, Some("Infinity")),
        Ok(f64::NEG_INFINITY) => (length, Some("-Infinity")),
        _ => (length, None),
    }
}

/// The length of an escape sequence, and its replacement if it is an unpaired surrogate.
fn escape(bytes: &[u8]) -> (usize, Option<String>) {
    let unit = |bytes: &[u8]| {
        let digits = bytes.strip_prefix(b"\\u")?.get(..4).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match unit(bytes) {
        Some(0xd800..=0xdbff) => match bytes.get(6..).and_then(unit) {
            Some(0xdc00..=0xdfff) => (12, None),
            _ => (6, Some("\\ufffd".to_owned())),
        },
        Some(0xdc00..=0xdfff) => (6, Some("\\ufffd".to_owned())),
        Some(_) => (6, None),
        // A backslash and the byte after it. A longer character after it is no valid escape, and the scan continues
        // within it.
        None => (2.min(bytes.len()), None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        let text = r#"{"a": NaN, "b": [-Infinity, Infinity], "c": "NaN \ud83d", "d": "\ud83d\ude00 \\ud83d \udc00x", "e": -1}"#;
        let want = json!({"a": null, "b": [null, null], "c": "NaN \u{fffd}", "d": "😀 \\ud83d \u{fffd}x", "e": -1});
        assert_eq!(parse(text, NotNumbers::Null).expect("Python writes this"), want);
        let quoted = parse("[NaN, -Infinity]", NotNumbers::Text).expect("Python writes this");
        assert_eq!(quoted, json!(["NaN", "-Infinity"]));
        assert_eq!(parse("\u{feff}1", NotNumbers::Null).expect("a mark and a number"), json!(1));
    }

    #[test]
    fn numbers_too_large_for_an_f64_are_infinite() {
        let text = r#"{"a": 1e999, "b": [-1E+400,2.5e-3, 1e-999], "c": "1e999", "d": 12}"#;
        let want = json!({"a": null, "b": [null, 2.5e-3, 0.0], "c": "1e999", "d": 12});
        assert_eq!(parse(text, NotNumbers::Null).expect("Python reads this"), want);
        let digits = "9".repeat(400);
        let quoted = parse(&format!("[{digits}, -{digits}]"), NotNumbers::Text).expect("Python reads this");
        assert_eq!(quoted, json!(["Infinity", "-Infinity"]));
    }

    #[test]
    fn what_is_no_json_stays_an_error() {
        for text in
            ["", "{", "[Inf]", "nan", r#"{"a": "\ud8"}"#, r#"{"a": "\"#, "[NaN", "\\u", "1e999e", "-", "--1", "[1e999"]
        {
            assert!(parse(text, NotNumbers::Null).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn plain_json_means_the_same(key in ".*", text in ".*", number: i64) {
            let value = json!({ key: [text, number] });
            let mut written = value.to_string();
            prop_assert_eq!(&parse(&written, NotNumbers::Null).expect("JSON"), &value);
            // The slow path does not change plain JSON.
            prop_assert_eq!(&standard(&written, NotNumbers::Null), &written);
            written.push_str("NaN");
            prop_assert!(parse(&written, NotNumbers::Null).is_err());
        }

        #[test]
        fn no_text_panics(text in r#"(\\|u|d8|"|NaN|-Infinity|é|[{}\[\]:,]|.)*"#) {
            let _ = parse(&text, NotNumbers::Text);
        }
    }
}
