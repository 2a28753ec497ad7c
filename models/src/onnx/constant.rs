//! What is known of an ONNX graph without running it: initializers, `Constant` nodes, and `Identity` of either.

use std::collections::HashMap;
use std::path::Path;

use sr2_formats::onnx::proto::{AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto};
use sr2_formats::onnx::{sparse_tensor_f32, tensor_f32, tensor_i64};
use sr2_formats::{Error, Tensor};

use super::node::is_onnx;

/// Constants by name; a tensor is only decoded where an operator asks for it.
pub(super) struct Constants<'a>(HashMap<&'a str, Constant<'a>>);

#[derive(Clone, Copy)]
enum Constant<'a> {
    Dense(&'a TensorProto),
    Sparse(&'a SparseTensorProto),
    Float(&'a AttributeProto),
    Floats(&'a AttributeProto),
    Int(&'a AttributeProto),
    Ints(&'a AttributeProto),
}

impl<'a> Constants<'a> {
    pub(super) fn new(path: &Path, graph: &'a GraphProto) -> Result<Self, Error> {
        let dense = graph.initializer.iter().map(|t| (t.name(), Constant::Dense(t)));
        let sparse = graph.sparse_initializer.iter();
        let sparse = sparse.filter_map(|t| t.values.as_ref().map(|values| (values.name(), Constant::Sparse(t))));
        let mut constants = Self(HashMap::new());
        for (name, constant) in dense.chain(sparse) {
            constants.insert(path, name, constant)?;
        }
        for node in &graph.node {
            if let (Some(output), Some(constant)) = (node.output.first(), constants.made_by(node)) {
                constants.insert(path, output, constant)?;
            }
        }
        Ok(constants)
    }

    fn insert(&mut self, path: &Path, name: &'a str, constant: Constant<'a>) -> Result<(), Error> {
        match self.0.insert(name, constant) {
            None => Ok(()),
            Some(_) => Err(Error::malformed(path, format!("two constants are named {name:?}, expected unique names"))),
        }
    }

    fn made_by(&self, node: &'a NodeProto) -> Option<Constant<'a>> {
        if !is_onnx(node.domain()) {
            return None;
        }
        match (node.op_type(), &node.attribute[..], &node.input[..]) {
            ("Identity", _, [input]) => self.0.get(input.as_str()).copied(),
            ("Constant", [attribute], _) => match attribute.name() {
                "value" => attribute.t.as_ref().map(Constant::Dense),
                "sparse_value" => attribute.sparse_tensor.as_ref().map(Constant::Sparse),
                "value_float" => Some(Constant::Float(attribute)),
                "value_floats" => Some(Constant::Floats(attribute)),
                "value_int" => Some(Constant::Int(attribute)),
                "value_ints" => Some(Constant::Ints(attribute)),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A float constant; `None` if nothing constant has that name.
    pub(super) fn floats(&self, path: &Path, name: &str) -> Result<Option<Tensor>, Error> {
        Ok(Some(match self.0.get(name) {
            None => return Ok(None),
            Some(Constant::Dense(tensor)) => tensor_f32(path, tensor)?,
            Some(Constant::Sparse(tensor)) => sparse_tensor_f32(path, tensor)?,
            Some(Constant::Float(attribute)) => Tensor::new([], vec![attribute.f()]),
            Some(Constant::Floats(attribute)) => Tensor::new([attribute.floats.len()], attribute.floats.clone()),
            Some(Constant::Int(_) | Constant::Ints(_)) => return Err(wrong_type(path, name, "integer", "float")),
        }))
    }

    /// An integer constant, flat; `None` if nothing constant has that name.
    pub(super) fn integers(&self, path: &Path, name: &str) -> Result<Option<Vec<i64>>, Error> {
        Ok(Some(match self.0.get(name) {
            None => return Ok(None),
            Some(Constant::Dense(tensor)) => tensor_i64(path, tensor)?,
            Some(Constant::Int(attribute)) => vec![attribute.i()],
            Some(Constant::Ints(attribute)) => attribute.ints.clone(),
            Some(_) => return Err(wrong_type(path, name, "float or sparse", "integer")),
        }))
    }
}

fn wrong_type(path: &Path, name: &str, found: &str, expected: &str) -> Error {
    Error::malformed(path, format!("constant {name:?} is {found}, expected {expected}"))
}
