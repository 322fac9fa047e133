//! Keys and values that an attention layer remembers.

use burn::tensor::{Device, Tensor};
use longreach_burn as ops;
use ndarray::{Array2, Axis, concatenate, s};

/// A growing row of keys and values: the first `rows` of the tensors' rows hold some, in the order of the text.
#[derive(Clone, Debug)]
pub struct Keys {
    /// `[B, capacity, G, D]`
    k: Tensor<4>,
    /// `[B, capacity, G, E]`
    v: Tensor<4>,
    rows: usize,
    /// Which are there and not padding, `[B, rows]`; nothing if all are.
    keep: Option<Array2<bool>>,
}

impl Keys {
    /// None yet, of `batch` sequences; `shape` is the groups, the width of a key and that of a value.
    pub fn none(batch: usize, (groups, d, e): (usize, usize, usize), device: &Device) -> Self {
        let empty = |width| Tensor::zeros([batch, 0, groups, width], device);
        Self { k: empty(d), v: empty(e), rows: 0, keep: None }
    }

    /// Those of tensors full of them.
    pub fn of(k: Tensor<4>, v: Tensor<4>, keep: Option<Array2<bool>>) -> Self {
        let rows = k.dims()[1];
        Self { k, v, rows, keep }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// How many numbers are held, those of the places not yet taken among them.
    pub fn numbers(&self) -> usize {
        self.k.shape().num_elements() + self.v.shape().num_elements()
    }

    /// The keys and the values, `[B, rows, G, …]`.
    pub fn get(&self) -> [Tensor<4>; 2] {
        [&self.k, &self.v].map(|x| if x.dims()[1] == self.rows { x.clone() } else { x.clone().narrow(1, 0, self.rows) })
    }

    /// Which are there, `[B, rows]`; nothing if all are.
    pub fn keep(&self) -> Option<&Array2<bool>> {
        self.keep.as_ref()
    }

    /// With more behind them. Of those there were, the last `past` must stay; others are given up when room is needed.
    #[must_use]
    pub fn with(mut self, k: Tensor<4>, v: Tensor<4>, keep: Option<Array2<bool>>, past: usize) -> Self {
        let (new, past) = (k.dims()[1], past.min(self.rows));
        if past == 0 {
            return Self::of(k, v, keep);
        }
        if self.rows + new > self.k.dims()[1] {
            self = self.moved(past, past + new + (past + new) / 2);
        }
        let keep = match (self.keep.take(), keep) {
            (None, None) => None,
            (before, after) => {
                let all = |n: usize| Array2::from_elem((k.dims()[0], n), true);
                let (before, after) = (before.unwrap_or_else(|| all(self.rows)), after.unwrap_or_else(|| all(new)));
                Some(concatenate(Axis(1), &[before.view(), after.view()]).expect("as many sequences"))
            }
        };
        Self {
            k: ops::put_rows(self.k, k, self.rows),
            v: ops::put_rows(self.v, v, self.rows),
            rows: self.rows + new,
            keep,
        }
    }

    /// Only the last `rows`, in memory of their own if much would be kept with them.
    #[must_use]
    pub fn last(self, rows: usize) -> Self {
        let capacity = self.k.dims()[1];
        if self.rows <= rows || capacity <= 2 * rows + 64 { self } else { self.moved(rows, rows + rows / 2) }
    }

    /// The last `rows` at the beginning of new memory.
    fn moved(self, rows: usize, capacity: usize) -> Self {
        let from = self.rows - rows;
        let moved = |x: Tensor<4>| {
            let [b, _, groups, width] = x.dims();
            let room = Tensor::zeros([b, capacity, groups, width], &x.device());
            if rows == 0 { room } else { ops::put_rows(room, x.narrow(1, from, rows), 0) }
        };
        let keep = self.keep.map(|keep| keep.slice(s![.., from..]).to_owned());
        Self { k: moved(self.k), v: moved(self.v), rows, keep }
    }
}
