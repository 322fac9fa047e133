//! Mechanisms with a state: every one, forward, backward and one token, odd lengths, packed sequences, all types.

mod call;
mod corners;
mod laws;
