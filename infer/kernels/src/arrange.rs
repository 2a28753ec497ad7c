//! Rearranges an input for a convolution whose taps do not lie at constant distances: strides, small or unpadded maps.

use crate::plane::Plane;
use crate::simd::{Kernel, Vector};
use crate::step::Call;
use crate::window::Window;

/// For every channel, kernel column and row phase, copies the positions that the outputs read, zeros where the window
/// leaves the image.
#[derive(Debug, Clone)]
pub(crate) struct Arrange {
    pub(crate) x: Plane,
    pub(crate) x_start: usize,
    /// Output positions in a row, and from one row to the next.
    pub(crate) width: usize,
    pub(crate) pitch: usize,
    /// Rows of a panel.
    pub(crate) rows: usize,
    /// Offsets modulo the vertical stride at which some kernel row lies.
    pub(crate) phases: Vec<usize>,
    pub(crate) window: Window,
    pub(crate) to: usize,
    pub(crate) channel: usize,
}

/// An arrangement of `channels` channels.
#[derive(Debug, Clone)]
pub(crate) struct ArrangeStep {
    pub(crate) arrange: Arrange,
    pub(crate) channels: usize,
}

impl Arrange {
    /// Panels of a channel.
    pub(crate) fn panels(&self) -> usize {
        self.window.kernel[1] * self.phases.len()
    }

    /// Columns of `0..width` whose tap in kernel column `column` lies inside the image.
    fn inside(&self, column: usize) -> std::ops::Range<usize> {
        let (stride, pad) = (self.window.stride[1], self.window.pads[1]);
        let shift = column * self.window.dilation[1];
        let first = pad.saturating_sub(shift).div_ceil(stride);
        let end = (self.x.width() + pad).saturating_sub(shift).div_ceil(stride);
        first.min(self.width)..end.clamp(first.min(self.width), self.width)
    }
}

impl Kernel for Call<'_, ArrangeStep> {
    #[inline(always)]
    unsafe fn run<V: Vector>(&self) {
        let a = &self.step.arrange;
        let (lanes, stride) = (a.x.lanes(), a.window.stride);
        for channel in self.site.part.of(self.step.channels) {
            for panel in 0..a.panels() {
                let (column, phase) = (panel / a.phases.len(), a.phases[panel % a.phases.len()]);
                let inside = a.inside(column);
                let to = a.to + channel * a.channel + panel * a.rows * a.pitch * lanes;
                for row in 0..a.rows {
                    // SAFETY: the program's arena holds every panel of every channel.
                    let to = unsafe {
                        let start = self.site.arena.add(to + row * a.pitch * lanes);
                        std::slice::from_raw_parts_mut(start, a.pitch * lanes)
                    };
                    let source = (row * stride[0] + phase).checked_sub(a.window.pads[0]);
                    let Some(source) = source.filter(|r| *r < a.x.height() && !inside.is_empty()) else {
                        to.fill(0.0);
                        continue;
                    };
                    let first = inside.start * stride[1] + column * a.window.dilation[1] - a.window.pads[1];
                    let from = a.x_start + channel * a.x.stride() + a.x.head();
                    let from = from + (source * a.x.pitch() + first) * lanes;
                    let span = ((inside.len() - 1) * stride[1] + 1) * lanes;
                    // SAFETY: `source` and the columns from `first` on lie inside the image, in another buffer.
                    let from = unsafe { std::slice::from_raw_parts(self.site.arena.add(from).cast_const(), span) };
                    to[..inside.start * lanes].fill(0.0);
                    to[inside.end * lanes..].fill(0.0);
                    copy_strided(from, &mut to[inside.start * lanes..inside.end * lanes], stride[1], lanes);
                }
            }
        }
    }
}

/// `to[i] = from[i * stride]` in units of `lanes` values.
#[inline(always)]
fn copy_strided(from: &[f32], to: &mut [f32], stride: usize, lanes: usize) {
    match (stride, lanes) {
        (1, _) => to.copy_from_slice(from),
        (2, 1) => to.iter_mut().zip(from.chunks(2)).for_each(|(to, from)| *to = from[0]),
        (_, 1) => to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from),
        _ => {
            for (to, from) in to.chunks_exact_mut(lanes).zip(from.chunks(stride * lanes)) {
                to.copy_from_slice(&from[..lanes]);
            }
        }
    }
}
