//! Tunings: measured, saved, read again, and refused where they do not fit.

use std::time::Duration;

use sr2_models::reference;

use super::{compare, images, network};
use crate::{Error, Isa, Layout, Model, Options, Tuning, WeightPolicy, fuse};

fn options(batch: usize, threads: usize) -> Options {
    Options { batch, threads, ..Default::default() }
}

fn measured(model: &Model, options: &Options) -> Tuning {
    Tuning::measure(model, options, Duration::ZERO).unwrap()
}

#[test]
fn a_saved_tuning_plans_as_it_did() {
    let network = network("resnet8", 0.9, 8);
    let model = Model::from(&network);
    let lanes = Isa::best().lanes();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.json");
    for (batch, threads) in [(1, 1), (3, 2), (lanes, 2), (2 * lanes + 1, 1)] {
        let options = options(batch, threads);
        let tuning = measured(&model, &options);
        let [default, tuned] = tuning.default_and_tuned();
        assert!(Duration::ZERO < tuned && Duration::ZERO < default, "{tuning:?}");
        tuning.save(&file).unwrap();
        let read = Tuning::load(&file).unwrap();
        assert_eq!(read, tuning);
        // What the measurement decides does not count.
        let others = Options { layout: Layout::OneImage, weights: WeightPolicy::Dense, ..options };
        let engines = [(&tuning, &options), (&read, &others)].map(|(t, o)| model.plan_tuned(o, t).unwrap());
        assert_eq!(engines[0].plan().to_string(), engines[1].plan().to_string());
        let images = images(&network, batch);
        let expected = reference::logits(&network, &images, batch);
        let mut logits = vec![f32::NAN; expected.len()];
        engines[1].run(&images, &mut logits, &mut engines[1].scratch().unwrap()).unwrap();
        compare(&logits, &expected, &format!("tuned for batch {batch}, {threads} threads"));
    }
}

/// Wherever a file says that layers go over to a vector of images, they do, and the outputs stay the same.
#[test]
fn a_tuning_cuts_where_it_says() {
    let network = network("resnet8", 0.9, 11);
    let model = Model::from(&network);
    let lanes = Isa::best().lanes();
    let options = options(lanes + 1, 1);
    let images = images(&network, options.batch);
    let expected = reference::logits(&network, &images, options.batch);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.json");
    let tuning = measured(&model, &options);
    tuning.save(&file).unwrap();
    let good = std::fs::read_to_string(&file).unwrap();
    let place = good.lines().find(|line| line.contains("vectors_from")).unwrap();
    let layers = fuse::layers(model.0.graph()).unwrap();
    let cuts = layers.cuts().iter().map(|cut| cut.layer).collect::<Vec<_>>();
    assert!(cuts.len() > 3, "{cuts:?}");
    for cut in cuts.into_iter().chain([0, layers.layers.len()]) {
        std::fs::write(&file, good.replacen(place, &format!("  \"vectors_from\": {cut},"), 1)).unwrap();
        let engine = model.plan_tuned(&options, &Tuning::load(&file).unwrap()).unwrap();
        // The first row of a stage is for what comes in; the last stage's last is for what goes out.
        let rows = engine.plan().iter().filter(|row| row.images == 1).count();
        assert_eq!(rows, if cut == 0 { 0 } else { cut + 1 + usize::from(cut == layers.layers.len()) }, "cut at {cut}");
        let mut logits = vec![f32::NAN; expected.len()];
        engine.run(&images, &mut logits, &mut engine.scratch().unwrap()).unwrap();
        compare(&logits, &expected, &format!("cut at {cut}"));
    }
}

#[test]
fn a_tuning_for_something_else_is_refused() {
    let model = Model::from(&network("resnet8", 0.9, 9));
    let tuning = measured(&model, &options(1, 1));
    let refused = |model: &Model, options: &Options, expected: &str| {
        let error = model.plan_tuned(options, &tuning).unwrap_err();
        assert!(matches!(error, Error::TuningMismatch { .. }), "{error:?}");
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    refused(&model, &options(2, 1), "the tuning's batch is 1, expected 2");
    refused(&model, &options(1, 2), "the tuning's threads is 1, expected 2");
    let deeper = Model::from(&network("resnet20", 0.9, 9));
    refused(&deeper, &options(1, 1), "the tuning's network is resnet8, expected resnet20");
    let sparser = Model::from(&network("resnet8", 0.91, 9));
    refused(&sparser, &options(1, 1), "the tuning's fingerprint of the weights is ");
    if Isa::best() != Isa::Scalar {
        let scalar = Options { isa: Some(Isa::Scalar), ..options(1, 1) };
        refused(&model, &scalar, &format!("the tuning's instruction set is {}, expected scalar", Isa::best()));
    }
}

#[test]
fn broken_files_are_refused() {
    let model = Model::from(&network("resnet8", 0.9, 10));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.json");
    measured(&model, &options(1, 1)).save(&file).unwrap();
    let good = std::fs::read_to_string(&file).unwrap();
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Tuning::load(&file)
    };
    let cut = &good[..good.len() / 2];
    let extra = good.replacen("\"batch\"", "\"tile\": 3, \"batch\"", 1);
    let negative = good.replacen("\"batch\": 1", "\"batch\": -1", 1);
    for text in ["", "[]", "{", cut, &extra, &negative] {
        let error = with(text).unwrap_err();
        assert!(matches!(error, Error::TuningFile { .. }), "{text}: {error:?}");
        let line = error.to_string();
        assert!(line.starts_with(&file.display().to_string()) && !line.contains('\n'), "{line}");
    }
    let newer = with(&good.replacen("\"version\": 1", "\"version\": 2", 1)).unwrap_err().to_string();
    assert!(newer.contains("has version 2, expected 1"), "{newer}");
    for path in ["/dev/zero".as_ref(), folder.path()] {
        let error = Tuning::load(path).unwrap_err().to_string();
        assert!(error.contains("is no regular file of at most"), "{error}");
    }
    assert!(matches!(Tuning::load(folder.path().join("none.json")), Err(Error::File(_))));

    let place = good.lines().find(|line| line.contains("vectors_from")).unwrap();
    for (from, to) in [(place, "  \"vectors_from\": 2,"), (place, "  \"vectors_from\": 999,"), ("conv1\"", "conv9\"")] {
        let tuning = with(&good.replacen(from, to, 1)).unwrap();
        let error = model.plan_tuned(&options(1, 1), &tuning).unwrap_err();
        assert!(matches!(error, Error::TuningMismatch { .. }), "{to}: {error:?}");
    }
}
