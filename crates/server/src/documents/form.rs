//! Forms with files, as clients upload them: `multipart/form-data` (RFC 7578).

use crate::refusal::Refusal;

/// A field of a form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) name: String,
    pub(crate) filename: Option<String>,
    pub(crate) bytes: &'a [u8],
}

fn bad(message: &str) -> Refusal {
    Refusal::new(hyper::StatusCode::BAD_REQUEST, "invalid_value", format!("the form: {message}"))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len().max(1)).position(|window| window == what)
}

/// The boundary in the content type of a form.
pub(crate) fn boundary(kind: &str) -> Option<String> {
    let mut parts = kind.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then(|| value.trim_matches('"').to_owned())
    })?;
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// The fields of a form.
pub(crate) fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, Refusal> {
    let delimiter = format!("--{boundary}");
    let mut rest = body.strip_prefix(delimiter.as_bytes()).ok_or_else(|| bad("it does not begin with its boundary"))?;
    let between = format!("\r\n{delimiter}");
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n").ok_or_else(|| bad("a line ends behind no boundary"))?;
        let length = find(rest, between.as_bytes()).ok_or_else(|| bad("its last boundary is missing"))?;
        let (part, behind) = (&rest[..length], &rest[length + between.len()..]);
        rest = behind;
        let head = find(part, b"\r\n\r\n").ok_or_else(|| bad("a field has no end of its header"))?;
        let header = std::str::from_utf8(&part[..head]).map_err(|_| bad("a header is not UTF-8"))?;
        let disposition = header.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-disposition").then_some(value)
        });
        let disposition = disposition.ok_or_else(|| bad("a field has no Content-Disposition"))?;
        let name = parameter(disposition, "name").ok_or_else(|| bad("a field has no name"))?;
        parts.push(Part { name, filename: parameter(disposition, "filename"), bytes: &part[head + 4..] });
        if parts.len() > 64 {
            return Err(bad("more than 64 fields"));
        }
    }
    Ok(parts)
}

/// A parameter of a header, such as `name="file"`.
fn parameter(header: &str, name: &str) -> Option<String> {
    let mut rest = header;
    while let Some((_, behind)) = rest.split_once(';') {
        let (found, value) = behind.split_once('=')?;
        let (value, more) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_at(value.find(';').unwrap_or(value.len())),
        };
        if found.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = more;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_its_fields() {
        let body = b"--x y\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n--x y\r\n\
            content-disposition: form-data; filename=\"a; b.txt\"; name=\"file\"\r\nContent-Type: text/plain\r\n\r\nline\r\n\r\n--x\r\n\r\n--x y--\r\n";
        let kind = "multipart/form-data; charset=utf-8; boundary=\"x y\"";
        let parts = parts(body, &boundary(kind).expect("a boundary")).expect("a form");
        let part = |name: &str, filename: Option<&str>, bytes| Part {
            name: name.into(),
            filename: filename.map(str::to_owned),
            bytes,
        };
        assert_eq!(
            parts,
            [part("purpose", None, b"assistants" as &[u8]), part("file", Some("a; b.txt"), b"line\r\n\r\n--x\r\n")]
        );
    }

    #[test]
    fn what_is_no_form_is_refused() {
        assert_eq!(boundary("application/json"), None);
        assert_eq!(boundary("multipart/form-data"), None);
        for body in
            [&b""[..], b"--x", b"--x\r\n", b"--x\r\n\r\n\r\n--x--", b"--x\r\nA: b\r\n\r\n\r\n--x--", b"--xx", b"y--x--"]
        {
            assert!(parts(body, "x").is_err(), "{body:?}");
        }
        let body = b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--x--";
        for cut in 0..body.len() - 2 {
            assert!(parts(&body[..cut], "x").is_err(), "{cut}");
        }
    }
}
