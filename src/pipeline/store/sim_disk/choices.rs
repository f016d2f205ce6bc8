//! Chooses what a loss of power leaves: each possible way in turn, or one that a seed decides.

/// The choices of one loss of power: a number below a bound for each question.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    made: Vec<(usize, usize)>,
    at: usize,
    seed: Option<u64>,
}

impl Choices {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seed: Some(seed), ..Self::default() }
    }

    /// The last choice of each, which is the newest state.
    pub(crate) fn newest(of: &Self) -> Self {
        Self { made: of.made.iter().map(|(_, bound)| (bound - 1, *bound)).collect(), at: 0, seed: None }
    }

    pub(crate) fn choose(&mut self, bound: usize) -> usize {
        if bound == 1 {
            return 0;
        }
        if let Some(seed) = &mut self.seed {
            return random(seed, bound);
        }
        if self.at == self.made.len() {
            self.made.push((0, bound));
        }
        self.at += 1;
        self.made[self.at - 1].0.min(bound - 1)
    }

    /// How many ways there are at most, as this way has found.
    pub(crate) fn ways(&self) -> usize {
        self.made.iter().fold(1, |ways, (_, bound)| ways.saturating_mul(*bound))
    }

    /// Turns to the next way. Returns whether there is one.
    pub(crate) fn turn(&mut self) -> bool {
        self.made.truncate(self.at);
        self.at = 0;
        while let Some((chosen, bound)) = self.made.pop() {
            if chosen + 1 < bound {
                self.made.push((chosen + 1, bound));
                return true;
            }
        }
        false
    }
}

/// The next pseudo-random number of a seed, below `bound`.
pub(crate) fn random(seed: &mut u64, bound: usize) -> usize {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % bound as u64) as usize
}
