//! Whole networks against the reference interpreter, on every tier, thread count and batch.

mod tuning;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_models::{Model, initialisation, reference, zoo};

use crate::decisions::{self, Cut, Decisions};
use crate::{Error, Isa, Layout, Options, WeightPolicy, fuse};

/// Largest difference of two logits, relative to the largest logit of the batch: networks of a few dozen layers in f32.
const RELATIVE_ERROR: f32 = 2e-4;

/// A network of the zoo with random weights, of which about `sparsity` are zero.
fn network(name: &str, sparsity: f64, seed: u64) -> Model {
    let graph = zoo::build(name, 10).unwrap();
    let mut parameters = initialisation::initialise(&graph, seed);
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let prunable = graph.parameters().iter().filter(|p| p.role.is_prunable());
    for spec in prunable {
        let tensor = parameters.get_mut(&spec.name).unwrap();
        // Keep the variance of the sums, or deep networks answer with their biases alone.
        let scale = (1.0 / (1.0 - sparsity)).sqrt() as f32;
        for value in tensor.data_mut() {
            *value = if rng.random_range(0.0..1.0) < sparsity { 0.0 } else { *value * scale };
        }
    }
    Model::try_new(graph, parameters).unwrap()
}

fn images(model: &Model, count: usize) -> Vec<f32> {
    let rng = &mut ChaCha8Rng::seed_from_u64(count as u64);
    let image: usize = model.graph().input_shape().iter().product();
    (0..count * image).map(|_| rng.random_range(-2.0..2.0)).collect()
}

fn check(model: &Model, images: &[f32], expected: &[f32], count: usize, options: &Options) {
    let outputs = expected.len() / count;
    let engine = crate::Model::from(model).plan(options).unwrap();
    let mut scratch = engine.scratch().unwrap();
    for round in 0..2 {
        let mut logits = vec![f32::NAN; count * outputs];
        engine.run(images, &mut logits, &mut scratch).unwrap();
        let name = model.graph().name();
        compare(&logits, expected, &format!("{name}, {options:?}, {count} images, round {round}"));
    }
}

fn compare(found: &[f32], expected: &[f32], what: &str) {
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= RELATIVE_ERROR * largest, "{what}: logit {i} is {found}, expected {expected}");
    }
}

#[test]
fn small_networks_agree_for_every_tier_batch_and_thread_count() {
    let model = network("resnet20", 0.9, 1);
    let most = 33;
    let images = images(&model, most);
    let expected = reference::logits(&model, &images, most);
    let (image, outputs) = (images.len() / most, expected.len() / most);
    for isa in Isa::available() {
        for count in [1, 2, 7, 16, 33] {
            for threads in [1, 2, 3] {
                for weights in [WeightPolicy::Auto, WeightPolicy::Sparse, WeightPolicy::Dense] {
                    let options = Options { threads, batch: count, isa: Some(isa), weights, ..Default::default() };
                    check(&model, &images[..count * image], &expected[..count * outputs], count, &options);
                }
            }
        }
    }
}

/// Every place to cut a network, for every number of images and threads around the edges of the groups.
#[test]
fn networks_cut_anywhere_agree() {
    let model = network("resnet8", 0.9, 6);
    let images = images(&model, 64);
    let expected = reference::logits(&model, &images, 64);
    let (image, outputs) = (images.len() / 64, expected.len() / 64);
    let model = crate::Model::from(&model);
    let layers = fuse::layers(model.0.graph()).unwrap();
    let cuts = layers.cuts();
    let blocks = cuts.iter().filter(|cut| layers.layers[cut.layer].residual.is_none()).count();
    assert!(blocks >= 4, "between blocks there are cuts: {cuts:?}");
    let inside = layers.layers.iter().position(|layer| layer.residual.is_some()).unwrap();
    assert!(cuts.iter().all(|cut| cut.layer != inside), "a residual goes over layer {inside}: {cuts:?}");

    let ends = [0, layers.layers.len()];
    for cut in cuts.iter().map(|cut| cut.layer).chain(ends) {
        for threads in [1, 2, 3] {
            let options = Options { threads, batch: 64, ..Default::default() };
            let isa = Isa::best();
            let decisions = Decisions { cut, sparse: vec![true; layers.layers.len()] };
            let engine = crate::Engine::decided(&model.0, &layers, &decisions, isa, &options).unwrap();
            let mut scratch = engine.scratch().unwrap();
            for plan in engine.plan().iter() {
                let first = layers.layers.iter().position(|layer| layer.name == plan.name);
                if let Some(index) = first {
                    assert_eq!(plan.images, if index < cut { 1 } else { isa.lanes() }, "cut {cut}, {plan:?}");
                }
            }
            for count in [1, 3, 16, 17, 64] {
                let mut logits = vec![f32::NAN; count * outputs];
                engine.run(&images[..count * image], &mut logits, &mut scratch).unwrap();
                let what = format!("cut before layer {cut}, {count} images, {threads} threads");
                compare(&logits, &expected[..count * outputs], &what);
            }
        }
    }
}

#[test]
fn layouts_are_as_asked_for() {
    let model = crate::Model::from(&network("resnet8", 0.95, 7));
    let lanes = Isa::best().lanes();
    let images = |layout, batch| -> Vec<usize> {
        let engine = model.plan(&Options { batch, layout, ..Default::default() }).unwrap();
        engine.plan().iter().map(|layer| layer.images).collect()
    };
    assert!(images(Layout::OneImage, 64).iter().all(|images| *images == 1));
    assert!(images(Layout::Images, 1).iter().all(|images| *images == lanes));
    assert!(images(Layout::Auto, lanes - 1).iter().all(|images| *images == 1));
    assert_eq!(images(Layout::Auto, lanes).last(), Some(&lanes));
}

