//! A convolution with its two gradients, planned once for its shape.

use std::ops::Range;

use super::BLOCK;
use super::arithmetic::Arithmetic;
use super::bf16::align;
use super::correlate::{Correlate, correlate};
use super::correlation::{Axis, Correlation, Order, Planes};
use super::depthwise::{DepthwiseWeightGradient, add_depthwise_weight_gradient, correlate_depthwise};
use super::weight_gradient::{WeightGradient, add_weight_gradient};
use crate::Isa;

/// Shape of a 2-D convolution with weight `[out_channels, in_channels / groups, kernel[0], kernel[1]]`. A linear layer
/// is a 1x1 convolution of a 1x1 image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Stride down and right.
    pub stride: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Dilation down and right.
    pub dilation: [usize; 2],
}

/// Images that a group may fill, so that they stay in the second-level cache beside some weights.
const GROUP_BYTES: usize = 512 << 10;

/// Most images in a group.
const GROUP_IMAGES: usize = 16;

/// Fewest positions over which a weight gradient is summed in registers, where there are so many.
const SUMMED_POSITIONS: usize = 1024;

/// Most images in a group whose weight gradient is summed.
const SUMMED_IMAGES: usize = 64;

/// Output positions up to which the images of a group are copied, unless the kernel has one tap: the kernels then read the
/// same place of many images, and image sizes are multiples of a power of two, so that these places would all want the same
/// few lines of the caches.
const SMALL_MAP: usize = 16;

/// A planned convolution; see the module's layout of activations.
#[derive(Debug, Clone)]
pub struct Convolution {
    pub(super) shape: ConvShape,
    pub(super) depthwise: bool,
    group: usize,
    /// Images whose weight gradient is computed together.
    summed: usize,
    forward: Correlation,
    /// The same over `summed` images, for the weight gradient.
    products: Correlation,
    pub(super) backward: Vec<Phase>,
}

/// The input positions of one residue modulo the stride, all reached by the same taps of the kernel.
#[derive(Debug, Clone)]
pub(super) struct Phase {
    /// Kernel places `row * kernel width + column`, in the correlation's order.
    pub kernel_places: Vec<usize>,
    correlation: Correlation,
}

impl Convolution {
    /// Plans a convolution; `None` if one image has 2^32 values or more.
    ///
    /// # Panics
    /// If the output is not that of the shape's windows.
    pub fn new(shape: ConvShape) -> Option<Self> {
        let ConvShape { input, output, kernel, stride, pads, dilation, .. } = shape;
        for axis in 0..2 {
            let extent = dilation[axis] * (kernel[axis] - 1) + 1;
            let windows = (input[axis] + pads[axis] + pads[axis + 2] - extent) / stride[axis] + 1;
            assert_eq!(windows, output[axis], "{shape:?}");
        }
        let depthwise = shape.groups == shape.in_channels && shape.groups == shape.out_channels;
        let [x, y] = [Planes::new(shape.in_channels, input), Planes::new(shape.out_channels, output)];
        let largest = x.image().max(y.image());
        if largest > u32::MAX as usize {
            return None;
        }
        let group = (GROUP_BYTES / (4 * largest)).clamp(1, GROUP_IMAGES);
        let most = (u32::MAX as usize / largest).min(SUMMED_IMAGES);
        // Even, as bf16 pairs images.
        let summed = group.max(SUMMED_POSITIONS / (output[0] * output[1])).next_multiple_of(2).min(most);

        let reads = |axis: usize| move |place: usize| (dilation[axis] * place) as isize - pads[axis] as isize;
        let taps = [0, 1].map(|axis| (0..kernel[axis]).map(reads(axis)).collect::<Vec<_>>());
        let axes = [0, 1].map(|a| Axis { count: output[a], step: stride[a], to: 0, to_step: 1 });
        // Depthwise kernels read images as they are.
        let small = !depthwise && output[0] * output[1] <= SMALL_MAP;
        let read = match group {
            _ if !small || kernel == [1, 1] => Order::Images,
            GROUP_IMAGES => Order::Places(group),
            _ => Order::Blocks,
        };
        let [x_read, y_read] = [x, y].map(|planes| Planes { order: read, ..planes });
        let forward = Correlation::new(x_read, y, [&taps[0], &taps[1]], axes, group);
        let order = if small { Order::Blocks } else { Order::Images };
        let [x_pairs, y_pairs] = [x, y].map(|planes| Planes { order, ..planes });
        let products = Correlation::new(x_pairs, y_pairs, [&taps[0], &taps[1]], axes, summed);

        let gradient_axes: [GradientAxis; 2] = std::array::from_fn(|axis| GradientAxis::new(&shape, axis));
        let mut backward = Vec::new();
        for rows in &gradient_axes[0].phases {
            for columns in &gradient_axes[1].phases {
                let taps = [(0, rows), (1, columns)].map(|(axis, phase)| {
                    let reads = |t: &AxisTap| t.offset as isize - gradient_axes[axis].before as isize;
                    phase.taps.iter().map(reads).collect::<Vec<_>>()
                });
                let axes = [rows.axis, columns.axis];
                let correlation = Correlation::new(y_read, x, [&taps[0], &taps[1]], axes, group);
                let pairs = rows.taps.iter().flat_map(|r| columns.taps.iter().map(move |c| (r, c)));
                let kernel_places = pairs.map(|(r, c)| r.place * kernel[1] + c.place).collect();
                backward.push(Phase { kernel_places, correlation });
            }
        }
        Some(Self { shape, depthwise, group, summed, forward, products, backward })
    }

