//! Values on their way to the device, and results on theirs to the host. All copies are made here, and the host waits for
//! the device in [`download`] alone.

use candle_core::{Device, Result, Shape, Tensor, WithDType};

/// `values` in a tensor of `shape`.
pub(super) fn upload<T: WithDType>(values: &[T], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    #[cfg(test)]
    watch::count()?;
    Tensor::from_slice(values, shape.into(), device)
}

/// The values of a tensor of that type, row-major.
pub(super) fn download<T: WithDType>(tensor: &Tensor) -> Result<Vec<T>> {
    #[cfg(test)]
    watch::count()?;
    tensor.flatten_all()?.to_vec1()
}

/// Lets tests fail a copy of their thread.
#[cfg(test)]
pub(crate) mod watch {
    use std::cell::Cell;

    thread_local! {
        /// Copies until one fails.
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// What a device without memory says.
    pub(crate) const PROBLEM: &str = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";

    /// Lets every copy fail after the next `copies`; with `None`, none any more.
    pub(crate) fn fail_after(copies: Option<usize>) {
        LEFT.set(copies);
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
