//! Residual networks (He et al., 1512.03385), names as in torchvision: `conv1`, `bn1`, `layer1.0.conv1`,
//! `layer2.0.downsample.0`, `fc`. All shortcuts that change the shape are 1x1 convolutions with batch norm.

use super::layers::{IMAGE, Layers};
use crate::{Graph, ValueId};

/// A residual block's body: input, path of the block, width, stride.
type Body = fn(&mut Layers, ValueId, &str, usize, usize) -> ValueId;

/// Blocks of one width; the first has the stride.
struct Stage {
    width: usize,
    blocks: usize,
    stride: usize,
}

/// Small fast network: a strided stem and three residual blocks, for demos and studies of methods.
pub(super) fn resnet8(classes: usize) -> Graph {
    let stages = [(24, 1), (40, 2), (80, 2)].map(|(width, stride)| Stage { width, blocks: 1, stride });
    resnet("resnet8", 2, &stages, basic, classes)
}

/// The CIFAR networks of the paper, section 4.2, of depth `6 blocks + 2`.
pub(super) fn cifar(name: &str, blocks: usize, classes: usize) -> Graph {
    let stages = [(16, 1), (32, 2), (64, 2)].map(|(width, stride)| Stage { width, blocks, stride });
    resnet(name, 1, &stages, basic, classes)
}

/// The ImageNet networks of basic blocks, with a 3x3 stem of stride 1 and no pooling after it.
pub(super) fn imagenet_basic(name: &str, blocks: [usize; 4], classes: usize) -> Graph {
    resnet(name, 1, &imagenet_stages(blocks), basic, classes)
}

/// The ImageNet networks of bottleneck blocks, with a 3x3 stem of stride 1 and no pooling after it.
pub(super) fn imagenet_bottleneck(name: &str, blocks: [usize; 4], classes: usize) -> Graph {
    resnet(name, 1, &imagenet_stages(blocks), bottleneck, classes)
}

fn imagenet_stages(blocks: [usize; 4]) -> [Stage; 4] {
    let [a, b, c, d] = blocks;
    [(64, a, 1), (128, b, 2), (256, c, 2), (512, d, 2)].map(|(width, blocks, stride)| Stage { width, blocks, stride })
}

fn resnet(name: &str, stem_stride: usize, stages: &[Stage], body: Body, classes: usize) -> Graph {
    let mut l = Layers::new(name);
    let x = l.conv(IMAGE, "conv1", stages[0].width, 3, stem_stride);
    let x = l.batch_norm(x, "bn1");
    let mut x = l.relu(x, "relu");
    for (index, stage) in stages.iter().enumerate() {
        for block in 0..stage.blocks {
            let path = format!("layer{}.{block}", index + 1);
            let stride = if block == 0 { stage.stride } else { 1 };
            let residual = body(&mut l, x, &path, stage.width, stride);
            let shortcut = shortcut(&mut l, x, &path, residual, stride);
            let sum = l.add(residual, shortcut, &format!("{path}.add"));
            x = l.relu(sum, &format!("{path}.relu"));
        }
    }
    l.classify(x, "fc", classes)
}

fn shortcut(l: &mut Layers, x: ValueId, path: &str, residual: ValueId, stride: usize) -> ValueId {
    let channels = l.channels(residual);
    if stride == 1 && l.channels(x) == channels {
        return x;
    }
    let x = l.conv(x, &format!("{path}.downsample.0"), channels, 1, stride);
    l.batch_norm(x, &format!("{path}.downsample.1"))
}

fn basic(l: &mut Layers, x: ValueId, path: &str, width: usize, stride: usize) -> ValueId {
    let x = l.conv(x, &format!("{path}.conv1"), width, 3, stride);
    let x = l.batch_norm(x, &format!("{path}.bn1"));
    let x = l.relu(x, &format!("{path}.relu1"));
    let x = l.conv(x, &format!("{path}.conv2"), width, 3, 1);
    l.batch_norm(x, &format!("{path}.bn2"))
}

fn bottleneck(l: &mut Layers, x: ValueId, path: &str, width: usize, stride: usize) -> ValueId {
    let x = l.conv(x, &format!("{path}.conv1"), width, 1, 1);
    let x = l.batch_norm(x, &format!("{path}.bn1"));
    let x = l.relu(x, &format!("{path}.relu1"));
    let x = l.conv(x, &format!("{path}.conv2"), width, 3, stride);
    let x = l.batch_norm(x, &format!("{path}.bn2"));
    let x = l.relu(x, &format!("{path}.relu2"));
    let x = l.conv(x, &format!("{path}.conv3"), 4 * width, 1, 1);
    l.batch_norm(x, &format!("{path}.bn3"))
}
