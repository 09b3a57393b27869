//! The operations composed from Burn's primitives: what other devices and types run, and what the fused ones are tested
//! against.
//!
//! B batch, L length, D width, F hidden width, H query heads, Hkv key heads, d head width, V vocabulary, n and r rows.

use burn::prelude::*;
use burn::tensor::activation::{gelu, gelu_approximate, silu, softmax};
use burn::tensor::{DType, FloatDType};

use super::{
    Activation, AdamWStep, BlockParameters, BlockSpec, Head, LowRank, NormKind, PosteriorRows, Shape, Slab, Target,
    UniformRows, Visible, index_tensor,
};

type Projection = (Tensor<2>, Option<Tensor<1>>);

/// The same values in f32 where they are in a half-width type: sums, exponentials and squares need its digits.
fn widen<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::BF16 | DType::F16 => x.cast(FloatDType::F32),
        _ => x,
    }
}

/// The same values in the type of `like`.
fn cast_like<const D: usize, const E: usize>(x: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    if x.dtype() == like.dtype() { x } else { x.cast(like.dtype()) }
}

/// x [B, L, Din] times weight [Din, Dout] plus bias `[Dout]`.
pub fn dense(x: Tensor<3>, (weight, bias): Projection) -> Tensor<3> {
    let [b, l, d_in] = x.dims();
    let d_out = weight.dims()[1];
    let y = x.clone().reshape([b * l, d_in]).matmul(cast_like(weight, &x));
    let y = match bias {
        Some(bias) => y + cast_like(bias, &x).unsqueeze(),
        None => y,
    };
    y.reshape([b, l, d_out])
}

/// [`dense`] and the low-rank terms beside it: A and B are small, so they are brought to the type of x.
fn adapted(x: Tensor<3>, projection: Projection, terms: &[LowRank]) -> Tensor<3> {
    let y = dense(x.clone(), projection);
    if terms.is_empty() {
        return y;
    }
    let ([b, l, d_in], wide) = (x.dims(), y.dims()[2]);
    let flat = x.reshape([b * l, d_in]);
    let zeros = |width: usize| Tensor::<2>::zeros([b * l, width], (&y.device().inner(), y.dtype()));
    let (mut parts, mut end) = (Vec::new(), 0);
    for term in terms {
        if term.from > end {
            parts.push(zeros(term.from - end));
        }
        end = term.from + term.b.dims()[0];
        let inner = flat.clone().matmul(cast_like(term.a.clone(), &flat).transpose());
        parts.push(inner.matmul(cast_like(term.b.clone(), &flat).transpose()).mul_scalar(term.scale));
    }
    if end < wide {
        parts.push(zeros(wide - end));
    }
    let sum = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 1) };
    y + sum.reshape([b, l, wide])
}

/// Layer norm or root-mean-square norm over the last dimension of x [B, L, D] with scale gamma `[D]` and offset beta `[D]`.
pub fn norm(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, kind: NormKind) -> Tensor<3> {
    let like = x.clone();
    let x = widen(x);
    let x = if kind.centred { x.clone() - x.mean_dim(2) } else { x };
    let var = x.clone().square().mean_dim(2);
    let y = x * (var + f64::from(kind.eps)).sqrt().recip() * gamma.unsqueeze();
    let y = match beta {
        Some(beta) => y + beta.unsqueeze(),
        None => y,
    };
    cast_like(y, &like)
}

/// x * (1 + scale) + shift, broadcast over the positions of a per-sequence condition.
pub fn modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>) -> Tensor<3> {
    let (scale, shift) = (cast_like(scale, &x), cast_like(shift, &x));
    x * (scale + 1.0) + shift
}

type Rope = (Tensor<4>, Tensor<4>);

