//! Every kernel of the registry, on every tier, against a naive twin in f64 with a derived bound of the error.
//!
//! Programs run between guard pages, in arenas where all that no step may rely on is NaN.

mod convolution;
mod elementwise;
mod linear;
mod pooling;
mod softmax;
mod stages;
mod transfer;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Debug;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::guard::both;
use crate::plane::Place;
use crate::{Buffer, Isa, KERNELS, Plane, ProgramBuilder, Threads};

/// Unit roundoff of f32.
const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

macro_rules! twins {
    ($($kernel:ident in $module:ident)*) => {
        $(
            #[test]
            fn $kernel() {
                both($module::$kernel);
                let ran = RAN.take();
                let kernel = KERNELS.iter().find(|kernel| kernel.name == stringify!($kernel)).unwrap();
                for isa in Isa::available().into_iter().filter(|isa| kernel.is_at(*isa)) {
                    assert!(ran.contains(&(stringify!($kernel), isa.name())), "its test does not run it on {isa}");
                }
            }
        )*

        /// The kernels that have a twin.
        const TWINS: &[&str] = &[$(stringify!($kernel)),*];
    };
}

twins! {
    import_f32 in transfer
    export_f32 in transfer
    arrange_f32 in convolution
    select_f32 in convolution
    sparse_conv_f32 in convolution
    sparse_row_conv_f32 in convolution
    sparse_map_conv_f32 in convolution
    generated_conv_f32 in convolution
    dense_conv_f32 in convolution
    winograd_input_f32 in convolution
    winograd_output_f32 in convolution
    depthwise_conv_f32 in convolution
    depthwise_aligned_f32 in convolution
    depthwise_rows_f32 in convolution
    sparse_linear_f32 in linear
    dense_linear_f32 in linear
    pointwise_f32 in elementwise
    activate_f32 in elementwise
    combine_f32 in elementwise
    border_f32 in transfer
    pool_f32 in pooling
    dilated_pool_f32 in pooling
    global_average_f32 in pooling
    flatten_f32 in transfer
    softmax_f32 in softmax
}

#[test]
fn every_kernel_has_a_twin() {
    let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    assert_eq!(names, TWINS);
}

thread_local! {
    /// Kernel and tier of every step that this thread's tests ran.
    static RAN: RefCell<BTreeSet<(&'static str, &'static str)>> = const { RefCell::new(BTreeSet::new()) };
}

/// Widths around the edges of every tier's vectors.
fn edges() -> impl Iterator<Item = usize> {
    (1..=18).chain([31, 32, 33])
}

/// What a value should be, and how far off it may be.
#[derive(Debug, Clone, Copy)]
struct Expected {
    value: f64,
    bound: f64,
}

impl Expected {
    /// No rounding at all.
    fn exact(value: f32) -> Self {
        Self { value: value.into(), bound: 0.0 }
    }

    /// A sum of terms of which each goes through at most `roundings` roundings, and whose absolute values add up to
    /// `magnitude`: its error is at most `n u / (1 - n u) magnitude`, which `(n + 1) u magnitude` bounds while
    /// `n (n + 1) u <= 1` (Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1).
    fn rounded(value: f64, roundings: f64, magnitude: f64) -> Self {
        assert!(roundings * (roundings + 1.0) * ROUNDOFF <= 1.0, "{roundings} roundings");
        Self { value, bound: (roundings + 1.0) * ROUNDOFF * magnitude }
    }

    fn holds(self, found: f32) -> bool {
        let found = f64::from(found);
        let both_nan = self.value.is_nan() && found.is_nan();
        both_nan || found == self.value || (found - self.value).abs() <= self.bound
    }
}

#[test]
fn expected_values_hold_as_they_should() {
    let exact = |value, found| Expected::exact(value).holds(found);
    assert!(exact(0.0, -0.0) && exact(f32::NAN, f32::NAN) && exact(f32::INFINITY, f32::INFINITY));
    assert!(!exact(1.0, 1.0 + f32::EPSILON) && !exact(0.0, f32::from_bits(1)) && !exact(0.0, f32::NAN));
    assert!(!exact(f32::NAN, 0.0) && !exact(f32::INFINITY, f32::NEG_INFINITY) && !exact(1.0, f32::INFINITY));
    let rounded = Expected::rounded(1.0, 1.0, 1.0);
    assert!(rounded.holds(1.0 + f32::EPSILON) && !rounded.holds(1.0 + 2.0 * f32::EPSILON) && !rounded.holds(f32::NAN));
}

