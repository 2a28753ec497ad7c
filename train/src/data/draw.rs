//! Every random draw over the data, each from its own generator keyed by what it is for: no draw depends on which
//! thread makes it, or on how many were made before.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a draw is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    /// Choosing the held-out images of a class.
    Holdout { class: u64 },
    /// The order of the images in an epoch.
    Order { epoch: u64 },
    /// Crop and flip of one image in an epoch.
    Augmentation { epoch: u64, image: u64 },
}

impl Draw {
    /// The generator of this draw: ChaCha8 with the key (seed, purpose, its two numbers).
    pub(super) fn generator(self, seed: u64) -> ChaCha8Rng {
        let words = match self {
            Self::Holdout { class } => [seed, 0, class, 0],
            Self::Order { epoch } => [seed, 1, epoch, 0],
            Self::Augmentation { epoch, image } => [seed, 2, epoch, image],
        };
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}
