//! The proximal model of a step.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtrMut};
use candle_core::{DType, Result, Tensor};

use super::{Vectors, blocks};
use crate::launch::{int, launch, tensor, uninitialised, views};
use crate::operators::expect;

/// Most blocks that share the rows in a search; each has a table of its own.
const SEARCHING: usize = 528;
/// Values of the bits that a pass of a search looks at.
const BINS: usize = 1 << 13;
/// The lowest of these bits in each pass.
const SHIFTS: [i32; 5] = [50, 37, 24, 11, 0];
/// Passes that leave many values; the next one usually leaves one alone.
const FAR_PASSES: usize = 2;
/// The bits of numbers above 0, the sign's left out.
const BITS: i32 = 63;

/// Sums of [`Model::attempt`].
const SUMS: usize = 7;

/// The penalty of single weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Penalty {
    /// 1 for a weight that is not zero.
    L0,
    /// Its absolute value.
    L1,
    /// That of a ball of l0: no value, and what goes is what goes under l0.
    L0Ball,
}

/// The weight of the penalty, f64 on the device.
#[derive(Debug, Clone, Copy)]
pub enum Lambda<'a> {
    /// Of each parameter, `[parameters]`; those of parameters that are not penalised are not read.
    Own(&'a Tensor),
    /// The first value of all, for all that are penalised.
    Common(&'a Tensor),
}

/// The model `v's + s'ds/2 + lambda h(x + s)` of a step `s`: its prox is applied to `z = x - v / d`. All is computed in f64.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    /// What the vectors are.
    pub vectors: &'a Vectors,
    /// The point.
    pub x: &'a Tensor,
    /// The direction.
    pub v: &'a Tensor,
    /// The metric `d`, or with a diagonal `D` its scale: `d = sigma D`.
    pub sigma: f64,
    /// `D`.
    pub diagonal: Option<&'a Tensor>,
    /// `h`.
    pub penalty: Penalty,
}

impl Model<'_> {
    /// The trial point, rounded to f32: 0 where the critical lambda `d z^2 / 2`, under l1 `d |z|`, is not above the
    /// parameter's lambda; else `z`, under l1 `z - sign(z) lambda / d`; `z` in parameters that are not penalised.
    ///
    /// And `[7, parameters]` in f64, for the step `s` that it is from `x`, with the gradient `g`: `v's`, `g's`, `s'ds`,
    /// most that rounding changes `v's` by, weights that are not zero, `h(x) - h(x + s)` and `h(x + s)`.
    ///
    /// # Errors
    /// No such vectors, lambdas that are not f64 or not one a parameter, or the device fails.
    pub fn attempt(&self, g: &Tensor, lambda: Lambda) -> Result<(Tensor, Tensor)> {
        let Self { vectors, sigma, .. } = self;
        let (x, v, diagonal, penalty) = self.arguments()?;
        let (g, mut trial) = (vectors.address(g)?, vectors.uninitialised()?);
        let (lambdas, common) = match lambda {
            Lambda::Own(lambdas) => {
                expect("lambdas", lambdas, DType::F64, &[vectors.values.len()])?;
                (lambdas.clone(), 0)
            }
            Lambda::Common(lambda) => (lambda.flatten_all()?.narrow(0, 0, 1)?, 1),
        };
        let Vectors { device, owner, parameters, .. } = vectors;
        let (mut partial, grid) = (uninitialised::<f64>(device, vectors.rows() * SUMS)?, vectors.by_row());
        views!(f64: lambdas);
        launch!(
            device,
            "attempt",
            grid,
            owner,
            parameters,
            &x,
            &v,
            &g,
            &diagonal,
            sigma,
            &penalty,
            lambdas,
            &common,
            &mut trial,
            &mut partial
        );
        Ok((vectors.tensor(trial), self.add_rows("add_rows_of_sums", &partial, SUMS)?))
    }

    /// How many weights of each parameter have a critical lambda above `lambda`, `[1, parameters]` in f64.
    ///
    /// # Errors
    /// No such vectors, or the device fails.
    pub fn count_above(&self, lambda: f64) -> Result<Tensor> {
        let Self { vectors, sigma, .. } = self;
        let (x, v, diagonal, penalty) = self.arguments()?;
        let (device, grid) = (&vectors.device, vectors.by_row());
        let mut partial = uninitialised::<f64>(device, vectors.rows())?;
        launch!(device, "count_above", grid, &x, &v, &diagonal, sigma, &penalty, &lambda, &mut partial);
        self.add_rows("add_rows_of_counts", &partial, 1)
    }

    /// `[4, 1]` in f64: the `left + 1`-th largest critical lambda of the parameters that are 1 in `chosen`,
    /// `[parameters]` in u32, how many are above it, and not below it, and a value of no meaning. Zeros and NaN do not count;
    /// where not more than `left` do, it is 0, and the numbers say nothing.
    ///
    /// # Errors
    /// No such vectors or choice, or the device fails.
    pub fn largest_to_go(&self, chosen: &Tensor, left: usize) -> Result<Tensor> {
        let Self { vectors, sigma, .. } = self;
        expect("chosen parameters", chosen, DType::U32, &[vectors.values.len()])?;
        let (x, v, diagonal, penalty) = self.arguments()?;
        let Vectors { device, owner, .. } = vectors;
        let (grid, rows) = (blocks(vectors.rows().min(SEARCHING)), int(vectors.rows())?);
        let mut answer = device.alloc_zeros::<f64>(4)?;
        let mut counts = device.alloc_zeros::<u32>(SHIFTS.len() * BINS)?;
        let mut near = uninitialised::<f64>(device, BINS)?;
        let near_at = near.device_ptr_mut(&device.cuda_stream()).0;
        let (left, mut known) = (left as f64, BITS);
        views!(u32: chosen);
        for (pass, shift) in SHIFTS.iter().enumerate() {
            let near = if pass < FAR_PASSES { 0 } else { near_at };
            let mut counts = counts.slice_mut(pass * BINS..(pass + 1) * BINS);
            launch!(
                device,
                "count_bits",
                grid,
                owner,
                chosen,
                &x,
                &v,
                &diagonal,
                sigma,
                &penalty,
                &answer,
                &known,
                shift,
                &mut counts,
                &near,
                &rows
            );
            launch!(device, "choose_bits", blocks(1), &mut counts, &mut answer, &near, &left, shift);
            known = *shift;
        }
        Ok(tensor(answer, (4, 1), device))
    }

    /// `x`, `v`, diagonal and penalty for a kernel.
    fn arguments(&self) -> Result<(u64, u64, u64, i32)> {
        let [x, v] = self.vectors.addresses([self.x, self.v])?;
        Ok((x, v, self.vectors.address_or_none(self.diagonal)?, self.penalty as i32))
    }

    /// `[each, parameters]` from `[rows, each]`.
    fn add_rows(&self, kernel: &str, partial: &CudaSlice<f64>, each: usize) -> Result<Tensor> {
        let Vectors { device, parameters, values, .. } = self.vectors;
        let mut sums = uninitialised::<f64>(device, each * values.len())?;
        launch!(device, kernel, blocks(values.len()), parameters, partial, &mut sums);
        Ok(tensor(sums, (each, values.len()), device))
    }
}
