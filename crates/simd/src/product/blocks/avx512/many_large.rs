//! Many rows by blocks of 256, unpacked into panels.

use std::arch::x86_64::*;

use super::super::operand::SLOTS;
use super::pack::{self, VECTOR, columns, masks, pair};
use super::{Large, Left, PANEL, Task, moved};
use crate::team::Scratch;

/// Rows of a register tile.
const ROWS: usize = 6;
/// Blocks of a row that are unpacked at once, so that a panel stays in the cache.
const DEPTH: usize = 4;

/// The parts of a panel's block, in 32-bit words: the codes `[quad][column][4]`, the scales `[sub-block][column]`, pairs
/// of minima `[pair][column][2]`, and the two factors `[column]`.
const SCALES: usize = 4 * VECTOR;
const MINIMA: usize = SCALES + VECTOR;
const FACTORS: usize = MINIMA + VECTOR;
const BLOCK: usize = FACTORS + 2 * PANEL;

/// The product of all rows of `out`.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI, and the left factor must be made by [`plan`](super::plan).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn product<F: Large>(task: &Task<'_>, out: &mut [&mut [f32]]) {
    assert_eq!(task.row_bytes, task.x.groups * F::BYTES);
    let mut panel = Scratch::new(DEPTH * BLOCK);
    for j in (0..task.columns()).step_by(PANEL) {
        let rows: [*const u8; PANEL] = task.rows(j);
        let width = PANEL.min(task.columns() - j);
        for first in (0..task.x.groups).step_by(DEPTH) {
            let count = DEPTH.min(task.x.groups - first);
            for (b, panel) in panel.chunks_exact_mut(BLOCK).take(count).enumerate() {
                // SAFETY: each row has as many blocks as there are groups.
                unsafe { unpack::<F>(moved(rows, (first + b) * F::BYTES), panel) };
            }
            for (i, out) in out.chunks_mut(ROWS).enumerate() {
                let last = first + count == task.x.groups;
                let left = task.left(i * ROWS, out.len(), first);
                for (b, panel) in panel.chunks_exact(BLOCK).take(count).enumerate() {
                    let bias = match task.bias {
                        Some(bias) if last && b + 1 == count => Some(&bias[j..j + width]),
                        _ => None,
                    };
                    // SAFETY: the features are enabled in this function, as its caller guarantees.
                    unsafe { tile::<F>(&left, b, first + b == 0, panel, bias, out, j) };
                }
            }
        }
    }
}

/// Unpacks a block of each of 32 rows.
///
/// # Safety
/// The CPU has the features, and there is a block at each address.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn unpack<F: Large>(blocks: [*const u8; PANEL], panel: &mut [f32]) {
    let none = _mm512_setzero_si512();
    let mut codes = [[none; PANEL]; 4];
    let (mut scales, mut minima) = ([none; PANEL], [none; PANEL]);
    let mut factors = [[0; PANEL]; 2];
    for (r, block) in blocks.into_iter().enumerate() {
        // SAFETY: guaranteed by the caller; in a format with minima their factor follows the other.
        unsafe {
            for (v, part) in F::codes(block).into_iter().enumerate() {
                codes[v][r] = part;
            }
            let (s, n) = F::scales(block);
            scales[r] = _mm512_cvtepi8_epi32(s);
            if F::HALVES {
                scales[r] = _mm512_castps_si512(_mm512_cvtepi32_ps(scales[r]));
            }
            minima[r] = _mm512_zextsi256_si512(_mm256_cvtepi8_epi16(n));
            for (f, to) in factors.iter_mut().enumerate().take(1 + usize::from(F::MINIMA)) {
                to[r] = block.add(F::FACTORS + 2 * f).cast::<u16>().read_unaligned();
            }
        }
    }
    // SAFETY: the features are enabled in this function.
    unsafe {
        for (codes, panel) in codes.iter().zip(panel.chunks_exact_mut(VECTOR)) {
            columns(codes, panel);
        }
        columns(&scales, &mut panel[SCALES..][..VECTOR]);
        if F::MINIMA {
            columns(&minima, &mut panel[MINIMA..][..VECTOR]);
        }
    }
    for (bits, to) in factors.iter().zip(panel[FACTORS..].chunks_exact_mut(PANEL)) {
        pack::halves(bits, to);
    }
}

/// Adds the product of at most [`ROWS`] rows and a panel's block, or starts with it. `g` is the block's number from where
/// the left factor begins, in which missing rows repeat the last one.
///
/// # Safety
/// The CPU has the features, and every row of the left factor has the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn tile<F: Large>(
    left: &Left<ROWS>,
    g: usize,
    starts: bool,
    panel: &[f32],
    bias: Option<&[f32]>,
    out: &mut [&mut [f32]],
    j: usize,
) {
    let m = out.len();
    assert!((1..=ROWS).contains(&m) && panel.len() == BLOCK);
    let panel = panel.as_ptr();
    // SAFETY: guaranteed by the caller; the panel has a block.
    let sums = unsafe { if F::HALVES { sums_of_halves::<F>(left, g, panel) } else { sums::<F>(left, g, panel) } };
    let none = [[_mm512_setzero_si512(); 2]; ROWS];
    // SAFETY: as above.
    let minima = if F::MINIMA { unsafe { minima::<F>(left, g, panel) } } else { none };
    let width = PANEL.min(out[0].len() - j);
    let masks = masks(width);
    // SAFETY: as above.
    let (d, base) = unsafe { (pair(panel.add(FACTORS)), pair(panel.add(FACTORS + PANEL))) };
    for (r, out) in out.iter_mut().enumerate() {
        // SAFETY: as above.
        let a = _mm512_set1_ps(unsafe { *left.factors[r].add(g) });
        let to = out[j..j + width].as_mut_ptr();
        for v in 0..2 {
            // SAFETY: the masks restrict accesses to the columns that exist.
            unsafe {
                let to = to.wrapping_add(16 * v);
                let mut y = if starts { _mm512_setzero_ps() } else { _mm512_maskz_loadu_ps(masks[v], to) };
                y = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_castsi512_ps(d[v]), a), sums[r][v], y);
                if F::MINIMA {
                    y = _mm512_fnmadd_ps(
                        _mm512_mul_ps(_mm512_castsi512_ps(base[v]), a),
                        _mm512_cvtepi32_ps(minima[r][v]),
                        y,
                    );
                }
                if let Some(bias) = bias {
                    y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(masks[v], bias.as_ptr().wrapping_add(16 * v)));
                }
                _mm512_mask_storeu_ps(to, masks[v], y);
            }
        }
    }
}

