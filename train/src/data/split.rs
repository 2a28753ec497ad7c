//! Images held out of the training set for validation.

use rand::seq::SliceRandom;

use super::Dataset;
use super::draw::Draw;

/// Images held out of the official 50,000.
pub const HOLDOUT: usize = 5_000;

/// Seed of the split that training uses: the same images are held out whatever the run's seed, so that runs can be
/// compared.
pub const SPLIT_SEED: u64 = 0;

/// Images to hold out of `images`: a tenth, at most [`HOLDOUT`], so exactly 5,000 of the official 50,000.
pub fn holdout_size(images: usize) -> usize {
    HOLDOUT.min(images / 10)
}

/// Splits `dataset` into what remains for training and `holdout` images for validation, both in the original order.
///
/// Stratified: a class of c images out of n gives holdout c / n images, rounded down or up so that the sum is
/// `holdout` (up where the fraction is largest, then the lower class). Which images of a class depends only on `seed`,
/// the class and its number of images.
///
/// # Panics
/// If `holdout` is more than the number of images.
pub fn split(dataset: &Dataset, holdout: usize, seed: u64) -> (Dataset, Dataset) {
    assert!(holdout <= dataset.len(), "{holdout} of {} images to hold out", dataset.len());
    let quotas = quotas(&dataset.class_counts(), holdout);
    let mut held_out = vec![false; dataset.len()];
    for (class, quota) in quotas.into_iter().enumerate() {
        let mut members: Vec<usize> = (0..dataset.len()).filter(|&i| dataset.label(i) as usize == class).collect();
        members.shuffle(&mut Draw::Holdout { class: class as u64 }.generator(seed));
        for &index in &members[..quota] {
            held_out[index] = true;
        }
    }
    let (validation, train): (Vec<_>, Vec<_>) = (0..dataset.len()).partition(|&index| held_out[index]);
    (dataset.select(&train), dataset.select(&validation))
}

/// Largest-remainder apportionment of `holdout` to the classes in proportion to their sizes.
fn quotas(counts: &[usize], holdout: usize) -> Vec<usize> {
    let images = counts.iter().sum::<usize>().max(1);
    let mut quotas: Vec<usize> = counts.iter().map(|count| count * holdout / images).collect();
    let mut by_remainder: Vec<usize> = (0..counts.len()).collect();
    by_remainder.sort_by_key(|&class| std::cmp::Reverse(counts[class] * holdout % images));
    let missing = holdout - quotas.iter().sum::<usize>();
    for &class in &by_remainder[..missing] {
        quotas[class] += 1;
    }
    quotas
}
