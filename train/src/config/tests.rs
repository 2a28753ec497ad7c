use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    Config::read(&path)
}

#[test]
fn a_resolved_configuration_reads_back_equal() {
    let config = Config { lambda: Some(0.1 + 0.2), ..Config::default() }.resolve().unwrap();
    assert!(config.threads.is_some());
    assert_eq!(read(&config.to_toml()).unwrap(), config);
}

#[test]
fn the_largest_integers_read_back() {
    let config = Config {
        epochs: 1_000_000,
        batch_size: 65_536,
        processes: Some(65_536),
        dense_gradient_every: 1000,
        test_every: Some(1000),
        seed: i64::MAX as u64,
        threads: Some(1024),
        workers: 64,
        ..Config::default()
    };
    let config = config.resolve().unwrap();
    assert_eq!(read(&config.to_toml()).unwrap(), config);
}

#[test]
fn sr2_needs_no_schedule_towards_a_sparsity() {
    let base = Config { sparsity: Some(0.9), ..Config::default() };
    let resolved = |config: Config| {
        let config = config.resolve().unwrap();
        (config.control.unwrap(), config.sigma_floor.unwrap())
    };
    assert_eq!(resolved(base.clone()), (Control::ScheduleFree, 0.2));
    let one_cycle = [
        Config::default(),
        Config { control: Some(Control::OneCycle), ..base.clone() },
        Config { nesterov: true, ..base.clone() },
        Config { ema: Some(0.9), ..base.clone() },
        Config { method: Method::Magnitude, ..base },
    ];
    assert_eq!(one_cycle.map(resolved), [(Control::OneCycle, 0.5); 5]);
}

#[test]
fn a_misspelt_key_gets_a_suggestion() {
    let error = read("epochs = 3\nlamda = 1e-3\n").unwrap_err().to_string();
    assert!(error.ends_with("run.toml: unknown key \"lamda\"; did you mean \"lambda\"?"), "{error}");
}

#[test]
fn the_file_of_a_sweep_is_told_from_one_of_a_run() {
    let error = read("epochs = 3\n[[grid]]\nseed = [0, 1]\n").unwrap_err().to_string();
    assert!(
        error.contains("run.toml: this is a sweep's file: sr2-prune sweep ") && error.ends_with("run.toml"),
        "{error}"
    );
}

#[test]
fn wrong_types_and_broken_text_are_named_with_their_line() {
    let error = read("epochs = 3\nmomentum = \"much\"\n").unwrap_err().to_string();
    assert!(error.contains("run.toml:2: invalid type: string \"much\""), "{error}");
    assert!(read("epochs = 3\n= 4\n").unwrap_err().to_string().contains("run.toml:2: "));
}

#[test]
fn values_out_of_range_are_named() {
    type Change = fn(&mut Config);
    let cases: [(Change, &str); 26] = [
        (|c| c.sparsity = Some(1.0), "sparsity is 1, expected a fraction from 0 to below 1"),
        (|c| (c.sparsity, c.lambda) = (Some(0.9), Some(1e-3)), "sparsity is 0.9, expected either sparsity or lambda"),
        (|c| c.debias = Some(1.5), "debias is 1.5, expected a fraction from 0 to 1"),
        (|c| (c.method, c.penalty) = (Method::Magnitude, Penalty::L1), "penalty is l1, expected l0 with a method"),
        (
            |c| (c.method, c.lambda) = (Method::Sgd, Some(1.0)),
            "method is a dense one with a sparsity or lambda, expected",
        ),
        (|c| c.lambda = Some(-1e-3), "lambda is -0.001, expected a finite number from 0"),
        (
            |c| (c.penalty, c.group) = (Penalty::LHalf, Some(Group::Kernel)),
            "group is set with penalty l1/2, expected l0",
        ),
        (|c| c.bounds = Some(Bounds(0.1, 1.0)), "box is [0.1, 1], expected an interval around 0"),
        (|c| c.penalty = Penalty::L0Ball, "penalty is l0-ball without sparsity, expected a sparsity"),
        (|c| c.share = Some(Share::Lamp), "share is set, expected global, unless with a sparsity"),
        (|c| c.scale = [("fc".to_string(), 0.0)].into(), "scale is 0 for \"fc\", expected a number above 0"),
        (|c| c.method = Method::OneShot, "sparsity is not set, expected a fraction with a method that cuts once"),
        (|c| c.minutes = Some(0.0), "minutes is 0, expected above 0"),
        (|c| c.ema = Some(1.0), "ema is 1, expected from 0 to below 1"),
        (|c| (c.method, c.test_every) = (Method::Sgd, Some(4)), "test_every is 4, expected 1 without method sr2"),
        (
            |c| (c.teacher, c.executor) = (Some("t".into()), ExecutorKind::Candle),
            "teacher is set, expected none on can",
        ),
        (
            |c| (c.precision, c.executor) = (Precision::Tf32, ExecutorKind::Candle),
            "precision is tf32, expected f32 or bf16 without device cuda",
        ),
        (|c| c.lambda = Some(f64::NAN), "lambda is NaN, expected a finite number from 0"),
        (|c| c.momentum = 1.0, "momentum is 1, expected from 0 to below 1"),
        (|c| c.epochs = 0, "epochs is 0, expected 1 to 1000000"),
        (|c| c.batch_size = 1, "batch_size is 1, expected 2 to 65536"),
        (|c| c.sigma_floor = Some(0.0), "sigma_floor is 0, expected 0.001 to 1000000"),
        (|c| c.seed = 1 << 63, "seed is 9223372036854775808, expected 0 to 9223372036854775807"),
        (|c| c.threads = Some(0), "threads is 0, expected 1 to 1024"),
        (|c| c.name = Some("a/b".into()), "name is \"a/b\", expected one folder name"),
        (|c| c.network = Some("resnet21".into()), "no network is named \"resnet21\"; did you mean"),
    ];
    for (change, expected) in cases {
        let mut config = Config::default();
        change(&mut config);
        let error = config.resolve().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
