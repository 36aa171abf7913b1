//! p(x) = Πᵢ p(xᵢ | x₁ … xᵢ₋₁) over the pixels of an image, row by row, and the colours of each (van den Oord 2016a,
//! equations 1 and 2): training, likelihood and sampling of networks that predict every pixel from those before it.
//!
//! Training and likelihood take one pass over a whole image. Sampling goes pixel by pixel. Each pixel costs only its
//! own windows, because the network keeps the intermediate results of earlier ones ([`Walk`]).

use burn::tensor::{Int, Tensor, activation};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::loss::bernoulli_log_likelihood;
use kiln_nn::masked::row_of;
use kiln_nn::tensor::{from_indices, from_values, to_values};
use kiln_train::request::{check_class, check_pictures};
use kiln_train::{Abilities, Batch, Generate, Inpaint, Input, Likelihood, Loss, Pictures, Request};
use serde::{Deserialize, Serialize};

use super::bound::in_parts;
use super::pixels::{Binarize, fingerprints};
use crate::one_pass::NoSettings;

/// p(xᵢ | x₁ … xᵢ₋₁).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Levels {
    /// 0 or 1, for images binarised as `binarize` says.
    Bernoulli,
    /// One of 256 levels, by a softmax.
    #[default]
    Softmax,
}

/// Settings of the pixels, part of a `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelConfig {
    /// `bernoulli` or `softmax`.
    pub output: Levels,
    /// `static` or `dynamic` (`bernoulli`).
    pub binarize: Binarize,
}

impl Default for LevelConfig {
    fn default() -> Self {
        Self { output: Levels::Softmax, binarize: Binarize::None }
    }
}

impl LevelConfig {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn check(&self) -> Result<()> {
        match (self.output, self.binarize) {
            (Levels::Bernoulli, Binarize::None) => Err(Error::usage(
                "model.output = \"bernoulli\" draws 0 or 1; set model.binarize to \"static\" or \"dynamic\"",
            )),
            (Levels::Softmax, Binarize::Static | Binarize::Dynamic) => {
                Err(Error::usage("model.binarize needs model.output = \"bernoulli\""))
            }
            _ => Ok(()),
        }
    }

    /// Numbers that a network says of each colour of a pixel: channel i of its output is number i / colours of colour
    /// i mod colours.
    pub fn outputs(&self) -> usize {
        match self.output {
            Levels::Bernoulli => 1,
            Levels::Softmax => 256,
        }
    }

    /// x in [−1, 1] as the network sees it; `draw` as in [`Binarize::apply`].
    ///
    /// # Shapes
    /// `[n, c, h, w]` → the same
    fn observe(&self, images: Tensor<4>, draw: Option<(Key, Vec<u64>)>) -> Tensor<4> {
        match self.output {
            Levels::Bernoulli => {
                let shape = images.dims();
                (self.binarize.apply(images, draw) * 2.0 - 1.0).reshape(shape)
            }
            Levels::Softmax => images,
        }
    }

    /// log p(x) = Σᵢ log p(xᵢ | x₁ … xᵢ₋₁) of each picture.
    ///
    /// # Shapes
    /// `[n, c, h, w]`, `[n, outputs·c, h, w]` → `[n]`
    pub fn log_likelihood(&self, x: Tensor<4>, logits: Tensor<4>) -> Tensor<1> {
        let [n, c, h, w] = x.dims();
        let size = c * h * w;
        match self.output {
            Levels::Bernoulli => {
                bernoulli_log_likelihood((x.reshape([n, size]) + 1.0) * 0.5, logits.reshape([n, size]))
            }
            Levels::Softmax => {
                let levels = ((x + 1.0) * 127.5).round().int().reshape([n, 1, size]);
                let log_p = activation::log_softmax(logits.reshape([n, 256, size]), 1);
                log_p.gather(1, levels).reshape([n, size]).sum_dim(1).reshape([n])
            }
        }
    }

