//! From bytes to what the network sees: normalisation, and the crop and flip of training.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::DatasetKind;

/// Channels of an image: red, green, blue.
pub const CHANNELS: usize = 3;
/// Height and width of an image.
pub const SIDE: usize = 32;
/// Bytes of an image.
pub const IMAGE_BYTES: usize = CHANNELS * SIDE * SIDE;
/// Black pixels added on every side before a random crop back to 32x32.
pub const CROP_PADDING: usize = 4;

/// Crop and flip of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Augmentation {
    /// First row and column of the crop in the padded image, 0 to 2 [`CROP_PADDING`].
    pub(super) top: usize,
    pub(super) left: usize,
    /// Left and right exchanged, after the crop.
    pub(super) flip: bool,
}

impl Augmentation {
    /// The image as it is.
    pub(super) const NONE: Self = Self { top: CROP_PADDING, left: CROP_PADDING, flip: false };

    /// A crop at each of the 9x9 places with equal probability, flipped with probability 1/2.
    pub(super) fn draw(generator: &mut ChaCha8Rng) -> Self {
        Self {
            top: generator.random_range(0..=2 * CROP_PADDING),
            left: generator.random_range(0..=2 * CROP_PADDING),
            flip: generator.random(),
        }
    }
}

/// (byte / 255 - mean) / std of each channel, by table.
#[derive(Debug, Clone)]
pub(super) struct Normalizer {
    table: [[f32; 256]; CHANNELS],
}

impl Normalizer {
    pub(super) fn new(kind: DatasetKind) -> Self {
        let (mean, std) = (kind.mean(), kind.std());
        let table = std::array::from_fn(|channel| {
            std::array::from_fn(|byte| (byte as f32 / 255.0 - mean[channel]) / std[channel])
        });
        Self { table }
    }

    /// Appends the augmented, normalised image `[3, 32, 32]` to `output`. Padding is black before normalisation, as
    /// in torchvision's `RandomCrop(32, padding=4)`.
    pub(super) fn append(&self, image: &[u8], augmentation: Augmentation, output: &mut Vec<f32>) {
        for (plane, table) in image.chunks_exact(SIDE * SIDE).zip(&self.table) {
            for y in 0..SIDE {
                let source = (y + augmentation.top).checked_sub(CROP_PADDING).filter(|&row| row < SIDE);
                let start = output.len();
                match source {
                    None => output.resize(start + SIDE, table[0]),
                    Some(row) => append_row(&plane[row * SIDE..][..SIDE], augmentation.left, table, output),
                }
                if augmentation.flip {
                    output[start..].reverse();
                }
            }
        }
    }
}

/// A row of the crop that begins at column `left` of the padded row.
fn append_row(row: &[u8], left: usize, table: &[f32; 256], output: &mut Vec<f32>) {
    let black_left = CROP_PADDING.saturating_sub(left);
    let black_right = left.saturating_sub(CROP_PADDING);
    let kept = &row[black_right..SIDE - black_left];
    output.resize(output.len() + black_left, table[0]);
    output.extend(kept.iter().map(|&byte| table[usize::from(byte)]));
    output.resize(output.len() + black_right, table[0]);
}
