//! The training text: pages from files, converted from HTML, deduplicated, and split into training and held-out pages.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use scraper::{ElementRef, Html, Node, Selector};

use crate::{Data, Error, Source};

/// A page of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The file it is from.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Training and held-out pages.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Pages to train on.
    pub train: Vec<Page>,
    /// Pages to evaluate on.
    pub held_out: Vec<Page>,
}

impl Corpus {
    /// Reads all sources in order of file name. Blocks of text that occurred on an earlier page are dropped, so that held-out text does not occur verbatim in
    /// the training text. An error if a file cannot be read or there is no text.
    pub fn read(data: &Data) -> Result<Self, Error> {
        let mut corpus = Corpus::default();
        let mut seen = HashSet::new();
        for source in &data.sources {
            let text = Selection {
                select: selector("select", &source.select)?,
                drop: source.drop.as_deref().map(|drop| selector("drop", drop)).transpose()?,
            };
            for file in files(source)? {
                let raw = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
                let raw = String::from_utf8_lossy(&raw);
                let blocks = match file.extension().and_then(|e| e.to_str()) {
                    Some("html") => text.strip(&raw),
                    _ => raw.split("\n\n").map(|b| b.trim_end().to_owned()).collect(),
                };
                let fresh: Vec<String> = blocks
                    .into_iter()
                    .filter(|b| !b.trim().is_empty())
                    .filter(|b| b.len() < 40 || seen.insert(hash(b)))
                    .collect();
                let text = fresh.join("\n\n");
                if text.len() < 200 {
                    continue;
                }
                let name = file.strip_prefix(&source.path).unwrap_or(&file).display().to_string();
                let chosen = (hash(&name) % 10_000) as f64 / 10_000.0 < data.held_out.part();
                let list = if chosen { &mut corpus.held_out } else { &mut corpus.train };
                list.push(Page { name, text: text + "\n" });
            }
        }
        if corpus.train.is_empty() {
            return Err(Error::Text("the sources have no text".into()));
        }
        Ok(corpus)
    }
}

/// A hash that is the same on every platform.
fn hash(text: &str) -> u64 {
    let digest = blake3::hash(text.as_bytes());
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

/// The files of a source, sorted by path.
fn files(source: &Source) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(&source.path)];
    while let Some(path) = open.pop() {
        let inside = path.strip_prefix(&source.path).unwrap_or(&path).display().to_string();
        if source.exclude.iter().any(|part| inside.contains(part.as_str())) {
            continue;
        }
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(|e| Error::io(&path, e))? {
                open.push(entry.map_err(|e| Error::io(&path, e))?.path());
            }
        } else if path == Path::new(&source.path)
            || matches!(path.extension().and_then(|e| e.to_str()), Some("html" | "md" | "txt"))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn selector(field: &str, text: &str) -> Result<Selector, Error> {
    Selector::parse(text).map_err(|e| Error::Text(format!("`{field}` {text:?} is not a CSS selector: {e}")))
}

/// The selectors for the text of an HTML page.
struct Selection {
    select: Selector,
    drop: Option<Selector>,
}

impl Selection {
    /// Extracts the blocks of text of the selected elements: paragraphs, headings, list items, code.
    fn strip(&self, html: &str) -> Vec<String> {
        let page = Html::parse_document(html);
        let mut blocks = Vec::new();
        for element in page.select(&self.select) {
            // Skip elements inside another selected element, which includes their text.
            if element.ancestors().filter_map(ElementRef::wrap).any(|a| self.select.matches(&a)) {
                continue;
            }
            let mut walk = Walk { drop: self.drop.as_ref(), blocks: Vec::new(), line: String::new() };
            walk.element(element, false);
            walk.end();
            blocks.append(&mut walk.blocks);
        }
        blocks
    }
}

struct Walk<'a> {
    drop: Option<&'a Selector>,
    blocks: Vec<String>,
    line: String,
}

impl Walk<'_> {
    fn end(&mut self) {
        let block = std::mem::take(&mut self.line);
        let block = block.trim_matches('\n').trim_end();
        if !block.trim().is_empty() {
            self.blocks.push(block.to_owned());
        }
    }

    fn element(&mut self, element: ElementRef<'_>, preformatted: bool) {
        let name = element.value().name();
        if matches!(name, "script" | "style" | "nav" | "svg" | "button" | "noscript" | "template")
            || self.drop.is_some_and(|drop| drop.matches(&element))
        {
            return;
        }
        // Skip permalinks, line numbers, playground controls and hidden lines.
        if element
            .value()
            .classes()
            .any(|c| matches!(c, "header-link" | "doc-anchor" | "anchor" | "buttons" | "boring" | "src" | "tooltip"))
        {
            return;
        }
        let block = matches!(
            name,
            "p" | "h1"
                | "h2"
                | "h3"
                | "h4"
                | "h5"
                | "h6"
                | "li"
                | "ul"
                | "ol"
                | "pre"
                | "div"
                | "table"
                | "tr"
                | "blockquote"
                | "section"
                | "article"
                | "main"
                | "details"
                | "summary"
                | "dl"
                | "dt"
                | "dd"
        );
        if block {
            self.end();
        }
        match name {
            "h1" | "h2" | "h3" | "h4" => {
                let level = name[1..].parse().unwrap_or(1);
                self.line.push_str(&"#".repeat(level));
                self.line.push(' ');
            }
            "li" => self.line.push_str("- "),
            "td" | "th" if !self.line.is_empty() => self.line.push_str(" | "),
            "br" => self.line.push('\n'),
            _ => {}
        }
        let code = name == "code" && !preformatted;
        if code {
            self.line.push('`');
        }
        let fenced = name == "pre";
        if fenced {
            self.line.push_str("```\n");
        }
        for child in element.children() {
            match child.value() {
                Node::Text(text) if preformatted || fenced => self.line.push_str(text),
                Node::Text(text) => self.words(text),
                Node::Element(_) => {
                    if let Some(child) = ElementRef::wrap(child) {
                        self.element(child, preformatted || fenced);
                    }
                }
                _ => {}
            }
        }
        if code {
            self.line.push('`');
        }
        if fenced {
            while self.line.ends_with('\n') {
                self.line.pop();
            }
            self.line.push_str("\n```");
        }
        if block {
            self.end();
        }
    }

    /// Text outside `pre`: runs of white space are one space.
    fn words(&mut self, text: &str) {
        for (i, word) in text.split(char::is_whitespace).enumerate() {
            if i > 0 && !self.line.is_empty() && !self.line.ends_with([' ', '\n']) {
                self.line.push(' ');
            }
            self.line.push_str(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_becomes_text() {
        let html = "<html><body><nav>menu</nav><main><h2 id=x>Title <a class=anchor>§</a></h2>\
            <p>Some  <em>plain</em>\n text with <code>code</code>.</p><ul><li>one<li>two</ul>\
            <pre><code>fn main() {\n    x;\n}\n</code></pre><script>no</script></main><p>outside</body></html>";
        let main = |drop: Option<&str>| Selection {
            select: selector("select", "main").expect("a selector"),
            drop: drop.map(|drop| selector("drop", drop).expect("a selector")),
        };
        let prose = ["## Title", "Some plain text with `code`.", "- one", "- two"];
        assert_eq!(main(None).strip(html), [&prose[..], &["```\nfn main() {\n    x;\n}\n```"]].concat());
        assert_eq!(main(Some("pre, .none")).strip(html), prose);
    }
}
