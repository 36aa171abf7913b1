//! Gradients of the operations. Only those that some tracked input needs are computed.

use crate::{
    Activation, ConvOptions, Filter, GridOptions, Mask, ScanDirection, fallback,
    norm::Scope,
    ops::{KernelOps, Optional},
};
use burn::{
    backend::{AutodiffBackend, Backend, TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{
        base::Checkpointer, retro_forward::RetroForward, state::BackwardStates, strategy::CheckpointStrategy,
    },
    grads::Gradients,
    ops::{Backward, ComputePropertyDone, Init, Ops, OpsKind, OpsPrep},
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

/// An input that a forward pass run again reads: from the tape if it is tracked there.
#[derive(Clone, Debug)]
enum Input<B: Backend> {
    Tracked(NodeId),
    Constant(FloatTensor<B>),
}

impl<B: Backend> Input<B> {
    fn of<C: CheckpointStrategy>(x: &FloatTensor<Autodiff<B, C>>) -> Self {
        if x.is_tracked() { Self::Tracked(x.id()) } else { Self::Constant(x.primitive().clone()) }
    }

    fn get(&self, states: &mut BackwardStates) -> FloatTensor<B> {
        match self {
            Self::Tracked(id) => states.get_state::<B::FloatTensorPrimitive>(id),
            Self::Constant(x) => x.clone(),
        }
    }
}

/// Parents: input, weights, and the bias if there is one.
#[derive(Debug)]
struct Connection;

impl<B: KernelOps, const N: usize> Backward<B, N> for Connection {
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let [x, weight] = ops.state.map(|id| saved.retrieve_node_output::<B::FloatTensorPrimitive>(id));
        let parent = |i: usize| ops.parents.get(i).and_then(|node| node.as_ref());
        if let Some(node) = parent(0) {
            grads.register::<B>(node.id, B::float_matmul(g.clone(), weight));
        }
        if let Some(node) = parent(1) {
            grads.register::<B>(node.id, B::float_matmul(B::float_swap_dims(g.clone(), 0, 1), x));
        }
        if let Some(node) = parent(2) {
            let outputs = g.shape()[1];
            let sums = B::float_sum_dim(g, 0);
            grads.register::<B>(node.id, B::float_reshape(sums, Shape::from([outputs])));
        }
    }
}

/// Declares an operation memory-bound: with gradient checkpointing its output is not kept for the
/// backward pass but computed again by `again`, which must give the same bits. The tape can do that
/// only of what it tracks.
fn memory_bound<B: Backend, C: CheckpointStrategy, O: Backward<B, N>, const N: usize>(
    prep: OpsPrep<O, B, O::State, C, N, Init>,
    inputs: [&FloatTensor<Autodiff<B, C>>; N],
    again: impl RetroForward,
) -> OpsPrep<O, B, O::State, C, N, ComputePropertyDone> {
    let tracked: Vec<_> = inputs.into_iter().filter(|input| input.is_tracked()).collect();
    if tracked.is_empty() {
        return prep.compute_bound();
    }
    prep.memory_bound().retro_forward(again).parents(tracked)
}

/// Parents: input, gamma, beta.
#[derive(Debug)]
struct Normalisation;

/// A normalisation as it was run, `I` standing for its inputs.
#[derive(Clone, Debug)]
struct Normalised<B: Backend, I> {
    inputs: [I; 3],
    mean: FloatTensor<B>,
    var: FloatTensor<B>,
    scope: Scope,
    eps: f64,
    activation: Activation,
}

impl<B: KernelOps> RetroForward for Normalised<B, Input<B>> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let [x, gamma, beta] = self.inputs.each_ref().map(|input| input.get(states));
        let (mean, var) = (self.mean.clone(), self.var.clone());
        states.save(out, B::normalise_by(x, mean, var, gamma, beta, self.scope, self.eps, self.activation));
    }
}