    /// The shape it was planned for.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Values of one blocked input image.
    pub fn input_len(&self) -> usize {
        self.input_blocks() * self.shape.input[0] * self.shape.input[1] * BLOCK
    }

    /// Values of one blocked output image.
    pub fn output_len(&self) -> usize {
        self.forward.destination().image()
    }

    /// Blocks of input channels.
    pub fn input_blocks(&self) -> usize {
        self.forward.source().blocks()
    }

    /// Blocks of output channels.
    pub fn output_blocks(&self) -> usize {
        self.forward.destination().blocks()
    }

    /// Whether every channel has its own window; weight gradients then take all blocks at once.
    pub fn is_depthwise(&self) -> bool {
        self.depthwise
    }

    /// Images that are worth computing together.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Whether fewer images than a group take as long as a whole one.
    pub fn wants_whole_groups(&self) -> bool {
        matches!(self.forward.source().order, Order::Places(_))
    }

    /// Multiplications with one image in the forward pass, padded channels left out.
    pub fn multiplications(&self) -> usize {
        let s = &self.shape;
        s.out_channels * s.in_channels / s.groups * s.kernel[0] * s.kernel[1] * s.output[0] * s.output[1]
    }

    /// `output = input * weights + bias` for some images. `weights` are packed by [`Convolution::pack_forward`], `bias`
    /// is padded to whole blocks; `scratch` is grown as needed and holds nothing between calls.
    ///
    /// # Panics
    /// If the convolution is depthwise and the arithmetic bf16, as the other passes.
    pub fn forward(
        &self,
        arithmetic: Arithmetic,
        input: &[f32],
        weights: &[f32],
        bias: Option<&[f32]>,
        output: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let sources = input.chunks(self.group * self.input_len());
        for (source, y) in sources.zip(output.chunks_mut(self.group * self.output_len())) {
            let arguments = Correlate {
                correlation: &self.forward,
                images: source.len() / self.input_len(),
                source: arithmetic.lanes(self.forward.source(), source, scratch),
                weights,
                weights_stride: self.forward_block_len() / arithmetic.factors(),
                bias,
                destination: y,
                accumulate: false,
            };
            self.correlate(arithmetic, arguments);
        }
    }

