//! Reading little-endian numbers and strings one after another, never past the end.

use crate::ValueType;

/// A position in the bytes of a file. The error of each method is a sentence about this position.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The position, in bytes from the beginning.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The number of bytes after the position.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let left = self.left();
        let Some(n) = usize::try_from(n).ok().filter(|n| *n <= left) else {
            return Err(format!("cut short: {n} bytes belong at byte {}, but only {left} are left", self.at));
        };
        let taken = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length and as many bytes.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], String> {
        let length = self.u64()?;
        self.take(length)
    }

    /// A value of a type that is not an array, as it is stored: a string with its length.
    pub(crate) fn element(&mut self, of: ValueType) -> Result<&'a [u8], String> {
        let start = self.at;
        match of.bytes() {
            Some(n) => self.take(n as u64)?,
            None => self.string()?,
        };
        Ok(&self.bytes[start..self.at])
    }

    /// A number of things that follow, each of which takes at least `least` bytes.
    pub(crate) fn count(&mut self, what: &str, least: u64) -> Result<usize, String> {
        let (count, left) = (self.u64()?, self.left());
        let fits = count.checked_mul(least).and_then(|bytes| usize::try_from(bytes).ok()).is_some_and(|n| n <= left);
        usize::try_from(count).ok().filter(|_| fits).ok_or_else(|| {
            format!("claims {count} {what}, which take at least {least} bytes each, but only {left} bytes are left")
        })
    }
}
