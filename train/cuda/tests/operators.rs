//! Each kernel and cuDNN's convolutions on a CUDA device against their twins on the CPU: `SR2_TEST_DEVICE=cuda`, in a build
//! with the feature `cudnn`.
#![cfg(feature = "cudnn")]

use candle_core::{DType, Device, Result, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sr2_cuda::{BatchNorm, Clamp, Convolution, Pooling, Shape4, Window};

/// Largest difference relative to the norm per element of the twin's result: sums of some thousand products in another order.
const F32_TOLERANCE: f64 = 1e-5;

/// The same where results are rounded to 8 bits, which may fall on either side.
const BF16_TOLERANCE: f64 = 2e-2;

fn cuda() -> Option<Device> {
    if std::env::var("SR2_TEST_DEVICE").as_deref() != Ok("cuda") {
        eprintln!("skipped: SR2_TEST_DEVICE is not cuda");
        return None;
    }
    Some(sr2_cuda::open(0).expect("a CUDA device"))
}

struct Values(ChaCha8Rng);

impl Values {
    fn tensor(&mut self, shape: impl Into<candle_core::Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.0.random::<f32>() * 2.0 - 0.9).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }
}

/// Runs `f` on the device and by the twins, and compares the results.
#[track_caller]
fn compare(what: &str, device: &Device, inputs: &[&Tensor], f: impl Fn(&[&Tensor]) -> Result<Vec<Tensor>>) {
    let expected = f(inputs).unwrap();
    let there: Vec<Tensor> = inputs.iter().map(|input| input.to_device(device).unwrap()).collect();
    let found = f(&there.iter().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!((found.dims(), found.dtype()), (expected.dims(), expected.dtype()), "{what}, result {number}");
        let rounded = inputs.iter().any(|input| input.dtype() == DType::BF16);
        let values = |t: &Tensor| -> Vec<f64> {
            t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (found, expected) = (values(found), values(expected));
        let scale = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
        let tolerance = if rounded { BF16_TOLERANCE } else { F32_TOLERANCE } * scale.max(1e-3);
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            let distance = (f - e).abs();
            assert!(
                distance <= tolerance + 0.01 * tolerance.sqrt() * e.abs(),
                "{what}, result {number}[{i}] is {f}, expected {e}"
            );
        }
    }
}

const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Around the packs of 4 and 8 channels and the blocks of rows.
const SHAPES: [Shape4; 7] =
    [(2, 1, 1, 1), (3, 5, 7, 3), (2, 4, 4, 8), (5, 3, 3, 24), (4, 8, 8, 64), (2, 2, 2, 260), (16, 16, 16, 12)];

#[test]
fn batch_norm_is_its_twins() {
    let Some(device) = cuda() else { return };
    let mut values = Values(ChaCha8Rng::seed_from_u64(1));
    for (shape, dtype) in SHAPES.into_iter().flat_map(|shape| TYPES.map(|dtype| (shape, dtype))) {
        let (x, g) = (values.tensor(shape, dtype), values.tensor(shape, dtype));
        let [scale, shift] = [0, 1].map(|_| values.tensor(shape.3, DType::F32));
        for clamp in [Clamp::NONE, Clamp::RELU, Clamp { low: 0.0, high: 1.0 }] {
            compare(&format!("batch norm of {shape:?} {dtype:?} {clamp:?}"), &device, &[&x, &g, &scale, &shift], |t| {
                let moments = sr2_cuda::moments(t[0])?;
                let y = BatchNorm { moments: &moments, scale: t[2], epsilon: 1e-5, clamp }.forward(t[0], t[3])?;
                Ok(vec![moments, y])
            });
            // From the twins' own output, or a value on the edge of the clamp would be inside here and outside there.
            let moments = sr2_cuda::moments(&x).unwrap();
            let norm = BatchNorm { moments: &moments, scale: &scale, epsilon: 1e-5, clamp };
            let y = norm.forward(&x, &shift).unwrap();
            compare(&format!("its gradient of {shape:?} {dtype:?}"), &device, &[&x, &y, &g, &moments, &scale], |t| {
                let norm = BatchNorm { moments: t[3], scale: t[4], epsilon: 1e-5, clamp };
                let found = norm.gradient([t[0], t[1], t[2]])?;
                Ok(vec![found.x, found.scale, found.shift])
            });
        }
        compare("running statistics", &device, &[&scale, &shift, &sr2_cuda::moments(&x).unwrap()], |t| {
            Ok(sr2_cuda::running_statistics([t[0], t[1]], t[2], 7, 0.1)?.to_vec())
        });
    }
}

