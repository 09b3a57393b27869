//! Corruption: what noise is. Absorbing noise, q(x_t | x_0) = alpha x_0 + (1 - alpha) mask (SUBS, MDLM section 3), and uniform
//! noise, q(x_t | x_0) = alpha x_0 + (1 - alpha)/V (Austin et al. 2021; Schiff et al. 2024, UDLM; Sahoo et al. 2025, DUO).
//!
//! What a uniform step down from t to s does to a token i, where x_0 is predicted as p, is a mixture of three draws
//! ([`Bridge`]): i stays, a token from p, or any token. The first draw says which, so no small probability competes with one
//! near 1 in a single draw.
//!
//! The p that makes this step exact is that of a position given all *others*: with p(x_0 | x_t) of the position itself the
//! token i would be counted twice. It is also what the ELBO's optimum predicts (method/uniform.rs).
//!
//! B batch, L length; tokens are row-major [B, L]; the mask id is the vocabulary size V.

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schedule::Schedule;

/// The kind of noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// A lost token becomes the mask and stays it until it is revealed.
    #[default]
    Absorb,
    /// A lost token becomes any of the V tokens, itself among them.
    Uniform,
    /// The same noise as the largest component of a Gaussian one, at the times of that Gaussian process (DUO's duality).
    GaussianArgmax,
}

/// The tokens that there are: V of them, and the id of the mask, which uniform noise never looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alphabet {
    pub mask: u32,
    /// V; absorbing noise never looks at it.
    pub vocab: usize,
}

/// The times of each position before a step and behind it.
#[derive(Debug, Clone, Copy)]
pub struct Times<'a> {
    pub t: &'a [f64],
    pub s: &'a [f64],
}

impl Corruption {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Corruption::Absorb => "absorb",
            Corruption::Uniform => "uniform",
            Corruption::GaussianArgmax => "gaussian_argmax",
        }
    }

    /// Whether a lost token is the mask.
    pub fn absorbs(&self) -> bool {
        *self == Corruption::Absorb
    }

    /// x_t drawn from q(x_t | x_0): each token is lost independently with probability 1 - alpha(t of its position).
    ///
    /// `x0` and `t` are [B x L]. A position at t = 0 is never lost.
    ///
    /// # Panics
    /// Where `x0` and `t` differ in length.
    pub fn corrupt(
        self,
        x0: &[u32],
        t: &[f64],
        schedule: Schedule,
        alphabet: Alphabet,
        rng: &mut impl Rng,
    ) -> Vec<u32> {
        assert_eq!(x0.len(), t.len(), "one time for each token");
        let noise = |rng: &mut _| if self.absorbs() { alphabet.mask } else { any(alphabet.vocab, rng) };
        let each = x0.iter().zip(t);
        each.map(|(&x, &t)| if rng.random::<f64>() < 1.0 - schedule.alpha(t) { noise(rng) } else { x }).collect()
    }

    /// Probability that a masked position is revealed when time goes from `t` down to `s`:
    /// (alpha_s - alpha_t) / (1 - alpha_t).
    ///
    /// # Panics
    /// For uniform noise, which reveals nothing: it has a bridge.
    pub fn reveal_probability(self, schedule: Schedule, t: f64, s: f64) -> f64 {
        assert!(self.absorbs(), "uniform noise reveals nothing: it has a bridge");
        let (at, as_) = (schedule.alpha(t), schedule.alpha(s));
        if at >= 1.0 || s <= 0.0 { 1.0 } else { ((as_ - at) / (1.0 - at)).clamp(0.0, 1.0) }
    }

    /// x_s drawn from q(x_s | x_t, x_0) of clean text, all [B x L], between the times `t` and `s` of each position.
    ///
    /// # Panics
    /// Where `xt`, `x0`, `t` and `s` differ in length.
    pub fn bridge(
        self,
        xt: &[u32],
        x0: &[u32],
        times: Times,
        schedule: Schedule,
        alphabet: Alphabet,
        rng: &mut impl Rng,
    ) -> Vec<u32> {
        let (Times { t, s }, Alphabet { mask, vocab }) = (times, alphabet);
        assert!(xt.len() == x0.len() && xt.len() == t.len() && xt.len() == s.len(), "one of each for each token");
        let step = |i: usize| {
            // Drawn whatever it is for, so that a position's draws do not depend on its neighbours' tokens.
            let (which, other) = (rng.random::<f64>(), any(vocab, rng));
            if self.absorbs() {
                let opens = xt[i] == mask && which < self.reveal_probability(schedule, t[i], s[i]);
                return if opens { x0[i] } else { xt[i] };
            }
            let own = f64::from(u8::from(xt[i] == x0[i]));
            match Bridge::new(own, vocab, schedule.alpha(t[i]), schedule.alpha(s[i])).pick(which) {
                Source::Stay => xt[i],
                Source::Text => x0[i],
                Source::Noise => other,
            }
        };
        (0..xt.len()).map(step).collect()
    }
}

