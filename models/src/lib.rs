//! What a network is: a graph with ONNX semantics, its parameters, a zoo of CIFAR networks and their initialisation.
//!
//! A network is data. `sr2-train` interprets the graph forward and backward, `sr2-export` rewrites and writes it,
//! `sr2-infer` compiles it to a plan; none of them knows the others.

pub mod checkpoint;
mod compressed;
pub mod csr;
mod graph;
pub mod initialisation;
mod model;
pub mod onnx;
mod op;
pub mod passes;
pub mod reference;
pub mod zoo;

pub use compressed::{CompressedModel, Weight};
pub use graph::{Graph, GraphBuilder, GraphError, Node, ValueId};
pub use model::{Model, ModelError};
pub use op::{
    BatchNormalization, Clip, Conv, Gemm, HardSigmoid, LeakyRelu, Op, Pad, ParameterRole, ParameterSpec, Pool,
};
