//! The KV cache of an attention layer.

use burn::tensor::{Device, Tensor};
use longreach_burn as ops;
use ndarray::{Array2, Axis, concatenate, s};

/// A growable buffer of keys and values. The first `rows` rows of the tensors are in use, in the order of the text.
#[derive(Clone, Debug)]
pub struct Keys {
    /// `[B, capacity, G, D]`
    k: Tensor<4>,
    /// `[B, capacity, G, E]`
    v: Tensor<4>,
    rows: usize,
    /// Which of the rows are not padding, `[B, rows]`; `None` if none is padding.
    keep: Option<Array2<bool>>,
}

impl Keys {
    /// An empty cache of `batch` sequences; `(groups, d, e)` are the KV heads, the width of a key, and that of a
    /// value.
    pub fn none(batch: usize, (groups, d, e): (usize, usize, usize), device: &Device) -> Self {
        let empty = |width| Tensor::zeros([batch, 0, groups, width], device);
        Self { k: empty(d), v: empty(e), rows: 0, keep: None }
    }

    /// A cache whose capacity is filled by `k` and `v`.
    pub fn of(k: Tensor<4>, v: Tensor<4>, keep: Option<Array2<bool>>) -> Self {
        let rows = k.dims()[1];
        Self { k, v, rows, keep }
    }

    /// The number of cached tokens.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The number of elements allocated, including unused capacity.
    pub fn numbers(&self) -> usize {
        self.k.shape().num_elements() + self.v.shape().num_elements()
    }

    /// The cached keys and values, `[B, rows, G, …]`.
    pub fn get(&self) -> [Tensor<4>; 2] {
        [&self.k, &self.v].map(|x| if x.dims()[1] == self.rows { x.clone() } else { x.clone().narrow(1, 0, self.rows) })
    }

    /// Which of the rows are not padding, `[B, rows]`; `None` if none is padding.
    pub fn keep(&self) -> Option<&Array2<bool>> {
        self.keep.as_ref()
    }

    /// Appends `k` and `v`. The last `past` of the existing rows are kept; earlier rows may be dropped when the
    /// buffer is full.
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
                Some(concatenate(Axis(1), &[before.view(), after.view()]).expect("both have the same batch size"))
            }
        };
        Self {
            k: ops::put_rows(self.k, k, self.rows),
            v: ops::put_rows(self.v, v, self.rows),
            rows: self.rows + new,
            keep,
        }
    }

    /// Keeps the last `rows` rows. Reallocates if the buffer is much larger than they need.
    #[must_use]
    pub fn last(self, rows: usize) -> Self {
        let capacity = self.k.dims()[1];
        if self.rows <= rows || capacity <= 2 * rows + 64 { self } else { self.moved(rows, rows + rows / 2) }
    }

    /// Copies the last `rows` rows to the start of a new buffer.
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
