//! Sentences, and pieces of a text that end at the borders of chapters, paragraphs or sentences.

use std::ops::Range;

/// What begins with a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Begins {
    /// The sentence alone.
    Sentence,
    /// A paragraph: behind a blank line, or an item of a list.
    Paragraph,
    /// A chapter: a heading of Markdown, or a line such as "CHAPTER IV".
    Chapter,
}

/// A sentence of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Its bytes, without white space around it.
    pub bytes: Range<usize>,
    /// What begins with it.
    pub begins: Begins,
}

/// Abbreviations that a full stop does not end a sentence after, in lower case. Single letters count as initials.
const ABBREVIATIONS: [&str; 29] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "cf", "fig", "figs", "eq", "eqs", "sec", "vol", "pp",
    "al", "approx", "dept", "est", "inc", "ltd", "e.g", "i.e", "z.b", "bzw", "ca", "gen",
];

/// The sentences of a text. A sentence ends at `.`, `!`, `?` or their like, with closing quotes and brackets, before white space and a character that is not a
/// lower-case letter; no abbreviation of a short list ends one. A blank line always does, and so does the line of a heading or an item of a list.
pub fn sentences(text: &str) -> Vec<Sentence> {
    let mut all = Vec::new();
    for (paragraph, begins) in paragraphs(text) {
        let mut begins = begins;
        let mut start = paragraph.start;
        for end in ends(&text[paragraph.clone()]).map(|end| paragraph.start + end).chain([paragraph.end]) {
            let bytes = trimmed(text, start..end);
            if !bytes.is_empty() {
                all.push(Sentence { bytes, begins });
                begins = Begins::Sentence;
            }
            start = end;
        }
    }
    all
}

/// The paragraphs of a text and what begins with them.
fn paragraphs(text: &str) -> Vec<(Range<usize>, Begins)> {
    let mut all: Vec<(Range<usize>, Begins)> = Vec::new();
    let (mut at, mut open) = (0, false);
    for line in text.split_inclusive('\n') {
        let bytes = at..at + line.len();
        at = bytes.end;
        let said = line.trim();
        if said.is_empty() {
            open = false;
        } else if is_heading(said) {
            all.push((bytes, Begins::Chapter));
            open = false;
        } else if let Some((last, _)) = all.last_mut().filter(|_| open && !is_item(said)) {
            last.end = bytes.end;
        } else {
            all.push((bytes, Begins::Paragraph));
            open = true;
        }
    }
    all
}

/// Whether a line is the heading of a chapter.
fn is_heading(line: &str) -> bool {
    let rest = line.trim_start_matches('#');
    if rest.len() < line.len() && line.len() - rest.len() <= 6 {
        return rest.starts_with(' ');
    }
    let mut words = line.split(|c: char| c.is_whitespace() || c == '.' || c == ':').filter(|word| !word.is_empty());
    let named = words.next().is_some_and(|word| {
        let word = word.to_lowercase();
        ["chapter", "part", "book", "act", "scene", "kapitel", "chapitre", "capítulo", "глава"].contains(&&word[..])
    });
    let numbered = words
        .next()
        .is_some_and(|word| word.chars().all(|c| c.is_ascii_digit()) || word.chars().all(|c| "IVXLCDM".contains(c)));
    named && numbered && line.len() < 100
}

/// Whether a line is an item of a list or a row of a table.
fn is_item(line: &str) -> bool {
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = digits.len() < line.len() && (digits.starts_with(". ") || digits.starts_with(") "));
    numbered || ["- ", "* ", "+ ", "• ", "|", "```"].iter().any(|mark| line.starts_with(mark))
}

