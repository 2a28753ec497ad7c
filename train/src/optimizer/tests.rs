use super::*;
use crate::direction::Direction;
use crate::group::{Group, Grouping};
use crate::pruning::Target;
use crate::regulariser::Bounds;
use crate::schedule::{Floor, Schedule};
use crate::share::{PenalisedLayer, Share};
use crate::sr2::Sr2;

mod convex;
mod kept;
mod schedule_free;
mod weight_decay;

use convex::LeastSquares;

/// SR2 that prunes with one lambda from the first step on and never freezes.
fn settings(penalty: Penalty, lambda: f64, beta: f64, sr2: Sr2) -> Settings {
    let plan = PruningPlan::constant(lambda);
    let direction = Direction::Momentum { beta, nesterov: false };
    let control = StepControl::Sr2(sr2);
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

/// A loss whose values are scripted: the gradient is always 1 in each coordinate.
struct Scripted {
    at_point: f64,
    at_trial: f64,
}

impl Objective for Scripted {
    fn gradient(&mut self, _: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        gradient.fill(1.0);
        Ok(self.at_point)
    }

    fn value(&mut self, _: &[f32]) -> Result<f64, ExecutorError> {
        Ok(self.at_trial)
    }
}

const SCHEDULE_FREE: Direction = Direction::ScheduleFree(ScheduleFree { beta: 0.9 });
const FLAT_FLOOR: Floor = Floor { lowest: 2.0, first: 2.0, last: 2.0, warmup: 0.0, steps: 10 };

fn robust(lambda: f64) -> Optimizer {
    Optimizer::new(settings(Penalty::L0, lambda, 0.9, Sr2::robust(FLAT_FLOOR, 10)), Layers::one(0..2))
}

/// The test of an optimizer that has one.
fn test_of(optimizer: &mut Optimizer) -> &mut Sr2 {
    match &mut optimizer.settings.control {
        StepControl::Sr2(sr2) => sr2,
        StepControl::Schedule(_) => panic!("no test"),
    }
}

#[test]
fn rejection_restores_point_and_momentum_and_raises_sigma() {
    let mut sr2 = robust(0.0);
    let mut x = vec![1.0, 2.0, 3.0];
    sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 0.6 }).unwrap();
    let (point, momentum) = (x.clone(), sr2.averages().momentum.clone());
    let report = sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 2.5 }).unwrap();
    assert_eq!(report.verdict, Verdict::Rejected);
    assert_eq!((x, sr2.averages().momentum.as_slice()), (point, momentum.as_slice()));
    assert_eq!(sr2.state().sigma, 2.0 * 5.57);
    assert_eq!(sr2.state().rejections_in_a_row, 1);
}

#[test]
fn accepted_steps_move_by_the_direction_over_sigma() {
    let mut sr2 = robust(0.0);
    let mut x = vec![1.0, 2.0, 3.0];
    // g's = -3 (1/2), so xi = 1.5 and rho = 0.375/1.5: good, not very good.
    let report = sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 1.625 }).unwrap();
    assert_eq!((report.verdict, report.rho, report.xi), (Verdict::Accepted, Some(0.25), 1.5));
    assert_eq!(x, [0.5, 1.5, 2.5]);
    assert_eq!(report.stationarity, 3f64.sqrt());
}

#[test]
fn sigma_falls_where_a_step_ends_before_the_minimum_along_it() {
    use Verdict::{Accepted, Rejected, VeryGood};
    // The curvature is 1, so that a sigma of 1 leads to the minimum, and 1/2 as far behind it.
    for (sigma, verdict) in [(4.0, VeryGood), (1.01, VeryGood), (0.99, Accepted), (0.51, Accepted), (0.49, Rejected)] {
        let floor = Floor { lowest: sigma, first: sigma, last: sigma, ..FLAT_FLOOR };
        let mut sr2 = Optimizer::new(settings(Penalty::L0, 0.0, 0.9, Sr2::robust(floor, 10)), Layers::default());
        let report = sr2.step(&mut vec![0.1, -0.2, 0.3], &mut Towards(vec![0.0; 3])).unwrap();
        assert_eq!(report.verdict, verdict, "sigma {sigma}");
    }
}

#[test]
fn sigma_falls_back_to_the_floor_but_the_floor_is_never_written_back() {
    let floor = Floor { lowest: 1.0, first: 8.0, last: 100.0, warmup: 0.5, steps: 21 };
    let mut sr2 = Optimizer::new(settings(Penalty::L0, 0.0, 0.0, Sr2::robust(floor, 10)), Layers::default());
    let mut x = vec![0.0; 3];
    for step in 0..=10 {
        assert_eq!(sr2.sigma(), floor.sigma(step));
        sr2.step(&mut x, &mut Scripted { at_point: 20.0, at_trial: 0.0 }).unwrap();
    }
    assert_eq!(sr2.state().sigma, 1.0);
}

