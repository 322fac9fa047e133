//! Reversible residual blocks: the backward pass recomputes their inputs from their outputs, so that a stack stores
//! no activations.
//!
//! $$ y_1 = x_1 + f(x_2), \qquad y_2 = x_2 + g(y_1) $$
//!
//! A stack of any depth stores only its last output and, during the backward pass, the activations of one block. The
//! cost is one additional forward pass. Gomez et al. 2017 (RevNet), eq. 8–9; Kitaev et al. 2020 (Reformer), §3.

use std::sync::{Arc, Mutex};

use burn::module::{Module, ModuleDisplay, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use longreach_burn::bridge::{Call, Inputs, Operator, Plain};
use longreach_simd::Cx;

/// A deterministic layer `[B, T, d]` → `[B, T, d]`: without dropout.
pub trait Residual: Module + ModuleDisplay + Sync + 'static {
    /// The residual of `x`.
    fn residual(&self, x: Tensor<3>) -> Tensor<3>;
}

/// A reversible block.
#[derive(Module, Debug)]
pub struct Reversible<F: Module, G: Module> {
    /// The layer added to the first half.
    pub f: F,
    /// The layer added to the second half.
    pub g: G,
}

impl<F: Residual, G: Residual> Reversible<F, G> {
    /// The outputs of the block.
    pub fn forward(&self, x1: Tensor<3>, x2: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let y1 = x1 + self.f.residual(x2.clone());
        let y2 = x2 + self.g.residual(y1.clone());
        (y1, y2)
    }
}

/// The outputs of a stack of blocks. If gradients are recorded, no intermediate results between the stack's input and
/// its output are stored. Panics if a layer changes the shape.
pub fn reversible<F: Residual, G: Residual>(
    blocks: &[Reversible<F, G>],
    x1: Tensor<3>,
    x2: Tensor<3>,
) -> (Tensor<3>, Tensor<3>) {
    // All parameters are concatenated into one input tensor, through which their gradients are returned.
    let mut flat = Flat(Vec::new());
    blocks.iter().for_each(|block| block.visit(&mut flat));
    if flat.0.is_empty() {
        flat.0.push(Tensor::zeros([1], &x1.device()));
    }
    let blocks = blocks.iter().map(|block| block.clone().map(&mut Plainly)).collect();
    let op = Op { blocks: Blocks(Arc::new(blocks)), device: x1.device().inner(), wanted: Mutex::default() };
    let mut out = Call::new().with(x1).with(x2).with(Tensor::cat(flat.0, 0)).run(op);
    (out.output(), out.output())
}

/// Collects the parameters.
struct Flat(Vec<Tensor<1>>);

impl ModuleVisitor for Flat {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let n = param.val().shape().num_elements();
        self.0.push(param.val().reshape([n]));
    }
}

/// Detaches the parameters from the graph.
struct Plainly;

impl ModuleMapper for Plainly {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, x) = (param.id, param.val());
        Param::initialized(id, if x.device().is_autodiff() { x.inner() } else { x })
    }
}

/// Marks the parameters as leaves of a graph of their own.
struct Recorded;

impl ModuleMapper for Recorded {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        Param::initialized(id, param.val().autodiff().require_grad())
    }
}

/// Collects the gradients of the parameters, in the order of [`Flat`].
struct Collect<'a> {
    gradients: &'a burn::tensor::Gradients,
    flat: Vec<f32>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let x = param.val();
        match x.grad(self.gradients) {
            Some(gradient) => self.flat.extend(gradient.into_data().iter::<f32>()),
            None => self.flat.extend(std::iter::repeat_n(0.0, x.shape().num_elements())),
        }
    }
}

/// The blocks, detached from the graph.
struct Blocks<F: Residual, G: Residual>(Arc<Vec<Reversible<F, G>>>);

struct Op<F: Residual, G: Residual> {
    blocks: Blocks<F, G>,
    /// That of the blocks.
    device: Device,
    /// `Some` if a backward pass will follow; it then holds the outputs of the forward pass.
    wanted: Mutex<Option<Option<[Plain; 2]>>>,
}

impl<F: Residual, G: Residual> std::fmt::Debug for Op<F, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reversible").field("blocks", &self.blocks.0.len()).finish_non_exhaustive()
    }
}

fn tensor(x: &Plain, device: &Device) -> Tensor<3> {
    Tensor::from_data(TensorData::new(x.data.clone(), x.shape.clone()), device)
}

fn plain(x: Tensor<3>) -> Plain {
    let shape = x.dims().to_vec();
    Plain::new(shape, x.into_data().iter::<f32>().collect())
}

impl<F: Residual, G: Residual> Op<F, G> {
    fn run(&self, inputs: &Inputs) -> [Plain; 2] {
        let read = |i: usize| Plain::new(inputs.shape(i), inputs.contiguous(i).into_owned());
        let (x1, x2) = (tensor(&read(0), &self.device), tensor(&read(1), &self.device));
        let (y1, y2) = self.blocks.0.iter().fold((x1, x2), |(x1, x2), block| block.forward(x1, x2));
        [plain(y1), plain(y2)]
    }
}

/// The output of a layer, the gradient of its input and the gradients of its parameters, given the gradient `d` of
/// the output.
fn pull<M: Residual>(layer: &M, x: Tensor<3>, d: Tensor<3>) -> (Tensor<3>, Tensor<3>, Vec<f32>) {
    let layer = layer.clone().map(&mut Recorded);
    let x = x.autodiff().require_grad();
    let y = layer.residual(x.clone());
    let gradients = (y.clone() * d.autodiff()).sum().backward();
    let mut collect = Collect { gradients: &gradients, flat: Vec::new() };
    layer.visit(&mut collect);
    let flat = collect.flat;
    let dx = x.grad(&gradients).unwrap_or_else(|| x.clone().inner().zeros_like());
    (y.inner(), dx, flat)
}

impl<F: Residual, G: Residual> Operator for Op<F, G> {
    fn name(&self) -> &str {
        "reversible"
    }

    fn forward(&self, inputs: &mut Inputs, _: &Cx) -> Vec<Plain> {
        let outputs = self.run(inputs);
        if let Some(kept) = &mut *self.wanted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            *kept = Some(outputs.clone());
        }
        outputs.into()
    }

    fn will_be_differentiated(&self, _: &[bool]) {
        *self.wanted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(None);
    }

    fn backward(&self, inputs: &Inputs, d_out: &[Plain], _: &Cx) -> Vec<Plain> {
        let kept = self.wanted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().flatten();
        let [y1, y2] = kept.unwrap_or_else(|| self.run(inputs));
        let (mut y1, mut y2) = (tensor(&y1, &self.device), tensor(&y2, &self.device));
        let (mut d1, mut d2) = (tensor(&d_out[0], &self.device), tensor(&d_out[1], &self.device));
        let mut parameters: Vec<Vec<f32>> = Vec::new();
        for block in self.blocks.0.iter().rev() {
            let (added, back, of_g) = pull(&block.g, y1.clone(), d2.clone());
            let x2 = y2 - added;
            d1 = d1 + back;
            let (added, back, of_f) = pull(&block.f, x2.clone(), d1.clone());
            y1 = y1 - added;
            y2 = x2;
            d2 = d2 + back;
            parameters.push([of_f, of_g].concat());
        }
        parameters.reverse();
        let shape = inputs.shape(2);
        let mut flat = parameters.concat();
        flat.resize(shape.iter().product(), 0.0);
        vec![plain(d1), plain(d2), Plain::new(shape, flat)]
    }
}
