use super::*;
use crate::model::TransformerConfig;
use crate::model::params::{self, floats};
use crate::process::ddpm::Sampler;
use crate::process::gaussian::Prediction;
use crate::rng::StepRng;
use rand_distr::{Distribution, StandardNormal};

const L: usize = 6;
const V: usize = 9;

/// A network as training begins with it.
fn beginning(rest: &str, device: &Device) -> Transformer {
    let text = format!(
        "dim = 16\nlayers = 2\nheads = 2\nvisibility = \"full\"\nlearned_positions = true\n\
         time = \"position\"\nvectors = {{ count = {L}, width = 5, codebook = true{rest} }}"
    );
    let config: TransformerConfig = toml::from_str(&text).unwrap();
    config.validate("network").unwrap();
    Transformer::init(&config, V, L, 4, device)
}

fn network(rest: &str, device: &Device) -> Transformer {
    let model = beginning(rest, device);
    // Blocks that begin as the identity would let no position see another.
    let mut named = params::export(&model);
    let mut rng = StepRng::new(8).at(0, Stream::Init);
    for (_, tensor) in named.iter_mut().filter(|(name, _)| name.contains("modulation")) {
        tensor.data.iter_mut().for_each(|v| *v = 0.3 * rng.sample::<f32, _>(StandardNormal));
    }
    params::import(model, &named, device)
}

fn texts(b: usize) -> Vec<u32> {
    (0..b * L).map(|i| ((i * 7 + i / L) % V) as u32).collect()
}

fn rng() -> Generators {
    StepRng::new(5).of_step(3)
}

/// A model that says nothing: the loss is then a sum over what it was given, computed here on the host.
#[test]
fn the_loss_of_a_model_that_says_zero_is_its_formula_over_the_draws() {
    let device = Device::flex();
    let model = network("", &device);
    let mut named = params::export(&model);
    for (_, t) in named.iter_mut().filter(|(n, _)| n.starts_with("vectors.output")) {
        t.data.fill(0.0);
    }
    let model = params::import(model, &named, &device);
    let (b, d) = (4, 5);
    let x0 = texts(b);
    for (predict, levels) in [(Prediction::X0, 50), (Prediction::Noise, 50), (Prediction::V, 50), (Prediction::X0, 2)] {
        let config = EmbeddingConfig { levels, predict, ..EmbeddingConfig::default() };
        let got = f64::from(floats(loss(&config, &model, &x0, false, rng()))[0]);

        let (alphas, book) = (config.alphas(), &named["vectors.codebook"].data);
        let rng = rng();
        let mut noise = rng.at(Stream::Corrupt);
        let mut normals = || -> Vec<f64> {
            (0..b * L * d).map(|_| f64::from(Distribution::<f32>::sample(&StandardNormal, &mut noise))).collect()
        };
        let (n, eps) = (normals(), normals());
        let offset: f64 = rng.at(Stream::Times).random();
        let (mut squares, mut prior, mut round) = (0.0, 0.0, 0.0);
        for (i, token) in x0.iter().enumerate() {
            let level = ((((i / L) as f64 + offset) / b as f64) * levels as f64) as usize;
            let a = alphas[level];
            let mut start = vec![0.0; d];
            for w in 0..d {
                let clean = f64::from(book[*token as usize * d + w]);
                start[w] = clean + (1.0 - alphas[0]).sqrt() * n[i * d + w];
                let e = eps[i * d + w];
                let x = a.sqrt() * start[w] + (1.0 - a).sqrt() * e;
                let target = match predict {
                    Prediction::X0 => start[w],
                    Prediction::Noise => e,
                    Prediction::V => a.sqrt() * e - (1.0 - a).sqrt() * start[w],
                };
                let at_zero = match predict {
                    Prediction::X0 => 0.0,
                    Prediction::Noise => x / a.sqrt(),
                    Prediction::V => a.sqrt() * x,
                };
                squares += if level == 0 { (at_zero - clean).powi(2) } else { target.powi(2) };
                prior += alphas[levels - 1] * start[w] * start[w];
            }
            let logit = |v: usize| (0..d).map(|w| f64::from(book[v * d + w]) * start[w]).sum::<f64>();
            round += (0..V).map(|v| logit(v).exp()).sum::<f64>().ln() - logit(*token as usize);
        }
        let want = (squares + prior) / (b * L * d) as f64 + round / (b * L) as f64;
        assert!((got - want).abs() < 2e-5 * want.max(1.0), "{predict:?}, {levels} levels: {got} for {want}");
    }
}

