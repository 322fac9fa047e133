//! Element-wise operations, norms and rotary positions.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Shape, Slice};
use burn_cubecl::tensor::CubeTensor;
use longreach_gpu::{DType, Device, Error, View, activation, norm as norms, rotary as turns};
use longreach_simd::activation::Activation;

use super::{Cube, Tensors, dims, run, run_back};
use crate::bridge::{Gradient, Run};
use crate::elementwise::{Activate, Add, Gated, NegExp, SiluTimes};
use crate::norm::{LayerNorm, Norm};
use crate::rotary::Turn;

type Gradients = Result<Vec<Option<CubeTensor>>, Gradient<Cube>>;

impl Run<Cube> for Add {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        Ok(vec![Cube::float_add(inputs[0].clone(), inputs[1].clone())])
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        let Some(d) = &of.d_out[0] else { return Err(of) };
        Ok(of.wanted.iter().map(|wanted| wanted.then(|| d.clone())).collect())
    }
}

impl Run<Cube> for NegExp {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        Ok(vec![Cube::float_neg(Cube::float_exp(inputs[0].clone()))])
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        let Some(d) = &of.d_out[0] else { return Err(of) };
        let slope = Cube::float_neg(Cube::float_exp(of.inputs[0].clone()));
        Ok(vec![of.wanted[0].then(|| Cube::float_mul(slope, d.clone()))])
    }
}

impl Run<Cube> for SiluTimes {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| Ok(vec![activation::gated(device, &x[0], &x[1], Activation::Silu)?]))
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| Ok(activation::gated_backward(&b.device, &b.x[0], &b.x[1], Activation::Silu, &b.d[0])?.into()))
    }
}

impl Run<Cube> for Activate {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| Ok(vec![activation::forward(device, &x[0], self.0)?]))
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| Ok(vec![activation::backward(&b.device, &b.x[0], self.0, &b.d[0])?]))
    }
}

/// The two halves of the last axis.
fn halves(x: &CubeTensor) -> Tensors {
    let shape = dims(x);
    let width = shape.last().copied().unwrap_or(0) / 2;
    let half = |from: usize| {
        let last = shape.len() - 1;
        let axis = |(i, n): (usize, &usize)| {
            let range = if i == last { from..from + width } else { 0..*n };
            Slice::from(range.start as isize..range.end as isize)
        };
        let slices: Vec<Slice> = shape.iter().enumerate().map(axis).collect();
        Cube::float_slice(x.clone(), &slices)
    };
    vec![half(0), half(width)]
}

impl Run<Cube> for Gated {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(halves(&inputs[0]), |device, x| Ok(vec![activation::gated(device, &x[0], &x[1], self.0)?]))
            .map_err(|_| inputs)
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        let parts = Gradient {
            inputs: halves(&of.inputs[0]),
            saved: Vec::new(),
            shapes: of.shapes.clone(),
            d_out: of.d_out.clone(),
            wanted: vec![true; 2],
        };
        let back =
            run_back(parts, |b| Ok(activation::gated_backward(&b.device, &b.x[0], &b.x[1], self.0, &b.d[0])?.into()));
        let Ok(halves) = back else { return Err(of) };
        let last = dims(&of.inputs[0]).len() - 1;
        Ok(vec![of.wanted[0].then(|| Cube::float_cat(halves.into_iter().flatten().collect(), last))])
    }
}

impl Norm {
    /// The norm of rows of one group each, without weights: these differ from group to group.
    fn apart(&self) -> norms::Norm {
        norms::Norm { centred: false, epsilon: self.eps, weight: None, bias: None }
    }

    /// Whether a row is one group, whose weights the kernel applies.
    fn whole(&self, x: &View) -> bool {
        x.shape().last() == Some(&self.group)
    }

    fn of_rows(&self, x: &[View]) -> norms::Norm {
        norms::Norm { weight: self.weighted.then(|| x[1].clone()), ..self.apart() }
    }

    /// What is normalised: the input, or its product with the activated gate.
    fn input(&self, device: &Device, x: &[View]) -> Result<View, Error> {
        if self.gated { activation::gated(device, &x[2], &x[0], Activation::Silu) } else { Ok(x[0].clone()) }
    }

