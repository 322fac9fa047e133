//! Large buffers.

/// From so many bytes on a buffer is asked to lie on large pages.
const LARGE: usize = 4 << 20;

/// `n` zeros. Memory is handed out by the system only where it is first written, so threads that write different parts of a large buffer share
/// that work; large pages, where the system grants them, leave little of it.
pub fn zeros(n: usize) -> Vec<f32> {
    let zeros = vec![0.0; n];
    large_pages(zeros.as_ptr(), n);
    zeros
}

/// `n` numbers of no particular value, to be written by several threads before anybody reads them: memory that was used before is not cleared
/// again, which would take as long as it takes to write it. In a debug build they are NaN, so that what is not written is found.
pub fn unwritten(n: usize) -> Vec<f32> {
    if cfg!(debug_assertions) {
        return vec![f32::NAN; n];
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut any = Vec::with_capacity(n);
        large_pages(any.as_ptr(), n);
        // SAFETY: the buffer has room for `n` numbers. The assembly is given its address and says nothing of what it leaves alone: as far as the
        // language knows it has written all of them, and any bytes are a number.
        unsafe {
            std::arch::asm!("/* {0} */", in(reg) any.as_mut_ptr(), options(nostack, preserves_flags));
            any.set_len(n);
        }
        any
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    zeros(n)
}

/// Asks for large pages, if the buffer is large.
fn large_pages(buffer: *const f32, n: usize) {
    #[cfg(target_os = "linux")]
    if n * size_of::<f32>() >= LARGE {
        const PAGE: usize = 4096;
        let start = buffer.addr().next_multiple_of(PAGE);
        let end = (buffer.addr() + n * size_of::<f32>()) / PAGE * PAGE;
        let first = buffer.with_addr(start).cast_mut().cast();
        // SAFETY: the range lies in the buffer, and this advice changes no byte of it. It may be refused, which changes nothing.
        unsafe { libc::madvise(first, end - start, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (buffer, n);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_are_asked_for() {
        for n in [0, 1, 1000, LARGE / 4 + 1] {
            assert!(zeros(n).len() == n && zeros(n).iter().all(|x| *x == 0.0), "{n}");
            let mut any = unwritten(n);
            assert_eq!(any.len(), n);
            any.fill(1.0);
            assert!(any.iter().all(|x| *x == 1.0), "{n}");
        }
    }
}
