//! The threads and the instruction set that operations run with. Burn's operations have no room for an argument, so they come from the thread that calls.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use longreach_simd::Cx;

/// Not behind a lock: a thread that does not exist in the child of a fork could hold it there for ever.
static DEFAULT: ArcSwapOption<Cx> = ArcSwapOption::const_empty();

thread_local! {
    static SCOPE: RefCell<Option<Arc<Cx>>> = const { RefCell::new(None) };
}

/// Sets the default context of this process. An error that returns the argument if a default was set or used before.
pub fn configure(cx: Cx) -> Result<(), Cx> {
    let cx = Arc::new(cx);
    match &*DEFAULT.compare_and_swap(&None::<Arc<Cx>>, Some(cx.clone())) {
        None => Ok(()),
        Some(_) => Err(Arc::into_inner(cx).expect("an argument that was refused has one owner")),
    }
}

/// Sets or replaces the default context of this process. Operations that have begun end with the one they began with.
pub fn reconfigure(cx: Cx) {
    DEFAULT.store(Some(Arc::new(cx)));
}

/// Makes the threads of the default context anew in the child of a fork, which has none of its parent's. Call it in the
/// child before anything else of this library.
pub fn after_fork() {
    let threads = DEFAULT.load().as_ref().map(|cx| (cx.isa, cx.team.threads()));
    longreach_simd::after_fork();
    if let Some((isa, threads)) = threads {
        reconfigure(Cx::with_isa(isa, threads));
    }
}

/// The context of operations that this thread calls: that of the innermost [`with_context`], or else the default of the process, which is the one configured
/// or this machine's best instruction set on all its cores.
pub fn context() -> Arc<Cx> {
    if let Some(cx) = SCOPE.with_borrow(Clone::clone) {
        return cx;
    }
    if let Some(cx) = DEFAULT.load_full() {
        return cx;
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cx = Arc::new(Cx::new(cores));
    let before = DEFAULT.compare_and_swap(&None::<Arc<Cx>>, Some(cx.clone()));
    // Another thread may have set one meanwhile.
    before.as_ref().map_or(cx, Clone::clone)
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
        reconfigure(Cx::new(4));
        assert_eq!(threads(), 4);
        after_fork();
        assert_eq!(threads(), 4, "a new team of the same size");
    }
}
