//! How an engine is to run.

use sr2_kernels::Isa;

use crate::Error;

/// How an engine is to run; [`Options::default`] is one thread, one image, the CPU's best kernels.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of threads, the caller's included.
    pub threads: usize,
    /// Images that one run usually takes; decides the layout. Runs of any other size work too.
    pub batch: usize,
    /// Tier of the kernels; `None` is the one `SR2_ISA` names, or else the best.
    pub isa: Option<Isa>,
    /// Which layers store and compute only non-zeros.
    pub weights: WeightPolicy,
}

/// Which layers store and compute only their non-zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightPolicy {
    /// Each layer as the cost model finds it faster.
    Auto,
    /// All.
    Sparse,
    /// None.
    Dense,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 1, batch: 1, isa: None, weights: WeightPolicy::Auto }
    }
}

/// More threads than this are taken for a mistake.
const MAX_THREADS: usize = 1024;

impl Options {
    pub(crate) fn check(&self) -> Result<Isa, Error> {
        let error = |option, found, expected| Err(Error::Option { option, found, expected });
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return error("threads", self.threads, "1 to 1024");
        }
        if self.batch == 0 {
            return error("batch", self.batch, "1 or more");
        }
        self.isa.map_or_else(|| Ok(Isa::from_env()?), Ok)
    }
}