    /// A colour of one pixel of each picture, in [−1, 1], by one uniform number each.
    ///
    /// # Shapes
    /// logits `[n, outputs·colours]`, `[n]` → `[n]`
    fn draw(&self, logits: &[f32], colour: usize, colours: usize, uniform: impl Iterator<Item = f32>) -> Vec<f32> {
        let of = |(row, u): (&[f32], f32)| {
            let logits = row.iter().skip(colour).step_by(colours).map(|&v| f64::from(v));
            match self.output {
                Levels::Bernoulli => {
                    let p = 1.0 / (1.0 + logits.map(|v| (-v).exp()).sum::<f64>());
                    if f64::from(u) < p { 1.0 } else { -1.0 }
                }
                Levels::Softmax => {
                    let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = logits.clone().map(|v| (v - largest).exp()).sum();
                    let mut below = 0.0;
                    let beyond = logits.take_while(|v| {
                        below += (v - largest).exp() / total;
                        below <= f64::from(u)
                    });
                    beyond.count().min(255) as f32 / 127.5 - 1.0
                }
            }
        };
        logits.chunks(self.outputs() * colours).zip(uniform).map(of).collect()
    }
}

/// A network that says of each pixel what it expects after those before it.
pub trait Autoregressive: Sync {
    /// The logits of every pixel; `classes` `[n]` of a network that is told them.
    ///
    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1] → `[n, outputs·c, h, w]`
    fn forward(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4>;

    /// The same a pixel at a time, for `n` pictures of so many columns.
    fn walk<'a>(&'a self, n: usize, width: usize, classes: Option<Tensor<1, Int>>) -> Box<dyn Walk + 'a>;
}

/// A network on its way through pictures, row by row.
pub trait Walk {
    /// Goes to the next row; all pixels of the one before have been pushed.
    fn begin_row(&mut self);

    /// The logits of the next pixel `[n, outputs·c]`, given those colours of it `[n, c]` that are known. The last call of a
    /// pixel says `last`, and knows all colours but the last.
    fn logits(&mut self, pixel: Tensor<2>, last: bool) -> Tensor<2>;

    /// Takes the pixel `[n, c]`, and goes on to the next.
    fn push(&mut self, pixel: Tensor<2>);
}

/// What such a network is trained by and can do, for pictures of one shape.
pub struct Autoregression {
    /// Settings of the pixels.
    pub levels: LevelConfig,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Names of the classes, of a network that is told them.
    pub classes: Vec<String>,
    /// Its system's name, for messages.
    id: &'static str,
}

/// Pictures that the passes of a likelihood look at together.
const ROWS: usize = 32;

