use proptest::prelude::*;

use super::*;
use crate::group::Group;

fn layers_and_values() -> impl Strategy<Value = (Vec<PenalisedLayer>, Vec<f64>)> {
    let layer = (prop::collection::vec(1e-9..1.0f64, 1..60), 0.0..0.4f64, 1e-3..1.0f64);
    prop::collection::vec(layer, 1..6).prop_map(|layers| {
        let (mut values, mut penalised) = (Vec::new(), Vec::new());
        for (weights, least, size) in layers {
            let start = values.len();
            values.extend(weights.iter().map(|w| w * size));
            let least = (least * weights.len() as f64) as usize;
            penalised.push(PenalisedLayer { least, ..PenalisedLayer::plain(start..values.len()) });
        }
        (penalised, values)
    })
}

fn distinct(values: &[f64]) -> bool {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.windows(2).all(|pair| pair[0] < pair[1])
}

fn counts(layers: &[PenalisedLayer], lambdas: &[f64], values: &[f64]) -> Vec<usize> {
    let stays =
        |layer: &PenalisedLayer, lambda: f64| values[layer.range.clone()].iter().filter(|v| **v > lambda).count();
    layers.iter().zip(lambdas).map(|(layer, lambda)| stays(layer, *lambda)).collect()
}

proptest! {
    /// Exactly `left` survive, every layer keeps its least, and only a layer at its least has a lambda of its own.
    #[test]
    fn exactly_as_many_weights_stay((layers, values) in layers_and_values(), fraction in 0.0..1.0f64) {
        prop_assume!(distinct(&values));
        let least: usize = layers.iter().map(|l| l.least).sum();
        let left = least + (fraction * (values.len() - least) as f64) as usize;
        let lambdas = lambdas_for(left, &layers, Share::Global, &mut values.clone());
        let counts = counts(&layers, &lambdas, &values);
        prop_assert_eq!(counts.iter().sum::<usize>(), left);
        let common = lambdas.iter().copied().fold(0.0, f64::max);
        for ((layer, lambda), count) in layers.iter().zip(&lambdas).zip(counts) {
            prop_assert!(count >= layer.least);
            prop_assert!(*lambda == common || count == layer.least);
        }
    }

    /// The other ways to share leave as many, and a scale moves no weight of them across layers' least numbers.
    #[test]
    fn every_share_leaves_as_many(
        (mut layers, values) in layers_and_values(), fraction in 0.0..1.0f64, scale in 0.1..10.0f64,
        share in prop::sample::select(&[Share::Global, Share::Uniform, Share::Lamp][..]),
    ) {
        prop_assume!(distinct(&values));
        layers[0].scale = scale;
        let least: usize = layers.iter().map(|l| l.least).sum();
        let left = least + (fraction * (values.len() - least) as f64) as usize;
        let lambdas = lambdas_for(left, &layers, share, &mut values.clone());
        let counts = counts(&layers, &lambdas, &values);
        prop_assert_eq!(counts.iter().sum::<usize>(), left);
        prop_assert!(counts.iter().zip(&layers).all(|(count, layer)| *count >= layer.least));
    }
}

#[test]
fn a_scale_multiplies_the_weight_of_the_penalty_in_its_layer() {
    let mut layers = [PenalisedLayer::plain(0..4), PenalisedLayer::plain(4..8)];
    layers[1].scale = 0.1;
    // Under one lambda the second layer, ten times smaller, keeps as many.
    let values: Vec<f64> = (1..=4).map(|v| f64::from(v) + 0.5).chain((1..=4).map(|v| 0.1 * f64::from(v))).collect();
    let lambdas = lambdas_for(4, &layers, Share::Global, &mut values.clone());
    assert_eq!(counts(&layers, &lambdas, &values), [2, 2]);
}

#[test]
fn uniform_is_the_same_fraction_everywhere() {
    let layers = [PenalisedLayer::plain(0..10), PenalisedLayer::plain(10..50)];
    let values: Vec<f64> = (0..50).map(|v| f64::from((v * 17) % 50 + 1)).collect();
    let lambdas = lambdas_for(10, &layers, Share::Uniform, &mut values.clone());
    assert_eq!(counts(&layers, &lambdas, &values), [2, 8]);
}

/// Lee et al., equation 1, by hand: squares 1, 4, 9 score 1/14, 4/13, 1.
#[test]
fn lamp_scores() {
    let mut squares = [9.0, 1.0, 4.0];
    lamp(&mut squares);
    for (found, expected) in squares.iter().zip([1.0, 1.0 / 14.0, 4.0 / 13.0]) {
        assert!((found - expected).abs() < 1e-15, "{squares:?}");
    }
    // The largest of a layer scores 1 however small it is, so that no layer dies.
    let layers = [PenalisedLayer::plain(0..3), PenalisedLayer::plain(3..6)];
    let values = [9.0, 1.0, 4.0, 9e-6, 1e-6, 4e-6];
    assert_eq!(counts(&layers, &lambdas_for(2, &layers, Share::Lamp, &mut values.to_vec()), &values), [1, 1]);
}

#[test]
fn groups_are_not_cut() {
    let groups = Some(Grouping::new(Group::OutputChannel, [3, 2, 2]));
    let layers = [PenalisedLayer { groups, ..PenalisedLayer::plain(0..12) }];
    let values: Vec<f64> = [0.2, 0.3, 0.1].iter().flat_map(|v| [*v; 4]).collect();
    for (left, expected) in [(12, 12), (11, 8), (8, 8), (5, 4), (3, 0)] {
        let lambdas = lambdas_for(left, &layers, Share::Global, &mut values.clone());
        assert_eq!(counts(&layers, &lambdas, &values), [expected], "{left}");
    }
}

#[test]
fn the_largest_of_parts_are_found_as_by_sorting() {
    let hash = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let value = |i: usize| match hash(i) % 10 {
        0..4 => 0.0,
        4 => -1.0 / hash(i) as f64,
        5 => f64::INFINITY,
        _ => hash(i) as f64 * 1e-13,
    };
    let values: Vec<f64> = (0..2 * PIECE + 17).map(value).collect();
    let mut sorted = values.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (first, second) = values.split_at(PIECE + 5);
    for left in [0, 1, 7000, PIECE, 2 * PIECE, 2 * PIECE + 16] {
        assert_eq!(largest_to_go_of(left, &[first, &[], second]), sorted[left], "{left}");
    }
    assert_eq!(largest_to_go_of(values.len(), &[first, second]), 0.0);
}
