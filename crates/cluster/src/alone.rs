//! A single rank.

use crate::{Channel, Error, Ranks};

/// A job of one rank, which computes everything by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn send(&self, to: usize, _: Channel, _: Vec<u8>) -> Result<(), Error> {
        Err(Error::NoRank { rank: to, size: 1 })
    }

    fn receive(&self, from: usize, _: Channel) -> Result<Vec<u8>, Error> {
        Err(Error::NoRank { rank: from, size: 1 })
    }

    fn sent(&self) -> u64 {
        0
    }
}
