//! Phases: an order in which every position has a fixed step of its own.
//!
//! Position l belongs to phase phi(l); a step reveals one phase, so that K phases are K steps. What is revealed together is
//! chosen beforehand and far apart: *strided* phases, phi(l) = l mod K, write L/K streams from left to right at once;
//! *dilated* ones (DUS: bit reversal of l mod K) halve the gaps in every step. With fixed phases the sampler's likelihood
//! is exact, log p(x) = sum_k sum_{phi(l) = k} log p(x_l | x_j, phi(j) < k).
//!
//! Sorted by phase the positions are blocks of unequal size, one step each: a position's place in that row is its *rank*.
//! L length, K steps, P phases.

use std::ops::Range;

/// The longest list of phases; it repeats along the sequence.
pub const MOST_LISTED: usize = 128;

/// Which phase a position is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// l mod K; 0: as many phases as there are steps.
    Strided(usize),
    /// The bit reversal of l mod K, among those of all residues; 0: as many phases as there are steps.
    Dilated(usize),
    /// Any phases, of so many positions, over and over.
    Listed(List),
}

/// Phases of up to [`MOST_LISTED`] positions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct List {
    length: u8,
    of: [u8; MOST_LISTED],
}

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.of[..usize::from(self.length)]).finish()
    }
}

impl List {
    /// The phases of a list, none of which is as large as [`MOST_LISTED`]; none where the list is empty or too long.
    pub fn new(phases: &[usize]) -> Option<Self> {
        if phases.is_empty() || phases.len() > MOST_LISTED || phases.iter().any(|p| *p >= MOST_LISTED) {
            return None;
        }
        let mut of = [0; MOST_LISTED];
        of.iter_mut().zip(phases).for_each(|(to, from)| *to = *from as u8);
        Some(List { length: phases.len() as u8, of })
    }
}

impl Pattern {
    /// A number that is the same in a phase, and larger in later ones, of position `l`; below [`Pattern::bound`].
    pub fn key(&self, l: usize) -> usize {
        match self {
            Pattern::Strided(count) => l % (*count).max(1),
            Pattern::Dilated(count) => {
                let bits = (*count).max(1).next_power_of_two().trailing_zeros();
                (l % (*count).max(1)).reverse_bits().checked_shr(usize::BITS - bits).unwrap_or(0)
            }
            Pattern::Listed(list) => usize::from(list.of[l % usize::from(list.length)]),
        }
    }

    /// What no key reaches.
    pub fn bound(&self) -> usize {
        match self {
            Pattern::Strided(count) | Pattern::Dilated(count) => (*count).max(1).next_power_of_two(),
            Pattern::Listed(_) => MOST_LISTED,
        }
    }

    /// The phase of each of `length` positions, counted from 0 without gaps.
    pub fn list(&self, length: usize) -> Vec<usize> {
        let phases = Phases::new(length, &[], |l| self.key(l));
        (0..length).map(|l| phases.phase(l).unwrap_or(0)).collect()
    }

    /// The same pattern in `steps` phases, where its number is that of the steps.
    pub fn in_steps(self, steps: usize) -> Self {
        match self {
            Pattern::Strided(0) => Pattern::Strided(steps.max(1)),
            Pattern::Dilated(0) => Pattern::Dilated(steps.max(1)),
            other => other,
        }
    }

    /// Whether its number of phases is that of the steps.
    pub fn follows_steps(self) -> bool {
        matches!(self, Pattern::Strided(0) | Pattern::Dilated(0))
    }
}

/// The positions of a sequence in the order in which its phases reveal them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phases {
    /// Position at each rank [L].
    places: Vec<u32>,
    /// Rank of each position [L].
    ranks: Vec<u32>,
    /// Phase of each rank [L]; what is given is in none, and says 0.
    of: Vec<u32>,
    /// The first rank of each phase, and L [P + 1]. Ranks before the first one are given.
    starts: Vec<usize>,
}

impl Phases {
    /// Sorts `length` positions by `key`; those with equal keys are one phase, and those that are `given` (empty: none) stand in
    /// front of all. A phase whose positions are all given stays, without positions.
    pub fn new(length: usize, given: &[bool], key: impl Fn(usize) -> usize) -> Self {
        let keys: Vec<usize> = (0..length).map(key).collect();
        let mut distinct = keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let is_given = |l: usize| given.get(l).copied().unwrap_or(false);
        let mut places: Vec<u32> = (0..length as u32).collect();
        places.sort_by_key(|l| (!is_given(*l as usize), keys[*l as usize]));
        let mut ranks = vec![0; length];
        places.iter().enumerate().for_each(|(rank, l)| ranks[*l as usize] = rank as u32);
        let front = (0..length).filter(|l| is_given(*l)).count();
        let phase = |l: u32| distinct.partition_point(|k| *k < keys[l as usize]) as u32;
        let of: Vec<u32> =
            places.iter().enumerate().map(|(rank, l)| if rank < front { 0 } else { phase(*l) }).collect();
        let start = |n: usize| front + of[front..].partition_point(|p| (*p as usize) < n);
        let starts = (0..=distinct.len()).map(start).collect();
        Phases { places, ranks, of, starts }
    }

