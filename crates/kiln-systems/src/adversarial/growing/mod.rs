//! Networks that grow while they train (Karras 2018, section 2), which ProGAN and StyleGAN share: when they grow, what they
//! see meanwhile, and their layers.
//!
//! All layers are there from the start, so that every checkpoint has the same shapes; those of sizes not yet reached are not
//! used. How far they have grown is a function of the images seen alone, so a resumed run goes on where it was.

pub mod discriminator;
pub mod synthesis;

use burn::tensor::Tensor;
use kiln_nn::dual::Signal;
use kiln_nn::resample::{avg_pool2d, upsample_nearest};
use kiln_train::{HostTensor, State};

pub use discriminator::Discriminator;
pub use synthesis::{Parts, Synthesis};

/// How far networks have grown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The largest size in use: the smallest, doubled so often.
    pub size: usize,
    /// How far its layers have faded in, above 0 and at most 1.
    pub fade: f64,
}

impl Level {
    /// Networks that do not fade.
    pub fn whole(size: usize) -> Self {
        Self { size, fade: 1.0 }
    }

    /// Of a number: ⌈l⌉ and what fades.
    fn of(level: f64) -> Self {
        let size = level.ceil();
        Self { size: size as usize, fade: 1.0 - (size - level) }
    }

    /// Whether two sizes are blended.
    pub fn fades(self) -> bool {
        self.fade < 1.0
    }
}

/// When networks grow: each size is trained alone, then the next one fades in for as long.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// The first size.
    pub first: usize,
    /// The last.
    pub last: usize,
    /// The part of all images after which the last size is whole; 0 trains it from the start.
    pub share: f64,
}

impl Growth {
    /// The level at some images seen of all.
    pub fn at(self, images: u64, budget: u64) -> Level {
        let doublings = self.last.saturating_sub(self.first);
        let end = self.share * budget as f64;
        if doublings == 0 || images as f64 >= end {
            return Level::whole(self.last);
        }
        let stage = 2.0 * doublings as f64 * (images as f64 / end);
        let before = (stage / 2.0).floor();
        let fade = (stage - 2.0 * before - 1.0).max(0.0);
        // What a checkpoint holds is a number of single precision.
        Level::of(f64::from((self.first as f64 + before + fade) as f32))
    }
}

/// What a checkpoint says of a level.
const GROWTH: &str = "growth";

impl Level {
    /// For a checkpoint, so that samples of a growing network are of its size.
    pub fn state(self) -> State {
        let level = self.size as f64 - 1.0 + self.fade;
        State::from([(GROWTH.to_string(), HostTensor { shape: vec![1], values: vec![level as f32] })])
    }

    /// Of a checkpoint.
    pub fn restored(state: &State) -> Option<Self> {
        let level = *state.get(GROWTH)?.values.first()?;
        (level.is_finite() && level >= 0.0).then(|| Self::of(f64::from(level)))
    }
}

/// Pictures a 2ᵗⁱᵐᵉˢ-th as high and wide, by averaging.
pub fn shrink<X: Signal<4>>(x: X, times: usize) -> X {
    if times == 0 { x } else { avg_pool2d(x, 1 << times, 1 << times, 0) }
}

/// Pictures 2ᵗⁱᵐᵉˢ times as high and wide, by repeating pixels.
pub fn enlarge<X: Signal<4>>(x: X, times: usize) -> X {
    if times == 0 { x } else { upsample_nearest(x, 1 << times) }
}

/// (1 − t) a + t b.
pub fn blend<X: Signal<4>>(a: X, b: X, t: f64) -> X {
    a * (1.0 - t) + b * t
}

/// Real pictures as D sees them at a level: of its size, and blended with those of half the size while layers fade in.
///
/// # Shapes
/// `[n, c, h, w]` of the size `last` → `[n, c, h', w']`
pub fn seen(images: Tensor<4>, level: Level, last: usize) -> Tensor<4> {
    let images = shrink(images, last - level.size);
    if !level.fades() {
        return images;
    }
    blend(enlarge(shrink(images.clone(), 1), 1), images, level.fade)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod schedule {
    use burn::tensor::Device;
    use kiln_nn::tensor::{from_values, to_values};

    use super::*;

    #[test]
    fn each_size_is_trained_and_then_faded_in() {
        let growth = Growth { first: 0, last: 2, share: 0.8 };
        let at = |images| growth.at(images, 1000);
        assert_eq!([0, 199].map(at), [Level::whole(0); 2]);
        assert_eq!(at(200), Level::whole(0));
        let half = at(300);
        assert!(half.size == 1 && (half.fade - 0.5).abs() < 1e-6, "{half:?}");
        assert_eq!([400, 599].map(at), [Level::whole(1); 2]);
        assert!(at(700).size == 2 && at(700).fades());
        assert_eq!([800, 1000, 5000].map(at), [Level::whole(2); 3]);
        // From the second size on, and without growing.
        assert_eq!(Growth { first: 1, ..growth }.at(0, 1000), Level::whole(1));
        assert_eq!(Growth { share: 0.0, ..growth }.at(0, 1000), Level::whole(2));
        assert_eq!(Growth { first: 2, ..growth }.at(0, 1000), Level::whole(2));
    }

    #[test]
    fn a_checkpoint_has_the_level() {
        let growth = Growth { first: 0, last: 3, share: 1.0 };
        for images in [0, 17, 170, 401, 777, 1000] {
            let level = growth.at(images, 1000);
            assert_eq!(Level::restored(&level.state()), Some(level));
        }
        assert_eq!(Level::restored(&State::new()), None);
    }

    #[test]
    fn real_pictures_fade_as_the_networks_do() {
        let x = from_values((0..16).map(|v| v as f32).collect(), [1, 1, 4, 4], &Device::flex());
        assert_eq!(to_values(seen(x.clone(), Level::whole(0), 1)), [2.5, 4.5, 10.5, 12.5]);
        assert_eq!(to_values(seen(x.clone(), Level::whole(1), 1)), to_values(x.clone()));
        let fading = to_values(seen(x, Level { size: 1, fade: 0.25 }, 1));
        assert_eq!(fading[..2], [0.75 * 2.5, 0.75 * 2.5 + 0.25]);
    }
}
