//! Large buffers.

use crate::cache::prefetch_ahead;
use crate::{Cx, Kernel, Lanes};

/// Buffers of at least this many bytes are put on huge pages.
const LARGE: usize = 4 << 20;

/// `n` zeros. The kernel commits pages on first write, so threads that write different parts of a large buffer share
/// the cost of the page faults; huge pages, where available, avoid most of them.
pub fn zeros(n: usize) -> Vec<f32> {
    let zeros = vec![0.0; n];
    large_pages(zeros.as_ptr(), n);
    zeros
}

/// `n` arbitrary numbers, to be overwritten before they are read. Memory that the allocator reuses is not cleared,
/// which would cost as much as writing the output. In debug builds the numbers are NaN, so that tests find elements
/// that are not written.
pub fn unwritten(n: usize) -> Vec<f32> {
    if cfg!(debug_assertions) {
        return vec![f32::NAN; n];
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut any = Vec::with_capacity(n);
        large_pages(any.as_ptr(), n);
        // SAFETY: the buffer has room for `n` numbers. The assembly takes its address and declares no untouched memory,
        // so as far as the language knows it initialises all of them; every bit pattern is a valid f32.
        unsafe {
            std::arch::asm!("/* {0} */", in(reg) any.as_mut_ptr(), options(nostack, preserves_flags));
            any.set_len(n);
        }
        any
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    zeros(n)
}

/// Reads `x` once on all threads, with the vector width of the kernels: the time is the lower limit of everything that
/// reads as many bytes.
pub fn read(cx: &Cx, x: &[f32]) {
    /// Numbers of a task.
    const PART: usize = 1 << 18;
    cx.team.for_each(x.chunks(PART), |part| {
        std::hint::black_box(cx.isa.run(Sum(part)));
    });
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> f32 {
        /// Prefetch distance in bytes.
        const AHEAD: usize = 4096;
        let mut sums = [s.splat(0.0); 8];
        for part in self.0.chunks_exact(8 * S::LANES) {
            prefetch_ahead(part, AHEAD);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.add(*sum, s.load(&part[i * S::LANES..]));
            }
        }
        let all = sums.into_iter().fold(s.splat(0.0), |all, sum| s.add(all, sum));
        s.sum(all)
    }
}

/// Requests huge pages for a large buffer.
fn large_pages(buffer: *const f32, n: usize) {
    #[cfg(target_os = "linux")]
    if n * size_of::<f32>() >= LARGE {
        const PAGE: usize = 4096;
        let start = buffer.addr().next_multiple_of(PAGE);
        let end = (buffer.addr() + n * size_of::<f32>()) / PAGE * PAGE;
        let first = buffer.with_addr(start).cast_mut().cast();
        // SAFETY: the range is inside the buffer, and this advice changes no byte of it. Failure is harmless.
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
