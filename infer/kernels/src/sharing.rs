//! Whether the threads of a program share the steps of a run, or the caller takes them all: decided by the clock.
//!
//! Sharing a step saves time where its work costs more than the threads' meeting behind it. A meeting takes from a
//! tenth of a microsecond, on cores that share a cache, to ten on a virtual machine whose cores lie apart, and
//! milliseconds where another program holds a core; steps of a sparse network of small images take two. So short runs
//! are timed, and the other way is tried now and then.

use std::time::Duration;

/// Mean time of a step of a shared run above which no meeting matters, and the caller alone is not tried.
const LONG_STEP: Duration = Duration::from_micros(100);
/// Runs of each way in a comparison; the first, which wakes threads and fills caches, does not count.
const RUNS: usize = 4;
/// Time of runs between two comparisons, by the time of one comparison's trial of the other way.
const REST: u32 = 64;

/// Decides how the next run is done, by the times of those before.
#[derive(Debug)]
pub(crate) struct Sharing {
    /// Number of steps of a run.
    steps: usize,
    /// Images of a run; runs of another number start anew.
    images: usize,
    /// Whether runs between comparisons are the caller's alone.
    alone: bool,
    /// Time of runs before the next comparison.
    rest: Duration,
    /// Times of the comparison in progress, of the present way and of the other.
    times: [[Duration; RUNS]; 2],
    /// How many there are.
    timed: usize,
}

impl Sharing {
    pub(crate) fn new(steps: usize) -> Self {
        Self { steps, images: 0, alone: false, rest: Duration::ZERO, times: Default::default(), timed: 0 }
    }

    /// Whether the caller is to take all steps of a run of `images` alone.
    pub(crate) fn alone(&mut self, images: usize) -> bool {
        if images != self.images {
            *self = Self { images, ..Self::new(self.steps) };
        }
        self.alone ^ (self.timed >= RUNS)
    }

    /// Tells how long a run took that was done as [`Sharing::alone`] said.
    pub(crate) fn ran(&mut self, time: Duration) {
        if let Some(rest) = self.rest.checked_sub(time) {
            self.rest = rest;
            return;
        }
        self.times[self.timed / RUNS][self.timed % RUNS] = time;
        self.timed += 1;
        let [present, other] = self.times.map(median);
        if self.timed == RUNS && !self.alone && present > LONG_STEP * self.steps as u32 {
            (self.rest, self.timed) = (REST * present, 0);
        }
        if self.timed == 2 * RUNS {
            self.alone ^= other < present;
            (self.rest, self.timed) = (REST * self.times[1].iter().sum::<Duration>(), 0);
        }
    }
}

/// Of all but the first.
fn median([_, mut rest @ ..]: [Duration; RUNS]) -> Duration {
    rest.sort_unstable();
    rest[rest.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: usize = 20;

    /// Runs for some time, a run taking `shared` or `alone` microseconds; returns the shares of runs and of time that
    /// were the caller's alone.
    fn run(sharing: &mut Sharing, [shared, alone]: [u64; 2], time: Duration) -> [f64; 2] {
        let (mut runs, mut times) = ([0.0; 2], [Duration::ZERO; 2]);
        while times[0] + times[1] < time {
            let way = sharing.alone(1);
            let took = Duration::from_micros(if way { alone } else { shared });
            sharing.ran(took);
            runs[usize::from(way)] += 1.0;
            times[usize::from(way)] += took;
        }
        [runs[1] / (runs[0] + runs[1]), times[1].as_secs_f64() / time.as_secs_f64()]
    }

    #[test]
    fn the_faster_way_has_nearly_all_of_the_time() {
        let second = Duration::from_secs(1);
        for times in [[50, 90], [50, 800], [49, 51]] {
            let [_, alone] = run(&mut Sharing::new(STEPS), times, second);
            assert!(alone > 0.0 && alone < 0.02, "{times:?}: {alone}");
        }
        for times in [[90, 50], [800, 50], [51, 49]] {
            let [_, alone] = run(&mut Sharing::new(STEPS), times, second);
            assert!(alone > 0.975, "{times:?}: {alone}");
        }
    }

    #[test]
    fn a_change_of_the_machine_is_noticed_within_tens_of_milliseconds() {
        let mut sharing = Sharing::new(STEPS);
        run(&mut sharing, [50, 90], Duration::from_millis(200));
        let [_, alone] = run(&mut sharing, [180, 90], Duration::from_millis(100));
        assert!(alone > 0.6, "{alone}");
        let [_, alone] = run(&mut sharing, [50, 90], Duration::from_millis(100));
        assert!(alone < 0.6, "{alone}");
    }

    #[test]
    fn one_slow_run_changes_nothing() {
        let mut sharing = Sharing::new(STEPS);
        for _ in 0..100 {
            run(&mut sharing, [50, 90], Duration::from_millis(11));
            let alone = sharing.alone(1);
            sharing.ran(Duration::from_millis(4));
            assert!(!alone || sharing.timed > 0);
        }
        let [runs, _] = run(&mut sharing, [50, 90], Duration::from_millis(200));
        assert!(runs < 0.02, "{runs}");
    }

    #[test]
    fn long_steps_are_always_shared() {
        let times = [STEPS as u64 * 101, 100];
        assert_eq!(run(&mut Sharing::new(STEPS), times, Duration::from_secs(1)), [0.0; 2]);
    }

    #[test]
    fn runs_of_another_number_of_images_start_anew() {
        let mut sharing = Sharing::new(STEPS);
        run(&mut sharing, [90, 50], Duration::from_millis(200));
        assert!(sharing.alone(1) && !sharing.alone(2) && !sharing.alone(1));
    }
}
