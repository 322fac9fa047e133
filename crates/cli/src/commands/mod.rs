//! One file per subcommand.

pub(crate) mod accuracy;
pub(crate) mod answer;
pub(crate) mod ask;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod classify;
pub(crate) mod convert;
pub(crate) mod embed;
pub(crate) mod fill_mask;
pub(crate) mod forward;
pub(crate) mod generate;
pub(crate) mod importance;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod op;
pub(crate) mod passkey;
pub(crate) mod pattern;
pub(crate) mod quantize;
pub(crate) mod recall;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod serve;
pub(crate) mod sparsify;
pub(crate) mod summarise;
pub(crate) mod tokenize;
pub(crate) mod train;
