//! A file a subcommand.

pub(crate) mod train;