/// Any of V tokens.
pub fn any(vocab: usize, rng: &mut impl Rng) -> u32 {
    rng.random_range(0..vocab as u32)
}

/// Where the token of a uniform step comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is the one that was there.
    Stay,
    /// Drawn from the prediction of x_0.
    Text,
    /// Any of the V tokens.
    Noise,
}

/// The three parts of q(x_s | x_t, p) under uniform noise: probabilities of staying, of a draw from p and of any token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bridge {
    pub stay: f64,
    pub text: f64,
    pub noise: f64,
}

impl Bridge {
    /// Of a token that the prediction p has with probability `own`, from `alpha_t` up to `alpha_s`.
    ///
    /// q(x_t | x_s) q(x_s | p) = [a_ts + (1 - a_ts)/V at x_t] [a_s p + (1 - a_s)/V], a_ts = a_t/a_s; its four products, times V.
    pub fn new(own: f64, vocab: usize, alpha_t: f64, alpha_s: f64) -> Self {
        if alpha_s <= 0.0 {
            return Bridge { stay: 0.0, text: 0.0, noise: 1.0 };
        }
        let kept = alpha_t / alpha_s;
        let stay = vocab as f64 * alpha_t * own + kept - alpha_t;
        let (text, noise) = (alpha_s - alpha_t, (1.0 - kept) * (1.0 - alpha_s));
        match stay + text + noise {
            // Nothing is lost at t, and a prediction that excludes what is there has no step to it.
            total if total <= 0.0 => Bridge { stay: 1.0, text: 0.0, noise: 0.0 },
            total => Bridge { stay: stay / total, text: text / total, noise: noise / total },
        }
    }

    /// Which part a uniform in [0, 1) falls into.
    pub fn pick(&self, u: f64) -> Source {
        match u {
            u if u < self.text => Source::Text,
            u if u < self.text + self.noise => Source::Noise,
            _ => Source::Stay,
        }
    }
}

