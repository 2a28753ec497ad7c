//! Networks in CIFAR form: images `[3, 32, 32]`, parameters named as in PyTorch's state dicts.

mod densenet;
mod layers;
mod mobilenet;
mod resnet;
mod vgg;
mod wide_resnet;

use crate::Graph;

/// Every name that [`build`] knows, smallest family first.
pub const NAMES: [&str; 14] = [
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet18",
    "resnet34",
    "resnet50",
    "wrn_22_2",
    "vgg16_bn",
    "vgg19_bn",
    "mobilenet_v2",
    "densenet121",
    "densenet201",
];

/// Shape of one image.
pub const INPUT: [usize; 3] = [3, 32, 32];

/// A network name that is not in the zoo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no network is named {name:?}; did you mean {nearest:?}? The zoo has {}", NAMES.join(", "))]
pub struct UnknownNetwork {
    /// The name asked for.
    pub name: String,
    /// The name of the zoo nearest to it.
    pub nearest: &'static str,
}

/// The graph of the network `name` with `classes` outputs (logits).
///
/// # Panics
/// If `classes` is 0.
pub fn build(name: &str, classes: usize) -> Result<Graph, UnknownNetwork> {
    assert!(classes > 0, "a classifier needs at least one class, got {classes}");
    Ok(match name {
        "resnet8" => resnet::resnet8(classes),
        "resnet20" => resnet::cifar(name, 3, classes),
        "resnet32" => resnet::cifar(name, 5, classes),
        "resnet44" => resnet::cifar(name, 7, classes),
        "resnet56" => resnet::cifar(name, 9, classes),
        "resnet18" => resnet::imagenet_basic(name, [2, 2, 2, 2], classes),
        "resnet34" => resnet::imagenet_basic(name, [3, 4, 6, 3], classes),
        "resnet50" => resnet::imagenet_bottleneck(name, [3, 4, 6, 3], classes),
        "wrn_22_2" => wide_resnet::wide_resnet(name, 22, 2, classes),
        "vgg16_bn" => vgg::vgg(name, [2, 2, 3, 3, 3], classes),
        "vgg19_bn" => vgg::vgg(name, [2, 2, 4, 4, 4], classes),
        "mobilenet_v2" => mobilenet::mobilenet_v2(classes),
        "densenet121" => densenet::densenet(name, [6, 12, 24, 16], classes),
        "densenet201" => densenet::densenet(name, [6, 12, 48, 32], classes),
        _ => return Err(UnknownNetwork { name: name.into(), nearest: nearest(name) }),
    })
}

fn nearest(name: &str) -> &'static str {
    let name = name.to_lowercase().replace('-', "_");
    NAMES.into_iter().min_by_key(|known| strsim::damerau_levenshtein(&name, known)).expect("the zoo is not empty")
}

#[cfg(test)]
mod tests;
