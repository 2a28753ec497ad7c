//! Times a convolution's forward pass and gradients, dense against sparse, on one thread:
//! `training_conv [IMAGES] [f32|bf16] [ZEROS,...]`.
//!
//! One line a layer shape with GFLOP/s of the dense kernels, products with padding counted, and one for each per cent of
//! zeros: milliseconds of the dense kernel over those of the sparse one (always f32), and GFLOP/s of the sparse one on
//! its non-zeros. bf16 includes the rounding of what is read.

use std::time::Instant;

use sr2_kernels::Isa;
use sr2_kernels::training::{
    Arithmetic, ConvShape, Convolution, SparseConvolution, SparseInputGradient, SparseWeightGradient, SparseWeights,
};

/// Channels in and out, size, kernel, stride.
const LAYERS: [[usize; 5]; 10] = [
    [16, 16, 32, 3, 1],
    [32, 32, 16, 3, 1],
    [64, 64, 8, 3, 1],
    [64, 64, 32, 3, 1],
    [128, 256, 16, 3, 2],
    [256, 512, 8, 1, 2],
    [512, 512, 4, 3, 1],
    [512, 512, 2, 3, 1],
    [128, 128, 16, 3, 1],
    [256, 256, 8, 3, 1],
];

fn main() {
    let argument = |i: usize| std::env::args().nth(i);
    let images = argument(1).map_or(32, |a| a.parse().expect("a number of images"));
    let arithmetic = match argument(2).as_deref() {
        None | Some("f32") => Arithmetic::F32(Isa::best()),
        Some("bf16") => Arithmetic::Bf16(Isa::best().bf16().expect("no AVX512-BF16 here")),
        Some(other) => panic!("{other}: f32 or bf16"),
    };
    let zeros = argument(3).unwrap_or_else(|| "50,70,80,90,95,98".into());
    let zeros: Vec<u64> = zeros.split(',').flat_map(str::parse).collect();
    println!("{:<24} {:>5}   forward          input gradient   weight gradient", "layer", "zeros");
    for layer in LAYERS {
        let [in_channels, out_channels, size, kernel, stride] = layer;
        let pad = kernel / 2;
        let shape = ConvShape {
            in_channels,
            out_channels,
            groups: 1,
            input: [size; 2],
            output: [size / stride; 2],
            kernel: [kernel; 2],
            stride: [stride; 2],
            pads: [pad; 4],
            dilation: [1; 2],
        };
        measure(shape, images, arithmetic, &zeros);
    }
}

fn measure(shape: ConvShape, images: usize, arithmetic: Arithmetic, zeros: &[u64]) {
    let dense = Convolution::new(shape).expect("the image fits");
    let sparse = SparseConvolution::new(shape).expect("the image fits");
    let (isa, mut scratch) = (Isa::best(), Vec::new());
    let (x, dy) = (vec![0.5; images * dense.input_len()], vec![0.5; images * dense.output_len()]);
    let (mut y, mut dx) = (dy.clone(), x.clone());
    let packed = vec![0.5; dense.output_blocks() * dense.forward_block_len()];
    let packed_backward = vec![0.5; dense.input_blocks() * dense.backward_block_len()];
    let mut sums = packed.clone();
    let blocks = 0..dense.output_blocks();
    let dense_ms = [
        time(|| dense.forward(arithmetic, &x, &packed, None, &mut y, &mut scratch)),
        time(|| dense.input_gradient(arithmetic, &dy, &packed_backward, &mut dx, false, &mut scratch)),
        time(|| dense.weight_gradient(arithmetic, blocks.clone(), &x, &dy, &mut sums, &mut scratch)),
    ];
    let ConvShape { in_channels, out_channels, input: [size, _], kernel: [k, _], stride: [stride, _], .. } = shape;
    let layer = format!("{in_channels}-{out_channels} {size}x{size} k{k} s{stride}");
    let flops = 2e-6 * (dense.multiplications() * images) as f64;
    let cells: Vec<_> = dense_ms.iter().map(|ms| format!("       {:4.0} GF/s", flops / ms)).collect();
    println!("{layer:<24} dense   {}", cells.join("   "));
    let len = shape.in_channels * shape.out_channels * shape.kernel[0] * shape.kernel[1];
    for &zeros in zeros {
        let hash = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let weights: Vec<f32> = (0..len).map(|i| if hash(i) % 100 < zeros { 0.0 } else { 0.5 }).collect();
        let (mut forward, mut backward) = (SparseWeights::default(), SparseWeights::default());
        sparse.refresh_forward(&mut forward, &weights);
        sparse.refresh_backward(&mut backward, &weights);
        let mut sums = vec![0.0; backward.nnz()];
        let sparse_ms = [
            time(|| sparse.forward(isa, &x, &forward, None, &mut y, &mut scratch)),
            time(|| {
                let input = Some(SparseInputGradient { values: &mut dx, accumulate: false });
                sparse.backward(isa, &dy, &backward, input, None, &mut scratch);
            }),
            time(|| {
                let weight = Some(SparseWeightGradient { input: &x, sums: &mut sums });
                sparse.backward(isa, &dy, &backward, None, weight, &mut scratch);
            }),
        ];
        let left = forward.nnz() as f64 / len as f64;
        let cells =
            dense_ms.iter().zip(sparse_ms).map(|(d, s)| format!("{:5.2}x {:4.0} GF/s", d / s, flops * left / s));
        println!("{layer:<24} {zeros:>3} %   {}", cells.collect::<Vec<_>>().join("   "));
    }
}

/// Least milliseconds of a few runs.
fn time(mut run: impl FnMut()) -> f64 {
    let timed = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..4).map(|_| timed(&mut run)).fold(f64::INFINITY, f64::min)
}
