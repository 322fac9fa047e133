//! Mechanisms with a state, and the short convolution before them.

use burn_cubecl::tensor::CubeTensor;
use longreach_gpu::mechanisms::{delta, linear};
use longreach_gpu::{Error, View, fast_weights, short_conv};

use super::{Cube, Tensors, run, run_back};
use crate::bridge::{Gradient, Run};
use crate::conv::ShortConv;
use crate::mamba2::{STATE, Scan};
use crate::recurrence::{delta_rule, gated_delta, gla};

type Gradients = Result<Vec<Option<CubeTensor>>, Gradient<Cube>>;

impl ShortConv {
    fn views<'a>(&'a self, x: &'a [View]) -> short_conv::Inputs<'a> {
        let (activation, sequences) = (self.activation, self.sequences.sequences());
        short_conv::Inputs { x: &x[0], w: &x[1], bias: x.get(3), activation, sequences }
    }
}

impl Run<Cube> for ShortConv {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| short_conv::forward(device, &self.views(x), &x[2]).map(|(y, state)| vec![y, state]))
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| {
            let g = short_conv::backward(&b.device, &self.views(&b.x), &b.x[2], &b.d[0], &b.d[1])?;
            Ok([g.x, g.w, g.state].into_iter().chain(g.bias).collect())
        })
    }
}

/// `[B, T, N C]` with the last axis divided among `n`.
fn split(x: &View, n: usize) -> Result<View, Error> {
    let &[b, t, width] = x.shape() else { return x.reshape(x.shape()) };
    x.reshape(&[b, t, n, width / n.max(1)])
}

/// The inputs of Mamba-2 with heads and groups apart.
struct Apart {
    x: View,
    b: View,
    c: View,
}

impl Scan {
    fn apart(&self, x: &[View]) -> Result<Apart, Error> {
        Ok(Apart { x: split(&x[0], self.heads)?, b: split(&x[4], self.groups)?, c: split(&x[5], self.groups)? })
    }

    fn views<'a>(&'a self, x: &'a [View], apart: &'a Apart) -> linear::mamba2::Inputs<'a> {
        linear::mamba2::Inputs {
            x: &apart.x,
            dt: &x[1],
            dt_bias: &x[2],
            dt_limit: self.dt_limit,
            a: &x[3],
            b: &apart.b,
            c: &apart.c,
            d: &x[6],
            sequences: self.sequences.sequences(),
        }
    }
}

impl Run<Cube> for Scan {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| {
            let apart = self.apart(x)?;
            let (y, state) = linear::mamba2::forward(device, &self.views(x, &apart), &x[STATE])?;
            Ok(vec![y.reshape(x[0].shape())?, state])
        })
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| {
            let apart = self.apart(&b.x)?;
            let d = split(&b.d[0], self.heads)?;
            let g = linear::mamba2::backward(&b.device, &self.views(&b.x, &apart), &b.x[STATE], &d, &b.d[1])?;
            let flat = |g: View, i: usize| g.reshape(b.x[i].shape());
            Ok(vec![flat(g.x, 0)?, g.dt, g.dt_bias, g.a, flat(g.b, 4)?, flat(g.c, 5)?, g.d, g.state])
        })
    }
}

impl Run<Cube> for gla::Of {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| fast_weights::forward(device, &self.views(x), &x[4]).map(|(y, state)| vec![y, state]))
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| gradients(fast_weights::backward(&b.device, &self.views(&b.x), &b.x[4], &b.d[0], &b.d[1])?))
    }
}

impl gla::Of {
    fn views<'a>(&'a self, x: &'a [View]) -> linear::gla::Inputs<'a> {
        let sequences = self.sequences.sequences();
        linear::gla::Inputs { q: &x[0], k: &x[1], v: &x[2], g: &x[3], scale: self.scale, sequences }
    }
}

impl Run<Cube> for delta_rule::Of {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| fast_weights::forward(device, &self.views(x), &x[4]).map(|(y, state)| vec![y, state]))
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| gradients(fast_weights::backward(&b.device, &self.views(&b.x), &b.x[4], &b.d[0], &b.d[1])?))
    }
}

impl delta_rule::Of {
    fn views<'a>(&'a self, x: &'a [View]) -> delta::delta_rule::Inputs<'a> {
        let sequences = self.sequences.sequences();
        delta::delta_rule::Inputs { q: &x[0], k: &x[1], v: &x[2], beta: &x[3], scale: self.scale, sequences }
    }
}

impl Run<Cube> for gated_delta::Of {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| fast_weights::forward(device, &self.views(x), &x[5]).map(|(y, state)| vec![y, state]))
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| gradients(fast_weights::backward(&b.device, &self.views(&b.x), &b.x[5], &b.d[0], &b.d[1])?))
    }
}

impl gated_delta::Of {
    fn views<'a>(&'a self, x: &'a [View]) -> delta::gated_delta::Inputs<'a> {
        let sequences = self.sequences.sequences();
        let (g, beta) = (&x[3], &x[4]);
        delta::gated_delta::Inputs { q: &x[0], k: &x[1], v: &x[2], g, beta, scale: self.scale, sequences }
    }
}

/// Gradients in the order of the inputs: queries, keys and values, then the gate and the strength of those that have them, then the state.
fn gradients(g: fast_weights::Gradient) -> Result<Vec<View>, Error> {
    Ok([g.q, g.k, g.v].into_iter().chain(g.g).chain(g.beta).chain([g.state]).collect())
}
