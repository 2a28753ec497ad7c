//! What a training step does to whole vectors, in a pass over them each.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig};
use candle_core::{CudaDevice, DType, Device, Result, Tensor, bail};

mod model;

pub use model::{Lambda, Model, Penalty};

use crate::launch::{int, launch, tensor, uninitialised, view};

/// Values in a row of a vector.
pub const ROW: usize = 1024;
/// Threads that share a row.
const THREADS: u32 = 256;
/// Gradients that one kernel takes.
const MOST_GRADIENTS: usize = 256;

/// A parameter of the network, as a part of the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Number of values.
    pub values: usize,
    /// Whether its zeros are pruned weights.
    pub prunable: bool,
    /// Whether it is under the penalty.
    pub penalised: bool,
    /// Number of channels, where those without weights are held empty and steep ones stay; they are of equal length.
    pub channels: Option<usize>,
}

/// Vectors `[rows, ROW]` in f32, contiguous: each parameter begins a row, and zeros fill up its last one.
#[derive(Debug)]
pub struct Vectors {
    device: CudaDevice,
    /// For each parameter its first row, and the end.
    first_rows: Vec<usize>,
    /// For each parameter the number of its values.
    values: Vec<usize>,
    /// For each row its parameter's number.
    owner: CudaSlice<i32>,
    /// For each parameter first row, end, values, whether prunable, whether penalised.
    parameters: CudaSlice<i32>,
    /// Start and length of these channels.
    channels: CudaSlice<i32>,
    channel_count: usize,
}

/// What a prunable weight that is zero does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// It moves as the others.
    Move,
    /// It stays.
    Stay,
    /// It follows the average of earlier gradients.
    Coast,
}

/// What does not move in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Still {
    /// Prunable zeros.
    pub zeros: Zeros,
    /// Whether channels stay empty, in the parameters whose channels are.
    pub empty_channels: bool,
}

/// Addresses as the kernel takes them.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gradients([u64; MOST_GRADIENTS]);

// SAFETY: as many pointers as the kernels' struct has.
unsafe impl DeviceRepr for Gradients {}

impl Vectors {
    /// Vectors of these parameters.
    ///
    /// # Errors
    /// Not a CUDA device, it fails, or channels do not share a parameter equally.
    pub fn new(sizes: &[Parameter], device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let (mut first_rows, mut owner, mut table, mut channels) = (vec![0], Vec::new(), Vec::new(), Vec::new());
        for (number, parameter) in sizes.iter().enumerate() {
            let (first, values) = (owner.len(), parameter.values);
            owner.resize(first + values.div_ceil(ROW), int(number)?);
            let flags = [parameter.prunable, parameter.penalised].map(i32::from);
            table.extend([int(first)?, int(owner.len())?, int(values)?, flags[0], flags[1]]);
            first_rows.push(owner.len());
            let Some(count) = parameter.channels else { continue };
            if count == 0 || !values.is_multiple_of(count) {
                bail!("{values} values in {count} channels");
            }
            let length = values / count;
            for channel in 0..count {
                channels.extend([int(first * ROW + channel * length)?, int(length)?]);
            }
        }
        int(owner.len() * ROW)?;
        let channel_count = channels.len() / 2;
        // An empty allocation is none.
        channels.resize(channels.len().max(2), 0);
        let [owner, parameters, channels] = [owner, table, channels].map(|values| device.clone_htod(&values));
        let (owner, parameters, channels) = (owner?, parameters?, channels?);
        let values = sizes.iter().map(|parameter| parameter.values).collect();
        Ok(Self { device, first_rows, values, owner, parameters, channels, channel_count })
    }

    fn rows(&self) -> usize {
        self.first_rows[self.first_rows.len() - 1]
    }

    /// A block a row.
    fn by_row(&self) -> LaunchConfig {
        blocks(self.rows())
    }

    fn uninitialised(&self) -> Result<CudaSlice<f32>> {
        uninitialised(&self.device, self.rows() * ROW)
    }

    fn tensor(&self, values: CudaSlice<f32>) -> Tensor {
        tensor(values, (self.rows(), ROW), &self.device)
    }

    /// The address of such a vector for a kernel, which is launched while the tensor is there.
    fn address(&self, vector: &Tensor) -> Result<u64> {
        if vector.dtype() != DType::F32 || vector.dims() != [self.rows(), ROW] {
            bail!("a vector {:?} {:?}, expected f32 [{}, {ROW}]", vector.dtype(), vector.dims(), self.rows());
        }
        if !vector.layout().start_offset().is_multiple_of(4) {
            bail!("a vector that does not begin at a multiple of four values");
        }
        self.address_of_any(vector)
    }

