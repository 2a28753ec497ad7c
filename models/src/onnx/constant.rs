//! What is known of an ONNX graph without running it: initializers, `Constant` nodes, and what folds to a constant.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;

use sr2_formats::onnx::proto::tensor_proto::DataType;
use sr2_formats::onnx::proto::{AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto};
use sr2_formats::onnx::{sparse_tensor_f32, tensor_f32, tensor_i64};
use sr2_formats::{Error, Tensor};

use super::fold::FOLDED;
use super::node::{NodeView, is_onnx};

/// Constants by name; a tensor is only decoded where an operator asks for it.
pub(super) struct Constants<'a> {
    path: &'a Path,
    opset: i64,
    by_name: HashMap<&'a str, Constant<'a>>,
    /// Values that may still be decoded.
    budget: Cell<usize>,
}

#[derive(Clone, Copy)]
enum Constant<'a> {
    Dense(&'a TensorProto),
    Sparse(&'a SparseTensorProto),
    Float(&'a AttributeProto),
    Floats(&'a AttributeProto),
    Int(&'a AttributeProto),
    Ints(&'a AttributeProto),
    Folded(&'a NodeProto),
}

/// A constant in one of the two types that are told apart here.
pub(super) enum Value {
    Floats(Tensor),
    /// Shape and values.
    Integers(Vec<usize>, Vec<i64>),
}

/// Constants may be computed from constants to this depth.
const MAX_DEPTH: usize = 32;

/// Values that all constants together may decode to: those a file of `bytes` can hold, and as many again as sparse
/// forms may stand for. A small file stays small in memory, and no file makes its reader decode one tensor for ever.
fn budget(bytes: usize) -> usize {
    let expanded = (1 << 22) + bytes.saturating_mul(1 << 10);
    bytes.saturating_mul(2).saturating_add(expanded.min(1 << 28))
}

impl<'a> Constants<'a> {
    pub(super) fn new(path: &'a Path, opset: i64, graph: &'a GraphProto, file_bytes: usize) -> Result<Self, Error> {
        let dense = graph.initializer.iter().map(|t| (t.name(), Constant::Dense(t)));
        let sparse = graph.sparse_initializer.iter();
        let sparse = sparse.filter_map(|t| t.values.as_ref().map(|values| (values.name(), Constant::Sparse(t))));
        let mut constants = Self { path, opset, by_name: HashMap::new(), budget: Cell::new(budget(file_bytes)) };
        for (name, constant) in dense.chain(sparse) {
            constants.insert(name, constant)?;
        }
        for node in &graph.node {
            if let (Some(output), Some(constant)) = (node.output.first(), constants.made_by(node)) {
                constants.insert(output, constant)?;
            }
        }
        Ok(constants)
    }

    fn insert(&mut self, name: &'a str, constant: Constant<'a>) -> Result<(), Error> {
        match self.by_name.insert(name, constant) {
            None => Ok(()),
            Some(_) => {
                Err(Error::malformed(self.path, format!("two constants are named {name:?}, expected unique names")))
            }
        }
    }

    fn made_by(&self, node: &'a NodeProto) -> Option<Constant<'a>> {
        if !is_onnx(node.domain()) {
            return None;
        }
        match (node.op_type(), &node.attribute[..], &node.input[..]) {
            ("Identity", _, [input]) => self.by_name.get(input.as_str()).copied(),
            ("Constant", [attribute], _) => match attribute.name() {
                "value" => attribute.t.as_ref().map(Constant::Dense),
                "sparse_value" => attribute.sparse_tensor.as_ref().map(Constant::Sparse),
                "value_float" => Some(Constant::Float(attribute)),
                "value_floats" => Some(Constant::Floats(attribute)),
                "value_int" => Some(Constant::Int(attribute)),
                "value_ints" => Some(Constant::Ints(attribute)),
                _ => None,
            },
            (op, _, inputs) if FOLDED.contains(&op) && !inputs.is_empty() && inputs.iter().all(|i| self.has(i)) => {
                Some(Constant::Folded(node))
            }
            _ => None,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A float constant; `None` if nothing constant has that name.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Tensor>, Error> {
        match self.evaluate(name, 0)? {
            None => Ok(None),
            Some(Value::Floats(tensor)) => Ok(Some(tensor)),
            Some(Value::Integers(..)) => Err(self.wrong_type(name, "integer", "float")),
        }
    }

    /// An integer constant, flat; `None` if nothing constant has that name.
    pub(super) fn integers(&self, name: &str) -> Result<Option<Vec<i64>>, Error> {
        match self.evaluate(name, 0)? {
            None => Ok(None),
            Some(Value::Integers(_, values)) => Ok(Some(values)),
            Some(Value::Floats(_)) => Err(self.wrong_type(name, "float", "integer")),
        }
    }

    /// A constant that `depth` others are computed from.
    pub(super) fn evaluate(&self, name: &str, depth: usize) -> Result<Option<Value>, Error> {
        let Some(constant) = self.by_name.get(name) else { return Ok(None) };
        if depth > MAX_DEPTH {
            let problem = format!("constant {name:?} is more than {MAX_DEPTH} computations deep");
            return Err(Error::unsupported(self.path, problem));
        }
        Ok(Some(match constant {
            Constant::Dense(tensor) => {
                self.charge(size(&tensor.dims))?;
                match DataType::try_from(tensor.data_type()) {
                    Ok(DataType::Int64 | DataType::Int32 | DataType::Uint8) => {
                        let shape = tensor.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
                        Value::Integers(shape, tensor_i64(self.path, tensor)?)
                    }
                    _ => Value::Floats(tensor_f32(self.path, tensor)?),
                }
            }
            Constant::Sparse(tensor) => {
                self.charge(size(&tensor.dims))?;
                Value::Floats(sparse_tensor_f32(self.path, tensor)?)
            }
            Constant::Float(attribute) => Value::Floats(Tensor::new([], vec![attribute.f()])),
            Constant::Floats(attribute) => {
                self.charge(attribute.floats.len())?;
                Value::Floats(Tensor::new([attribute.floats.len()], attribute.floats.clone()))
            }
            Constant::Int(attribute) => Value::Integers(Vec::new(), vec![attribute.i()]),
            Constant::Ints(attribute) => {
                self.charge(attribute.ints.len())?;
                Value::Integers(vec![attribute.ints.len()], attribute.ints.clone())
            }
            Constant::Folded(node) => {
                self.charge(0)?;
                self.fold(&NodeView::new(self.path, self.opset, node), depth)?
            }
        }))
    }

    /// Takes `values` from the budget.
    pub(super) fn charge(&self, values: usize) -> Result<(), Error> {
        /// What a decoding costs beside its values.
        const LEAST: usize = 64;
        match self.budget.get().checked_sub(values.max(LEAST)) {
            Some(left) => {
                self.budget.set(left);
                Ok(())
            }
            None => Err(Error::unsupported(
                self.path,
                format!("its constants stand for far more values than its size allows, at one of {values} values"),
            )),
        }
    }

    fn wrong_type(&self, name: &str, found: &str, expected: &str) -> Error {
        Error::malformed(self.path, format!("constant {name:?} is {found}, expected {expected}"))
    }
}

/// Number of values of a tensor; what is negative or overflows is refused where the tensor is read.
fn size(dims: &[i64]) -> usize {
    dims.iter().fold(1, |n, d| n.saturating_mul(usize::try_from(*d).unwrap_or(0)))
}

impl Value {
    /// Shape and number of values.
    pub(super) fn shape(&self) -> (Vec<usize>, usize) {
        match self {
            Self::Floats(tensor) => (tensor.shape().to_vec(), tensor.len()),
            Self::Integers(shape, values) => (shape.clone(), values.len()),
        }
    }

    pub(super) fn floats(self, reader: &NodeView) -> Result<Tensor, Error> {
        match self {
            Self::Floats(tensor) => Ok(tensor),
            Self::Integers(..) => Err(reader.malformed("reads integers, expected floats")),
        }
    }

    pub(super) fn integers(self, reader: &NodeView) -> Result<Vec<i64>, Error> {
        match self {
            Self::Integers(_, values) => Ok(values),
            Self::Floats(_) => Err(reader.malformed("reads floats, expected integers")),
        }
    }
}
