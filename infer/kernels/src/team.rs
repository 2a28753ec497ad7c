//! A fixed team of threads that meet at a barrier: the hand-off of work costs a microsecond, not a wake-up.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How often a waiting thread looks for the others before it sleeps: some tens of microseconds.
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
    /// A team of `size` threads, the caller included.
    pub(crate) fn new(size: usize) -> std::io::Result<Self> {
        let barrier = Barrier::new(size);
        let shared = Arc::new(Shared { barrier, job: Default::default(), stop: AtomicBool::new(false) });
        let mut team = Self { shared, workers: Vec::new() };
        for index in 1..size {
            let shared = team.shared.clone();
            let worker = std::thread::Builder::new().name(format!("sr2-{index}"));
            match worker.spawn(move || work(&shared, index)) {
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

fn work(shared: &Shared, index: usize) {
    let guard = AbortOnUnwind;
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
    arrived: AtomicUsize,
    generation: AtomicUsize,
    sleepers: AtomicUsize,
    abandoned: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    fn new(size: usize) -> Self {
        Self {
            size,
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
        for _ in 0..SPINS {
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
        for size in [1, 2, 3, 7] {
            let mut team = Team::new(size).unwrap();
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
}
