//! One source of chance for a whole run, and the record of what was chosen.

use std::fmt::Write as _;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 if `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        // The bias of the remainder does not matter: n is small.
        usize::try_from(self.next_u64().checked_rem(n).unwrap_or(0)).unwrap_or(0)
    }

    /// From `low` to `high`, both possible.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = usize::try_from(high - low + 1).unwrap_or(1);
        low + i64::try_from(self.below(span)).unwrap_or(0)
    }

    /// True with this many chances in a hundred.
    pub fn percent(&mut self, chances: usize) -> bool {
        self.below(100) < chances
    }

    /// One of these, by their weights; `None` if all are 0.
    pub fn weighted(&mut self, weights: &[usize]) -> Option<usize> {
        let mut at = self.below(weights.iter().sum());
        weights.iter().position(|w| {
            let here = at < *w;
            at = at.saturating_sub(*w);
            here
        })
    }

    /// A generator of its own, which goes on whatever this one is asked for.
    pub fn split(&mut self) -> Random {
        Random(self.next_u64())
    }
}

/// What has happened: always as a hash, as lines only when they are wanted.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
    /// What was chosen for this step, and among how many.
    choice: (usize, usize),
}

impl Trace {
    /// An empty one.
    #[must_use]
    pub fn new(lines: bool) -> Trace {
        Trace { hash: 0xCBF2_9CE4_8422_2325, lines: lines.then(Vec::new), choice: (0, 0) }
    }

    /// Adds bytes to the hash (FNV-1a).
    pub fn hash(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.hash = (self.hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    /// Adds numbers to the hash.
    pub fn numbers(&mut self, numbers: &[u64]) {
        for n in numbers {
            self.hash = (self.hash ^ n).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
    }

    /// From here on lines belong to a step that was the `number`th (from 1) of `possible`; 0: time was to pass.
    pub fn chosen(&mut self, number: usize, possible: usize) {
        self.choice = (number, possible);
    }

    /// Adds a line, if lines are wanted: when, which of how many possibilities the seed chose, who and what.
    pub fn line(&mut self, now_us: i64, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let (number, possible) = self.choice;
            let mut line = format!("{:>5}.{:06} {number:>3} of {possible:<3} ", now_us / 1_000_000, now_us % 1_000_000);
            let _ = write!(line, "{}", text());
            lines.push(line);
        }
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.hash
    }

    /// The lines.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// Messages of the protocol as a person reads them in a trace.
#[must_use]
pub fn readable(bytes: &[u8]) -> String {
    let mut out = String::new();
    for b in bytes.iter().take(160) {
        match b {
            b' '..=b'~' => out.push(char::from(*b)),
            _ if out.ends_with('.') => {}
            _ => out.push('.'),
        }
    }
    out
}