/// The whole posterior q(x_s | x_t, x_0) `[V]` under uniform noise, from a prediction x_0 `[V]`, with alphas at t and s (Sahoo et
/// al. 2025, the ancestral step of DUO's code); where nothing is lost at t and s, x_t needs a probability above 0.
pub fn uniform_posterior(x0: &[f64], xt: u32, at: f64, as_: f64) -> Vec<f64> {
    let (v, ats, xt) = (x0.len() as f64, at / as_, xt as usize);
    let below = at * v * x0[xt] + 1.0 - at;
    let above = |(y, p): (usize, &f64)| {
        let here = if y == xt { at * v * p + ats - at } else { 0.0 };
        here + (as_ - at) * p + (1.0 - ats) * (1.0 - as_) / v
    };
    x0.iter().enumerate().map(|y| above(y) / below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{StepRng, Stream};

    #[test]
    fn the_share_of_kept_tokens_is_alpha_within_four_sigma() {
        let mut rng = StepRng::new(1).at(0, Stream::Corrupt);
        for schedule in [Schedule::LogLinear, Schedule::Cosine] {
            for t in [0.0, 0.1, 0.5, 0.9, 1.0] {
                let n = 1_000_000;
                let xt = Corruption::Absorb.corrupt(
                    &vec![3; n],
                    &vec![t; n],
                    schedule,
                    Alphabet { mask: 7, vocab: 7 },
                    &mut rng,
                );
                let kept = xt.iter().filter(|x| **x == 3).count() as f64;
                let (p, n) = (schedule.alpha(t), n as f64);
                assert!((kept - n * p).abs() <= 4.0 * (n * p * (1.0 - p)).sqrt() + 1e-6, "{schedule:?} {t}");
            }
        }
    }

    #[test]
    fn revealing_step_by_step_has_the_marginal_of_the_schedule() {
        let c = Corruption::Absorb;
        for schedule in [Schedule::LogLinear, Schedule::Cosine] {
            let times: Vec<f64> = (0..=7).map(|k| 1.0 - k as f64 / 7.0).collect();
            let mut masked = 1.0;
            for p in times.windows(2) {
                masked *= 1.0 - c.reveal_probability(schedule, p[0], p[1]);
                assert!((masked - (1.0 - schedule.alpha(p[1]))).abs() < 1e-12);
            }
        }
    }

    /// q(x_s | x_t, x_0) by Bayes' rule over the V tokens of x_s, from the two forward distributions alone.
    fn by_bayes(p: &[f64], xt: u32, at: f64, as_: f64) -> Vec<f64> {
        let v = p.len() as f64;
        let (kept, xt) = (at / as_, xt as usize);
        let joint = |y: usize| {
            let way = (1.0 - kept) / v + if y == xt { kept } else { 0.0 };
            way * (as_ * p[y] + (1.0 - as_) / v)
        };
        let joint: Vec<f64> = (0..p.len()).map(joint).collect();
        let total: f64 = joint.iter().sum();
        joint.into_iter().map(|j| j / total).collect()
    }

    #[test]
    fn the_uniform_posterior_and_its_three_parts_are_bayes_rule() {
        let p = [0.5, 0.125, 0.25, 0.125];
        for (at, as_) in [(0.0, 0.1), (0.2, 0.3), (0.2, 1.0), (0.9, 0.95), (0.5, 0.5)] {
            for xt in 0..4u32 {
                let want = by_bayes(&p, xt, at, as_);
                let whole = uniform_posterior(&p, xt, at, as_);
                let b = Bridge::new(p[xt as usize], 4, at, as_);
                for y in 0..4 {
                    let parts = b.text * p[y] + b.noise / 4.0 + if y == xt as usize { b.stay } else { 0.0 };
                    assert!((whole[y] - want[y]).abs() < 1e-12, "{at} {as_} {xt} {y}");
                    assert!((parts - want[y]).abs() < 1e-12, "{at} {as_} {xt} {y}: {parts} for {}", want[y]);
                }
            }
        }
    }

    #[test]
    fn a_bridge_from_noise_has_the_marginal_of_its_end() {
        let (n, vocab, x0) = (400_000, 5, 3);
        let mut rng = StepRng::new(2).at(0, Stream::Corrupt);
        for corruption in [Corruption::Absorb, Corruption::Uniform] {
            for (t, s) in [(1.0, 0.4), (0.8, 0.7), (0.5, 0.0)] {
                let text = vec![x0; n];
                let (ts, ss) = (vec![t; n], vec![s; n]);
                let (times, alphabet) = (Times { t: &ts, s: &ss }, Alphabet { mask: 5, vocab });
                let xt = corruption.corrupt(&text, &ts, Schedule::Cosine, alphabet, &mut rng);
                let xs = corruption.bridge(&xt, &text, times, Schedule::Cosine, alphabet, &mut rng);
                let alpha = Schedule::Cosine.alpha(s);
                for y in 0..=5 {
                    let lost = match corruption.absorbs() {
                        true => f64::from(u8::from(y == 5)),
                        false => {
                            if y < 5 {
                                1.0 / vocab as f64
                            } else {
                                0.0
                            }
                        }
                    };
                    let p = (1.0 - alpha) * lost + if y == x0 { alpha } else { 0.0 };
                    let got = xs.iter().filter(|x| **x == y).count() as f64;
                    let sigma = (n as f64 * p * (1.0 - p)).sqrt();
                    assert!((got - n as f64 * p).abs() <= 4.5 * sigma + 1e-6, "{corruption:?} {t} {s} {y}");
                }
            }
        }
    }
}
