//! What can go wrong before and while an engine runs.

use sr2_kernels::IsaError;

/// An engine that could not be made, or was given other than it was made for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's file could not be read.
    #[error(transparent)]
    File(#[from] sr2_formats::Error),
    /// The instruction set asked for is not there.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// The network has an operator the engine does not run.
    #[error("node {node:?}: the engine does not run operator {op}")]
    Operator {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: String,
    },
    /// A weight that cannot be compressed, for instance because a value is not finite.
    #[error("weight {name:?}: {problem}")]
    Weight {
        /// Name of the parameter.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor too large for the engine's 32-bit offsets.
    #[error("node {node:?}: an activation of {channels} x {height} x {width} is too large for the engine")]
    Size {
        /// Name of the node.
        node: String,
        /// Channels.
        channels: usize,
        /// Height with padding.
        height: usize,
        /// Width with padding.
        width: usize,
    },
    /// A network that takes more memory than the engine plans for.
    #[error("the network's {what} take {found} bytes, supported are {limit}; use a smaller batch, image or network")]
    Memory {
        /// What takes it.
        what: &'static str,
        /// Its bytes: of activations those of one pass, and of where they are.
        found: usize,
        /// The most it may be.
        limit: usize,
    },
    /// An option out of range.
    #[error("option {option} is {found}, expected {expected}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        found: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// Images and outputs that are not those of a number of images.
    #[error("images hold {images} values and outputs {outputs}, expected {input} and {output} for each image")]
    Length {
        /// Values found in the images.
        images: usize,
        /// Values found in the outputs.
        outputs: usize,
        /// Values of one image.
        input: usize,
        /// Values of its output.
        output: usize,
    },
    /// A file that holds no tuning.
    #[error("{}: {problem}; measure it again with `bench --tune`", path.display())]
    TuningFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tuning that was measured for something else.
    #[error("the tuning's {what} is {found}, expected {expected}; measure it for this use with `bench --tune`")]
    TuningMismatch {
        /// What differs.
        what: &'static str,
        /// What the tuning says.
        found: String,
        /// What it would have to say.
        expected: String,
    },
    /// Scratch memory that another engine made.
    #[error("the scratch was made by another engine, expected one of this engine's")]
    Scratch,
    /// The system refused a thread, or to keep it on one CPU.
    #[error("cannot start {threads} threads: {problem}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// Why.
        problem: std::io::Error,
    },
}
