//! RWKV's World tokenizer: a vocabulary of byte strings with greedy longest-match segmentation.
//!
//! Each line of its file is `id literal length`: the token as a Python literal, `str` or `bytes`, and its length in bytes.

use std::collections::{BTreeMap, HashMap};

/// Longest supported token, in bytes.
const LONGEST: usize = 1024;

/// A vocabulary and the trie of its tokens.
pub(crate) struct World {
    tokens: HashMap<u32, Vec<u8>>,
    /// The child of a node by a byte; the root is node 0.
    children: HashMap<(u32, u8), u32>,
    /// The token that ends at a node.
    ends: Vec<Option<u32>>,
    /// Added tokens, matched verbatim anywhere in a text, with their ids and whether decoding shows them.
    added: BTreeMap<String, (u32, bool)>,
    longest: usize,
}

impl World {
    /// Parses a vocabulary file; the error names the line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut world = Self::empty();
        for (i, line) in text.split('\n').map(|line| line.trim_end_matches('\r')).enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let (id, token) = entry(line).map_err(|message| format!("line {}: {message}", i + 1))?;
            world.insert(id, token);
        }
        if world.tokens.is_empty() { Err("has no tokens".into()) } else { Ok(world) }
    }

    /// A vocabulary of tokens by id; empty ones are none. Those of `control` are matched verbatim, and not shown.
    pub(crate) fn of(tokens: Vec<Vec<u8>>, control: &[u32]) -> Self {
        let mut world = Self::empty();
        for (id, token) in (0u32..).zip(tokens) {
            match String::from_utf8(token) {
                Ok(token) if control.contains(&id) => world.add(token, id, false),
                Ok(token) if token.is_empty() => {}
                Ok(token) => world.insert(id, token.into_bytes()),
                Err(bytes) => world.insert(id, bytes.into_bytes()),
            }
        }
        world
    }

    fn empty() -> Self {
        Self { tokens: HashMap::new(), children: HashMap::new(), ends: vec![None], added: BTreeMap::new(), longest: 0 }
    }

    fn insert(&mut self, id: u32, token: Vec<u8>) {
        let mut node = 0;
        for byte in &token {
            let next = self.ends.len() as u32;
            node = *self.children.entry((node, *byte)).or_insert(next);
            if node == next {
                self.ends.push(None);
            }
        }
        self.ends[node as usize] = Some(id);
        self.longest = self.longest.max(token.len());
        self.tokens.insert(id, token);
    }

    /// Adds a token that is matched verbatim; `shown` is false for special tokens.
    pub(crate) fn add(&mut self, token: String, id: u32, shown: bool) {
        if token.is_empty() {
            return;
        }
        self.longest = self.longest.max(token.len());
        self.added.insert(token, (id, shown));
    }

    /// The bytes of a token.
    pub(crate) fn token(&self, id: u32) -> Option<&[u8]> {
        let added = self.added.iter().find(|(_, (added, _))| *added == id).map(|(token, _)| token.as_bytes());
        added.or_else(|| self.tokens.get(&id).map(Vec::as_slice))
    }

    /// The bytes of a token that is not special.
    pub(crate) fn shown(&self, id: u32) -> Option<&[u8]> {
        if self.added.values().any(|(added, shown)| *added == id && !shown) { None } else { self.token(id) }
    }

    /// Encodes a text; an error if no token matches a byte.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        self.walk(text, |id, _| ids.push(id))?;
        Ok(ids)
    }

    /// Encodes the prefix of an unfinished text whose tokens no later text can change; returns its tokens and its length in bytes. `None` if that prefix is
    /// empty or does not end at a character boundary.
    pub(crate) fn settled(&self, text: &str) -> Result<Option<(Vec<u32>, usize)>, String> {
        let mut ids = Vec::new();
        let mut settled = None;
        self.walk(text, |id, end| {
            ids.push(id);
            // The longest possible token at `end` lies within the text, so later text cannot change the match there.
            if end + self.longest <= text.len() && text.is_char_boundary(end) {
                settled = Some((ids.len(), end));
            }
        })?;
        Ok(settled.map(|(n, end)| {
            ids.truncate(n);
            (ids, end)
        }))
    }

    /// Calls `meet` with each token of a text and its end offset.
    fn walk(&self, text: &str, mut meet: impl FnMut(u32, usize)) -> Result<(), String> {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            // Ordinary tokens do not extend into added tokens.
            let (until, added) = self.next_added(text, at);
            while at < until {
                let (id, end) = self
                    .longest_token(&bytes[..until], at)
                    .ok_or_else(|| format!("has no token for byte {:#04x}, byte {at} of the text", bytes[at]))?;
                meet(id, end);
                at = end;
            }
            if let Some((id, end)) = added {
                meet(id, end);
                at = end;
            }
        }
        Ok(())
    }

    /// The start of the next added token at or after `at`, with its id and end; the longest if several start there.
    fn next_added(&self, text: &str, at: usize) -> (usize, Option<(u32, usize)>) {
        let mut found: Option<(usize, usize, u32)> = None;
        for (token, (id, _)) in &self.added {
            // No added token starts inside a character.
            let from = (at..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
            let Some(start) = text[from..].find(token.as_str()).map(|i| i + from) else { continue };
            let better =
                found.is_none_or(|(s, length, _)| (start, usize::MAX - token.len()) < (s, usize::MAX - length));
            if better {
                found = Some((start, token.len(), *id));
            }
        }
        found.map_or((text.len(), None), |(start, length, id)| (start, Some((id, start + length))))
    }

    fn longest_token(&self, bytes: &[u8], at: usize) -> Option<(u32, usize)> {
        let (mut node, mut found) = (0, None);
        for (i, byte) in bytes[at..].iter().enumerate() {
            let Some(next) = self.children.get(&(node, *byte)) else { break };
            node = *next;
            if let Some(id) = self.ends[node as usize] {
                found = Some((id, at + i + 1));
            }
        }
        found
    }
}

