//! What is on disk: every file that one stage of sr2-prune writes and another reads.
//!
//! Everything read is validated once, here, into types with private fields; everything written goes through one
//! atomic writer. No other crate parses bytes from outside.

mod atomic;
pub mod bitmask;
mod container;
mod csr;
pub mod csr_file;
pub mod dense;
mod error;
mod header;
mod lossy_path;
pub mod npz;
pub mod onnx;
mod regular_file;
pub mod srz;
mod tensor;

pub use atomic::{is_temporary, remove_unfinished, write_atomic};
pub use csr::{CsrError, CsrMatrix};
pub use error::{Error, ErrorKind, Result};
pub use lossy_path::lossy_path;
pub use tensor::{Tensor, TensorMap};
