//! Timing engines side by side: interleaved rounds, so that the drift of a shared machine hits all alike.

use std::time::{Duration, Instant};

use crate::{BenchError, Runner};

/// Number of rounds that the seconds of each engine are divided into.
const ROUNDS: usize = 5;

/// Part of an engine's seconds that warms up, in addition to them.
const WARM_UP: f64 = 0.25;

/// Times of one engine's runs, round by round.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Samples {
    rounds: Vec<Vec<f64>>,
}

/// Runs every engine for `seconds` in all, on one batch of `batch` images.
///
/// Each round runs every engine in turn, every second round in the opposite order. An engine's turn starts with a
/// warm-up, so that the caches are its own and the threads of the engine before it have gone to sleep; both last at
/// least one run.
pub(crate) fn race(
    runners: &mut [Box<dyn Runner>],
    images: &[f32],
    batch: usize,
    seconds: f64,
) -> Result<Vec<Samples>, BenchError> {
    let mut samples = vec![Samples::default(); runners.len()];
    let turn = seconds / ROUNDS as f64;
    for round in 0..ROUNDS {
        for index in order(round, runners.len()) {
            let runner = runners[index].as_mut();
            let mut logits = vec![0.0; batch * runner.outputs()];
            run_for(runner, images, &mut logits, turn * WARM_UP)?;
            samples[index].rounds.push(run_for(runner, images, &mut logits, turn)?);
        }
    }
    Ok(samples)
}

fn order(round: usize, engines: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..engines).collect() } else { (0..engines).rev().collect() }
}

/// Milliseconds of each run, until `seconds` have passed.
fn run_for(runner: &mut dyn Runner, images: &[f32], logits: &mut [f32], seconds: f64) -> Result<Vec<f64>, BenchError> {
    let mut times = Vec::new();
    let (start, end) = (Instant::now(), Duration::from_secs_f64(seconds));
    while times.is_empty() || start.elapsed() < end {
        let run = Instant::now();
        runner.run(images, logits)?;
        times.push(run.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

impl Samples {
    /// Percentile (0 to 100) over the runs of all rounds, in milliseconds.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        percentile(self.rounds.concat(), percent)
    }

    /// Number of timed runs.
    pub(crate) fn runs(&self) -> usize {
        self.rounds.iter().map(Vec::len).sum()
    }

    /// Smallest and largest median of a round: how far the machine drifted.
    pub(crate) fn spread(&self) -> [f64; 2] {
        let medians = self.round_medians();
        [percentile(medians.clone(), 0.0), percentile(medians, 100.0)]
    }

    /// How many times as fast as `baseline`: the median of the ratios taken round by round.
    pub(crate) fn speed_over(&self, baseline: &Self) -> f64 {
        let pairs = baseline.round_medians().into_iter().zip(self.round_medians());
        percentile(pairs.map(|(baseline, own)| baseline / own).collect(), 50.0)
    }

    fn round_medians(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| percentile(round.clone(), 50.0)).collect()
    }
}

/// Percentile with linear interpolation between the two nearest values (NumPy's default).
fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    assert!(!values.is_empty(), "a percentile needs at least one value");
    values.sort_by(f64::total_cmp);
    let position = percent / 100.0 * (values.len() - 1) as f64;
    let (below, above) = (values[position.floor() as usize], values[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// An engine that writes its number down at each run.
    struct Logged(usize, Rc<RefCell<Vec<usize>>>);

    impl Runner for Logged {
        fn name(&self) -> &'static str {
            "logged"
        }
        fn input_shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }
        fn outputs(&self) -> usize {
            1
        }
        fn weight_bytes(&self) -> u64 {
            0
        }
        fn run(&mut self, _images: &[f32], _logits: &mut [f32]) -> Result<(), BenchError> {
            self.1.borrow_mut().push(self.0);
            Ok(())
        }
    }

    /// With no seconds to spend, a turn is one run to warm up and one that is timed.
    #[test]
    fn rounds_alternate_their_order() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut runners: Vec<Box<dyn Runner>> =
            (0..3).map(|i| Box::new(Logged(i, Rc::clone(&log))) as Box<dyn Runner>).collect();
        let samples = race(&mut runners, &[0.0], 1, 0.0).unwrap();
        let (forth, back) = ([0, 0, 1, 1, 2, 2], [2, 2, 1, 1, 0, 0]);
        assert_eq!(*log.borrow(), [forth, back, forth, back, forth].concat());
        assert!(samples.iter().all(|s| s.runs() == ROUNDS), "{samples:?}");
    }

    /// `numpy.percentile([15, 20, 35, 40, 50], [0, 40, 50, 90, 99, 100])`.
    #[test]
    fn percentiles_are_numpys() {
        let values = vec![50.0, 15.0, 40.0, 20.0, 35.0];
        for (percent, expected) in [(0.0, 15.0), (40.0, 29.0), (50.0, 35.0), (90.0, 46.0), (99.0, 49.6), (100.0, 50.0)]
        {
            let found = percentile(values.clone(), percent);
            assert!((found - expected).abs() < 1e-12, "{percent}: {found} {expected}");
        }
        assert_eq!(percentile(vec![3.0], 99.0), 3.0);
    }

    /// One slow round of the baseline moves the ratio of the pooled medians, but not the median of the ratios.
    #[test]
    fn speed_is_the_median_of_the_rounds_ratios() {
        let own = Samples { rounds: vec![vec![1.0, 1.0, 9.0], vec![2.0], vec![4.0, 4.0]] };
        let baseline = Samples { rounds: vec![vec![3.0], vec![6.0], vec![40.0]] };
        assert_eq!(own.speed_over(&baseline), 3.0);
        assert_eq!(own.spread(), [1.0, 4.0]);
        assert_eq!(own.runs(), 6);
        assert_eq!(own.percentile(50.0), 3.0);
    }
}
