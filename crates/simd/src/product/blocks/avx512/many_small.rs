//! Many rows by blocks of 32, unpacked into panels.

use std::arch::x86_64::*;

use super::super::operand::SLOTS;
use super::pack::{VECTOR, columns, masks, pair};
use super::{Left, PANEL, Small, Task, factors, moved, words};
use crate::team::Scratch;

/// Rows of a register tile.
const ROWS: usize = 6;
/// Blocks of a group.
const GROUP: usize = 4;
/// Groups of a row that are unpacked at once, so that a panel stays in the cache.
const DEPTH: usize = 8;
/// Bytes of the longest group.
const MOST: usize = GROUP * 34;

/// The parts of a panel's group, in 32-bit words: the codes `[quad][column][4]`, the first halves of the four blocks and
/// then the second ones, and the two factors `[block][column]`.
const FACTORS: usize = 2 * VECTOR;
const MINIMA: usize = FACTORS + GROUP * PANEL;
const PARTS: usize = MINIMA + GROUP * PANEL;

/// The product of all rows of `out`.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI, and the left factor must be made by [`plan`](super::plan).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn product<F: Small>(task: &Task<'_>, out: &mut [&mut [f32]]) {
    let blocks = task.row_bytes / F::BYTES;
    assert!(task.x.groups == blocks.div_ceil(GROUP) && GROUP * F::BYTES <= MOST);
    let mut panel = Scratch::new(DEPTH * PARTS);
    for j in (0..task.columns()).step_by(PANEL) {
        let rows: [*const u8; PANEL] = task.rows(j);
        for first in (0..task.x.groups).step_by(DEPTH) {
            let count = DEPTH.min(task.x.groups - first);
            for (g, panel) in panel.chunks_exact_mut(PARTS).take(count).enumerate() {
                let at = (first + g) * GROUP * F::BYTES;
                let rows = moved(rows, at);
                // SAFETY: each row has the blocks of a group from there on, or fewer, which are copied.
                unsafe {
                    match task.row_bytes - at {
                        rest if rest < GROUP * F::BYTES => unpack_last::<F>(rows, rest, panel),
                        _ => unpack::<F>(rows, panel),
                    }
                }
            }
            let blocks = (blocks - first * GROUP).min(DEPTH * GROUP);
            for (i, out) in out.chunks_mut(ROWS).enumerate() {
                // SAFETY: the features are enabled in this function, as its caller guarantees.
                unsafe { tile::<F>(task, i * ROWS, first, &panel[..count * PARTS], blocks, out, j) };
            }
        }
    }
}

/// Unpacks four blocks of each of 32 rows.
///
/// # Safety
/// The CPU has the features, and there are four blocks at each address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn unpack<F: Small>(rows: [*const u8; PANEL], panel: &mut [f32]) {
    let mut codes = [[_mm512_setzero_si512(); PANEL]; 2];
    for (r, row) in rows.into_iter().enumerate() {
        // SAFETY: guaranteed by the caller.
        let halves = unsafe { F::codes(row) };
        for (v, half) in halves.into_iter().enumerate() {
            codes[v][r] = half;
        }
    }
    for (codes, panel) in codes.iter().zip(panel.chunks_exact_mut(VECTOR)) {
        // SAFETY: the features are enabled in this function.
        unsafe { columns(codes, panel) };
    }
    for b in 0..GROUP {
        for from in (0..PANEL).step_by(4) {
            let four = [rows[from], rows[from + 1], rows[from + 2], rows[from + 3]];
            // SAFETY: there are four blocks at each address, and in a format with minima they follow the factors.
            unsafe {
                let d = F::widen(_mm256_setr_epi64x(factors::<F>(four, b * F::BYTES), 0, 0, 0));
                _mm512_mask_storeu_ps(panel[FACTORS + b * PANEL + from..][..4].as_mut_ptr(), 0xf, d);
                if F::MINIMA {
                    let m = _mm512_cvtph_ps(_mm256_setr_epi64x(words(four, b * F::BYTES + 2), 0, 0, 0));
                    _mm512_mask_storeu_ps(panel[MINIMA + b * PANEL + from..][..4].as_mut_ptr(), 0xf, m);
                }
            }
        }
    }
}

