//! Split, augmentation and the batch loader.

use std::sync::Arc;
use std::time::Duration;

use super::super::draw::Draw;
use super::super::loader::{PREFETCH, shuffled};
use super::super::pixels::{Augmentation, CROP_PADDING, IMAGE_BYTES, Normalizer, SIDE};
use super::super::{
    BatchLoader, Dataset, DatasetKind, EvaluationBatches, HOLDOUT, LoadedBatch, LoaderError, LoaderOptions, Position,
    holdout_size, split,
};
use super::synthetic;

/// Relative to values of about 1: one rounding of the mean, the deviation and each operation in f32.
const NORMALIZATION_TOLERANCE: f64 = 1e-6;

#[test]
fn holdout_is_a_tenth_and_exactly_5000_of_the_official_set() {
    assert_eq!(holdout_size(50_000), HOLDOUT);
    assert_eq!(holdout_size(2_000), 200);
    assert_eq!(holdout_size(9), 0);
}

#[test]
fn split_is_stratified_disjoint_and_depends_only_on_the_seed() {
    let all = synthetic(DatasetKind::Cifar10, 500);
    let (train, validation) = split(&all, 50, 7);
    assert_eq!((train.class_counts(), validation.class_counts()), (vec![45; 10], vec![5; 10]));
    let mut images: Vec<&[u8]> = (0..450).map(|i| train.image(i)).chain((0..50).map(|i| validation.image(i))).collect();
    images.sort_unstable();
    let mut expected: Vec<&[u8]> = (0..500).map(|i| all.image(i)).collect();
    expected.sort_unstable();
    assert_eq!(images, expected);
    assert_eq!(split(&all, 50, 7), (train, validation.clone()));
    assert_ne!(split(&all, 50, 8).1, validation);
}

#[test]
fn split_of_uneven_classes_gives_the_exact_sum() {
    let labels: Vec<u8> = (0..103).map(|i| if i < 95 { 0 } else { (i % 10) as u8 }).collect();
    let all = Dataset::new(DatasetKind::Cifar10, vec![0; labels.len() * IMAGE_BYTES], labels);
    for holdout in [0, 1, 10, 102, 103] {
        let (train, validation) = split(&all, holdout, 0);
        assert_eq!((train.len(), validation.len()), (103 - holdout, holdout));
    }
}

#[test]
fn every_augmentation_equals_pad_crop_flip_and_normalise() {
    let kind = DatasetKind::Cifar100;
    let dataset = synthetic(kind, 3);
    let (mean, std) = (kind.mean(), kind.std());
    for top in 0..=2 * CROP_PADDING {
        for left in 0..=2 * CROP_PADDING {
            for flip in [false, true] {
                let mut found = vec![];
                Normalizer::new(kind).append(dataset.image(2), Augmentation { top, left, flip }, &mut found);
                assert_eq!(found.len(), IMAGE_BYTES);
                for (i, &found) in found.iter().enumerate() {
                    let (channel, y, x) = (i / SIDE / SIDE, i / SIDE % SIDE, i % SIDE);
                    let x = if flip { SIDE - 1 - x } else { x };
                    let byte = padded(dataset.image(2), channel, y + top, x + left);
                    let expected = (f64::from(byte) / 255.0 - f64::from(mean[channel])) / f64::from(std[channel]);
                    let off = (f64::from(found) - expected).abs();
                    assert!(off <= NORMALIZATION_TOLERANCE * expected.abs().max(1.0), "{top} {left} {flip} at {i}");
                }
            }
        }
    }
}

fn padded(image: &[u8], channel: usize, y: usize, x: usize) -> u8 {
    let inside = CROP_PADDING..CROP_PADDING + SIDE;
    if !inside.contains(&y) || !inside.contains(&x) {
        return 0;
    }
    image[(channel * SIDE + y - CROP_PADDING) * SIDE + x - CROP_PADDING]
}

#[test]
fn augmentations_are_uniform_over_places_and_flips() {
    let draws = 16_200;
    let mut counts = [[[0_u32; 2]; 9]; 9];
    for image in 0..draws {
        let drawn = Augmentation::draw(&mut Draw::Augmentation { epoch: 3, image }.generator(1));
        counts[drawn.top][drawn.left][usize::from(drawn.flip)] += 1;
    }
    // 162 cells of 100 expected: chi-squared has mean 161 and standard deviation 18.
    let chi_squared: f64 = counts.as_flattened().as_flattened().iter().map(|&n| (f64::from(n) - 100.0).powi(2)).sum();
    assert!((chi_squared / 100.0 - 161.0).abs() < 5.0 * 18.0, "chi-squared {}", chi_squared / 100.0);
}

fn options(workers: usize, start: Position) -> LoaderOptions {
    LoaderOptions { batch_size: 7, part: None, seed: 42, augment: true, workers, start }
}

fn take(loader: &mut BatchLoader, count: usize) -> Vec<LoadedBatch> {
    let mut taken = vec![];
    for _ in 0..count {
        let loaded = loader.next_batch();
        loader.recycle(loaded.batch.clone());
        taken.push(loaded);
    }
    taken
}

