//! The process-wide threads and instruction set. Burn's operations have no context argument, so it is stored here.

use std::sync::OnceLock;

use longreach_simd::Cx;

static CONTEXT: OnceLock<Cx> = OnceLock::new();

/// Sets the context of all operations of this process. Fails and returns the argument if a context is already in use.
pub fn configure(cx: Cx) -> Result<(), Cx> {
    CONTEXT.set(cx)
}

/// The context of all operations: the configured one, or otherwise the best instruction set of this machine on all
/// its cores.
pub fn context() -> &'static Cx {
    CONTEXT.get_or_init(|| Cx::new(std::thread::available_parallelism().map_or(1, |n| n.get())))
}
