//! Gradients of the operations. Only those that some tracked input needs are computed.

use crate::{
    Activation, ConvOptions,
    norm::Scope,
    ops::{KernelOps, Optional},
};
use burn::backend::{AutodiffBackend, Backend, TensorMetadata, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

/// Which field of a convolution an operation computes from the other.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Far,
    Near,
}

/// Parents: field read, weights, and the bias if there is one.
#[derive(Debug)]
struct Convolution;

#[derive(Clone, Debug)]
struct ConvolutionState {
    direction: Direction,
    source: NodeId,
    weight: NodeId,
    options: ConvOptions,
    source_size: [usize; 2],
    kernel: [usize; 2],
}

impl<B: KernelOps, const N: usize> Backward<B, N> for Convolution {
    type State = ConvolutionState;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let s = ops.state;
        let parent = |i: usize| ops.parents.get(i).and_then(|node| node.as_ref());
        // Both are retrieved even if not needed, to release what the tape holds of them.
        let source = saved.retrieve_node_output::<B::FloatTensorPrimitive>(s.source);
        let weight = saved.retrieve_node_output::<B::FloatTensorPrimitive>(s.weight);
        if let Some(node) = parent(0) {
            let gradient = match s.direction {
                Direction::Far => B::conv_near(g.clone(), weight, Optional::None, s.options, s.source_size),
                Direction::Near => B::conv_far(g.clone(), weight, Optional::None, s.options, s.source_size),
            };
            grads.register::<B>(node.id, gradient);
        }
        if let Some(node) = parent(1) {
            let gradient = match s.direction {
                Direction::Far => B::conv_weights(source, g.clone(), s.kernel, s.options),
                Direction::Near => B::conv_weights(g.clone(), source, s.kernel, s.options),
            };
            grads.register::<B>(node.id, gradient);
        }
        if let Some(node) = parent(2) {
            grads.register::<B>(node.id, B::channel_sums(g));
        }
    }
}

/// Records a convolution in either direction.
fn convolve<B: KernelOps, C: CheckpointStrategy>(
    direction: Direction,
    source: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    bias: Optional<Autodiff<B, C>>,
    options: ConvOptions,
    size: [usize; 2],
) -> FloatTensor<Autodiff<B, C>> {
    let compute = |source, weight, bias| match direction {
        Direction::Far => B::conv_far(source, weight, bias, options, size),
        Direction::Near => B::conv_near(source, weight, bias, options, size),
    };
    let [_, _, h, w] = source.shape().dims();
    let [_, _, kh, kw] = weight.shape().dims();
    let state =
        |source, weight| ConvolutionState { direction, source, weight, options, source_size: [h, w], kernel: [kh, kw] };
    macro_rules! record {
        ($parents:expr, $bias:expr) => {
            match Backward::<B, _>::prepare::<C>(Convolution, $parents).compute_bound().stateful() {
                OpsKind::Tracked(mut prep) => {
                    let state = state(prep.checkpoint(&source), prep.checkpoint(&weight));
                    prep.finish(state, compute(source.into_primitive(), weight.into_primitive(), $bias))
                }
                OpsKind::UnTracked(prep) => {
                    prep.finish(compute(source.into_primitive(), weight.into_primitive(), $bias))
                }
            }
        };
    }
    match bias {
        Optional::Some(bias) => {
            record!([source.node(), weight.node(), bias.node()], Optional::Some(bias.into_primitive()))
        }
        Optional::None => record!([source.node(), weight.node()], Optional::None),
    }
}

/// Parents: input, gamma, beta.
#[derive(Debug)]
struct Normalisation;

#[derive(Clone, Debug)]
struct NormalisationState<B: Backend> {
    inputs: [NodeId; 3],
    mean: FloatTensor<B>,
    var: FloatTensor<B>,
    scope: Scope,
    eps: f64,
    activation: Activation,
}

impl<B: KernelOps> Backward<B, 3> for Normalisation {
    type State = NormalisationState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let s = ops.state;
        let [x, gamma, beta] = s.inputs.map(|id| saved.retrieve_node_output::<B::FloatTensorPrimitive>(id));
        let wants_input = ops.parents[0].is_some();
        let (dx, dgamma, dbeta) =
            B::norm_gradient(x, g, s.mean, s.var, gamma, beta, s.scope, s.eps, s.activation, wants_input);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dgamma, dbeta]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Parent: input.
#[derive(Debug)]
struct Activating;

impl<B: KernelOps> Backward<B, 1> for Activating {
    type State = (NodeId, Activation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let (x, activation) = ops.state;
        let x = saved.retrieve_node_output::<B::FloatTensorPrimitive>(x);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::activation_gradient(x, g, activation));
        }
    }
}

impl<B: KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        match Backward::<B, 1>::prepare::<C>(Activating, [x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), activation);
                prep.finish(state, B::activate(x.into_primitive(), activation))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::activate(x.into_primitive(), activation)),
        }
    }

    fn conv_far(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Optional<Self>,
        options: ConvOptions,
        size: [usize; 2],
    ) -> FloatTensor<Self> {
        convolve(Direction::Far, x, weight, bias, options, size)
    }

    fn conv_near(
        g: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Optional<Self>,
        options: ConvOptions,
        size: [usize; 2],
    ) -> FloatTensor<Self> {
        convolve(Direction::Near, g, weight, bias, options, size)
    }

    fn normalise_groups(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let parents = [x.node(), gamma.node(), beta.node()];
        match Backward::<B, 3>::prepare::<C>(Normalisation, parents).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [&x, &gamma, &beta].map(|input| prep.checkpoint(input));
                let (y, mean, var) = B::normalise_groups_with_statistics(
                    x.into_primitive(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    groups,
                    eps,
                    activation,
                );
                let scope = Scope::Groups(groups);
                prep.finish(NormalisationState { inputs, mean, var, scope, eps, activation }, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::normalise_groups(
                x.into_primitive(),
                gamma.into_primitive(),
                beta.into_primitive(),
                groups,
                eps,
                activation,
            )),
        }
    }

    fn batch_statistics(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (mean, var) = B::batch_statistics(x.into_primitive());
        (Self::from_inner(mean), Self::from_inner(var))
    }

    fn normalise_batch(
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let parents = [x.node(), gamma.node(), beta.node()];
        let (mean, var) = (mean.into_primitive(), var.into_primitive());
        let prep = Backward::<B, 3>::prepare::<C>(Normalisation, parents).compute_bound().stateful();
        match prep {
            OpsKind::Tracked(mut prep) => {
                let inputs = [&x, &gamma, &beta].map(|input| prep.checkpoint(input));
                let y = B::normalise_batch(
                    x.into_primitive(),
                    mean.clone(),
                    var.clone(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    eps,
                    activation,
                );
                let scope = Scope::Batch;
                prep.finish(NormalisationState { inputs, mean, var, scope, eps, activation }, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::normalise_batch(
                x.into_primitive(),
                mean,
                var,
                gamma.into_primitive(),
                beta.into_primitive(),
                eps,
                activation,
            )),
        }
    }
}
