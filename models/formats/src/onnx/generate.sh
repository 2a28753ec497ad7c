#!/bin/sh
# Generates proto.rs from the onnx.proto of the PyPI package `onnx` (1.23.2 for the committed file); no protoc needed.
# Usage: generate.sh FOLDER_WITH_ONNX_PROTO
# (that folder: python3 -c 'import onnx, os; print(os.path.dirname(onnx.__file__))')
set -eu
here=$(cd "$(dirname "$0")" && pwd)
include=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "generate"
version = "0.0.0"
edition = "2024"

[dependencies]
prost-build = { version = "0.14.6", default-features = false }
protox = "0.9"
TOML
cat > "$work/src/main.rs" <<'RUST'
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let descriptors = protox::compile(["onnx.proto"], [&args[1]]).expect("onnx.proto compiles");
    let mut config = prost_build::Config::new();
    config.disable_comments(["."]).out_dir(&args[2]);
    config.compile_fds(descriptors).expect("code is generated");
}
RUST
cargo run --release --quiet --manifest-path "$work/Cargo.toml" -- "$include" "$work"
mv "$work/onnx.rs" "$here/proto.rs"
rustfmt --edition 2024 "$here/proto.rs"