/// The tables' rows `from .. from + l`, or those of the input's own positions, as [B or 1, 1, l, d] in the type of `like`.
fn rope_rows((spec, shape): (&BlockSpec, &Shape), (from, l): (usize, usize), like: &Tensor<3>) -> Rope {
    let at_places = |table: &Tensor<2>, at: &[usize]| {
        table.clone().select(0, index_tensor(at, &table.device())).cast(like.dtype()).unsqueeze()
    };
    let rows = |table: &Tensor<2>| match &spec.extra.positions {
        None if matches!(spec.visible, Visible::Phases(_) | Visible::PhaseStreams(_)) => {
            let at: Vec<usize> = (from..from + l).map(|i| shape.place(i)).collect();
            at_places(table, &at)
        }
        None if matches!(spec.visible, Visible::Streams(_)) => {
            let half = table.clone().narrow(0, 0, l / 2);
            Tensor::cat(vec![half.clone(), half], 0).cast(like.dtype()).unsqueeze()
        }
        None => table.clone().narrow(0, from, l).cast(like.dtype()).unsqueeze(),
        Some(positions) => {
            let at: Vec<usize> = positions.iter().map(|p| *p as usize).collect();
            let d = table.dims()[1];
            let rows = table.clone().select(0, index_tensor(&at, &table.device()));
            rows.cast(like.dtype()).reshape([positions.len() / l, 1, l, d])
        }
    };
    (rows(&spec.rope.0), rows(&spec.rope.1))
}

/// Rotates x [B, H, L, d] by rows of the tables.
fn rotate(x: Tensor<4>, (cos, sin): Rope) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let left = x.clone().narrow(3, 0, half);
    let right = x.clone().narrow(3, half, half);
    x * cos + Tensor::cat(vec![right.neg(), left], 3) * sin
}

/// Columns of a packed projection [B, L, W] as heads [B, count, L, d].
fn unpack(packed: &Tensor<3>, first: usize, count: usize, d: usize) -> Tensor<4> {
    let [b, l, _] = packed.dims();
    packed.clone().narrow(2, first * d, count * d).reshape([b, l, count, d]).swap_dims(1, 2)
}

fn qk_norms(spec: &BlockSpec) -> (Option<Tensor<1>>, Option<Tensor<1>>) {
    spec.extra.qk_norm.clone().unzip()
}

/// Root-mean-square norm of every head of x [B, H, L, d] with scale [d], where there is one.
fn head_norm(x: Tensor<4>, gamma: Option<Tensor<1>>, kind: NormKind) -> Tensor<4> {
    let Some(gamma) = gamma else { return x };
    let [b, h, l, d] = x.dims();
    let kind = NormKind { centred: false, ..kind };
    norm(x.reshape([b * h, l, d]), gamma, None, kind).reshape([b, h, l, d])
}

/// Each key head [B, Hkv, L, d] as often as query heads share it: [B, H, L, d].
fn repeat(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [b, h, l, d] = x.dims();
    if h == heads {
        return x;
    }
    x.unsqueeze_dim::<5>(2).expand([b, h, heads / h, l, d]).reshape([b, heads, l, d])
}

/// True where a query must not look: [B or 1, 1, L, L]; nothing where every query sees everything.
fn hidden(spec: &BlockSpec, shape: &Shape, device: &Device) -> Option<Tensor<4, Bool>> {
    let window = spec.extra.window;
    if window.is_none() && shape.keys.is_none() && shape.visible == Visible::Full {
        return None;
    }
    if window.is_none() && shape.keys.is_none() && shape.visible == Visible::Causal {
        return Some(Tensor::<2, Bool>::tril_mask([shape.length; 2], 0, device).unsqueeze());
    }
    let (b, l) = (if shape.keys.is_some() { shape.batch } else { 1 }, shape.length);
    let mut mask = vec![true; b * l * l];
    for (at, row) in mask.chunks_exact_mut(l).enumerate() {
        let i = at % l;
        let near = window.map_or(0..l, |w| i.saturating_sub(w)..(i + w + 1).min(l));
        for seen in shape.seen(at / l, i) {
            let seen = seen.start.max(near.start)..seen.end.min(near.end);
            if !seen.is_empty() {
                row[seen].fill(false);
            }
        }
    }
    Some(Tensor::from_data(TensorData::new(mask, [b, 1, l, l]), device))
}

