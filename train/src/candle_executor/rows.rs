//! Flat vectors on the device, cut into rows so that sums over each parameter cost few launches.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::transfer::{download, upload};
use crate::layout::Segment;

/// Values in a row. candle reduces a row by one block of threads.
const ROW: usize = 1024;

/// The shape `[rows, ROW]` of all vectors: each parameter begins a row, and its last one is filled up with zeros.
#[derive(Debug)]
pub(super) struct Rows {
    device: Device,
    parameters: Vec<Place>,
    /// `[parameters, rows]`, 1 where a row is of a parameter.
    membership: Tensor,
}

#[derive(Debug)]
struct Place {
    shape: Vec<usize>,
    rows: Range<usize>,
    values: Range<usize>,
}

impl Rows {
    pub fn new(segments: &[Segment], device: &Device) -> Result<Self> {
        let mut end = 0;
        let place = |segment: &Segment| {
            let start = end;
            end += segment.range.len().div_ceil(ROW);
            Place { shape: segment.spec.shape.clone(), rows: start..end, values: segment.range.clone() }
        };
        let parameters: Vec<Place> = segments.iter().map(place).collect();
        let mut membership = vec![0.0; parameters.len() * end];
        for (place, members) in parameters.iter().zip(membership.chunks_mut(end.max(1))) {
            members[place.rows.clone()].fill(1.0);
        }
        let membership = upload(&membership, (parameters.len(), end), device)?;
        Ok(Self { device: device.clone(), parameters, membership })
    }

    pub fn upload(&self, values: &[f32]) -> Result<Tensor> {
        let mut padded = vec![0.0; self.membership.dim(1)? * ROW];
        for place in &self.parameters {
            padded[place.rows.start * ROW..][..place.values.len()].copy_from_slice(&values[place.values.clone()]);
        }
        upload(&padded, (padded.len() / ROW, ROW), &self.device)
    }

    pub fn download(&self, vector: &Tensor) -> Result<Vec<f32>> {
        let padded = download(vector)?;
        let values = |place: &Place| padded[place.rows.start * ROW..][..place.values.len()].to_vec();
        Ok(self.parameters.iter().flat_map(values).collect())
    }

    /// Each parameter in its own shape.
    pub fn tensors(&self, vector: &Tensor) -> Result<Vec<Tensor>> {
        let tensor = |place: &Place| {
            let values = self.of(vector, &place.rows)?.flatten_all()?;
            values.narrow(0, 0, place.values.len())?.reshape(place.shape.as_slice())
        };
        self.parameters.iter().map(tensor).collect()
    }

    /// The vector of such tensors; zeros where one is missing.
    pub fn gather(&self, tensors: &[Option<Tensor>]) -> Result<Tensor> {
        let mut parts = Vec::new();
        for (place, tensor) in self.parameters.iter().zip(tensors) {
            let length = tensor.as_ref().map_or(0, |_| place.values.len());
            parts.extend(tensor.as_ref().map(Tensor::flatten_all).transpose()?);
            let padding = place.rows.len() * ROW - length;
            if padding > 0 {
                parts.push(Tensor::zeros(padding, DType::F32, &self.device)?);
            }
        }
        Tensor::cat(&parts, 0)?.reshape(((), ROW))
    }

    /// The rows of the parameter number `parameter`.
    pub fn part(&self, vector: &Tensor, parameter: usize) -> Result<Tensor> {
        self.of(vector, &self.parameters[parameter].rows)
    }

    fn of(&self, vector: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
        vector.narrow(0, rows.start, rows.len())
    }

    /// `[rows, 1]`: for each row the value of its parameter, in f64.
    pub fn spread(&self, values: &[f64]) -> Result<Tensor> {
        self.membership.t()?.matmul(&upload(values, (values.len(), 1), &self.device)?)
    }

    /// `[vectors, parameters]`: sums in f64 over the values of each parameter, of sums over rows in the vectors' type.
    pub fn sums(&self, vectors: &[Tensor]) -> Result<Tensor> {
        let rows: Vec<Tensor> =
            vectors.iter().map(|vector| vector.sum(1)?.to_dtype(DType::F64)).collect::<Result<_>>()?;
        Tensor::stack(&rows, 0)?.matmul(&self.membership.t()?)
    }
}

/// The `left + 1`-th largest value, which is not negative; 0 if there are not more than `left` above 0. `values` has the
/// shape `[rows, ROW]` and f64, and -1 where one does not count.
///
/// Halves an interval on the device until no other value is in it, and asks only now and then.
pub(super) fn largest_to_go(values: &Tensor, left: usize) -> Result<f64> {
    const HALVINGS: usize = 48;
    /// Then the interval is down to neighbouring numbers.
    const MOST_HALVINGS: usize = 1200;
    let single = |tensor: Tensor| tensor.reshape((1, 1));
    let count = |mask: Tensor| single(mask.to_dtype(DType::F32)?.sum(1)?.to_dtype(DType::F64)?.sum(0)?);
    let largest = |values: &Tensor| single(values.max(1)?.max(0)?);
    let mut low = Tensor::zeros((1, 1), DType::F64, values.device())?;
    let mut high = largest(values)?;
    let none = Tensor::full(-1f64, (1, 1), values.device())?.broadcast_as(values.shape())?;
    let mut halvings = 0;
    loop {
        for _ in 0..HALVINGS {
            let middle = ((&low + &high)? * 0.5)?;
            let more = count(values.broadcast_gt(&middle)?)?.gt(left as f64)?;
            low = more.where_cond(&middle, &low)?;
            high = more.where_cond(&high, &middle)?;
        }
        halvings += HALVINGS;
        let found = largest(&values.broadcast_le(&high)?.where_cond(values, &none)?)?;
        let counts = [values.gt(0f64)?, values.broadcast_gt(&found)?, values.broadcast_ge(&found)?];
        let counts = counts.into_iter().map(count).collect::<Result<Vec<Tensor>>>()?;
        let answer = Tensor::cat(&[&found, &counts[0], &counts[1], &counts[2]], 0)?;
        let [found, positive, above, not_below] = download::<f64>(&answer)?[..] else {
            unreachable!("four values were asked for")
        };
        let left = left as f64;
        match () {
            () if positive <= left => return Ok(0.0),
            () if (above <= left && left < not_below) || halvings >= MOST_HALVINGS => return Ok(found),
            () => {}
        }
    }
}