impl Autoregression {
    /// Checks the settings against the pictures.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn new(id: &'static str, levels: LevelConfig, pictures: &Pictures, conditional: bool) -> Result<Self> {
        levels.check()?;
        if conditional && pictures.classes.is_empty() {
            return Err(Error::usage(
                "model.class_conditional needs a labelled set; use a folder with one sub-folder a class",
            ));
        }
        let classes = if conditional { pictures.classes.clone() } else { Vec::new() };
        Ok(Self { levels, shape: pictures.shape, classes, id })
    }

    /// −log p(x) in nats, the mean over the batch; the log also has it in bits a dimension.
    ///
    /// # Errors
    /// If the batch has no labels, and the network is told them.
    pub fn loss(&self, networks: &impl Autoregressive, batch: &Batch) -> Result<Loss> {
        let x = self.levels.observe(batch.images(), Some((batch.key("binarise"), batch.samples().collect())));
        let classes = if self.classes.is_empty() { None } else { Some(batch.labels()?) };
        let nll = -self.levels.log_likelihood(x.clone(), networks.forward(x, classes)).mean();
        let bits = nll.clone() / (self.shape.iter().product::<usize>() as f64 * std::f64::consts::LN_2);
        Ok(Loss::new("nll", nll).report("bpd", bits))
    }

    /// What it can do.
    pub fn abilities<N: Autoregressive>(&self) -> Abilities<'_, N> {
        Abilities { generate: Some(self), inpaint: Some(self), likelihood: Some(self), ..Abilities::default() }
    }

    /// Checks the class; a system that draws pixel by pixel has no sampler settings.
    fn check(&self, request: &Request) -> Result<()> {
        check_class(request.condition.class, &self.classes)?;
        request.sampler::<NoSettings>(self.id).map(|_| ())
    }

    /// The classes asked for, or drawn.
    fn classes_of(&self, request: &Request) -> Option<Tensor<1, Int>> {
        let known = !self.classes.is_empty();
        known.then(|| from_indices(&request.classes(self.classes.len()), &request.device))
    }

    /// A uniform number for each colour of each pixel of each sample, `[n, h, w, c]`.
    fn uniform(&self, request: &Request) -> Vec<f32> {
        request.key.purpose("pixels").uniform(request.indices.clone(), self.shape.iter().product())
    }

    /// Pictures pixel by pixel. Where pictures `[n, c, h, w]` are given with a mask, only the pixels that the mask
    /// covers are drawn.
    fn draw<N: Autoregressive>(
        &self,
        networks: &N,
        request: &Request,
        known: Option<(&Tensor<4>, &[bool])>,
    ) -> Tensor<4> {
        let (n, [c, h, w], device) = (request.len(), self.shape, &request.device);
        let uniform = self.uniform(request);
        let mut walk = networks.walk(n, w, self.classes_of(request));
        let mut rows: Vec<Tensor<4>> = Vec::new();
        for row in 0..h {
            walk.begin_row();
            let mut pixels = Vec::new();
            for column in 0..w {
                let pixel = match known.filter(|(_, mask)| !mask[row * w + column]) {
                    Some((images, _)) => {
                        let pixel = images.clone().narrow(2, row, 1).narrow(3, column, 1).reshape([n, c]);
                        walk.logits(pixel.clone(), true);
                        pixel
                    }
                    None => {
                        let mut values = vec![0.0; n * c];
                        for colour in 0..c {
                            let seen = from_values::<2>(values.clone(), [n, c], device);
                            let logits = to_values(walk.logits(seen, colour + 1 == c));
                            let at = (row * w + column) * c + colour;
                            let uniform = uniform.iter().skip(at).step_by(c * h * w).copied();
                            let drawn = self.levels.draw(&logits, colour, c, uniform);
                            values.iter_mut().skip(colour).step_by(c).zip(drawn).for_each(|(to, v)| *to = v);
                        }
                        from_values(values, [n, c], device)
                    }
                };
                walk.push(pixel.clone());
                pixels.push(pixel);
            }
            rows.push(row_of(pixels));
        }
        Tensor::cat(rows, 2)
    }

    /// Draws from p(x), or of p(x | class), pixel by pixel.
    pub fn generate_by_pixels<N: Autoregressive>(&self, networks: &N, request: &Request) -> Tensor<4> {
        self.draw(networks, request, None)
    }

    /// The same pictures by a whole pass for each colour of each pixel: what [`Walk`] is compared with.
    #[cfg(test)]
    fn generate_naively<N: Autoregressive>(&self, networks: &N, request: &Request) -> Tensor<4> {
        let (n, [c, h, w], device) = (request.len(), self.shape, &request.device);
        let uniform = self.uniform(request);
        let classes = self.classes_of(request);
        let mut values = vec![0.0; n * c * h * w];
        for at in 0..h * w * c {
            let (pixel, colour) = (at / c, at % c);
            let x = from_values(values.clone(), [n, c, h, w], device);
            let logits = networks.forward(x, classes.clone()).narrow(2, pixel / w, 1).narrow(3, pixel % w, 1);
            let uniform = uniform.iter().skip(at).step_by(c * h * w).copied();
            let drawn = self.levels.draw(&to_values(logits), colour, c, uniform);
            values.iter_mut().skip(colour * h * w + pixel).step_by(c * h * w).zip(drawn).for_each(|(to, v)| *to = v);
        }
        from_values(values, [n, c, h, w], device)
    }
}

impl<N: Autoregressive> Generate<N> for Autoregression {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class]
    }

    /// A draw from p(x), or of p(x | class).
    fn generate(&self, networks: &N, request: &Request) -> Result<Tensor<4>> {
        self.check(request)?;
        Ok(self.generate_by_pixels(networks, request))
    }
}

impl<N: Autoregressive> Inpaint<N> for Autoregression {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Class, Input::Mask]
    }

    /// The lower half.
    fn default_mask(&self) -> Vec<bool> {
        let [_, h, w] = self.shape;
        (0..h * w).map(|at| at / w >= h / 2).collect()
    }

    /// What the mask covers, drawn given all pixels before it in reading order; pixels after it have no say.
    fn inpaint(&self, networks: &N, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        check_pictures(&images, self.shape)?;
        self.check(request)?;
        let [_, _, h, w] = images.dims();
        let mask = match &request.condition.mask {
            None => Inpaint::<N>::default_mask(self),
            Some(mask) if mask.dims() == [1, 1, h, w] => {
                to_values(mask.clone()).into_iter().map(|covered| covered > 0.5).collect()
            }
            Some(mask) => {
                let shape = mask.dims();
                return Err(Error::usage(format!("--mask: expected shape [1, 1, {h}, {w}], got {shape:?}")));
            }
        };
        Ok(self.draw(networks, request, Some((&self.levels.observe(images, None), &mask))))
    }
}

