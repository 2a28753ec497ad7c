//! What a plan decides: which layers are sparse, and which take a vector of images at a time.

use sr2_kernels::Isa;
use sr2_models::{CompressedModel, ValueId};

use crate::fuse::{self, Kind, Layer, Layers};
use crate::{Layout, Options, WeightPolicy, cost};

/// All that is open before a network is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decisions {
    /// The layers before this one run image by image, it and those behind a vector of images at a time.
    pub(crate) cut: usize,
    /// For each layer, whether its weights are stored sparse; means nothing for layers without.
    pub(crate) sparse: Vec<bool>,
}

/// A place between layers where one value is all that the layers behind it need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The first layer behind it.
    pub(crate) layer: usize,
    /// The value.
    pub(crate) value: ValueId,
}

impl Decisions {
    /// As the cost model finds the network fastest, where the options leave it open.
    pub(crate) fn estimated(model: &CompressedModel, layers: &Layers<'_>, isa: Isa, options: &Options) -> Self {
        let cuts = layers.cuts();
        let layers = &layers.layers;
        let sparse = |lanes: usize| -> Vec<bool> {
            layers.iter().map(|layer| is_sparse(model, layer, isa, lanes, options.weights)).collect()
        };
        let [one, vector] = [1, isa.lanes()].map(sparse);
        let cut = match options.layout {
            Layout::Images => 0,
            Layout::OneImage => layers.len(),
            Layout::Auto if options.batch < isa.lanes() => layers.len(),
            Layout::Auto => {
                let cost = |layer: &Layer<'_>, sparse: bool, lanes| cost::of_layer(model, layer, sparse, isa, lanes);
                let [one, vector] = [(1, &one), (isa.lanes(), &vector)].map(|(lanes, sparse)| -> Vec<f64> {
                    layers.iter().zip(sparse).map(|(layer, sparse)| cost(layer, *sparse, lanes)).collect()
                });
                let handed = |cut: &Cut| cost::of_regrouping(values(model, cut.value), isa);
                cheapest(&one, &vector, &cuts, handed, WORTHWHILE)
            }
        };
        let sparse = one[..cut].iter().chain(&vector[cut..]).copied().collect();
        Self { cut, sparse }
    }
}

/// What a network that is cut must cost, at most, of what it does in one layout: the estimates are not exact.
const WORTHWHILE: f64 = 0.95;

/// The cut that gives the least sum of the costs before it image by image, and behind it by vectors of images,
/// where that is less than `worthwhile` times either alone.
pub(crate) fn cheapest(
    one: &[f64],
    vector: &[f64],
    cuts: &[Cut],
    of_cut: impl Fn(&Cut) -> f64,
    worthwhile: f64,
) -> usize {
    let (mut best, mut least) = (one.len(), one.iter().sum::<f64>());
    let all: f64 = vector.iter().sum();
    if all < least {
        (best, least) = (0, all);
    }
    least *= worthwhile;
    let (mut before, mut behind, mut done) = (0.0, all, 0);
    for cut in cuts {
        before += one[done..cut.layer].iter().sum::<f64>();
        behind -= vector[done..cut.layer].iter().sum::<f64>();
        done = cut.layer;
        let cost = before + behind + of_cut(cut);
        if cost < least {
            (best, least) = (cut.layer, cost);
        }
    }
    best
}

impl Layers<'_> {
    /// The cuts of a network, from its start to its end.
    pub(crate) fn cuts(&self) -> Vec<Cut> {
        let Self { layers, output } = self;
        let last_read = fuse::last_read(layers, *output);
        // Of the values that live at each place: how many more there are than at the place before, and the same of the sum
        // of their numbers, which is the number of a value that is alone.
        let mut changes = vec![(0isize, 0isize); layers.len() + 2];
        let made = layers.iter().enumerate().map(|(index, layer)| (layer.output, index + 1));
        for (value, from) in std::iter::once((0, 0)).chain(made) {
            let until = last_read.get(&value).map_or(from, |last| last + 1).max(from);
            for (place, sign) in [(from, 1), (until, -1)] {
                changes[place].0 += sign;
                changes[place].1 += sign * value as isize;
            }
        }
        let live = changes.iter().scan((0, 0), |(count, sum), change| {
            (*count, *sum) = (*count + change.0, *sum + change.1);
            Some((*count, *sum))
        });
        let inside = live.enumerate().take(layers.len()).skip(1).filter(|(_, (count, _))| *count == 1);
        inside.map(|(layer, (_, sum))| Cut { layer, value: sum as ValueId }).collect()
    }
}

/// Values of one image's value.
pub(crate) fn values(model: &CompressedModel, value: ValueId) -> usize {
    model.graph().shape(value).iter().product()
}

/// Whether a layer's weights are stored sparse.
fn is_sparse(model: &CompressedModel, layer: &Layer<'_>, isa: Isa, lanes: usize, policy: WeightPolicy) -> bool {
    let density = |name: &str| {
        let weight = model.weight(name);
        weight.nnz() as f64 / weight.shape().iter().product::<usize>() as f64
    };
    match (policy, layer.kind) {
        (WeightPolicy::Sparse, _) => true,
        (WeightPolicy::Dense, _) => false,
        (WeightPolicy::WithZeros, _) => layer.weight().is_some_and(|name| density(name) < 1.0),
        (WeightPolicy::Auto, Kind::Conv(conv)) if cost::is_depthwise(conv, model.graph().shape(layer.inputs[0])[0]) => {
            cost::depthwise_is_sparse(density(&conv.weight))
        }
        (WeightPolicy::Auto, _) => {
            let [sparse, dense] = [true, false].map(|sparse| cost::of_layer(model, layer, sparse, isa, lanes));
            sparse < dense
        }
    }
}
