//! Measures layers, and races the plans that come out.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use sr2_kernels::Isa;
use sr2_models::CompressedModel;

use crate::decisions::{self, Cut, Decisions};
use crate::fuse::Layers;
use crate::{Engine, Error, Options, Scratch};

/// Parts of the time that go to layers, to the plans that they suggest, and to each race of a plan and its neighbours.
const LAYERS: f64 = 0.4;
const SUGGESTED: f64 = 0.25;
const NEIGHBOURS: f64 = 0.15;

/// Rounds that are measured at least, and passes of a candidate in each: the first finds the caches as the one before
/// left them.
const ROUNDS: usize = 2;
const PASSES: usize = 3;

/// Rounds of a race at least, and those after which plans are out that never came within `HOPELESS` times the fastest.
const RACES: usize = 5;
const HEAT: usize = 2;
const HOPELESS: f64 = 1.15;

/// A run that takes longer finds its caches its own before it has gone far.
const LONG: Duration = Duration::from_millis(20);

/// What a plan must take of another's time, at most, to be worth leaving that.
const WORTHWHILE: f64 = 0.98;

/// Places before and after that of a plan at which its neighbours are cut.
const NEAR: usize = 2;

/// What is measured, and how it is to run.
pub(super) struct Course<'a> {
    pub(super) model: &'a CompressedModel,
    pub(super) layers: &'a Layers<'a>,
    pub(super) isa: Isa,
    pub(super) options: Options,
}

/// The fastest choice for each layer image by image and, where the batch allows, for a vector of images.
struct Choices {
    one: Vec<bool>,
    vector: Option<Vec<bool>>,
    /// Where their times suggest to go over from the one to the other.
    cut: usize,
}

impl Choices {
    /// The plan that goes over to a vector of images at `cut`.
    fn plan(&self, cut: usize) -> Decisions {
        let vector = self.vector.as_ref().map_or(&[][..], |vector| &vector[cut..]);
        Decisions { cut, sparse: self.one[..cut].iter().chain(vector).copied().collect() }
    }
}

