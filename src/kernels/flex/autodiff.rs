//! The fused operations under autodiff: what each keeps from its forward pass, and its gradients.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};

use super::block::{PARAMETERS, Spec, Tape};
use super::{
    BlockTensors, Flat, FusedOps, LossSpec, block_of, block_output, contiguous, embed, in_place, last, loss_of,
    pointwise, rows, slice, tensor, tensor_like,
};
use crate::kernels::shape::NormKind;

/// A block's inputs: x, modulation, and its parameters.
const BLOCK_INPUTS: usize = 2 + PARAMETERS;

#[derive(Debug)]
struct BlockOp;

#[derive(Debug, Clone)]
struct BlockState {
    x: Flat,
    modulation: Flat,
    parameters: [Flat; PARAMETERS],
    spec: Spec,
    tape: Option<Tape>,
}

impl Backward<Flex, BLOCK_INPUTS> for BlockOp {
    type State = BlockState;

    fn backward(self, ops: Ops<Self::State, BLOCK_INPUTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let s = ops.state;
        let block = block_of(&s.parameters, &s.modulation, &s.spec);
        let out = block.backward(slice(&grad), slice(&s.x), s.tape);
        let inputs = [&s.x, &s.modulation].into_iter().chain(&s.parameters);
        let values = [out.x, out.modulation].into_iter().chain(out.weights);
        for (node, (input, value)) in ops.parents.into_iter().zip(inputs.zip(values)) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor_like(value, input));
            }
        }
    }
}

#[derive(Debug)]
struct Norm;

#[derive(Debug, Clone)]
struct NormState {
    x: Flat,
    gamma: Flat,
    stats: Vec<f32>,
    kind: NormKind,
}

impl Backward<Flex, 3> for Norm {
    type State = NormState;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let s = ops.state;
        let inputs = (slice(&grad), slice(&s.x));
        let (dx, dgamma, dbeta) = pointwise::norm_backward(inputs, slice(&s.gamma), &s.stats, s.kind);
        let width = [dgamma.len()];
        let values = [tensor_like(dx, &s.x), tensor(dgamma, width), tensor(dbeta, width)];
        for (node, value) in ops.parents.into_iter().zip(values) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, value);
            }
        }
    }
}

#[derive(Debug)]
struct LogSoftmax;

impl Backward<Flex, 1> for LogSoftmax {
    type State = Flat;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let ([node], y) = (ops.parents, ops.state);
        if let Some(node) = node {
            let vocab = last(&y);
            let (dx, ()) = in_place(grad, |grad| rows::log_softmax_backward(grad, slice(&y), vocab));
            grads.register::<Flex>(node.id, dx);
        }
    }
}

/// A loss whose gradients were made by its forward pass.
#[derive(Debug)]
struct LossOp;

impl Backward<Flex, 3> for LossOp {
    type State = [Flat; 3];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let factor = slice(&contiguous(grads.consume::<Flex>(&ops.node)))[0];
        for (node, value) in ops.parents.into_iter().zip(ops.state) {
            if let Some(node) = node {
                let scale = |x: &mut [f32]| x.iter_mut().for_each(|v| *v *= factor);
                let value = if factor == 1.0 { value } else { in_place(value, scale).0 };
                grads.register::<Flex>(node.id, value);
            }
        }
    }
}

#[derive(Debug)]
struct Embedding;

impl Backward<Flex, 1> for Embedding {
    type State = (usize, usize, Arc<[u32]>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let ([node], (vocab, d, ids)) = (ops.parents, ops.state);
        if let Some(node) = node {
            let mut table = vec![0.0; vocab * d];
            for (id, row) in ids.iter().zip(slice(&grad).chunks_exact(d)) {
                table[*id as usize * d..][..d].iter_mut().zip(row).for_each(|(t, g)| *t += g);
            }
            grads.register::<Flex>(node.id, tensor(table, [vocab, d]));
        }
    }
}

type Recorded<C> = FloatTensor<Autodiff<Flex, C>>;

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn fused_block(tensors: BlockTensors<Self>, spec: Spec) -> Recorded<C> {
        let (x, modulation, parameters) = tensors.apart();
        let ((x, x_node), (modulation, modulation_node)) = (x.into_parts(), modulation.into_parts());
        let mut nodes = vec![x_node, modulation_node];
        let (x, modulation) = (contiguous(x), contiguous(modulation));
        let parameters = parameters.map(|p| {
            let (p, node) = p.into_parts();
            nodes.push(node);
            contiguous(p)
        });
        let Ok(nodes) = <[_; BLOCK_INPUTS]>::try_from(nodes) else { panic!("a block has {PARAMETERS} parameters") };
        match BlockOp.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, tape) = block_of(&parameters, &modulation, &spec).forward(slice(&x), !spec.checkpoint);
                let y = block_output(y, &spec, last(&x));
                prep.finish(BlockState { x, modulation, parameters, spec, tape }, y)
            }
            OpsKind::UnTracked(prep) => {
                let (y, _) = block_of(&parameters, &modulation, &spec).forward(slice(&x), false);
                prep.finish(block_output(y, &spec, last(&x)))
            }
        }
    }

    fn fused_norm(x: Recorded<C>, gamma: Recorded<C>, beta: Recorded<C>, kind: NormKind) -> Recorded<C> {
        let ((x, x_node), (gamma, gamma_node), (beta, beta_node)) =
            (x.into_parts(), gamma.into_parts(), beta.into_parts());
        let (x, gamma) = (contiguous(x), contiguous(gamma));
        let (y, stats) = super::norm_forward(&x, &gamma, &contiguous(beta), kind);
        match Norm.prepare::<C>([x_node, gamma_node, beta_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(NormState { x, gamma, stats, kind }, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_log_softmax(logits: Recorded<C>) -> Recorded<C> {
        let (logits, node) = logits.into_parts();
        let y = Flex::fused_log_softmax(logits);
        match LogSoftmax.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(y.clone(), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_loss(
        x: Recorded<C>,
        weight: Recorded<C>,
        bias: Recorded<C>,
        teacher_x: Recorded<C>,
        teacher_weight: Recorded<C>,
        teacher_bias: Recorded<C>,
        spec: LossSpec,
    ) -> Recorded<C> {
        let [(x, x_node), (weight, weight_node), (bias, bias_node)] = [x, weight, bias].map(|t| t.into_parts());
        let head = [x, weight, bias].map(contiguous);
        let teacher = [teacher_x, teacher_weight, teacher_bias].map(|t| contiguous(t.into_primitive()));
        match LossOp.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = loss_of(&head, &teacher, &spec, true);
                let [x, weight, bias] = &head;
                let state = [tensor_like(out.dx, x), tensor_like(out.dweight, weight), tensor_like(out.dbias, bias)];
                prep.finish(state, tensor(vec![out.value as f32], [1]))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(tensor(vec![loss_of(&head, &teacher, &spec, false).value as f32], [1]))
            }
        }
    }

    fn fused_embedding(table: Recorded<C>, ids: Arc<[u32]>) -> Recorded<C> {
        let (table, node) = table.into_parts();
        let table = contiguous(table);
        let y = embed(&table, &ids);
        match Embedding.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let d = last(&table);
                prep.finish((slice(&table).len() / d, d, ids), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
