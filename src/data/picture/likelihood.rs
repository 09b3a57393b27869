//! The exact likelihood of any sequence of the picture task.
//!
//! A clean sequence s (caption and picture) is emitted token by token, each with probability 1 - noise as it is and else
//! uniformly: p(x) = sum_s p(s) prod_l e(s_l, x_l), with e = 1 - noise + noise/V where they are equal and noise/V where
//! not. The sum over s falls apart: given the number of clauses and who takes which quadrant, each clause is summed with
//! its quadrant alone, and the sum over the C(Q, c) drawings of c things is an elementary symmetric polynomial of the
//! cells' ratios e(thing, x_l) / e(empty, x_l). Q cells of a quadrant, V vocabulary; all f64, in logarithms.

use super::{CLAUSE, CLOSING, Clause, NAMES, OPENING, PAD, PLACES, Pictures};

impl Pictures {
    /// ln p of a sequence `[L]` without noise: caption times drawings; minus infinity where it does not agree.
    #[cfg(test)]
    pub fn clean_log_likelihood(&self, tokens: &[u32]) -> f64 {
        let Some(caption) = self.caption_of(tokens).filter(|_| self.reading(tokens).agrees) else {
            return f64::NEG_INFINITY;
        };
        let n = caption.clauses.len();
        let drawings: f64 = caption.clauses.iter().map(|c| self.ln_drawings(c.count)).sum();
        self.ln_start(n) - n as f64 * self.ln_things() - drawings
    }

    /// ln of the probability of a painter, of n clauses, of their quadrants in their order, and of the one that is liked.
    fn ln_start(&self, n: usize) -> f64 {
        let numbers = self.numbers().count() as f64;
        let arrangements: f64 = (0..n).map(|i| (PLACES.len() - i) as f64).product();
        -(self.config.names as f64 * numbers * arrangements * n as f64).ln()
    }

    /// ln of the number of things that a clause can be about.
    fn ln_things(&self) -> f64 {
        ((self.config.count * self.config.colours * self.config.kinds) as f64).ln()
    }

    /// ln C(Q, count).
    fn ln_drawings(&self, count: usize) -> f64 {
        let cells = self.shape().cells() / 4;
        (0..count).map(|i| ((cells - i) as f64 / (i + 1) as f64).ln()).sum()
    }

    /// ln p of any sequence `[L]`, noise included: always finite.
    ///
    /// # Panics
    /// Where `tokens` are not L.
    pub fn log_likelihood(&self, tokens: &[u32]) -> f64 {
        assert_eq!(tokens.len(), self.shape().length(), "a whole sequence");
        let emission = Emission::new(self, tokens);
        let c = &self.config;
        // The things of all clauses, and how well each quadrant shows them: [place][thing].
        let things: Vec<Clause> = (1..=c.count)
            .flat_map(|count| (0..c.colours).map(move |colour| (count, colour)))
            .flat_map(|(count, colour)| (0..c.kinds).map(move |kind| Clause { count, colour, kind, place: 0 }))
            .collect();
        let empty: Vec<f64> = (0..PLACES.len()).map(|p| emission.empty(p)).collect();
        let shown: Vec<Vec<f64>> =
            (0..PLACES.len()).map(|p| things.iter().map(|t| empty[p] + emission.drawings(p, t)).collect()).collect();
        let of_number = self.numbers().map(|n| {
            let closing = OPENING + CLAUSE * n;
            let names = NAMES[..c.names].iter().map(|w| emission.word(0, w) + emission.word(closing, w));
            let fixed = [(1, "paints"), (closing + 1, "likes"), (closing + 2, "the")].into_iter();
            let fixed = fixed.chain([(closing + 4, "best"), (closing + 5, ".")]);
            let padding = (closing + CLOSING..self.shape().text).map(|at| emission.word(at, PAD));
            let frame = fixed.map(|(at, w)| emission.word(at, w)).chain(padding).sum::<f64>() + ln_sum(names);
            // Clause i in quadrant p: as it is, and with the last sentence about it.
            let mut slots = vec![[(0.0, 0.0); PLACES.len()]; n];
            for (i, slot) in slots.iter_mut().enumerate() {
                let at = OPENING + CLAUSE * i;
                let end = if i + 1 == n { "." } else { "," };
                let around = emission.word(at + 3, "in") + emission.word(at + 4, "the") + emission.word(at + 6, end);
                let told: Vec<f64> = things.iter().map(|t| emission.clause(at, t)).collect();
                for (p, value) in slot.iter_mut().enumerate() {
                    let here = around + emission.word(at + 5, PLACES[p]) - self.ln_things();
                    let sum = here + ln_sum(told.iter().zip(&shown[p]).map(|(a, b)| a + b));
                    *value = (sum, sum + emission.word(closing + 3, PLACES[p]));
                }
            }
            let mut sums = Vec::new();
            arrange(&slots, &empty, &mut vec![None; PLACES.len()], 0, &mut sums);
            self.ln_start(n) + frame + ln_sum(sums.into_iter())
        });
        ln_sum(of_number.collect::<Vec<_>>().into_iter())
    }
}

