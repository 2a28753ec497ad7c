//! Pooling against loops over every window, and the copies between layouts.

use super::*;
use crate::Isa;
use crate::guard::both;
use crate::training::{
    PoolShape, average_pool, average_pool_gradient, concat, concat_gradient, flatten, flatten_gradient, max_pool,
    max_pool_gradient,
};

const CHANNELS: usize = 18;

fn shapes() -> [PoolShape; 4] {
    let shape = |input: [usize; 2], kernel: [usize; 2], stride: [usize; 2], before: [usize; 2], after: [usize; 2]| {
        let output = std::array::from_fn(|a| (input[a] + before[a] + after[a] - kernel[a]) / stride[a] + 1);
        PoolShape { input, output, kernel, stride, before }
    };
    [
        shape([8, 8], [2, 2], [2, 2], [0, 0], [0, 0]),
        shape([7, 9], [3, 3], [2, 2], [1, 1], [1, 1]),
        shape([5, 6], [3, 2], [1, 3], [0, 1], [2, 0]),
        shape([4, 4], [4, 4], [4, 4], [0, 0], [0, 0]),
    ]
}

/// Input places of the window of output place `(y, x)`, inside the image.
fn window(s: &PoolShape, y: usize, x: usize) -> Vec<usize> {
    let inside = |axis: usize, position: usize| {
        let places =
            (0..s.kernel[axis]).filter_map(move |k| (position * s.stride[axis] + k).checked_sub(s.before[axis]));
        places.filter(|p| *p < s.input[axis]).collect::<Vec<_>>()
    };
    let columns = inside(1, x);
    inside(0, y).iter().flat_map(|r| columns.iter().map(move |c| r * s.input[1] + c)).collect()
}

#[test]
fn pools_and_their_gradients_agree_with_the_naive_twin() {
    both(|| {
        for s in shapes() {
            let (area, out_area) = (s.input[0] * s.input[1], s.output[0] * s.output[1]);
            // Few distinct values, so that windows hold ties: the first maximum takes the gradient.
            let x: Vec<f32> = values(1, CHANNELS * area).iter().map(|v| (v * 3.0).round()).collect();
            let g = values(2, CHANNELS * out_area);
            let (mut max, mut mean) = (vec![0.0; g.len()], vec![0.0; g.len()]);
            let (mut max_dx, mut mean_dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            for i in 0..g.len() {
                let (c, y) = (i / out_area, i % out_area);
                let places = window(&s, y / s.output[1], y % s.output[1]);
                let at = |p: usize| f64::from(x[c * area + p]);
                let first_best = *places.iter().rev().max_by(|a, b| at(**a).partial_cmp(&at(**b)).unwrap()).unwrap();
                max[i] = at(first_best);
                max_dx[c * area + first_best] += f64::from(g[i]);
                mean[i] = places.iter().map(|p| at(*p)).sum::<f64>() / places.len() as f64;
                places.iter().for_each(|p| mean_dx[c * area + p] += f64::from(g[i]) / places.len() as f64);
            }
            let (bx, bg) = (block(CHANNELS, area, &x), block(CHANNELS, out_area, &g));
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; bg.len()];
                max_pool(isa, &s, &bx, &mut y);
                assert_close("max", &unblock(CHANNELS, out_area, &y), &max);
                average_pool(isa, &s, &bx, &mut y);
                assert_close("mean", &unblock(CHANNELS, out_area, &y), &mean);
                let mut dx = vec![0.0; bx.len()];
                max_pool_gradient(isa, &s, &bx, &bg, &mut dx);
                assert_close("gradient of max", &unblock(CHANNELS, area, &dx), &max_dx);
                dx.fill(0.0);
                average_pool_gradient(isa, &s, &bg, &mut dx);
                assert_close("gradient of mean", &unblock(CHANNELS, area, &dx), &mean_dx);
            }
        }
    });
}

#[test]
fn a_max_over_nan_is_nan() {
    both(|| {
        let s = PoolShape { input: [2, 2], output: [1, 1], kernel: [2, 2], stride: [2, 2], before: [0, 0] };
        for place in 0..4 {
            let mut x = vec![1.0; 4 * BLOCK];
            x[place * BLOCK + 3] = f32::NAN;
            let mut y = vec![0.0; BLOCK];
            max_pool(Isa::best(), &s, &x, &mut y);
            assert!(y[3].is_nan() && y[2] == 1.0);
        }
    });
}

#[test]
fn concat_places_channels_and_gives_their_gradients_back() {
    both(|| {
        for parts in [vec![16, 32], vec![3, 5, 16], vec![16, 20, 12], vec![17]] {
            let (area, total) = (6, parts.iter().sum::<usize>());
            let whole = values(1, total * area);
            let mut blocked = vec![0.0; blocked_channels(total) * area];
            let mut offset = 0;
            for &channels in &parts {
                let plain = &whole[offset * area..(offset + channels) * area];
                concat(channels, area, offset, &block(channels, area, plain), &mut blocked);
                offset += channels;
            }
            assert_eq!(unblock(total, area, &blocked), whole, "{parts:?}");
            let mut offset = 0;
            for &channels in &parts {
                let mut part = vec![0.0; blocked_channels(channels) * area];
                concat_gradient(channels, area, offset, &blocked, &mut part);
                assert_eq!(
                    unblock(channels, area, &part),
                    whole[offset * area..(offset + channels) * area],
                    "{parts:?}"
                );
                offset += channels;
            }
        }
    });
}

#[test]
fn flatten_orders_features_by_channel() {
    both(|| {
        for (channels, area) in [(5, 4), (16, 9), (33, 1)] {
            let plain = values(1, channels * area);
            let image = block(channels, area, &plain);
            let mut features = vec![f32::NAN; blocked_channels(channels * area)];
            flatten(channels, area, &image, &mut features);
            assert_eq!(unblock(channels * area, 1, &features), plain);
            let mut back = vec![0.0; image.len()];
            flatten_gradient(channels, area, &features, &mut back);
            assert_eq!(back, image);
        }
    });
}