#[test]
fn a_blow_up_is_rejected_even_if_the_penalty_pays_for_it() {
    let mut x = vec![0.1, 0.1, 3.0];
    let blow_up = Scripted { at_point: 1.0, at_trial: 4.0 };
    let (mut guarded, mut published) = (robust(100.0), robust(100.0));
    test_of(&mut published).guards = None;
    assert_eq!(guarded.step(&mut x.clone(), &mut { blow_up }).unwrap().verdict, Verdict::Rejected);
    let blow_up = Scripted { at_point: 1.0, at_trial: 4.0 };
    assert_eq!(published.step(&mut x, &mut { blow_up }).unwrap().verdict, Verdict::VeryGood);
    assert_eq!(x[..2], [0.0, 0.0]);
}

#[test]
fn sigma_is_not_lowered_where_the_penalty_makes_the_prediction() {
    let mut sr2 = robust(100.0);
    sr2.state.sigma = 50.0;
    let mut x = vec![0.1, 0.1, 3.0];
    let report = sr2.step(&mut x, &mut Scripted { at_point: 1.0, at_trial: 1.0 }).unwrap();
    assert!(report.rho.unwrap() > 0.9);
    assert_eq!((report.verdict, sr2.state().sigma), (Verdict::Accepted, 50.0));
}

#[test]
fn decreases_below_rounding_are_not_judged() {
    let mut sr2 = robust(0.0);
    test_of(&mut sr2).sigma_max = 1e9;
    sr2.state.sigma = 1e9;
    let report = sr2.step(&mut vec![1.0; 3], &mut Scripted { at_point: 1.0, at_trial: 1.0001 }).unwrap();
    assert_eq!((report.verdict, report.rho), (Verdict::Unjudged, None));
}

#[test]
fn non_finite_losses_stop_at_the_point_and_reject_at_the_trial() {
    let mut x = vec![1.0; 3];
    let mut sr2 = robust(0.0);
    let error = sr2.step(&mut x, &mut Scripted { at_point: f64::NAN, at_trial: 0.0 }).unwrap_err();
    assert_eq!(error.to_string(), "loss is NaN at step 0");
    let report = sr2.step(&mut x, &mut Scripted { at_point: 1.0, at_trial: f64::NAN }).unwrap();
    assert_eq!(report.verdict, Verdict::Rejected);
    assert_eq!(x, [1.0; 3]);
}

#[test]
fn a_resumed_state_gives_the_same_bits() {
    for direction in [Direction::Momentum { beta: 0.9, nesterov: false }, SCHEDULE_FREE] {
        for quasi_cauchy in [false, true] {
            a_resumed_state_gives_the_same_bits_with(direction, quasi_cauchy);
        }
    }
}

fn a_resumed_state_gives_the_same_bits_with(direction: Direction, quasi_cauchy: bool) {
    let lambda = LeastSquares::elastic_net().lambda;
    let settings = Settings { direction, quasi_cauchy, ..settings(Penalty::L1, lambda, 0.0, Sr2::paper()) };
    let mut problem = LeastSquares::elastic_net();
    let mut straight = Optimizer::new(settings.clone(), Layers::one(0..24));
    let mut x = vec![1.0; 24];
    for _ in 0..5 {
        straight.step(&mut x, &mut problem).unwrap();
    }
    let saved: State = serde_json::from_str(&serde_json::to_string(straight.state()).unwrap()).unwrap();
    let mut resumed = Optimizer::resume(settings, Layers::one(0..24), saved, straight.averages().clone());
    let mut y = x.clone();
    for _ in 0..5 {
        let reports = (straight.step(&mut x, &mut problem).unwrap(), resumed.step(&mut y, &mut problem).unwrap());
        assert_eq!(reports.0, reports.1);
    }
    assert_eq!(x, y);
    assert_eq!(straight.averages(), resumed.averages());
}

/// `1/2 |x - centre|^2`, whose gradient moves every weight towards `centre`.
struct Towards(Vec<f32>);

impl Objective for Towards {
    fn gradient(&mut self, x: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
        gradient.iter_mut().zip(x).zip(&self.0).for_each(|((g, x), centre)| *g = x - centre);
        self.value(x)
    }

    fn value(&mut self, x: &[f32]) -> Result<f64, ExecutorError> {
        Ok(x.iter().zip(&self.0).map(|(x, centre)| f64::from(x - centre).powi(2)).sum::<f64>() / 2.0)
    }
}

