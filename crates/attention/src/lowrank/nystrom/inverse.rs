//! The iterations for the pseudoinverse, and their gradient: small matrices, one head at a time.

use ndarray::{Array2, ArrayView2};

/// `softmax(s q kᵀ)` of a few rows.
pub(super) fn weights(q: ArrayView2<'_, f32>, k: ArrayView2<'_, f32>, scale: f32) -> Array2<f32> {
    let mut a = q.dot(&k.t());
    for mut row in a.rows_mut() {
        let top = row.iter().fold(f32::NEG_INFINITY, |top, x| top.max(scale * x));
        row.mapv_inplace(|x| (scale * x - top).exp());
        let by = 1.0 / row.sum();
        row *= by;
    }
    a
}

/// The gradient of the scores before scaling.
pub(super) fn weights_backward(a: &Array2<f32>, da: &Array2<f32>, scale: f32) -> Array2<f32> {
    let mut d = a * da;
    for (mut d, a) in d.rows_mut().into_iter().zip(a.rows()) {
        let sum = d.sum();
        d.zip_mut_with(&a, |d, a| *d = scale * (*d - sum * a));
    }
    d
}

/// The largest column sum, and the column.
pub(super) fn greatest(a: &Array2<f32>) -> (f32, usize) {
    let sums = a.columns().into_iter().map(|column| column.sum()).enumerate();
    sums.fold((f32::NEG_INFINITY, 0), |(most, at), (j, sum)| if sum > most { (sum, j) } else { (most, at) })
}

/// `n − X`
fn less(n: f32, x: &Array2<f32>) -> Array2<f32> {
    let mut y = -x;
    y.diag_mut().mapv_inplace(|y| y + n);
    y
}

/// `Z_0, Z_1, …`
pub(super) fn inverse(a: &Array2<f32>, c: f32, iterations: usize) -> Vec<Array2<f32>> {
    let mut all = vec![&a.t() / c];
    for i in 0..iterations {
        let z = &all[i];
        let y = a.dot(z);
        let inner = less(13.0, &y.dot(&less(15.0, &y.dot(&less(7.0, &y)))));
        let next = z.dot(&inner) * 0.25;
        all.push(next);
    }
    all
}

/// The gradients of `A` and `c`, given that of the last of `zs`.
pub(super) fn inverse_backward(a: &Array2<f32>, c: f32, zs: &[Array2<f32>], mut dz: Array2<f32>) -> (Array2<f32>, f32) {
    let mut da = Array2::zeros(a.dim());
    for z in zs[..zs.len().saturating_sub(1)].iter().rev() {
        let y = a.dot(z);
        let first = less(7.0, &y);
        let second = less(15.0, &y.dot(&first));
        let third = less(13.0, &y.dot(&second));
        let d_third = z.t().dot(&dz) * 0.25;
        let d_second = -y.t().dot(&d_third);
        let d_first = -y.t().dot(&d_second);
        let dy = -(d_third.dot(&second.t()) + d_second.dot(&first.t()) + &d_first);
        da += &dy.dot(&z.t());
        dz = dz.dot(&third.t()) * 0.25 + a.t().dot(&dy);
    }
    da += &(&dz.t() / c);
    let dc = -(&a.t() * &dz).sum() / (c * c);
    (da, dc)
}