#[test]
fn sums_and_clamps_are_their_twins() {
    let Some(device) = cuda() else { return };
    let mut values = Values(ChaCha8Rng::seed_from_u64(2));
    for (shape, dtype) in SHAPES.into_iter().flat_map(|shape| TYPES.map(|dtype| (shape, dtype))) {
        let (a, b) = (values.tensor(shape, dtype), values.tensor(shape, dtype));
        for clamp in [Clamp::NONE, Clamp::RELU] {
            compare(&format!("sum of {shape:?} {dtype:?}"), &device, &[&a, &b], |t| {
                Ok(vec![sr2_cuda::add(t[0], t[1], clamp)?, sr2_cuda::clamp_gradient(t[0], t[1], clamp)?])
            });
        }
        // A view that does not begin where a pack does.
        compare("sum of parts", &device, &[&a, &b], |t| {
            let parts = [0, 1].map(|i| t[i].flatten_all().and_then(|t| t.narrow(0, 1, t.elem_count() - 1)));
            let [a, b] = parts;
            Ok(vec![sr2_cuda::add(&a?, &b?, Clamp::NONE)?])
        });
    }
    let weights = values.tensor((6, 5, 3, 2), DType::F32);
    for dtype in TYPES {
        compare("weights", &device, &[&weights], |t| {
            let last = sr2_cuda::weights_last(t[0], dtype)?;
            Ok(vec![sr2_cuda::weights_first(&last)?, last.to_dtype(DType::F32)?])
        });
    }
    let (logits, labels) = (values.tensor((9, 10), DType::F32), Tensor::arange(0u32, 9, &Device::Cpu).unwrap());
    compare("cross-entropy", &device, &[&logits, &labels], |t| Ok(vec![sr2_cuda::cross_entropy_gradient(t[0], t[1])?]));
}

#[test]
fn poolings_are_their_twins() {
    let Some(device) = cuda() else { return };
    let mut values = Values(ChaCha8Rng::seed_from_u64(3));
    let windows = [
        Window { kernel: [2, 2], stride: [2, 2], pads: [0; 4] },
        Window { kernel: [3, 3], stride: [2, 2], pads: [1; 4] },
        Window { kernel: [3, 2], stride: [1, 3], pads: [2, 0, 1, 1] },
    ];
    for (shape, dtype) in [(2, 8, 8, 16), (3, 7, 5, 3)].into_iter().flat_map(|s| TYPES.map(|dtype| (s, dtype))) {
        let x = values.tensor(shape, dtype);
        for (window, pooling) in windows.iter().flat_map(|w| [Pooling::Max, Pooling::Average].map(|p| (*w, p))) {
            let g = values.tensor(pooling.forward(&x, window).unwrap().shape(), dtype);
            compare(&format!("{pooling:?} {window:?} of {shape:?}"), &device, &[&x, &g], |t| {
                Ok(vec![pooling.forward(t[0], window)?, pooling.gradient(t[0], t[1], window)?])
            });
        }
        let g = values.tensor((shape.0, 1, 1, shape.3), dtype);
        compare(&format!("mean of {shape:?}"), &device, &[&x, &g], |t| {
            Ok(vec![sr2_cuda::mean(t[0])?, sr2_cuda::mean_gradient(t[1], shape)?])
        });
    }
}

#[test]
fn convolutions_are_their_twins() {
    let Some(device) = cuda() else { return };
    let mut values = Values(ChaCha8Rng::seed_from_u64(4));
    let plain = Convolution { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
    let cases = [
        ((2, 32, 32, 3), (16, 3, 3, 3), plain),
        ((4, 16, 16, 16), (32, 3, 3, 16), Convolution { stride: [2, 2], ..plain }),
        ((4, 16, 16, 16), (32, 1, 1, 16), Convolution { stride: [2, 2], padding: [0, 0], ..plain }),
        ((2, 8, 8, 64), (64, 3, 3, 64), plain),
        ((3, 7, 7, 5), (9, 3, 3, 5), plain),
        ((2, 12, 12, 8), (8, 5, 5, 8), Convolution { padding: [2, 2], ..plain }),
        ((2, 16, 16, 3), (8, 7, 7, 3), Convolution { stride: [2, 2], padding: [3, 3], ..plain }),
        ((2, 9, 9, 8), (8, 3, 3, 8), Convolution { dilation: [2, 2], padding: [2, 2], ..plain }),
        ((2, 8, 8, 32), (32, 3, 3, 1), Convolution { groups: 32, ..plain }),
        ((2, 8, 8, 32), (64, 3, 3, 8), Convolution { groups: 4, stride: [2, 2], ..plain }),
    ];
    for ((x_shape, weights_shape, convolution), dtype) in cases.into_iter().flat_map(|c| TYPES.map(|d| (c, d))) {
        let (x, weights) = (values.tensor(x_shape, dtype), values.tensor(weights_shape, dtype));
        let g = values.tensor(convolution.forward(&x, &weights).unwrap().shape(), dtype);
        let what = format!("{convolution:?} of {x_shape:?} with {weights_shape:?}, {dtype:?}");
        compare(&what, &device, &[&x, &weights, &g], |t| {
            Ok(vec![
                convolution.forward(t[0], t[1])?,
                convolution.input_gradient(t[2], t[1], x_shape)?,
                convolution.weight_gradient(t[0], t[2], weights_shape)?,
            ])
        });
    }
}
