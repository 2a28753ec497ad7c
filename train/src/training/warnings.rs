//! What a run warns of.

use super::setup;
use crate::layout::ParameterLayout;
use crate::metrics::Census;
use crate::observer::Observer;
use crate::optimizer::Optimizer;
use crate::sr2::Bound;

/// Says once of each layer that the user's lambda would have emptied it.
pub(super) fn of_guarded_layers(
    known: &mut Vec<usize>,
    optimizer: &Optimizer,
    layout: &ParameterLayout,
    observer: &mut dyn Observer,
) {
    let new: Vec<usize> = optimizer.guarded().iter().filter(|layer| !known.contains(layer)).copied().collect();
    for layer in new {
        known.push(layer);
        let layer = &optimizer.layers().penalised[layer];
        let (name, least) = (setup::name_at(layout, &layer.range), layer.least);
        observer.on_warning(&format!(
            "lambda is too large for layer {name}, which would have been emptied; it keeps its {least} largest weights"
        ));
    }
}

/// Layers can come back, so only those that were not empty before are news.
pub(super) fn of_empty_layers(known: &mut Vec<String>, census: &Census, observer: &mut dyn Observer) {
    let empty = census.empty_layers();
    for name in empty.iter().filter(|name| !known.contains(name)) {
        observer.on_warning(&format!("layer {name} has lost its last weight; a smaller --lambda keeps more"));
    }
    *known = empty;
}

/// Of a sigma that stood at a bound for a whole epoch.
pub(super) fn stuck(bound: Bound, sigma: f64) -> String {
    let (bound, meaning) = match bound {
        Bound::Least => ("least", "steps may be too short"),
        Bound::Greatest => ("greatest", "hardly any step is taken"),
    };
    format!("sigma stood at its {bound} value, {sigma}, for the whole epoch: {meaning}")
}
