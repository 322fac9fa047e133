//! The process's threads and instruction set: Burn's operations have no room for a context argument, so it lives here.

use std::sync::OnceLock;

use longreach_simd::Cx;

static CONTEXT: OnceLock<Cx> = OnceLock::new();

/// Sets the context of every operation of this process; refused, and the argument returned, once one has been used.
pub fn configure(cx: Cx) -> Result<(), Cx> {
    CONTEXT.set(cx)
}

/// The context of every operation: the one configured, or else this machine's best instruction set on all its cores.
pub fn context() -> &'static Cx {
    CONTEXT.get_or_init(|| Cx::new(std::thread::available_parallelism().map_or(1, |n| n.get())))
}
