//! The product in portable Rust: the definition, and the kernel of instruction sets without one of their own.

use super::layout::{Layout, Wide, with_layout};
use super::operand::{Operand, Plan, SLOTS};
use super::{Blocks, Format};
use crate::team::Scratch;
use crate::{Kernel, Lanes};

/// Groups are blocks, and pieces lie in their order.
pub(super) fn plan(format: Format) -> Plan {
    const ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    with_layout!(format, L => Plan {
        block: L::BLOCK,
        group: L::BLOCK,
        sub: L::SUB,
        pieces: &ORDER[..L::BLOCK / 16],
        offset: 0,
    })
}

/// The product of all rows with the rows `w` of weights, to the columns `out`.
pub(super) struct Portable<'a, 'o> {
    pub(super) x: &'a Operand,
    pub(super) w: &'a Blocks,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) out: &'a mut [&'o mut [f32]],
}

impl Kernel for Portable<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        with_layout!(self.w.format, L => product::<L>(self));
    }
}

/// Each block is read once and met by all rows.
#[inline(always)]
fn product<L: Layout>(task: Portable<'_, '_>) {
    let Portable { x, w, bias, out } = task;
    let mut wide = Wide::EMPTY;
    let sums = &mut Scratch::new(out.len());
    for (j, row) in w.bytes().chunks_exact(w.row_bytes.max(1)).enumerate() {
        sums.fill(0.0);
        for (b, block) in row.chunks_exact(L::BYTES).enumerate() {
            L::read(block, &mut wide);
            for (i, y) in sums.iter_mut().enumerate() {
                let codes = &x.codes(i)[b * L::BLOCK..][..L::BLOCK];
                *y = step::<L>(&wide, codes, &x.sums(i)[b * SLOTS..][..SLOTS], x.factors(i)[b], *y);
            }
        }
        for (out, y) in out.iter_mut().zip(sums.iter()) {
            out[j] = bias.map_or(*y, |bias| y + bias[j]);
        }
    }
}

/// Adds a block's part to `y`.
#[inline(always)]
fn step<L: Layout>(wide: &Wide, codes: &[i8], sums: &[i16], factor: f32, y: f32) -> f32 {
    let mut products = 0;
    let mut minima = 0;
    for (k, (c, x)) in wide.codes[..L::BLOCK].chunks_exact(L::SUB).zip(codes.chunks_exact(L::SUB)).enumerate() {
        let mut dot = 0;
        for (c, x) in c.iter().zip(x) {
            dot += i32::from(*c) * i32::from(*x);
        }
        products += i32::from(wide.scales[k]) * dot;
        if L::MINIMA {
            minima += i32::from(wide.minima[k]) * i32::from(sums[k]);
        }
    }
    let y = (wide.factor * factor).mul_add(products as f32, y);
    if L::MINIMA { (wide.base * factor).mul_add(minima as f32, y) } else { y }
}