/// Where the sentences of a paragraph end, but for the last.
fn ends(text: &str) -> impl Iterator<Item = usize> + '_ {
    let mut chars = text.char_indices().peekable();
    std::iter::from_fn(move || {
        while let Some((at, c)) = chars.next() {
            let wide = matches!(c, '。' | '！' | '？');
            if !wide && !matches!(c, '.' | '!' | '?' | '…') {
                continue;
            }
            let mut end = at + c.len_utf8();
            while let Some((at, c)) = chars.next_if(|(_, c)| ".!?…。！？)]}\"'”’»›".contains(*c)) {
                end = at + c.len_utf8();
            }
            let rest = &text[end..];
            let next = rest.trim_start();
            let spaced = wide || next.len() < rest.len();
            let open = next.chars().next().is_none_or(char::is_lowercase);
            if spaced && !open && !(c == '.' && is_abbreviated(&text[..at])) {
                return Some(end);
            }
        }
        None
    })
}

/// Whether the last word of `text`, behind which there is a full stop, is an abbreviation or an initial.
fn is_abbreviated(text: &str) -> bool {
    let word = text.rsplit(|c: char| c.is_whitespace() || "([\"'“‘«".contains(c)).next().unwrap_or_default();
    let mut letters = word.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => letter.is_uppercase() && letter != 'I',
        _ => ABBREVIATIONS.contains(&&word.to_lowercase()[..]),
    }
}

fn trimmed(text: &str, bytes: Range<usize>) -> Range<usize> {
    let part = &text[bytes.clone()];
    let start = bytes.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

/// Divides a text into pieces of a `size` of at most `most`, at the strongest border in the second half of each piece: that of a chapter, a paragraph, a
/// sentence, or within a long sentence at a space. A character that exceeds `most` is a piece of its own. Pieces begin and end without white space, and cover
/// all else.
///
/// The size of a piece is taken to be the sum of those of its sentences with the white space behind them, as numbers of tokens nearly are.
pub fn pieces(text: &str, most: usize, mut size: impl FnMut(&str) -> usize) -> Vec<Range<usize>> {
    let sentences = sentences(text);
    let mut units: Vec<(Sentence, usize)> = Vec::new();
    for (i, sentence) in sentences.iter().enumerate() {
        let next = sentences.get(i + 1).map_or(text.len(), |next| next.bytes.start);
        let n = size(&text[sentence.bytes.start..next]);
        if n <= most {
            units.push((sentence.clone(), n));
        } else {
            let first = units.len();
            halves(text, sentence.bytes.clone(), most, &mut size, &mut units);
            if let Some((unit, _)) = units.get_mut(first) {
                unit.begins = sentence.begins;
            }
        }
    }
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < units.len() {
        let (mut sum, mut cut) = (units[from].1, from + 1);
        let mut best = None;
        while let Some((unit, n)) = units.get(cut) {
            if sum >= most / 2 && best.is_none_or(|(_, begins)| unit.begins >= begins) {
                best = Some((cut, unit.begins));
            }
            if sum + n > most {
                cut = best.map_or(cut, |(cut, _)| cut);
                break;
            }
            sum += n;
            cut += 1;
        }
        pieces.push(units[from].0.bytes.start..units[cut - 1].0.bytes.end);
        from = cut;
    }
    pieces
}

/// Divides a long sentence in halves, at the space or character next to the middle, until the parts fit.
fn halves(
    text: &str,
    bytes: Range<usize>,
    most: usize,
    size: &mut impl FnMut(&str) -> usize,
    to: &mut Vec<(Sentence, usize)>,
) {
    let bytes = trimmed(text, bytes);
    let part = &text[bytes.clone()];
    let n = size(part);
    if n <= most || part.chars().nth(1).is_none() {
        if !bytes.is_empty() {
            to.push((Sentence { bytes, begins: Begins::Sentence }, n));
        }
        return;
    }
    let middle = part.len() / 2;
    let away = |at: usize| at.abs_diff(middle);
    let space = part.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| at).min_by_key(|at| away(*at));
    let inside = part.char_indices().map(|(at, _)| at).filter(|at| *at > 0).min_by_key(|at| away(*at));
    let cut = bytes.start + space.or(inside).unwrap_or(part.len());
    halves(text, bytes.start..cut, most, size, to);
    halves(text, cut..bytes.end, most, size, to);
}

