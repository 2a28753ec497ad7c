//! All kernels: one table that names them, says what each computes, and runs them.

use std::collections::BTreeSet;

use crate::Isa;
use crate::activation::Activate;
use crate::arrange::Arrange;
use crate::border::Border;
use crate::combine::Combine;
use crate::dense_conv::DenseConv;
use crate::depthwise::DepthwiseConv;
use crate::depthwise_aligned::DepthwiseAligned;
use crate::depthwise_rows::DepthwiseRows;
use crate::dilated_pooling::DilatedPool;
use crate::generated_conv::GeneratedConv;
use crate::linear::{DenseLinear, SparseLinear};
use crate::map_conv::MapConv;
use crate::pointwise::Pointwise;
use crate::pooling::{GlobalAverage, Pool};
use crate::row_conv::RowConv;
use crate::select::Select;
use crate::softmax::Softmax;
use crate::sparse_conv::SparseConv;
use crate::step::{Call, Site};
use crate::transfer::{Export, Flatten, Import};
use crate::winograd::{WinogradInput, WinogradOutput};

/// What a kernel's name stands for; its full name ends in that of its tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    /// Operation and type of the values, as `sparse_conv_f32`.
    pub name: &'static str,
    /// What it computes from input `x`, or inputs `a` and `b`, to output `y`.
    pub computes: &'static str,
}

impl Contract {
    /// Whether there is a kernel of the name at a tier: at every one, but for the code of `generated_conv_f32`.
    pub fn is_at(&self, isa: Isa) -> bool {
        self.name != "generated_conv_f32" || matches!(isa, Isa::Avx512(_))
    }
}

macro_rules! kernels {
    ($($step:ident $name:literal $computes:literal)*) => {
        /// All kernels.
        pub const KERNELS: &[Contract] = &[$(Contract { name: $name, computes: $computes }),*];

        /// One step of a program: a kernel with all it needs beside the arena.
        #[derive(Debug)]
        pub(crate) enum Step {
            $($step($step),)*
        }

        impl Step {
            /// The registered name of its kernel, without the tier.
            pub(crate) fn kernel(&self) -> &'static str {
                match self {
                    $(Self::$step(_) => $name,)*
                }
            }

            /// # Safety
            /// `site` must be that of the program that owns the step, with an arena of its size.
            pub(crate) unsafe fn run(&self, isa: Isa, site: Site) {
                // SAFETY: the builder checked each step against the arena's size; the rest is the caller's promise.
                unsafe {
                    match self {
                        $(Self::$step(step) => isa.launch(&Call { step, site }),)*
                    }
                }
            }
        }
    };
}

kernels! {
    Import "import_f32" "y = images, one a lane, and 0 in lanes without"
    Export "export_f32" "outputs = x, lane by lane"
    Arrange "arrange_f32" "scratch = the positions of x in the order in which the windows of a convolution read them"
    Select "select_f32" "as arrange_f32, of one small image"
    SparseConv "sparse_conv_f32" "y = clip(bias + sum over non-zero weights of weight x + residual)"
    RowConv "sparse_row_conv_f32" "as sparse_conv_f32, over rows of whole vectors, by aligned loads"
    MapConv "sparse_map_conv_f32" "as sparse_conv_f32, over small maps of a vector of images, without their padding"
    GeneratedConv "generated_conv_f32" "as sparse_conv_f32, by machine code made for the weights"
    DenseConv "dense_conv_f32" "y = clip(bias + sum over weights of weight x + residual)"
    WinogradInput "winograd_input_f32" "scratch = for each four rows of x the six that a convolution of 1x3 weights reads"
    WinogradOutput "winograd_output_f32" "y = clip(bias + four rows for each six that it gave + residual)"
    DepthwiseConv "depthwise_conv_f32" "y = clip(bias + sum over a 3x3 window of weight x + residual), channel by channel"
    DepthwiseAligned "depthwise_aligned_f32" "as depthwise_conv_f32, of one image whose rows fill vectors without gaps"
    DepthwiseRows "depthwise_rows_f32" "as depthwise_conv_f32, of one image whose rows have no gaps"
    SparseLinear "sparse_linear_f32" "y = clip(bias + sum over non-zero weights of weight x), one image"
    DenseLinear "dense_linear_f32" "y = clip(bias + sum over weights of weight x), one image"
    Pointwise "pointwise_f32" "y = clip(scale x + shift + residual), also into some channels of y"
    Activate "activate_f32" "y = leaky ReLU, sigmoid or hard swish of x"
    Combine "combine_f32" "y = a + b or a b, b of as many positions as a or one a channel"
    Border "border_f32" "y = x with a border of one value"
    Pool "pool_f32" "y = maximum or mean of the places of a window inside x"
    DilatedPool "dilated_pool_f32" "y = maximum or mean of the places of a window with gaps inside x"
    GlobalAverage "global_average_f32" "y = mean of each channel of x"
    Flatten "flatten_f32" "y = x as features"
    Softmax "softmax_f32" "y = exp(x - max x) / sum of exp(x - max x) over features"
}

/// Bytes of weights and indices that steps stream; weights that they share count once.
pub(crate) fn weight_bytes(steps: &[Step]) -> usize {
    let mut seen = BTreeSet::new();
    let is_first = |step: &&Step| !matches!(step, Step::DenseConv(s) if !seen.insert(s.weights.as_ptr()));
    steps.iter().filter(is_first).map(Step::weight_bytes).sum()
}

impl Step {
    /// Bytes of its lists of tiles, or of what it rearranges.
    pub(crate) fn list_bytes(&self) -> usize {
        match self {
            Self::SparseConv(s) => size_of_val(&s.tiles[..]),
            Self::RowConv(s) => size_of_val(&s.tiles[..]),
            Self::MapConv(s) => size_of_val(&s.tiles[..]),
            Self::GeneratedConv(s) => size_of_val(&s.tiles[..]),
            Self::DenseConv(s) => size_of_val(&s.tiles[..]),
            Self::Arrange(s) => size_of_val(&s.runs[..]),
            Self::Select(s) => s.moves.bytes(),
            _ => 0,
        }
    }

    /// Bytes of weights and indices that it streams.
    pub(crate) fn weight_bytes(&self) -> usize {
        match self {
            Self::SparseConv(s) => {
                size_of_val(&s.taps[..]) + s.blocks.iter().map(|b| size_of_val(&b[..])).sum::<usize>()
            }
            Self::RowConv(s) => size_of_val(&s.taps[..]) + s.blocks.iter().map(|b| size_of_val(&b[..])).sum::<usize>(),
            Self::MapConv(s) => size_of_val(&s.taps[..]) + s.blocks.iter().map(|b| size_of_val(&b[..])).sum::<usize>(),
            Self::GeneratedConv(s) => s.functions.bytes(),
            Self::DenseConv(s) => size_of_val(&s.weights[..]) + size_of_val(&s.offsets[..]),
            Self::DepthwiseConv(s) => size_of_val(&s.weights[..]),
            Self::DepthwiseAligned(s) => size_of_val(&s.weights[..]),
            Self::DepthwiseRows(s) => size_of_val(&s.weights[..]),
            Self::DenseLinear(s) => size_of_val(&s.weights[..]),
            Self::SparseLinear(s) => size_of_val(&s.weights.starts[..]) + size_of_val(&s.weights.entries[..]),
            _ => 0,
        }
    }
}
