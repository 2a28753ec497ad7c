//! Processes that train one network together: one of them speaks, and where one fails all end.

use std::sync::Arc;

use sr2_train::TrainError;
use sr2_train::collective::{Collective, CollectiveError, started_together};

use crate::exit::{SaidElsewhere, Stopped, number};
use crate::output::say;

/// Calls `work` with the processes that this one was started with; the result of process 0, there.
///
/// Where one fails it says why and ends all. Where all do, one says it.
pub fn together<T>(work: impl FnOnce(&Arc<dyn Collective>) -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    let team = match started_together() {
        Err(CollectiveError::NoMpi { rank: 1.., .. }) => return Err(SaidElsewhere { code: 2 }.into()),
        team => team?,
    };
    let (rank, size) = (team.rank(), team.size());
    match work(&team) {
        Ok(result) => Ok((rank == 0).then_some(result)),
        Err(error) if size == 1 => Err(error),
        Err(error) => {
            let code = number(&error);
            if matches!(error.downcast_ref(), Some(TrainError::Elsewhere { .. })) {
                // Leaving waits for the others, and the one that failed ends all.
                return Err(SaidElsewhere { code }.into());
            }
            if error.is::<Stopped>() {
                return Err(if rank == 0 { error } else { SaidElsewhere { code }.into() });
            }
            let place = if rank == 0 { String::new() } else { format!("process {rank} of {size}: ") };
            say(format!("error: {place}{error:#}"));
            team.abort(code)
        }
    }
}
