//! Gathers tokens in another order, and scatters them back.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use longreach_simd::split::Part;
use ndarray::{Array3, Array4, ArrayView1, ArrayView3, ArrayView4, Axis, s};

/// The token at each place of each sequence and head, `[B, H, N]`; a place may be empty.
pub(super) struct Places(pub(super) Array3<Option<usize>>);

impl Places {
    /// For each sequence and head, its places and its columns of `to: [B, N, H, D]`.
    fn by_head<'a>(&'a self, to: &'a mut [f32], d: usize) -> Vec<(ArrayView1<'a, Option<usize>>, Part<'a>)> {
        let (b, h, _) = self.0.dim();
        let rows = to.chunks_mut((to.len() / b.max(1)).max(1));
        let parts = rows.flat_map(|rows| Part::whole(rows, h * d).columns(d));
        self.0.lanes(Axis(2)).into_iter().zip(parts).collect()
    }

    /// Gathers the tokens at the places from the group that each head reads: `[B, T, G, D]` to `[B, N, H, D]`; zero at
    /// empty places.
    pub(super) fn gather<T: Stored>(&self, x: ArrayView4<'_, T>, cx: &Cx) -> Array4<f32> {
        let (b, h, n) = self.0.dim();
        let (_, _, g, d) = x.dim();
        let mut out = Array4::zeros((b, n, h, d));
        let tasks = self.by_head(out.as_slice_mut().unwrap_or_default(), d).into_iter().enumerate();
        cx.team.for_each(tasks, |(i, (places, mut out))| {
            let of = x.slice(s![i / h, .., i % h * g / h, ..]);
            for (n, token) in places.iter().enumerate() {
                if let Some(t) = *token {
                    out.row(n).iter_mut().zip(of.row(t)).for_each(|(out, x)| *out = x.widen());
                }
            }
        });
        out
    }

    /// As [`Places::gather`], of `[B, T, H]`.
    pub(super) fn gather_rows(&self, x: ArrayView3<'_, f32>) -> Array3<f32> {
        let (b, h, n) = self.0.dim();
        Array3::from_shape_fn((b, n, h), |(b, n, h)| self.0[[b, h, n]].map_or(0.0, |t| x[[b, t, h]]))
    }

    /// Scatters the rows at the places to their tokens.
    pub(super) fn scatter(&self, x: &Array4<f32>, to: &mut Array4<f32>, cx: &Cx) {
        let (h, d) = (self.0.dim().1, to.dim().3);
        let tasks = self.by_head(to.as_slice_mut().unwrap_or_default(), d).into_iter().enumerate();
        cx.team.for_each(tasks, |(i, (places, mut to))| {
            let of = x.slice(s![i / h, .., i % h, ..]);
            for (n, token) in places.iter().enumerate() {
                if let Some(t) = *token {
                    to.row(t).iter_mut().zip(of.row(n)).for_each(|(to, x)| *to = *x);
                }
            }
        });
    }

    /// As [`Places::scatter`], of `[B, T, H]`.
    pub(super) fn scatter_rows(&self, x: &Array3<f32>, to: &mut Array3<f32>, cx: &Cx) {
        let h = self.0.dim().1;
        let tasks = self.by_head(to.as_slice_mut().unwrap_or_default(), 1).into_iter().enumerate();
        cx.team.for_each(tasks, |(i, (places, mut to))| {
            for (n, token) in places.iter().enumerate() {
                if let Some(t) = *token {
                    to.row(t)[0] = x[[i / h, n, i % h]];
                }
            }
        });
    }

    /// Adds the rows at the places to their tokens in the group that each head reads: `[B, N, H, D]` to `[B, T, G, D]`.
    pub(super) fn scatter_add(&self, x: &Array4<f32>, to: &mut Array4<f32>, cx: &Cx) {
        let (h, (_, t, g, d)) = (self.0.dim().1, to.dim());
        let rows = to.as_slice_mut().unwrap_or_default().chunks_mut((t * g * d).max(1));
        let tasks = rows.flat_map(|rows| Part::whole(rows, g * d).columns(d)).enumerate();
        cx.team.for_each(tasks, |(i, mut to)| {
            let (b, group) = (i / g, i % g);
            for head in group * (h / g)..(group + 1) * (h / g) {
                let of = x.slice(s![b, .., head, ..]);
                for (n, token) in self.0.slice(s![b, head, ..]).iter().enumerate() {
                    if let Some(t) = *token {
                        to.row(t).iter_mut().zip(of.row(n)).for_each(|(to, x)| *to += x);
                    }
                }
            }
        });
    }
}