const WEIGHTS: usize = 200;
const LEFT: usize = 17;

fn towards(penalty: Penalty, direction: Direction, control: StepControl, relaxed: bool, regrowth: bool) -> Settings {
    let target = Target::Weights { left: LEFT, ramp_until: 60 };
    let plan = PruningPlan { target, from: 10, frozen_from: 80, dense_every: 1, steps: 100, regrowth };
    Settings {
        regulariser: penalty.into(),
        plan,
        share: Share::Global,
        direction,
        control,
        quasi_cauchy: false,
        relaxed,
        weight_decay: WeightDecay::NONE,
        ema: None,
    }
}

/// Runs 100 steps towards distinct values; returns the number of non-zero weights after each, and the last point.
fn counts(settings: Settings) -> (Vec<usize>, Vec<f32>) {
    let mut objective = Towards((0..=WEIGHTS).map(|i| 0.01 * (i as f32 * 1.7).sin() + 0.02).collect());
    let mut optimizer = Optimizer::new(settings, Layers::one(0..WEIGHTS));
    let mut x = vec![0.5; WEIGHTS + 1];
    let mut step = |_| {
        optimizer.step(&mut x, &mut objective).unwrap();
        x[..WEIGHTS].iter().filter(|w| **w != 0.0).count()
    };
    ((0..100).map(&mut step).collect(), x)
}

fn one_cycle() -> StepControl {
    let floor = Floor { lowest: 2.0, first: 4.0, last: 100.0, warmup: 0.3, steps: 100 };
    StepControl::Schedule(Schedule::OneCycle(floor))
}

fn flat() -> StepControl {
    StepControl::Schedule(Schedule::OneCycle(FLAT_FLOOR))
}

#[test]
fn every_method_ends_with_exactly_the_weights_asked_for() {
    let momentum = Direction::Momentum { beta: 0.9, nesterov: false };
    let sr2 = StepControl::Sr2(Sr2::robust(FLAT_FLOOR, 10));
    let rate = StepControl::Schedule(Schedule::Drops { first: 1e2, steps: 100 });
    let unit = Floor { lowest: 1.0, first: 1.0, last: 1.0, warmup: 0.0, steps: 100 };
    let schedule_free = towards(Penalty::L0, SCHEDULE_FREE, sr2.clone(), false, true);
    let with_curvature = |settings| Settings { quasi_cauchy: true, ..settings };
    let methods = [
        ("sr2 with curvature", with_curvature(towards(Penalty::L0, momentum, sr2.clone(), false, true))),
        ("schedule-free sr2 with curvature", with_curvature(schedule_free.clone())),
        ("schedule-free sr2", schedule_free),
        ("sr2", towards(Penalty::L0, momentum, sr2, false, true)),
        ("magnitude", towards(Penalty::L0, momentum, one_cycle(), false, false)),
        ("prox-gen", towards(Penalty::L0, Direction::Adam, rate, false, true)),
        (
            "prox-sgd",
            towards(Penalty::L0, Direction::ProxSgd, StepControl::Schedule(Schedule::OneCycle(unit)), true, true),
        ),
    ];
    for (name, settings) in methods {
        let (counts, x) = counts(settings);
        assert_eq!(counts[..10], [WEIGHTS; 10], "{name}");
        assert_eq!(counts[79..], [LEFT; 21], "{name}");
        assert_ne!(x[WEIGHTS], 0.0, "{name} must not prune outside the layer");
    }
}

#[test]
fn every_penalty_ends_with_exactly_the_weights_asked_for() {
    let momentum = Direction::Momentum { beta: 0.9, nesterov: false };
    for penalty in [Penalty::L1, Penalty::LHalf, Penalty::LTwoThirds, Penalty::L0Ball] {
        for share in [Share::Global, Share::Uniform, Share::Lamp] {
            for (direction, control) in [(momentum, one_cycle()), (SCHEDULE_FREE, flat())] {
                let settings = Settings { share, ..towards(penalty, direction, control, false, true) };
                let (counts, _) = counts(settings);
                assert!(counts[78] < WEIGHTS / 2, "{penalty:?} is steered there: {counts:?}");
                assert_eq!(counts[79..], [LEFT; 21], "{penalty:?}");
            }
        }
    }
}