/// The sums of the products of a sub-block, or of a piece, which is at `place`.
///
/// # Safety
/// The CPU has the features, the panel has a block, and so has every row of the left factor from block `g` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn dots<F: Large>(left: &Left<ROWS>, g: usize, panel: *const f32, place: usize) -> [[__m512i; 2]; ROWS] {
    let mut dots = [[_mm512_setzero_si512(); 2]; ROWS];
    // SAFETY: guaranteed by the caller; where there is an offset there are as many starts as places.
    unsafe {
        if F::OFFSET != 0 {
            for r in 0..ROWS {
                dots[r] = [_mm512_set1_epi32(*left.starts[r].add(g * SLOTS + place)); 2];
            }
        }
        for quad in 4 * place..4 * (place + F::RUN) {
            let w = pair(panel.add(quad * PANEL));
            for r in 0..ROWS {
                let x = _mm512_set1_epi32(left.codes[r].add(g * 256 + 4 * quad).cast::<i32>().read_unaligned());
                dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], w[0], x);
                dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], w[1], x);
            }
        }
    }
    dots
}

/// `S` of each row and column, added up as integers.
///
/// # Safety
/// As [`dots`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn sums<F: Large>(left: &Left<ROWS>, g: usize, panel: *const f32) -> [[__m512; 2]; ROWS] {
    let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
    for place in (0..SLOTS).step_by(F::RUN) {
        // SAFETY: guaranteed by the caller.
        let dots = unsafe { dots::<F>(left, g, panel, place) };
        // SAFETY: as above.
        let scales = unsafe { pair(panel.add(SCALES + sub::<F>(place) * PANEL)) };
        for r in 0..ROWS {
            for v in 0..2 {
                sums[r][v] = _mm512_add_epi32(sums[r][v], _mm512_mullo_epi32(dots[r][v], scales[v]));
            }
        }
    }
    let mut wide = [[_mm512_setzero_ps(); 2]; ROWS];
    for r in 0..ROWS {
        for v in 0..2 {
            wide[r][v] = _mm512_cvtepi32_ps(sums[r][v]);
        }
    }
    wide
}

/// As [`sums`], added up in f32, which is faster, and exact within each half of the block. The sum of the two halves is
/// rounded once, as an integer is that becomes a float.
///
/// # Safety
/// As [`dots`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn sums_of_halves<F: Large>(left: &Left<ROWS>, g: usize, panel: *const f32) -> [[__m512; 2]; ROWS] {
    let mut halves = [[[_mm512_setzero_ps(); 2]; ROWS]; 2];
    for (h, sums) in halves.iter_mut().enumerate() {
        for place in (h * SLOTS / 2..(h + 1) * SLOTS / 2).step_by(F::RUN) {
            // SAFETY: guaranteed by the caller.
            let dots = unsafe { dots::<F>(left, g, panel, place) };
            // SAFETY: as above.
            let scales = unsafe { pair(panel.add(SCALES + sub::<F>(place) * PANEL)) };
            for r in 0..ROWS {
                for v in 0..2 {
                    let dot = _mm512_cvtepi32_ps(dots[r][v]);
                    sums[r][v] = _mm512_fmadd_ps(dot, _mm512_castsi512_ps(scales[v]), sums[r][v]);
                }
            }
        }
    }
    for r in 0..ROWS {
        for v in 0..2 {
            halves[0][r][v] = _mm512_add_ps(halves[0][r][v], halves[1][r][v]);
        }
    }
    halves[0]
}

/// The sub-block of the piece at a place.
#[inline(always)]
fn sub<F: Large>(place: usize) -> usize {
    usize::from(F::PIECES[place]) / F::RUN
}

/// `M` of each row and column.
///
/// # Safety
/// The CPU has the features, and the panel has a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn minima<F: Large>(left: &Left<ROWS>, g: usize, panel: *const f32) -> [[__m512i; 2]; ROWS] {
    let mut minima = [[_mm512_setzero_si512(); 2]; ROWS];
    for two in 0..SLOTS / 2 / F::RUN {
        // SAFETY: there are as many sums as slots, and as many minima; the caller guarantees the rest.
        unsafe {
            let n = pair(panel.add(MINIMA + two * PANEL));
            for r in 0..ROWS {
                let x = _mm512_set1_epi32(left.sums[r].add(g * SLOTS + 2 * two).cast::<i32>().read_unaligned());
                for v in 0..2 {
                    minima[r][v] = _mm512_dpwssd_epi32(minima[r][v], n[v], x);
                }
            }
        }
    }
    minima
}
