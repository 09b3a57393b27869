//! int8 weights: symmetric, one scale for each output channel.
//!
//! A matrix `NAME` is stored as I8 in its own shape, and beside it `NAME_scale` as F32: [out, 1] where rows are outputs
//! ([out, in]), [1, out] where columns are ([in, out], as GPT-2 has it). A weight is its integer times its channel's scale;
//! integers lie in -127 ..= 127, and a scale is the channel's largest absolute weight / 127.

use super::HostTensor;

/// What is put behind a matrix's name to name its scales.
pub const SCALE: &str = "_scale";

/// The side of a stored matrix that is the output of its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    Rows,
    Columns,
}

/// The integers of a matrix, and its scales [out, 1] or [1, out].
pub fn quantise(matrix: &HostTensor, outputs: Outputs) -> (Vec<i8>, HostTensor) {
    let (rows, columns) = (matrix.shape[0], matrix.shape[1]);
    let channel = |i: usize| if outputs == Outputs::Rows { i / columns } else { i % columns };
    let shape = if outputs == Outputs::Rows { vec![rows, 1] } else { vec![1, columns] };
    let mut scales = vec![0f32; shape[0] * shape[1]];
    for (i, v) in matrix.data.iter().enumerate() {
        scales[channel(i)] = scales[channel(i)].max(v.abs());
    }
    // A channel of zeros stays one, and so does one whose scale f32 cannot hold.
    scales.iter_mut().for_each(|s| *s = if *s / 127.0 > 0.0 { *s / 127.0 } else { 1.0 });
    let whole = |(i, v): (usize, &f32)| (v / scales[channel(i)]).round_ties_even().clamp(-127.0, 127.0) as i8;
    let values = matrix.data.iter().enumerate().map(whole).collect();
    (values, HostTensor { shape, data: scales })
}

/// The weights of stored integers (I8 bytes) in `shape`; an error text where the scales do not fit it.
pub fn dequantise(bytes: &[u8], shape: &[usize], scales: &HostTensor) -> Result<Vec<f32>, String> {
    let outputs = match (shape, scales.shape.as_slice()) {
        ([rows, _], [n, 1]) if n == rows => Outputs::Rows,
        ([_, columns], [1, n]) if n == columns => Outputs::Columns,
        _ => return Err(format!("int8 weights {shape:?} have scales {:?}", scales.shape)),
    };
    let channel = |i: usize| if outputs == Outputs::Rows { i / shape[1] } else { i % shape[1] };
    Ok(bytes.iter().enumerate().map(|(i, b)| f32::from(*b as i8) * scales.data[channel(i)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_within_half_a_scale_and_the_largest_of_each_channel_exactly() {
        let data = vec![0.5, -1.27, 0.004, 0.0, 0.0, 0.0, 3.0, -2.0, 1.0];
        let matrix = HostTensor { shape: vec![3, 3], data };
        for outputs in [Outputs::Rows, Outputs::Columns] {
            let (values, scales) = quantise(&matrix, outputs);
            let bytes: Vec<u8> = values.iter().map(|v| *v as u8).collect();
            let back = dequantise(&bytes, &matrix.shape, &scales).unwrap();
            for (i, (a, b)) in matrix.data.iter().zip(&back).enumerate() {
                let channel = if outputs == Outputs::Rows { i / 3 } else { i % 3 };
                assert!((a - b).abs() <= scales.data[channel] / 2.0 * 1.0001, "{outputs:?} {i}: {a} became {b}");
            }
            assert!((back[6] - 3.0).abs() < 1e-6);
        }
        assert_eq!(quantise(&matrix, Outputs::Rows).1.shape, [3, 1]);
        assert_eq!(quantise(&matrix, Outputs::Columns).1.shape, [1, 3]);
    }

    #[test]
    fn scales_of_another_shape_are_refused() {
        let scales = HostTensor { shape: vec![2, 1], data: vec![1.0; 2] };
        assert!(dequantise(&[0; 9], &[3, 3], &scales).is_err());
        assert!(dequantise(&[0; 3], &[3], &scales).is_err());
    }
}