impl<B: KernelOps> Backward<B, 3> for Normalisation {
    type State = Normalised<B, NodeId>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let s = ops.state;
        let [x, gamma, beta] = s.inputs.map(|id| saved.retrieve_node_output::<B::FloatTensorPrimitive>(id));
        let wants_input = ops.parents[0].is_some();
        let (dx, dgamma, dbeta) =
            B::norm_backward(x, g, s.mean, s.var, gamma, beta, s.scope, s.eps, s.activation, wants_input);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dgamma, dbeta]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Records a normalisation of `[x, gamma, beta]` that gave `y`.
fn normalised<B: KernelOps, C: CheckpointStrategy>(
    inputs: [FloatTensor<Autodiff<B, C>>; 3],
    y: FloatTensor<B>,
    [mean, var]: [FloatTensor<B>; 2],
    scope: Scope,
    eps: f64,
    activation: Activation,
) -> FloatTensor<Autodiff<B, C>> {
    let [x, gamma, beta] = &inputs;
    let (mean_again, var_again) = (mean.clone(), var.clone());
    let again = inputs.each_ref().map(Input::of::<C>);
    let again = Normalised { inputs: again, mean: mean_again, var: var_again, scope, eps, activation };
    let prep = Normalisation.prepare::<C>([x.node(), gamma.node(), beta.node()]);
    match memory_bound(prep, [x, gamma, beta], again).stateful() {
        OpsKind::Tracked(mut prep) => {
            let inputs = [x, gamma, beta].map(|input| prep.checkpoint(input));
            prep.finish(Normalised { inputs, mean, var, scope, eps, activation }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
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
            grads.register::<B>(node.id, B::activation_backward(x, g, activation));
        }
    }
}

#[derive(Clone, Debug)]
struct Activated<B: Backend>(Input<B>, Activation);

impl<B: KernelOps> RetroForward for Activated<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let x = self.0.get(states);
        states.save(out, B::activate(x, self.1));
    }
}

/// Parent: input.
#[derive(Debug)]
struct Gating;

impl<B: KernelOps> Backward<B, 1> for Gating {
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let x = saved.retrieve_node_output::<B::FloatTensorPrimitive>(ops.state);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::gate_backward(x, g));
        }
    }
}

#[derive(Clone, Debug)]
struct Gated<B: Backend>(Input<B>);

impl<B: KernelOps> RetroForward for Gated<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let x = self.0.get(states);
        states.save(out, B::gate(x));
    }
}

/// Parents: input, weights.
#[derive(Debug)]
struct Recurrence;

impl<B: KernelOps> Backward<B, 2> for Recurrence {
    type State = (NodeId, FloatTensor<B>, ScanDirection);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let (weight, kept, direction) = ops.state;
        let weight = saved.retrieve_node_output::<B::FloatTensorPrimitive>(weight);
        let (dx, dw) = B::recur_backward(weight, kept, g, direction);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dw]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Parents: the terms. The state is the output, if the activation is not the identity.
#[derive(Debug)]
struct AddActivating;

impl<B: KernelOps> Backward<B, 2> for AddActivating {
    type State = Option<(FloatTensor<B>, Activation)>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let g = match ops.state {
            // The output is above 0 exactly where the sum is.
            Some((output, activation)) => B::activation_backward(output, g, activation),
            None => g,
        };
        for node in ops.parents.into_iter().flatten() {
            grads.register::<B>(node.id, g.clone());
        }
    }
}

/// Parents: queries, keys, values.
#[derive(Debug)]
struct Attention;

#[derive(Clone, Debug)]
struct AttentionState<B: Backend> {
    inputs: [NodeId; 3],
    out: FloatTensor<B>,
    logs: FloatTensor<B>,
    mask: Mask,
}

impl<B: KernelOps> Backward<B, 3> for Attention {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let s = ops.state;
        let [q, k, v] = s.inputs.map(|id| saved.retrieve_node_output::<B::FloatTensorPrimitive>(id));
        let wants = [0, 1, 2].map(|i| ops.parents[i].is_some());
        let (dq, dk, dv) = B::attention_backward(q, k, v, s.out, s.logs, g, s.mask, wants);
        for (node, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Parents: what is joined. The state is how many channels each has.
#[derive(Debug)]
struct Concat;

impl<B: KernelOps> Backward<B, 2> for Concat {
    type State = [usize; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let [first, second] = ops.state;
        for (node, (start, count)) in ops.parents.into_iter().zip([(0, first), (first, second)]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, B::channels(g.clone(), start, count));
            }
        }
    }
}