/// As [`unpack`], for fewer than four blocks, of `bytes` bytes.
///
/// # Safety
/// The CPU has the features, and there are as many bytes at each address.
#[cold]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn unpack_last<F: Small>(rows: [*const u8; PANEL], bytes: usize, panel: &mut [f32]) {
    let mut room = [[0; MOST]; PANEL];
    for (row, room) in rows.into_iter().zip(&mut room) {
        // SAFETY: guaranteed by the caller.
        room[..bytes].copy_from_slice(unsafe { std::slice::from_raw_parts(row, bytes) });
    }
    // SAFETY: there is room for four blocks in each.
    unsafe { unpack::<F>(addresses(&room), panel) }
}

/// The addresses of the buffers.
#[inline(always)]
fn addresses(rooms: &[[u8; MOST]; PANEL]) -> [*const u8; PANEL] {
    rooms.each_ref().map(|room| room.as_ptr())
}

/// Adds the product of at most [`ROWS`] rows and `blocks` blocks of a panel, from group `first` on, to the output.
/// Missing rows repeat the last one.
///
/// # Safety
/// The CPU has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn tile<F: Small>(
    task: &Task<'_>,
    i: usize,
    first: usize,
    panel: &[f32],
    blocks: usize,
    out: &mut [&mut [f32]],
    j: usize,
) {
    let m = out.len();
    assert!((1..=ROWS).contains(&m) && panel.len() >= blocks.div_ceil(GROUP) * PARTS);
    let left: Left<ROWS> = task.left(i, m, first);
    let width = PANEL.min(out[0].len() - j);
    let masks = masks(width);
    let mut y = [[_mm512_setzero_ps(); 2]; ROWS];
    if first > 0 {
        for (y, out) in y.iter_mut().zip(out.iter()) {
            let from = out[j..j + width].as_ptr();
            for v in 0..2 {
                // SAFETY: the masks restrict accesses to the columns that exist.
                y[v] = unsafe { _mm512_maskz_loadu_ps(masks[v], from.wrapping_add(16 * v)) };
            }
        }
    }
    for b in 0..blocks {
        let (g, b4) = (b / GROUP, b % GROUP);
        let panel = panel[g * PARTS..][..PARTS].as_ptr();
        // SAFETY: the panel has the group, and so has every row of x.
        unsafe {
            let mut dots = [[_mm512_setzero_si512(); 2]; ROWS];
            if F::OFFSET != 0 {
                for r in 0..ROWS {
                    dots[r] = [_mm512_set1_epi32(*left.starts[r].add(g * SLOTS + 4 * b4)); 2];
                }
            }
            for n in 0..8 {
                let quad = 16 * (n / 4) + 4 * b4 + n % 4;
                let w = pair(panel.add(quad * PANEL));
                for r in 0..ROWS {
                    let x = _mm512_set1_epi32(left.codes[r].add(128 * g + 4 * quad).cast::<i32>().read_unaligned());
                    dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], w[0], x);
                    dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], w[1], x);
                }
            }
            let d = pair(panel.add(FACTORS + b4 * PANEL));
            let base = pair(panel.add(MINIMA + b4 * PANEL));
            for r in 0..ROWS {
                let a = _mm512_set1_ps(*left.factors[r].add(b));
                for v in 0..2 {
                    y[r][v] = _mm512_fmadd_ps(
                        _mm512_mul_ps(_mm512_castsi512_ps(d[v]), a),
                        _mm512_cvtepi32_ps(dots[r][v]),
                        y[r][v],
                    );
                    if F::MINIMA {
                        let sum = _mm512_set1_ps(f32::from(*left.sums[r].add(g * SLOTS + b4)));
                        y[r][v] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_castsi512_ps(base[v]), a), sum, y[r][v]);
                    }
                }
            }
        }
    }
    let last = first * GROUP + blocks == task.row_bytes / F::BYTES;
    let bias = match task.bias {
        Some(bias) if last => Some(bias[j..j + width].as_ptr()),
        _ => None,
    };
    for (y, out) in y.into_iter().zip(out) {
        let to = out[j..j + width].as_mut_ptr();
        for v in 0..2 {
            // SAFETY: as above, for the bias too.
            unsafe {
                let mut y = y[v];
                if let Some(bias) = bias {
                    y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(masks[v], bias.wrapping_add(16 * v)));
                }
                _mm512_mask_storeu_ps(to.wrapping_add(16 * v), masks[v], y);
            }
        }
    }
}
