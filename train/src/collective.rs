//! Processes that train one network together, each on its part of every batch: what they tell one another.
//!
//! Every process makes the same calls in the same order, with slices of the same length, and takes every decision from what
//! all of them have summed; so all hold the same parameters. A process that ends takes the others with it.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::train_error::TrainError;

#[cfg(feature = "mpi")]
mod mpi;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod threads;

/// What a group of processes can do together. Calls come from any thread of a process, one at a time.
pub trait Collective: Debug + Send + Sync {
    /// Number of this process, from 0; process 0 alone writes files and reports.
    fn rank(&self) -> usize;

    /// How many there are, at least 1.
    fn size(&self) -> usize;

    /// Replaces each value by its sum over all processes, the same bits in each.
    fn sum_f32(&self, values: &mut [f32]);

    /// Replaces each value by its sum over all processes, the same bits in each.
    fn sum_f64(&self, values: &mut [f64]);

    /// Replaces the bytes by those of process 0.
    fn broadcast(&self, bytes: &mut [u8]);

    /// Ends all processes, this one with `code`.
    fn abort(&self, code: u8) -> !;
}

/// A process that trains alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum_f32(&self, _: &mut [f32]) {}

    fn sum_f64(&self, _: &mut [f64]) {}

    fn broadcast(&self, _: &mut [u8]) {}

    fn abort(&self, code: u8) -> ! {
        std::process::exit(code.into())
    }
}

/// Processes cannot work together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Started as several processes, in a program that cannot talk to the others.
    #[error(
        "started as {processes} processes by MPI, but this program was built without the feature `mpi`; \
         build with --features mpi, or start one process"
    )]
    NoMpi {
        /// How many there are.
        processes: usize,
        /// Number of this one.
        rank: usize,
    },
    /// The MPI library lets only one thread call it.
    #[error("this MPI library gives {found} for threads, expected MPI_THREAD_SERIALIZED")]
    Threading {
        /// What it gives.
        found: String,
    },
}

/// Variables by which MPI's starters tell a process how many there are, and which it is: of Open MPI, and of PMI-1 (MPICH,
/// Slurm).
const STARTERS: [[&str; 2]; 2] = [["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"], ["PMI_SIZE", "PMI_RANK"]];

/// The processes that this one was started with by `mpirun` or `srun`, or just this one.
///
/// Called once in a process. The value must be dropped by the thread that made it.
///
/// # Errors
/// [`CollectiveError`].
pub fn started_together() -> Result<Arc<dyn Collective>, CollectiveError> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let found = STARTERS.into_iter().find_map(|[size, rank]| Some((number(size)?, number(rank)?)));
    #[cfg(feature = "mpi")]
    if found.is_some() || std::env::var_os("PMIX_RANK").is_some() {
        return Ok(Arc::new(mpi::Mpi::start()?));
    }
    match found {
        Some((processes, rank)) if processes > 1 && !cfg!(feature = "mpi") => {
            Err(CollectiveError::NoMpi { processes, rank })
        }
        _ => Ok(Arc::new(Alone)),
    }
}

/// This process's part of `len` things that all processes share out; each gets as many, but for one.
pub fn part(team: &dyn Collective, len: usize) -> Range<usize> {
    team.rank() * len / team.size()..(team.rank() + 1) * len / team.size()
}

/// Whether `flag` is set in any process.
pub(crate) fn any(team: &dyn Collective, flag: bool) -> bool {
    let mut count = [f64::from(u8::from(flag))];
    team.sum_f64(&mut count);
    count[0] > 0.0
}

/// Process 0's text, in every process.
pub(crate) fn shared_text(team: &dyn Collective, text: &str) -> String {
    let mut len = (text.len() as u64).to_le_bytes();
    team.broadcast(&mut len);
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(u64::from_le_bytes(len) as usize, 0);
    team.broadcast(&mut bytes);
    String::from_utf8(bytes).expect("process 0 sends text")
}

/// The result if all processes succeeded; else the error of the first that failed, there, and [`TrainError::Elsewhere`] in
/// the others.
///
/// # Errors
/// As told.
pub fn agree<T>(team: &dyn Collective, result: Result<T, TrainError>) -> Result<T, TrainError> {
    let mut codes = vec![0.0; team.size()];
    codes[team.rank()] = result.as_ref().err().map_or(0.0, |error| error.exit_code().into());
    team.sum_f64(&mut codes);
    match codes.iter().position(|code| *code != 0.0) {
        Some(first) if first != team.rank() => Err(TrainError::Elsewhere { process: first, code: codes[first] as u8 }),
        _ => result,
    }
}
