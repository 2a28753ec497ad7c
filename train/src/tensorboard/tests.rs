use super::*;

/// The contents of a file of TFRecords, their CRCs checked.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut take = |count: usize| {
        let (head, tail) = bytes.split_at(count);
        bytes = tail;
        (head.to_vec(), tail.is_empty())
    };
    loop {
        let (length, _) = take(8);
        assert_eq!(take(4).0, masked(crc32c(&length)).to_le_bytes());
        let (content, _) = take(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (crc, end) = take(4);
        assert_eq!(crc, masked(crc32c(&content)).to_le_bytes());
        all.push(content);
        if end {
            return all;
        }
    }
}

#[test]
fn the_crc_is_castagnolis() {
    // RFC 3720, B.4.
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    // The length of TensorFlow's first record in any file of version 2: 24 bytes.
    assert_eq!(record(&[0; 24])[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
}

fn step(step: u64) -> StepRecord {
    StepRecord {
        epoch: 1,
        step,
        loss: 2.5,
        xi: 0.1,
        rho: Some(0.75),
        sigma: 0.5,
        lambda: 1e-3,
        stationarity: 1.0,
        accepted: true,
        sparsity: 0.25,
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let so_far = SoFar { loss: 1.0, accuracy: 0.5, acceptance_rate: 1.0, images_per_s: 10.0 };
    let mut inner = ();
    let mut log = EventLog::new(&mut inner);
    log.on_start(folder.path(), 40, 100, 8);
    (49..=51).for_each(|k| log.on_step(&step(k), &so_far));
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
    assert!(file.file_name().to_str().unwrap().starts_with("events.out.tfevents."));
    let bytes = std::fs::read(file.path()).unwrap();
    let events: Vec<Event> = records(&bytes).iter().map(|content| Event::decode(&content[..]).unwrap()).collect();
    let [version, start, logged] = events.as_slice() else { panic!("three events, got {events:?}") };
    assert_eq!(version.what, Some(What::FileVersion("brain.Event:2".into())));
    assert_eq!((start.step, &start.what), (41, &Some(What::SessionLog(SessionLog { status: 1 }))));
    let Some(What::Summary(Scalars { value })) = &logged.what else { panic!("scalars, got {logged:?}") };
    assert_eq!(logged.step, 50);
    assert!(value.contains(&Scalar { tag: "step/rho".into(), simple_value: 0.75 }), "{value:?}");
    assert_eq!(value.len(), 7);
}

struct Warnings(Vec<String>);

impl Observer for Warnings {
    fn on_warning(&mut self, message: &str) {
        self.0.push(message.into());
    }
}

#[test]
fn a_file_that_cannot_be_written_is_one_warning() {
    let mut warnings = Warnings(Vec::new());
    let mut log = EventLog::new(&mut warnings);
    log.on_start(Path::new("/nowhere"), 40, 100, 8);
    log.scalars(50, &[("step/loss", 1.0)]);
    assert_eq!(warnings.0.len(), 1, "{:?}", warnings.0);
    assert!(warnings.0[0].contains("No such file"), "{:?}", warnings.0);
}
