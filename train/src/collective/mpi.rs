//! The processes of an MPI job.

use std::sync::Mutex;

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::{Universe, initialize_with_threading};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};

use super::{Collective, CollectiveError};

/// All processes of the job. Errors of the library end the job, as is MPI's default.
///
/// The executor calls from a thread of its pool and the training loop from its own, so the library is asked for
/// `MPI_THREAD_SERIALIZED`, and the lock on the buffers is what serialises the calls.
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    buffers: Mutex<Buffers>,
    /// Ends MPI when dropped.
    _universe: Universe,
}

/// Where sums arrive.
#[derive(Default)]
struct Buffers {
    singles: Vec<f32>,
    doubles: Vec<f64>,
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mpi").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Mpi {
    /// Joins the job.
    pub(super) fn start() -> Result<Self, CollectiveError> {
        let (universe, threading) =
            initialize_with_threading(Threading::Serialized).expect("MPI is started once in a process");
        if threading < Threading::Serialized {
            return Err(CollectiveError::Threading { found: format!("{threading:?}") });
        }
        let world = universe.world();
        let [rank, size] = [world.rank(), world.size()].map(|n| usize::try_from(n).expect("MPI counts from 0"));
        Ok(Self { rank, size, buffers: Mutex::default(), _universe: universe })
    }

    /// Calls MPI while nobody else does.
    fn call(&self, work: impl FnOnce(&SimpleCommunicator, &mut Buffers)) {
        let mut buffers = self.buffers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        work(&SimpleCommunicator::world(), &mut buffers);
    }
}

fn sum<T: Equivalence + Copy + Default>(world: &SimpleCommunicator, buffer: &mut Vec<T>, values: &mut [T]) {
    buffer.resize(values.len().max(buffer.len()), T::default());
    let sums = &mut buffer[..values.len()];
    world.all_reduce_into(&*values, sums, SystemOperation::sum());
    values.copy_from_slice(sums);
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum_f32(&self, values: &mut [f32]) {
        self.call(|world, buffers| sum(world, &mut buffers.singles, values));
    }

    fn sum_f64(&self, values: &mut [f64]) {
        self.call(|world, buffers| sum(world, &mut buffers.doubles, values));
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        self.call(|world, _| world.process_at_rank(0).broadcast_into(bytes));
    }

    fn abort(&self, code: u8) -> ! {
        SimpleCommunicator::world().abort(code.into())
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Ending MPI waits for the other processes, which wait for this one.
        if std::thread::panicking() {
            self.abort(1);
        }
    }
}
