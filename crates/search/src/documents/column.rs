//! Choice of the column that holds the text.

/// The index of the column that holds the text: the requested one, else `text`, else the only column of strings. `word` is what the format calls a column.
pub(super) fn choose(asked: Option<&str>, names: &[&str], texts: &[bool], word: &str) -> Result<usize, String> {
    if let Some(name) = asked {
        return find(name, names, word);
    }
    if names.contains(&"text") {
        return find("text", names, word);
    }
    let texts: Vec<usize> = (0..names.len()).filter(|i| texts[*i]).collect();
    match texts[..] {
        [one] => Ok(one),
        [] => Err(format!("no {word} holds strings; there are {}", list(names))),
        _ => {
            let names: Vec<&str> = texts.iter().map(|i| names[*i]).collect();
            Err(format!("which {word} holds the text? Name one with --column: {}", list(&names)))
        }
    }
}

/// The index of the column with a name.
pub(super) fn find(name: &str, names: &[&str], word: &str) -> Result<usize, String> {
    let mut found = names.iter().enumerate().filter(|(_, known)| **known == name);
    match (found.next(), found.next()) {
        (Some((i, _)), None) => Ok(i),
        (Some(_), Some(_)) => Err(format!("there are two {word}s `{name}`")),
        (None, _) => Err(missing(name, names.iter().copied(), word)),
    }
}

/// The message for a missing column.
pub(super) fn missing<'n>(name: &str, names: impl Iterator<Item = &'n str>, word: &str) -> String {
    let names: Vec<&str> = names.collect();
    format!("there is no {word} `{name}`; there are {}", list(&names))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
