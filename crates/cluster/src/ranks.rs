//! Messages between the processes that share a computation.

use crate::Error;

/// What a message belongs to. Messages of one sender and one channel arrive in the order in which they were sent; those of
/// different channels do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Agreement at the start, and barriers.
    Control,
    /// Tokens of a text.
    Tokens,
    /// States of layers.
    State,
    /// Results.
    Result,
    /// Keys, values and their gradients.
    Keys,
}

impl Channel {
    /// All channels.
    pub const ALL: [Channel; 5] = [Channel::Control, Channel::Tokens, Channel::State, Channel::Result, Channel::Keys];

    /// Its number, for transports that tag messages.
    pub fn number(self) -> usize {
        self as usize
    }
}

/// The ranks of a job, `0 .. size`, as one of them sees them. Ranks trust each other.
///
/// ```
/// use longreach_cluster::{Channel, Ranks, Threads};
///
/// let sums = Threads::new(3).run(|ranks| {
///     let all = ranks.all_gather(Channel::Result, vec![ranks.rank() as u8])?;
///     Ok(all.iter().map(|bytes| u32::from(bytes[0])).sum::<u32>())
/// })?;
/// assert_eq!(sums, [3, 3, 3]);
/// # Ok::<(), longreach_cluster::Error>(())
/// ```
pub trait Ranks: Send + Sync {
    /// The number of this rank.
    fn rank(&self) -> usize;

    /// The number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Sends bytes to another rank. Returns at once: the transport keeps the bytes until they have left.
    fn send(&self, to: usize, channel: Channel, bytes: Vec<u8>) -> Result<(), Error>;

    /// Waits for the next message of a rank, without using the processor meanwhile.
    fn receive(&self, from: usize, channel: Channel) -> Result<Vec<u8>, Error>;

    /// The number of bytes that this rank has sent.
    fn sent(&self) -> u64;

    /// What every rank gives, in the order of ranks. Each sends its own bytes to every other.
    fn all_gather(&self, channel: Channel, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Error> {
        let me = self.rank();
        for to in (0..self.size()).filter(|to| *to != me) {
            self.send(to, channel, bytes.clone())?;
        }
        let mut own = Some(bytes);
        let each = |from: usize| match from == me {
            true => Ok(own.take().unwrap_or_default()),
            false => self.receive(from, channel),
        };
        (0..self.size()).map(each).collect()
    }

    /// What rank `root` gives, on every rank; what others give is dropped.
    fn broadcast(&self, root: usize, channel: Channel, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        if self.rank() != root {
            return self.receive(root, channel);
        }
        for to in (0..self.size()).filter(|to| *to != root) {
            self.send(to, channel, bytes.clone())?;
        }
        Ok(bytes)
    }

    /// Returns once every rank has called it.
    fn barrier(&self) -> Result<(), Error> {
        // All tell rank 0, which then tells all.
        if self.rank() == 0 {
            (1..self.size()).try_for_each(|from| self.receive(from, Channel::Control).map(drop))?;
        } else {
            self.send(0, Channel::Control, Vec::new())?;
        }
        self.broadcast(0, Channel::Control, Vec::new()).map(drop)
    }

    /// An error that names the first rank whose text is another than that of rank 0; `what` says what the text is.
    fn agree(&self, what: &str, mine: &str) -> Result<(), Error> {
        let all = self.all_gather(Channel::Control, mine.as_bytes().to_vec())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => {
                Err(Error::Differs { what: what.to_owned(), first: text(&all[0]), rank, other: text(&all[rank]) })
            }
        }
    }
}

/// The numbers as little-endian bytes.
pub fn bytes_of<'a>(numbers: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    let numbers = numbers.into_iter();
    let mut bytes = Vec::with_capacity(4 * numbers.size_hint().0);
    numbers.for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    bytes
}

/// The numbers of a message of rank `from`; an error unless there are `n`.
pub fn numbers_of(bytes: &[u8], n: usize, from: usize) -> Result<Vec<f32>, Error> {
    let (words, rest) = bytes.as_chunks();
    if words.len() != n || !rest.is_empty() {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::Message { from, found, want: format!("{n} numbers of 4 bytes") });
    }
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}
