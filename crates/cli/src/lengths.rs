//! Lists of lengths, such as `1k..64k` or `512,1000,4k`.

use crate::failure::Failure;

/// Parses `A..B`, doubling, or `A,B,…`; `k` is 1024 and `M` is its square.
pub(crate) fn lengths(list: &str) -> Result<Vec<usize>, Failure> {
    let wrong = |what: &str| Failure::new(format!("--lengths: `{what}`: want 1k..64k or 512,1000,4k"));
    let one = |text: &str| -> Result<usize, Failure> {
        let text = text.trim();
        let (digits, factor) = match text.strip_suffix(['k', 'K', 'M']) {
            Some(digits) => (digits, if text.ends_with('M') { 1 << 20 } else { 1 << 10 }),
            None => (text, 1),
        };
        let number: usize = digits.parse().map_err(|_| wrong(text))?;
        let length = number.checked_mul(factor).filter(|length| (1..=1 << 26).contains(length));
        length.ok_or_else(|| wrong(text))
    };
    if let Some((first, last)) = list.split_once("..") {
        let (first, last) = (one(first)?, one(last)?);
        if first > last {
            return Err(wrong(list));
        }
        return Ok(std::iter::successors(Some(first), |t| Some(2 * t)).take_while(|t| *t <= last).collect());
    }
    let mut lengths = list.split(',').map(one).collect::<Result<Vec<_>, _>>()?;
    lengths.sort_unstable();
    lengths.dedup();
    Ok(lengths)
}
