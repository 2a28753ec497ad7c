//! How an engine is to run.

use sr2_kernels::Isa;

use crate::Error;

/// How an engine is to run; [`Options::default`] is one thread, one image, the CPU's best kernels.
///
/// For the least latency of one image, leave `batch` at 1 and give it `threads`, which then share each layer, while the
/// clock says that it is faster than one thread alone. For throughput, give it a `batch` of `threads` times
/// [`Isa::lanes`] or more: each thread then takes images of its own through the whole network, and none waits for
/// another.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of threads, the caller's included; at most [`MAX_THREADS`].
    pub threads: usize,
    /// Whether a thread that waits for the others spins for some tens of microseconds before it sleeps. Turn it off
    /// where threads have no CPU to themselves.
    pub spin: bool,
    /// Whether each thread but the caller's stays on a CPU of its own: thread `k` on the `k`-th that the caller's may
    /// use. Linux only.
    pub pin: bool,
    /// Images that one run usually takes, at most [`MAX_BATCH`]; decides the layout. Runs of any other size work too.
    pub batch: usize,
    /// Tier of the kernels; `None` is the one `SR2_ISA` names, or else the best.
    pub isa: Option<Isa>,
    /// Which layers store and compute only non-zeros.
    pub weights: WeightPolicy,
    /// Which layers take a vector of images at a time.
    pub layout: Layout,
}

/// How many images a layer takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One up to some layer, as many as a vector holds from there on, as the cost model finds it faster; always one
    /// where a batch does not fill a vector.
    Auto,
    /// Always one: a vector holds neighbouring positions of an image.
    OneImage,
    /// Always as many as a vector holds: side by side, each in a lane of its own.
    Images,
}

/// Which layers store and compute only their non-zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightPolicy {
    /// Each layer as the cost model finds it faster.
    Auto,
    /// All.
    Sparse,
    /// Those with a zero among their weights.
    WithZeros,
    /// None.
    Dense,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 1,
            spin: true,
            pin: false,
            batch: 1,
            isa: None,
            weights: WeightPolicy::Auto,
            layout: Layout::Auto,
        }
    }
}

/// More threads than this are taken for a mistake.
pub const MAX_THREADS: usize = 1024;

/// A larger batch than this is taken for a mistake.
pub const MAX_BATCH: usize = 4096;

impl Options {
    pub(crate) fn check(&self) -> Result<Isa, Error> {
        let error = |option, found, expected| Err(Error::Option { option, found, expected });
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return error("threads", self.threads, "1 to 1024");
        }
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return error("batch", self.batch, "1 to 4096");
        }
        self.isa.map_or_else(|| Ok(Isa::from_env()?), Ok)
    }
}
