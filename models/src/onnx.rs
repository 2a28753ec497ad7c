//! Import of ONNX networks.

mod constant;
mod convert;
mod elementwise;
mod fold;
mod node;
mod reshape;
mod window;

use std::collections::HashMap;
use std::path::Path;

use sr2_formats::onnx::proto::tensor_proto::DataType;
use sr2_formats::onnx::proto::tensor_shape_proto::dimension::Value as Dimension;
use sr2_formats::onnx::proto::type_proto::Value as Type;
use sr2_formats::onnx::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use sr2_formats::{Error, Tensor, TensorMap};

use crate::graph::check_input;
use crate::{GraphBuilder, Model, Node, Op, ValueId};
use constant::Constants;
use node::NodeView;

/// Oldest and newest version of the operators whose meaning is known here.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

/// Reads a network from an ONNX file.
///
/// The file must hold one graph with one input, an image `[N, C, H, W]` or features `[N, C]` (N may be symbolic), and
/// one output. Supported are the operators of [`Op`], and those that come down to them:
/// - `Identity` and `Dropout` vanish;
/// - `auto_pad`, `ceil_mode` and `count_include_pad` become padding;
/// - the sum or product of an image and constants, one a channel, becomes a convolution of each channel by itself;
/// - `Reshape` to `[N, -1]`, written or computed as `x.view(x.size(0), -1)` is, becomes `Flatten`;
/// - `ReduceMean` over height and width becomes `GlobalAveragePool`, with a `Flatten` unless `keepdims`;
/// - `MatMul` by a constant, with an `Add` of a constant behind it if there is one, becomes `Gemm`.
///
/// Weights may be dense, `sparse_initializer`, `sparse_value`, or computed from constants: `ConstantOfShape`, then
/// `ScatterElements`, then `Reshape`, with indices that are stored or are the `CumSum` of gaps, of any width by `Cast`.
///
/// Parameters have the names of their initializers, or of the `Constant` or `Identity` output that they come from.
/// Nodes that do not lead to the output are left out. Batch norm computes with its running statistics.
///
/// # Errors
/// Anything else names the file, the node and its operator, and what is supported.
pub fn import(path: impl AsRef<Path>) -> Result<Model, Error> {
    let path = path.as_ref();
    let model = sr2_formats::onnx::read(path)?;
    let opset = opset(path, &model)?;
    let graph = model.graph.as_ref().ok_or_else(|| Error::malformed(path, "has no graph"))?;
    Importer::new(path, opset, graph, sr2_formats::onnx::size(&model))?.run()
}

fn opset(path: &Path, model: &ModelProto) -> Result<i64, Error> {
    let own = model.opset_import.iter().find(|set| node::is_onnx(set.domain()));
    let version =
        own.ok_or_else(|| Error::malformed(path, "does not name its version of the ONNX operators"))?.version();
    if !OPSETS.contains(&version) {
        let (first, last) = (OPSETS.start(), OPSETS.end());
        let problem = format!(
            "uses ONNX operators of version {version}; supported are {first} to {last}: convert it with \
             onnx.version_converter.convert_version(model, 17)"
        );
        return Err(Error::unsupported(path, problem));
    }
    Ok(version)
}

/// State of an import: what each name stands for, and the graph so far.
struct Importer<'a> {
    path: &'a Path,
    opset: i64,
    graph: &'a GraphProto,
    /// Name of the input, and whether it is `[N, F]`, which is read as an image of one place and F channels.
    input: &'a str,
    flat: bool,
    /// The batch size, where the file fixes it.
    batch: Option<usize>,
    constants: Constants<'a>,
    values: HashMap<&'a str, ValueId>,
    /// How often each name is read, by nodes that lead to the output or as the output.
    reads: HashMap<&'a str, usize>,
    /// The node that makes each name.
    makers: HashMap<&'a str, &'a NodeProto>,
    /// An `Add` that reads each name, of the nodes that lead to the output.
    adds: HashMap<&'a str, &'a NodeProto>,
    /// Outputs of the `Add` nodes that became the bias of the `Gemm` which makes this value.
    sums: HashMap<&'a str, ValueId>,
    builder: GraphBuilder,
    /// Names of the nodes so far, and the next suffix to try for each that is taken again.
    node_names: HashMap<String, usize>,
    parameters: TensorMap,
}

