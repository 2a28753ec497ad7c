//! Threads of this process in the place of processes, for tests.

use std::sync::{Arc, Barrier, Mutex};

use super::Collective;

/// One of several threads that work together.
#[derive(Debug)]
pub(crate) struct Member {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    barrier: Barrier,
    /// What each has brought.
    given: Vec<Mutex<Vec<f64>>>,
}

/// Runs `work` in `size` threads that are members of one group; their results by rank.
pub(crate) fn together<T: Send>(size: usize, work: impl Fn(Arc<dyn Collective>) -> T + Sync) -> Vec<T> {
    let given = (0..size).map(|_| Mutex::default()).collect();
    let shared = Arc::new(Shared { barrier: Barrier::new(size), given });
    std::thread::scope(|scope| {
        let member = |rank| Arc::new(Member { rank, shared: shared.clone() });
        let start = |rank| {
            let (member, work) = (member(rank), &work);
            scope.spawn(move || work(member))
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

impl Member {
    /// Gives `values` and calls `take` with everybody's, by rank.
    fn exchange(&self, values: Vec<f64>, take: impl FnOnce(&[Vec<f64>])) {
        *self.shared.given[self.rank].lock().unwrap() = values;
        self.shared.barrier.wait();
        let all: Vec<_> = self.shared.given.iter().map(|given| given.lock().unwrap().clone()).collect();
        let len = all[self.rank].len();
        assert!(all.iter().all(|given| given.len() == len), "slices of different lengths: the members are out of step");
        take(&all);
        self.shared.barrier.wait();
    }
}

impl Collective for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.given.len()
    }

    fn sum_f32(&self, values: &mut [f32]) {
        self.exchange(values.iter().map(|v| f64::from(*v)).collect(), |all| {
            for (i, value) in values.iter_mut().enumerate() {
                *value = all.iter().map(|given| given[i] as f32).sum();
            }
        });
    }

    fn sum_f64(&self, values: &mut [f64]) {
        self.exchange(values.to_vec(), |all| {
            for (i, value) in values.iter_mut().enumerate() {
                *value = all.iter().map(|given| given[i]).sum();
            }
        });
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        self.exchange(bytes.iter().map(|b| f64::from(*b)).collect(), |all| {
            bytes.iter_mut().zip(&all[0]).for_each(|(byte, given)| *byte = *given as u8);
        });
    }

    fn abort(&self, code: u8) -> ! {
        panic!("aborted with {code}");
    }
}
