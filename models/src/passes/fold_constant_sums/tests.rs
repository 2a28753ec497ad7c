use super::*;
use crate::{Node, reference, zoo};

/// `resnet8` with the second convolution of its last block without non-zeros, and that block's last batch norm, with
/// statistics at rest, shifting by `shift`.
fn with_dead_branch(shift: f32) -> Model {
    let graph = zoo::build("resnet8", 10).unwrap();
    let mut parameters = crate::initialisation::initialise(&graph, 5);
    parameters.get_mut("layer3.0.conv2.weight").unwrap().data_mut().fill(0.0);
    parameters.get_mut("layer3.0.bn2.bias").unwrap().data_mut().fill(shift);
    Model::try_new(graph, parameters).unwrap()
}

fn names(model: &Model) -> Vec<&str> {
    model.graph().nodes().iter().map(|node: &Node| node.name.as_str()).collect()
}

#[test]
fn a_dead_branch_goes_and_its_constant_stays() {
    let images: Vec<f32> = (0..3 * 32 * 32).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
    for (shift, sum) in [(0.0, false), (-0.25, true)] {
        let model = with_dead_branch(shift);
        let cut = fold_constant_sums(&model);
        assert!(!names(&cut).iter().any(|name| name.starts_with("layer3.0.conv")), "{:?}", names(&cut));
        assert_eq!(names(&cut).contains(&"layer3.0.add"), sum);
        assert!(cut.graph().macs() < model.graph().macs());
        assert_eq!(reference::logits(&cut, &images, 1), reference::logits(&model, &images, 1));
    }
}