impl<N: Autoregressive> Likelihood<N> for Autoregression {
    /// −log p(x), exactly. Of a network that is told classes, each as likely as another:
    /// −log (1/C) Σ_c p(x|c). Dynamic binarisation draws for the picture, whatever stands beside it.
    fn nll(&self, networks: &N, images: Tensor<4>, _samples: usize, key: Key) -> Result<Tensor<1>> {
        check_pictures(&images, self.shape)?;
        let n = images.dims()[0];
        in_parts(n, ROWS, |from, len| {
            let images = images.clone().narrow(0, from, len);
            let streams = fingerprints(&to_values(images.clone()), self.shape.iter().product());
            let x = self.levels.observe(images, Some((key.purpose("binarise"), streams)));
            let of = |class: Option<u32>| {
                let classes = class.map(|class| from_indices(&vec![class; len], &x.device()));
                self.levels.log_likelihood(x.clone(), networks.forward(x.clone(), classes))
            };
            if self.classes.is_empty() {
                return Ok(-of(None));
            }
            let each: Vec<Tensor<1>> = (0..self.classes.len() as u32).map(|class| of(Some(class))).collect();
            Ok(-super::bound::log_mean_exp(Tensor::stack(each, 0)))
        })
    }

    /// The same.
    fn exact_nll(&self, networks: &N, images: Tensor<4>, _probes: usize, key: Key) -> Result<Option<Tensor<1>>> {
        self.nll(networks, images, 0, key).map(Some)
    }

