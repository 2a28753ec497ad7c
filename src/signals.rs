//! Ctrl-C and SIGTERM: what runs is told to stop, and saves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::Stopped;

/// Set by the first signal; a second one ends the program at once.
pub struct Signals {
    stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Signals {
    /// From now on signals only set the flag.
    pub fn watch() -> std::io::Result<Self> {
        let (stop, signal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for number in [SIGINT, SIGTERM] {
            // A second signal does not wait for the checkpoint.
            flag::register_conditional_shutdown(number, 128 + number, stop.clone())?;
            flag::register_usize(number, signal.clone(), number as usize)?;
            flag::register(number, stop.clone())?;
        }
        Ok(Self { stop, signal })
    }

    /// The flag.
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// What to say after a stop; `resume` is the command that goes on.
    pub fn stopped(&self, resume: String) -> Stopped {
        let (signal, name) = match self.signal.load(Ordering::Relaxed) as i32 {
            SIGINT => (SIGINT, "Ctrl-C"),
            // No signal of this process's own: another process of the job got it.
            _ => (SIGTERM, "SIGTERM"),
        };
        Stopped { signal: signal as u8, name, resume }
    }
}