    /// `input_gradient = (+=) output_gradient` times the transposed convolution, for some images. `weights` are packed
    /// by [`Convolution::pack_backward`].
    pub fn input_gradient(
        &self,
        arithmetic: Arithmetic,
        output_gradient: &[f32],
        weights: &[f32],
        input_gradient: &mut [f32],
        accumulate: bool,
        scratch: &mut Vec<f32>,
    ) {
        let sources = output_gradient.chunks(self.group * self.output_len());
        for (source, dx) in sources.zip(input_gradient.chunks_mut(self.group * self.input_len())) {
            let images = source.len() / self.output_len();
            let source = arithmetic.lanes(self.backward[0].correlation.source(), source, scratch);
            let mut offset = 0;
            for phase in &self.backward {
                let arguments = Correlate {
                    correlation: &phase.correlation,
                    images,
                    source,
                    weights: &weights[offset..],
                    weights_stride: self.backward_block_len() / arithmetic.factors(),
                    bias: None,
                    destination: &mut *dx,
                    accumulate,
                };
                self.correlate(arithmetic, arguments);
                offset += self.phase_len(phase) / arithmetic.factors();
            }
        }
    }

    /// Adds the weight gradient of some images to `sums`, packed as [`Convolution::pack_forward`]'s weights,
    /// for the output `blocks` only. A depthwise convolution takes all blocks at once.
    pub fn weight_gradient(
        &self,
        arithmetic: Arithmetic,
        blocks: Range<usize>,
        input: &[f32],
        output_gradient: &[f32],
        sums: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let (correlation, [x_len, dy_len]) = (&self.products, [self.input_len(), self.output_len()]);
        for (x, dy) in input.chunks(self.summed * x_len).zip(output_gradient.chunks(self.summed * dy_len)) {
            if self.depthwise {
                assert_eq!(blocks, 0..self.output_blocks());
                let (images, weight_gradient) = (x.len() / x_len, &mut *sums);
                let arguments =
                    DepthwiseWeightGradient { correlation, images, source: x, output_gradient: dy, weight_gradient };
                add_depthwise_weight_gradient(self.depthwise_isa(arithmetic), arguments);
                continue;
            }
            let images = x.len() / x_len;
            if arithmetic.reads(correlation.source()) {
                self.add_weight_gradient(arithmetic, blocks.clone(), images, [x, dy], sums);
            } else {
                let words = align(scratch, self.paired_len(arithmetic, images));
                self.pair_images(arithmetic, blocks.clone(), [x, dy], words);
                self.paired_weight_gradient(arithmetic, blocks.clone(), images, words, sums);
            }
        }
    }

    /// Images whose weight gradient is computed together, unless fewer are given.
    pub fn summed_images(&self) -> usize {
        self.summed
    }

    /// Whether weight gradients read images as they are; else each task that computes some blocks rewrites the input, unless
    /// [`Convolution::pair_images`] has done so.
    pub fn reads_images(&self, arithmetic: Arithmetic) -> bool {
        self.depthwise || arithmetic.reads(self.products.source())
    }

    /// Values that [`Convolution::pair_images`] writes.
    pub fn paired_len(&self, arithmetic: Arithmetic, images: usize) -> usize {
        images.div_ceil(arithmetic.factors()) * (self.input_len() + self.output_len())
    }

    /// Rewrites inputs and output gradients of up to [`Convolution::summed_images`] images as weight gradients of the
    /// output `blocks` read them, for [`Convolution::paired_weight_gradient`].
    pub fn pair_images(&self, arithmetic: Arithmetic, blocks: Range<usize>, [x, dy]: [&[f32]; 2], words: &mut [f32]) {
        let images = (x.len() / self.input_len()).div_ceil(arithmetic.factors());
        let (x_words, dy_words) = words.split_at_mut(images * self.input_len());
        arithmetic.pairs(self.products.source(), 0..self.input_blocks(), x, x_words);
        arithmetic.pairs(self.products.destination(), blocks, dy, &mut dy_words[..images * self.output_len()]);
    }