#[test]
fn convolutions_are_sparse_where_zeros_pay() {
    let dense = |zeros, isa, batch| -> usize {
        let model = crate::Model::from(&network("resnet20", zeros, 7));
        let engine = model.plan(&Options { isa: Some(isa), batch, ..Default::default() }).unwrap();
        let is_dense = |kernel: &String| kernel.starts_with("dense_conv") || kernel.starts_with("winograd");
        engine.plan().iter().filter(|layer| layer.weights > 432 && layer.kernels.iter().any(is_dense)).count()
    };
    for (isa, batch) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 64)]) {
        assert_eq!(dense(0.9, isa, batch), 0, "{isa}, batch {batch}");
        assert!(dense(0.1, isa, batch) >= 16, "{isa}, batch {batch}: of 18 with 3x3 windows 16 keep the map's size");
    }
}

/// Of layers that cost most where the other layout is best, the cheapest cut lies between; one that costs more than it
/// saves is left out.
#[test]
fn the_cheapest_cut_is_found() {
    let cuts: Vec<Cut> = [1, 2, 4].map(|layer| Cut { layer, value: layer }).into();
    let (one, vector) = ([1.0, 2.0, 9.0, 1.0, 7.0], [5.0, 4.0, 1.0, 2.0, 1.0]);
    let of_cut = |cost: f64| move |_: &Cut| cost;
    assert_eq!(decisions::cheapest(&one, &vector, &cuts, of_cut(0.0), 1.0), 2);
    assert_eq!(decisions::cheapest(&one, &vector, &cuts, of_cut(5.0), 1.0), 2);
    assert_eq!(decisions::cheapest(&one, &vector, &cuts, of_cut(6.5), 1.0), 0);
    assert_eq!(decisions::cheapest(&vector, &one, &cuts, of_cut(9.0), 1.0), 5);
    assert_eq!(decisions::cheapest(&[1.0; 5], &[2.0; 5], &cuts, of_cut(0.0), 1.0), 5);
}

#[test]
fn a_plan_for_one_batch_runs_any_other() {
    let model = network("resnet20", 0.9, 2);
    let images = images(&model, 20);
    let expected = reference::logits(&model, &images, 20);
    for batch in [1, 3, 64] {
        check(&model, &images, &expected, 20, &Options { threads: 2, batch, ..Default::default() });
    }
}

#[test]
fn every_operator_of_the_zoo_agrees() {
    for (name, sparsity) in [("mobilenet_v2", 0.9), ("densenet121", 0.95), ("wrn_22_2", 0.8)] {
        let model = network(name, sparsity, 3);
        let images = images(&model, 1);
        let expected = reference::logits(&model, &images, 1);
        for (threads, batch) in [(1, 1), (2, 1), (1, Isa::best().lanes())] {
            check(&model, &images, &expected, 1, &Options { threads, batch, ..Default::default() });
        }
    }
}

#[test]
fn threads_share_an_engine_each_with_a_scratch_of_its_own() {
    let model = network("resnet8", 0.8, 4);
    let images = images(&model, 3);
    let expected = reference::logits(&model, &images, 3);
    let engine = crate::Model::from(&model).plan(&Options { threads: 2, spin: false, ..Default::default() }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut scratch = engine.scratch().unwrap();
                let mut logits = vec![f32::NAN; expected.len()];
                engine.run(&images, &mut logits, &mut scratch).unwrap();
                assert!(logits.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{logits:?}, {expected:?}");
            });
        }
    });
}

/// Runs are now shared by the threads, now the caller's alone: nobody sees which.
#[test]
fn runs_of_one_engine_agree_to_the_bit() {
    for (name, sparsity, batch) in
        [("resnet20", 0.9, 1), ("mobilenet_v2", 0.5, 1), ("resnet20", 0.0, 1), ("vgg16_bn", 0.95, 3)]
    {
        let model = network(name, sparsity, 8);
        let images = images(&model, batch);
        let engine = crate::Model::from(&model).plan(&Options { threads: 3, batch, ..Default::default() }).unwrap();
        let mut scratch = engine.scratch().unwrap();
        let mut run = || {
            let mut logits = vec![f32::NAN; batch * engine.output_shape().iter().product::<usize>()];
            engine.run(&images, &mut logits, &mut scratch).unwrap();
            logits.iter().map(|logit| logit.to_bits()).collect::<Vec<u32>>()
        };
        let first = run();
        (0..15).for_each(|_| assert_eq!(run(), first, "{name}, {sparsity}"));
    }
}

#[test]
fn runs_refuse_what_does_not_fit() {
    let model = crate::Model::from(&network("resnet8", 0.8, 5));
    let [engine, other] = [(); 2].map(|()| model.plan(&Options::default()).unwrap());
    let (mut scratch, images) = (engine.scratch().unwrap(), vec![0.0; 2 * 3 * 32 * 32]);
    let mut run = |images: &[f32], outputs: usize| engine.run(images, &mut vec![0.0; outputs], &mut scratch);
    run(&images, 20).unwrap();
    run(&[], 0).unwrap();
    for (values, outputs) in [(images.len() - 1, 20), (images.len(), 10), (images.len(), 19), (0, 1)] {
        let error = run(&images[..values], outputs).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("images hold {values} values and outputs {outputs}, expected 3072 and 10 for each image")
        );
    }
    assert!(matches!(other.run(&images, &mut [0.0; 20], &mut scratch), Err(Error::Scratch)));
}
