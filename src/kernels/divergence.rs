//! Divergences between the student's and the teacher's token distributions, row by row.
//!
//! Named by argument order, because the field is not of one mind: with p the teacher and q the student,
//! forward KL = KL(p || q), reverse KL = KL(q || p). The teacher is a constant. n rows, V vocabulary.

use burn::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A divergence of the student from the teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// KL(teacher || student): covers the teacher.
    ForwardKl,
    /// KL(student || teacher): seeks the teacher's modes; SDTT's default.
    ReverseKl,
    /// Jensen-Shannon: the mean KL of both to their midpoint.
    JensenShannon,
    /// Total variation: half the L1 distance of the probabilities.
    TotalVariation,
    /// Mean squared difference of the log-probabilities.
    LogMse,
}

impl Divergence {
    /// Every divergence, for tests and benches.
    pub const ALL: [Divergence; 5] = [
        Divergence::ForwardKl,
        Divergence::ReverseKl,
        Divergence::JensenShannon,
        Divergence::TotalVariation,
        Divergence::LogMse,
    ];

    /// The divergence of each row `[n]`, from log-probabilities [n, V] of student and teacher.
    pub fn rows(self, student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        let per_token = match self {
            Divergence::ForwardKl => teacher.clone().exp() * (teacher - student),
            Divergence::ReverseKl => student.clone().exp() * (student - teacher),
            Divergence::JensenShannon => {
                let (q, p) = (student.clone().exp(), teacher.clone().exp());
                let middle = ((p.clone() + q.clone()).mul_scalar(0.5) + 1e-30).log();
                (p * (teacher - middle.clone()) + q * (student - middle)).mul_scalar(0.5)
            }
            Divergence::TotalVariation => (student.exp() - teacher.exp()).abs().mul_scalar(0.5),
            Divergence::LogMse => {
                let vocab = student.dims()[1] as f64;
                (student - teacher).square().mul_scalar(1.0 / vocab)
            }
        };
        per_token.sum_dim(1).squeeze_dim(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::params::floats;

    fn log_row(p: [f32; 3], device: &Device) -> Tensor<2> {
        Tensor::<2>::from_data(TensorData::new(p.to_vec(), [1, 3]), device).log()
    }

    #[test]
    fn each_divergence_has_its_value_on_a_three_symbol_example() {
        // q = student (0.5, 0.25, 0.25), p = teacher (0.25, 0.25, 0.5); values by hand.
        let d = Device::flex();
        let (q, p) = (log_row([0.5, 0.25, 0.25], &d), log_row([0.25, 0.25, 0.5], &d));
        let ln2 = std::f32::consts::LN_2;
        let js = 0.5 * ((0.25 * (2.0f32 / 3.0).ln() + 0.5 * (4.0f32 / 3.0).ln()) * 2.0);
        let want = [0.25 * ln2, 0.25 * ln2, js, 0.25, 2.0 * ln2 * ln2 / 3.0];
        for (kind, want) in Divergence::ALL.into_iter().zip(want) {
            let got = floats(kind.rows(q.clone(), p.clone()))[0];
            assert!((got - want).abs() < 1e-5, "{kind:?}: {got} for {want}");
        }
    }

    #[test]
    fn forward_and_reverse_kl_are_not_swapped() {
        // With q = (0.9, 0.05, 0.05) and p = (1/3, 1/3, 1/3): KL(p||q) = 0.9335..., KL(q||p) = 0.7041...
        let d = Device::flex();
        let (q, p) = (log_row([0.9, 0.05, 0.05], &d), log_row([1.0 / 3.0; 3], &d));
        let forward = floats(Divergence::ForwardKl.rows(q.clone(), p.clone()))[0];
        let reverse = floats(Divergence::ReverseKl.rows(q, p))[0];
        assert!((forward - 0.933_67).abs() < 1e-3 && (reverse - 0.704_14).abs() < 1e-3, "{forward} {reverse}");
    }

    #[test]
    fn a_student_equal_to_its_teacher_has_no_divergence_and_no_gradient() {
        let device = Device::flex().autodiff();
        for kind in Divergence::ALL {
            let logits = Tensor::<2>::from_data([[0.3f32, -1.0, 2.0, 0.1]], &device).require_grad();
            let student = burn::tensor::activation::log_softmax(logits.clone(), 1);
            let value = kind.rows(student.clone(), student.clone().inner()).sum();
            assert!(floats(value.clone())[0].abs() < 1e-6, "{kind:?}");
            let grads = value.backward();
            let Some(g) = logits.grad(&grads) else { panic!("a gradient") };
            assert!(floats(g).iter().all(|v| v.abs() < 1e-6), "{kind:?}");
        }
    }
}
