//! Whether the threads of a program share the steps of a run, or the caller takes them all: decided by the clock.
//!
//! Sharing a step saves time where its work costs more than the threads' meeting behind it, and the lines that go from
//! core to core. A meeting takes from a tenth of a microsecond, on cores that share a cache, to ten on a virtual machine
//! whose cores lie apart, and milliseconds where another program holds a core; steps of a sparse network of small images
//! take two. So runs are timed now and then, and the caller tries to do alone those of short steps and those in which it
//! waits most of the time.

use std::time::Duration;

/// Mean time of a step of a shared run above which lines from another core do not matter.
const LONG_STEP: Duration = Duration::from_micros(50);
/// Runs of each way in a comparison; the first, which wakes threads and fills caches, does not count.
const RUNS: usize = 4;
/// Time of runs between two comparisons, by the time of one comparison's runs in its second way.
const REST: u32 = 64;

/// Decides how the next run is done, by the times of those before.
#[derive(Debug)]
pub(crate) struct Sharing {
    threads: u32,
    /// Number of steps of a run.
    steps: u32,
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
    /// The least time that the caller worked in one of its shared runs.
    work: Duration,
}

impl Sharing {
    pub(crate) fn new(threads: usize, steps: usize) -> Self {
        let [threads, steps] = [threads, steps].map(|count| count as u32);
        let (rest, times) = (Duration::ZERO, Default::default());
        Self { threads, steps, images: 0, alone: false, rest, times, timed: 0, work: Duration::MAX }
    }

    /// Decided for good.
    #[cfg(test)]
    pub(crate) fn settled(threads: usize, images: usize, alone: bool) -> Self {
        Self { images, alone, rest: Duration::MAX, ..Self::new(threads, 1) }
    }

    /// Whether no comparison is in progress and one has ended.
    #[cfg(test)]
    pub(crate) fn rests(&self) -> bool {
        self.timed == 0 && self.rest > Duration::ZERO
    }

    /// Whether the caller is to take all steps of a run of `images` alone.
    pub(crate) fn alone(&mut self, images: usize) -> bool {
        if images != self.images {
            *self = Self { images, ..Self::new(self.threads as usize, self.steps as usize) };
        }
        self.alone ^ (self.timed >= RUNS)
    }

    /// Whether the caller's work in the next run is to be timed, if that is shared.
    pub(crate) fn watches(&self) -> bool {
        self.timed > 0
    }

    /// Tells how long a run took that was done as [`Sharing::alone`] said, and how long the caller worked in it, if that
    /// was timed.
    pub(crate) fn ran(&mut self, time: Duration, work: Option<Duration>) {
        if let Some(rest) = self.rest.checked_sub(time) {
            self.rest = rest;
            return;
        }
        self.times[self.timed / RUNS][self.timed % RUNS] = time;
        self.timed += 1;
        self.work = work.map_or(self.work, |work| work.min(self.work));
        let [present, other] = self.times.map(median);
        let surely_pays = present > LONG_STEP * self.steps && self.work.saturating_mul(self.threads) >= present;
        let second = match self.timed {
            RUNS if !self.alone && surely_pays => self.times[0],
            n if n == 2 * RUNS => {
                self.alone ^= other < present;
                self.times[1]
            }
            _ => return,
        };
        (self.rest, self.timed, self.work) = (REST * second.iter().sum::<Duration>(), 0, Duration::MAX);
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

    const THREADS: usize = 4;
    const STEPS: usize = 20;

    /// Runs for some time, a run taking `shared` or `alone` microseconds; returns the shares of runs and of time that
    /// were the caller's alone.
    fn run(sharing: &mut Sharing, [shared, alone]: [u64; 2], time: Duration) -> [f64; 2] {
        let (mut runs, mut times) = ([0.0; 2], [Duration::ZERO; 2]);
        while times[0] + times[1] < time {
            let way = sharing.alone(1);
            let took = Duration::from_micros(if way { alone } else { shared });
            let work = Duration::from_micros(alone) / THREADS as u32;
            sharing.ran(took, (!way && sharing.watches()).then_some(work));
            runs[usize::from(way)] += 1.0;
            times[usize::from(way)] += took;
        }
        [runs[1] / (runs[0] + runs[1]), times[1].as_secs_f64() / time.as_secs_f64()]
    }

    #[test]
    fn the_faster_way_has_nearly_all_of_the_time() {
        for times in [[50, 90], [50, 180], [49, 51]] {
            let [_, alone] = run(&mut Sharing::new(THREADS, STEPS), times, Duration::from_secs(1));
            assert!(alone > 0.0 && alone < 0.02, "{times:?}: {alone}");
        }
        for times in [[90, 50], [800, 50], [51, 49], [5000, 1100]] {
            let [_, alone] = run(&mut Sharing::new(THREADS, STEPS), times, Duration::from_secs(10));
            assert!(alone > 0.975, "{times:?}: {alone}");
        }
    }

    #[test]
    fn long_steps_whose_work_is_shared_are_never_tried_alone() {
        let times = [STEPS as u64 * 51, STEPS as u64 * 190];
        assert_eq!(run(&mut Sharing::new(THREADS, STEPS), times, Duration::from_secs(1)), [0.0; 2]);
    }

    #[test]
    fn a_change_of_the_machine_is_noticed_within_tens_of_milliseconds() {
        let mut sharing = Sharing::new(THREADS, STEPS);
        run(&mut sharing, [50, 90], Duration::from_millis(200));
        let [_, alone] = run(&mut sharing, [180, 90], Duration::from_millis(100));
        assert!(alone > 0.6, "{alone}");
        let [_, alone] = run(&mut sharing, [50, 90], Duration::from_millis(100));
        assert!(alone < 0.6, "{alone}");
    }

    #[test]
    fn one_slow_run_changes_nothing() {
        for times in [[50, 90], [90, 50]] {
            for slow in 0..2 * RUNS {
                let mut sharing = Sharing::new(THREADS, STEPS);
                for i in 0..2 * RUNS {
                    let alone = sharing.alone(1);
                    let took = if i == slow { 4000 } else { times[usize::from(alone)] };
                    sharing.ran(Duration::from_micros(took), None);
                }
                assert_eq!(sharing.alone(1), times[1] < times[0], "{times:?}, run {slow}");
            }
        }
    }

    #[test]
    fn runs_of_another_number_of_images_start_anew() {
        let mut sharing = Sharing::new(THREADS, STEPS);
        run(&mut sharing, [90, 50], Duration::from_millis(200));
        assert!(sharing.alone(1) && !sharing.alone(2) && !sharing.alone(1));
    }
}
