//! SentencePiece's map of characters: what texts are normalised to before they are split.
//!
//! It is the u32 length of a trie in bytes, the trie, and texts that each end in 0. The trie is a double array of u32
//! units: bits 0 to 7 and 31 are a label, bit 8 says that a key ends here, and the rest is an offset. From a node at
//! position `p`, byte `c` leads to the unit at `p ^ c` if that is its label, and then to `p ^ c ^ offset`, where the
//! text of a key that ends here begins.
//!
//! The `tokenizers` library follows the trie without checking that its positions exist, so they are checked here.

/// The largest map, in bytes. SentencePiece's own have less than half a million.
const LARGEST: usize = 4 << 20;

/// Checks that the search for any text stays within the map; otherwise says what is wrong.
pub(super) fn check(map: &[u8]) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{} bytes are not a map of SentencePiece: {what}", map.len()));
    if map.len() > LARGEST {
        return wrong(&format!("at most {LARGEST} are supported"));
    }
    let split = map.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        (length > 0 && length % 4 == 0).then_some(())?;
        rest.split_at_checked(length)
    });
    let Some((units, texts)) = split else { return wrong("the length of the trie is not valid") };
    let Some(texts) = std::str::from_utf8(texts).ok().filter(|texts| texts.ends_with('\0')) else {
        return wrong("the texts are not UTF-8 that ends in 0");
    };
    let (units, _) = units.as_chunks();
    let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    if stays_inside(&units, texts) { Ok(()) } else { wrong("the trie leads out of the map") }
}

/// Whether all that can be reached in the trie is in it, and all texts that it leads to begin at a character.
fn stays_inside(units: &[u32], texts: &str) -> bool {
    let mut seen = vec![false; units.len()];
    let Some(root) = units.first().and_then(|unit| inside(offset(*unit), units)) else { return false };
    seen[root] = true;
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        for byte in 1..=255u8 {
            let at = node ^ usize::from(byte);
            let Some(&unit) = units.get(at) else { return false };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                continue;
            }
            let Some(next) = inside(at as u64 ^ offset(unit), units) else { return false };
            let text = usize::try_from(units[next] & !(1 << 31));
            if unit & 1 << 8 != 0 && !text.is_ok_and(|text| texts.is_char_boundary(text)) {
                return false;
            }
            if !seen[next] {
                seen[next] = true;
                open.push(next);
            }
        }
    }
    true
}

/// The offset of a unit; bit 9 says that it counts in 256s.
fn offset(unit: u32) -> u64 {
    u64::from(unit >> 10) << ((unit & 1 << 9) >> 6)
}

/// A position, if there is a unit at it.
fn inside(position: u64, units: &[u32]) -> Option<usize> {
    usize::try_from(position).ok().filter(|at| *at < units.len())
}
