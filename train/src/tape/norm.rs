//! Batch norm with the sum and the activation that follow it, spread over threads.

use std::ops::Range;

use rayon::prelude::*;
use sr2_kernels::training::{
    Activation, Mask, NormInputGradient, accumulate_gradient_moments, accumulate_moments, blocked_channels,
    norm_input_gradient, normalize,
};
use sr2_models::BatchNormalization;

use super::plan::Value;
use super::{Pass, Statistics, error};
use crate::executor::ExecutorError;

/// `activation(scale (x - mean) / sqrt(var + epsilon) + shift + residual)`.
///
/// Per-channel vectors are padded to whole blocks with zeros.
#[derive(Debug)]
pub(super) struct Norm {
    pub activation: Activation,
    scale: Range<usize>,
    shift: Range<usize>,
    running_mean: Range<usize>,
    running_var: Range<usize>,
    epsilon: f32,
    momentum: f32,
    /// Values a channel of the last batch.
    population: usize,
    /// Mean, biased variance and `1 / sqrt(var + epsilon)` of the last batch.
    mean: Vec<f32>,
    var: Vec<f64>,
    inverse_deviation: Vec<f32>,
    /// Scale and shift of the last forward pass, `[2][channels]`.
    coefficients: Vec<f32>,
    /// `[2][channels]` an image.
    sums: Vec<f32>,
    /// Whether `sums` holds the moments of the input.
    measured: bool,
}

impl Norm {
    pub fn new(
        attributes: &BatchNormalization,
        activation: Activation,
        parameter: impl Fn(&str) -> Range<usize>,
        buffer: impl Fn(&str) -> Range<usize>,
    ) -> Self {
        let scale = parameter(&attributes.scale);
        let lanes = blocked_channels(scale.len());
        Self {
            activation,
            shift: parameter(&attributes.shift),
            running_mean: buffer(&attributes.mean),
            running_var: buffer(&attributes.var),
            epsilon: attributes.epsilon,
            momentum: attributes.momentum,
            population: 0,
            mean: vec![0.0; lanes],
            var: vec![0.0; scale.len()],
            inverse_deviation: vec![0.0; lanes],
            coefficients: vec![0.0; 2 * lanes],
            sums: Vec::new(),
            measured: false,
            scale,
        }
    }

    /// Where whoever makes the next input leaves the moments of its `count` images, `[2][channels]` each.
    pub fn moments(&mut self, count: usize) -> &mut [f32] {
        self.measured = true;
        self.sums.resize(count * 2 * self.mean.len(), 0.0);
        &mut self.sums
    }

    pub fn forward(
        &mut self,
        pass: &Pass,
        shape: &Value,
        statistics: Statistics,
        running: &[f32],
        tensors: NormTensors,
    ) -> Result<(), ExecutorError> {
        match statistics {
            Statistics::Batch => self.measure(pass, shape, tensors.input)?,
            Statistics::Running => {
                self.mean[..self.scale.len()].copy_from_slice(&running[self.running_mean.clone()]);
                self.var.iter_mut().zip(&running[self.running_var.clone()]).for_each(|(to, v)| *to = f64::from(*v));
            }
        }
        let lanes = self.mean.len();
        let (scales, shifts) = (&pass.parameters[self.scale.clone()], &pass.parameters[self.shift.clone()]);
        for c in 0..scales.len() {
            let inverse = 1.0 / (self.var[c] + f64::from(self.epsilon)).sqrt();
            let scale = f64::from(scales[c]) * inverse;
            self.inverse_deviation[c] = inverse as f32;
            self.coefficients[c] = scale as f32;
            self.coefficients[lanes + c] = (f64::from(shifts[c]) - f64::from(self.mean[c]) * scale) as f32;
        }
        let (len, area) = (shape.len(), shape.area());
        let NormTensors { input, residual, output } = tensors;
        let images = output.par_chunks_mut(len).zip(input.par_chunks(len)).enumerate();
        images.for_each(|(image, (y, x))| {
            let residual = residual.map(|r| &r[image * len..(image + 1) * len]);
            normalize(pass.isa, area, &self.coefficients, self.activation, x, residual, y);
        });
        Ok(())
    }

