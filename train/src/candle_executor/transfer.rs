//! Values on their way to the device, and results on theirs to the host. All copies are made here, and the host waits for
//! the device in [`download`] alone.

use candle_core::{DType, Device, Result, Shape, Tensor, WithDType};

/// `values` in a tensor of `shape`.
pub(super) fn upload<T: WithDType>(values: &[T], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    #[cfg(test)]
    watch::count()?;
    Tensor::from_slice(values, shape.into(), device)
}

/// The values of a tensor of that type, row-major.
pub(super) fn download<T: WithDType>(tensor: &Tensor) -> Result<Vec<T>> {
    #[cfg(test)]
    watch::wait()?;
    tensor.flatten_all()?.to_vec1()
}

/// The values of each tensor in f64, all in one copy.
pub(super) fn download_all(tensors: &[&Tensor]) -> Result<Vec<Vec<f64>>> {
    let flat = |tensor: &&Tensor| tensor.flatten_all()?.to_dtype(DType::F64);
    let together = Tensor::cat(&tensors.iter().map(flat).collect::<Result<Vec<Tensor>>>()?, 0)?;
    let mut all: Vec<f64> = download(&together)?;
    let parts = tensors.iter().map(|tensor| {
        let rest = all.split_off(tensor.elem_count());
        std::mem::replace(&mut all, rest)
    });
    Ok(parts.collect())
}

/// Lets tests count and fail the copies of their thread.
#[cfg(test)]
pub(crate) mod watch {
    use std::cell::Cell;

    thread_local! {
        /// Copies until one fails.
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        static WAITS: Cell<usize> = const { Cell::new(0) };
    }

    /// What a device without memory says.
    pub(crate) const PROBLEM: &str = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";

    /// Lets every copy fail after the next `copies`; with `None`, none any more.
    pub(crate) fn fail_after(copies: Option<usize>) {
        LEFT.set(copies);
    }

    /// How often the host has waited for the device.
    pub(crate) fn waits() -> usize {
        WAITS.get()
    }

    pub(super) fn wait() -> candle_core::Result<()> {
        WAITS.set(WAITS.get() + 1);
        count()
    }

    pub(super) fn count() -> candle_core::Result<()> {
        let left = LEFT.get();
        if left == Some(0) {
            candle_core::bail!("{PROBLEM}");
        }
        LEFT.set(left.map(|left| left - 1));
        Ok(())
    }
}
