//! From an ONNX operator, with its defaults, to ours.

use sr2_formats::onnx::proto::NodeProto;
use sr2_formats::{Error, Tensor};

use super::Importer;
use super::node::{NodeView, is_onnx};
use crate::{BatchNormalization, Clip, Conv, Gemm, Op, Pool, ValueId};

const SUPPORTED: &str = "Conv, BatchNormalization, Relu, Clip, Add, Concat, MaxPool, AveragePool, GlobalAveragePool, \
                         ReduceMean, Flatten, Reshape, Gemm, MatMul, Softmax, Identity, Dropout and Constant";

impl<'a> Importer<'a> {
    /// Appends what a node computes; returns its value. `nodes` are all nodes of the network.
    pub(super) fn convert(&mut self, node: &NodeView<'a>, nodes: &[&'a NodeProto]) -> Result<ValueId, Error> {
        if !is_onnx(node.proto.domain()) {
            return Err(node.unsupported(format!("domain {:?}, supported is ONNX's own", node.proto.domain())));
        }
        match node.proto.op_type() {
            "Conv" => self.conv(node),
            "BatchNormalization" => self.batch_normalization(node),
            "Relu" => self.plain(node, Op::Relu),
            "Clip" => self.clip(node),
            "Add" => self.add(node),
            "Concat" => self.concat(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "GlobalAveragePool" => self.plain(node, Op::GlobalAveragePool),
            "ReduceMean" => self.reduce_mean(node),
            "Flatten" => self.flatten(node),
            "Reshape" => self.reshape(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.mat_mul(node, nodes),
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

    fn conv(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
        node.no_auto_pad()?;
        let input = self.value(node, 0)?;
        let (name, weight) = self.required(node, 1)?;
        let &[out_channels, _, height, width] = weight.shape() else {
            let problem = format!("weight {name:?} has shape {:?}, supported is [O, I, kH, kW]", weight.shape());
            return Err(node.unsupported(problem));
        };
        let kernel = [height, width];
        if let Some(stated) = node.sizes("kernel_shape")?.filter(|stated| *stated != kernel) {
            return Err(node.malformed(format!("kernel_shape is {stated:?}, but the weight's is {kernel:?}")));
        }
        let groups = node.int("group", 1)?;
        let groups = usize::try_from(groups).map_err(|_| node.malformed(format!("group is {groups}")))?;
        let conv = Conv {
            weight: self.parameter(node, name, weight)?,
            bias: self.bias(node, 2, out_channels)?,
            out_channels,
            kernel,
            stride: node.sizes("strides")?.unwrap_or([1; 2]),
            pads: node.sizes("pads")?.unwrap_or([0; 4]),
            dilation: node.sizes("dilations")?.unwrap_or([1; 2]),
            groups,
        };
        self.push(node, Op::Conv(conv), vec![input])
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

    fn clip(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        let (min, max) = if node.opset < 11 {
            node.only(&["min", "max"])?;
            (node.float("min", f32::MIN)?, node.float("max", f32::MAX)?)
        } else {
            node.only(&[])?;
            (self.scalar(node, 1, f32::MIN)?, self.scalar(node, 2, f32::MAX)?)
        };
        let input = self.value(node, 0)?;
        self.push(node, Op::Clip(Clip { min, max }), vec![input])
    }

    fn add(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&[])?;
        if let Some(sum) = node.proto.output.first().and_then(|name| self.sums.get(name.as_str())) {
            return Ok(*sum);
        }
        let inputs = vec![self.value(node, 0)?, self.value(node, 1)?];
        self.push(node, Op::Add, inputs)
    }

    fn concat(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["axis"])?;
        let first = self.value(node, 0)?;
        self.axis_is_1(node, first, 0)?;
        let others = (1..node.proto.input.len()).map(|position| self.value(node, position));
        let inputs = std::iter::once(Ok(first)).chain(others).collect::<Result<_, _>>()?;
        self.push(node, Op::Concat, inputs)
    }

    fn max_pool(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"])?;
        let (input, pool) = (self.value(node, 0)?, pool(node)?);
        self.push(node, Op::MaxPool(pool), vec![input])
    }

    fn average_pool(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"])?;
        let (input, pool) = (self.value(node, 0)?, pool(node)?);
        if pool.pads != [0; 4] {
            node.int_is("count_include_pad", 0, 0)?;
        }
        self.push(node, Op::AveragePool(pool), vec![input])
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
        for name in ["alpha", "beta"] {
            let found = node.float(name, 1.0)?;
            if found != 1.0 {
                return Err(node.unsupported(format!("attribute {name:?} is {found}, supported is 1")));
            }
        }
        let transposed = node.int("transB", 0)? != 0;
        let input = self.value(node, 0)?;
        let (weight, out_features) = self.linear_weight(node, transposed)?;
        let bias = self.bias(node, 2, out_features)?;
        self.push(node, Op::Gemm(Gemm { weight, bias, out_features }), vec![input])
    }

    fn mat_mul(&mut self, node: &NodeView<'a>, nodes: &[&'a NodeProto]) -> Result<ValueId, Error> {
        node.only(&[])?;
        let input = self.value(node, 0)?;
        let (weight, out_features) = self.linear_weight(node, false)?;
        let Some((add, position)) = self.bias_behind(node, nodes) else {
            return self.push(node, Op::Gemm(Gemm { weight, bias: None, out_features }), vec![input]);
        };
        let bias = self.bias(&NodeView::new(self.path, self.opset, add), position, out_features)?;
        let sum = self.push(node, Op::Gemm(Gemm { weight, bias, out_features }), vec![input])?;
        self.sums.extend(add.output.first().map(|name| (name.as_str(), sum)));
        Ok(sum)
    }

    /// The `Add` of a constant that alone reads what `node` makes, and the position of the constant.
    fn bias_behind(&self, node: &NodeView<'a>, nodes: &[&'a NodeProto]) -> Option<(&'a NodeProto, usize)> {
        let output = node.proto.output.first()?;
        let add = nodes.iter().find(|n| n.op_type() == "Add" && n.input.len() == 2 && n.input.contains(output))?;
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

    fn required(&self, node: &NodeView<'a>, position: usize) -> Result<(&'a str, Tensor), Error> {
        node.input(position)?;
        Ok(self.constant(node, position)?.expect("the input is there"))
    }

    fn scalar(&self, node: &NodeView<'a>, position: usize, default: f32) -> Result<f32, Error> {
        match self.constant(node, position)? {
            None => Ok(default),
            Some((_, tensor)) if tensor.len() == 1 => Ok(tensor.data()[0]),
            Some((name, tensor)) => {
                Err(node.malformed(format!("input {name:?} has shape {:?}, expected a scalar", tensor.shape())))
            }
        }
    }

    fn integers(&self, node: &NodeView<'a>, position: usize) -> Result<Option<Vec<i64>>, Error> {
        let Some(name) = node.optional_input(position) else { return Ok(None) };
        match self.constants.integers(self.path, name)? {
            Some(values) => Ok(Some(values)),
            None => Err(node.unsupported(format!("input {position} ({name:?}) is computed, supported is a constant"))),
        }
    }

    /// The bias `[features]` at `position`, if there is one; `[1, features]` is the same.
    fn bias(&mut self, node: &NodeView<'a>, position: usize, features: usize) -> Result<Option<String>, Error> {
        let Some((name, tensor)) = self.constant(node, position)? else { return Ok(None) };
        if tensor.len() != features || tensor.shape().iter().rev().skip(1).any(|d| *d != 1) {
            let problem = format!("bias {name:?} has shape {:?}, supported is [{features}]", tensor.shape());
            return Err(node.unsupported(problem));
        }
        let tensor = Tensor::new([features], tensor.data().to_vec());
        self.parameter(node, name, tensor).map(Some)
    }

    /// The weight at position 1 as `[out, in]`, and `out`.
    fn linear_weight(&mut self, node: &NodeView<'a>, transposed: bool) -> Result<(String, usize), Error> {
        let (name, weight) = self.required(node, 1)?;
        let &[rows, cols] = weight.shape() else {
            let problem = format!("weight {name:?} has shape {:?}, supported are two dimensions", weight.shape());
            return Err(node.unsupported(problem));
        };
        let (weight, out_features) = if transposed { (weight, rows) } else { (transpose(&weight, rows, cols), cols) };
        Ok((self.parameter(node, name, weight)?, out_features))
    }
}

fn pool(node: &NodeView) -> Result<Pool, Error> {
    node.no_auto_pad()?;
    node.int_is("ceil_mode", 0, 0)?;
    node.int_is("storage_order", 0, 0)?;
    if let Some(found) = node.sizes::<2>("dilations")?.filter(|d| *d != [1, 1]) {
        return Err(node.unsupported(format!("attribute \"dilations\" is {found:?}, supported is [1, 1]")));
    }
    let kernel = node.sizes("kernel_shape")?.ok_or_else(|| node.malformed("attribute \"kernel_shape\" is missing"))?;
    let stride = node.sizes("strides")?.unwrap_or([1; 2]);
    Ok(Pool { kernel, stride, pads: node.sizes("pads")?.unwrap_or([0; 4]) })
}

fn transpose(matrix: &Tensor, rows: usize, cols: usize) -> Tensor {
    let data = matrix.data();
    let columns = (0..cols).flat_map(|col| (0..rows).map(move |row| data[row * cols + col]));
    Tensor::new([cols, rows], columns.collect())
}
