//! Recomputation of activations: a block keeps its inputs alone, and is run again on the way back.
//!
//! A model whose blocks are recomputed stores the input of each block, and during the backward pass the activations of one
//! block. The cost is one more forward pass. The gradients are the same in every bit, as the second run repeats the first.
//! Chen et al. 2016 (Training Deep Nets with Sublinear Memory Cost), §4.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use longreach_burn::bridge::{Call, Inputs, More, Operator, Plain};
use longreach_simd::Cx;

use crate::dropout::Drops;
use crate::mixers::Shared;
use crate::rotary::RotaryCache;
use crate::{Block, LayerState, OnTensors};

/// What a module computes of its inputs.
type Run<M> = dyn Fn(&M, Vec<Tensor<3>>) -> Vec<Tensor<3>> + Send + Sync;

/// The outputs of `run`, which computes them from a module and `inputs` and is deterministic. If gradients are recorded, none of
/// its intermediate results are stored. There are at most eight inputs, and as many outputs.
pub(crate) fn recomputed<M: Module + Sync + 'static>(
    module: &M,
    inputs: Vec<Tensor<3>>,
    run: impl Fn(&M, Vec<Tensor<3>>) -> Vec<Tensor<3>> + Send + Sync + 'static,
) -> Vec<Tensor<3>> {
    let device = inputs[0].device();
    let given: Vec<Tensor<3>> = inputs.iter().map(|x| x.clone().inner()).collect();
    // Without a graph, but as if there was one: operations may add up in another order where none can be recorded.
    let constants = given.iter().map(|x| x.clone().autodiff()).collect();
    let outputs = run(&module.clone().map(&mut Place { leaves: false }), constants);
    let outputs: Vec<Plain> = outputs.into_iter().map(|y| plain(y.inner())).collect();
    let count = outputs.len();
    let again = Again {
        module: module.clone(),
        inputs: given,
        shapes: outputs.iter().map(|y| y.shape.clone()).collect(),
        outputs: Mutex::new(outputs),
        run: Arc::new(run),
        of_parameters: Mutex::default(),
    };
    // A leaf puts the call on the graph, also if the module has parameters that learn and no input does.
    let leaf = Tensor::<1>::zeros([1], &device).require_grad();
    let mut out = inputs.into_iter().fold(Call::new(), Call::with).with(leaf).run(again);
    (0..count).map(|_| out.output()).collect()
}

fn plain<const D: usize>(x: Tensor<D>) -> Plain {
    Plain::new(x.dims(), x.into_data().iter::<f32>().collect())
}

/// Places the parameters outside of their graph, or as leaves on a graph of their own.
struct Place {
    leaves: bool,
}

impl ModuleMapper for Place {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, learns) = (param.id, param.is_require_grad());
        let x = param.val().inner().autodiff();
        Param::initialized(id, if self.leaves && learns { x.require_grad() } else { x })
    }
}

/// Takes the gradients of the parameters that learn, flattened, in order.
struct Take<'a>(&'a Gradients, Vec<Tensor<1>>);

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let x = param.val();
            let n = x.shape().num_elements();
            let zeros = || Tensor::zeros([n], &x.device().inner());
            self.1.push(x.grad(self.0).map_or_else(zeros, |gradient| gradient.reshape([n])));
        }
    }
}

/// Adds them to those of the parameters on the outer graph.
struct Add<'a, 'b>(&'a mut More<'b>, std::vec::IntoIter<Tensor<1>>);

impl ModuleVisitor for Add<'_, '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let x = param.val();
            let gradient = self.1.next().expect("a gradient for each parameter that learns");
            self.0.add(&x, gradient.reshape(x.dims()));
        }
    }
}

struct Again<M> {
    /// With its parameters on the outer graph.
    module: M,
    inputs: Vec<Tensor<3>>,
    shapes: Vec<Vec<usize>>,
    /// Until they are handed out.
    outputs: Mutex<Vec<Plain>>,
    run: Arc<Run<M>>,
    of_parameters: Mutex<Vec<Tensor<1>>>,
}

impl<M> fmt::Debug for Again<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recomputed").field("outputs", &self.shapes).finish_non_exhaustive()
    }
}

