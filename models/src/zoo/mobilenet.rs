//! MobileNetV2 (Sandler et al., 1801.04381), names as in torchvision. The CIFAR form halves the image three times, not
//! five: the stem and the second stage have stride 1. Without the dropout before the classifier.

use super::layers::{IMAGE, Layers};
use crate::{Graph, ValueId};

/// Expansion, channels, blocks and stride of the first block, stage by stage (table 2 of the paper).
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

pub(super) fn mobilenet_v2(classes: usize) -> Graph {
    let mut l = Layers::new("mobilenet_v2");
    let x = l.conv(IMAGE, "features.0.0", 32, 3, 1);
    let mut x = norm_relu6(&mut l, x, "features.0");
    let mut module = 1;
    for (expansion, channels, blocks, stride) in STAGES {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            x = inverted_residual(&mut l, x, &format!("features.{module}"), expansion, channels, stride);
            module += 1;
        }
    }
    let x = l.conv(x, &format!("features.{module}.0"), 1280, 1, 1);
    let x = norm_relu6(&mut l, x, &format!("features.{module}"));
    l.classify(x, "classifier.1", classes)
}

/// Expand by a 1x1, filter each channel by a 3x3, project by a linear 1x1.
fn inverted_residual(
    l: &mut Layers,
    input: ValueId,
    path: &str,
    expansion: usize,
    channels: usize,
    stride: usize,
) -> ValueId {
    let mut x = input;
    let mut module = 0;
    if expansion != 1 {
        x = l.conv(x, &format!("{path}.conv.0.0"), expansion * l.channels(input), 1, 1);
        x = norm_relu6(l, x, &format!("{path}.conv.0"));
        module = 1;
    }
    x = l.depthwise_conv(x, &format!("{path}.conv.{module}.0"), stride);
    x = norm_relu6(l, x, &format!("{path}.conv.{module}"));
    x = l.conv(x, &format!("{path}.conv.{}", module + 1), channels, 1, 1);
    x = l.batch_norm(x, &format!("{path}.conv.{}", module + 2));
    if stride == 1 && l.channels(input) == channels { l.add(input, x, &format!("{path}.add")) } else { x }
}

fn norm_relu6(l: &mut Layers, x: ValueId, path: &str) -> ValueId {
    let x = l.batch_norm(x, &format!("{path}.1"));
    l.relu6(x, &format!("{path}.2"))
}