    /// Number of phases P, those without positions among them.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Sequence length L.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Ranks that are given, in front of all phases.
    pub fn given(&self) -> usize {
        self.starts[0]
    }

    /// The ranks of phase `n`.
    pub fn ranks_of(&self, n: usize) -> Range<usize> {
        self.starts[n]..self.starts[n + 1]
    }

    /// The ranks that are known together with `rank`: its phase, or all that is given.
    pub fn range(&self, rank: usize) -> Range<usize> {
        if rank < self.given() { 0..self.given() } else { self.ranks_of(self.of[rank] as usize) }
    }

    /// The position at `rank`.
    pub fn place(&self, rank: usize) -> usize {
        self.places[rank] as usize
    }

    /// The positions by rank `[L]`.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// The rank of position `l`.
    pub fn rank(&self, l: usize) -> usize {
        self.ranks[l] as usize
    }

    /// The phase of position `l`; none where it is given.
    pub fn phase(&self, l: usize) -> Option<usize> {
        let rank = self.rank(l);
        (rank >= self.given()).then(|| self.of[rank] as usize)
    }

    /// One sequence's values `[L]` by rank.
    pub fn arranged<T: Copy>(&self, row: &[T]) -> Vec<T> {
        self.places.iter().map(|l| row[*l as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strided_phases_are_residues_and_dilated_ones_halve_the_gaps() {
        let phases = |pattern: Pattern| pattern.list(9);
        assert_eq!(phases(Pattern::Strided(4)), [0, 1, 2, 3, 0, 1, 2, 3, 0]);
        assert_eq!(phases(Pattern::Dilated(8)), [0, 4, 2, 6, 1, 5, 3, 7, 0]);
        assert_eq!(phases(Pattern::Dilated(1)), [0; 9]);
        assert_eq!(phases(Pattern::Listed(List::new(&[1, 0, 2]).unwrap())), [1, 0, 2, 1, 0, 2, 1, 0, 2]);
        // Three residues of two bits: 00, 10, 01 reversed.
        assert_eq!(phases(Pattern::Dilated(3))[..3], [0, 2, 1]);
        assert_eq!((List::new(&[]), List::new(&[128]), List::new(&[0; 129])), (None, None, None));
    }

    #[test]
    fn given_positions_stand_in_front_and_a_phase_that_is_all_given_stays_without_positions() {
        let given = [true, false, false, true, false];
        let phases = Phases::new(5, &given, |l| l % 3);
        assert_eq!(phases.places(), [0, 3, 1, 4, 2]);
        assert_eq!((phases.count(), phases.given()), (3, 2));
        assert_eq!((phases.ranks_of(0), phases.ranks_of(1), phases.ranks_of(2)), (2..2, 2..4, 4..5));
        assert_eq!((phases.range(1), phases.range(3), phases.phase(3), phases.phase(4)), (0..2, 2..4, None, Some(1)));
    }

    proptest! {
        #[test]
        fn ranks_and_places_are_inverse_and_phases_cover_what_is_not_given(
            length in 1usize..60, count in 1usize..12, holes in prop::collection::vec(any::<bool>(), 60), dilated: bool
        ) {
            let pattern = if dilated { Pattern::Dilated(count) } else { Pattern::Strided(count) };
            let given = &holes[..length];
            let phases = Phases::new(length, given, |l| pattern.key(l));
            prop_assert!((0..length).all(|l| pattern.key(l) < pattern.bound()));
            prop_assert_eq!(phases.count(), count.min(length));
            let mut seen = phases.given();
            for n in 0..phases.count() {
                let ranks = phases.ranks_of(n);
                prop_assert_eq!(ranks.start, seen);
                seen = ranks.end;
                for rank in ranks.clone() {
                    let l = phases.place(rank);
                    prop_assert!(!given[l] && phases.rank(l) == rank && phases.range(rank) == ranks);
                    prop_assert_eq!(phases.phase(l), Some(n));
                }
            }
            prop_assert_eq!(seen, length);
            prop_assert!((0..phases.given()).all(|rank| given[phases.place(rank)]));
        }
    }
}
