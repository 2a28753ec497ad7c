//! `README.md`: what the model is, how to load it in each tool, and how sparse each layer is.

use crate::ExportReport;
use crate::config::{Config, LayerSparsity};

/// The model card of an export, in Markdown.
pub fn model_card(config: &Config, report: &ExportReport) -> String {
    [summary(config), files(report), usage(config), training(config), layers(&config.sparsity.layers)].concat()
}

fn summary(config: &Config) -> String {
    let Config { sr2_prune_version, architecture, num_classes, sparsity, .. } = config;
    let dataset = config.provenance.dataset.iter().map(|name| format!("datasets: [{name:?}]\n")).collect::<String>();
    let shape = shape(&config.image_shape);
    let (zeros, nnz, weights) = (100.0 * sparsity.overall, sparsity.nnz, sparsity.weights);
    format!(
        "---
library_name: sr2-prune
pipeline_tag: image-classification
tags: [sparse, pruning, onnx]
{dataset}---

# {architecture}, {zeros:.2} % sparse

An image classifier ({num_classes} classes, images {shape}) pruned by sr2-prune {sr2_prune_version}: {nnz} of its
{weights} convolution and linear weights are left, the others are exact zeros.
"
    )
}

fn files(report: &ExportReport) -> String {
    let row = |file: &crate::FileReport| {
        format!("| `{}` | {} | {:.1}x | {} |\n", file.name, file.bytes, file.ratio, file.content)
    };
    let outputs = match report.values.as_str() {
        "f32" => "All gave the same outputs when they were written".to_string(),
        values => {
            format!("All but `model.srz`, whose values are {values}, gave the same outputs when they were written")
        }
    };
    let rows: String = report.files.iter().map(row).collect();
    format!(
        "
## Files

| file | bytes | smaller than dense | content |
|--|--:|--:|--|
{rows}
{outputs}. Weights of the same shape have the same zeros (a batch norm of scale 0 adds some where it is folded).
"
    )
}

fn usage(config: &Config) -> String {
    let (mean, std) = (&config.provenance.mean, &config.provenance.std);
    let normalisation = if mean.is_empty() {
        "How the images were normalised in training was not recorded.".to_string()
    } else {
        format!("Images are RGB in 0..1, then `(x - mean) / std` with mean {mean:?} and std {std:?}.")
    };
    let image = config.image_shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let csr = config.sparsity.layers.first().map(csr_usage).unwrap_or_default();
    format!(
        r#"
## Use

{normalisation}

ONNX Runtime:
```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((1, {image}), np.float32)
logits = session.run(["output"], {{"input": images}})[0]
```
PyTorch, for a network with the same parameter names (`model.load_state_dict(state)`):
```python
from safetensors.torch import load_file

state = load_file("model.safetensors")
```
{csr}The sparse engine, timed against ONNX Runtime:
```sh
sr2-prune bench model.csr.safetensors
```
"#
    )
}

fn csr_usage(layer: &LayerSparsity) -> String {
    let name = &layer.name;
    format!(
        r#"A weight as a sparse matrix, `[out, in * height * width]`, in PyTorch:
```python
import torch
from safetensors.torch import load_file

tensors = load_file("model.csr.safetensors")
arrays = ("crow_indices", "col_indices", "values", "shape")
crow, col, values, shape = (tensors["{name}." + array] for array in arrays)
weight = torch.sparse_csr_tensor(crow, col, values, (int(shape[0]), int(shape[1:].prod())))
```
and in SciPy:
```python
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix

tensors = load_file("model.csr.safetensors")
arrays = ("crow_indices", "col_indices", "values", "shape")
crow, col, values, shape = (tensors["{name}." + array] for array in arrays)
weight = csr_matrix((values, col, crow), shape=(shape[0], shape[1:].prod()))
```
"#
    )
}

fn training(config: &Config) -> String {
    let dataset = config.provenance.dataset.as_ref().map(|name| ("dataset", name.clone()));
    let facts = config.provenance.training.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        (name.as_str(), text)
    });
    let row = |(name, value): (&str, String)| format!("| {name} | {value} |\n");
    let rows: String = dataset.into_iter().chain(facts).map(row).collect();
    if rows.is_empty() {
        return rows;
    }
    format!(
        "
## Training

| | |
|--|--|
{rows}"
    )
}

fn layers(layers: &[LayerSparsity]) -> String {
    let row = |layer: &LayerSparsity| {
        let LayerSparsity { name, nnz, sparsity, .. } = layer;
        format!("| `{name}` | {} | {nnz} | {:.2} % |\n", shape(&layer.shape), 100.0 * sparsity)
    };
    let rows: String = layers.iter().map(row).collect();
    format!(
        "
## Sparsity

| weight | shape | left | zeros |
|--|--|--:|--:|
{rows}"
    )
}

fn shape(dimensions: &[usize]) -> String {
    dimensions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ")
}
