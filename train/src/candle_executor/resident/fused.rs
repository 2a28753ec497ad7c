//! The operations of a step by own CUDA kernels.

use candle_core::{Device, Result, Tensor, bail};
use sr2_cuda::{Parameter, Vectors};

use super::kernels::{Kernels, Still, Zeros};
use super::model::{Lambda, Model, Parts};
use crate::candle_executor::rows::ROW;
use crate::candle_executor::transfer::{download, upload};
use crate::direction::Direction;
use crate::executor::Support;
use crate::layout::Segment;
use crate::optimizer::Layers;
use crate::penalty::Penalty;

const _: () = assert!(ROW == sr2_cuda::ROW);

/// On CUDA devices.
#[derive(Debug)]
pub(super) struct Fused {
    vectors: Vectors,
    parameters: usize,
    /// The number of each penalised layer's parameter.
    penalised: Vec<usize>,
    /// `[parameters]`, 1 for these.
    chosen: Tensor,
    device: Device,
}

impl Fused {
    pub fn new(segments: &[Segment], layers: &Layers, penalised: &[usize], device: &Device) -> Result<Self> {
        let parameter = |(number, segment): (usize, &Segment)| {
            let layer = penalised.iter().position(|parameter| *parameter == number);
            Parameter {
                values: segment.range.len(),
                prunable: layers.prunable.contains(&segment.range),
                penalised: layer.is_some(),
                channels: layer.and_then(|layer| layers.penalised[layer].channels),
            }
        };
        let parameters: Vec<Parameter> = segments.iter().enumerate().map(parameter).collect();
        let vectors = Vectors::new(&parameters, device)?;
        let chosen = flags(penalised, segments.len(), device)?;
        let (parameters, penalised, device) = (segments.len(), penalised.to_vec(), device.clone());
        Ok(Self { vectors, parameters, penalised, chosen, device })
    }
}

/// `[parameters]`, 1 for those in `chosen`.
fn flags(chosen: &[usize], parameters: usize, device: &Device) -> Result<Tensor> {
    let mut flags = vec![0u32; parameters];
    chosen.iter().for_each(|parameter| flags[*parameter] = 1);
    upload(&flags, parameters, device)
}

fn still(still: &Still) -> sr2_cuda::Still {
    let zeros = match still.zeros {
        Zeros::Move => sr2_cuda::Zeros::Move,
        Zeros::Stay => sr2_cuda::Zeros::Stay,
        Zeros::Coast => sr2_cuda::Zeros::Coast,
    };
    sr2_cuda::Still { zeros, empty_channels: !still.empty.is_empty() }
}

impl Kernels for Fused {
    fn gather(
        &self,
        gradients: &[Option<Tensor>],
        x: &Tensor,
        mu: f32,
        support: Support,
        steepest: Option<f64>,
    ) -> Result<Tensor> {
        self.vectors.gather(gradients, x, mu, support == Support::Frozen, steepest)
    }

    fn advance(&self, vectors: [&Tensor; 4], factors: [f64; 3], what: &Still) -> Result<[Tensor; 3]> {
        self.vectors.advance(vectors, factors, still(what))
    }

    fn average_gradient(
        &self,
        at: [&Tensor; 2],
        momentum: Option<&Tensor>,
        w: f32,
        ahead: Option<f32>,
        what: &Still,
    ) -> Result<(Tensor, Option<Tensor>)> {
        self.vectors.average_gradient(at, momentum, w, ahead, still(what))
    }

    fn average_square(&self, g: &Tensor, last: Option<&Tensor>, w: f32) -> Result<[Tensor; 2]> {
        self.vectors.average_square(g, last, w, Direction::DELTA)
    }

    fn model<'a>(&'a self, Parts { x, v, g, diagonal, sigma, penalty }: Parts<'a>) -> Result<Box<dyn Model + 'a>> {
        let penalty = match penalty {
            Penalty::L0 => sr2_cuda::Penalty::L0,
            Penalty::L1 => sr2_cuda::Penalty::L1,
            Penalty::L0Ball => sr2_cuda::Penalty::L0Ball,
            other => bail!("no kernel for {other:?}"),
        };
        let model = sr2_cuda::Model { vectors: &self.vectors, x, v, sigma, diagonal, penalty };
        Ok(Box::new(FusedModel { kernels: self, model, g }))
    }

    fn follow(&self, vectors: [&Tensor; 4]) -> Result<[Tensor; 2]> {
        self.vectors.follow(vectors)
    }

    fn decay(&self, x: &Tensor, kept: f32) -> Result<Tensor> {
        self.vectors.decay(x, kept)
    }

    fn average_point(&self, x: &Tensor, average: Option<&Tensor>, w: f32) -> Result<Tensor> {
        self.vectors.average_point(x, average, w)
    }
}

struct FusedModel<'a> {
    kernels: &'a Fused,
    model: sr2_cuda::Model<'a>,
    g: &'a Tensor,
}

impl Model for FusedModel<'_> {
    fn attempt(&self, lambda: Lambda) -> Result<(Tensor, Tensor)> {
        let Fused { penalised, parameters, device, .. } = self.kernels;
        match lambda {
            Lambda::Own(lambdas) => {
                let mut all = vec![-1.0; *parameters];
                penalised.iter().zip(lambdas).for_each(|(parameter, lambda)| all[*parameter] = *lambda);
                self.model.attempt(self.g, sr2_cuda::Lambda::Own(&upload(&all, *parameters, device)?))
            }
            Lambda::Common(answer) => self.model.attempt(self.g, sr2_cuda::Lambda::Common(answer)),
        }
    }

    fn search(&self, left: usize) -> Result<Tensor> {
        self.model.largest_to_go(&self.kernels.chosen, left)
    }

    fn largest_to_go(&self, among: &[usize], left: usize) -> Result<f64> {
        let Fused { parameters, device, .. } = self.kernels;
        let answer = self.model.largest_to_go(&flags(among, *parameters, device)?, left)?;
        Ok(download::<f64>(&answer)?[0])
    }

    fn count_above(&self, lambda: f64) -> Result<Tensor> {
        self.model.count_above(lambda)
    }
}
