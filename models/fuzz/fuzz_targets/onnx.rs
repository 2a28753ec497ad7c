//! A network that is imported has the shapes its graph says, and the same graph from its own description.
#![no_main]

mod in_file;

use libfuzzer_sys::fuzz_target;
use sr2_models::{Graph, Model, onnx};

fuzz_target!(|bytes: &[u8]| {
    in_file::in_file("m.onnx", bytes, |path| {
        if let Ok(model) = onnx::import(path) {
            let (graph, parameters) = model.into_parts();
            let again = Graph::try_new(graph.name(), graph.input_shape(), graph.nodes().to_vec()).unwrap();
            assert_eq!(graph, again);
            Model::try_new(again, parameters).unwrap();
        }
    });
});
