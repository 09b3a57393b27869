//! The built-in task of long text with a second modality: a caption in words, then a grid of image tokens that draws it.
//!
//! ```text
//! mia paints 2 red stars in the northwest , 1 blue disc in the southeast . mia likes the southeast best .
//! .. r★ .. .. .. ..
//! r★ .. .. .. .. ..
//! ```
//!
//! The caption fills the first positions, with padding behind it, so that the picture begins at a fixed place. A clause is
//! about one quadrant; which of its cells hold the things is free, so a picture is no function of its caption: it *agrees*
//! if every quadrant holds exactly what its clause says and the others are empty. Captions are drawn piece by piece,
//! each choice uniformly, and pictures uniformly among those that agree; every token is then replaced by a uniform one
//! with a small probability, as in the story language, so that every likelihood is finite. It is exact (`likelihood`).
//! Q cells of a quadrant, V vocabulary (the mask is not in it).

mod config;
mod likelihood;
mod shape;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rand::Rng;
use rand::seq::index;

use crate::error::Result;
pub use config::PicturesConfig;
pub use shape::{PAD, Shape};

const NAMES: [&str; 8] = ["mia", "tom", "ann", "ben", "eva", "leo", "zoe", "max"];
/// Colours, with the letter that a cell shows.
const COLOURS: [(&str, &str); 4] = [("red", "r"), ("blue", "b"), ("green", "g"), ("gold", "y")];
/// Kinds of things: one, several, and the sign that a cell shows.
const KINDS: [(&str, &str, &str); 4] =
    [("star", "stars", "★"), ("disc", "discs", "●"), ("square", "squares", "■"), ("triangle", "triangles", "▲")];
/// The quadrants, row by row.
const PLACES: [&str; 4] = ["northwest", "northeast", "southwest", "southeast"];
/// What an empty cell shows.
const EMPTY: &str = "..";
/// Words of a clause, with the comma or full stop behind it.
const CLAUSE: usize = 7;
/// Words before the first clause, and of the sentence behind the last one.
const OPENING: usize = 2;
const CLOSING: usize = 6;

/// What a clause says: so many things of one kind and colour in one quadrant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clause {
    /// From 1.
    pub count: usize,
    /// Number of the colour, from 0.
    pub colour: usize,
    /// Number of the kind, from 0.
    pub kind: usize,
    /// Number of the quadrant, from 0: row by row.
    pub place: usize,
}

/// What a caption says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// Number of the painter, from 0.
    pub name: usize,
    pub clauses: Vec<Clause>,
    /// The number of the clause whose quadrant the last sentence names.
    pub liked: usize,
}

/// What a sequence is found to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The caption has no fault.
    pub valid: bool,
    /// Share of the caption's clauses whose quadrant holds exactly what they say; 0 where the caption has a fault.
    pub clauses: f64,
    /// The caption is valid, all its clauses are drawn and nothing else is.
    pub agrees: bool,
}

/// The task with its vocabulary.
#[derive(Debug, Clone)]
pub struct Pictures {
    config: PicturesConfig,
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Pictures {
    /// Builds the task.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn new(config: &PicturesConfig) -> Result<Pictures> {
        config.validate()?;
        let c = config;
        let mut words: Vec<String> = [PAD, "paints", "in", "the", ",", ".", "likes", "best"].map(String::from).to_vec();
        words.extend(PLACES.map(String::from));
        words.extend(NAMES[..c.names].iter().map(|w| w.to_string()));
        words.extend((1..=c.count).map(|n| n.to_string()));
        words.extend(COLOURS[..c.colours].iter().map(|w| w.0.to_string()));
        words.extend(KINDS[..c.kinds].iter().flat_map(|k| [k.0.to_string(), k.1.to_string()]));
        words.push(EMPTY.into());
        words.extend(
            COLOURS[..c.colours]
                .iter()
                .flat_map(|c| KINDS.iter().map(move |k| format!("{}{}", c.1, k.2)).take(config.kinds)),
        );
        let ids = words.iter().enumerate().map(|(i, w)| (w.clone(), i as u32)).collect();
        Ok(Pictures { config: config.clone(), words, ids })
    }

    /// What it was built from.
    pub fn config(&self) -> &PicturesConfig {
        &self.config
    }

    /// Vocabulary size V.
    pub fn vocab(&self) -> usize {
        self.words.len()
    }

    /// Where text and picture lie in a sequence.
    pub fn shape(&self) -> Shape {
        self.config.shape()
    }

