use super::*;
use crate::model::TransformerConfig;
use crate::model::params::floats;

const L: usize = 6;
const V: usize = 9;

fn network(device: &Device, self_conditioning: bool) -> Transformer {
    let text = format!(
        "dim = 16\nlayers = 2\nheads = 2\nvisibility = \"full\"\nlearned_positions = true\ntime = \"position\"\n\
         vectors = {{ count = {L}, width = 5, codebook = true, self_conditioning = {self_conditioning} }}"
    );
    let config: TransformerConfig = toml::from_str(&text).unwrap();
    let model = Transformer::init(&config, V, L, 4, device);
    // Blocks that begin as the identity would let no position see another.
    let mut named = params::export(&model);
    let mut rng = StepRng::new(8).at(0, Stream::Init);
    for (_, tensor) in named.iter_mut().filter(|(name, _)| name.contains("modulation")) {
        tensor.data.iter_mut().for_each(|v| *v = 0.3 * rng.sample::<f32, _>(StandardNormal));
    }
    params::import(model, &named, device)
}

fn config() -> EmbeddingConfig {
    EmbeddingConfig { levels: 40, ..EmbeddingConfig::default() }
}

fn of<'a>(model: &'a Transformer, config: &'a EmbeddingConfig, sampler: Sampler) -> Embedding<'a> {
    Embedding { model, config, sampler, anchored: false, steering: None }
}

const SAMPLERS: [Sampler; 4] = [
    Sampler { eta: 1.0, clamp: false, top_p: None },
    Sampler { eta: 0.0, clamp: true, top_p: None },
    Sampler { eta: 0.5, clamp: false, top_p: Some(1.0) },
    Sampler { eta: 1.0, clamp: true, top_p: Some(2.0) },
];

/// One sample, walked on the host by the functions that the fixtures are held against.
fn by_hand(model: &Transformer, config: &EmbeddingConfig, sampler: Sampler, steps: usize, seed: u64) -> Vec<u32> {
    let alphas = config.alphas();
    let kept = spaced(config.levels, steps).unwrap();
    let levels = Levels::new(&alphas, kept.clone());
    let mut rng = StepRng::new(seed).at(0, Stream::Noise);
    let mut normal =
        |limit| normals(L * 5, limit, &mut |n| (0..n).map(|_| rng.sample::<f64, _>(StandardNormal) as f32).collect());
    let (book, offsets) = model.codebook().unwrap();
    let (book, offsets) = (floats(book), floats(offsets));
    let mut x = normal(None);
    for i in (0..kept.len()).rev() {
        let input = Tensor::from_data(TensorData::new(x.clone(), [1, L, 5]), &model.device());
        let mut x0 = floats(model.says(input, &[config.told(kept[i]); L], None, &Given::default()));
        if sampler.clamp {
            x0 = x0.chunks(5).flat_map(|v| ddpm::nearest(&book, v).1.to_vec()).collect();
        }
        let step = levels.step(sampler.kind(), i);
        let z = if step.noise > 0.0 { normal(sampler.top_p) } else { vec![0.0; L * 5] };
        x = step.apply(&x, &x0, &z);
    }
    let logit = |x: &[f32], v: usize| x.iter().zip(&book[v * 5..]).map(|(a, b)| a * b).sum::<f32>() + offsets[v];
    let best = |x: &[f32]| (0..V).max_by(|a, b| logit(x, *a).total_cmp(&logit(x, *b))).unwrap() as u32;
    x.chunks(5).map(best).collect()
}

#[test]
fn every_sampler_walks_as_its_steps_on_the_host_do() {
    let model = network(&Device::flex(), false);
    let config = config();
    for sampler in SAMPLERS {
        for steps in [1, 3, 40] {
            let drawn = sample(&of(&model, &config, sampler), &SampleSpec::new(steps, 7, 1), 1).unwrap();
            assert_eq!(drawn.tokens[0], by_hand(&model, &config, sampler, steps, 7), "{sampler:?}, {steps} steps");
            assert_eq!((drawn.nfe[0], drawn.positions[0]), (steps, (steps * L) as u64));
        }
    }
    let e = sample(&of(&model, &config, SAMPLERS[0]), &SampleSpec::new(41, 7, 1), 1).unwrap_err().to_string();
    assert!(e.contains("between 1 and 40 steps"), "{e}");
}

