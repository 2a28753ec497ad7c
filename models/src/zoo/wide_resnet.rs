//! Wide residual networks (Zagoruyko & Komodakis, 1605.07146): batch norm and ReLU before each convolution. Names as in
//! the PyTorch port by xternalz: `block1.layer.0.bn1`, `block1.layer.0.convShortcut`.

use super::layers::{IMAGE, Layers};
use crate::{Graph, ValueId};

/// The network of `depth` = 6 n + 4 layers, `widen` times as wide as a plain one. Without dropout.
pub(super) fn wide_resnet(name: &str, depth: usize, widen: usize, classes: usize) -> Graph {
    let mut l = Layers::new(name);
    let mut x = l.conv(IMAGE, "conv1", 16, 3, 1);
    for (index, (width, stride)) in [(16, 1), (32, 2), (64, 2)].into_iter().enumerate() {
        for block in 0..(depth - 4) / 6 {
            let path = format!("block{}.layer.{block}", index + 1);
            x = residual_block(&mut l, x, &path, widen * width, if block == 0 { stride } else { 1 });
        }
    }
    let x = l.batch_norm(x, "bn1");
    let x = l.relu(x, "relu");
    l.classify(x, "fc", classes)
}

fn residual_block(l: &mut Layers, input: ValueId, path: &str, width: usize, stride: usize) -> ValueId {
    let x = l.batch_norm(input, &format!("{path}.bn1"));
    let activated = l.relu(x, &format!("{path}.relu1"));
    let x = l.conv(activated, &format!("{path}.conv1"), width, 3, stride);
    let x = l.batch_norm(x, &format!("{path}.bn2"));
    let x = l.relu(x, &format!("{path}.relu2"));
    let residual = l.conv(x, &format!("{path}.conv2"), width, 3, 1);
    // Where the width changes, the shortcut starts after the activation, not before it.
    let shortcut = if l.channels(input) == width {
        input
    } else {
        l.conv(activated, &format!("{path}.convShortcut"), width, 1, stride)
    };
    l.add(shortcut, residual, &format!("{path}.add"))
}
