//! Whether the processes that train together hold the same.

use super::Session;
use crate::train_error::TrainError;

/// FNV-1a over 32-bit words.
#[derive(Clone, Copy)]
struct Fingerprint(u64);

impl Fingerprint {
    fn of(words: impl IntoIterator<Item = u32>) -> u64 {
        let add = |Self(hash), word: u32| Self((hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3));
        words.into_iter().fold(Self(0xcbf2_9ce4_8422_2325), add).0
    }
}

impl Session {
    /// Compares images, parameters and running statistics with those of process 0.
    ///
    /// # Errors
    /// [`TrainError::OutOfStep`], in all processes.
    pub(super) fn check_in_step(&self) -> Result<(), TrainError> {
        let team = &*self.team;
        if team.size() == 1 {
            return Ok(());
        }
        let train = &self.images.train;
        let bits = |values: &[f32]| Fingerprint::of(values.iter().map(|value| value.to_bits()));
        let found = [
            ("the training images are", Fingerprint::of((0..train.len()).map(|image| train.label(image)))),
            ("the parameters are", bits(&self.parameters)),
            ("the running statistics are", bits(&self.executor.buffers()?)),
        ];
        for (what, fingerprint) in found {
            let mut first = fingerprint.to_le_bytes();
            team.broadcast(&mut first);
            let mut differs = vec![0.0; team.size()];
            differs[team.rank()] = f64::from(u8::from(first != fingerprint.to_le_bytes()));
            team.sum_f64(&mut differs);
            if let Some(process) = differs.iter().position(|differs| *differs > 0.0) {
                return Err(TrainError::OutOfStep { what, process });
            }
        }
        Ok(())
    }
}
