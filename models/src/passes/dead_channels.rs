//! Which channels a network can do without.

use super::channels::{Classes, Links, Slots, constants};
use super::rewrite::parameter_uses;
use crate::{Graph, Model, Node, Op, ValueId};

/// The channels that nothing needs, and what takes their place.
pub(super) struct DeadChannels {
    pub(super) slots: Slots,
    /// Value of each channel that has a constant one.
    pub(super) constants: Vec<Option<f32>>,
    /// Channels whose readers can do without: they read nothing of it, or a constant that can be added in.
    pub(super) dead: Vec<bool>,
    /// Channels that are dead, but stay where all others of a value that is needed are dead too.
    pub(super) fillers: Vec<bool>,
    /// For each value, the constant channel that takes over the weights of dead ones in padded convolutions, where
    /// there is no adding them to the bias.
    pub(super) stand_ins: Vec<Option<usize>>,
}

impl DeadChannels {
    pub(super) fn find(model: &Model) -> Self {
        let graph = model.graph();
        let slots = Slots::new(graph);
        let constants = constants(model, &slots);
        let mut found = Self {
            dead: vec![false; slots.len()],
            fillers: vec![false; slots.len()],
            stand_ins: vec![None; graph.nodes().len() + 1],
            slots,
            constants,
        };
        let classes = {
            let mut classes = Classes::new(graph, &found.slots);
            (0..found.slots.len()).map(|slot| classes.of(slot)).collect::<Vec<_>>()
        };
        found.choose_stand_ins(model);
        let pinned = found.pinned(graph);
        // What only dead channels read is dead too, so this goes on until nothing more dies.
        loop {
            let mut needed = pinned.clone();
            (0..graph.nodes().len()).for_each(|index| found.mark_needed(model, index, &mut needed));
            let mut class_needed = vec![false; found.slots.len()];
            needed.iter().zip(&classes).for_each(|(needed, class)| class_needed[*class] |= needed);
            let dead: Vec<bool> = classes.iter().map(|class| !class_needed[*class]).collect();
            if dead == found.dead {
                break;
            }
            found.dead = dead;
        }
        found.keep_fillers(graph, &classes);
        found
    }

    /// Whether a channel is there in the smaller network.
    pub(super) fn stays(&self, slot: usize) -> bool {
        !self.dead[slot] || self.fillers[slot]
    }

    /// Whether padding reaches none of the non-zero weights with which the needed outputs of a mixing node read input
    /// channel `k`, so that a constant channel adds the same everywhere.
    pub(super) fn adds_evenly(&self, model: &Model, index: usize, k: usize) -> bool {
        let taps = Taps::of(model, &self.slots, index);
        self.needed_rows(index).all(|o| taps.get(o, k).iter().enumerate().all(|(t, w)| *w == 0.0 || taps.inside[t]))
    }

    fn needed_rows(&self, index: usize) -> impl Iterator<Item = usize> {
        let output = self.slots.of(index + 1);
        output.clone().filter(|slot| !self.dead[*slot]).map(move |slot| slot - output.start)
    }

    fn choose_stand_ins(&mut self, model: &Model) {
        let graph = model.graph();
        for index in mixing(graph, &self.slots) {
            let value = graph.nodes()[index].inputs[0];
            let channels = self.slots.of(value);
            let constant = |slot: &usize| self.constants[*slot].is_some_and(|c| c != 0.0);
            let steady: Vec<usize> = channels.clone().filter(constant).collect();
            if steady.iter().any(|slot| !self.adds_evenly(model, index, slot - channels.start)) {
                let size = |slot: &usize| self.constants[*slot].map_or(0.0, f32::abs);
                self.stand_ins[value] = steady.into_iter().max_by(|a, b| size(a).total_cmp(&size(b)));
            }
        }
    }