#[test]
fn groups_end_with_whole_groups() {
    let settings = towards(Penalty::L0, Direction::Momentum { beta: 0.9, nesterov: false }, one_cycle(), false, true);
    for (penalty, group) in [(Penalty::L0, Group::OutputChannel), (Penalty::L1, Group::Block1x4)] {
        let grouping = Grouping::new(group, [WEIGHTS / 5, 5, 1]);
        let layer = PenalisedLayer { groups: Some(grouping), ..PenalisedLayer::plain(0..WEIGHTS) };
        let layers = Layers { penalised: vec![layer], ..Layers::one(0..WEIGHTS) };
        let mut objective = Towards((0..WEIGHTS).map(|i| 0.01 * (i as f32 * 1.7).sin() + 0.02).collect());
        let mut optimizer = Optimizer::new(Settings { regulariser: penalty.into(), ..settings.clone() }, layers);
        let mut x = vec![0.5; WEIGHTS];
        for _ in 0..100 {
            optimizer.step(&mut x, &mut objective).unwrap();
        }
        let mut left = 0;
        grouping.for_each(|places| {
            let nonzero = places.iter().filter(|i| x[**i] != 0.0).count();
            assert!([0, places.len()].contains(&nonzero), "{penalty:?}: {nonzero} of {places:?}");
            left += nonzero;
        });
        assert!((LEFT + 1 - grouping.size()..=LEFT).contains(&left), "{penalty:?}: {left}");
    }
}

#[test]
fn a_lambda_that_would_empty_a_layer_leaves_its_least() {
    for penalty in [Penalty::L0, Penalty::L1, Penalty::LHalf, Penalty::LTwoThirds] {
        let plan = PruningPlan::constant(100.0);
        let settings = Settings { plan, ..towards(penalty, Direction::Adam, one_cycle(), false, true) };
        let layer = |range, least| PenalisedLayer { least, ..PenalisedLayer::plain(range) };
        let layers = Layers { penalised: vec![layer(0..10, 3), layer(10..20, 0)], prunable: Vec::new() };
        let mut optimizer = Optimizer::new(settings, layers);
        let mut x: Vec<f32> = (1..=20).map(|i| 0.01 * i as f32).collect();
        for _ in 0..3 {
            let report = optimizer.step(&mut x, &mut Towards(vec![0.1; 20])).unwrap();
            let left = [&x[..10], &x[10..]].map(|layer| layer.iter().filter(|w| **w != 0.0).count());
            assert_eq!((left, optimizer.guarded()), ([3, 0], &[0][..]), "{penalty:?}");
            assert!(report.xi.is_finite());
        }
    }
}

#[test]
fn no_weight_leaves_its_box() {
    for penalty in [Penalty::L0, Penalty::L1] {
        let bounds = Some(Bounds(-0.02, 0.01));
        let settings = towards(penalty, Direction::Momentum { beta: 0.9, nesterov: false }, one_cycle(), false, true);
        let (counts, x) = counts(Settings { regulariser: Regulariser { penalty, bounds }, ..settings });
        assert_eq!(counts[99], LEFT);
        assert!(x[..WEIGHTS].iter().all(|x| (-0.02..=0.01).contains(x)), "{x:?}");
        assert!(x[WEIGHTS] > 0.01, "outside the layer there is no box");
    }
}

#[test]
fn without_regrowth_no_zero_comes_back() {
    let momentum = Direction::Momentum { beta: 0.9, nesterov: false };
    let (counts, _) = counts(towards(Penalty::L0, momentum, one_cycle(), false, false));
    assert!(counts.windows(2).all(|pair| pair[1] <= pair[0]), "{counts:?}");
}

#[test]
fn empty_channels_stay_empty_where_they_are_to() {
    let channels = Some(WEIGHTS / 5);
    let nesterov = Direction::Momentum { beta: 0.9, nesterov: true };
    let empty = |x: &[f32]| x[..WEIGHTS].chunks(5).map(|channel| channel.iter().all(|x| *x == 0.0)).collect::<Vec<_>>();
    let revived = |direction, channels| {
        let layer = PenalisedLayer { channels, ..PenalisedLayer::plain(0..WEIGHTS) };
        let layers = Layers { penalised: vec![layer], ..Layers::one(0..WEIGHTS) };
        let mut optimizer = Optimizer::new(towards(Penalty::L0, direction, flat(), false, true), layers);
        let mut x = vec![0.5; WEIGHTS];
        let mut revived = 0;
        for step in 0..80 {
            // What the weights are pulled to changes, so that zeros come back.
            let to = (0..WEIGHTS).map(|i| (i as f32 * 1.7 + 0.1 * step as f32).sin()).collect();
            let before = empty(&x);
            optimizer.step(&mut x, &mut Towards(to)).unwrap();
            revived += before.iter().zip(empty(&x)).filter(|(before, after)| **before && !after).count();
        }
        assert_eq!(x.iter().filter(|x| **x != 0.0).count(), LEFT);
        revived
    };
    for direction in [nesterov, SCHEDULE_FREE] {
        assert!(revived(direction, None) > 0);
        assert_eq!(revived(direction, channels), 0);
    }
}