    fn groups(&self, x: &View) -> Result<View, Error> {
        x.reshape(&[x.len() / self.group.max(1), self.group])
    }
}

impl Run<Cube> for Norm {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        let (shape, weight) = (dims(&inputs[0]), inputs.get(1).cloned());
        let width = shape.last().copied().unwrap_or(0);
        let outputs = run(inputs, |device, x| {
            let u = self.input(device, x)?;
            if self.whole(&u) {
                return Ok(vec![norms::forward(device, &u, &self.of_rows(x))?]);
            }
            Ok(vec![norms::forward(device, &self.groups(&u)?, &self.apart())?.reshape(&shape)?])
        })?;
        match weight.filter(|_| self.weighted && width != self.group) {
            Some(weight) => Ok(outputs.into_iter().map(|y| times_row(y, &weight)).collect()),
            None => Ok(outputs),
        }
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        // Groups with weights of their own are the host's.
        if dims(&of.inputs[0]).last() != Some(&self.group) {
            return Err(of);
        }
        run_back(of, |b| {
            let u = self.input(&b.device, &b.x)?;
            let g = norms::backward(&b.device, &u, &self.of_rows(&b.x), &b.d[0])?;
            let mut gradients = vec![g.x.clone()];
            if self.weighted {
                gradients.push(g.weight);
            }
            if self.gated {
                let [dz, dx] = activation::gated_backward(&b.device, &b.x[2], &b.x[0], Activation::Silu, &g.x)?;
                gradients[0] = dx;
                gradients.push(dz);
            }
            Ok(gradients)
        })
    }
}

/// Each row times `w: [C]`.
fn times_row(x: CubeTensor, w: &CubeTensor) -> CubeTensor {
    let shape = dims(&x);
    let mut row = vec![1; shape.len()];
    row.last_mut().into_iter().for_each(|width| *width = shape[shape.len() - 1]);
    Cube::float_mul(x, Cube::float_reshape(w.clone(), Shape::from(row)))
}

impl LayerNorm {
    fn of(&self, x: &[View]) -> norms::Norm {
        let bias = self.bias.then(|| x[2].clone());
        norms::Norm { centred: true, epsilon: self.eps, weight: Some(x[1].clone()), bias }
    }

    /// The inputs, with the sum of the two addends in place of the first.
    fn added(&self, inputs: &[CubeTensor]) -> Tensors {
        let mut inputs = inputs.to_vec();
        if self.sum
            && let Some(other) = inputs.pop()
        {
            inputs[0] = Cube::float_add(inputs[0].clone(), other);
        }
        inputs
    }
}

impl Run<Cube> for LayerNorm {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(self.added(&inputs), |device, x| Ok(vec![norms::forward(device, &x[0], &self.of(x))?])).map_err(|_| inputs)
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        let added = Gradient {
            inputs: self.added(&of.inputs),
            saved: Vec::new(),
            shapes: of.shapes.clone(),
            d_out: of.d_out.clone(),
            wanted: vec![true; of.inputs.len()],
        };
        let back = run_back(added, |b| {
            let g = norms::backward(&b.device, &b.x[0], &self.of(&b.x), &b.d[0])?;
            let mut gradients = vec![g.x.clone(), g.weight];
            gradients.extend(self.bias.then_some(g.bias));
            gradients.extend(self.sum.then_some(g.x));
            Ok(gradients)
        });
        match back {
            Ok(all) => Ok(all.into_iter().zip(&of.wanted).map(|(d, wanted)| d.filter(|_| *wanted)).collect()),
            Err(_) => Err(of),
        }
    }
}

impl Turn {
    fn angles(&self, device: &Device) -> turns::Angles {
        let [cos, sin] = self.0.cos_sin().map(|(numbers, shape)| View::upload(device, numbers, &shape, DType::F32));
        turns::Angles { cos, sin, interleaved: self.0.is_interleaved() }
    }
}

impl Run<Cube> for Turn {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| Ok(vec![turns::forward(device, &x[0], &self.angles(device))?]))
    }

    fn run_back(&self, of: Gradient<Cube>) -> Gradients {
        run_back(of, |b| Ok(vec![turns::backward(&b.device, &b.d[0], &self.angles(&b.device))?]))
    }
}
