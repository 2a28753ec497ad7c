//! The full datasets (JPEG) and the official binary samples beside the repository.

use std::time::Instant;

use super::super::pixels::{IMAGE_BYTES, SIDE};
use super::super::{Cifar, DatasetKind, Part};
use super::shared;

/// The lowest PSNR of any image of the full files against its original is 24.3 dB; the lowest of the first percentile
/// is 27.8. A transposed image or a swapped channel gives about 10 to 15 dB.
const LOWEST_PSNR_DB: f64 = 24.0;
const MEAN_PSNR_DB: std::ops::Range<f64> = 31.5..32.7;

#[test]
fn full_datasets_load_whole_and_balanced() {
    for kind in DatasetKind::ALL {
        let Some(folder) = shared(kind.name()) else { return };
        let cifar = Cifar::open(&folder, kind).unwrap();
        for part in Part::ALL {
            let start = Instant::now();
            let dataset = cifar.load(part).unwrap();
            eprintln!("{kind} {}: {} images in {:.2?}", part.name(), dataset.len(), start.elapsed());
            assert_eq!(dataset.len(), part.images());
            assert!(dataset.class_counts().iter().all(|&count| count * kind.classes() == part.images()));
        }
    }
}

#[test]
fn parquet_test_images_are_the_official_ones_but_for_jpeg() {
    for kind in DatasetKind::ALL {
        let Some(parquet) = shared(kind.name()) else { return };
        let Some(raw) = shared(&format!("{kind}-raw-sample")) else { return };
        let encoded = Cifar::open(&parquet, kind).unwrap().load_test().unwrap();
        let original = Cifar::open(&raw, kind).unwrap().load_test().unwrap();
        assert_eq!(encoded.labels()[..original.len()], *original.labels());

        let psnr: Vec<f64> = (0..original.len()).map(|i| psnr_db(encoded.image(i), original.image(i))).collect();
        let lowest = psnr.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = psnr.iter().sum::<f64>() / psnr.len() as f64;
        assert!(lowest > LOWEST_PSNR_DB, "{kind}: lowest PSNR {lowest:.2} dB");
        assert!(MEAN_PSNR_DB.contains(&mean), "{kind}: mean PSNR {mean:.2} dB");
    }
}

#[test]
fn the_psnr_test_sees_a_transposed_image() {
    let Some(raw) = shared("cifar10-raw-sample") else { return };
    let original = Cifar::open(&raw, DatasetKind::Cifar10).unwrap().load_test().unwrap();
    let transposed: Vec<u8> = original
        .image(0)
        .chunks_exact(SIDE * SIDE)
        .flat_map(|plane| (0..SIDE * SIDE).map(|i| plane[i % SIDE * SIDE + i / SIDE]))
        .collect();
    assert!(psnr_db(&transposed, original.image(0)) < LOWEST_PSNR_DB);
}

/// 10 log10(255^2 / mean squared difference).
fn psnr_db(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0_f64.powi(2) * IMAGE_BYTES as f64 / squares).log10()
}