impl<M: Module + Sync + 'static> Operator for Again<M> {
    fn name(&self) -> &str {
        "recomputed"
    }

    fn forward(&self, _: &mut Inputs, _: &Cx) -> Vec<Plain> {
        std::mem::take(&mut *self.outputs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn backward(&self, _: &Inputs, d_out: &[Plain], _: &Cx) -> Vec<Plain> {
        let device = self.inputs[0].device();
        let module = self.module.clone().map(&mut Place { leaves: true });
        let inputs: Vec<Tensor<3>> = self.inputs.iter().map(|x| x.clone().autodiff().require_grad()).collect();
        let outputs = (self.run)(&module, inputs.clone());
        let weighed = outputs.into_iter().zip(d_out).map(|(y, d)| {
            let d = Tensor::<3>::from_data(TensorData::new(d.data.clone(), d.shape.clone()), &device);
            (y * d.autodiff()).sum()
        });
        let objective = weighed.reduce(|sum, of_output| sum + of_output).expect("at least one output");
        let gradients = objective.backward();
        let mut take = Take(&gradients, Vec::new());
        module.visit(&mut take);
        *self.of_parameters.lock().unwrap_or_else(PoisonError::into_inner) = take.1;
        let of_inputs = inputs.iter().map(|x| match x.grad(&gradients) {
            Some(gradient) => plain(gradient),
            None => Plain::unwritten(x.dims()),
        });
        of_inputs.chain([Plain::unwritten([1])]).collect()
    }

    fn more(&self, gradients: &mut More<'_>) {
        let taken = std::mem::take(&mut *self.of_parameters.lock().unwrap_or_else(PoisonError::into_inner));
        self.module.visit(&mut Add(gradients, taken.into_iter()));
    }
}

/// Finds whether any tensor of a state is on a graph.
struct Tracked(bool);

impl OnTensors for Tracked {
    fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        self.0 |= x.is_tracked();
        x
    }
}

/// What a run of a block leaves beside its outputs.
struct After {
    state: LayerState,
    angles: RotaryCache,
    drops: Option<Drops>,
    first_values: bool,
    loss: bool,
}

impl Block {
    /// As [`Block::forward`], without storing activations if gradients are recorded. They are stored all the same where a
    /// gradient flows to the state before, and by blocks that share keys and values with others.
    pub(crate) fn recomputed(&self, x: Tensor<3>, state: &mut LayerState, shared: &mut Shared) -> Tensor<3> {
        let mut tracked = Tracked(false);
        let before = state.clone().map(&mut tracked);
        if !x.is_autodiff() || tracked.0 || self.shares_keys() {
            return self.forward(x, state, shared);
        }
        let after: Arc<Mutex<Option<After>>> = Arc::default();
        let bound = shared.lower_bound.take().map(|bound| bound.unsqueeze::<3>());
        let handed = [shared.first_values.clone(), bound, shared.embedded.clone(), shared.per_layer.clone()];
        let given = handed.each_ref().map(Option::is_some);
        let inputs = std::iter::once(x).chain(handed.into_iter().flatten()).collect();
        let template = Shared {
            padding: shared.padding.clone(),
            packed: shared.packed.clone(),
            angles: std::mem::take(&mut shared.angles),
            drops: shared.drops,
            ..Shared::default()
        };
        let left = after.clone();
        let mut outputs = recomputed(self, inputs, move |block: &Self, inputs| {
            let (mut state, mut shared, mut inputs) = (before.clone(), template.clone(), inputs.into_iter());
            let x = inputs.next().expect("the input of the block");
            let [first, bound, embedded, per_layer] = given.map(|given| if given { inputs.next() } else { None });
            shared.lower_bound = bound.map(|bound| {
                let width = bound.dims()[2];
                bound.reshape([width])
            });
            (shared.first_values, shared.embedded, shared.per_layer) = (first, embedded, per_layer);
            let y = block.forward(x, &mut state, &mut shared);
            let first = shared.first_values.filter(|_| !given[0]);
            let loss = shared.loss.map(|loss| loss.unsqueeze::<3>());
            let (first_values, has_loss) = (first.is_some(), loss.is_some());
            *left.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(After { state, angles: shared.angles, drops: shared.drops, first_values, loss: has_loss });
            std::iter::once(y).chain(first).chain(loss).collect()
        })
        .into_iter();
        let y = outputs.next().expect("the output of the block");
        let left = after.lock().unwrap_or_else(PoisonError::into_inner).take().expect("the block was run");
        (*state, shared.angles, shared.drops) = (left.state, left.angles, left.drops);
        if left.first_values {
            shared.first_values = outputs.next();
        }
        if let (true, Some(loss)) = (left.loss, outputs.next()) {
            let loss = loss.reshape([1]);
            shared.loss = Some(match shared.loss.take() {
                Some(sum) => sum + loss,
                None => loss,
            });
        }
        y
    }
}
