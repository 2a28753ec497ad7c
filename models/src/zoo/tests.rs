use super::*;

/// Conv and linear weights as published for the CIFAR form (no biases, no batch norm), and multiply-adds an image.
const EXPECTED: [(&str, usize, usize, u64); NAMES.len()] = [
    ("resnet8", 10, 125_416, 5_790_496),
    ("resnet20", 10, 270_896, 40_813_184),
    ("resnet32", 10, 464_432, 69_124_736),
    ("resnet44", 10, 657_968, 97_436_288),
    ("resnet56", 10, 851_504, 125_747_840),
    ("resnet18", 10, 11_164_352, 555_422_720),
    ("resnet34", 10, 21_265_088, 1_159_402_496),
    ("resnet50", 10, 23_467_712, 1_297_829_888),
    ("wrn_22_2", 10, 1_076_912, 157_730_048),
    ("vgg16_bn", 10, 14_715_584, 313_201_664),
    ("vgg19_bn", 10, 20_024_000, 398_136_320),
    ("mobilenet_v2", 10, 2_202_560, 87_976_448),
    ("densenet121", 10, 6_880_448, 896_215_040),
    ("densenet201", 100, 18_055_872, 1_371_926_016),
];

#[test]
fn weights_and_macs_are_as_published() {
    for ((expected, classes, weights, macs), name) in EXPECTED.into_iter().zip(NAMES) {
        assert_eq!(name, expected);
        let graph = build(name, classes).unwrap();
        assert_eq!((graph.prunable_weights(), graph.macs()), (weights, macs), "{name}");
        assert_eq!((graph.name(), graph.input_shape(), graph.output_shape()), (name, &INPUT[..], &[classes][..]));
    }
}

#[test]
fn every_value_is_read_but_the_logits() {
    for name in NAMES {
        let reads = build(name, 10).unwrap().last_reads();
        let unread: Vec<_> = (0..reads.len()).filter(|v| reads[*v].is_none()).collect();
        assert_eq!(unread, [reads.len() - 1], "{name}");
    }
}

#[test]
fn an_unknown_name_gets_the_nearest_and_the_whole_list() {
    for (name, nearest) in [("resnet21", "resnet20"), ("ResNet-18", "resnet18"), ("vgg16", "vgg16_bn"), ("", "resnet8")]
    {
        let error = build(name, 10).unwrap_err();
        assert_eq!(error, UnknownNetwork { name: name.into(), nearest });
        assert!(NAMES.iter().all(|n| error.to_string().contains(n)), "{error}");
    }
}

#[test]
#[should_panic(expected = "at least one class")]
fn no_classes_panics() {
    let _ = build("resnet20", 0);
}
