//! From a model to a program and its plan.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use sr2_formats::CsrMatrix;
use sr2_kernels::{Conv, Isa, Pooling, Program, ProgramBuilder, Threads, TooLarge, Weights};
use sr2_models::{BatchNormalization, CompressedModel, Weight};

use crate::decisions::{Cut, Decisions};
use crate::fuse::{Kind, Layer, Layers};
use crate::memory::{MAX_BYTES, Memory};
use crate::plan::{LayerPlan, Plan};
use crate::{Error, Options, cost, memory};

/// Bytes of weights that are packed again, for other layers that share them.
const MAX_REPEATED: usize = 1 << 28;

/// Compiles the layers of a model, whose batch norms are folded as far as they can be, from its input to its output.
pub(crate) fn compile(
    model: &CompressedModel,
    layers: &Layers<'_>,
    decisions: &Decisions,
    isa: Isa,
    options: &Options,
) -> Result<(Program, Plan), Error> {
    let (cut, lanes) = (decisions.cut, isa.lanes());
    let handed = layers.cuts().into_iter().find(|place| place.layer == cut);
    let Layers { layers, output } = layers;
    let stages = match handed {
        Some(Cut { value, .. }) => vec![(0..cut, 1, [0, value]), (cut..layers.len(), lanes, [value, *output])],
        None => vec![(0..layers.len(), if cut == 0 { lanes } else { 1 }, [0, *output])],
    };
    let (mut plans, mut builders, mut steps) = (Vec::new(), Vec::new(), 0);
    let (mut packed, mut repeated, mut before) = (BTreeSet::new(), 0, 0);
    for (range, lanes, ends) in stages {
        let memory = memory::plan(model, &layers[range.clone()], &decisions.sparse[range.clone()], ends, isa, lanes)?;
        let builder = ProgramBuilder::new(isa, &memory.buffers);
        let mut compiler = Compiler { model, memory: &memory, isa, builder };
        let mut stage = vec![LayerPlan::transfer("input", "Import", model.graph().shape(ends[0]), 0..0)];
        stage[0].steps = compiler.builder.import(memory.of[ends[0]]);
        for (layer, sparse) in layers[range.clone()].iter().zip(&decisions.sparse[range]) {
            let plan = compiler.layer(layer, *sparse)?;
            let found = compiler.builder.bytes().saturating_add(before);
            if found > MAX_BYTES {
                return Err(Error::Memory { what: "activations", found, limit: MAX_BYTES });
            }
            if layer.weight().is_some_and(|name| !packed.insert(name)) {
                repeated += compiler.builder.weight_bytes(plan.steps.clone());
            }
            if repeated > MAX_REPEATED {
                let what = "weights of layers that share them";
                return Err(Error::Memory { what, found: repeated, limit: MAX_REPEATED });
            }
            stage.push(plan);
        }
        before += compiler.builder.bytes();
        let export = compiler.builder.export(memory.of[ends[1]]);
        stage.push(LayerPlan::transfer("output", "Export", model.graph().shape(ends[1]), export));
        for plan in &mut stage {
            plan.images = lanes;
            plan.steps = plan.steps.start + steps..plan.steps.end + steps;
        }
        steps = stage.last().map_or(steps, |last| last.steps.end);
        if let Some(before) = plans.pop() {
            stage[0].follow(&before);
        }
        plans.append(&mut stage);
        builders.push(compiler.builder);
    }

    let Options { threads: count, spin, pin, batch, .. } = *options;
    let program = Program::chain(builders, Threads { count, spin, pin }, batch);
    for plan in &mut plans {
        plan.kernels = program.kernels(plan.steps.clone());
        plan.kernels.dedup();
        plan.weight_bytes = program.weight_bytes(plan.steps.clone());
    }
    let plan = Plan::new(&program, plans);
    Ok((program, plan))
}

/// Compiles the layers of one stage.
struct Compiler<'a> {
    model: &'a CompressedModel,
    memory: &'a Memory,
    isa: Isa,
    builder: ProgramBuilder,
}

impl<'a> Compiler<'a> {
    fn layer(&mut self, layer: &Layer<'_>, sparse: bool) -> Result<LayerPlan, Error> {
        let of = &self.memory.of;
        let (x, y) = (of[layer.inputs[0]], of[layer.output]);
        let residual = layer.residual.map(|value| of[value]);
        let mut plan = LayerPlan::new(layer, self.model.graph().shape(layer.output));
        plan.steps = match layer.kind {
            Kind::Conv(conv) => return self.conv(layer, conv, sparse, plan),
            Kind::Gemm(gemm) => return self.gemm(layer, gemm, sparse, plan),
            Kind::Pointwise(norm) => {
                let affine = norm.map(|norm| self.affine(norm));
                self.builder.pointwise(x, y, 0, affine, residual, layer.clip)
            }
            Kind::HardSigmoid(hard) => {
                let channels = self.model.graph().shape(layer.output)[0];
                let affine = vec![[hard.alpha, hard.beta]; channels];
                self.builder.pointwise(x, y, 0, Some(affine), None, layer.clip)
            }
            Kind::Activation(activation) => self.builder.activate(x, y, activation),
            Kind::Combination(combination) => self.builder.combine(x, of[layer.inputs[1]], y, combination),
            Kind::Pad(pad) => self.builder.border(x, y, [pad.pads[0], pad.pads[1]], pad.value),
            Kind::Concat => self.concat(layer),
            Kind::MaxPool(pool) => self.builder.pool(x, y, Pooling::Max, cost::pool_window(pool)),
            Kind::AveragePool(pool) => self.builder.pool(x, y, Pooling::Average, cost::pool_window(pool)),
            Kind::GlobalAverage => self.builder.global_average(x, y),
            Kind::Flatten => self.builder.flatten(x, y),
            Kind::Softmax => self.builder.softmax(x, y),
        };
        Ok(plan)
    }