impl Course<'_> {
    /// The fastest plan, and the median times of a batch by the default plan and by it.
    pub(super) fn fastest(&self, time: Duration) -> Result<(Decisions, [Duration; 2]), Error> {
        let start = Instant::now();
        let count = self.layers.layers.len();
        let default = Decisions::estimated(self.model, self.layers, self.isa, &self.options);
        let choices = self.choices(time.mul_f64(LAYERS))?;
        let mut tried = vec![default.clone()];
        let ends = if choices.vector.is_some() { vec![0, choices.cut] } else { Vec::new() };
        for plan in [count].into_iter().chain(ends).map(|cut| choices.plan(cut)) {
            if !tried.contains(&plan) {
                tried.push(plan);
            }
        }
        let (winner, times) = self.race(&tried, time.mul_f64(SUGGESTED))?;
        let suggested = tried[winner].clone();
        if choices.vector.is_none() {
            return Ok((suggested, times));
        }
        let places = [0].into_iter().chain(self.layers.cuts().into_iter().map(|cut| cut.layer)).chain([count]);
        let best = walk(
            &suggested,
            &places.collect::<Vec<_>>(),
            |cut| choices.plan(cut),
            tried,
            |plans, moves| {
                let is_over = moves > 0 && start.elapsed() >= time;
                if is_over { Ok(0) } else { Ok(self.race(plans, time.mul_f64(NEIGHBOURS))?.0) }
            },
        )?;
        if best == suggested {
            return Ok((suggested, times));
        }
        // The other races were at other times, and not against the default.
        let plans = [default, best];
        let (winner, times) = self.race(&plans, time.saturating_sub(start.elapsed()))?;
        Ok((plans[winner].clone(), times))
    }

    fn choices(&self, time: Duration) -> Result<Choices, Error> {
        let Self { model, layers, isa, ref options } = *self;
        let (count, lanes) = (layers.layers.len(), isa.lanes());
        let vectors = options.batch >= lanes;
        // With a group for every thread each has its own, or else they share all steps.
        let threads = if options.batch >= lanes * options.threads && vectors { 1 } else { options.threads };
        let options = Options { threads, ..*options };
        let mut candidates = Vec::new();
        for cut in [count, 0].into_iter().take(if vectors { 2 } else { 1 }) {
            for sparse in [true, false] {
                let decisions = Decisions { cut, sparse: vec![sparse; count] };
                match Engine::decided(model, layers, &decisions, isa, &options) {
                    Ok(engine) => candidates.push(Candidate::new(engine)?),
                    // A vector of images may be too large for a network that fits image by image.
                    Err(Error::Size { .. } | Error::Memory { .. }) if cut == 0 => (),
                    Err(error) => return Err(error),
                }
            }
        }
        let images = images(lanes * candidates[0].engine.input_shape().iter().product::<usize>());
        let start = Instant::now();
        let mut round = 0;
        while round < ROUNDS || start.elapsed() < time {
            for candidate in &mut candidates {
                candidate.pass(&images)?;
            }
            round += 1;
        }

        let group = if vectors { lanes } else { 1 };
        // Every row of the plan but the first and the last is a layer.
        let fastest = |pair: &[Candidate]| -> (Vec<f64>, Vec<bool>) {
            let scale = (group / pair[0].engine.images_a_pass()) as f64;
            let rows = pair[0].least[1..].iter().zip(&pair[1].least[1..]).zip(&layers.layers);
            rows.map(|((sparse, dense), layer)| {
                (scale * sparse.min(*dense), layer.weight().is_some() && sparse < dense)
            })
            .unzip()
        };
        let (of_one, one) = fastest(&candidates[..2]);
        if candidates.len() < 4 {
            return Ok(Choices { one, vector: None, cut: count });
        }
        let (of_vector, vector) = fastest(&candidates[2..]);
        let importing = candidates[2].least[0] / (lanes * decisions::values(model, 0)) as f64;
        let handing = |cut: &Cut| importing * (lanes * decisions::values(model, cut.value)) as f64;
        let cut = decisions::cheapest(&of_one, &of_vector, &layers.cuts(), handing, 1.0);
        Ok(Choices { one, vector: Some(vector), cut })
    }

    /// The fastest of some plans, and the median times of a batch by the first and by it, over interleaved rounds, every
    /// second one in the opposite order. The first stays where none is worth leaving it.
    fn race(&self, plans: &[Decisions], time: Duration) -> Result<(usize, [Duration; 2]), Error> {
        let mut runners = Vec::with_capacity(plans.len());
        for (plan, decisions) in plans.iter().enumerate() {
            match Engine::decided(self.model, self.layers, decisions, self.isa, &self.options) {
                Ok(engine) => runners.push(Runner { plan, candidate: Candidate::new(engine)?, times: Vec::new() }),
                // As above.
                Err(Error::Size { .. } | Error::Memory { .. }) if plan > 0 => (),
                Err(error) => return Err(error),
            }
        }
        let engine = &runners[0].candidate.engine;
        let [input, output] = [engine.input_shape(), engine.output_shape()];
        let images = images(self.options.batch * input.iter().product::<usize>());
        let mut outputs = vec![0.0; self.options.batch * output.iter().product::<usize>()];
        let (start, mut round) = (Instant::now(), 0);
        while round < RACES || start.elapsed() < time {
            for runner in &mut runners {
                runner.run(&images, &mut outputs)?;
            }
            runners.reverse();
            round += 1;
            if round == HEAT {
                let least = runners.iter().map(Runner::least).min().expect("the first plan runs");
                runners.retain(|runner| runner.plan == 0 || runner.least() <= least.mul_f64(HOPELESS));
            }
        }
        runners.sort_by_key(|runner| runner.plan);
        let first = &runners[0];
        // Round by round against the first, so that the drift of a machine hits both.
        let of_first = |runner: &Runner| {
            let ratios =
                runner.times.iter().zip(&first.times).map(|(own, first)| own.as_secs_f64() / first.as_secs_f64());
            median(ratios.collect(), f64::total_cmp)
        };
        let fastest = runners.iter().min_by(|a, b| of_first(a).total_cmp(&of_first(b))).expect("the first plan runs");
        let is_less = |time: fn(&Runner) -> Duration| time(fastest) < time(first);
        let is_faster = of_first(fastest) < WORTHWHILE && is_less(Runner::least) && is_less(Runner::median);
        let best = if is_faster { fastest } else { first };
        Ok((best.plan, [first, best].map(Runner::median)))
    }
}

/// From `best` on to a faster plan cut near it, as long as `race`, which gets the best plan so far and its neighbours,
/// and the number of moves before, returns the index of another than the first. No plan is tried again.
fn walk(
    best: &Decisions,
    places: &[usize],
    plan: impl Fn(usize) -> Decisions,
    mut tried: Vec<Decisions>,
    mut race: impl FnMut(&[Decisions], usize) -> Result<usize, Error>,
) -> Result<Decisions, Error> {
    let mut best = best.clone();
    for moves in 0.. {
        let at = places.partition_point(|place| *place < best.cut);
        let near = &places[at.saturating_sub(NEAR)..places.len().min(at + NEAR + 1)];
        let near = near.iter().map(|cut| plan(*cut)).filter(|plan| !tried.contains(plan));
        let mut plans: Vec<Decisions> = [best.clone()].into_iter().chain(near).collect();
        let winner = if plans.len() > 1 { race(&plans, moves)? } else { 0 };
        if winner == 0 {
            break;
        }
        tried.extend_from_slice(&plans[1..]);
        best = plans.swap_remove(winner);
    }
    Ok(best)
}