/// Parses a line into id and token.
fn entry(line: &str) -> Result<(u32, Vec<u8>), String> {
    let (id, rest) = line.split_once(' ').ok_or("want `id literal length`")?;
    let (literal, length) = rest.rsplit_once(' ').ok_or("want `id literal length`")?;
    let id = id.parse().map_err(|_| format!("`{id}` is not a token id"))?;
    let token = literal_bytes(literal.trim())?;
    let length: usize = length.parse().map_err(|_| format!("`{length}` is not a length"))?;
    if token.len() != length {
        return Err(format!("the literal has {} bytes, the length is {length}", token.len()));
    }
    if !(1..=LONGEST).contains(&length) {
        return Err(format!("a token of {length} bytes; want 1 to {LONGEST}"));
    }
    Ok((id, token))
}

/// The bytes of a Python literal: `'…'` or `"…"`, optionally prefixed with `b`.
fn literal_bytes(literal: &str) -> Result<Vec<u8>, String> {
    let (quoted, raw) = literal.strip_prefix('b').map_or((literal, false), |rest| (rest, true));
    let quote = quoted.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or("want a literal in quotes")?;
    let body = quoted.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let body = body.ok_or("the literal's quotes are not closed")?;
    let mut bytes = Vec::with_capacity(body.len());
    let mut push = |c: u32| match (raw, char::from_u32(c)) {
        (true, _) => u8::try_from(c).map(|byte| bytes.push(byte)).map_err(|_| "a character in bytes".to_owned()),
        (false, Some(c)) => {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            Ok(())
        }
        (false, None) => Err(format!("`\\u{c:04x}` is not a character")),
    };
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            return Err("a quote within the literal".into());
        }
        if c != '\\' {
            push(u32::from(c))?;
            continue;
        }
        let escape = chars.next().ok_or("a backslash at the end")?;
        let digits = match escape {
            'x' => 2,
            'u' if !raw => 4,
            'U' if !raw => 8,
            _ => 0,
        };
        if digits > 0 {
            let hex: String = chars.by_ref().take(digits).collect();
            let known = hex.len() == digits && hex.bytes().all(|b| b.is_ascii_hexdigit());
            let code = u32::from_str_radix(&hex, 16).ok().filter(|_| known);
            push(code.ok_or_else(|| format!("`\\{escape}{hex}`: want {digits} hexadecimal digits"))?)?;
            continue;
        }
        push(match escape {
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            '\\' | '\'' | '"' => u32::from(escape),
            other => return Err(format!("the escape `\\{other}` is not supported")),
        })?;
    }
    Ok(bytes)
}