/// The lines of a text, by the byte that they begin with.
#[derive(Clone, Debug)]
pub struct Lines(Vec<usize>);

impl Lines {
    /// The lines of `text`, which end with `\n`, `\r\n` or `\r`.
    pub fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let ends = |at: &usize| bytes[*at] == b'\n' || (bytes[*at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'));
        Self((0..bytes.len()).filter(ends).map(|at| at + 1).collect())
    }

    /// The first and the last line of a range of bytes, counted from 1.
    pub fn range(&self, bytes: &Range<usize>) -> (usize, usize) {
        let line = |at: usize| self.0.partition_point(|start| *start <= at) + 1;
        (line(bytes.start), line(bytes.end.saturating_sub(1).max(bytes.start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|sentence| &text[sentence.bytes]).collect()
    }

    #[test]
    fn sentences_end_where_readers_see_it() {
        for (text, want) in [
            ("One. Two! Three? Four", &["One.", "Two!", "Three?", "Four"][..]),
            ("He said “Go.” She went.", &["He said “Go.”", "She went."]),
            (
                "Dr. Moreau met J. R. Smith, e.g. twice. Then not.",
                &["Dr. Moreau met J. R. Smith, e.g. twice.", "Then not."],
            ),
            ("It is 3.14 here… or not. Yes.", &["It is 3.14 here… or not.", "Yes."]),
            (
                "Wrapped\nlines are\none sentence. And\nanother.",
                &["Wrapped\nlines are\none sentence.", "And\nanother."],
            ),
            ("No end\n\nstill two", &["No end", "still two"]),
            ("# Title\nText here.\n- an item\n- another", &["# Title", "Text here.", "- an item", "- another"]),
            ("これは文です。次の文！終わり", &["これは文です。", "次の文！", "終わり"]),
            (" \n\t\r\n ", &[]),
        ] {
            assert_eq!(said(text), want, "{text}");
        }
    }

    #[test]
    fn chapters_and_paragraphs_begin_at_their_sentences() {
        let text = "Preface text. More.\n\nCHAPTER IV. The boat\n\nIt sank. Slowly.\nChapter and verse were known.";
        let begins: Vec<Begins> = sentences(text).iter().map(|s| s.begins).collect();
        use Begins::{Chapter, Paragraph, Sentence};
        assert_eq!(begins, [Paragraph, Sentence, Chapter, Sentence, Paragraph, Sentence, Sentence]);
    }

    #[test]
    fn pieces_fit_and_cover_the_text_and_end_at_the_strongest_border() {
        let text = format!("{}\n\n# B\n{}", "One two three. ".repeat(9), "Four five six seven. ".repeat(30));
        for most in [1, 3, 20, 100, 1000] {
            let pieces = pieces(&text, most, |part| part.split_whitespace().count());
            let all: Vec<&str> = pieces.iter().flat_map(|piece| text[piece.clone()].split_whitespace()).collect();
            assert_eq!(all, text.split_whitespace().collect::<Vec<_>>(), "{most}");
            assert!(pieces.iter().all(|piece| text[piece.clone()].split_whitespace().count() <= most), "{most}");
        }
        // The heading is the strongest border of the first forty words.
        assert!(text[pieces(&text, 40, |part| part.split_whitespace().count())[1].clone()].starts_with("# B"));
        // A word longer than a piece is cut within.
        let long = "ü".repeat(100);
        let cut = pieces(&long, 30, str::len);
        assert!(cut.len() >= 7 && cut.iter().all(|piece| piece.len() <= 30), "{cut:?}");
    }

    #[test]
    fn lines_count_every_line_ending_once() {
        let text = "a\r\nb\rc\nd";
        let lines = Lines::of(text);
        assert_eq!(
            ["a", "b", "c", "d"].map(|c| text.find(c).expect("a letter")).map(|at| lines.range(&(at..at + 1)).0),
            [1, 2, 3, 4]
        );
        assert_eq!(lines.range(&(0..text.len())), (1, 4));
    }
}