/// Collects, for every way to give the clauses their quadrants and every liked clause, the sum of the logarithms.
fn arrange(
    slots: &[[(f64, f64); PLACES.len()]],
    empty: &[f64],
    taken: &mut Vec<Option<usize>>,
    i: usize,
    sums: &mut Vec<f64>,
) {
    if i == slots.len() {
        let left: f64 = (0..taken.len()).filter(|p| taken[*p].is_none()).map(|p| empty[p]).sum();
        for liked in 0..slots.len() {
            let value = |(p, slot): (usize, &Option<usize>)| {
                slot.map_or(0.0, |i| if i == liked { slots[i][p].1 } else { slots[i][p].0 })
            };
            sums.push(left + taken.iter().enumerate().map(value).sum::<f64>());
        }
        return;
    }
    for p in 0..taken.len() {
        if taken[p].is_none() {
            taken[p] = Some(i);
            arrange(slots, empty, taken, i + 1, sums);
            taken[p] = None;
        }
    }
}

/// ln of the sum of exponentials.
fn ln_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + values.map(|v| (v - largest).exp()).sum::<f64>().ln()
}

/// How likely the tokens are where the clean ones are known.
struct Emission<'a> {
    task: &'a Pictures,
    tokens: &'a [u32],
    /// ln e of the same token, and of another one.
    same: f64,
    other: f64,
    quadrants: Vec<Vec<usize>>,
}

impl<'a> Emission<'a> {
    fn new(task: &'a Pictures, tokens: &'a [u32]) -> Self {
        let (noise, floor) = (task.config.noise, task.config.noise / task.vocab() as f64);
        let quadrants = (0..PLACES.len()).map(|p| task.shape().quadrant(p)).collect();
        Emission { task, tokens, same: (1.0 - noise + floor).ln(), other: floor.ln(), quadrants }
    }

    fn at(&self, at: usize, clean: u32) -> f64 {
        if self.tokens[at] == clean { self.same } else { self.other }
    }

    fn word(&self, at: usize, word: &str) -> f64 {
        self.at(at, self.task.id(word))
    }

    /// The words for what a clause counts, from position `at`.
    fn named(&self, at: usize, clause: &Clause) -> f64 {
        let (colour, kind) = self.task.named(clause);
        self.at(at, colour) + self.at(at + 1, kind)
    }

    /// Count and words of a clause that begins at position `at`.
    fn clause(&self, at: usize, clause: &Clause) -> f64 {
        self.word(at, &clause.count.to_string()) + self.named(at + 1, clause)
    }

    /// An empty quadrant.
    fn empty(&self, place: usize) -> f64 {
        let text = self.task.shape().text;
        self.quadrants[place].iter().map(|cell| self.at(text + cell, self.task.empty())).sum()
    }

    /// The mean over all drawings of a clause in a quadrant, as a share of that of the empty quadrant.
    fn drawings(&self, place: usize, clause: &Clause) -> f64 {
        let (text, task) = (self.task.shape().text, self.task);
        let thing = task.thing(clause.colour, clause.kind);
        // polynomial[c]: the sum over all choices of c cells so far.
        let mut polynomial = vec![0.0; clause.count + 1];
        polynomial[0] = 1.0;
        for cell in &self.quadrants[place] {
            let ratio = (self.at(text + cell, thing) - self.at(text + cell, task.empty())).exp();
            for c in (1..=clause.count).rev() {
                polynomial[c] += ratio * polynomial[c - 1];
            }
        }
        polynomial[clause.count].ln() - task.ln_drawings(clause.count)
    }
}