    /// Channels that stay whatever reads them: the input's and the output's, the stand-ins, and those of nodes that
    /// compute with all channels or share a parameter with another node.
    fn pinned(&self, graph: &Graph) -> Vec<bool> {
        let uses = parameter_uses(graph);
        let mut pinned = vec![false; self.slots.len()];
        let mut pin = |value: ValueId| pinned[self.slots.of(value)].fill(true);
        pin(0);
        pin(graph.nodes().len());
        for (index, node) in graph.nodes().iter().enumerate() {
            let shared = |node: &Node| {
                let specs = node.op.parameters(graph.shape(node.inputs[0]));
                specs.iter().any(|spec| uses[&spec.name] > 1)
            };
            if matches!(Links::of(graph, &self.slots, index), Links::Whole) || shared(node) {
                pin(index + 1);
                node.inputs.iter().for_each(|value| pin(*value));
            }
        }
        self.stand_ins.iter().flatten().for_each(|slot| pinned[*slot] = true);
        pinned
    }

    /// Marks the inputs that a mixing node reads for its needed outputs and cannot do without.
    fn mark_needed(&self, model: &Model, index: usize, needed: &mut [bool]) {
        let graph = model.graph();
        if !matches!(Links::of(graph, &self.slots, index), Links::Mixed) {
            return;
        }
        let value = graph.nodes()[index].inputs[0];
        let taps = Taps::of(model, &self.slots, index);
        for (k, slot) in self.slots.of(value).enumerate() {
            let dispensable = |o: usize| match self.constants[slot] {
                Some(c) if c == 0.0 || self.stand_ins[value].is_some_and(|other| other != slot) => true,
                Some(_) => taps.get(o, k).iter().zip(&taps.inside).all(|(w, inside)| *w == 0.0 || *inside),
                None => taps.get(o, k).iter().all(|w| *w == 0.0),
            };
            needed[slot] |= !self.needed_rows(index).all(dispensable);
        }
    }

    /// Keeps one channel of each value that would have none but is read by a mixing node which stays.
    fn keep_fillers(&mut self, graph: &Graph, classes: &[usize]) {
        loop {
            let starved = mixing(graph, &self.slots).find_map(|index| {
                let input = self.slots.of(graph.nodes()[index].inputs[0]);
                let stays = self.slots.of(index + 1).any(|slot| self.stays(slot));
                (stays && !input.clone().any(|slot| self.stays(slot))).then_some(input.start)
            });
            let Some(slot) = starved else { return };
            let class = classes[slot];
            classes.iter().zip(&mut self.fillers).for_each(|(other, filler)| *filler |= *other == class);
        }
    }
}

/// The nodes that mix channels.
fn mixing<'a>(graph: &'a Graph, slots: &'a Slots) -> impl Iterator<Item = usize> + use<'a> {
    (0..graph.nodes().len()).filter(|index| matches!(Links::of(graph, slots, *index), Links::Mixed))
}

/// The weights of a mixing node by output and input channel.
struct Taps<'a> {
    data: &'a [f32],
    inputs: usize,
    /// For each place in the window, whether it never lies in the padding.
    inside: Vec<bool>,
}

impl<'a> Taps<'a> {
    fn of(model: &'a Model, slots: &Slots, index: usize) -> Self {
        let graph = model.graph();
        let node = &graph.nodes()[index];
        let inputs = slots.of(node.inputs[0]).len();
        match &node.op {
            Op::Conv(conv) => {
                let (from, to) = (graph.shape(node.inputs[0]), graph.shape(index + 1));
                let along = |axis: usize, offset: usize| {
                    let first = (offset * conv.dilation[axis]).checked_sub(conv.pads[axis]);
                    first.is_some_and(|first| first + (to[axis + 1] - 1) * conv.stride[axis] < from[axis + 1])
                };
                let [height, width] = conv.kernel;
                let inside = (0..height * width).map(|t| along(0, t / width) && along(1, t % width)).collect();
                Self { data: model.parameter(&conv.weight).data(), inputs, inside }
            }
            Op::Gemm(gemm) => Self { data: model.parameter(&gemm.weight).data(), inputs, inside: vec![true] },
            _ => unreachable!("a node that mixes channels has a weight"),
        }
    }

    fn get(&self, o: usize, k: usize) -> &'a [f32] {
        let taps = self.inside.len();
        &self.data[(o * self.inputs + k) * taps..][..taps]
    }
}
