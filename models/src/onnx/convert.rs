//! From an ONNX operator, with its defaults, to ours.

use sr2_formats::onnx::proto::NodeProto;
use sr2_formats::{Error, Tensor};

use super::Importer;
use super::node::{NodeView, is_onnx};
use crate::{BatchNormalization, Gemm, Op, ValueId};

const SUPPORTED: &str = "Conv, BatchNormalization, Relu, Clip, LeakyRelu, Sigmoid, HardSigmoid, HardSwish, Add, Mul, \
                         Concat, MaxPool, AveragePool, Pad, GlobalAveragePool, ReduceMean, Flatten, Reshape, Gemm, \
                         MatMul, Softmax, Identity, Dropout and Constant; and of constants ConstantOfShape, \
                         ScatterElements, CumSum, Cast and Reshape";

impl<'a> Importer<'a> {
    /// Appends what a node computes; returns its value.
    pub(super) fn convert(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        if !is_onnx(node.proto.domain()) {
            return Err(node.unsupported(format!("domain {:?}, supported is ONNX's own", node.proto.domain())));
        }
        match node.proto.op_type() {
            "Conv" => self.conv(node),
            "BatchNormalization" => self.batch_normalization(node),
            "Relu" => self.plain(node, Op::Relu),
            "Clip" => self.clip(node),
            "LeakyRelu" => self.leaky_relu(node),
            "Sigmoid" => self.plain(node, Op::Sigmoid),
            "HardSigmoid" => self.hard_sigmoid(node),
            "HardSwish" => self.plain(node, Op::HardSwish),
            "Add" => self.add(node),
            "Mul" => self.mul(node),
            "Pad" => self.pad(node),
            "Concat" => self.concat(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "GlobalAveragePool" => self.plain(node, Op::GlobalAveragePool),
            "ReduceMean" => self.reduce_mean(node),
            "Flatten" => self.flatten(node),
            "Reshape" => self.reshape(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.mat_mul(node),
            "Softmax" => self.softmax(node),
            "Identity" => self.value(node, 0),
            "Dropout" => self.dropout(node),
            "Constant" => Err(node.unsupported("its value is neither a tensor nor numbers")),
            _ => Err(node.unsupported(format!("the operator is not supported; supported are {SUPPORTED}"))),
        }
    }

    /// An operator of one value and no attributes.
    fn plain(&mut self, node: &NodeView<'a>, op: Op) -> Result<ValueId, Error> {
        node.only(&[])?;
        let input = self.value(node, 0)?;
        self.push(node, op, vec![input])
    }

    fn batch_normalization(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["epsilon", "momentum", "spatial", "training_mode"])?;
        node.int_is("spatial", 1, 1)?;
        node.int_is("training_mode", 0, 0)?;
        if node.proto.output.iter().skip(1).any(|name| !name.is_empty()) {
            return Err(node.unsupported("has training outputs; export the network in evaluation mode"));
        }
        let input = self.value(node, 0)?;
        let mut names = [const { String::new() }; 4];
        for (slot, position) in names.iter_mut().zip(1..) {
            let (name, tensor) = self.required(node, position)?;
            *slot = self.parameter(node, name, tensor)?;
        }
        let [scale, shift, mean, var] = names;
        // ONNX weighs the old statistics. An f32 close to 1 is known to 6e-8, so 1 - 0.9 should be 0.1.
        let momentum = (1.0 - f64::from(node.float("momentum", 0.9)?)) * 1e7;
        let momentum = (momentum.round() / 1e7) as f32;
        let epsilon = node.float("epsilon", 1e-5)?;
        let op = Op::BatchNormalization(BatchNormalization { scale, shift, mean, var, epsilon, momentum });
        self.push(node, op, vec![input])
    }

    fn concat(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["axis"])?;
        let first = self.value(node, 0)?;
        self.axis_is_1(node, first, 0)?;
        if node.proto.input.len() == 1 {
            return Ok(first);
        }
        let others = (1..node.proto.input.len()).map(|position| self.value(node, position));
        let inputs = std::iter::once(Ok(first)).chain(others).collect::<Result<_, _>>()?;
        self.push(node, Op::Concat, inputs)
    }

    fn reduce_mean(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        let axes = if node.opset < 18 {
            node.only(&["axes", "keepdims"])?;
            node.ints("axes")?.unwrap_or_default().to_vec()
        } else {
            node.only(&["keepdims", "noop_with_empty_axes"])?;
            self.integers(node, 1)?.unwrap_or_default()
        };
        let input = self.value(node, 0)?;
        let mut positive: Vec<i64> = axes.iter().map(|a| if *a < 0 { a.saturating_add(4) } else { *a }).collect();
        positive.sort_unstable();
        if positive != [2, 3] {
            return Err(node.unsupported(format!("means over axes {axes:?}, supported are [2, 3] of [N, C, H, W]")));
        }
        let pooled = self.push(node, Op::GlobalAveragePool, vec![input])?;
        match node.int("keepdims", 1)? {
            0 => self.push(node, Op::Flatten, vec![pooled]),
            _ => Ok(pooled),
        }
    }

