//! AMX: eight tile registers, and instructions that multiply two of them and add the product to a third.
//!
//! The intrinsics are not stable, so this is assembly. Every block product is one piece of it, which loads its tiles,
//! multiplies and stores: the compiler never sees a tile register. Between [`Amx::configure`] and the drop of what it
//! returns, only the shape of the registers is kept in the thread. Intel SDM, volume 2, `TILELOADD`, `TDPBF16PS`,
//! `TDPBUSD`.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{Bf16Blocks, ByteBlocks, Part, Quads, Start, Sums, TILE, bf16_steps, byte_steps};

/// Proves that the CPU has AMX with bf16 and bytes, and that the operating system lets this process use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Amx(());

impl Amx {
    /// `Some` if the CPU has AMX and the operating system grants it, which it is asked once for.
    pub(crate) fn detect() -> Option<Self> {
        static GRANTED: OnceLock<bool> = OnceLock::new();
        GRANTED.get_or_init(|| in_cpu() && granted()).then_some(Self(()))
    }

    /// Gives all tile registers of this thread 16 rows of 64 bytes, until the returned value is dropped.
    pub(crate) fn configure(self) -> Configured {
        #[repr(C, align(64))]
        struct Shape {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut shape = Shape { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        shape.row_bytes[..8].fill(4 * TILE as u16);
        shape.rows[..8].fill(TILE as u8);
        // SAFETY: the CPU and the operating system allow the instruction, as `self` proves. It reads the 64 bytes of
        // `shape`, and changes tile registers only, which the compiler does not use.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shape, options(nostack, preserves_flags, readonly)) };
        Configured(PhantomData)
    }
}

/// Whether the CPU has `AMX-BF16`, `AMX-TILE` and `AMX-INT8`: bits 22, 24 and 25 of EDX in leaf 7 of CPUID.
fn in_cpu() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const ALL: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & ALL == ALL
}

/// Asks Linux to let this process use the tile registers.
#[cfg(target_os = "linux")]
fn granted() -> bool {
    const REQUEST: libc::c_long = 0x1023; // ARCH_REQ_XCOMP_PERM
    const TILE_DATA: libc::c_long = 18; // the number of this part of a thread's state
    // SAFETY: this system call takes two numbers, and changes no memory of the process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

/// Other operating systems are not asked.
#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// The tile registers of this thread have their shape; dropped, it releases them.
#[derive(Debug)]
pub(crate) struct Configured(PhantomData<*const ()>);

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the CPU has the instruction, since the registers are configured. It changes tile registers only.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// What the processor says of the shape of this thread's registers: zeros where they are released.
#[cfg(test)]
pub(super) fn shape(_: Amx) -> [u8; 64] {
    let mut shape = [0xff; 64];
    // SAFETY: the CPU and the operating system allow the instruction, as the argument proves. It writes 64 bytes.
    unsafe { asm!("sttilecfg [{}]", in(reg) shape.as_mut_ptr(), options(nostack, preserves_flags)) };
    shape
}

/// The operands of a block product: where the tiles are, and the distance in bytes between the rows of a tile and
/// between the tiles of two steps.
struct Operands {
    /// The two tiles of the left factor's first step.
    a: [*const u8; 2],
    a_row: usize,
    /// The two tiles of the right factor's first step.
    b: [*const u8; 2],
    b_row: usize,
    /// At least one.
    steps: usize,
}

/// Defines a block product as one piece of assembly. Registers 0 to 3 hold the sums, 4 and 5 the tiles of the left
/// factor, 6 and 7 those of the right. A line of the sums is 128 bytes.
macro_rules! block {
    ($name:ident, steps of $a:literal and $b:literal bytes, sums $([$sum:literal at $offset:literal])*,
     $($line:literal)*) => {
        /// # Safety
        /// The tile registers are configured in this thread, and every tile of every step is readable.
        unsafe fn $name(of: Operands, start: Start, sums: &mut Sums) {
            // SAFETY: the caller guarantees the reads; the stores are inside `sums`, whose address leaves 4096 bytes.
            unsafe {
                asm!(
                    "test {add}, {add}",
                    "jnz 2f",
                    $(concat!("tilezero tmm", $sum),)*
                    "jmp 3f",
                    "2:",
                    $(concat!("tileloadd tmm", $sum, ", [{c} + {c_row} + ", $offset, "]"),)*
                    "3:",
                    $($line,)*
                    concat!("add {a0}, ", $a),
                    concat!("add {a1}, ", $a),
                    concat!("add {b0}, ", $b),
                    concat!("add {b1}, ", $b),
                    "dec {steps}",
                    "jnz 3b",
                    $(concat!("tilestored [{c} + {c_row} + ", $offset, "], tmm", $sum),)*
                    add = in(reg) usize::from(start == Start::Sums),
                    c = in(reg) sums.as_mut_ptr(),
                    c_row = in(reg) 128usize,
                    a0 = inout(reg) of.a[0] => _,
                    a1 = inout(reg) of.a[1] => _,
                    a_row = in(reg) of.a_row,
                    b0 = inout(reg) of.b[0] => _,
                    b1 = inout(reg) of.b[1] => _,
                    b_row = in(reg) of.b_row,
                    steps = inout(reg) of.steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

block!(bf16_whole, steps of 2048 and 2048 bytes, sums [0 at 0] [1 at 64] [2 at 2048] [3 at 2112],
    "tileloaddt1 tmm4, [{a0} + {a_row}]" "tileloadd tmm6, [{b0} + {b_row}]" "tdpbf16ps tmm0, tmm4, tmm6"
    "tileloadd tmm7, [{b1} + {b_row}]" "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloaddt1 tmm5, [{a1} + {a_row}]" "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7");
block!(bf16_half, steps of 2048 and 2048 bytes, sums [0 at 0] [2 at 2048],
    "tileloaddt1 tmm4, [{a0} + {a_row}]" "tileloadd tmm6, [{b0} + {b_row}]" "tdpbf16ps tmm0, tmm4, tmm6"
    "tileloaddt1 tmm5, [{a1} + {a_row}]" "tdpbf16ps tmm2, tmm5, tmm6");
block!(bytes_whole, steps of 64 and 2048 bytes, sums [0 at 0] [1 at 64] [2 at 2048] [3 at 2112],
    "tileloadd tmm4, [{a0} + {a_row}]" "tileloaddt1 tmm6, [{b0} + {b_row}]" "tdpbusd tmm0, tmm4, tmm6"
    "tileloaddt1 tmm7, [{b1} + {b_row}]" "tdpbusd tmm1, tmm4, tmm7"
    "tileloadd tmm5, [{a1} + {a_row}]" "tdpbusd tmm2, tmm5, tmm6" "tdpbusd tmm3, tmm5, tmm7");
block!(bytes_half, steps of 64 and 2048 bytes, sums [0 at 0] [1 at 64],
    "tileloadd tmm4, [{a0} + {a_row}]" "tileloaddt1 tmm6, [{b0} + {b_row}]" "tdpbusd tmm0, tmm4, tmm6"
    "tileloaddt1 tmm7, [{b1} + {b_row}]" "tdpbusd tmm1, tmm4, tmm7");

impl Bf16Blocks for Configured {
    #[inline(always)]
    fn multiply(&self, a: &[f32], b: &[f32], columns: Part, start: Start, sums: &mut Sums) {
        let steps = bf16_steps(a, b);
        if steps == 0 {
            return clear(start, sums);
        }
        let tiles = |of: &[f32]| [of.as_ptr().cast(), of[TILE * TILE..].as_ptr().cast()];
        let of = Operands { a: tiles(a), a_row: 64, b: tiles(b), b_row: 64, steps };
        // SAFETY: a value of this type exists while the registers are configured, in this thread, since it is not
        // `Send`; and `a` and `b` have `steps` steps of two tiles.
        unsafe {
            match columns {
                Part::Whole => bf16_whole(of, start, sums),
                Part::Half => bf16_half(of, start, sums),
            }
        }
    }
}

impl ByteBlocks for Configured {
    #[inline(always)]
    fn multiply(&self, a: &[u8], stride: usize, b: &[Quads], rows: Part, start: Start, sums: &mut Sums) {
        let steps = byte_steps(a, stride, b, rows);
        if steps == 0 {
            return clear(start, sums);
        }
        let of = Operands {
            a: [a.as_ptr(), a.as_ptr().wrapping_add(TILE * stride)],
            a_row: stride,
            b: [b.as_ptr().cast(), b.as_ptr().cast::<u8>().wrapping_add(4 * TILE)],
            b_row: size_of::<Quads>(),
            steps,
        };
        // SAFETY: as above; the rows in `rows` and `b` have `steps` steps, and half a block does not read the second
        // tiles of `a`.
        unsafe {
            match rows {
                Part::Whole => bytes_whole(of, start, sums),
                Part::Half => bytes_half(of, start, sums),
            }
        }
    }
}

/// What a product without steps does.
fn clear(start: Start, sums: &mut Sums) {
    if start == Start::Zero {
        sums.fill(0.0);
    }
}