    /// Mean and variance of the batch, merged over images in f64 (Chan, Golub and LeVeque 1979), over processes from sums
    /// of values and of squares.
    fn measure(&mut self, pass: &Pass, shape: &Value, input: &[f32]) -> Result<(), ExecutorError> {
        let (len, area, lanes) = (shape.len(), shape.area(), self.mean.len());
        self.population = pass.whole * area;
        if self.population < 2 {
            return Err(error("batch norm in training needs more than one value a channel; use a larger batch"));
        }
        if !std::mem::take(&mut self.measured) {
            self.sums.resize(pass.count * 2 * lanes, 0.0);
            let images = self.sums.par_chunks_mut(2 * lanes).zip(input.par_chunks(len));
            images.for_each(|(moments, image)| accumulate_moments(pass.isa, area, image, moments));
        }
        let channels = self.scale.len();
        let mut moments = vec![0.0; 2 * channels];
        for c in 0..channels {
            let of_images = || self.sums.chunks_exact(2 * lanes).map(|m| (f64::from(m[c]), f64::from(m[lanes + c])));
            let mean = of_images().map(|(mean, _)| mean).sum::<f64>() / pass.count as f64;
            let squares: f64 = of_images().map(|(m, s)| s + area as f64 * (m - mean) * (m - mean)).sum();
            (moments[c], moments[channels + c]) = (mean, squares);
        }
        if pass.whole != pass.count {
            merge_moments(pass, (pass.count * area) as f64, self.population as f64, &mut moments);
        }
        for c in 0..channels {
            self.mean[c] = moments[c] as f32;
            self.var[c] = moments[channels + c] / self.population as f64;
        }
        Ok(())
    }

    /// `running = (1 - momentum) running + momentum batch`, with the unbiased variance, as PyTorch does.
    pub fn move_running(&self, running: &mut [f32]) {
        let momentum = f64::from(self.momentum);
        let blend = |to: &mut f32, new: f64| *to = ((1.0 - momentum) * f64::from(*to) + momentum * new) as f32;
        let means = running[self.running_mean.clone()].iter_mut().zip(&self.mean);
        means.for_each(|(to, mean)| blend(to, f64::from(*mean)));
        let unbiased = self.population as f64 / (self.population as f64 - 1.0);
        let vars = running[self.running_var.clone()].iter_mut().zip(&self.var);
        vars.for_each(|(to, var)| blend(to, var * unbiased));
    }

    /// Adds the gradients of scale and shift, and returns what the gradient of the input is made of, with `dy` passed back
    /// through the activation:
    /// `scale / deviation (dy - sum(dy) / m - (x - mean) / deviation^2 sum(dy (x - mean)) / m)`.
    ///
    /// With `output`, which is needed if a residual was added, `dy` passes the activation in place.
    pub fn parameter_gradients(
        &mut self,
        pass: &Pass,
        shape: &Value,
        input: &[f32],
        output: Option<&[f32]>,
        dy: &mut [f32],
        gradient: &mut [f32],
    ) -> InputGradient {
        let (len, area, lanes) = (shape.len(), shape.area(), self.mean.len());
        self.sums.resize(pass.count * 2 * lanes, 0.0);
        let images = self.sums.par_chunks_mut(2 * lanes).zip(dy.par_chunks_mut(len)).zip(input.par_chunks(len));
        images.enumerate().for_each(|(image, ((sums, dy), x))| {
            let mask = match output {
                Some(output) => Mask::Output(self.activation, &output[image * len..(image + 1) * len]),
                None => Mask::Coefficients(self.activation, &self.coefficients),
            };
            accumulate_gradient_moments(pass.isa, area, &self.mean, mask, x, dy, sums);
        });
        let mut parts = InputGradient {
            area,
            gradient: vec![0.0; lanes],
            centered: vec![0.0; lanes],
            constant: vec![0.0; lanes],
            masked: output.is_some(),
        };
        let population = self.population as f64;
        let total = |lane: usize| self.sums.chunks_exact(2 * lanes).map(|s| f64::from(s[lane])).sum::<f64>();
        let channels = self.scale.len();
        let mut totals: Vec<f64> = (0..channels).map(total).chain((0..channels).map(|c| total(lanes + c))).collect();
        for c in 0..channels {
            let inverse = f64::from(self.inverse_deviation[c]);
            gradient[self.shift.start + c] += totals[c] as f32;
            gradient[self.scale.start + c] += (totals[channels + c] * inverse) as f32;
        }
        // The gradients of scale and shift are summed with all others, later.
        pass.team.sum_f64(&mut totals);
        for c in 0..channels {
            let (sum, sum_centered) = (totals[c], totals[channels + c]);
            let inverse = f64::from(self.inverse_deviation[c]);
            let factor = f64::from(pass.parameters[self.scale.start + c]) * inverse;
            parts.gradient[c] = factor as f32;
            parts.centered[c] = (-factor * inverse * inverse * sum_centered / population) as f32;
            parts.constant[c] = (-factor * sum / population) as f32;
        }
        parts
    }

