//! Size and speed of the small container, one core. Usage: srz_speed FILE.csr.safetensors [f32|f16|int8|palette]

use std::path::Path;
use std::time::Instant;

use sr2_formats::{csr_file, srz};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let path = Path::new(arguments.get(1).ok_or("usage: srz_speed FILE.csr.safetensors [VALUES]")?);
    let values = arguments.get(2).map_or(Ok(srz::Values::F32), |name| name.parse())?;
    let file = csr_file::read(path)?;
    let matrices = file.sparse.values().map(|p| p.matrix());
    let (weights, nnz) = matrices.fold((0, 0), |(n, nnz), m| (n + m.rows() * m.cols(), nnz + m.nnz()));
    let others: usize = file.dense.values().map(|t| t.len()).sum();
    let dense = 4.0 * (weights + others) as f64;

    let start = Instant::now();
    let bytes = srz::encode(path, &file, values)?;
    let encoding = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let back = srz::decode(path, &bytes)?;
    let decoding = start.elapsed().as_secs_f64();
    assert!(values != srz::Values::F32 || back == file, "lossless");
    println!(
        "{weights} weights, {:.2} % zero: {} bytes, {:.1}x smaller than dense f32; encoded in {encoding:.3} s, decoded in \
         {decoding:.3} s ({:.0} MB of dense weights a second)",
        100.0 * (1.0 - nnz as f64 / weights as f64),
        bytes.len(),
        dense / bytes.len() as f64,
        dense / decoding / 1e6,
    );
    let weights_alone: usize = file.sparse.values().map(srz::coded_bytes).sum();
    println!("weights alone, f32: {weights_alone} bytes, {:.1}x", 4.0 * weights as f64 / weights_alone as f64);
    Ok(())
}