    fn address_or_none(&self, vector: Option<&Tensor>) -> Result<u64> {
        vector.map_or(Ok(0), |vector| self.address(vector))
    }

    fn address_of_any(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        Ok(view::<f32>(&storage, layout)?.device_ptr(&self.device.cuda_stream()).0)
    }

    /// The vector of the parameters' gradients at `x`, zeros where one is missing, plus `mu x` in prunable weights, of which
    /// zeros have none if `frozen`. Then zeros in channels whose squares add up to more than `steepest`.
    ///
    /// # Errors
    /// Gradients that are not one a parameter, not f32 or of another size, or the device fails.
    pub fn gather(
        &self,
        gradients: &[Option<Tensor>],
        x: &Tensor,
        mu: f32,
        frozen: bool,
        steepest: Option<f64>,
    ) -> Result<Tensor> {
        let places = self.first_rows.windows(2);
        if gradients.len() != places.len() {
            bail!("{} gradients of {} parameters", gradients.len(), places.len());
        }
        let mut result = self.uninitialised()?;
        let (x, frozen) = (self.address(x)?, i32::from(frozen));
        for (i, some) in gradients.chunks(MOST_GRADIENTS).enumerate() {
            let first = i * MOST_GRADIENTS;
            let contiguous: Vec<Option<Tensor>> =
                some.iter().map(|g| g.as_ref().map(Tensor::contiguous).transpose()).collect::<Result<_>>()?;
            let mut addresses = Gradients([0; MOST_GRADIENTS]);
            for (k, gradient) in contiguous.iter().enumerate() {
                let Some(gradient) = gradient else { continue };
                let values = self.values[first + k];
                if gradient.elem_count() != values {
                    bail!("a gradient {:?} of {values} values", gradient.dims());
                }
                addresses.0[k] = self.address_of_any(gradient)?;
            }
            let (start, end) = (self.first_rows[first], self.first_rows[first + some.len()]);
            let (first, first_row) = (int(first)?, int(start)?);
            let Self { device, owner, parameters, .. } = self;
            let grid = blocks(end - start);
            launch!(
                device,
                "gather",
                grid,
                &addresses,
                &first,
                &first_row,
                owner,
                parameters,
                &x,
                &mu,
                &frozen,
                &mut result
            );
        }
        let Self { device, channels, .. } = self;
        if let Some(steepest) = steepest.filter(|_| self.channel_count > 0) {
            launch!(device, "hold_steep", blocks(self.channel_count), channels, &mut result, &steepest);
        }
        Ok(self.tensor(result))
    }

    /// One step of schedule-free averaging from the point `y`, its gradient `g` and the sequences `z` and `x`:
    /// `z' = z - g / sigma`, `x' = x + c (z' - x)`, and the direction `v = sigma (y - z' - beta (x' - z'))`; in f64, rounded
    /// once. Gives `[v, z', x']`.
    ///
    /// # Errors
    /// No such vectors, zeros that are to coast, or the device fails.
    pub fn advance(&self, vectors: [&Tensor; 4], [sigma, c, beta]: [f64; 3], still: Still) -> Result<[Tensor; 3]> {
        if still.zeros == Zeros::Coast {
            bail!("schedule-free averaging has no average of gradients");
        }
        let Self { device, owner, parameters, .. } = self;
        let [y, g, z, x] = self.addresses(vectors)?;
        let (mut v, mut next_z, mut next_x) = (self.uninitialised()?, self.uninitialised()?, self.uninitialised()?);
        let (grid, stay) = (self.by_row(), still.zeros as i32);
        let (direction, iterate, average) = (&mut v, &mut next_z, &mut next_x);
        launch!(
            device, "advance", grid, owner, parameters, &y, &g, &z, &x, direction, iterate, average, &sigma, &c, &beta,
            &stay
        );
        if still.empty_channels {
            self.hold_empty(y, &mut v)?;
        }
        Ok([v, next_z, next_x].map(|vector| self.tensor(vector)))
    }

