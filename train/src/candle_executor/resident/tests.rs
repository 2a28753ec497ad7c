use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::candle_executor::rows::largest_to_go;
use crate::candle_executor::tests::{setup, test_device};
use crate::candle_executor::transfer::watch;
use crate::candle_executor::{DeviceKind, open};
use crate::executor::Executor;
use crate::layout::Segment;
use crate::optimizer::{Objective, Optimizer, StepControl, WeightDecay};
use crate::pruning::PruningPlan;
use crate::regulariser::Regulariser;
use crate::schedule::{Floor, Schedule};
use crate::schedule_free::ScheduleFree;
use crate::share::{self, PenalisedLayer};
use crate::sr2::{Guards, Sr2, Verdict};
use crate::trial::Metric;

#[test]
fn the_value_to_go_is_the_hosts() {
    let device = open(test_device()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let random: Vec<f64> = (0..3000).map(|_| rng.random::<f64>().powi(40)).collect();
    let tied: Vec<f64> = random.iter().map(|value| (value * 8.0).round()).collect();
    let few: Vec<f64> = random.iter().enumerate().map(|(i, value)| if i < 5 { *value } else { 0.0 }).collect();
    let close: Vec<f64> = (0..3000).map(|i| f64::from_bits(1.0f64.to_bits() + i / 2)).collect();
    for (name, values) in [("random", random), ("tied", tied), ("few", few), ("close", close)] {
        let rows = Tensor::from_slice(&values, (3, 1000), &device).unwrap();
        for left in [0, 1, 4, 5, 6, 250, 2999, 3000, 4000] {
            let expected = share::largest_to_go(left, &mut values.clone());
            assert_eq!(largest_to_go(&rows, left).unwrap(), expected, "{name}, {left}");
        }
    }
}

#[test]
fn the_lambda_to_go_is_the_hosts() {
    let (_, mut executor, x, _) = setup();
    let layers = layers(executor.layout().trainable(), 1);
    let schedule = StepControl::Schedule(Schedule::OneCycle(FLOOR));
    let optimizer = Optimizer::new(settings(Penalty::L0, RAMP, MOMENTUM, schedule), layers.clone());
    executor.keep(&optimizer, &x).unwrap();
    let resident = executor.resident.as_ref().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let direction: Vec<f32> = x.iter().map(|_| rng.random_range(-0.1..0.1)).collect();
    let entries: Vec<f32> = x.iter().map(|_| rng.random_range(0.1..2.0)).collect();
    let [v, entries_there] = [&direction, &entries].map(|values| resident.rows.upload(values).unwrap());
    let sigma = 1.7;
    let metrics = [(Metric::Scalar(sigma), None), (Metric::Scaled(sigma, &entries), Some(&entries_there))];
    for (penalty, (metric, diagonal)) in [Penalty::L0, Penalty::L1].into_iter().zip(metrics) {
        let mut critical = Vec::new();
        for layer in &layers.penalised {
            let place = (layer.range.clone(), None);
            Regulariser::from(penalty).critical_lambdas(place, &x, &direction, metric, &mut critical);
        }
        let parts = Parts { x: &resident.parameters, v: &v, g: &v, diagonal, sigma, penalty };
        let model = resident.kernels.model(parts).unwrap();
        for left in [0, 1, LEFT, critical.len() - 1, critical.len()] {
            let expected = share::largest_to_go(left, &mut critical.clone());
            assert_eq!(model.largest_to_go(&resident.penalised, left).unwrap(), expected, "{penalty:?}, {left}");
            let counts: Vec<f64> = download(&model.count_above(expected).unwrap()).unwrap();
            let above = critical.iter().filter(|value| **value > expected).count();
            assert_eq!(resident.penalised.iter().map(|parameter| counts[*parameter]).sum::<f64>(), above as f64);
        }
    }
}

/// The loss over one batch, for vectors of the host.
struct OnBatch<'a>(&'a mut CandleExecutor, &'a Batch);

impl Objective for OnBatch<'_> {
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> std::result::Result<f64, ExecutorError> {
        Ok(self.0.loss_and_gradient(x, self.1, gradient)?.loss)
    }

    fn value(&mut self, x: &[f32]) -> std::result::Result<f64, ExecutorError> {
        Ok(self.0.loss(x, self.1)?.loss)
    }
}

