//! The fused operations under autodiff: what each keeps from its forward pass, and its gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};

use super::attention::{self, Shape};
use super::pointwise::{self, NormKind};
use super::{Flat, FusedOps, contiguous, in_place, last, rows, slice, tensor, tensor_like};
use crate::model::Divergence;

#[derive(Debug)]
struct Attention;

#[derive(Debug, Clone)]
struct AttentionState {
    packed: Flat,
    tables: (Flat, Flat),
    out: Flat,
    lse: Vec<f32>,
    shape: Shape,
}

impl Backward<Flex, 1> for Attention {
    type State = AttentionState;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let ([node], s) = (ops.parents, ops.state);
        if let Some(node) = node {
            let tables = (slice(&s.tables.0), slice(&s.tables.1));
            let inputs = (slice(&grad), slice(&s.packed));
            let packed = attention::backward(inputs, tables, (slice(&s.out), &s.lse), s.shape);
            grads.register::<Flex>(node.id, tensor_like(packed, &s.packed));
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
struct Gelu;

impl Backward<Flex, 2> for Gelu {
    type State = (Flat, Flat);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let (x, bias) = ops.state;
        let (dx, dbias) = in_place(grad, |grad| pointwise::gelu_backward(grad, slice(&x), slice(&bias)));
        let width = [dbias.len()];
        for (node, value) in ops.parents.into_iter().zip([dx, tensor(dbias, width)]) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, value);
            }
        }
    }
}

#[derive(Debug)]
struct Swiglu;

impl Backward<Flex, 2> for Swiglu {
    type State = (Flat, Flat);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let (gate, up) = ops.state;
        let (dup, dgate) = in_place(grad, |grad| pointwise::swiglu_backward(grad, slice(&gate), slice(&up)));
        let values = [tensor_like(dgate, &gate), dup];
        for (node, value) in ops.parents.into_iter().zip(values) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, value);
            }
        }
    }
}

#[derive(Debug)]
struct AddBias;

impl Backward<Flex, 2> for AddBias {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, bias] = ops.parents;
        if let Some(bias) = bias {
            let width = last(&grad);
            grads.register::<Flex>(bias.id, tensor(pointwise::sum_rows(slice(&grad), width), [width]));
        }
        if let Some(x) = x {
            grads.register::<Flex>(x.id, grad);
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

/// A loss of rows whose gradient [n, V] was made by its forward pass.
#[derive(Debug)]
struct RowLoss;

impl Backward<Flex, 1> for RowLoss {
    type State = Flat;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let ([node], saved) = (ops.parents, ops.state);
        if let Some(node) = node {
            let vocab = last(&saved);
            let (dx, ()) = in_place(saved, |x| rows::scale_rows(x, slice(&grad), vocab));
            grads.register::<Flex>(node.id, dx);
        }
    }
}

type Recorded<C> = FloatTensor<Autodiff<Flex, C>>;

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn fused_attention(
        packed: Recorded<C>,
        cos: Recorded<C>,
        sin: Recorded<C>,
        heads: usize,
        causal: bool,
    ) -> Recorded<C> {
        let (packed, node) = packed.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match Attention.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (packed, tables) = (contiguous(packed), (contiguous(cos), contiguous(sin)));
                let shape = super::attention_shape(&packed, heads, causal);
                let (out, lse) = super::attention_forward(&packed, (&tables.0, &tables.1), shape);
                prep.finish(AttentionState { packed, tables, out: out.clone(), lse, shape }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_attention(packed, cos, sin, heads, causal)),
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

    fn fused_gelu(x: Recorded<C>, bias: Recorded<C>) -> Recorded<C> {
        let ((x, x_node), (bias, bias_node)) = (x.into_parts(), bias.into_parts());
        match Gelu.prepare::<C>([x_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, bias) = (contiguous(x), contiguous(bias));
                prep.finish((x.clone(), bias.clone()), Flex::fused_gelu(x, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_gelu(x, bias)),
        }
    }

    fn fused_swiglu(gate: Recorded<C>, up: Recorded<C>) -> Recorded<C> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        match Swiglu.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (gate, up) = (contiguous(gate), contiguous(up));
                prep.finish((gate.clone(), up.clone()), Flex::fused_swiglu(gate, up))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_swiglu(gate, up)),
        }
    }

    fn fused_add_bias(x: Recorded<C>, bias: Recorded<C>) -> Recorded<C> {
        let ((x, x_node), (bias, bias_node)) = (x.into_parts(), bias.into_parts());
        let y = Flex::fused_add_bias(x, bias);
        AddBias.prepare::<C>([x_node, bias_node]).compute_bound().stateless(y)
    }

    fn fused_log_softmax(logits: Recorded<C>) -> Recorded<C> {
        let (logits, node) = logits.into_parts();
        let y = Flex::fused_log_softmax(logits);
        match LogSoftmax.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(y.clone(), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_cross_entropy(logits: Recorded<C>, targets: Vec<u32>) -> Recorded<C> {
        let (logits, node) = logits.into_parts();
        match RowLoss.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (gradient, loss) = super::cross_entropy_forward(logits, &targets, true);
                prep.finish(gradient, loss)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_cross_entropy(logits, targets)),
        }
    }

    fn fused_divergence(student: Recorded<C>, teacher: Recorded<C>, kind: Divergence) -> Recorded<C> {
        let ((student, node), teacher) = (student.into_parts(), teacher.into_primitive());
        match RowLoss.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (gradient, loss) = super::divergence_forward(student, teacher, kind, true);
                prep.finish(gradient, loss)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_divergence(student, teacher, kind)),
        }
    }
}
