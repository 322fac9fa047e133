//! The options of a directory of kept states.

use std::path::PathBuf;
use std::time::Duration;

use longreach_engine::{CacheConfig, Engine, StateCache, Texts};

use crate::commands::convert::size;
use crate::failure::Failure;

/// Where states are kept from one run to the next.
#[derive(clap::Args)]
pub(crate) struct CacheArgs {
    /// Keep states of the model in a directory: a later prompt that begins like an earlier one goes on from there, with the same bits
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Bytes of the directory with --cache-dir, such as 500M or 20G; states that are worth least are removed
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "10G", requires = "cache_dir")]
    cache_size: u64,
}

/// An open directory, with the texts of the model.
pub(crate) struct Kept {
    cache: StateCache,
    pub(crate) texts: Texts,
}

impl CacheArgs {
    /// Whether states are kept.
    pub(crate) fn is_on(&self) -> bool {
        self.cache_dir.is_some()
    }

    /// Opens the directory, if there is one; `ram` is the number of bytes in memory.
    pub(crate) fn open(&self, engine: &Engine, ram: usize) -> Result<Option<Kept>, Failure> {
        let Some(directory) = self.cache_dir.clone() else { return Ok(None) };
        let cache = StateCache::open(CacheConfig { ram, directory: Some(directory), disk: self.cache_size })?;
        let texts = cache.texts(engine, None, "");
        Ok(Some(Kept { cache, texts }))
    }
}

impl Kept {
    /// Waits until all is written, and says what could not be.
    pub(crate) fn close(&self) {
        let written = self.cache.flush(Duration::from_secs(60));
        let stats = self.cache.stats();
        if let Some(failure) = stats.last_failure {
            eprintln!("note: states were not kept: {failure}");
        } else if !written {
            eprintln!("note: some states were not kept: the disk is too slow");
        }
    }
}