/// Largest distance of parameters and averages from the host's after each step, relative to their norm. On the CPU there
/// is none; on a device the gradients may be summed in another order each time.
fn tolerance() -> f64 {
    if test_device() == DeviceKind::Cpu { 0.0 } else { 1e-4 }
}

#[track_caller]
fn assert_same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let scale = norm(&mut expected.iter().copied());
    assert!(difference <= tolerance() * scale, "{what}: {difference:e} of {scale:e}");
}

const STEPS: u64 = 60;
/// Some 1240 weights are penalised.
const LEFT: usize = 150;

/// What happened in the steps of [`compare`].
#[derive(Default)]
struct Course {
    rejected: usize,
    guarded: usize,
    /// How often the host has waited in each step that searches on the device.
    waits: Vec<usize>,
}

/// Three layers of the network, which keep `least` weights each.
fn layers(segments: &[Segment], least: usize) -> Layers {
    let prunable = || segments.iter().filter(|s| s.spec.role.is_prunable());
    let penalised =
        prunable().filter(|s| ["pointwise.weight", "lopsided.weight", "down.weight"].contains(&&*s.spec.name));
    let layer = |s: &Segment| PenalisedLayer {
        least,
        channels: Some(s.spec.shape[0]),
        ..PenalisedLayer::plain(s.range.clone())
    };
    Layers { penalised: penalised.map(layer).collect(), prunable: prunable().map(|s| s.range.clone()).collect() }
}

/// Takes all steps on the host and on the device, every other one with a search on the device.
#[track_caller]
fn compare(name: &str, settings: Settings, least: usize) -> Course {
    let (_, mut on_host, mut x, batch) = setup();
    let (_, mut on_device, ..) = setup();
    let segments = on_host.layout().trainable().to_vec();
    let layers = layers(&segments, least);
    assert_eq!((layers.penalised.len(), unsupported(&settings, &layers)), (3, None), "{name}");
    let mut host = Optimizer::new(settings.clone(), layers.clone());
    let mut device = Optimizer::new(settings, layers);
    on_device.keep(&device, &x).unwrap();
    let (mut course, mut passes) = (Course::default(), Passes::default());
    for step in 0..STEPS {
        let name = format!("{name}, step {step}");
        for executor in [&mut on_host, &mut on_device] {
            executor.set_support(host.gradient_support());
        }
        let expected = host.step(&mut x, &mut OnBatch(&mut on_host, &batch)).unwrap();
        let searches_on_host = test_device() == DeviceKind::Cpu && step % 2 == 0;
        on_device.resident.as_mut().unwrap().searches_on_host = searches_on_host;
        let before = watch::waits();
        let (report, at_point) = on_device.step(&mut device, &batch, &mut passes).unwrap();
        course.waits.extend((!searches_on_host).then(|| watch::waits() - before));
        assert_eq!((report.verdict, report.at_bound), (expected.verdict, expected.at_bound), "{name}");
        assert_eq!((at_point.loss, device.guarded()), (report.loss, host.guarded()), "{name}");
        let close =
            |found: f64, expected: f64| (found - expected).abs() <= (1e-9 + tolerance()) * expected.abs().max(1e-3);
        let reports =
            [report, expected].map(|r| [r.loss, r.xi, r.sigma, r.lambda, r.stationarity, r.rho.unwrap_or(0.0)]);
        assert!(reports[0].iter().zip(reports[1]).all(|(f, e)| close(*f, e)), "{name}: {reports:?}");
        course.rejected += usize::from(report.verdict == Verdict::Rejected);
        course.guarded += host.guarded().len();

        let (parameters, averages) = on_device.fetch().unwrap().unwrap();
        assert_same(&format!("{name}: parameters"), &parameters, &x);
        assert_same(&format!("{name}: momentum"), &averages.momentum, &host.averages().momentum);
        assert_same(&format!("{name}: mean square"), &averages.mean_square, &host.averages().mean_square);
        assert_same(&format!("{name}: average"), &averages.parameters, &host.averages().parameters);
        assert_same(&format!("{name}: iterate"), &averages.iterate, &host.averages().iterate);
        assert_same(&format!("{name}: running statistics"), &on_device.buffers().unwrap(), &on_host.buffers().unwrap());
        let counts: Vec<usize> =
            segments.iter().map(|s| x[s.range.clone()].iter().filter(|x| **x != 0.0).count()).collect();
        assert_eq!(on_device.nonzero().unwrap(), counts, "{name}");
    }
    assert_eq!(passes.backward, STEPS);
    course
}

