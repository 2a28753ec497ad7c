//! What a run that was killed leaves behind.

use super::*;
use crate::metrics::read_records;
use crate::report::write_report;

#[test]
fn a_run_killed_before_its_summary_gets_it_and_keeps_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let base = config(&folder.path().join("one-cycle"));
    let averaged = Config { ema: Some(0.9), runs: folder.path().join("averaged"), ..base.clone() };
    for config in [base, averaged] {
        let before = finish(fresh(&config));
        let bytes = std::fs::read(&before.checkpoint).unwrap();
        std::fs::remove_file(before.folder.join("summary.json")).unwrap();
        let after = finish(reopened(&before.folder).unwrap());
        assert!(after.seconds > 0.0, "{after:?}");
        assert_eq!(Summary { seconds: before.seconds, ..after.clone() }, before);
        assert_eq!(Summary::read(&before.folder).unwrap(), after);
        assert!(std::fs::read(&before.checkpoint).unwrap() == bytes);
        assert!(matches!(reopened(&before.folder).err(), Some(TrainError::RunFinished { .. })));
    }
}

#[test]
fn what_a_killed_process_was_writing_goes_when_the_run_is_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    interrupt(fresh(&config), 1);
    let run = config.runs.join("run");
    std::fs::write(run.join(".writing-Ab12cd"), "half a checkpo").unwrap();
    std::fs::write(run.join("writing-notes"), "mine").unwrap();
    RunFolder::open(&run).unwrap();
    let names = std::fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.contains("writing")).collect();
    assert_eq!(left, ["writing-notes"]);
}

#[test]
fn losses_that_are_not_finite_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { epochs: 1, ..config(folder.path()) };
    let summary = finish(fresh(&config));
    let (run, _) = RunFolder::open(&summary.folder).unwrap();
    let records = read_records(run.path()).unwrap();
    let Some(Record::Epoch(epoch)) = records.into_iter().find(|record| matches!(record, Record::Epoch(_))) else {
        panic!("an epoch")
    };
    run.log(&Record::Epoch(EpochRecord { validation_loss: f64::INFINITY, ..epoch })).unwrap();
    run.save_summary(&Summary { test_loss: f64::NAN, ..summary.clone() }).unwrap();
    assert!(Summary::read(run.path()).unwrap().test_loss.is_nan());
    let last = read_records(run.path()).unwrap().pop();
    assert!(matches!(last, Some(Record::Epoch(epoch)) if epoch.validation_loss.is_nan()));
    write_report(run.path()).unwrap();
}