    /// Gives the gradient of the batch norm's input to its target.
    pub fn input_gradient(
        &self,
        pass: &Pass,
        parts: &InputGradient,
        input: &[f32],
        dy: &mut [f32],
        target: NormTarget,
    ) {
        let coefficients = NormInputGradient {
            means: &self.mean,
            gradient: &parts.gradient,
            centered: &parts.centered,
            constant: &parts.constant,
            mask: (!parts.masked).then_some((self.activation, &self.coefficients[..])),
        };
        let len = parts.area * self.mean.len();
        match target {
            NormTarget::InPlace => {
                let images = dy.par_chunks_mut(len).zip(input.par_chunks(len));
                images.for_each(|(dy, x)| norm_input_gradient(pass.isa, parts.area, coefficients, x, None, false, dy));
            }
            NormTarget::Other { to, accumulate } => {
                let images = to.par_chunks_mut(len).zip(input.par_chunks(len)).zip(dy.par_chunks(len));
                images.for_each(|((dx, x), dy)| {
                    norm_input_gradient(pass.isa, parts.area, coefficients, x, Some(dy), accumulate, dx);
                });
            }
        }
    }
}

/// From means of the channels and sums of squared distances from them over this process's `own` values a channel to those
/// over the `population` of all processes, by sums around 0, in f64 since they cancel.
fn merge_moments(pass: &Pass, own: f64, population: f64, moments: &mut [f64]) {
    let (means, squares) = moments.split_at_mut(moments.len() / 2);
    for (mean, square) in means.iter_mut().zip(squares) {
        *square += own * *mean * *mean;
        *mean *= own;
    }
    pass.team.sum_f64(moments);
    let (means, squares) = moments.split_at_mut(moments.len() / 2);
    for (mean, square) in means.iter_mut().zip(squares) {
        *mean /= population;
        *square = (*square - population * *mean * *mean).max(0.0);
    }
}

/// Images that a batch norm reads and writes.
pub(super) struct NormTensors<'a> {
    pub input: &'a [f32],
    pub residual: Option<&'a [f32]>,
    pub output: &'a mut [f32],
}

/// Per-channel coefficients of the input's gradient.
pub(super) struct InputGradient {
    area: usize,
    gradient: Vec<f32>,
    centered: Vec<f32>,
    constant: Vec<f32>,
    /// Whether the output's gradient has passed the activation.
    masked: bool,
}

/// Where the gradient of a batch norm's input goes.
pub(super) enum NormTarget<'a> {
    /// Over the output's.
    InPlace,
    /// Elsewhere, on top of what is there or not.
    Other { to: &'a mut [f32], accumulate: bool },
}
