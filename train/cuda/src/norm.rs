//! Batch norm with an activation behind it, by kernels.

use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
use candle_core::{Result, Tensor};

use crate::launch::{Element, by_element, device, int, launch, pack, tensor, uninitialised, views};
use crate::operators::{BatchNorm, Clamp, NormGradient, rows_and_channels};

/// Threads of a block.
const THREADS: usize = 256;

/// Blocks that fill a device.
const BLOCKS: usize = 528;

/// How the threads share `[rows, channels]`.
struct Grid {
    launch: LaunchConfig,
    /// Blocks that share the rows of a channel.
    parts: usize,
}

impl Grid {
    fn new(rows: usize, channels: usize, lanes: usize) -> Self {
        let across = (channels / lanes).clamp(1, 32);
        let mut down = 1;
        while 2 * down * across <= THREADS {
            down *= 2;
        }
        let groups = channels.div_ceil(across * lanes);
        let parts = (BLOCKS / groups).clamp(1, rows.div_ceil(2 * down));
        let (grid_dim, block_dim) = ((groups as u32, parts as u32, 1), (across as u32, down as u32, 1));
        Self { launch: LaunchConfig { grid_dim, block_dim, shared_mem_bytes: 0 }, parts }
    }

    /// Of a kernel that adds up the parts.
    fn end(channels: usize) -> LaunchConfig {
        LaunchConfig { grid_dim: (channels.div_ceil(32) as u32, 1, 1), block_dim: (32, 8, 1), shared_mem_bytes: 0 }
    }
}

pub(crate) fn moments(x: &Tensor) -> Result<Tensor> {
    by_element!(x, moments_of(x))
}

fn moments_of<T: Element>(x: &Tensor) -> Result<Tensor> {
    let (device, (rows, channels)) = (&device(x)?, rows_and_channels(x)?);
    let lanes = pack::<T>(channels, &[x]);
    let grid = Grid::new(rows, channels, lanes);
    let mut partial = uninitialised::<f32>(device, 2 * grid.parts * channels)?;
    let mut result = uninitialised::<f32>(device, 2 * channels)?;
    views!(T: x);
    let (rows, channels_int, parts) = (int(rows)?, int(channels)?, int(grid.parts)?);
    launch!(device, &format!("moments_{}_{lanes}", T::NAME), grid.launch, x, &mut partial, &rows, &channels_int);
    let name = format!("moments_end_{}", T::NAME);
    launch!(device, &name, Grid::end(channels), x, &partial, &mut result, &parts, &rows, &channels_int);
    Ok(tensor(result, (2, channels), device))
}

pub(crate) fn normalise(norm: &BatchNorm, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    by_element!(x, normalised(norm, x, shift))
}

fn normalised<T: Element>(norm: &BatchNorm, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let BatchNorm { moments, scale, epsilon, clamp: Clamp { low, high } } = norm;
    let (device, shape, (rows, channels)) = (&device(x)?, x.shape(), rows_and_channels(x)?);
    let lanes = pack::<T>(channels, &[x]);
    let grid = Grid::new(rows, channels, lanes);
    let mut y = uninitialised::<T>(device, rows * channels)?;
    views!(T: x);
    views!(f32: moments, scale, shift);
    let (name, rows, channels) = (format!("normalise_{}_{lanes}", T::NAME), int(rows)?, int(channels)?);
    launch!(device, &name, grid.launch, x, moments, scale, shift, &mut y, &rows, &channels, epsilon, low, high);
    Ok(tensor(y, shape, device))
}

pub(crate) fn running_statistics(
    [mean, var]: [&Tensor; 2],
    moments: &Tensor,
    unbias: f32,
    momentum: f32,
) -> Result<[Tensor; 2]> {
    let (device, channels) = (&device(mean)?, mean.dims1()?);
    let mut result = uninitialised::<f32>(device, 2 * channels)?;
    views!(f32: mean, var, moments);
    let (width, blocks) = (int(channels)?, LaunchConfig::for_num_elems(channels as u32));
    launch!(device, "running_statistics", blocks, mean, var, moments, &mut result, &width, &unbias, &momentum);
    let both = tensor(result, (2, channels), device);
    Ok([both.get(0)?, both.get(1)?])
}

pub(crate) fn gradient(norm: &BatchNorm, tensors: [&Tensor; 3]) -> Result<NormGradient> {
    by_element!(tensors[0], gradient_of(norm, tensors))
}

fn gradient_of<T: Element>(norm: &BatchNorm, [x, y, g]: [&Tensor; 3]) -> Result<NormGradient> {
    let BatchNorm { moments, scale, epsilon, clamp: Clamp { low, high } } = norm;
    let (device, shape, (rows, channels)) = (&device(x)?, x.shape(), rows_and_channels(x)?);
    let lanes = pack::<T>(channels, &[x, y, g]);
    let grid = Grid::new(rows, channels, lanes);
    let mut partial = uninitialised::<f32>(device, 2 * grid.parts * channels)?;
    let mut sums = uninitialised::<f32>(device, 2 * channels)?;
    let mut dx = uninitialised::<T>(device, rows * channels)?;
    views!(T: x, y, g);
    views!(f32: moments, scale);
    let (rows, parts) = (int(rows)?, int(grid.parts)?);
    let end = Grid::end(channels);
    let width = int(channels)?;
    let name = format!("norm_gradient_{}_{lanes}", T::NAME);
    launch!(device, &name, grid.launch, x, y, g, moments, &mut partial, &rows, &width, low, high);
    launch!(device, "norm_gradient_end", end, &partial, moments, &mut sums, &parts, &width, epsilon);
    let name = format!("norm_input_gradient_{}_{lanes}", T::NAME);
    launch!(device, &name, grid.launch, x, y, g, moments, scale, &sums, &mut dx, &rows, &width, epsilon, low, high);
    let sums = tensor(sums, (2, channels), device);
    Ok(NormGradient { x: tensor(dx, shape, device), shift: sums.get(0)?, scale: sums.get(1)? })
}
