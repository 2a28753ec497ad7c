//! A fixed team of threads that meet at a barrier: the hand-off of work costs a microsecond, not a wake-up.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use crate::affinity;

/// How many threads run a program, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    /// Number, the caller's included.
    pub count: usize,
    /// Whether a thread that waits for the others first looks for them for some tens of microseconds before it sleeps:
    /// faster where each thread has a CPU to itself, and a waste where it has not.
    pub spin: bool,
    /// Whether every thread but the caller's stays on one CPU: thread `k` on the `k`-th that the caller's may use.
    pub pin: bool,
}

/// How often a thread that spins looks before it sleeps.
const SPINS: usize = 1000;

/// Threads that all run the same job, each with its own index; the caller is number 0.
#[derive(Debug)]
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    barrier: Barrier,
    /// The job of the current round, a pointer to a [`Job`] on the caller's stack.
    job: AtomicPtr<()>,
    stop: AtomicBool,
}

type Job<'a> = &'a (dyn Fn(usize, &Barrier) + Sync);

impl Team {
    /// Starts the threads beside the caller.
    ///
    /// # Errors
    /// If the system refuses a thread, or cannot keep one on a CPU of its own.
    pub(crate) fn new(Threads { count, spin, pin }: Threads) -> std::io::Result<Self> {
        let cpus = if pin { affinity::of_this_thread(count)? } else { Vec::new() };
        let barrier = Barrier::new(count, if spin { SPINS } else { 0 });
        let shared = Arc::new(Shared { barrier, job: Default::default(), stop: AtomicBool::new(false) });
        let mut team = Self { shared, workers: Vec::new() };
        for index in 1..count {
            let (shared, cpu) = (team.shared.clone(), cpus.get(index).copied());
            let worker = std::thread::Builder::new().name(format!("sr2-{index}"));
            match worker.spawn(move || work(&shared, index, cpu)) {
                Ok(handle) => team.workers.push(handle),
                Err(error) => {
                    // The barrier waits for `size` threads that will never all come: release those that did.
                    team.shared.barrier.abandon();
                    return Err(error);
                }
            }
        }
        Ok(team)
    }

    /// Number of threads, the caller included.
    pub(crate) fn size(&self) -> usize {
        self.shared.barrier.size
    }

    /// Runs `job(index, barrier)` on every thread and returns when all are done; within the job the threads may meet
    /// at the barrier. `&mut`: one round at a time.
    pub(crate) fn run(&mut self, job: Job<'_>) {
        if self.workers.is_empty() {
            return job(0, &self.shared.barrier);
        }
        self.shared.job.store((&raw const job).cast_mut().cast(), Ordering::Release);
        self.shared.barrier.wait();
        let guard = AbortOnUnwind;
        job(0, &self.shared.barrier);
        std::mem::forget(guard);
        self.shared.barrier.wait();
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if !self.workers.is_empty() && !self.shared.barrier.is_abandoned() {
            self.shared.barrier.wait();
        }
        for worker in self.workers.drain(..) {
            // A worker that panicked has aborted the process.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, index: usize, cpu: Option<usize>) {
    let guard = AbortOnUnwind;
    if let Some(cpu) = cpu {
        affinity::bind_this_thread(cpu);
    }
    loop {
        shared.barrier.wait();
        if shared.stop.load(Ordering::Acquire) || shared.barrier.is_abandoned() {
            break;
        }
        let job = shared.job.load(Ordering::Acquire).cast_const().cast::<Job<'_>>();
        // SAFETY: `Team::run` stored a pointer to its argument before the barrier above, and stays in its frame
        // until the barrier below.
        unsafe { (*job)(index, &shared.barrier) };
        shared.barrier.wait();
    }
    std::mem::forget(guard);
}

/// A thread that unwinds out of a round would leave the others waiting for ever, or reading a dead frame.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Lets threads through once all have come: spins for a bounded time, then sleeps.
#[derive(Debug)]
pub(crate) struct Barrier {
    size: usize,
    spins: usize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    sleepers: AtomicUsize,
    abandoned: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    fn new(size: usize, spins: usize) -> Self {
        Self {
            size,
            spins,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Returns when all threads of the team have called it; what each wrote before is then visible to all.
    pub(crate) fn wait(&self) {
        let generation = self.generation.load(Ordering::SeqCst);
        if self.is_abandoned() {
            return;
        }
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.size {
            self.arrived.store(0, Ordering::Relaxed);
            return self.open(generation);
        }
        for _ in 0..self.spins {
            if self.generation.load(Ordering::Acquire) != generation {
                return;
            }
            std::hint::spin_loop();
        }
        // Either the opener sees this sleeper, or this thread sees the new generation: both are SeqCst.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().expect("nothing panics under this lock");
        while self.generation.load(Ordering::SeqCst) == generation {
            guard = self.wake.wait(guard).expect("nothing panics under this lock");
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn open(&self, generation: usize) {
        self.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // A sleeper that has not seen the new generation waits by the time the lock is free.
            drop(self.lock.lock());
            self.wake.notify_all();
        }
    }

    /// Lets everyone through although not all have come.
    fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.open(self.generation.load(Ordering::SeqCst));
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_round_and_barriers_order_them() {
        for (size, spin) in [1, 2, 3, 7].into_iter().flat_map(|size| [true, false].map(|spin| (size, spin))) {
            let mut team = Team::new(Threads { count: size, spin, pin: false }).unwrap();
            let cells: Vec<AtomicUsize> = (0..size).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..200 {
                team.run(&|index, barrier| {
                    cells[index].fetch_add(1, Ordering::Relaxed);
                    barrier.wait();
                    for cell in &cells {
                        assert_eq!(cell.load(Ordering::Relaxed), round + 1);
                    }
                    barrier.wait();
                });
                if round % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
    }
    #[cfg(target_os = "linux")]
    #[test]
    fn pinned_threads_stay_on_cpus_of_their_own() {
        let cpus = affinity::of_this_thread(1).unwrap();
        let count = cpus.len();
        let mut team = Team::new(Threads { count, spin: true, pin: true }).unwrap();
        team.run(&|index, _| {
            let allowed = affinity::of_this_thread(1).unwrap();
            assert_eq!(allowed, if index == 0 { &cpus[..] } else { &cpus[index..=index] });
        });
        let error = Team::new(Threads { count: count + 1, spin: true, pin: true }).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}
