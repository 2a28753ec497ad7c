//! Flat vectors on the device, cut into rows so that sums over each parameter cost few launches.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, WithDType};

use super::transfer::{download, upload};
use crate::layout::Segment;

/// Values in a row. candle reduces a row by one block of threads.
pub(super) const ROW: usize = 1024;

/// The shape `[rows, ROW]` of all vectors: each parameter begins a row, and its last one is filled up with zeros.
#[derive(Debug)]
pub(super) struct Rows {
    device: Device,
    parameters: Vec<Place>,
    /// `[parameters, rows]`, 1 where a row is of a parameter.
    membership: Tensor,
    /// A row of zeros.
    zeros: Tensor,
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
        let zeros = Tensor::zeros(ROW, DType::F32, device)?;
        Ok(Self { device: device.clone(), parameters, membership, zeros })
    }

    pub fn upload(&self, values: &[f32]) -> Result<Tensor> {
        let mut padded = vec![0.0; self.membership.dim(1)? * ROW];
        for place in &self.parameters {
            padded[place.rows.start * ROW..][..place.values.len()].copy_from_slice(&values[place.values.clone()]);
        }
        upload(&padded, (padded.len() / ROW, ROW), &self.device)
    }

    pub fn download<T: WithDType>(&self, vector: &Tensor) -> Result<Vec<T>> {
        let padded: Vec<T> = download(vector)?;
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
            let Some(tensor) = tensor else {
                parts.resize(parts.len() + place.rows.len(), self.zeros.clone());
                continue;
            };
            parts.push(tensor.flatten_all()?);
            let padding = place.rows.len() * ROW - place.values.len();
            if padding > 0 {
                parts.push(self.zeros.narrow(0, 0, padding)?);
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

    /// `[rows, ROW]` of `[rows, 1]`.
    pub fn broadcast(&self, values: &Tensor) -> Result<Tensor> {
        values.broadcast_as((values.dim(0)?, ROW))
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
pub(super) fn largest_to_go(values: &Tensor, left: usize) -> Result<f64> {
    let mut search = Search::new(values, left)?;
    loop {
        search.go_on()?;
        let answer: Vec<f64> = download(&search.answer)?;
        if is_final(&answer, left) || search.halvings >= Search::MOST_HALVINGS {
            return Ok(answer[0]);
        }
    }
}

/// The search for [`largest_to_go`]: halves an interval on the device until no other value is in it.
pub(super) struct Search<'a> {
    values: &'a Tensor,
    left: f64,
    low: Tensor,
    high: Tensor,
    halvings: usize,
    /// `[3, 1]`: the value, should the search end here, and how many values are above it, and not below it.
    pub answer: Tensor,
}

impl<'a> Search<'a> {
    const HALVINGS: usize = 48;
    /// Then the interval is down to neighbouring numbers.
    const MOST_HALVINGS: usize = 1200;

    pub fn new(values: &'a Tensor, left: usize) -> Result<Self> {
        let (low, left) = (Tensor::zeros((1, 1), DType::F64, values.device())?, left as f64);
        let high = count(values.gt(0f64)?)?.gt(left)?.where_cond(&largest(values)?, &low)?;
        Ok(Self { values, left, answer: low.clone(), low, high, halvings: 0 })
    }

    /// Halves the interval some times more.
    pub fn go_on(&mut self) -> Result<()> {
        let Self { values, low, high, .. } = self;
        for _ in 0..Self::HALVINGS {
            let middle = ((&*low + &*high)? * 0.5)?;
            let more = count(values.broadcast_gt(&middle)?)?.gt(self.left)?;
            (*low, *high) = (more.where_cond(&middle, low)?, more.where_cond(high, &middle)?);
        }
        self.halvings += Self::HALVINGS;
        let none = Tensor::full(-1f64, (1, 1), values.device())?.broadcast_as(values.shape())?;
        let found = largest(&values.broadcast_le(high)?.where_cond(values, &none)?)?.relu()?;
        let (above, not_below) = (count(values.broadcast_gt(&found)?)?, count(values.broadcast_ge(&found)?)?);
        self.answer = Tensor::cat(&[&found, &above, &not_below], 0)?;
        Ok(())
    }
}

/// Whether the answer of a search is the value to go.
pub(super) fn is_final(answer: &[f64], left: usize) -> bool {
    let (found, above, not_below, left) = (answer[0], answer[1], answer[2], left as f64);
    found == 0.0 || (above <= left && left < not_below)
}

/// Number of ones, in f64.
fn count(mask: Tensor) -> Result<Tensor> {
    mask.to_dtype(DType::F32)?.sum(1)?.to_dtype(DType::F64)?.sum(0)?.reshape((1, 1))
}

fn largest(values: &Tensor) -> Result<Tensor> {
    values.max(1)?.max(0)?.reshape((1, 1))
}