impl<'a> Importer<'a> {
    fn new(path: &'a Path, opset: i64, graph: &'a GraphProto, file_bytes: usize) -> Result<Self, Error> {
        let constants = Constants::new(path, opset, graph, file_bytes)?;
        let inputs: Vec<_> = graph.input.iter().filter(|i| !constants.has(i.name())).collect();
        let [input] = inputs[..] else {
            let problem = format!("has {} inputs, supported is one image input [N, C, H, W]", inputs.len());
            return Err(Error::unsupported(path, problem));
        };
        let (batch, image, flat) = image_shape(path, input)?;
        check_input(&image).map_err(|problem| Error::unsupported(path, problem))?;
        let name = if graph.name().is_empty() { "network" } else { graph.name() };
        Ok(Self {
            path,
            opset,
            graph,
            input: input.name(),
            flat,
            batch,
            constants,
            values: HashMap::from([(input.name(), 0)]),
            reads: HashMap::new(),
            makers: graph.node.iter().flat_map(|n| n.output.iter().map(move |name| (name.as_str(), n))).collect(),
            adds: HashMap::new(),
            sums: HashMap::new(),
            builder: GraphBuilder::new(name, &image),
            node_names: HashMap::new(),
            parameters: TensorMap::new(),
        })
    }

    fn run(mut self) -> Result<Model, Error> {
        let [output] = &self.graph.output[..] else {
            let problem = format!("has {} outputs, supported is one", self.graph.output.len());
            return Err(Error::unsupported(self.path, problem));
        };
        let nodes = self.nodes_to(output.name());
        let adds = nodes.iter().filter(|n| n.op_type() == "Add");
        self.adds = adds.flat_map(|n| n.input.iter().map(|name| (name.as_str(), *n))).collect();
        if self.flat {
            let (name, flatten) = (self.unique(self.input), Op::Flatten);
            let value = self.builder.push(Node { name, op: flatten, inputs: vec![0] });
            let value = value.map_err(|e| Error::unsupported(self.path, e.to_string()))?;
            self.values.insert(self.input, value);
        }
        for node in nodes {
            let view = NodeView::new(self.path, self.opset, node);
            let value = self.convert(&view)?;
            let name = node.output.first().filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| view.malformed("has no output"))?;
            if self.values.insert(name, value).is_some() {
                return Err(view.malformed(format!("makes {name:?}, which exists already")));
            }
        }
        let Some(&value) = self.values.get(output.name()) else {
            return Err(Error::malformed(self.path, format!("no node makes the output {:?}", output.name())));
        };
        if value != self.builder.last() || value == 0 {
            // The nodes behind it were all copies.
            let node = Node { name: self.unique(output.name()), op: Op::Identity, inputs: vec![value] };
            self.builder.push(node).map_err(|e| Error::unsupported(self.path, e.to_string()))?;
        }
        let graph = self.builder.finish().map_err(|e| Error::unsupported(self.path, e.to_string()))?;
        Model::try_read(graph, self.parameters).map_err(|e| Error::malformed(self.path, e.to_string()))
    }

    /// The nodes that lead to `output` and are no constants, in the file's order, which ONNX wants topological.
    ///
    /// The output's own node is the last of them, as [`crate::Graph`] asks. Counts the reads on the way.
    fn nodes_to(&mut self, output: &'a str) -> Vec<&'a NodeProto> {
        let nodes = &self.graph.node;
        let makers: HashMap<&str, usize> =
            nodes.iter().enumerate().flat_map(|(i, n)| n.output.iter().map(move |name| (name.as_str(), i))).collect();
        let mut needed = vec![false; nodes.len()];
        let mut pending = vec![output];
        while let Some(name) = pending.pop() {
            *self.reads.entry(name).or_default() += 1;
            if let Some(&maker) = makers.get(name).filter(|_| !self.constants.has(name))
                && !std::mem::replace(&mut needed[maker], true)
            {
                let inputs = nodes[maker].input.iter().map(String::as_str).filter(|name| !name.is_empty());
                // The second input of a Reshape is looked at by itself: it may be a computed shape.
                let values = if nodes[maker].op_type() == "Reshape" { 1 } else { usize::MAX };
                pending.extend(inputs.take(values));
            }
        }
        nodes.iter().zip(needed).filter_map(|(node, needed)| needed.then_some(node)).collect()
    }

    /// The value that a node reads at `position`.
    fn value(&self, node: &NodeView<'a>, position: usize) -> Result<ValueId, Error> {
        let name = node.input(position)?;
        if self.constants.has(name) {
            return Err(node.unsupported(format!("input {position} ({name:?}) is a constant, supported is a value")));
        }
        let value = self.values.get(name).copied();
        value.ok_or_else(|| node.malformed(format!("reads {name:?}, which nothing before it makes")))
    }

    /// The float constant that a node reads at `position`, with its name; `None` if that input is left out.
    fn constant(&self, node: &NodeView<'a>, position: usize) -> Result<Option<(&'a str, Tensor)>, Error> {
        let Some(name) = node.optional_input(position) else { return Ok(None) };
        let tensor = self.constants.floats(name)?;
        let tensor = tensor.ok_or_else(|| {
            node.unsupported(format!("input {position} ({name:?}) is no constant, supported are constant parameters"))
        })?;
        if tensor.is_empty() {
            let problem = format!("parameter {name:?} has shape {:?}, expected no dimension of 0", tensor.shape());
            return Err(node.malformed(problem));
        }
        if let Some(index) = tensor.data().iter().position(|v| !v.is_finite()) {
            let found = tensor.data()[index];
            return Err(node.malformed(format!("parameter {name:?} [{index}] is {found}, expected finite")));
        }
        Ok(Some((name, tensor)))
    }

    /// Appends an operator under the node's name, made unique.
    fn push(&mut self, node: &NodeView, op: Op, inputs: Vec<ValueId>) -> Result<ValueId, Error> {
        let name = self.unique(node.name());
        self.builder.push(Node { name, op, inputs }).map_err(|e| node.unsupported(e.problem))
    }

    /// `base`, with a number appended if a node has that name already.
    fn unique(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        while self.node_names.contains_key(&name) {
            let taken = self.node_names.entry(base.into()).or_insert(1);
            *taken += 1;
            name = format!("{base}_{taken}");
        }
        self.node_names.insert(name.clone(), 1);
        name
    }

    /// Registers a parameter; returns its name in the graph.
    fn parameter(&mut self, node: &NodeView, name: &str, tensor: Tensor) -> Result<String, Error> {
        match self.parameters.get(name) {
            Some(known) if *known != tensor => {
                Err(node.unsupported(format!("parameter {name:?} is used in two layouts, supported is one")))
            }
            Some(_) => Ok(name.into()),
            None => {
                self.parameters.insert(name.into(), tensor);
                Ok(name.into())
            }
        }
    }
}