    fn flatten(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["axis"])?;
        let input = self.value(node, 0)?;
        self.axis_is_1(node, input, 1)?;
        self.push(node, Op::Flatten, vec![input])
    }

    fn gemm(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["alpha", "beta", "transA", "transB"])?;
        node.int_is("transA", 0, 0)?;
        let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
        let transposed = node.int("transB", 0)? != 0;
        let input = self.value(node, 0)?;
        let (weight, out_features) = self.linear_weight(node, transposed, alpha)?;
        let bias = self.bias(node, 2, out_features, beta)?;
        self.push(node, Op::Gemm(Gemm { weight, bias, out_features }), vec![input])
    }

    fn mat_mul(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&[])?;
        let input = self.value(node, 0)?;
        let (weight, out_features) = self.linear_weight(node, false, 1.0)?;
        let Some((add, position)) = self.bias_behind(node) else {
            return self.push(node, Op::Gemm(Gemm { weight, bias: None, out_features }), vec![input]);
        };
        let bias = self.bias(&NodeView::new(self.path, self.opset, add), position, out_features, 1.0)?;
        let sum = self.push(node, Op::Gemm(Gemm { weight, bias, out_features }), vec![input])?;
        self.sums.extend(add.output.first().map(|name| (name.as_str(), sum)));
        Ok(sum)
    }

    /// The `Add` of a constant that alone reads what `node` makes, and the position of the constant.
    fn bias_behind(&self, node: &NodeView<'a>) -> Option<(&'a NodeProto, usize)> {
        let output = node.proto.output.first()?;
        let add = self.adds.get(output.as_str()).filter(|add| add.input.len() == 2)?;
        let position = if add.input[0] == *output { 1 } else { 0 };
        let alone = self.reads.get(output.as_str()) == Some(&1);
        (alone && self.constants.has(&add.input[position])).then_some((*add, position))
    }

    fn softmax(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["axis"])?;
        let input = self.value(node, 0)?;
        self.axis_is_1(node, input, if node.opset < 13 { 1 } else { -1 })?;
        self.push(node, Op::Softmax, vec![input])
    }

    fn dropout(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        if node.optional_input(2).is_some() {
            return Err(node.unsupported("has a training mode; export the network in evaluation mode"));
        }
        self.value(node, 0)
    }

    /// Refuses any axis but 1, which may be counted from the end of `[N, ...]`.
    fn axis_is_1(&self, node: &NodeView<'a>, value: ValueId, default: i64) -> Result<(), Error> {
        let axis = node.int("axis", default)?;
        if axis == 1 || axis == -(self.builder.shape(value).len() as i64) {
            return Ok(());
        }
        Err(node.unsupported(format!("attribute \"axis\" is {axis}, supported is 1")))
    }

    pub(super) fn required(&self, node: &NodeView<'a>, position: usize) -> Result<(&'a str, Tensor), Error> {
        node.input(position)?;
        Ok(self.constant(node, position)?.expect("the input is there"))
    }

    pub(super) fn scalar(&self, node: &NodeView<'a>, position: usize, default: f32) -> Result<f32, Error> {
        match self.constant(node, position)? {
            None => Ok(default),
            Some((_, tensor)) if tensor.len() == 1 => Ok(tensor.data()[0]),
            Some((name, tensor)) => {
                Err(node.malformed(format!("input {name:?} has shape {:?}, expected a scalar", tensor.shape())))
            }
        }
    }

    pub(super) fn integers(&self, node: &NodeView<'a>, position: usize) -> Result<Option<Vec<i64>>, Error> {
        let Some(name) = node.optional_input(position) else { return Ok(None) };
        match self.constants.integers(name)? {
            Some(values) => Ok(Some(values)),
            None => Err(node.unsupported(format!("input {position} ({name:?}) is computed, supported is a constant"))),
        }
    }

    /// The bias `[features]` at `position` times `factor`, if there is one; `[1, features]` and one value for all are
    /// the same.
    pub(super) fn bias(
        &mut self,
        node: &NodeView<'a>,
        position: usize,
        features: usize,
        factor: f32,
    ) -> Result<Option<String>, Error> {
        let Some((name, tensor)) = self.constant(node, position)? else { return Ok(None) };
        let data = match tensor.shape() {
            _ if tensor.len() == 1 => vec![tensor.data()[0]; features],
            [.., last] if *last == features && tensor.len() == features => tensor.data().to_vec(),
            found => {
                let problem = format!("bias {name:?} has shape {found:?}, supported is [{features}]");
                return Err(node.unsupported(problem));
            }
        };
        let tensor = Tensor::new([features], data.into_iter().map(|b| b * factor).collect());
        self.parameter(node, name, tensor).map(Some)
    }

    /// The weight at position 1 times `factor` as `[out, in]`, and `out`.
    fn linear_weight(&mut self, node: &NodeView<'a>, transposed: bool, factor: f32) -> Result<(String, usize), Error> {
        let (name, weight) = self.required(node, 1)?;
        let &[rows, cols] = weight.shape() else {
            let problem = format!("weight {name:?} has shape {:?}, supported are two dimensions", weight.shape());
            return Err(node.unsupported(problem));
        };
        let (mut weight, out_features) =
            if transposed { (weight, rows) } else { (transpose(&weight, rows, cols), cols) };
        weight.data_mut().iter_mut().for_each(|w| *w *= factor);
        Ok((self.parameter(node, name, weight)?, out_features))
    }
}

fn transpose(matrix: &Tensor, rows: usize, cols: usize) -> Tensor {
    let data = matrix.data();
    let columns = (0..cols).flat_map(|col| (0..rows).map(move |row| data[row * cols + col]));
    Tensor::new([cols, rows], columns.collect())
}