    fn conv(
        &mut self,
        layer: &Layer<'_>,
        conv: &sr2_models::Conv,
        sparse: bool,
        mut plan: LayerPlan,
    ) -> Result<LayerPlan, Error> {
        let of = &self.memory.of;
        let weight = self.model.weight(&conv.weight);
        let matrix = csr(&conv.weight, weight)?;
        let settings = Conv {
            window: cost::window(conv),
            groups: conv.groups,
            bias: conv.bias.as_ref().map(|name| self.model.parameter(name).data()),
            residual: layer.residual.map(|value| of[value]),
            clip: layer.clip,
        };
        let dense = if sparse { Cow::default() } else { dense(weight) };
        let [x, y] = [of[layer.inputs[0]], of[layer.output]];
        let [from, to] = [x, y].map(|buffer| self.memory.buffers[buffer]);
        let channels = [from.channels, to.channels];
        let weights = match sparse {
            true if cost::generated(&settings, [&from.plane, &to.plane], weight, self.isa) => {
                Weights::Generated(&matrix)
            }
            true => Weights::Sparse(&matrix),
            false if cost::winograd(&settings, &from.plane, &to.plane, channels, self.isa).is_some() => {
                Weights::Winograd(&dense)
            }
            false => Weights::Dense(&dense),
        };
        plan.steps = self.builder.conv(x, y, weights, &settings).map_err(|TooLarge| self.too_large(layer, conv))?;
        plan.set_weights(weight.shape(), matrix.nnz());
        Ok(plan)
    }

    /// Of a convolution whose input cannot be rearranged for its window within the kernels' offsets.
    fn too_large(&self, layer: &Layer<'_>, conv: &sr2_models::Conv) -> Error {
        let (x, y) = (self.model.graph().shape(layer.inputs[0]), self.model.graph().shape(layer.output));
        let panels = conv.kernel[1] * conv.kernel[0].min(conv.stride[0]);
        let reach = |axis: usize| y[axis + 1].saturating_add(conv.kernel[axis].saturating_mul(conv.dilation[axis]));
        let (channels, height, width) = (x[0].saturating_mul(panels), reach(0), reach(1));
        Error::Size { node: layer.name.into(), channels, height, width }
    }

    fn gemm(
        &mut self,
        layer: &Layer<'_>,
        gemm: &sr2_models::Gemm,
        sparse: bool,
        mut plan: LayerPlan,
    ) -> Result<LayerPlan, Error> {
        let of = &self.memory.of;
        let weight = self.model.weight(&gemm.weight);
        let matrix = csr(&gemm.weight, weight)?;
        let dense = if sparse { Cow::default() } else { dense(weight) };
        let weights = if sparse { Weights::Sparse(&matrix) } else { Weights::Dense(&dense) };
        let bias = gemm.bias.as_ref().map(|name| self.model.parameter(name).data());
        let [x, y] = [of[layer.inputs[0]], of[layer.output]];
        let steps = self.builder.linear(x, y, weights, bias, layer.clip);
        plan.steps = steps.map_err(|TooLarge| {
            let (channels, node) = (self.model.graph().shape(layer.inputs[0])[0], layer.name.into());
            Error::Size { node, channels, height: 1, width: 1 }
        })?;
        plan.set_weights(weight.shape(), matrix.nnz());
        Ok(plan)
    }

    fn concat(&mut self, layer: &Layer<'_>) -> Range<usize> {
        let (of, graph) = (&self.memory.of, self.model.graph());
        let (mut first, mut steps) = (0, None);
        for value in &layer.inputs {
            let appended = self.builder.pointwise(of[*value], of[layer.output], first, None, None, layer.clip);
            let start = steps.as_ref().map_or(appended.start, |steps: &Range<usize>| steps.start);
            steps = Some(start..appended.end);
            first += graph.shape(*value)[0];
        }
        steps.unwrap_or_default()
    }

    /// Scale and shift of each channel of a batch norm with its running statistics.
    fn affine(&self, norm: &BatchNormalization) -> Vec<[f32; 2]> {
        let get = |name: &String| self.model.parameter(name).data().iter();
        let statistics = get(&norm.mean).zip(get(&norm.var));
        let trained = get(&norm.scale).zip(get(&norm.shift));
        let affine = trained.zip(statistics).map(|((scale, shift), (mean, var))| {
            let factor = f64::from(*scale) / (f64::from(*var) + f64::from(norm.epsilon)).sqrt();
            [factor as f32, (f64::from(*shift) - f64::from(*mean) * factor) as f32]
        });
        affine.collect()
    }
}

fn csr<'a>(name: &str, weight: Weight<'a>) -> Result<Cow<'a, CsrMatrix>, Error> {
    let error = |e: sr2_formats::CsrError| Error::Weight { name: name.into(), problem: e.to_string() };
    match weight {
        Weight::Dense(tensor) => Ok(Cow::Owned(CsrMatrix::from_dense(tensor).map_err(error)?)),
        Weight::Sparse(parameter) => Ok(Cow::Borrowed(parameter.matrix())),
    }
}

fn dense(weight: Weight<'_>) -> Cow<'_, [f32]> {
    match weight {
        Weight::Dense(tensor) => Cow::Borrowed(tensor.data()),
        Weight::Sparse(parameter) => Cow::Owned(parameter.to_dense().into_data()),
    }
}
