//! Densely connected networks (Huang et al., 1608.06993), names and shapes as in torchvision. The CIFAR form keeps the
//! 7x7 stem, so that torchvision's weights fit, but with stride 1 and no pooling after it.

use super::layers::{IMAGE, Layers};
use crate::{Graph, ValueId};

/// Channels that one dense layer adds.
const GROWTH: usize = 32;
/// Width of the 1x1 convolution of a dense layer, in units of `GROWTH`.
const BOTTLENECK: usize = 4;

/// Four blocks of `layers[i]` dense layers, with transitions that halve channels and size between them.
pub(super) fn densenet(name: &str, layers: [usize; 4], classes: usize) -> Graph {
    let mut l = Layers::new(name);
    let x = l.conv(IMAGE, "features.conv0", 2 * GROWTH, 7, 1);
    let x = l.batch_norm(x, "features.norm0");
    let mut x = l.relu(x, "features.relu0");
    for (index, count) in layers.into_iter().enumerate() {
        let block = index + 1;
        if index > 0 {
            x = transition(&mut l, x, &format!("features.transition{index}"));
        }
        for layer in 1..=count {
            x = dense_layer(&mut l, x, &format!("features.denseblock{block}.denselayer{layer}"));
        }
    }
    let x = l.batch_norm(x, "features.norm5");
    let x = l.relu(x, "relu");
    l.classify(x, "classifier", classes)
}

fn dense_layer(l: &mut Layers, input: ValueId, path: &str) -> ValueId {
    let x = l.batch_norm(input, &format!("{path}.norm1"));
    let x = l.relu(x, &format!("{path}.relu1"));
    let x = l.conv(x, &format!("{path}.conv1"), BOTTLENECK * GROWTH, 1, 1);
    let x = l.batch_norm(x, &format!("{path}.norm2"));
    let x = l.relu(x, &format!("{path}.relu2"));
    let x = l.conv(x, &format!("{path}.conv2"), GROWTH, 3, 1);
    l.concat(input, x, &format!("{path}.concat"))
}

fn transition(l: &mut Layers, x: ValueId, path: &str) -> ValueId {
    let x = l.batch_norm(x, &format!("{path}.norm"));
    let x = l.relu(x, &format!("{path}.relu"));
    let channels = l.channels(x) / 2;
    let x = l.conv(x, &format!("{path}.conv"), channels, 1, 1);
    l.halve_by_mean(x, &format!("{path}.pool"))
}