/// Softmax attention of q [B, H, Lq, d] over k, v [B, H, Lk, d]; a query that sees nothing gets zero.
fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, hidden: Option<Tensor<4, Bool>>) -> Tensor<4> {
    let d = q.dims()[3];
    let scores = widen(q.mul_scalar(1.0 / (d as f64).sqrt()).matmul(k.transpose()));
    let p = match hidden {
        Some(hidden) => {
            let hidden = hidden.expand(scores.dims());
            softmax(scores.mask_fill(hidden.clone(), -1e30), 3).mask_fill(hidden, 0.0)
        }
        None => softmax(scores, 3),
    };
    cast_like(p, &v).matmul(v)
}

/// Attention's output [B, L, H d] of a packed projection [B, L, (H + 2 Hkv) d].
fn self_attention(packed: Tensor<3>, spec: &BlockSpec, shape: &Shape) -> Tensor<3> {
    let (h, hkv, d, l) = (shape.heads, shape.kv_heads, shape.head_dim, shape.length);
    let rope = rope_rows((spec, shape), (0, l), &packed);
    let (q_norm, k_norm) = qk_norms(spec);
    let q = rotate(head_norm(unpack(&packed, 0, h, d), q_norm, spec.norm), rope.clone());
    let k = repeat(rotate(head_norm(unpack(&packed, h, hkv, d), k_norm, spec.norm), rope), h);
    let v = repeat(unpack(&packed, h + hkv, hkv, d), h);
    let y = attention(q, k, v, hidden(spec, shape, &packed.device().inner()));
    y.swap_dims(1, 2).reshape([shape.batch, l, h * d])
}

/// Six parts of a modulation [B, L or 1, 6 D].
fn six(modulation: Option<Tensor<3>>) -> Option<Vec<Tensor<3>>> {
    modulation.map(|m| m.chunk(6, 2))
}

fn first_half(x: Tensor<3>, p: &BlockParameters, m: &Option<Vec<Tensor<3>>>, spec: &BlockSpec) -> Tensor<3> {
    let y = match spec.extra.no_norm1 {
        true => x,
        false => norm(x, p.norm1.0.clone(), p.norm1.1.clone(), spec.norm),
    };
    let y = match m {
        Some(m) => modulate(y, m[0].clone(), m[1].clone()),
        None => y,
    };
    adapted(y, p.qkv.clone(), &spec.extra.low_rank.qkv)
}

/// The activation of every value.
pub fn activate<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    match kind {
        Activation::Silu => silu(x),
        Activation::GeluTanh => gelu_approximate(x),
        Activation::GeluErf => gelu(x),
    }
}

fn second_half(
    x: Tensor<3>,
    attended: Tensor<3>,
    p: BlockParameters,
    m: Option<Vec<Tensor<3>>>,
    spec: &BlockSpec,
) -> Tensor<3> {
    let gated = |y: Tensor<3>, part: usize| match &m {
        Some(m) => y.clone() * cast_like(m[part].clone(), &y),
        None => y,
    };
    let terms = &spec.extra.low_rank;
    let x = x + gated(adapted(attended, p.out, &terms.out), 2);
    let mut y = norm(x.clone(), p.norm2.0, p.norm2.1, spec.norm);
    if let Some(m) = &m {
        y = modulate(y, m[3].clone(), m[4].clone());
    }
    let hidden = match p.gate {
        Some(gate) => activate(adapted(y.clone(), gate, &terms.gate), spec.activation) * adapted(y, p.up, &terms.up),
        None => activate(adapted(y, p.up, &terms.up), spec.activation),
    };
    x + gated(adapted(hidden, p.down, &terms.down), 5)
}