    /// All words, those of cells last, in the order of their ids.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    fn id(&self, word: &str) -> u32 {
        self.ids[word]
    }

    fn empty(&self) -> u32 {
        self.id(EMPTY)
    }

    /// Whether a token is that of an empty cell.
    pub fn is_empty(&self, token: u32) -> bool {
        token == self.empty()
    }

    /// The token of a cell that holds a thing.
    fn thing(&self, colour: usize, kind: usize) -> u32 {
        self.empty() + 1 + (colour * self.config.kinds + kind) as u32
    }

    /// Colour and kind of a token [each from 0], if it is one of a cell that holds a thing.
    pub fn drawn(&self, token: u32) -> Option<(usize, usize)> {
        let at = (token as usize).checked_sub(self.empty() as usize + 1)?;
        (at < self.config.colours * self.config.kinds).then_some((at / self.config.kinds, at % self.config.kinds))
    }

    /// The numbers of clauses that a caption can have.
    fn numbers(&self) -> std::ops::RangeInclusive<usize> {
        self.config.clauses.div_ceil(2)..=self.config.clauses
    }

    /// A sequence `[L]`: a caption, a picture that agrees with it, and the noise.
    pub fn sample(&self, rng: &mut impl Rng) -> Vec<u32> {
        let mut tokens = self.clean(rng);
        for token in &mut tokens {
            if rng.random::<f64>() < self.config.noise {
                *token = rng.random_range(0..self.vocab() as u32);
            }
        }
        tokens
    }

    /// A caption.
    pub fn caption(&self, rng: &mut impl Rng) -> Caption {
        let c = &self.config;
        let n = rng.random_range(self.numbers());
        let places = index::sample(rng, PLACES.len(), n);
        let clauses: Vec<Clause> = places
            .into_iter()
            .map(|place| Clause {
                count: rng.random_range(1..=c.count),
                colour: rng.random_range(0..c.colours),
                kind: rng.random_range(0..c.kinds),
                place,
            })
            .collect();
        let (name, liked) = (rng.random_range(0..c.names), rng.random_range(0..n));
        Caption { name, clauses, liked }
    }

    /// A sequence [L] without noise.
    fn clean(&self, rng: &mut impl Rng) -> Vec<u32> {
        let caption = self.caption(rng);
        let mut tokens = self.write(&caption);
        let start = tokens.len();
        tokens.resize(self.shape().length(), self.empty());
        for clause in &caption.clauses {
            let cells = self.shape().quadrant(clause.place);
            for i in index::sample(rng, cells.len(), clause.count) {
                tokens[start + cells[i]] = self.thing(clause.colour, clause.kind);
            }
        }
        tokens
    }

    /// The words for what a clause counts.
    fn named(&self, clause: &Clause) -> (u32, u32) {
        let (one, several, _) = KINDS[clause.kind];
        (self.id(COLOURS[clause.colour].0), self.id(if clause.count == 1 { one } else { several }))
    }

    /// The tokens `[text]` of a caption.
    pub fn write(&self, caption: &Caption) -> Vec<u32> {
        let id = |word: &str| self.id(word);
        let mut tokens = vec![id(NAMES[caption.name]), id("paints")];
        for (i, clause) in caption.clauses.iter().enumerate() {
            let (colour, kind) = self.named(clause);
            let end = if i + 1 == caption.clauses.len() { "." } else { "," };
            tokens.extend([id(&clause.count.to_string()), colour, kind]);
            tokens.extend(["in", "the", PLACES[clause.place], end].map(id));
        }
        let liked = PLACES[caption.clauses[caption.liked].place];
        tokens.extend([NAMES[caption.name], "likes", "the", liked, "best", "."].map(id));
        tokens.resize(self.shape().text, id(PAD));
        tokens
    }

    /// The caption at the start of a sequence; nothing where it has a fault.
    pub fn caption_of(&self, tokens: &[u32]) -> Option<Caption> {
        let text = tokens.get(..self.shape().text)?;
        let word = |at: usize| self.words.get(text[at] as usize).map_or("", String::as_str);
        let clause = |at: usize| {
            let kind = KINDS[..self.config.kinds].iter().position(|k| [k.0, k.1].contains(&word(at + 2)))?;
            Some(Clause {
                count: word(at).parse().ok().filter(|n| (1..=self.config.count).contains(n))?,
                colour: COLOURS[..self.config.colours].iter().position(|c| c.0 == word(at + 1))?,
                kind,
                place: PLACES.iter().position(|p| *p == word(at + 5))?,
            })
        };
        let name = NAMES[..self.config.names].iter().position(|n| *n == word(0))?;
        self.numbers().find_map(|n| {
            let clauses: Vec<Clause> = (0..n).map(|i| clause(OPENING + CLAUSE * i)).collect::<Option<_>>()?;
            if (0..n).any(|i| clauses[..i].iter().any(|c| c.place == clauses[i].place)) {
                return None;
            }
            let closing = OPENING + CLAUSE * n;
            let liked = clauses.iter().position(|c| PLACES[c.place] == word(closing + 3))?;
            let caption = Caption { name, clauses, liked };
            // Every word that was not looked at is one that the caption has there.
            (self.write(&caption) == text).then_some(caption)
        })
    }

    /// Whether a quadrant of a picture [rows x columns] holds exactly so many of a token, and else nothing.
    fn holds(&self, picture: &[u32], place: usize, count: usize, token: u32) -> bool {
        let cells = self.shape().quadrant(place);
        let of = |wanted: u32| cells.iter().filter(|c| picture[**c] == wanted).count();
        of(token) == count && of(self.empty()) == cells.len() - count
    }

    /// What a sequence `[L]` is found to be.
    pub fn reading(&self, tokens: &[u32]) -> Reading {
        let Some(caption) = self.caption_of(tokens).filter(|_| tokens.len() == self.shape().length()) else {
            return Reading { valid: false, clauses: 0.0, agrees: false };
        };
        let picture = &tokens[self.shape().text..];
        let drawn = |c: &&Clause| self.holds(picture, c.place, c.count, self.thing(c.colour, c.kind));
        let right = caption.clauses.iter().filter(drawn).count();
        let mut others = (0..PLACES.len()).filter(|p| caption.clauses.iter().all(|c| c.place != *p));
        let agrees = right == caption.clauses.len() && others.all(|p| self.holds(picture, p, 0, self.empty() + 1));
        Reading { valid: true, clauses: right as f64 / caption.clauses.len() as f64, agrees }
    }

    /// The caption on one line and the picture on one line a row; the mask prints as `·`.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let word = |t: &u32| self.words.get(*t as usize).map_or("·", String::as_str);
        self.shape().lines(&tokens.iter().map(word).collect::<Vec<_>>().join(" "))
    }
}