fn settings(penalty: Penalty, target: Target, direction: Direction, control: StepControl) -> Settings {
    let plan = PruningPlan { target, from: 5, frozen_from: 40, dense_every: 3, steps: STEPS, regrowth: true };
    Settings {
        regulariser: penalty.into(),
        plan,
        share: Share::Global,
        direction,
        control,
        quasi_cauchy: false,
        relaxed: false,
        weight_decay: WeightDecay::NONE,
        ema: None,
    }
}

const RAMP: Target = Target::Weights { left: LEFT, ramp_until: 35 };
const MOMENTUM: Direction = Direction::Momentum { beta: 0.9, nesterov: false };
const FLOOR: Floor = Floor { lowest: 2.0, first: 4.0, last: 100.0, warmup: 0.3, steps: STEPS };

#[test]
fn sr2_takes_the_same_steps_as_on_the_host() {
    let sr2 = Sr2 { test_every: 2, ..Sr2::robust(FLOOR, 5) };
    let Course { waits, .. } =
        compare("l0 to a target", settings(Penalty::L0, RAMP, MOMENTUM, StepControl::Sr2(sr2.clone())), 1);
    assert!(waits.len() >= STEPS as usize / 2 && waits.iter().all(|waits| *waits == 1), "{waits:?}");
    // Sigma starts so low that steps are rejected, also where the support freezes.
    let low =
        Sr2 { floor: None, sigma_start: 0.02, sigma_min: 0.02, test_every: 1, eta2: 0.1, lower: 0.3, ..sr2.clone() };
    let Course { rejected, .. } =
        compare("rejections", settings(Penalty::L0, RAMP, MOMENTUM, StepControl::Sr2(low.clone())), 1);
    assert!((3..50).contains(&rejected), "{rejected} of {STEPS} rejected");
    let schedule_free = Direction::ScheduleFree(ScheduleFree { beta: 0.9 });
    compare("schedule-free", settings(Penalty::L0, RAMP, schedule_free, StepControl::Sr2(sr2.clone())), 1);
    // Of the channels some are steep, and others are not.
    let steep = Sr2 { guards: Some(Guards { loss_ceiling: 1e-3 }), ..sr2.clone() };
    compare("steep channels", settings(Penalty::L0, RAMP, schedule_free, StepControl::Sr2(steep)), 1);
    let decay = |settings| Settings { weight_decay: WeightDecay::Coupled(0.02), ..settings };
    let decayed = settings(Penalty::L0, RAMP, schedule_free, StepControl::Sr2(sr2.clone()));
    let Course { waits, .. } = compare("weight decay", decay(decayed), 1);
    assert!(waits.iter().all(|waits| *waits == 1), "{waits:?}");
    compare("rejections with weight decay", decay(settings(Penalty::L0, RAMP, MOMENTUM, StepControl::Sr2(low))), 1);
    let nesterov = Direction::Momentum { beta: 0.9, nesterov: true };
    let looking = settings(Penalty::L1, RAMP, nesterov, StepControl::Sr2(sr2.clone()));
    compare("l1 to a target", Settings { ema: Some(0.9), ..looking }, 1);
    let ball = settings(Penalty::L0Ball, RAMP, MOMENTUM, StepControl::Sr2(sr2.clone()));
    compare("small layers stay", ball, 40);
    for penalty in [Penalty::L0, Penalty::L1] {
        let large = settings(penalty, Target::Lambda(3.0), MOMENTUM, StepControl::Sr2(sr2.clone()));
        let Course { guarded, .. } = compare("a large lambda", large, 7);
        assert!(guarded > 0, "{penalty:?}");
    }
}

#[test]
fn its_rivals_take_the_same_steps_as_on_the_host() {
    let one_cycle = StepControl::Schedule(Schedule::OneCycle(FLOOR));
    let mut magnitude = settings(Penalty::L0, RAMP, MOMENTUM, one_cycle);
    magnitude.plan.regrowth = false;
    compare("magnitude", magnitude, 1);
    let rate = StepControl::Schedule(Schedule::Drops { first: 1e2, steps: STEPS });
    compare("prox-gen", settings(Penalty::L1, RAMP, Direction::Adam, rate.clone()), 1);
    let adamw = settings(Penalty::L0, Target::Lambda(0.0), Direction::Adam, rate);
    compare("adamw", Settings { weight_decay: WeightDecay::Decoupled(0.5), ..adamw }, 1);
}