/// A plan that is measured.
struct Candidate {
    engine: Engine,
    scratch: Scratch,
    /// Least time of each row of its plan, in seconds.
    least: Vec<f64>,
}

impl Candidate {
    fn new(engine: Engine) -> Result<Self, Error> {
        let (scratch, least) = (engine.scratch()?, vec![f64::INFINITY; engine.plan().len()]);
        Ok(Self { engine, scratch, least })
    }

    fn pass(&mut self, images: &[f32]) -> Result<(), Error> {
        for _ in 0..PASSES {
            let times = self.engine.profile(images, &mut self.scratch)?;
            for (least, time) in self.least.iter_mut().zip(times) {
                *least = least.min(time.as_secs_f64());
            }
        }
        Ok(())
    }
}

/// A plan in a race.
struct Runner {
    plan: usize,
    candidate: Candidate,
    times: Vec<Duration>,
}

impl Runner {
    fn run(&mut self, images: &[f32], outputs: &mut [f32]) -> Result<(), Error> {
        let Candidate { engine, scratch, .. } = &mut self.candidate;
        if self.times.last().is_none_or(|last| *last < LONG) {
            engine.run(images, outputs, scratch)?;
        }
        let run = Instant::now();
        engine.run(images, outputs, scratch)?;
        self.times.push(run.elapsed());
        Ok(())
    }

    fn least(&self) -> Duration {
        self.times.iter().copied().min().unwrap_or(Duration::MAX)
    }

    fn median(&self) -> Duration {
        median(self.times.clone(), Duration::cmp)
    }
}

fn median<T: Copy>(mut values: Vec<T>, order: impl Fn(&T, &T) -> Ordering) -> T {
    values.sort_by(order);
    values[values.len() / 2]
}

/// Values between -1 and 1, always the same.
fn images(values: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        state as f32 / 2f32.powi(31) - 1.0
    };
    (0..values).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cut: usize) -> Decisions {
        Decisions { cut, sparse: vec![cut.is_multiple_of(2); 3] }
    }

    /// Where a walk from `start` ends if plans take so long, and the plans that were raced.
    fn walked(
        start: &Decisions,
        tried: &[Decisions],
        time: impl Fn(&Decisions) -> usize,
    ) -> (Decisions, Vec<Decisions>) {
        let places = [0, 2, 3, 5, 6, 9, 12];
        let mut raced = Vec::new();
        let best = walk(start, &places, plan, tried.to_vec(), |plans, moves| {
            assert!(moves < places.len() && plans.len() <= 2 * NEAR + 2, "{moves} moves, {plans:?}");
            raced.extend_from_slice(&plans[1..]);
            Ok((0..plans.len()).min_by_key(|index| time(&plans[*index])).unwrap())
        });
        (best.unwrap(), raced)
    }

    #[test]
    fn a_walk_ends_where_no_neighbour_is_faster() {
        for fastest in [0usize, 2, 3, 5, 6, 9, 12] {
            for start in [0, 3, 12] {
                let (best, raced) = walked(&plan(start), &[plan(start)], |plan| plan.cut.abs_diff(fastest));
                assert_eq!(best, plan(fastest), "from {start}");
                assert!(raced.iter().all(|tried| *tried != plan(start)), "{raced:?}");
            }
        }
        // Over one slower place, not over two.
        let times = [7, 9, 6, 9, 9, 0, 0];
        let (best, _) =
            walked(&plan(0), &[plan(0)], |plan| times[[0, 2, 3, 5, 6, 9, 12].binary_search(&plan.cut).unwrap()]);
        assert_eq!(best, plan(3));
    }

    #[test]
    fn a_walk_tries_no_plan_again() {
        let tried = [5, 2, 6].map(plan);
        let (best, raced) = walked(&plan(5), &tried, |plan| plan.cut.abs_diff(5));
        assert_eq!((best, raced), (plan(5), vec![plan(3), plan(9)]));
        // Another plan with the same cut is a neighbour.
        let default = Decisions { cut: 5, sparse: vec![true; 3] };
        let (best, raced) =
            walked(&default, std::slice::from_ref(&default), |plan| plan.cut.abs_diff(5) + plan.sparse[0] as usize);
        assert_eq!((best, raced), (plan(5), [2, 3, 5, 6, 9].map(plan).to_vec()));
    }
}