/// Parent: queries, keys and values in one.
#[derive(Debug)]
struct SelfAttention;

impl<B: KernelOps> Backward<B, 1> for SelfAttention {
    type State = (NodeId, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let turned = |x| B::float_swap_dims(x, 2, 3);
        let g = turned(grads.consume::<B>(&ops.node));
        let (qkv, out, logs) = ops.state;
        let [q, k, v] = fallback::thirds::<B>(saved.retrieve_node_output::<B::FloatTensorPrimitive>(qkv));
        let [parent] = ops.parents;
        if let Some(node) = parent {
            let (dq, dk, dv) = B::attention_backward(q, k, v, out, logs, g, Mask::None, [true; 3]);
            grads.register::<B>(node.id, B::float_cat([dq, dk, dv].map(turned).to_vec(), 1));
        }
    }
}

/// Parent: the pictures.
#[derive(Debug)]
struct Resampling;

impl<B: KernelOps> Backward<B, 1> for Resampling {
    type State = [Filter; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let [rows, columns] = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::resample(g, rows.transposed(), columns.transposed()));
        }
    }
}

#[derive(Clone, Debug)]
struct Resampled<B: Backend>(Input<B>, [Filter; 2]);

impl<B: KernelOps> RetroForward for Resampled<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let (x, [rows, columns]) = (self.0.get(states), self.1.clone());
        states.save(out, B::resample(x, rows, columns));
    }
}

/// Parents: pictures, grid.
#[derive(Debug)]
struct GridSampling;

impl<B: KernelOps> Backward<B, 2> for GridSampling {
    type State = ([NodeId; 2], GridOptions);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, saved: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let (inputs, options) = ops.state;
        let [x, grid] = inputs.map(|id| saved.retrieve_node_output::<B::FloatTensorPrimitive>(id));
        let wants = [0, 1].map(|i| ops.parents[i].is_some());
        let (dx, dgrid) = B::grid_sample_backward(x, grid, g, options, wants);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dgrid]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Clone, Debug)]
struct GridSampled<B: Backend>([Input<B>; 2], GridOptions);

impl<B: KernelOps> RetroForward for GridSampled<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let [x, grid] = self.0.each_ref().map(|input| input.get(states));
        states.save(out, B::grid_sample(x, grid, self.1));
    }
}

#[derive(Clone, Debug)]
struct Concatenated<B: Backend>([Input<B>; 2]);

impl<B: KernelOps> RetroForward for Concatenated<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let [x, y] = self.0.each_ref().map(|input| input.get(states));
        states.save(out, B::concat(x, y));
    }
}