    fn nll_name(&self, _samples: usize) -> String {
        "nll".into()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::Init;
    use kiln_train::{Request, System};

    use super::*;
    use crate::autoencoder::pixelcnn::{self, PixelCnnSystem, Stack};
    use crate::autoencoder::pixelrnn::{self, PixelRnnSystem, Recurrence};
    use crate::autoencoder::testing::{Fixtures, close, device, overfit, system};

    fn bits() -> LevelConfig {
        LevelConfig { output: Levels::Bernoulli, binarize: Binarize::Static }
    }

    fn cnn(stack: Stack, levels: LevelConfig, class_conditional: bool) -> pixelcnn::Config {
        let small = pixelcnn::Config { layers: 3, features: 6, first_kernel: 5, head: 12, ..Default::default() };
        pixelcnn::Config { stack, levels, class_conditional, ..small }
    }

    fn rnn(recurrence: Recurrence, levels: LevelConfig) -> pixelrnn::Config {
        let small = pixelrnn::Config { layers: 2, features: 3, first_kernel: 3, head: 12, ..Default::default() };
        pixelrnn::Config { recurrence, levels, ..small }
    }

    /// Runs `check` with every kind of network and its model.
    fn with_all(levels: LevelConfig, shape: [usize; 3], mut check: impl FnMut(&str, &Autoregression, &dyn Tried)) {
        for (stack, classes) in [(Stack::Residual, false), (Stack::Gated, false), (Stack::Gated, true)] {
            let s: PixelCnnSystem = system(cnn(stack, levels.clone(), classes), shape);
            let mut networks = s.networks(&mut Init::new(&device(), 1));
            // Classes make no difference until they are learned.
            networks.pixelcnn.scatter_classes();
            check(&format!("{stack:?}, classes {classes}"), &s.model, &networks);
        }
        for recurrence in [Recurrence::RowLstm, Recurrence::DiagonalBilstm] {
            let s: PixelRnnSystem = system(rnn(recurrence, levels.clone()), shape);
            check(&format!("{recurrence:?}"), &s.model, &s.networks(&mut Init::new(&device(), 1)));
        }
    }

    /// What the tests ask of networks of any kind.
    trait Tried {
        fn logits(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4>;
        fn by_pixels(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4>;
        fn pictures(&self, model: &Autoregression, request: &Request) -> [Tensor<4>; 2];
        fn nats(&self, model: &Autoregression, x: Tensor<4>) -> Vec<f32>;
        fn completed(&self, model: &Autoregression, x: Tensor<4>, request: &Request) -> Tensor<4>;
    }

    impl<N: Autoregressive> Tried for N {
        fn logits(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4> {
            self.forward(x, classes)
        }

        fn by_pixels(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4> {
            let [n, c, h, w] = x.dims();
            let mut walk = self.walk(n, w, classes);
            let rows = (0..h).map(|row| {
                walk.begin_row();
                let pixels = (0..w).map(|column| {
                    let pixel = x.clone().narrow(2, row, 1).narrow(3, column, 1).reshape([n, c]);
                    let logits = walk.logits(pixel.clone(), true);
                    walk.push(pixel);
                    logits
                });
                row_of(pixels.collect())
            });
            Tensor::cat(rows.collect(), 2)
        }

        fn pictures(&self, model: &Autoregression, request: &Request) -> [Tensor<4>; 2] {
            [model.generate(self, request).unwrap(), model.generate_naively(self, request)]
        }

        fn nats(&self, model: &Autoregression, x: Tensor<4>) -> Vec<f32> {
            to_values(model.nll(self, x, 0, Key::new(0)).unwrap())
        }

        fn completed(&self, model: &Autoregression, x: Tensor<4>, request: &Request) -> Tensor<4> {
            model.inpaint(self, x, request).unwrap()
        }
    }

    #[test]
    fn pixel_by_pixel_is_the_same_picture_as_a_pass_for_each() {
        for (levels, shape) in [(bits(), [1, 6, 7]), (bits(), [3, 4, 5]), (LevelConfig::default(), [3, 3, 4])] {
            with_all(levels, shape, |what, model, network| {
                let request = Request::new(3..7, 5, &device());
                let [cached, naive] = network.pictures(model, &request);
                assert_eq!(cached.dims(), [4, shape[0], shape[1], shape[2]]);
                assert_eq!(to_values(cached.clone()), to_values(naive), "{what}");
                let classes = model.classes_of(&request);
                let (whole, pixels) =
                    (network.logits(cached.clone(), classes.clone()), network.by_pixels(cached.clone(), classes));
                close(&to_values(pixels), &to_values(whole), 1e-5);
                // Picture 4 is itself whatever is drawn beside it.
                let [one, _] = network.pictures(model, &Request::new(4..5, 5, &device()));
                assert_eq!(to_values(one), to_values(cached.narrow(0, 1, 1)), "{what}");
            });
        }
    }

    /// All pictures of some bits, or of one pixel's levels, have a probability of 1 together.
    #[test]
    fn probabilities_sum_to_one() {
        for shape in [[1, 2, 3], [3, 1, 2]] {
            let values =
                (0..64u32).flat_map(|code| (0..6).map(move |bit| if code >> bit & 1 == 1 { 1.0 } else { -1.0 }));
            let all = from_values::<4>(values.collect(), [64, shape[0], shape[1], shape[2]], &device());
            with_all(bits(), shape, |what, model, network| {
                let total: f32 = network.nats(model, all.clone()).iter().map(|nll| (-nll).exp()).sum();
                assert!((total - 1.0).abs() < 1e-4, "{what}: {total}");
            });
        }
        let levels = from_values::<4>((0..256).map(|l| l as f32 / 127.5 - 1.0).collect(), [256, 1, 1, 1], &device());
        with_all(LevelConfig::default(), [1, 1, 1], |what, model, network| {
            let total: f32 = network.nats(model, levels.clone()).iter().map(|nll| (-nll).exp()).sum();
            assert!((total - 1.0).abs() < 1e-4, "{what}: {total}");
        });
    }

    /// Pixels (row, column) of 7×7 that the logit of `at` depends on.
    fn seen(network: &dyn Tried, at: [usize; 2]) -> Vec<[usize; 2]> {
        let x = kiln_nn::tensor::normal::<4>(Key::new(1), 0..1, [1, 1, 7, 7], &Device::flex());
        let of = |x: Tensor<4>| network.logits(x, None).narrow(2, at[0], 1).narrow(3, at[1], 1);
        let x = x.autodiff().require_grad();
        let gradients = of(x.clone()).sum().backward();
        let found = to_values(x.grad(&gradients).unwrap());
        (0..49).filter(|&i| found[i] != 0.0).map(|i| [i / 7, i % 7]).collect()
    }

    #[test]
    fn a_pixel_sees_its_whole_past_and_nothing_else() {
        let past = |at: [usize; 2]| -> Vec<[usize; 2]> {
            let before = |p: &[usize; 2]| p[0] < at[0] || (p[0] == at[0] && p[1] < at[1]);
            (0..49).map(|i| [i / 7, i % 7]).filter(before).collect()
        };
        let tape = || Init::new(&device().autodiff(), 2);
        let with_layers = |stack| pixelcnn::Config { layers: 5, features: 16, ..cnn(stack, bits(), false) };
        let gated: PixelCnnSystem = system(with_layers(Stack::Gated), [1, 7, 7]);
        let diagonal: PixelRnnSystem = system(rnn(Recurrence::DiagonalBilstm, bits()), [1, 7, 7]);
        let row: PixelRnnSystem = system(rnn(Recurrence::RowLstm, bits()), [1, 7, 7]);
        let residual: PixelCnnSystem = system(with_layers(Stack::Residual), [1, 7, 7]);
        for at in [[0, 0], [0, 6], [3, 0], [4, 3], [6, 6]] {
            assert_eq!(seen(&gated.networks(&mut tape()), at), past(at), "gated, {at:?}");
            // The last pixel of the row above is in no map of that row: the first layer's 3×3 window must reach it.
            let reached = |p: &[usize; 2]| p[0] + 1 != at[0] || p[1] < 6 || at[1] >= 5;
            let wanted: Vec<_> = past(at).into_iter().filter(reached).collect();
            assert_eq!(seen(&diagonal.networks(&mut tape()), at), wanted, "diagonal, {at:?}");
            for found in [seen(&row.networks(&mut tape()), at), seen(&residual.networks(&mut tape()), at)] {
                assert!(found.iter().all(|p| past(at).contains(p)), "{at:?} sees {found:?}");
            }
        }
        // What the first paper leaves out: the far right of the row above the kernels' reach, and what is beside the triangle.
        assert!(!seen(&residual.networks(&mut tape()), [4, 0]).contains(&[3, 6]));
        assert!(!seen(&row.networks(&mut tape()), [6, 0]).contains(&[5, 6]));
    }

    #[test]
    fn layers_and_likelihood_are_pytorchs() {
        let f = Fixtures::open("pixelcnn");
        let values = f.values("softmax.levels").1.into_iter().map(|l| l as f32 / 127.5 - 1.0).collect();
        let x = from_values::<4>(values, [2, 3, 2, 3], &device().autodiff());
        let logits = f.tensor::<4>("softmax.logits").autodiff().require_grad();
        let log_p = LevelConfig::default().log_likelihood(x, logits.clone());
        f.assert_close(log_p.clone().inner(), "softmax.log_p", 1e-5);
        let gradients = log_p.sum().backward();
        f.assert_close(logits.grad(&gradients).unwrap(), "softmax.grad", 1e-5);
    }

    #[test]
    fn levels_are_drawn_by_their_distribution() {
        // The middle of each level's share of [0, 1), and its ends.
        let logits: Vec<f32> = (0..256).map(|l| (l as f32 * 0.7).sin()).collect();
        let p: Vec<f64> = logits.iter().map(|&v| f64::from(v).exp()).collect();
        let total: f64 = p.iter().sum();
        let mut below = 0.0;
        for (level, p) in p.iter().enumerate() {
            for share in [0.001, 0.5, 0.999] {
                let u = ((below + share * p) / total) as f32;
                let drawn = LevelConfig::default().draw(&logits, 0, 1, [u].into_iter());
                assert!((drawn[0] - (level as f32 / 127.5 - 1.0)).abs() < 1e-6, "{level}, {share}: {drawn:?}");
            }
            below += p;
        }
        let half = [0.0, 3.0_f32.ln(), -3.0_f32.ln()];
        let drawn = |u: f32| bits().draw(&half, 1, 3, [u].into_iter())[0];
        assert_eq!([drawn(0.0), drawn(0.74), drawn(0.76)], [1.0, 1.0, -1.0]);
    }

    #[test]
    fn completion_keeps_the_upper_half_and_draws_the_rest() {
        with_all(bits(), [1, 6, 4], |what, model, network| {
            let grey = from_values::<4>(crate::autoencoder::testing::pictures([3, 1, 6, 4]), [3, 1, 6, 4], &device());
            let seen = model.levels.observe(grey.clone(), None);
            let done = |from: u64| network.completed(model, grey.clone(), &Request::new(from..from + 3, 0, &device()));
            let upper = |x: Tensor<4>| to_values(x.narrow(2, 0, 3));
            let lower = |x: Tensor<4>| to_values(x.narrow(2, 3, 3));
            assert_eq!(upper(done(0)), upper(seen), "{what}");
            assert_ne!(lower(done(0)), lower(done(3)), "{what}");
            assert_eq!(lower(done(0)), lower(done(0)));
        });
    }

    #[test]
    fn overfits_a_batch() {
        for stack in [Stack::Residual, Stack::Gated] {
            let config = pixelcnn::Config { features: 12, ..cnn(stack, bits(), false) };
            let (first, last) = overfit::<PixelCnnSystem>(config, "nll", 1e-2, 120);
            assert!(first > 35.0 && last < 15.0, "{stack:?}: {first} to {last}");
        }
        for recurrence in [Recurrence::RowLstm, Recurrence::DiagonalBilstm] {
            let config = pixelrnn::Config { features: 12, ..rnn(recurrence, bits()) };
            let (first, last) = overfit::<PixelRnnSystem>(config, "nll", 1e-2, 120);
            assert!(first > 35.0 && last < 15.0, "{recurrence:?}: {first} to {last}");
        }
    }

    #[test]
    fn bad_settings_and_requests_are_usage_errors() {
        let pictures = |classes| Pictures::new([3, 8, 8], classes);
        let refused = |change: fn(&mut pixelcnn::Config)| {
            let mut config = pixelcnn::Config { features: 6, head: 6, ..Default::default() };
            change(&mut config);
            PixelCnnSystem::new(config, &pictures(Vec::new())).err().unwrap()
        };
        for (error, name) in [
            (refused(|c| c.features = 4), "model.features"),
            (refused(|c| c.head = 0), "model.head"),
            (refused(|c| c.kernel = 4), "model.kernel"),
            (refused(|c| c.first_kernel = 1), "model.first_kernel"),
            (refused(|c| c.class_conditional = true), "model.class_conditional"),
            (refused(|c| (c.class_conditional, c.stack) = (true, Stack::Residual)), "model.stack"),
            (refused(|c| c.levels.output = Levels::Bernoulli), "model.binarize"),
            (refused(|c| c.levels.binarize = Binarize::Static), "model.output"),
        ] {
            assert!(error.is_usage() && error.to_string().contains(name), "{error}");
        }
        let none = pixelrnn::Config { layers: 0, ..rnn(Recurrence::RowLstm, bits()) };
        assert!(PixelRnnSystem::new(none, &pictures(Vec::new())).err().unwrap().is_usage());
        with_all(bits(), [1, 4, 4], |what, model, _| {
            let refuses = |change: fn(&mut Request)| {
                let mut request = Request::new(0..2, 0, &Device::flex());
                change(&mut request);
                model.check(&request).err().is_some_and(|e| e.is_usage())
            };
            assert!(refuses(|r| r.condition.class = Some(10)), "{what}");
            assert!(refuses(|r| r.sampler = "steps = 5".parse().unwrap()));
            assert!(refuses(|r| r.sampler = "truncation_psi = 0.5".parse().unwrap()));
            assert_eq!(refuses(|r| r.condition.class = Some(1)), model.classes.is_empty(), "{what}");
        });
    }

    #[test]
    fn classes_change_what_is_drawn_and_learned_tables_count() {
        let s: PixelCnnSystem = system(cnn(Stack::Gated, bits(), true), [1, 6, 6]);
        let mut networks = s.networks(&mut Init::new(&device(), 1));
        let drawn = |networks: &pixelcnn::Networks, class| {
            let request = Request::new(0..8, 0, &device()).of_class(Some(class));
            to_values(s.model.generate(networks, &request).unwrap())
        };
        assert_eq!(drawn(&networks, 1), drawn(&networks, 2));
        networks.pixelcnn.scatter_classes();
        assert_ne!(drawn(&networks, 1), drawn(&networks, 2));
    }
}
