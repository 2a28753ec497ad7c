//! The one reshape a classifier needs: the batch stays, the rest becomes one axis.

use sr2_formats::Error;
use sr2_formats::onnx::proto::NodeProto;

use super::Importer;
use super::node::NodeView;
use crate::{Op, ValueId};

/// What a target shape holds for "as in the input".
const SAME: i64 = 0;
/// What a target shape holds for "whatever is left".
const REST: i64 = -1;

impl<'a> Importer<'a> {
    /// `Reshape` to `[N, -1]` in any spelling.
    pub(super) fn reshape(&mut self, node: &NodeView<'a>) -> Result<ValueId, Error> {
        node.only(&["allowzero"])?;
        node.int_is("allowzero", 0, 0)?;
        let input = self.value(node, 0)?;
        let target = self.target_shape(node)?;
        let features = self.builder.shape(input).iter().product::<usize>() as i64;
        let flattens = match target[..] {
            [SAME, rest] => rest == REST || rest == features,
            [REST, rest] => rest == features,
            [n, rest] => self.batch.map(|n| n as i64) == Some(n) && (rest == REST || rest == features),
            _ => false,
        };
        if !flattens {
            let problem = format!("reshapes to {target:?}, supported is flattening: [0, -1] or [-1, {features}]");
            return Err(node.unsupported(problem));
        }
        self.push(node, Op::Flatten, vec![input])
    }

    /// The shape that a `Reshape` asks for: a constant, or constants behind the batch size of a value, which is how
    /// PyTorch exports `x.view(x.size(0), -1)`.
    fn target_shape(&self, node: &NodeView<'a>) -> Result<Vec<i64>, Error> {
        let name = node.input(1)?;
        if let Some(target) = self.constants.integers(name)? {
            return Ok(target);
        }
        let computed = || node.unsupported(format!("shape {name:?} is computed; in PyTorch use torch.flatten(x, 1)"));
        let concat = self.maker(name, "Concat").ok_or_else(computed)?;
        let mut target = Vec::new();
        for part in &concat.input {
            match self.constants.integers(part)? {
                Some(sizes) => target.extend(sizes),
                None if target.is_empty() && self.is_batch_size(part) => target.push(SAME),
                None => return Err(computed()),
            }
        }
        Ok(target)
    }

    /// Whether `name` is `Unsqueeze(Gather(Shape(value), 0))`.
    fn is_batch_size(&self, name: &str) -> bool {
        let gather = self.maker(name, "Unsqueeze").and_then(|n| self.maker(n.input.first()?, "Gather"));
        let Some([shape, index]) = gather.map(|n| &n.input[..]) else { return false };
        let first = matches!(self.constants.integers(index), Ok(Some(index)) if index == [0]);
        let whole = self.maker(shape, "Shape").filter(|n| n.attribute.is_empty());
        first && whole.is_some_and(|n| n.input.first().is_some_and(|v| self.values.contains_key(v.as_str())))
    }

    /// The node that makes `name`, if it is an `operator`.
    fn maker(&self, name: &str, operator: &str) -> Option<&'a NodeProto> {
        self.makers.get(name).copied().filter(|node| node.op_type() == operator)
    }
}
