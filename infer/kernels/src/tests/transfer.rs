//! Kernels that only move values.

use super::{Expected, Twin, edges};

fn copies(image: &[f32]) -> Vec<Expected> {
    image.iter().copied().map(Expected::exact).collect()
}

pub(super) fn import_f32() {
    for width in edges() {
        for shape in [[1, 1, width], [5, width, 3], [width, 2, 2]] {
            Twin { buffers: &[&shape], steps: &|_| (), expected: &copies, range: 1.0 }.check(&shape);
        }
        Twin { buffers: &[&[width]], steps: &|_| (), expected: &copies, range: 1.0 }.check(&width);
    }
}

/// Nothing comes in that does not go out.
pub(super) fn export_f32() {
    import_f32();
}

pub(super) fn flatten_f32() {
    for width in edges() {
        for shape in [[3, 2, width], [2, width, 1]] {
            let features = [shape.iter().product()];
            let buffers: [&[usize]; 2] = [&shape, &features];
            let steps = |b: &mut crate::ProgramBuilder| _ = b.flatten(0, 1);
            Twin { buffers: &buffers, steps: &steps, expected: &copies, range: 1.0 }.check(&shape);
        }
    }
}

pub(super) fn border_f32() {
    for width in edges() {
        for [top, left, bottom, right] in [[0; 4], [1, 2, 3, 4], [0, 1, 0, 0], [2, 0, 0, 1]] {
            let (from, to) = ([2, 3, width], [2, 3 + top + bottom, width + left + right]);
            let steps = |b: &mut crate::ProgramBuilder| _ = b.border(0, 1, [top, left], 1.5);
            let expected = |image: &[f32]| {
                let at = |i: usize| {
                    let (channel, row, col) = (i / (to[1] * to[2]), i / to[2] % to[1], i % to[2]);
                    let (row, col) = (row.wrapping_sub(top), col.wrapping_sub(left));
                    let inside = row < from[1] && col < from[2];
                    Expected::exact(if inside { image[(channel * from[1] + row) * from[2] + col] } else { 1.5 })
                };
                (0..to.iter().product()).map(at).collect()
            };
            let twin = Twin { buffers: &[&from, &to], steps: &steps, expected: &expected, range: 1.0 };
            twin.check(&(from, to));
        }
    }
}