    /// [`Convolution::weight_gradient`] of `images` images that [`Convolution::pair_images`] has rewritten group by group.
    pub fn paired_weight_gradient(
        &self,
        arithmetic: Arithmetic,
        blocks: Range<usize>,
        images: usize,
        words: &[f32],
        sums: &mut [f32],
    ) {
        let groups = words.chunks(self.paired_len(arithmetic, self.summed));
        for (words, first) in groups.zip((0..images).step_by(self.summed)) {
            let images = (images - first).min(self.summed).div_ceil(arithmetic.factors());
            let (x, dy) = words.split_at(images * self.input_len());
            self.add_weight_gradient(arithmetic, blocks.clone(), images, [x, dy], sums);
        }
    }

    fn add_weight_gradient(
        &self,
        arithmetic: Arithmetic,
        blocks: Range<usize>,
        images: usize,
        [source, output_gradient]: [&[f32]; 2],
        sums: &mut [f32],
    ) {
        let correlation = &self.products;
        for (block, weight_gradient) in blocks.zip(sums.chunks_exact_mut(self.forward_block_len())) {
            let arguments = WeightGradient { correlation, block, images, source, output_gradient, weight_gradient };
            add_weight_gradient(arithmetic, arguments);
        }
    }

    fn correlate(&self, arithmetic: Arithmetic, arguments: Correlate) {
        if self.depthwise {
            correlate_depthwise(self.depthwise_isa(arithmetic), arguments);
        } else {
            correlate(arithmetic, arguments);
        }
    }

    fn depthwise_isa(&self, arithmetic: Arithmetic) -> Isa {
        match arithmetic {
            Arithmetic::F32(isa) => isa,
            Arithmetic::Bf16(_) => panic!("a depthwise convolution has no bf16 kernel: {:?}", self.shape),
        }
    }
}

/// How the gradient of the input comes from that of the output along one axis.
#[derive(Debug)]
pub(super) struct GradientAxis {
    /// Zeros that the windows need before the output gradient.
    pub before: usize,
    pub phases: Vec<AxisPhase>,
}

#[derive(Debug)]
pub(super) struct AxisPhase {
    pub axis: Axis,
    pub taps: Vec<AxisTap>,
}

#[derive(Debug)]
pub(super) struct AxisTap {
    /// Place in the kernel.
    pub place: usize,
    /// Offset in the padded output gradient.
    pub offset: usize,
}

impl GradientAxis {
    /// Input position `i = s a + r` meets output position `o = (i + pad - d k) / s` where that is whole: for each
    /// residue `r` these are the `k` with `(r + pad - d k) mod s = 0`, at `o = a + (r + pad - d k) / s`.
    pub fn new(shape: &ConvShape, axis: usize) -> Self {
        let (stride, pad, dilation) = (shape.stride[axis], shape.pads[axis], shape.dilation[axis]);
        let input = shape.input[axis];
        let offsets = |residue: usize| {
            (0..shape.kernel[axis]).filter_map(move |place| {
                let distance = (residue + pad) as isize - (dilation * place) as isize;
                (distance.rem_euclid(stride as isize) == 0).then(|| (place, distance.div_euclid(stride as isize)))
            })
        };
        let residues = || (0..stride.min(input)).map(|r| (r, (input - r).div_ceil(stride)));
        let before = residues().flat_map(|(r, _)| offsets(r)).map(|(_, offset)| -offset).max().unwrap_or(0).max(0);
        let phases = residues().map(|(r, count)| AxisPhase {
            axis: Axis { count, step: 1, to: r, to_step: stride },
            taps: offsets(r).map(|(place, o)| AxisTap { place, offset: (o + before) as usize }).collect(),
        });
        Self { before: before as usize, phases: phases.collect() }
    }
}