#[test]
fn given_positions_are_clean_in_the_input_and_not_in_the_loss() {
    let device = Device::flex().autodiff();
    let model = network("", &device);
    let x0 = texts(3);
    let config = EmbeddingConfig { given: 4, given_share: 1.0, levels: 50, ..EmbeddingConfig::default() };
    // Other tokens there change what is predicted: they are read.
    let mut other = x0.clone();
    other.iter_mut().step_by(L).for_each(|t| *t = (*t + 1) % V as u32);
    let plain = |x: &[u32], c: &EmbeddingConfig| f64::from(floats(loss(c, &model.valid(), x, false, rng()))[0]);
    assert_ne!(plain(&x0, &config), plain(&other, &config));
    // All but one given: the mean is over that one, and not a sixth of it.
    let all = plain(&x0, &EmbeddingConfig { given: 0, ..config.clone() });
    let few = plain(&x0, &EmbeddingConfig { given: L - 1, ..config });
    assert!(few > 0.5 * all && few < 2.0 * all, "{few} beside {all}");
    assert_eq!(free(&[true, false], 3, 2), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn levels_are_stratified_over_a_batch_and_those_of_ar_diffusion_rise_to_the_right() {
    let config = EmbeddingConfig { levels: 100, ..EmbeddingConfig::default() };
    for step in 0..20 {
        let mut draws = StepRng::new(1).at(step, Stream::Times);
        let all = levels(&config, [10, 3], false, &mut draws);
        for (i, row) in all.chunks(3).enumerate() {
            assert!(row.iter().all(|t| *t == row[0] && *t / 10 == i), "{row:?}");
        }
        let all = levels(&config, [10, L], true, &mut draws);
        assert!(all.chunks(L).all(|row| row.windows(2).all(|p| p[0] <= p[1]) && row[L - 1] < 100));
        assert!(all.chunks(L).any(|row| row[0] < row[L - 1]));
    }
}

#[test]
fn gradients_reach_embeddings_and_network_with_and_without_an_own_estimate() {
    let device = Device::flex().autodiff();
    for (rest, anchored) in [("", false), (", self_conditioning = true", false), ("", true)] {
        let model = network(rest, &device);
        let config = EmbeddingConfig { self_conditioning: 1.0, levels: 30, ..EmbeddingConfig::default() };
        let (value, grads) = denoise(&config, &model, &texts(4), anchored, rng());
        let found = params::gradients(&model, &grads);
        assert!(value.is_finite());
        for name in ["vectors.codebook", "vectors.rounding", "vectors.input.weight", "vectors.output.weight"] {
            assert!(found[name].data.iter().any(|g| *g != 0.0), "{name}");
        }
    }
}

#[test]
fn a_classifier_does_not_read_what_it_is_asked_for_and_its_gradient_is_the_finite_difference() {
    let device = Device::flex();
    let model = network("", &device);
    let (b, c) = (2, 2);
    let x = normals([b, L, 5], &mut StepRng::new(2).at(0, Stream::Corrupt), &device);
    let (told, condition) = (vec![0.3; b * L], vec![1, 2, 3, 4]);
    let value = |x: Tensor<3>| f64::from(floats(log_probability(&model, x, &told, &condition))[0]);
    let before = value(x.clone());
    assert!(before < 0.0);
    let changed = |at: [usize; 2], by: f32| {
        let mut values = floats(x.clone());
        values[at[0] * 5 + at[1]] += by;
        value(Tensor::from_data(TensorData::new(values, [b, L, 5]), &device))
    };
    assert_eq!(changed([1, 0], 3.0), before);
    let trained = network("", &device.clone().autodiff());
    let leaf = x.clone().autodiff().require_grad();
    let mut grads = log_probability(&trained, leaf.clone(), &told, &condition).backward();
    let gradient = floats(leaf.grad_remove(&mut grads).unwrap());
    for (row, w) in [(2, 0), (5, 3), (L + 4, 1)] {
        let h = 2e-2;
        let numeric = (changed([row, w], h) - changed([row, w], -h)) / (2.0 * f64::from(h));
        let exact = f64::from(gradient[row * 5 + w]);
        assert!((numeric - exact).abs() < 2e-3 + 0.02 * exact.abs(), "row {row}: {numeric} and {exact}");
    }
    assert!(gradient[..5 * c].iter().all(|g| *g == 0.0) && gradient.iter().any(|g| g.abs() > 1e-3));
}

#[test]
fn a_classifier_learns_what_the_noisy_embeddings_say() {
    use crate::optim::Optimizer;
    use crate::train::TrainConfig;
    let device = Device::flex();
    let of = network("", &device);
    let mut model = beginning("", &device.clone().autodiff());
    let config = EmbeddingConfig { given: 1, levels: 30, ..EmbeddingConfig::default() };
    let train: TrainConfig = toml::from_str("steps = 60\nbatch = 16\nlr = 1e-2").unwrap();
    let mut optimizer = Optimizer::new(&model, false);
    // The first token is a function of the last.
    let batch = |step: u64| -> Vec<u32> {
        let mut rng = StepRng::new(9).at(step, Stream::Batch);
        (0..16)
            .flat_map(|_| {
                let last = rng.random_range(0..4u32);
                [last + 4, 0, 1, 2, 3, last]
            })
            .collect()
    };
    let mut losses = Vec::new();
    for step in 0..60 {
        let (value, grads) = classify(&config, &model, &of, &batch(step), StepRng::new(1).of_step(step));
        losses.push(value);
        model = optimizer.step(model, grads, &train, step as usize, 1.0);
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[50..]));
    // ln 4 is what the prior alone gives.
    assert!(first > 1.3 && last < 1.0, "{first} to {last}");
}

#[test]
fn sizes_out_of_range_name_their_key() {
    let good = EmbeddingConfig::default();
    for (config, key) in [
        (EmbeddingConfig { levels: 1, ..good.clone() }, "levels"),
        (EmbeddingConfig { given: 6, ..good.clone() }, "given"),
        (EmbeddingConfig { given_share: 1.5, ..good.clone() }, "given_share"),
        (EmbeddingConfig { sampler: Sampler { eta: 2.0, ..Sampler::default() }, ..good.clone() }, "sampler.eta"),
        (EmbeddingConfig { sampler: Sampler { top_p: Some(0.0), ..Sampler::default() }, ..good }, "sampler.top_p"),
    ] {
        let e = config.validate("objective.embedding", 6).unwrap_err().to_string();
        assert!(e.contains(&format!("objective.embedding.{key}")), "{e}");
    }
}
