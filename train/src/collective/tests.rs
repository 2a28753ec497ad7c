use super::threads::together;
use super::*;
use crate::config::ConfigError;
use crate::train_error::TrainError;

#[test]
fn sums_and_texts_are_everybodys() {
    let results = together(3, |team| {
        let rank = team.rank() as f64;
        let (mut doubles, mut singles) = ([rank, 1.0], [rank as f32, -0.5]);
        team.sum_f64(&mut doubles);
        team.sum_f32(&mut singles);
        let text = shared_text(&*team, &"text".repeat(3 - team.rank()));
        (doubles, singles, text, any(&*team, team.rank() == 2), any(&*team, false))
    });
    assert!(results.iter().all(|r| *r == ([3.0, 3.0], [3.0, -1.5], "texttexttext".into(), true, false)));
}

#[test]
fn parts_cover_everything_once() {
    for len in [0, 1, 7, 8, 128] {
        for size in [1, 2, 3, 8] {
            let parts = together(size, |team| part(&*team, len));
            assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
            let lens = || parts.iter().map(|part| part.len());
            assert!(lens().max().unwrap() - lens().min().unwrap() <= 1, "{parts:?}");
        }
    }
}

#[test]
fn the_first_failure_is_everybodys() {
    let failure = |key| TrainError::from(ConfigError::Value { key, found: "a".into(), expected: "b".into() });
    let results = together(4, |team| {
        let result = match team.rank() {
            1 => Err(failure("one")),
            3 => Err(failure("three")),
            rank => Ok(rank),
        };
        agree(&*team, result).unwrap_err().to_string()
    });
    let elsewhere = "process 1 failed";
    assert_eq!(results, [elsewhere, "one is a, expected b", elsewhere, elsewhere]);
    assert_eq!(together(2, |team| agree(&*team, Ok(team.rank())).unwrap()), [0, 1]);
}
