//! Linear layers and embeddings.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use longreach_gpu::{linear as few, rows};

use super::{Cube, Tensors, dims, run, run_back};
use crate::bridge::{Gradient, Run};
use crate::embedding::Embedding;
use crate::linear::Linear;

/// A tensor as rows of its last axis.
fn as_rows(x: &CubeTensor) -> CubeTensor {
    let shape = dims(x);
    let width = shape.last().copied().unwrap_or(0);
    let rows = shape[..shape.len() - 1].iter().product::<usize>();
    Cube::float_reshape(x.clone(), Shape::from(vec![rows, width]))
}

fn transposed(x: CubeTensor) -> CubeTensor {
    Cube::float_swap_dims(x, 0, 1)
}

impl Run<Cube> for Linear {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        let mut shape = dims(&inputs[0]);
        let rows = shape[..shape.len() - 1].iter().product::<usize>();
        let (out, width) = (dims(&inputs[1])[0], shape.last().copied().unwrap_or(0));
        shape.last_mut().into_iter().for_each(|width| *width = out);
        if rows <= few::ROWS {
            return run(inputs, |device, x| {
                let bias = x.get(2);
                Ok(vec![few::few_rows(device, &x[0].reshape(&[rows, width])?, &x[1], bias)?.reshape(&shape)?])
            });
        }
        if inputs.iter().any(|x| x.dtype != DType::F32) {
            return Err(inputs);
        }
        let mut y = Cube::float_matmul(as_rows(&inputs[0]), transposed(inputs[1].clone()));
        if let Some(bias) = inputs.get(2) {
            y = Cube::float_add(y, Cube::float_reshape(bias.clone(), Shape::from(vec![1, out])));
        }
        Ok(vec![Cube::float_reshape(y, Shape::from(shape))])
    }

    fn run_back(&self, of: Gradient<Cube>) -> Result<Vec<Option<CubeTensor>>, Gradient<Cube>> {
        let Some(d) = &of.d_out[0] else { return Err(of) };
        if of.inputs.iter().any(|x| x.dtype != DType::F32) {
            return Err(of);
        }
        let d = as_rows(d);
        let like = |g: CubeTensor, i: usize| Cube::float_reshape(g, Shape::from(dims(&of.inputs[i])));
        let mut gradients = vec![
            of.wanted[0].then(|| like(Cube::float_matmul(d.clone(), of.inputs[1].clone()), 0)),
            of.wanted[1].then(|| like(Cube::float_matmul(transposed(d.clone()), as_rows(&of.inputs[0])), 1)),
        ];
        if of.inputs.len() > 2 {
            gradients.push(of.wanted[2].then(|| like(Cube::float_sum_dim(d, 0), 2)));
        }
        Ok(gradients)
    }
}

impl Run<Cube> for Embedding {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| {
            let table = &x[0];
            let indices = rows::Indices::new(device, &self.ids, table.shape()[0])?;
            let shape = [self.batch, self.ids.len() / self.batch.max(1), table.shape()[1]];
            Ok(vec![rows::forward(device, table, &indices)?.reshape(&shape)?])
        })
    }

    fn run_back(&self, of: Gradient<Cube>) -> Result<Vec<Option<CubeTensor>>, Gradient<Cube>> {
        run_back(of, |b| {
            let table = &b.x[0];
            let indices = rows::Indices::new(&b.device, &self.ids, table.shape()[0])?;
            let d = b.d[0].reshape(&[self.ids.len(), table.shape()[1]])?;
            Ok(vec![rows::backward(&b.device, &d, &indices)?])
        })
    }
}