impl<B: KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn attend_within(qkv: FloatTensor<Self>) -> FloatTensor<Self> {
        match Backward::<B, 1>::prepare::<C>(SelfAttention, [qkv.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&qkv);
                let [q, k, v] = fallback::thirds::<B>(qkv.into_primitive());
                let (out, logs) = B::attend_with_logs(q, k, v, Mask::None);
                prep.finish((input, out.clone(), logs), B::float_swap_dims(out, 2, 3))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::attend_within(qkv.into_primitive())),
        }
    }

    fn fully_connected(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Optional<Self>) -> FloatTensor<Self> {
        macro_rules! record {
            ($parents:expr, $bias:expr) => {
                match Backward::<B, _>::prepare::<C>(Connection, $parents).compute_bound().stateful() {
                    OpsKind::Tracked(mut prep) => {
                        let state = [prep.checkpoint(&x), prep.checkpoint(&weight)];
                        prep.finish(state, B::fully_connected(x.into_primitive(), weight.into_primitive(), $bias))
                    }
                    OpsKind::UnTracked(prep) => {
                        prep.finish(B::fully_connected(x.into_primitive(), weight.into_primitive(), $bias))
                    }
                }
            };
        }
        match bias {
            Optional::Some(bias) => {
                record!([x.node(), weight.node(), bias.node()], Optional::Some(bias.into_primitive()))
            }
            Optional::None => record!([x.node(), weight.node()], Optional::None),
        }
    }

    fn gate(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match memory_bound(Gating.prepare::<C>([x.node()]), [&x], Gated(Input::of::<C>(&x))).stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&x);
                prep.finish(state, B::gate(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gate(x.into_primitive())),
        }
    }

    fn recur(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        direction: ScanDirection,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let prep = Backward::<B, 2>::prepare::<C>(Recurrence, [x.node(), weight.node()]).compute_bound();
        match prep.stateful() {
            OpsKind::Tracked(mut prep) => {
                let id = prep.checkpoint(&weight);
                let (h, kept) = B::recur(x.into_primitive(), weight.into_primitive(), direction);
                (prep.finish((id, kept.clone(), direction), h), FloatTensor::<Self>::new(kept))
            }
            OpsKind::UnTracked(prep) => {
                let (h, kept) = B::recur(x.into_primitive(), weight.into_primitive(), direction);
                (prep.finish(h), FloatTensor::<Self>::new(kept))
            }
        }
    }

    fn resample(x: FloatTensor<Self>, rows: Filter, columns: Filter) -> FloatTensor<Self> {
        let again = Resampled(Input::of::<C>(&x), [rows.clone(), columns.clone()]);
        match memory_bound(Resampling.prepare::<C>([x.node()]), [&x], again).stateful() {
            OpsKind::Tracked(prep) => {
                let state = [rows.clone(), columns.clone()];
                prep.finish(state, B::resample(x.into_primitive(), rows, columns))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::resample(x.into_primitive(), rows, columns)),
        }
    }

    fn grid_sample(x: FloatTensor<Self>, grid: FloatTensor<Self>, options: GridOptions) -> FloatTensor<Self> {
        let prep = Backward::<B, 2>::prepare::<C>(GridSampling, [x.node(), grid.node()]);
        let again = GridSampled([&x, &grid].map(Input::of::<C>), options);
        match memory_bound(prep, [&x, &grid], again).stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = ([&x, &grid].map(|input| prep.checkpoint(input)), options);
                prep.finish(state, B::grid_sample(x.into_primitive(), grid.into_primitive(), options))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::grid_sample(x.into_primitive(), grid.into_primitive(), options)),
        }
    }

    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        let parents = [q.node(), k.node(), v.node()];
        match Backward::<B, 3>::prepare::<C>(Attention, parents).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [&q, &k, &v].map(|input| prep.checkpoint(input));
                let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
                let (out, logs) = B::attend_with_logs(q, k, v, mask.clone());
                prep.finish(AttentionState { inputs, out: out.clone(), logs, mask }, out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::attend(q.into_primitive(), k.into_primitive(), v.into_primitive(), mask))
            }
        }
    }

    fn concat(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let prep = Backward::<B, 2>::prepare::<C>(Concat, [x.node(), y.node()]);
        let again = Concatenated([&x, &y].map(Input::of::<C>));
        match memory_bound(prep, [&x, &y], again).stateful() {
            OpsKind::Tracked(prep) => {
                let channels = [x.shape()[1], y.shape()[1]];
                prep.finish(channels, B::concat(x.into_primitive(), y.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::concat(x.into_primitive(), y.into_primitive())),
        }
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let prep = Backward::<B, 1>::prepare::<C>(Activating, [x.node()]);
        match memory_bound(prep, [&x], Activated(Input::of::<C>(&x), activation)).stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), activation);
                prep.finish(state, B::activate(x.into_primitive(), activation))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::activate(x.into_primitive(), activation)),
        }
    }

    // Not memory-bound: a sum to compute again would keep both its terms, and along a chain of
    // residual blocks, whose sums need one another, the first of the backward pass would bring back all.
    fn add_activate(x: FloatTensor<Self>, y: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        match activation {
            Activation::None | Activation::Relu => {}
            Activation::LeakyRelu(slope) if slope >= 0.0 => {}
            // The output does not tell the slope.
            _ => return Self::activate(Self::add_activate(x, y, Activation::None), activation),
        }
        let prep = Backward::<B, 2>::prepare::<C>(AddActivating, [x.node(), y.node()]);
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = B::add_activate(x.into_primitive(), y.into_primitive(), activation);
                let state = (activation != Activation::None).then(|| (output.clone(), activation));
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::add_activate(x.into_primitive(), y.into_primitive(), activation))
            }
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

    fn normalise(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: Scope,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let inputs = [x, gamma, beta];
        let [x, gamma, beta] = inputs.each_ref().map(|input| input.primitive().clone());
        let (y, mean, var) = B::normalise_with_statistics(x, gamma, beta, scope, eps, activation);
        normalised::<B, C>(inputs, y, [mean, var], scope, eps, activation)
    }

    fn batch_statistics(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (mean, var) = B::batch_statistics(x.into_primitive());
        (Self::from_inner(mean), Self::from_inner(var))
    }

    fn normalise_by(
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scope: Scope,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let inputs = [x, gamma, beta];
        let (mean, var) = (mean.into_primitive(), var.into_primitive());
        let [x, gamma, beta] = inputs.each_ref().map(|input| input.primitive().clone());
        let y = B::normalise_by(x, mean.clone(), var.clone(), gamma, beta, scope, eps, activation);
        normalised::<B, C>(inputs, y, [mean, var], scope, eps, activation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use burn_autodiff::checkpoint::strategy::{BalancedCheckpointing, NoCheckpointing};
    use burn_flex::FlexTensor;

    fn ones<C: CheckpointStrategy>(dims: &[usize]) -> FloatTensor<Autodiff<Flex, C>> {
        let data = burn::tensor::TensorData::new(vec![1.0f32; dims.iter().product()], dims);
        <Autodiff<Flex, C> as AutodiffBackend>::from_inner(FlexTensor::from_data(data)).require_grad()
    }

    /// Whether the tape keeps the output of an operation on `x` for the convolution that reads it.
    fn keeps<C: CheckpointStrategy>(
        operation: impl Fn(FloatTensor<Autodiff<Flex, C>>) -> FloatTensor<Autodiff<Flex, C>>,
    ) -> bool {
        let options = ConvOptions { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 };
        let y = operation(ones::<C>(&[2, 4, 5, 5]));
        let weight = ones::<C>(&[3, 4, 1, 1]);
        let _z = Autodiff::<Flex, C>::conv_far(y.clone(), weight, Optional::None, options, [5, 5]);
        !y.primitive().is_unique()
    }

    #[test]
    fn checkpointing_keeps_sums_and_what_is_dear() {
        fn kept<C: CheckpointStrategy>() -> [bool; 6] {
            type Ad<C> = Autodiff<Flex, C>;
            let silu = Activation::Silu;
            let affine = || (ones::<C>(&[4]), ones::<C>(&[4]));
            [
                keeps::<C>(|x| Ad::<C>::normalise(x, affine().0, affine().1, Scope::Groups(2), 1e-5, silu)),
                keeps::<C>(|x| {
                    let (mean, var) = Ad::<C>::batch_statistics(x.clone());
                    Ad::<C>::normalise_by(x, mean, var, affine().0, affine().1, Scope::Batch, 1e-5, silu)
                }),
                keeps::<C>(|x| Ad::<C>::activate(x, silu)),
                keeps::<C>(|x| {
                    let mirror = Filter::new(5, (0..5).rev().map(|i| vec![(i, 1.0)]));
                    Ad::<C>::resample(x, mirror.clone(), mirror)
                }),
                keeps::<C>(|x| Ad::<C>::concat(x, ones::<C>(&[2, 0, 5, 5]))),
                keeps::<C>(|x| Ad::<C>::add_activate(x.clone(), x, Activation::None)),
            ]
        }
        assert_eq!(kept::<NoCheckpointing>(), [true; 6]);
        assert_eq!(kept::<BalancedCheckpointing>(), [false, false, false, false, false, true]);
    }
}
