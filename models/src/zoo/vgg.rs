//! VGG with batch norm (Simonyan & Zisserman, 1409.1556), names as in torchvision: `features.N`. One linear
//! layer, `classifier`, replaces the three of the paper, as is usual on CIFAR.

use super::layers::{IMAGE, Layers};
use crate::Graph;

const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// `convolutions[i]` 3x3 convolutions of width `WIDTHS[i]`, then a 2x2 max pooling, five times.
pub(super) fn vgg(name: &str, convolutions: [usize; 5], classes: usize) -> Graph {
    let mut l = Layers::new(name);
    let mut x = IMAGE;
    let mut module = 0;
    for (width, count) in WIDTHS.into_iter().zip(convolutions) {
        for _ in 0..count {
            x = l.biased_conv(x, &format!("features.{module}"), width);
            x = l.batch_norm(x, &format!("features.{}", module + 1));
            x = l.relu(x, &format!("features.{}", module + 2));
            module += 3;
        }
        x = l.halve_by_max(x, &format!("features.{module}"));
        module += 1;
    }
    l.classify(x, "classifier", classes)
}
