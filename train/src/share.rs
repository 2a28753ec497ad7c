//! Which weights a number of survivors falls to: the weight of the penalty in each layer that leaves just so many.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::group::Grouping;

#[cfg(test)]
mod tests;

/// Weights that one task looks at.
const PIECE: usize = 1 << 15;

/// A layer under the penalty.
#[derive(Debug, Clone, PartialEq)]
pub struct PenalisedLayer {
    /// Its weights in the flat vectors.
    pub range: Range<usize>,
    /// Weights that stay in any case, so that no layer dies.
    pub least: usize,
    /// Factor on the weight of the penalty, above 0.
    pub scale: f64,
    /// The groups that the penalty acts on; single weights without.
    pub groups: Option<Grouping>,
    /// Number of output channels, where those that lose all weights are to stay empty.
    pub channels: Option<usize>,
}

impl PenalisedLayer {
    /// A layer that may lose everything, single weights under an unscaled penalty.
    pub fn plain(range: Range<usize>) -> Self {
        Self { range, least: 0, scale: 1.0, groups: None, channels: None }
    }
}

/// How a number of weights is shared among the layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// The largest of all layers stay.
    #[default]
    Global,
    /// The same fraction of each layer.
    Uniform,
    /// The largest LAMP scores of all layers stay: the square of a weight over the sum of the squares in its layer that are
    /// not smaller (Lee et al., ICLR 2021, arXiv 2010.07611).
    Lamp,
}

/// The weight of the penalty in each layer with which the prox leaves exactly `left` weights. `critical` holds the
/// critical lambda of all weights of `layers` ([`crate::regulariser::Regulariser::critical_lambdas`]), one layer after the
/// other; it is reordered within each layer.
///
/// Layers that would fall under their least number get a smaller lambda of their own, at the cost of the others. Equal
/// values around the limit go together, so with ties fewer stay, and groups are not cut.
///
/// # Panics
/// If the least numbers add up to more than `left`, or a least number exceeds its layer.
pub fn lambdas_for(left: usize, layers: &[PenalisedLayer], share: Share, critical: &mut [f64]) -> Vec<f64> {
    let sizes: Vec<usize> = layers.iter().map(|l| l.range.len()).collect();
    assert_eq!(critical.len(), sizes.iter().sum::<usize>());
    assert!(layers.iter().map(|l| l.least).sum::<usize>() <= left, "{left} weights are less than the layers' least");
    if share == Share::Global && layers.iter().all(|l| l.scale == 1.0) {
        return common_lambda(left, layers, critical, &sizes);
    }
    let mut scores = critical.to_vec();
    for (layer, scores) in layers.iter().zip(split(&mut scores, &sizes)) {
        match share {
            Share::Global => {}
            Share::Uniform => rank(scores),
            Share::Lamp => lamp(scores),
        }
        scores.iter_mut().for_each(|score| *score /= layer.scale);
    }
    let limits = common_lambda(left, layers, &mut scores, &sizes);
    let mut kept: Vec<usize> = split(&mut scores, &sizes)
        .zip(&limits)
        .map(|(part, limit)| part.iter().filter(|s| *s > limit).count())
        .collect();
    // Scores of different layers that tie.
    let mut missing = left - kept.iter().sum::<usize>();
    for (kept, size) in kept.iter_mut().zip(&sizes) {
        let more = missing.min(1).min(size - *kept);
        *kept += more;
        missing -= more;
    }
    split(critical, &sizes).zip(kept).map(|(part, kept)| largest_to_go(kept, part)).collect()
}

fn common_lambda(left: usize, layers: &[PenalisedLayer], critical: &mut [f64], sizes: &[usize]) -> Vec<f64> {
    let mut own: Vec<Option<f64>> = vec![None; layers.len()];
    loop {
        let pinned: usize = layers.iter().zip(&own).filter(|(_, own)| own.is_some()).map(|(l, _)| l.least).sum();
        let parts = split(critical, sizes).zip(&own);
        let free: Vec<&[f64]> = parts.filter(|(_, own)| own.is_none()).map(|(part, _)| &*part).collect();
        let common = largest_to_go_of(left - pinned, &free);
        let mut changed = false;
        for ((layer, part), own) in layers.iter().zip(split(critical, sizes)).zip(&mut own) {
            let stay = || part.par_iter().with_min_len(PIECE).filter(|value| **value > common).count();
            if own.is_none() && stay() < layer.least {
                *own = Some(largest_to_go(layer.least, part));
                changed = true;
            }
        }
        if !changed {
            return own.into_iter().map(|own| own.unwrap_or(common)).collect();
        }
    }
}

fn split<'a>(mut values: &'a mut [f64], sizes: &'a [usize]) -> impl Iterator<Item = &'a mut [f64]> {
    sizes.iter().map(move |size| {
        let (part, rest) = std::mem::take(&mut values).split_at_mut(*size);
        values = rest;
        part
    })
}

/// [`largest_to_go`] of all parts together, found among the values that share their upper bits with it.
fn largest_to_go_of(left: usize, parts: &[&[f64]]) -> f64 {
    let pieces: Vec<&[f64]> = parts.iter().flat_map(|part| part.chunks(PIECE)).collect();
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() <= left {
        return 0.0;
    }
    let empty = || vec![0; BUCKETS];
    let count = |mut counts: Vec<usize>, piece: &&[f64]| {
        piece.iter().for_each(|value| counts[bucket(*value)] += 1);
        counts
    };
    let add = |mut counts: Vec<usize>, others: Vec<usize>| {
        counts.iter_mut().zip(others).for_each(|(count, other)| *count += other);
        counts
    };
    let counts = pieces.par_iter().fold(empty, count).reduce(empty, add);
    let (mut larger, mut at) = (0, BUCKETS - 1);
    while larger + counts[at] <= left {
        larger += counts[at];
        at -= 1;
    }
    let near = pieces.par_iter().flat_map_iter(|piece| piece.iter().copied().filter(|value| bucket(*value) == at));
    largest_to_go(left - larger, &mut near.collect::<Vec<f64>>())
}

const BUCKETS: usize = 1 << 16;

/// Upper bits of a value, ascending as [`f64::total_cmp`] is.
fn bucket(value: f64) -> usize {
    let bits = value.to_bits();
    let order = if value.is_sign_negative() { !bits } else { bits | 1 << 63 };
    (order >> 48) as usize
}

/// The `left + 1`-th largest value; 0 if there are not more than `left`.
pub(crate) fn largest_to_go(left: usize, values: &mut [f64]) -> f64 {
    if left >= values.len() {
        return 0.0;
    }
    *values.select_nth_unstable_by(left, |a, b| b.total_cmp(a)).1
}

/// Replaces values by their rank, from 1 for the least, over their number.
fn rank(values: &mut [f64]) {
    let count = values.len() as f64;
    for (rank, place) in ascending(values).into_iter().enumerate() {
        values[place] = (rank + 1) as f64 / count;
    }
}

/// Replaces squares by their LAMP scores.
fn lamp(squares: &mut [f64]) {
    let mut sum = 0.0;
    for place in ascending(squares).into_iter().rev() {
        sum += squares[place];
        squares[place] /= sum.max(f64::MIN_POSITIVE);
    }
}

fn ascending(values: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]).then(a.cmp(b)));
    places
}