#[test]
fn a_sample_does_not_depend_on_its_batch_and_given_tokens_stay() {
    let config = config();
    for self_conditioning in [false, true] {
        let model = network(&Device::flex(), self_conditioning);
        for (sampler, anchored) in [(SAMPLERS[0], false), (SAMPLERS[1], true), (SAMPLERS[2], true)] {
            let of = Embedding { anchored, ..of(&model, &config, sampler) };
            let draw = |batch: usize| {
                let mut spec = SampleSpec::new(5, 3, batch);
                spec.pinned = vec![Some(8), None, Some(2), None, None, None];
                sample(&of, &spec, 7).unwrap().tokens
            };
            let all = draw(7);
            assert_eq!(all, draw(2), "{sampler:?}");
            assert!(all.iter().all(|t| t[0] == 8 && t[2] == 2));
            assert!(all.iter().any(|t| *t != all[0]));
        }
    }
}

#[test]
fn the_nearest_vectors_on_the_device_are_those_on_the_host() {
    let model = network(&Device::flex(), false);
    let (book, _) = model.codebook().unwrap();
    let mut rng = StepRng::new(1).at(0, Stream::Noise);
    let x: Vec<f32> = (0..20 * 5).map(|_| rng.sample::<f32, _>(StandardNormal)).collect();
    let got = floats(nearest(Tensor::from_data(TensorData::new(x.clone(), [4, 5, 5]), &model.device()), book.clone()));
    let host = floats(book);
    let want: Vec<f32> = x.chunks(5).flat_map(|v| ddpm::nearest(&host, v).1.to_vec()).collect();
    assert_eq!(got, want);
}

#[test]
fn guidance_makes_what_is_asked_for_more_probable_and_counts_its_passes() {
    let device = Device::flex();
    let (model, classifier) = (network(&device, false), network(&device.clone().autodiff(), false));
    let guidance = GuidanceConfig { classifier: "c".into(), updates: 4, lr: 0.05, fluency: 0.01 };
    let conditions = vec![vec![3, 1], vec![2, 0], vec![3, 1]];
    let steering = Steering { classifier: &classifier, config: &guidance, conditions: &conditions };
    let x = crate::method::latent::normals([3, L, 5], &mut StepRng::new(2).at(0, Stream::Noise), &device);
    let told = vec![0.2; 3 * L];
    let plain = network(&device, false);
    let value = |x: Tensor<3>| floats(log_probability(&plain, x, &told, &conditions.concat()))[0];
    let after = steered(&steering, x.clone(), &told);
    assert!(value(after.clone()) > value(x.clone()) + 0.05, "{} from {}", value(after.clone()), value(x.clone()));
    // A strong pull back leaves less of it.
    let held = GuidanceConfig { fluency: 1e3, ..guidance.clone() };
    let near = steered(&Steering { config: &held, ..steering }, x.clone(), &told);
    let moved = |to: Tensor<3>| floats((to - x.clone()).abs().mean())[0];
    assert!(moved(near.clone()) < moved(after), "{}", moved(near));
    let config = config();
    let guided = Embedding { steering: Some(steering), ..of(&model, &config, SAMPLERS[0]) };
    let drawn = sample(&guided, &SampleSpec::new(3, 1, 2), 2).unwrap();
    assert_eq!((drawn.nfe[0], drawn.positions[1]), (27, (27 * L) as u64));
}

#[test]
fn at_temperature_0_a_truncated_sampler_draws_the_same_whatever_the_seed() {
    let (model, config) = (network(&Device::flex(), false), config());
    for sampler in SAMPLERS {
        let of = of(&model, &config, sampler);
        let draw = |seed: u64, temperature: f64| {
            let mut spec = SampleSpec::new(5, seed, 2);
            spec.filter.temperature = temperature;
            sample(&of, &spec, 2).unwrap().tokens
        };
        assert_eq!(draw(1, 0.0), draw(2, 0.0), "{sampler:?}");
        assert_ne!(draw(1, 1.0), draw(2, 1.0), "{sampler:?}");
    }
}
