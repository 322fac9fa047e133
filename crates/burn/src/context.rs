//! The threads and the instruction set that operations run with. Burn's operations have no room for an argument, so they come from the thread that calls.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use longreach_simd::Cx;

static DEFAULT: OnceLock<Arc<Cx>> = OnceLock::new();

thread_local! {
    static SCOPE: RefCell<Option<Arc<Cx>>> = const { RefCell::new(None) };
}

/// Sets the default context of this process. An error that returns the argument if a default was set or used before.
pub fn configure(cx: Cx) -> Result<(), Cx> {
    let refused = |cx| Arc::into_inner(cx).expect("an argument that was refused has one owner");
    DEFAULT.set(Arc::new(cx)).map_err(refused)
}

/// The context of operations that this thread calls: that of the innermost [`with_context`], or else the default of the process, which is the one configured
/// or this machine's best instruction set on all its cores.
pub fn context() -> Arc<Cx> {
    let of_scope = SCOPE.with_borrow(Clone::clone);
    of_scope.unwrap_or_else(|| {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        DEFAULT.get_or_init(|| Arc::new(Cx::new(cores()))).clone()
    })
}

/// Calls `f` with `cx` as the context of all operations that it calls on this thread, gradients included. Calls may be nested.
pub fn with_context<R>(cx: &Arc<Cx>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Cx>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPE.set(self.0.take());
        }
    }
    let _restore = Restore(SCOPE.replace(Some(cx.clone())));
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_scope_counts_and_ends() {
        let threads = || context().team.threads();
        let default = threads();
        let (three, five) = (Arc::new(Cx::new(3)), Arc::new(Cx::new(5)));
        with_context(&three, || {
            assert_eq!(threads(), 3);
            with_context(&five, || assert_eq!(threads(), 5));
            assert_eq!(threads(), 3);
            // Another thread is in no scope of this one.
            std::thread::scope(|s| assert_eq!(s.spawn(threads).join().expect("no panic"), default));
            let panicked = std::panic::catch_unwind(|| with_context(&Arc::new(Cx::new(2)), || panic!("on purpose")));
            assert!(panicked.is_err());
            assert_eq!(threads(), 3);
        });
        assert_eq!(threads(), default);
        assert!(configure(Cx::new(1)).is_err());
    }
}
