//! Operators as nodes of Burn's autodiff graph.
//!
//! A node has a single output. Where an operator has several, the smallest one becomes the node, with the inputs as its
//! parents, and each of the others a child of it. The step of a child, which runs before that of its parent, lays its
//! gradient aside for the parent and passes on zeros of the smallest shape. So no output is copied, and one that nothing
//! was computed from has no gradient at all.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, TensorMetadata};
use burn::tensor::{Shape, Tensor};

use super::{Bridge, Compute, Gradient, Op, Pack};

impl<B: Compute, C: CheckpointStrategy> Bridge for Autodiff<B, C> {
    fn apply(op: Op, inputs: Pack<Self>) -> Pack<Self> {
        let inputs = inputs.into_vec();
        Pack::from_vec(match inputs.len() {
            1 => recorded::<B, C, 1>(op, inputs),
            2 => recorded::<B, C, 2>(op, inputs),
            3 => recorded::<B, C, 3>(op, inputs),
            4 => recorded::<B, C, 4>(op, inputs),
            5 => recorded::<B, C, 5>(op, inputs),
            6 => recorded::<B, C, 6>(op, inputs),
            7 => recorded::<B, C, 7>(op, inputs),
            8 => recorded::<B, C, 8>(op, inputs),
            _ => recorded::<B, C, 9>(op, inputs),
        })
    }
}

/// The gradients of the outputs that are children, by index, until the node itself takes them.
type Aside<B> = Arc<Mutex<Vec<Option<FloatTensor<B>>>>>;

/// An operator, as the node of its smallest output.
#[derive(Debug)]
struct Node<const N: usize>(Op);

/// What the graph stores for the gradient of a call.
#[derive(Clone, Debug)]
struct Stored<B: Backend, const N: usize> {
    inputs: [NodeId; N],
    saved: Vec<FloatTensor<B>>,
    shapes: Vec<Shape>,
    /// The output that the node stands for.
    smallest: usize,
    aside: Aside<B>,
}

impl<B: Compute, const N: usize> Backward<B, N> for Node<N> {
    type State = Stored<B, N>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpoints: &mut Checkpointer) {
        let Stored { inputs, saved, shapes, smallest, aside } = ops.state;
        let mut d_out = std::mem::take(&mut *aside.lock().unwrap_or_else(PoisonError::into_inner));
        d_out[smallest] = Some(grads.consume::<B>(&ops.node));
        let inputs = inputs.iter().map(|id| checkpoints.retrieve_node_output(*id)).collect();
        let wanted = ops.parents.iter().map(Option::is_some).collect();
        let d_in = B::gradients(&*self.0, Gradient { inputs, saved, shapes, d_out, wanted });
        for (parent, d) in ops.parents.into_iter().zip(d_in) {
            if let (Some(node), Some(d)) = (parent, d) {
                grads.register::<B>(node.id, d);
            }
        }
        self.0.more(&mut More(grads));
    }
}

/// The gradients of a backward pass, to which an operator adds those of tensors that are not its inputs.
pub struct More<'a>(&'a mut Gradients);

impl More<'_> {
    /// Adds to the gradient of `of`, which must be a leaf of the graph.
    pub fn add<const D: usize>(&mut self, of: &Tensor<D>, gradient: Tensor<D>) {
        let of = of.clone().into_dispatch();
        let sum = match Dispatch::grad(&of, self.0) {
            Some(earlier) => gradient + Tensor::from_dispatch(earlier),
            None => gradient,
        };
        Dispatch::grad_replace(&of, self.0, sum.into_dispatch());
    }
}

impl Debug for More<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("More").finish_non_exhaustive()
    }
}

/// One of the other outputs of an operator, as a child of the smallest.
#[derive(Debug)]
struct Child {
    /// Which output.
    index: usize,
}

impl<B: Backend> Backward<B, 1> for Child {
    /// Where its gradient goes, and the shape of the smallest output.
    type State = (Aside<B>, Shape);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (aside, smallest) = ops.state;
        let d = grads.consume::<B>(&ops.node);
        if let [Some(parent)] = ops.parents {
            // Without a gradient of its own the parent would not run.
            let zeros = B::float_zeros(smallest, &d.device(), d.dtype().into());
            grads.register::<B>(parent.id, zeros);
        }
        aside.lock().unwrap_or_else(PoisonError::into_inner)[self.index] = Some(d);
    }
}

/// The outputs of an operator as tensors of the graph.
fn recorded<B: Compute, C: CheckpointStrategy, const N: usize>(
    op: Op,
    inputs: Vec<FloatTensor<Autodiff<B, C>>>,
) -> Vec<FloatTensor<Autodiff<B, C>>> {
    let nodes: Vec<_> = inputs.iter().map(|t| t.node()).collect();
    let nodes: [_; N] = nodes.try_into().expect("one node per input");
    let wanted: Vec<bool> = inputs.iter().map(|t| t.is_tracked()).collect();
    let run = |inputs: Vec<FloatTensor<Autodiff<B, C>>>| {
        B::compute(&*op, inputs.into_iter().map(|t| t.into_primitive()).collect())
    };
    match Node::<N>(op.clone()).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => {
            let mut outputs = run(inputs).into_iter();
            let first = outputs.next().map(|out| prep.finish(out));
            first.into_iter().chain(outputs.map(<Autodiff<B, C>>::from_inner)).collect()
        }
        OpsKind::Tracked(mut prep) => {
            let ids: Vec<_> = inputs.iter().map(|t| prep.checkpoint(t)).collect();
            op.will_be_differentiated(&wanted);
            let mut outputs = run(inputs);
            let shapes: Vec<Shape> = outputs.iter().map(|t| t.shape()).collect();
            let smallest = smallest(&shapes);
            let stored = Stored {
                inputs: ids.try_into().expect("one node per input"),
                saved: op.saves().into_iter().map(|i| outputs[i].clone()).collect(),
                smallest,
                aside: Arc::new(Mutex::new(vec![None; shapes.len()])),
                shapes,
            };
            let (aside, shape) = (stored.aside.clone(), stored.shapes[smallest].clone());
            let parent = prep.finish(stored, outputs.remove(smallest));
            let child = |(i, out)| {
                let index = i + usize::from(i >= smallest);
                match (Child { index }).prepare::<C>([parent.node()]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish((aside.clone(), shape.clone()), out),
                    OpsKind::UnTracked(prep) => prep.finish(out),
                }
            };
            let mut outputs: Vec<_> = outputs.into_iter().enumerate().map(child).collect();
            outputs.insert(smallest, parent);
            outputs
        }
    }
}

/// The output with the fewest elements, but at least one if any has.
fn smallest(shapes: &[Shape]) -> usize {
    let size = |i: &usize| Some(shapes[*i].num_elements()).filter(|n| *n > 0).unwrap_or(usize::MAX);
    (0..shapes.len()).min_by_key(size).unwrap_or_default()
}
