//! What an encoder's model type says of a configuration: the encoder itself, its task and its head.

mod description;
mod heads;

pub use description::{EncoderArchitecture, EncoderDescription, GlobalByDefault, ScoreScale, Task};
pub(crate) use heads::{Dense, Heads, feed_forward};
