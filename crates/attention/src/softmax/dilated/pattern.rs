//! The band that contains the window and its gaps.

use std::ops::Range;

use super::{Dilated, OP};
use crate::softmax::band::Band;
use crate::softmax::mask::{Entry, Pattern, Sizes};
use crate::{Error, error};

impl Pattern for Dilated {
    fn name(&self) -> &'static str {
        OP
    }

    fn check(&self, of: &Sizes) -> Result<(), Error> {
        let fits = self.dilation.len() == 1 || self.dilation.len() == of.heads;
        let want = format!("one for all or one for each of {} heads, none zero", of.heads);
        error::parameter(OP, "dilation", fits && self.dilation.iter().all(|d| *d > 0), &self.dilation, want)
    }

    fn differs(&self) -> (bool, bool) {
        (false, self.dilation.len() > 1)
    }

    fn count(&self, _: &Sizes, _: usize, h: usize, i: usize, j: usize) -> u32 {
        self.sees(h, i, j).into()
    }

    fn visit(&self, of: &Sizes, b: usize, h: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let at = row.len();
        let dilation = self.dilation[h % self.dilation.len()];
        let far = |steps: usize| steps.saturating_mul(dilation).min(isize::MAX as usize) as isize;
        let band = Band { name: OP, nearest: -far(self.right), farthest: far(self.left) };
        band.visit(of, b, h, queries, keys, row);
        row[at..].iter_mut().for_each(|entry| entry.cut |= dilation > 1);
    }
}
