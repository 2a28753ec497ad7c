//! A linear layer for one image: one dot product an output. (For a vector of images it is a 1x1 convolution.)

use crate::pointwise::clip;
use crate::simd::{Kernel, Vector};
use crate::step::Call;

/// `y[o] = clip(bias[o] + sum of weight[o][i] * x[i])`.
#[derive(Debug)]
pub(crate) struct Linear<W> {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) features: usize,
    pub(crate) weights: W,
    pub(crate) bias: Vec<f32>,
    pub(crate) clip: [f32; 2],
}

/// All weights, row-major.
pub(crate) type DenseLinear = Linear<Vec<f32>>;

/// Only the non-zeros.
pub(crate) type SparseLinear = Linear<Rows>;

/// Compressed rows: their starts, and column and value of each non-zero.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) starts: Vec<u32>,
    pub(crate) entries: Vec<(u32, f32)>,
}

/// Weights of a linear layer.
pub(crate) trait Matrix {
    /// The product of one row and `x`.
    ///
    /// # Safety
    /// The CPU must have the features of `V`.
    unsafe fn times<V: Vector>(&self, row: usize, x: &[f32]) -> f32;
}

impl Matrix for Vec<f32> {
    #[inline(always)]
    unsafe fn times<V: Vector>(&self, row: usize, x: &[f32]) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { dot::<V>(&self[row * x.len()..(row + 1) * x.len()], x) }
    }
}

impl Matrix for Rows {
    #[inline(always)]
    unsafe fn times<V: Vector>(&self, row: usize, x: &[f32]) -> f32 {
        gather_dot(&self.entries[self.starts[row] as usize..self.starts[row + 1] as usize], x)
    }
}

/// Independent partial sums of a dot product.
const SUMS: usize = 4;

impl<W: Matrix> Kernel for Call<'_, Linear<W>> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let s = self.step;
        // SAFETY: the program checked that `features` inputs and as many outputs as biases lie inside the arena, in
        // different buffers.
        let x = unsafe { std::slice::from_raw_parts(self.site.arena.add(s.x).cast_const(), s.features) };
        for row in self.site.part.of(s.bias.len()) {
            // SAFETY: the caller proves the features of `V`; the rest as above.
            unsafe { *self.site.arena.add(s.y + row) = clip(s.bias[row] + s.weights.times::<V>(row, x), s.clip) };
        }
    }
}

/// # Safety
/// The CPU must have the features of `V`.
#[inline(always)]
unsafe fn dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
    let step = SUMS * V::LANES;
    let whole = a.len().min(b.len()) / step * step;
    let mut total = 0.0;
    // SAFETY: every load lies in the whole steps of both slices; 64 values hold any vector.
    unsafe {
        let mut sums = [V::splat(0.0); SUMS];
        for i in (0..whole).step_by(step) {
            for (k, sum) in sums.iter_mut().enumerate() {
                let at = i + k * V::LANES;
                *sum = V::load(a.as_ptr().add(at)).mul_add(V::load(b.as_ptr().add(at)), *sum);
            }
        }
        let mut lanes = [0.0f32; 64];
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).store(lanes.as_mut_ptr());
        for lane in &lanes[..V::LANES] {
            total += lane;
        }
    }
    total + a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum::<f32>()
}

#[inline(always)]
fn gather_dot(entries: &[(u32, f32)], x: &[f32]) -> f32 {
    let mut sums = [0.0; SUMS];
    let chunks = entries.chunks_exact(SUMS);
    let rest: f32 = chunks.remainder().iter().map(|(column, weight)| weight * x[*column as usize]).sum();
    for chunk in chunks {
        for (sum, (column, weight)) in sums.iter_mut().zip(chunk) {
            *sum += weight * x[*column as usize];
        }
    }
    rest + sums.iter().sum::<f32>()
}