/// Batch size, if fixed, `[C, H, W]` of the input, and whether it is written as features `[N, C]`.
fn image_shape(path: &Path, input: &ValueInfoProto) -> Result<(Option<usize>, Vec<usize>, bool), Error> {
    let tensor = match input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(Type::TensorType(tensor)) if tensor.elem_type() == DataType::Float as i32 => tensor,
        _ => {
            let problem = format!("input {:?} is not a tensor of type FLOAT, the only one supported", input.name());
            return Err(Error::unsupported(path, problem));
        }
    };
    let dims: Vec<_> = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| &dim.value).collect();
    let fixed = |dim: &Option<Dimension>| match dim {
        Some(Dimension::DimValue(size)) => usize::try_from(*size).ok().filter(|size| *size > 0),
        _ => None,
    };
    let image: Option<Vec<usize>> = dims.iter().skip(1).map(|dim| fixed(dim)).collect();
    match image {
        Some(image) if image.len() == 3 => Ok((fixed(dims[0]), image, false)),
        Some(features) if features.len() == 1 => Ok((fixed(dims[0]), vec![features[0], 1, 1], true)),
        _ => {
            let text = |dim: &&Option<Dimension>| match dim {
                Some(Dimension::DimValue(size)) => size.to_string(),
                Some(Dimension::DimParam(name)) => name.clone(),
                None => "?".into(),
            };
            let found: Vec<_> = dims.iter().map(text).collect();
            let problem = format!(
                "input {:?} has shape [{}], supported are [N, C, H, W] and [N, C] with all but N fixed; fix them with \
                 python -m onnxruntime.tools.make_dynamic_shape_fixed",
                input.name(),
                found.join(", ")
            );
            Err(Error::unsupported(path, problem))
        }
    }
}

#[cfg(test)]
mod tests;
