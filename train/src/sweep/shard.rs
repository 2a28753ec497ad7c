//! One of several machines' parts of a sweep.

use std::str::FromStr;

use super::SweepError;

/// The `index`-th of `count` parts, from 1: every `count`-th run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Whether the run at `position` of the plan is in this part.
    pub fn holds(self, position: usize) -> bool {
        position % self.count == self.index - 1
    }

    /// Name of this part's results file.
    pub(super) fn results_file(self) -> String {
        format!("results-{}-of-{}.jsonl", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self, SweepError> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err(SweepError::Shard { found: text.into() }),
        }
    }
}