fn values(rng: &mut ChaCha8Rng, len: usize, range: f32) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-range..range)).collect()
}

/// One way to run a program.
#[derive(Debug, Clone, Copy)]
struct Variant {
    isa: Isa,
    lanes: usize,
    pad: usize,
    /// Whether there are zeros between rows too.
    gaps: bool,
    threads: usize,
}

/// A program of a few steps, and what it should compute.
struct Twin<'a> {
    /// Shapes of the buffers, `[channels, height, width]` or `[features]`: the first takes the images, the last is the
    /// output.
    buffers: &'a [&'a [usize]],
    /// Appends the steps from the first to the last.
    steps: &'a dyn Fn(&mut ProgramBuilder),
    /// The outputs of an image.
    expected: &'a dyn Fn(&[f32]) -> Vec<Expected>,
    /// Images hold values between minus and plus this.
    range: f32,
}

impl Twin<'_> {
    /// Runs the program on every tier, one image and a vector of images at a time, in planes of all kinds, on one to
    /// three threads; `what` names the case.
    fn check(&self, what: &dyn Debug) {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let image = self.buffers[0].iter().product();
        for isa in Isa::available() {
            for (lanes, count) in [(1, 2), (isa.lanes(), 2 * isa.lanes() + 1)] {
                let images = values(rng, count * image, self.range);
                let expected: Vec<Expected> = images.chunks(image).flat_map(self.expected).collect();
                for (pad, gaps, threads) in
                    [(0, true, 1), (1, true, 2), (2, true, 3), (1, false, 1), (2, false, 2), (1, false, 3)]
                {
                    if gaps || lanes == 1 {
                        self.run(Variant { isa, lanes, pad, gaps, threads }, &images, &expected, what);
                    }
                }
            }
        }
    }

    fn run(&self, variant: Variant, images: &[f32], expected: &[Expected], what: &dyn Debug) {
        let Variant { isa, lanes, pad, gaps, threads } = variant;
        let buffer = |shape: &&[usize]| match **shape {
            [channels, height, width] if !gaps => Buffer { plane: Plane::rows(height, width, pad), channels },
            [channels, height, width] => Buffer { plane: Plane::image(height, width, pad, lanes), channels },
            [channels] => Buffer { plane: Plane::feature(lanes), channels },
            _ => panic!("buffers have one or three dimensions, not {shape:?}"),
        };
        let buffers: Vec<Buffer> = self.buffers.iter().map(buffer).collect();
        let mut builder = ProgramBuilder::new(isa, &buffers);
        builder.import(0);
        (self.steps)(&mut builder);
        builder.export(buffers.len() - 1);
        RAN.with_borrow_mut(|ran| ran.extend(builder.steps.iter().map(|step| (step.kernel(), isa.name()))));

        let places = builder.buffers.clone();
        let count = images.len() / self.buffers[0].iter().product::<usize>();
        let program = builder.build(Threads { count: threads, spin: false, pin: false }, count);
        let mut workspace = program.workspace().unwrap();
        let zeros = zeros(&places, program.arena_bytes() / size_of::<f32>() / workspace.arenas().count());
        for arena in workspace.arenas() {
            arena.iter_mut().zip(&zeros).for_each(|(value, zero)| *value = if *zero { 0.0 } else { f32::NAN });
        }
        // Twice: a run must leave the zeros around planes as they were.
        for _ in 0..2 {
            let mut found = vec![f32::NAN; expected.len()];
            program.run(images, count, &mut found, &mut workspace);
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert!(expected.holds(*found), "{what:?}, {variant:?}: output {i} is {found}, expected {expected:?}");
            }
            for arena in workspace.arenas() {
                let stays = |(value, zero): (&f32, &bool)| !zero || *value == 0.0;
                assert!(arena.iter().zip(&zeros).all(stays), "{what:?}, {variant:?}: a border is written to");
            }
        }
    }
}

/// Which values of an arena are zeros that steps rely on: those around the rows of padded planes.
fn zeros(places: &[Place], len: usize) -> Vec<bool> {
    let mut zeros = vec![false; len];
    for place in places.iter().filter(|place| place.plane.pad() > 0) {
        let plane = &place.plane;
        let border = (plane.pad() * plane.pitch() + plane.gap()) * plane.lanes();
        for channel in 0..place.channels {
            let first = place.row(channel, 0);
            zeros[first - border..first + plane.values() + border].fill(true);
            for row in 0..plane.height() {
                let first = place.row(channel, row);
                zeros[first..first + plane.width() * plane.lanes()].fill(false);
            }
        }
    }
    zeros
}
