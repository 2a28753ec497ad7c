//! Constants that a file computes: sparse weights are scattered into zeros, at places that may be stored as gaps.

use sr2_formats::onnx::proto::tensor_proto::DataType;
use sr2_formats::onnx::{tensor_f32, tensor_i64};
use sr2_formats::{Error, Tensor};

use super::constant::{Constants, Value};
use super::node::NodeView;

/// Operators whose output is a constant if all their inputs are.
pub(super) const FOLDED: [&str; 6] = ["ConstantOfShape", "ScatterElements", "Scatter", "CumSum", "Cast", "Reshape"];

impl Constants<'_> {
    /// The output of a node with one of the [`FOLDED`] operators; `depth` is the number of constants that read it.
    pub(super) fn fold(&self, node: &NodeView, depth: usize) -> Result<Value, Error> {
        match node.proto.op_type() {
            "ConstantOfShape" => self.filled(node, depth),
            "CumSum" => self.running_sum(node, depth),
            "Cast" => cast(node, self.input(node, 0, depth)?),
            "Reshape" => {
                node.only(&["allowzero"])?;
                let (value, target) = (self.input(node, 0, depth)?, self.input(node, 1, depth)?.integers(node)?);
                reshaped(node, value, &target)
            }
            _ => self.scattered(node, depth),
        }
    }

    fn input(&self, node: &NodeView, position: usize, depth: usize) -> Result<Value, Error> {
        let value = self.evaluate(node.input(position)?, depth + 1)?;
        Ok(value.expect("all inputs of a folded node are constants"))
    }

    fn filled(&self, node: &NodeView, depth: usize) -> Result<Value, Error> {
        node.only(&["value"])?;
        let dims = self.input(node, 0, depth)?.integers(node)?;
        let shape: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let len = shape.iter().flatten().try_fold(1usize, |n, d| n.checked_mul(*d));
        let (Some(shape), Some(len)) = (shape, len) else {
            return Err(node.malformed(format!("shape {dims:?} is negative or overflows")));
        };
        self.charge(len)?;
        let one = |len: usize| match len {
            1 => Ok(()),
            found => Err(node.malformed(format!("attribute \"value\" holds {found} values, expected 1"))),
        };
        match node.tensor("value")? {
            None => Ok(Value::Floats(Tensor::full(shape, 0.0))),
            Some(tensor) if tensor.data_type() == DataType::Float as i32 => {
                let value = tensor_f32(node.path(), tensor)?;
                one(value.len())?;
                Ok(Value::Floats(Tensor::full(shape, value.data()[0])))
            }
            Some(tensor) => {
                let value = tensor_i64(node.path(), tensor)?;
                one(value.len())?;
                Ok(Value::Integers(shape, vec![value[0]; len]))
            }
        }
    }

    /// `data` with each update at its index; one axis, no index twice.
    fn scattered(&self, node: &NodeView, depth: usize) -> Result<Value, Error> {
        node.only(&["axis", "reduction"])?;
        node.int_is("axis", 0, 0)?;
        let reduction = node.string("reduction", "none")?;
        if reduction != "none" {
            return Err(node.unsupported(format!("attribute \"reduction\" is {reduction:?}, supported is \"none\"")));
        }
        let data = self.input(node, 0, depth)?.floats(node)?;
        let indices = self.input(node, 1, depth)?.integers(node)?;
        let updates = self.input(node, 2, depth)?.floats(node)?;
        let (shape, mut data) = (data.shape().to_vec(), data.into_data());
        if shape.len() != 1 || updates.shape().len() != 1 || updates.len() != indices.len() {
            let (found, n) = (updates.shape(), indices.len());
            let problem = format!("scatters {found:?} to {n} places of {shape:?}, supported are lists of one length");
            return Err(node.unsupported(problem));
        }
        let mut taken = vec![false; data.len()];
        for (k, (index, update)) in indices.iter().zip(updates.data()).enumerate() {
            let place = usize::try_from(*index).ok().filter(|place| *place < data.len()).ok_or_else(|| {
                node.malformed(format!("index {k} is {index}, expected 0 or more and below {}", data.len()))
            })?;
            if std::mem::replace(&mut taken[place], true) {
                return Err(node.malformed(format!("index {k}, {place}, is there twice")));
            }
            data[place] = *update;
        }
        Ok(Value::Floats(Tensor::new(shape, data)))
    }

    fn running_sum(&self, node: &NodeView, depth: usize) -> Result<Value, Error> {
        node.only(&["exclusive", "reverse"])?;
        node.int_is("exclusive", 0, 0)?;
        node.int_is("reverse", 0, 0)?;
        let value = self.input(node, 0, depth)?;
        let axis = self.input(node, 1, depth)?.integers(node)?;
        let Value::Integers(shape, mut data) = value else {
            return Err(node.unsupported("sums floats, supported are integers"));
        };
        if shape.len() != 1 || !matches!(axis[..], [0 | -1]) {
            return Err(node.unsupported(format!("sums shape {shape:?} along {axis:?}, supported is a list")));
        }
        let mut sum = 0i64;
        for (k, value) in data.iter_mut().enumerate() {
            let next = sum.checked_add(*value);
            sum = next.ok_or_else(|| node.malformed(format!("the sum overflows at place {k}")))?;
            *value = sum;
        }
        Ok(Value::Integers(shape, data))
    }
}