#[test]
fn the_average_has_the_zeros_of_the_weights() {
    let ema = Settings { ema: Some(0.9), ..towards(Penalty::L0, Direction::Adam, one_cycle(), false, true) };
    let schedule_free = towards(Penalty::L0, SCHEDULE_FREE, StepControl::Sr2(Sr2::robust(FLAT_FLOOR, 10)), false, true);
    for settings in [ema, schedule_free] {
        let mut objective = Towards((0..=WEIGHTS).map(|i| 0.01 * (i as f32 * 1.7).sin() + 0.02).collect());
        let mut optimizer = Optimizer::new(settings, Layers::one(0..WEIGHTS));
        let mut x = vec![0.5; WEIGHTS + 1];
        for _ in 0..100 {
            optimizer.step(&mut x, &mut objective).unwrap();
        }
        let averaged = optimizer.averaged(&x).unwrap();
        assert!(averaged.iter().zip(&x).all(|(average, x)| (*average == 0.0) == (*x == 0.0)));
        assert_ne!(averaged, x);
    }
}

#[test]
fn untested_steps_cost_no_trial_pass_and_are_taken() {
    struct Counting(u32);
    impl Objective for Counting {
        fn gradient(&mut self, _: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
            gradient.fill(1.0);
            Ok(2.0)
        }
        fn value(&mut self, _: &[f32]) -> Result<f64, ExecutorError> {
            self.0 += 1;
            Ok(1.25)
        }
    }
    let mut sr2 = robust(0.0);
    test_of(&mut sr2).test_every = 4;
    let (mut objective, mut x) = (Counting(0), vec![1.0; 3]);
    let mut verdict = |_| sr2.step(&mut x, &mut objective).unwrap().verdict;
    let verdicts: Vec<Verdict> = (0..8).map(&mut verdict).collect();
    let tested: Vec<usize> = (0..8).filter(|step| verdicts[*step] != Verdict::Unjudged).collect();
    assert_eq!((tested, objective.0), (vec![0, 3, 7], 3), "{verdicts:?}");
    assert!(x[0] < 1.0 - 8.0 * 0.4);
}

#[test]
fn steps_from_a_loss_over_the_ceiling_are_tested_whatever_their_number() {
    let mut sr2 = robust(0.0);
    test_of(&mut sr2).test_every = 1000;
    let mut x = vec![1.0; 3];
    sr2.step(&mut x, &mut Scripted { at_point: 1.0, at_trial: 0.5 }).unwrap();
    let verdict = |loss| sr2.step(&mut x, &mut Scripted { at_point: loss, at_trial: 2.0 * loss }).unwrap().verdict;
    let ceiling = 1.5 * 10f64.ln();
    assert_eq!([0.9 * ceiling, 1.1 * ceiling].map(verdict), [Verdict::Unjudged, Verdict::Rejected]);
}

#[test]
fn steps_that_promise_a_loss_below_zero_are_tested_whatever_their_number() {
    /// Its gradient promises a decrease of 1.5 for the step to 0.5 in three weights.
    struct Steep(f64);
    impl Objective for Steep {
        fn gradient(&mut self, _: &[f32], gradient: &mut [f32]) -> Result<f64, ExecutorError> {
            gradient.fill(1.0);
            Ok(self.0)
        }
        fn value(&mut self, _: &[f32]) -> Result<f64, ExecutorError> {
            Ok(self.0 / 2.0)
        }
    }
    let mut sr2 = robust(0.0);
    test_of(&mut sr2).test_every = 1000;
    let mut x = vec![1.0; 3];
    let mut unjudged = |loss| sr2.step(&mut x, &mut Steep(loss)).unwrap().verdict == Verdict::Unjudged;
    assert_eq!([2.0, 2.0, 1.0, 2.0].map(&mut unjudged), [false, true, false, true]);
    // A penalty of 20 that goes with two weights is no promise of the loss: the gradient's is 2.5.
    let mut sr2 = robust(10.0);
    test_of(&mut sr2).test_every = 1000;
    let mut unjudged = |loss| sr2.step(&mut vec![1.0; 3], &mut Steep(loss)).unwrap().verdict == Verdict::Unjudged;
    assert_eq!([3.0, 3.0, 2.0].map(&mut unjudged), [false, true, false]);
}
