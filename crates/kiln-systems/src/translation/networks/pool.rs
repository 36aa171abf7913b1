//! The pool of generated pictures that a discriminator is shown.

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::HostTensor;

/// The last generated pictures of a domain (Shrivastava 2017, §2.3): a discriminator sees a new
/// picture or, with probability ½ once the pool is full, one from the pool, whose place the new one
/// takes.
#[derive(Default)]
pub struct ImagePool {
    images: Vec<Vec<f32>>,
}

impl ImagePool {
    /// Shows the pool `fakes`, the `samples` of a run, and gives what the discriminator sees. The
    /// choice for a sample depends on `key` and its index.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn exchange(&mut self, fakes: Tensor<4>, size: usize, key: Key, samples: std::ops::Range<u64>) -> Tensor<4> {
        if size == 0 {
            return fakes;
        }
        let (shape, device) = (fakes.dims(), fakes.device());
        let coins = key.purpose("coin").below(samples.clone(), 2);
        let places = key.purpose("place").below(samples, size as u64);
        let len: usize = shape[1..].iter().product();
        let mut shown = to_values(fakes);
        for (image, (coin, place)) in shown.chunks_mut(len).zip(coins.into_iter().zip(places)) {
            if self.images.len() < size {
                self.images.push(image.to_vec());
            } else if coin == 1 {
                self.images[place as usize].swap_with_slice(image);
            }
        }
        from_values(shown, shape, &device)
    }

    /// The pictures as one tensor `[pictures, values]`, if there are any, for a checkpoint.
    pub fn state(&self) -> Option<HostTensor> {
        let len = self.images.first()?.len();
        Some(HostTensor { shape: vec![self.images.len(), len], values: self.images.concat() })
    }

    /// Takes back what [`ImagePool::state`] gave.
    pub fn restore(&mut self, saved: Option<HostTensor>) {
        self.images = match saved {
            Some(HostTensor { shape, values }) if shape.len() == 2 && shape[1] > 0 => {
                values.chunks(shape[1]).map(<[f32]>::to_vec).collect()
            }
            _ => Vec::new(),
        };
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn pool_keeps_what_it_has_shown_whatever_the_batch() {
        let device = Device::flex();
        let run = |batch: u64| {
            let (mut pool, key, mut seen) = (ImagePool::default(), Key::new(1), Vec::new());
            for start in (0..40).step_by(batch as usize) {
                let values = (start..start + batch).map(|i| i as f32).collect();
                let fakes = from_values(values, [batch as usize, 1, 1, 1], &device);
                seen.extend(to_values(pool.exchange(fakes, 5, key, start..start + batch)));
            }
            (seen, pool.state().unwrap())
        };
        let (seen, state) = run(1);
        assert_eq!(seen[..5], [0.0, 1.0, 2.0, 3.0, 4.0]);
        let old = seen.iter().enumerate().filter(|(i, v)| **v < *i as f32).count();
        assert!((8..30).contains(&old), "{old} of 40 from the pool");
        assert_eq!(run(8), (seen, state.clone()));
        let mut again = ImagePool::default();
        again.restore(Some(state.clone()));
        assert_eq!(again.state(), Some(state));
    }
}