/// A change of type that keeps every value.
fn cast(node: &NodeView, value: Value) -> Result<Value, Error> {
    node.only(&["saturate", "to"])?;
    let to = i32::try_from(node.int("to", 0)?).ok().and_then(|to| DataType::try_from(to).ok());
    match (to, value) {
        (Some(DataType::Float), Value::Floats(tensor)) => Ok(Value::Floats(tensor)),
        (Some(DataType::Float), Value::Integers(shape, data)) => {
            Ok(Value::Floats(Tensor::new(shape, data.into_iter().map(|v| v as f32).collect())))
        }
        (Some(DataType::Int64), Value::Integers(shape, data)) => Ok(Value::Integers(shape, data)),
        (Some(DataType::Int32), Value::Integers(shape, data)) if data.iter().all(|v| i32::try_from(*v).is_ok()) => {
            Ok(Value::Integers(shape, data))
        }
        (to, value) => {
            let to = to.map_or("an unknown type", |to| to.as_str_name());
            let from = if matches!(value, Value::Floats(_)) { "floats" } else { "integers" };
            Err(node.unsupported(format!("casts {from} to {to}, supported is to FLOAT, or integers to INT32 or INT64")))
        }
    }
}

/// One size may be -1, "whatever is left"; 0 keeps the size of that axis.
fn reshaped(node: &NodeView, value: Value, target: &[i64]) -> Result<Value, Error> {
    node.int_is("allowzero", 0, 0)?;
    let (from, len) = value.shape();
    let mismatch = || node.malformed(format!("reshapes {from:?} to {target:?}"));
    let sizes: Option<Vec<Option<usize>>> = target
        .iter()
        .enumerate()
        .map(|(axis, size)| match size {
            -1 => Some(None),
            0 => from.get(axis).map(|size| Some(*size)),
            size => usize::try_from(*size).ok().map(Some),
        })
        .collect();
    let sizes = sizes.ok_or_else(mismatch)?;
    let known = sizes.iter().flatten().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or_else(mismatch)?;
    let rest = match sizes.iter().filter(|size| size.is_none()).count() {
        0 if known == len => 1,
        1 if known > 0 && len.is_multiple_of(known) => len / known,
        _ => return Err(mismatch()),
    };
    let shape: Vec<usize> = sizes.iter().map(|size| size.unwrap_or(rest)).collect();
    Ok(match value {
        Value::Floats(tensor) => Value::Floats(Tensor::new(shape, tensor.into_data())),
        Value::Integers(_, data) => Value::Integers(shape, data),
    })
}