/// Rows [1, r, D] of x [B, L, D] at flat positions.
pub fn select(x: Tensor<3>, flat: &[usize]) -> Tensor<3> {
    let [b, l, d] = x.dims();
    let index = index_tensor(flat, &x.device());
    x.reshape([b * l, d]).select(0, index).unsqueeze()
}

/// The block of [`super::block`].
pub fn block(
    x: Tensor<3>,
    p: BlockParameters,
    modulation: Option<Tensor<3>>,
    spec: &BlockSpec,
    shape: &Shape,
) -> Tensor<3> {
    let _span = tracing::trace_span!("composed_block").entered();
    let mut m = six(modulation);
    let qkv = first_half(x.clone(), &p, &m, spec);
    let mut attended = self_attention(qkv, spec, shape);
    let mut x = x;
    if let Some(rows) = &spec.rows {
        let flat: Vec<usize> = rows.flat(shape.length).collect();
        (x, attended) = (select(x, &flat), select(attended, &flat));
        m = m.map(|m| m.into_iter().map(|part| select_condition(part, &flat, shape.length)).collect());
    }
    second_half(x, attended, p, m, spec)
}

/// Rows [1, r, D] of a condition [B, L or 1, D] at flat positions in B x L.
pub fn select_condition(part: Tensor<3>, flat: &[usize], length: usize) -> Tensor<3> {
    if part.dims()[1] == length {
        return select(part, flat);
    }
    select(part, &flat.iter().map(|r| r / length).collect::<Vec<_>>())
}

/// The step of [`super::block_cached`].
pub fn block_cached(
    x: Tensor<3>,
    p: BlockParameters,
    modulation: Option<Tensor<3>>,
    (keys, values): Slab,
    (spec, shape): (&BlockSpec, &Shape),
    filled: usize,
) -> (Tensor<3>, Slab) {
    let _span = tracing::trace_span!("composed_block_cached").entered();
    let (b, l, h, hkv, d) = (shape.batch, shape.length, shape.heads, shape.kv_heads, shape.head_dim);
    let m = six(modulation);
    let qkv = first_half(x.clone(), &p, &m, spec);
    let rope = rope_rows((spec, shape), (filled, l), &qkv);
    let (q_norm, k_norm) = qk_norms(spec);
    let q = rotate(head_norm(unpack(&qkv, 0, h, d), q_norm, spec.norm), rope.clone());
    let k = rotate(head_norm(unpack(&qkv, h, hkv, d), k_norm, spec.norm), rope);
    let at = [0..b, 0..hkv, filled..filled + l, 0..d];
    let keys = keys.slice_assign(at.clone(), k);
    let values = values.slice_assign(at, unpack(&qkv, h + hkv, hkv, d));
    let end = if spec.visible == Visible::Full { keys.dims()[2] } else { filled + l };
    let read = |slab: &Tensor<4>| repeat(slab.clone().narrow(2, 0, end), h);
    let future = (filled..filled + l).any(|i| shape.seen_cached(i, end) < end).then(|| {
        let hidden = |i: usize| (0..end).map(move |j| j >= shape.seen_cached(i, end));
        let mask: Vec<bool> = (filled..filled + l).flat_map(hidden).collect();
        Tensor::<2, Bool>::from_data(TensorData::new(mask, [l, end]), &qkv.device()).unsqueeze::<4>()
    });
    let y = attention(q, read(&keys), read(&values), future);
    let attended = y.swap_dims(1, 2).reshape([b, l, h * d]);
    (second_half(x, attended, p, m, spec), (keys, values))
}

