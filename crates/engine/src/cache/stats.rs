//! What a cache has done.

/// Where a state was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// In memory.
    Ram,
    /// In the directory.
    Disk,
}

/// Counts of a cache since it was opened, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes in memory: the states, and the cached keys that they share, once.
    pub ram_bytes: usize,
    /// States in memory.
    pub ram_states: usize,
    /// States that were evicted from memory.
    pub ram_evictions: u64,
    /// Bytes of the files, as of the last look at the directory and what was written since.
    pub disk_bytes: u64,
    /// Files of states.
    pub disk_states: usize,
    /// Files that were removed for others.
    pub disk_evictions: u64,
    /// Prompt tokens that were not read because a state in memory had read them.
    pub tokens_from_ram: u64,
    /// As `tokens_from_ram`, of states in the directory.
    pub tokens_from_disk: u64,
    /// Prompt tokens that were looked up.
    pub tokens: u64,
    /// Bytes that wait to be written.
    pub pending_bytes: u64,
    /// Files that were damaged, and removed.
    pub rejected: u64,
    /// States that could not be written.
    pub write_failures: u64,
    /// Reads of the directory that took longer than reading the tokens again would have, and were given up.
    pub slow_reads: u64,
    /// The last error of the directory, for a person.
    pub last_failure: Option<String>,
}
