//! Large buffers.

/// From so many bytes on a buffer is asked to lie on large pages.
const LARGE: usize = 4 << 20;

/// `n` zeros. Memory is handed out by the system only where it is first written, so threads that write different parts of a large buffer share
/// that work; large pages, where the system grants them, leave little of it.
pub fn zeros(n: usize) -> Vec<f32> {
    let zeros = vec![0.0; n];
    #[cfg(target_os = "linux")]
    if size_of_val(&zeros[..]) >= LARGE {
        const PAGE: usize = 4096;
        let start = zeros.as_ptr().addr().next_multiple_of(PAGE);
        let end = (zeros.as_ptr().addr() + size_of_val(&zeros[..])) / PAGE * PAGE;
        let first = zeros.as_ptr().with_addr(start).cast_mut().cast();
        // SAFETY: the range lies in the buffer, and this advice changes no byte of it. It may be refused, which changes nothing.
        unsafe { libc::madvise(first, end - start, libc::MADV_HUGEPAGE) };
    }
    zeros
}
