//! Which column of a table holds the text.

/// The number of the column that holds the text: the one that was asked for, else `text`, else the only one that holds texts. `word` is what the format
/// calls a column.
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
        [] => Err(format!("no {word} holds a text; there are {}", list(names))),
        _ => {
            let names: Vec<&str> = texts.iter().map(|i| names[*i]).collect();
            Err(format!("which {word} holds the text? Name one with --column: {}", list(&names)))
        }
    }
}

/// The number of the column of a name.
pub(super) fn find(name: &str, names: &[&str], word: &str) -> Result<usize, String> {
    let mut found = names.iter().enumerate().filter(|(_, known)| **known == name);
    match (found.next(), found.next()) {
        (Some((i, _)), None) => Ok(i),
        (Some(_), Some(_)) => Err(format!("there are two {word}s `{name}`")),
        (None, _) => Err(missing(name, names.iter().copied(), word)),
    }
}

/// What is said where a column is not there.
pub(super) fn missing<'n>(name: &str, names: impl Iterator<Item = &'n str>, word: &str) -> String {
    let names: Vec<&str> = names.collect();
    format!("there is no {word} `{name}`; there are {}", list(&names))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
