//! The diagonal curvature of SR2's model, learnt from its own steps: the quasi-Cauchy update of Zhu, Nazareth and Wolkowicz
//! (SIAM J. Optim. 9, 1999), for objectives whose coordinates differ in scale.

/// Moves the diagonal `D >= 0` (empty for zero) to the nearest one, in the Frobenius norm, with the curvature `s'y` that was
/// found along the step `s = trial - x`, `y` the change of the gradient of one and the same function along it:
///
/// `D_i <- max(0, D_i + (s'y - s'Ds) / sum_j s_j^4 * s_i^2)`.
///
/// Nothing happens along a step of zero, or where a sum is not finite.
///
/// # Panics
/// If the vectors differ in length.
pub fn update(curvature: &mut Vec<f32>, [x, trial]: [&[f32]; 2], [at_x, at_trial]: [&[f32]; 2]) {
    curvature.resize(x.len(), 0.0);
    assert_eq!([trial.len(), at_x.len(), at_trial.len()], [x.len(); 3], "trial and gradients of {} weights", x.len());
    let step = |i: usize| f64::from(trial[i]) - f64::from(x[i]);
    let (mut missing, mut fourth_powers) = (0.0, 0.0);
    for (i, d) in curvature.iter().enumerate() {
        let (s, y) = (step(i), f64::from(at_trial[i]) - f64::from(at_x[i]));
        missing += s * (y - f64::from(*d) * s);
        fourth_powers += s.powi(4);
    }
    let factor = missing / fourth_powers;
    if factor.is_finite() {
        for (i, d) in curvature.iter_mut().enumerate() {
            *d = (f64::from(*d) + factor * step(i).powi(2)).max(0.0) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Along the step the new curvature is the one found, and it has moved by a multiple of the squared step: what the
    /// least change subject to one linear equation is.
    #[test]
    fn the_change_is_the_least_one_that_has_the_curvature_found() {
        let (x, trial) = ([1.0, 2.0, -1.0], [1.5, 1.0, -1.25]);
        let (at_x, at_trial) = ([0.0, 1.0, 2.0], [1.0, -2.0, 1.5]);
        let mut curvature = vec![1.0, 2.0, 3.0];
        update(&mut curvature, [&x, &trial], [&at_x, &at_trial]);
        let squares = [0.25, 1.0, 0.0625];
        let along: f32 = curvature.iter().zip(squares).map(|(d, s)| d * s).sum();
        assert!((along - (0.5 + 3.0 + 0.125)).abs() < 1e-6, "{along}");
        let factors: Vec<f32> =
            curvature.iter().zip([1.0, 2.0, 3.0]).zip(squares).map(|((d, o), s)| (d - o) / s).collect();
        assert!(factors.iter().all(|factor| (factor - factors[0]).abs() < 1e-5), "{factors:?}");
    }

    #[test]
    fn it_never_turns_negative() {
        let mut curvature = vec![1.0, 1.0];
        update(&mut curvature, [&[0.0; 2], &[1.0, 0.5]], [&[0.0; 2], &[-3.0, 0.0]]);
        assert_eq!(curvature[0], 0.0);
    }

    #[test]
    fn a_step_of_zero_and_a_gradient_that_is_not_a_number_say_nothing() {
        let mut curvature = vec![1.0, 2.0];
        update(&mut curvature, [&[0.0; 2], &[0.0; 2]], [&[0.0; 2], &[1.0; 2]]);
        update(&mut curvature, [&[0.0; 2], &[1.0, 0.5]], [&[0.0; 2], &[f32::NAN, 0.0]]);
        assert_eq!(curvature, [1.0, 2.0]);
    }
}
