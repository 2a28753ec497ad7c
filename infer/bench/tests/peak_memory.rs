//! Memory is measured by starting this very program again, so it has a `main` of its own instead of a test harness.

use std::process::ExitCode;

use sr2_bench::{BenchError, BenchOptions, EngineKind, Places, bench, measure_if_asked};
use sr2_infer::Isa;

fn main() -> ExitCode {
    if let Some(code) = measure_if_asked() {
        return code;
    }
    let options = BenchOptions {
        model: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.onnx").into(),
        engines: vec![EngineKind::Sparse],
        against: Vec::new(),
        batch: 1,
        threads: 1,
        spin: true,
        pin: false,
        seconds: 0.0,
        tuning: None,
        isa: Isa::best(),
        data: None,
        places: Places::default(),
        program: std::env::current_exe().ok(),
    };
    let report = bench(&options).unwrap();
    let bytes = report.results[0].peak_rss_bytes;
    if cfg!(target_os = "linux") {
        let bytes = bytes.expect("Linux tells the peak");
        assert!((1 << 19..1 << 28).contains(&bytes), "{bytes} bytes for a tiny network");
    }

    let stranger = BenchOptions { program: Some("/no/such/program".into()), ..options };
    let error = bench(&stranger).unwrap_err();
    assert!(matches!(error, BenchError::Engine { .. }), "{error}");
    assert!(error.to_string().starts_with("sparse: cannot measure its memory: /no/such/program: "), "{error}");
    println!("test peak memory of another process ... ok");
    ExitCode::SUCCESS
}