/// The slab of [`super::keys_values`].
pub fn keys_values(
    x: Tensor<3>,
    p: &BlockParameters,
    modulation: Option<Tensor<3>>,
    (keys, values): Slab,
    (spec, shape): (&BlockSpec, &Shape),
    filled: usize,
) -> Slab {
    let (b, l, h, hkv, d) = (shape.batch, shape.length, shape.heads, shape.kv_heads, shape.head_dim);
    let qkv = first_half(x, p, &six(modulation), spec);
    let (_, k_norm) = qk_norms(spec);
    let k = rotate(head_norm(unpack(&qkv, h, hkv, d), k_norm, spec.norm), rope_rows((spec, shape), (filled, l), &qkv));
    let at = [0..b, 0..hkv, filled..filled + l, 0..d];
    (keys.slice_assign(at.clone(), k), values.slice_assign(at, unpack(&qkv, h + hkv, hkv, d)))
}

/// Rows [n, D] of `table` [V, D].
pub fn embedding(table: Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let ids: Vec<i32> = ids.iter().map(|v| *v as i32).collect();
    let n = ids.len();
    let index = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n]), &table.device());
    burn::tensor::module::embedding(table, index).squeeze_dim(0)
}

/// Log-probabilities [n, V] of logits [n, V].
pub fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    burn::tensor::activation::log_softmax(logits, 1)
}

/// Logits [n, V] of feature rows [n, D], in f32 at least.
pub fn logits(x: Tensor<2>, head: &Head) -> Tensor<2> {
    let weight = match head.tied {
        true => head.weight.clone().narrow(0, 0, head.vocab).transpose(),
        false => head.weight.clone(),
    };
    let y = x.clone().matmul(cast_like(weight, &x));
    widen(match &head.bias {
        Some(bias) => y + cast_like(bias.clone(), &x).unsqueeze(),
        None => y,
    })
}

/// -ln softmax(logits [n, V])`[target]` of every row `[n]`.
pub fn cross_entropy(log_probs: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let at: Vec<usize> = targets.iter().map(|t| *t as usize).collect();
    let index = index_tensor(&at, &log_probs.device().inner()).reshape([at.len(), 1]);
    log_probs.gather(1, index).neg().squeeze_dim(1)
}

/// sum_v q_v - 1 - ln q(token) of each row `[n]`, with q = exp(logits - offset): 0 where q is the token alone.
pub fn score_entropy(logits: Tensor<2>, ids: &[u32], offsets: &[f32]) -> Tensor<1> {
    let (device, dtype) = (logits.device().inner(), logits.dtype());
    let offsets = Tensor::<2>::from_data(TensorData::new(offsets.to_vec(), [offsets.len(), 1]), &device).cast(dtype);
    let log_q = logits - offsets;
    let total: Tensor<1> = log_q.clone().exp().sum_dim(1).squeeze_dim(1);
    total - 1.0 + cross_entropy(log_q, ids)
}

/// The integrand of the ELBO of uniform diffusion of each row `[n]`, without its factor -alpha'/(alpha (1 - alpha)); see
/// method/uniform.rs for the formula.
pub fn uniform_elbo(log_probs: Tensor<2>, rows: &UniformRows) -> Tensor<1> {
    let ([n, v], device, dtype) = (log_probs.dims(), log_probs.device().inner(), log_probs.dtype());
    let column = |value: &dyn Fn(usize) -> f64| -> Tensor<1> {
        let values: Vec<f32> = (0..n).map(|r| value(r) as f32).collect();
        Tensor::<1>::from_data(TensorData::new(values, [n]), &device).cast(dtype)
    };
    let odds = |r: usize| v as f64 * rows.alpha[r] / (1.0 - rows.alpha[r]);
    let same = |r: usize| f64::from(u8::from(rows.x0[r] == rows.xt[r]));
    let w = |r: usize| if rows.x0[r] == rows.xt[r] { 1.0 / (1.0 + odds(r)) } else { 1.0 };
    let constant = |r: usize| {
        let a = rows.alpha[r];
        w(r) * ((a + (1.0 - a) / v as f64 - same(r)) * odds(r).ln_1p() - 1.0)
    };
    let u = (log_probs.exp() * column(&odds).reshape([n, 1])).log1p();
    let mean: Tensor<1> = u.clone().mean_dim(1).squeeze_dim(1);
    let at = |ids: &[u32]| cross_entropy(u.clone(), ids).neg();
    let (u_t, u_0) = (at(&rows.xt), at(&rows.x0));
    let linear = u_t.clone() - mean * column(&|r| 1.0 - rows.alpha[r]) - u_0 * column(&|r| rows.alpha[r]);
    u_t.neg().exp() + linear * column(&w) + column(&constant)
}

/// KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ) of each row `[n]`, where p is proportional to Q_t[., x_t] (f Qbar_{t-1}) for the
/// prediction f; see method/d3pm.rs.
pub fn posterior(log_probs: Tensor<2>, rows: &PosteriorRows) -> Tensor<1> {
    let ([n, v], device, dtype) = (log_probs.dims(), log_probs.device().inner(), log_probs.dtype());
    let states = rows.states;
    let host = |values: &[f32], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device).cast(dtype)
    };
    let p = log_probs.exp();
    let mut parts = Vec::new();
    for same in rows.of.chunk_by(|a, b| a == b) {
        let from = parts.iter().map(|part: &Tensor<2>| part.dims()[0]).sum();
        let product = host(&rows.products[same[0]], [v, states]);
        parts.push(p.clone().narrow(0, from, same.len()).matmul(product));
    }
    let ours = log_softmax((Tensor::cat(parts, 0) + 1e-30).log() + host(&rows.way, [n, states]));
    let entropy = |row: &[f32]| row.iter().filter(|q| **q > 0.0).map(|q| q * q.ln()).sum::<f32>();
    let constant: Vec<f32> = rows.wanted.chunks(states).map(entropy).collect();
    let constant = Tensor::<1>::from_data(TensorData::new(constant, [n]), &device).cast(dtype);
    let cross: Tensor<1> = (ours * host(&rows.wanted, [n, states])).sum_dim(1).squeeze_dim(1);
    constant - cross
}

/// The loss of [`super::loss`].
pub fn loss(x: Tensor<2>, head: Head, target: Target, weights: &[f32]) -> Tensor<1> {
    let _span = tracing::trace_span!("composed_loss").entered();
    let ours = logits(x, &head);
    let rows: Tensor<1> = match target {
        Target::Tokens(ids) => cross_entropy(log_softmax(ours), &ids),
        Target::Scores(ids, offsets) => score_entropy(ours, &ids, &offsets),
        Target::Uniform(rows) => uniform_elbo(log_softmax(ours), &rows),
        Target::Posterior(rows) => posterior(log_softmax(ours), &rows),
        Target::Teacher(rows, head, kind) => {
            let theirs = log_softmax(logits(rows, &head));
            kind.rows(log_softmax(ours), theirs)
        }
    };
    let (device, dtype) = (rows.device().inner(), rows.dtype());
    let weights = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [weights.len()]), &device);
    (rows * weights.cast(dtype)).sum()
}

/// The step of [`super::adamw`].
pub fn adamw(
    [p, m, v]: [Tensor<1>; 3],
    average: Option<Tensor<1>>,
    gradient: Tensor<1>,
    step: AdamWStep,
) -> ([Tensor<1>; 3], Option<Tensor<1>>) {
    let g = gradient.mul_scalar(step.scale);
    let m = m.mul_scalar(step.beta1) + g.clone().mul_scalar(1.0 - step.beta1);
    let v = v.mul_scalar(step.beta2) + g.square().mul_scalar(1.0 - step.beta2);
    let by = v.clone().mul_scalar(1.0 / step.bias2).sqrt() + step.eps;
    let p = p.mul_scalar(1.0 - step.lr * step.weight_decay) - m.clone().mul_scalar(step.lr / step.bias1) / by;
    let average = average.zip(step.average).map(|(e, decay)| e.mul_scalar(decay) + p.clone().mul_scalar(1.0 - decay));
    ([p, m, v], average)
}