#[test]
fn batches_are_the_same_bits_for_any_workers_and_any_start() {
    let dataset = Arc::new(synthetic(DatasetKind::Cifar10, 40));
    let mut loader = BatchLoader::new(dataset.clone(), &options(1, Position::default())).unwrap();
    assert_eq!(loader.batches_per_epoch(), 5);
    let expected = take(&mut loader, 17);
    for (number, loaded) in expected.iter().enumerate() {
        let number = number as u64;
        assert_eq!(loaded.position, Position { epoch: number / 5, batch: number % 5 });
    }
    for workers in [2, 3, 8] {
        let mut loader = BatchLoader::new(dataset.clone(), &options(workers, Position::default())).unwrap();
        assert_eq!(take(&mut loader, 17), expected, "{workers} workers");
    }
    for start in [4, 5, 13] {
        let position = expected[start].position;
        let mut loader = BatchLoader::new(dataset.clone(), &options(2, position)).unwrap();
        assert_eq!(take(&mut loader, 17 - start), expected[start..], "from {position:?}");
    }
}

#[test]
fn parts_of_batches_are_those_of_the_whole() {
    let dataset = Arc::new(synthetic(DatasetKind::Cifar10, 40));
    let batches = |part| {
        let options = LoaderOptions { part, ..options(2, Position { epoch: 0, batch: 3 }) };
        take(&mut BatchLoader::new(dataset.clone(), &options).unwrap(), 6)
    };
    let parts = [batches(Some(0..3)), batches(Some(3..7))];
    for ((whole, first), last) in batches(None).iter().zip(&parts[0]).zip(&parts[1]) {
        assert_eq!([first.position, last.position], [whole.position; 2]);
        assert_eq!([&first.batch.labels[..], &last.batch.labels].concat(), whole.batch.labels);
        assert_eq!([&first.batch.images[..], &last.batch.images].concat(), whole.batch.images);
    }
}

#[test]
fn an_epoch_takes_each_image_at_most_once_and_differs_from_the_next() {
    let dataset = Arc::new(synthetic(DatasetKind::Cifar100, 40));
    let mut options = options(2, Position::default());
    options.augment = false;
    let batches = take(&mut BatchLoader::new(dataset.clone(), &options).unwrap(), 10);
    let labels = |epoch| -> Vec<u32> {
        batches.iter().filter(|b| b.position.epoch == epoch).flat_map(|b| b.batch.labels.clone()).collect()
    };
    // Labels are 0 to 39, one for each image.
    let mut first = labels(0);
    assert_ne!(first, labels(1));
    first.sort_unstable();
    first.dedup();
    assert_eq!(first.len(), 35);
    let all: Vec<f32> = EvaluationBatches::new(&dataset, 40).next().unwrap().images;
    let batch = &batches[3].batch;
    for (image, &label) in batch.images.chunks_exact(IMAGE_BYTES).zip(&batch.labels) {
        assert_eq!(image, &all[label as usize * IMAGE_BYTES..][..IMAGE_BYTES]);
    }
}

#[test]
fn an_image_is_augmented_differently_in_each_epoch() {
    let of = |epoch| Augmentation::draw(&mut Draw::Augmentation { epoch, image: 5 }.generator(0));
    assert!((1..10).any(|epoch| of(epoch) != of(0)));
}

/// A dependency that changes its random numbers would silently break the resuming of older runs.
#[test]
fn the_order_of_an_epoch_is_pinned() {
    assert_eq!(shuffled(10, 0, 0), [5, 8, 7, 3, 0, 1, 6, 9, 4, 2]);
}

#[test]
fn workers_stay_ahead_of_a_slow_consumer_and_stop_with_the_loader() {
    let dataset = Arc::new(synthetic(DatasetKind::Cifar10, 40));
    let mut loader = BatchLoader::new(dataset.clone(), &options(3, Position::default())).unwrap();
    take(&mut loader, 4);
    for _ in 0..1000 {
        if loader.ready.iter().all(|queue| queue.len() == PREFETCH) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(loader.ready.iter().all(|queue| queue.len() == PREFETCH));
    drop(loader);
    assert_eq!(Arc::strong_count(&dataset), 1);
}

#[test]
fn options_that_give_no_batch_are_refused() {
    let dataset = Arc::new(synthetic(DatasetKind::Cifar10, 40));
    for batch_size in [0, 41] {
        let options = LoaderOptions { batch_size, ..LoaderOptions::default() };
        let error = BatchLoader::new(dataset.clone(), &options).unwrap_err();
        assert_eq!(error, LoaderError::BatchSize { batch_size, images: 40 });
    }
    let options = LoaderOptions { batch_size: 1, workers: 0, ..LoaderOptions::default() };
    assert_eq!(BatchLoader::new(dataset, &options).unwrap_err(), LoaderError::NoWorkers);
}

#[test]
fn evaluation_takes_every_image_in_order_with_a_smaller_last_batch() {
    let dataset = synthetic(DatasetKind::Cifar10, 40);
    let batches: Vec<_> = EvaluationBatches::new(&dataset, 16).collect();
    assert_eq!(batches.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [16, 16, 8]);
    let labels: Vec<u32> = batches.iter().flat_map(|batch| batch.labels.clone()).collect();
    assert_eq!(labels, (0..40).map(|i| i % 10).collect::<Vec<u32>>());
    let whole = EvaluationBatches::new(&dataset, 100).next().unwrap();
    let images: Vec<f32> = batches.iter().flat_map(|batch| batch.images.clone()).collect();
    assert_eq!(images, whole.images);
}
