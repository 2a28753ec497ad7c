//! Running a program allocates nothing, on any of its threads and with any kernel.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use sr2_formats::{CsrMatrix, Tensor};
use sr2_kernels::{
    Activation, Buffer, Combination, Conv, Isa, KERNELS, NO_CLIP, Plane, Pooling, Program, ProgramBuilder, Threads,
    Weights, Window,
};

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[test]
fn runs_do_not_allocate() {
    for isa in Isa::available() {
        let mut ran = BTreeSet::new();
        for lanes in [1, isa.lanes()] {
            let count = 2 * lanes + 1;
            let (program, steps) = every_kernel(isa, lanes, count);
            let (images, mut outputs) = (vec![0.5; count * 4 * 17 * 17], vec![0.0; count * 10]);
            let mut workspace = program.workspace().unwrap();
            // Threads allocate while they start, which they have done once they took part in a run.
            program.run(&images, count, &mut outputs, &mut workspace);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..3 {
                program.run(&images, count, &mut outputs, &mut workspace);
            }
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{isa}, {lanes} lanes");
            ran.extend(program.kernels(0..steps));
        }
        let all = KERNELS.iter().filter(|kernel| kernel.is_at(isa));
        let all: BTreeSet<String> = all.map(|kernel| format!("{}_{isa}", kernel.name)).collect();
        assert_eq!(ran, all);
    }
}

/// A program with all kernels there are for so many lanes, and its number of steps.
fn every_kernel(isa: Isa, lanes: usize, count: usize) -> (Program, usize) {
    let image = |side| Buffer { plane: Plane::image(side, side, 1, lanes), channels: 4 };
    let features = |channels| Buffer { plane: Plane::feature(lanes), channels };
    let buffers = [17, 17, 9, 11, 11, 9, 9].map(image).into_iter().chain([4, 324, 10, 10].map(features));
    // For rows of whole vectors, for small maps of vectors of images, and for rows without gaps that fill no vectors.
    let plane = if lanes == 1 { Plane::rows(16, 16, 1) } else { Plane::image(8, 8, 0, lanes) };
    let odd = if lanes == 1 { Plane::rows(15, 15, 1) } else { Plane::image(15, 15, 1, lanes) };
    let buffers = buffers.chain([plane, plane, odd, odd].map(|plane| Buffer { plane, channels: 4 }));
    let mut b = ProgramBuilder::new(isa, &buffers.collect::<Vec<_>>());
    let weight = Tensor::full([4, 36], 0.1);
    let matrix = CsrMatrix::from_dense(&weight).unwrap();
    let (sparse, dense) = (Weights::Sparse(&matrix), Weights::Dense(weight.data()));
    let same = Window { kernel: [3, 3], pads: [1; 4], ..Window::POINT };
    let conv = Conv { window: same, groups: 1, bias: None, residual: None, clip: NO_CLIP };

    b.import(0);
    b.conv(0, 1, sparse, &conv).unwrap();
    b.conv(1, 0, dense, &conv).unwrap();
    b.conv(0, 1, Weights::Winograd(weight.data()), &conv).unwrap();
    b.conv(11, 12, sparse, &conv).unwrap();
    if conv.is_generated(&plane, &plane, isa) {
        b.conv(11, 12, Weights::Generated(&matrix), &conv).unwrap();
    }
    b.conv(11, 12, Weights::Dense(&[0.1; 36]), &Conv { groups: 4, ..conv }).unwrap();
    b.conv(13, 14, Weights::Dense(&[0.1; 36]), &Conv { groups: 4, ..conv }).unwrap();
    b.conv(0, 1, Weights::Dense(&[0.1; 36]), &Conv { groups: 4, ..conv }).unwrap();
    b.conv(1, 2, sparse, &Conv { window: Window { stride: [2, 2], ..same }, ..conv }).unwrap();
    b.border(2, 3, [1, 1], 0.5);
    b.pool(3, 4, Pooling::Max, same);
    b.pool(4, 5, Pooling::Average, Window { kernel: [2, 2], dilation: [2, 2], ..Window::POINT });
    b.pointwise(5, 6, 0, None, Some(2), NO_CLIP);
    b.activate(6, 5, Activation::Sigmoid);
    b.combine(5, 6, 2, Combination::Product);
    b.global_average(2, 7);
    let last = CsrMatrix::from_dense(&Tensor::full([10, 4], 0.1)).unwrap();
    b.linear(7, 9, Weights::Sparse(&last), None, NO_CLIP).unwrap();
    b.flatten(2, 8);
    b.linear(8, 10, Weights::Dense(&vec![0.01; 3240]), None, NO_CLIP).unwrap();
    b.softmax(10, 9);
    let steps = b.export(9).end;
    (b.build(Threads { count: 2, spin: true, pin: false }, count), steps)
}
