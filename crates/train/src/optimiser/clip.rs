//! Clipping by the norm of all gradients. Pascanu et al. 2013.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// Adds up squares in f64.
struct Squares<'a> {
    of: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.of.get::<D>(param.id) else { return };
        let data = gradient.into_data();
        self.sum += match data.as_slice::<f32>() {
            Ok(numbers) => numbers.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>(),
            Err(_) => data.iter::<f32>().map(|x| f64::from(x) * f64::from(x)).sum::<f64>(),
        };
    }
}

/// Multiplies every gradient by a factor.
struct Scale<'a> {
    of: &'a mut GradientsParams,
    by: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.of.remove::<D>(param.id) {
            self.of.register(param.id, gradient.mul_scalar(self.by));
        }
    }
}

/// The norm of all gradients together.
pub(crate) fn norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    let mut squares = Squares { of: gradients, sum: 0.0 };
    module.visit(&mut squares);
    squares.sum.sqrt()
}

/// Multiplies gradients of the norm `norm` so that it is at most `most`.
pub(crate) fn clip<M: Module>(module: &M, gradients: &mut GradientsParams, norm: f64, most: f64) {
    if norm > most {
        module.visit(&mut Scale { of: gradients, by: most / norm });
    }
}
