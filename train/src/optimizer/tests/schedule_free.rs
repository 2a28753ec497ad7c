use super::*;

#[test]
fn schedule_free_steps_end_at_the_average_of_the_iterates() {
    let control = StepControl::Schedule(Schedule::OneCycle(FLAT_FLOOR));
    let method = ScheduleFree { beta: 0.75 };
    let direction = Direction::ScheduleFree(method);
    let settings = Settings { direction, control, ..settings(Penalty::L0, 0.0, 0.0, Sr2::paper()) };
    let mut optimizer = Optimizer::new(settings, Layers::one(0..1));
    let (mut x, centre) = (vec![1.0, 2.0], vec![0.0, 1.0]);
    optimizer.step(&mut x, &mut Towards(centre.clone())).unwrap();
    // The gradient is 1 and sigma 2; the first step is all of the average.
    assert_eq!((&x, optimizer.averaged(&x).unwrap()), (&vec![0.5, 1.5], vec![0.5, 1.5]));
    optimizer.step(&mut x, &mut Towards(centre)).unwrap();
    // From 0.5 the iterate goes to 0.25, the average three quarters of the way there, and the point back towards it.
    assert_eq!(optimizer.averages().iterate, [0.25, 1.25]);
    assert_eq!((&x, optimizer.averaged(&x).unwrap()), (&vec![0.296875, 1.296875], vec![0.3125, 1.3125]));
}

#[test]
fn a_step_shorter_than_the_floors_counts_for_less_in_the_average() {
    let settings = settings(Penalty::L0, 0.0, 0.0, Sr2::robust(FLAT_FLOOR, 10));
    let state = State { step: 1, sigma: 8.0, rejections_in_a_row: 0, lambda: 0.0, averaged: 1 };
    let averages = Averages { iterate: vec![1.0], parameters: vec![0.5], ..Averages::default() };
    let settings = Settings { direction: SCHEDULE_FREE, ..settings };
    let mut sr2 = Optimizer::resume(settings, Layers::one(0..1), state, averages);
    let report = sr2.step(&mut vec![0.5], &mut Towards(vec![-1.5])).unwrap();
    assert_ne!(report.verdict, Verdict::Rejected);
    // The gradient is 2; three quarters would count at the floor, which is 2.
    assert_eq!((&sr2.averages().iterate, &sr2.averages().parameters), (&vec![0.75], &vec![0.546875]));
}

#[test]
fn a_channel_that_promises_more_than_a_loss_stays_in_this_step() {
    let settings = settings(Penalty::L0, 0.0, 0.0, Sr2::robust(FLAT_FLOOR, 10));
    let layer = PenalisedLayer { channels: Some(3), ..PenalisedLayer::plain(0..6) };
    let layers = Layers { penalised: vec![layer], ..Layers::one(0..6) };
    let mut sr2 = Optimizer::new(Settings { direction: SCHEDULE_FREE, ..settings }, layers);
    let mut x = vec![1.0; 7];
    // Sigma is 2 and the ceiling 1.5 ln 10, so squares of 6.9 are the most; behind the layer there is no bound.
    sr2.step(&mut x, &mut Towards(vec![3.0, -1.0, 2.8, 2.8, 2.0, 1.0, 10.0])).unwrap();
    assert_eq!(x, [1.0, 1.0, 1.9, 1.9, 1.5, 1.0, 5.5]);
    assert_eq!(sr2.averages().iterate, x);
}

#[test]
fn a_rejected_schedule_free_step_leaves_everything_and_raises_sigma() {
    let settings = settings(Penalty::L0, 0.0, 0.0, Sr2::robust(FLAT_FLOOR, 10));
    let mut sr2 = Optimizer::new(Settings { direction: SCHEDULE_FREE, ..settings }, Layers::one(0..2));
    let mut x = vec![1.0, 2.0, 3.0];
    sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 0.6 }).unwrap();
    let before = (x.clone(), sr2.averages().clone(), sr2.state().averaged);
    let report = sr2.step(&mut x, &mut Scripted { at_point: 2.0, at_trial: 2.5 }).unwrap();
    assert_eq!(report.verdict, Verdict::Rejected);
    assert_eq!((x, sr2.averages().clone(), sr2.state().averaged), before);
    assert_eq!(sr2.state().sigma, 2.0 * 5.57);
}

#[test]
fn a_support_that_freezes_after_a_rejection_is_cut_in_the_averages_too() {
    let sr2 = StepControl::Sr2(Sr2::robust(FLAT_FLOOR, 10));
    let settings = towards(Penalty::L0, SCHEDULE_FREE, sr2, false, true);
    let mut optimizer = Optimizer::new(settings, Layers::one(0..WEIGHTS));
    let mut x: Vec<f32> = (0..WEIGHTS).map(|i| 0.01 * (i + 1) as f32).collect();
    for step in 0..100 {
        // From the middle of the ramp on all steps are rejected, so too many weights are left when the support freezes.
        let at_trial = if (40..80).contains(&step) { 9.0 } else { 0.0 };
        optimizer.step(&mut x, &mut Scripted { at_point: 1.0, at_trial }).unwrap();
        let zeros = |values: &[f32]| values.iter().filter(|w| **w == 0.0).count();
        let averages = optimizer.averages();
        if step >= 80 {
            assert_eq!([&x, &averages.iterate, &averages.parameters].map(|v| zeros(v)), [WEIGHTS - LEFT; 3], "{step}");
        }
    }
}