    /// The average `(1 - w) m + w g` of the gradients `g`, `w g` without an `m`, with [`Zeros`] where `x` has some. With
    /// `ahead`, a beta, also the direction `beta average + (1 - beta) g`; without, the average is the direction, whose empty
    /// channels are held.
    ///
    /// # Errors
    /// No such vectors, zeros that are to coast without an `m`, or the device fails.
    pub fn average_gradient(
        &self,
        [x, g]: [&Tensor; 2],
        m: Option<&Tensor>,
        w: f32,
        ahead: Option<f32>,
        still: Still,
    ) -> Result<(Tensor, Option<Tensor>)> {
        if m.is_none() && still.zeros == Zeros::Coast {
            bail!("no average to follow");
        }
        let Self { device, owner, parameters, .. } = self;
        let ([x, g], m) = (self.addresses([x, g])?, self.address_or_none(m)?);
        let mut average = self.uninitialised()?;
        let mut direction = ahead.map(|_| self.uninitialised()).transpose()?;
        let ahead_at = direction.as_mut().map_or(0, |to| to.device_ptr_mut(&device.cuda_stream()).0);
        let (zeros, beta, grid, to) = (still.zeros as i32, ahead.unwrap_or(0.0), self.by_row(), &mut average);
        launch!(device, "average_gradient", grid, owner, parameters, &x, &g, &m, to, &ahead_at, &w, &zeros, &beta);
        if still.empty_channels {
            self.hold_empty(x, direction.as_mut().unwrap_or(&mut average))?;
        }
        Ok((self.tensor(average), direction.map(|direction| self.tensor(direction))))
    }

    /// The mean square `r' = r + w (g^2 - r)` of the gradients `g`, from 0 without an `r`, and the diagonal
    /// `sqrt(r') + delta`.
    ///
    /// # Errors
    /// No such vectors, or the device fails.
    pub fn average_square(&self, g: &Tensor, r: Option<&Tensor>, w: f32, delta: f32) -> Result<[Tensor; 2]> {
        let (device, grid) = (&self.device, self.by_row());
        let (g, r) = (self.address(g)?, self.address_or_none(r)?);
        let (mut next, mut diagonal) = (self.uninitialised()?, self.uninitialised()?);
        launch!(device, "average_square", grid, &g, &r, &mut next, &mut diagonal, &w, &delta);
        Ok([next, diagonal].map(|vector| self.tensor(vector)))
    }

    /// Leaves channels without weights where they are.
    fn hold_empty(&self, x: u64, direction: &mut CudaSlice<f32>) -> Result<()> {
        let Self { device, channels, .. } = self;
        if self.channel_count > 0 {
            launch!(device, "hold_empty", blocks(self.channel_count), channels, &x, direction);
        }
        Ok(())
    }

    /// The sequences `z` and `x` of schedule-free averaging after a step from `old` to `next`: prunable weights that it
    /// took away or brought back begin anew, all three alike. Gives both.
    ///
    /// # Errors
    /// No such vectors, or the device fails.
    pub fn follow(&self, vectors: [&Tensor; 4]) -> Result<[Tensor; 2]> {
        let Self { device, owner, parameters, .. } = self;
        let [old, next, z, x] = self.addresses(vectors)?;
        let (mut next_z, mut next_x, grid) = (self.uninitialised()?, self.uninitialised()?, self.by_row());
        launch!(device, "follow", grid, owner, parameters, &old, &next, &z, &x, &mut next_z, &mut next_x);
        Ok([next_z, next_x].map(|vector| self.tensor(vector)))
    }

    /// `x` with its prunable weights times `kept`.
    ///
    /// # Errors
    /// No such vector, or the device fails.
    pub fn decay(&self, x: &Tensor, kept: f32) -> Result<Tensor> {
        let Self { device, owner, parameters, .. } = self;
        let (x, mut result, grid) = (self.address(x)?, self.uninitialised()?, self.by_row());
        launch!(device, "decay", grid, owner, parameters, &x, &mut result, &kept);
        Ok(self.tensor(result))
    }

    /// `average + w (x - average)`, from 0 without an average.
    ///
    /// # Errors
    /// No such vectors, or the device fails.
    pub fn average_point(&self, x: &Tensor, average: Option<&Tensor>, w: f32) -> Result<Tensor> {
        let (device, grid) = (&self.device, self.by_row());
        let (x, average, mut result) = (self.address(x)?, self.address_or_none(average)?, self.uninitialised()?);
        launch!(device, "average_point", grid, &x, &average, &mut result, &w);
        Ok(self.tensor(result))
    }

    fn addresses<const N: usize>(&self, vectors: [&Tensor; N]) -> Result<[u64; N]> {
        let mut addresses = [0; N];
        for (address, vector) in addresses.iter_mut().zip(vectors) {
            *address = self.address(vector)?;
        }
        Ok(addresses)
    }
}

fn blocks(count: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (count as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}
