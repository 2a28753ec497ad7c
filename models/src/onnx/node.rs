//! One ONNX node: its inputs, its attributes with their defaults, and errors that name it.

use std::path::Path;

use sr2_formats::Error;
use sr2_formats::onnx::proto::attribute_proto::AttributeType;
use sr2_formats::onnx::proto::{AttributeProto, NodeProto, TensorProto};

/// A node of the file at `path`, with operators of version `opset`.
pub(super) struct NodeView<'a> {
    path: &'a Path,
    pub(super) opset: i64,
    pub(super) proto: &'a NodeProto,
}

/// Whether a domain is that of the standard operators.
pub(super) fn is_onnx(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

impl<'a> NodeView<'a> {
    pub(super) fn new(path: &'a Path, opset: i64, proto: &'a NodeProto) -> Self {
        Self { path, opset, proto }
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// The node's name, or else its output's.
    pub(super) fn name(&self) -> &'a str {
        let output = self.proto.output.first().map_or("", String::as_str);
        if self.proto.name().is_empty() { output } else { self.proto.name() }
    }

    /// Valid, but not done here.
    pub(super) fn unsupported(&self, problem: impl AsRef<str>) -> Error {
        Error::unsupported(self.path, self.at(problem.as_ref()))
    }

    /// Against the rules of ONNX.
    pub(super) fn malformed(&self, problem: impl AsRef<str>) -> Error {
        Error::malformed(self.path, self.at(problem.as_ref()))
    }

    fn at(&self, problem: &str) -> String {
        format!("node {:?} ({}): {problem}", self.name(), self.proto.op_type())
    }

    /// Name of a required input.
    pub(super) fn input(&self, position: usize) -> Result<&'a str, Error> {
        self.optional_input(position).ok_or_else(|| self.malformed(format!("input {position} is missing")))
    }

    /// Name of an input, unless it is left out.
    pub(super) fn optional_input(&self, position: usize) -> Option<&'a str> {
        self.proto.input.get(position).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Refuses attributes other than these: one that is not known here may change the result.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), Error> {
        let unknown = self.proto.attribute.iter().find(|a| !names.contains(&a.name()));
        match unknown.map(AttributeProto::name) {
            Some(name) if names.is_empty() => Err(self.unsupported(format!("attribute {name:?}; none is supported"))),
            Some(name) => Err(self.unsupported(format!("attribute {name:?}; supported are {}", names.join(", ")))),
            None => Ok(()),
        }
    }

    fn attribute(&self, name: &str, expected: AttributeType) -> Result<Option<&'a AttributeProto>, Error> {
        match self.proto.attribute.iter().find(|a| a.name() == name) {
            Some(attribute) if attribute.r#type() != expected => {
                let (found, expected) = (attribute.r#type().as_str_name(), expected.as_str_name());
                Err(self.malformed(format!("attribute {name:?} is {found}, expected {expected}")))
            }
            found => Ok(found),
        }
    }

    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, Error> {
        Ok(self.attribute(name, AttributeType::Int)?.map_or(default, AttributeProto::i))
    }

    pub(super) fn string(&self, name: &str, default: &str) -> Result<String, Error> {
        let found = self.attribute(name, AttributeType::String)?;
        Ok(found.map_or_else(|| default.into(), |a| String::from_utf8_lossy(a.s()).into_owned()))
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, Error> {
        Ok(self.attribute(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, Error> {
        Ok(self.attribute(name, AttributeType::Float)?.map_or(default, AttributeProto::f))
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Error> {
        Ok(self.attribute(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    /// `N` non-negative integers: a size along each of two axes, or at each of four borders.
    pub(super) fn sizes<const N: usize>(&self, name: &str) -> Result<Option<[usize; N]>, Error> {
        let Some(found) = self.ints(name)? else { return Ok(None) };
        let sizes: Option<Vec<usize>> = found.iter().map(|v| usize::try_from(*v).ok()).collect();
        let sizes = sizes.and_then(|sizes| sizes.try_into().ok());
        let problem = || format!("attribute {name:?} is {found:?}, supported are {N} non-negative integers");
        sizes.map(Some).ok_or_else(|| self.unsupported(problem()))
    }

    /// Refuses an attribute whose value is not the only one supported.
    pub(super) fn int_is(&self, name: &str, default: i64, supported: i64) -> Result<(), Error> {
        match self.int(name, default)? {
            found if found == supported => Ok(()),
            found => Err(self.unsupported(format!("attribute {name:?} is {found}, supported is {supported}"))),
        }
    }
}
