//! Gatys, Ecker & Bethge, *Image Style Transfer Using Convolutional Neural Networks*, 2016.
//!
//! The picture x that minimises (equation 7)
//!
//! α L_content(p, x) + β L_style(a, x) + γ L_tv(x)
//!
//! * L_content (equation 1): the squared distance of the maps of x and of the content p in a layer;
//! * L_style (equations 3 to 5): the squared distance of the Gram matrices of x and of the style a, the mean over layers;
//! * L_tv: total variation, which the paper does not have (Johnson 2016, §3.2).
//!
//! Both distances are divided by the square of what they are distances to, so that α and β mean the same for every network, layer and
//! size of picture. Several styles are blended by the mean of their Gram matrices.
//!
//! | paper | here |
//! |---|---|
//! | VGG19, relu4_2 for content, relu1_1 to relu5_1 for style (§3) | [`LayerNet`]'s own layers, of MobileNetV2 where nobody has VGG |
//! | α / β = 10⁻³ (figure 3), of sums | `content_weight`, `style_weight` |
//! | L-BFGS (§3) | [`Method::Lbfgs`]; Adam needs no line search, and more steps |
//! | begins at noise, content or style (§3.3) | [`Start`] |
//!
//! `kiln stylize PICTURE OUT --style PICTURE`

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use kiln_features::LayerNet;
use kiln_nn::loss::{gram, total_variation};
use kiln_nn::tensor::normal;
use kiln_train::OptimizerConfig;
use kiln_train::minimise::{Descent, Lbfgs, minimise};

/// How the picture is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Liu & Nocedal 1989, with line search.
    Lbfgs,
    /// Kingma & Ba 2015.
    Adam,
}

/// Where the search begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the content.
    Content,
    /// At noise around grey.
    Noise,
}

/// What is minimised, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// α.
    pub content_weight: f64,
    /// β.
    pub style_weight: f64,
    /// γ.
    pub tv_weight: f64,
    /// Layers of the content; the network's own if there are none.
    pub content_layers: Vec<String>,
    /// Layers of the style; the network's own if there are none.
    pub style_layers: Vec<String>,
    /// L-BFGS or Adam.
    pub method: Method,
    /// Adam's rate.
    pub learning_rate: f64,
    /// Steps.
    pub steps: usize,
    /// The content, or noise.
    pub start: Start,
    /// Of the noise.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            content_weight: 1.0,
            style_weight: 10.0,
            tv_weight: 0.1,
            content_layers: Vec::new(),
            style_layers: Vec::new(),
            method: Method::Lbfgs,
            learning_rate: 0.02,
            steps: 200,
            start: Start::Content,
            seed: 0,
        }
    }
}

/// The terms of the objective, without their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// L_content.
    pub content: f64,
    /// L_style.
    pub style: f64,
    /// L_tv.
    pub tv: f64,
}

/// What a picture is compared with: the maps of a content and the Gram matrices of styles.
pub struct Targets<'a> {
    net: &'a LayerNet,
    content: Vec<(String, Tensor<4>)>,
    style: Vec<(String, Tensor<3>)>,
}

impl<'a> Targets<'a> {
    /// Of a content `[1, c, h, w]` and styles of any size, each with its part, in [−1, 1].
    ///
    /// # Errors
    /// If a layer does not exist, or a picture is too small for it.
    pub fn new(net: &'a LayerNet, content: &Tensor<4>, styles: &[(Tensor<4>, f64)], config: &Config) -> Result<Self> {
        refuse_if!(styles.is_empty(), "--style: give a picture");
        let or_own = |named: &[String], own: Vec<&str>| match named {
            [] => own.into_iter().map(str::to_string).collect(),
            named => named.to_vec(),
        };
        let content_layers: Vec<String> = or_own(&config.content_layers, net.content_layers());
        let style_layers: Vec<String> = or_own(&config.style_layers, net.style_layers());
        fn names(layers: &[String]) -> Vec<&str> {
            layers.iter().map(String::as_str).collect()
        }
        let maps = net.maps(content.clone(), &names(&content_layers))?;
        let mut grams: Vec<Tensor<3>> = Vec::new();
        for (picture, weight) in styles {
            for (i, map) in net.maps(picture.clone(), &names(&style_layers))?.into_iter().enumerate() {
                let own = gram(map) * *weight;
                match grams.get_mut(i) {
                    Some(sum) => *sum = sum.clone() + own,
                    None => grams.push(own),
                }
            }
        }
        Ok(Self {
            net,
            content: content_layers.into_iter().zip(maps).collect(),
            style: style_layers.into_iter().zip(grams).collect(),
        })
    }

    /// L_content, L_style and L_tv of a picture as large as the content, `[1]` each.
    ///
    /// # Errors
    /// As [`LayerNet::maps`].
    pub fn terms(&self, picture: &Tensor<4>) -> Result<[Tensor<1>; 3]> {
        let names: Vec<&str> = self
            .content
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(self.style.iter().map(|(name, _)| name.as_str()))
            .collect();
        let mut maps = self.net.maps(picture.clone(), &names)?.into_iter();
        let zero = || Tensor::<1>::zeros([1], &picture.device());
        let (mut content, mut style) = (zero(), zero());
        for ((_, target), map) in self.content.iter().zip(&mut maps) {
            content = content + relative(map, target.clone()) / self.content.len() as f64;
        }
        for ((_, target), map) in self.style.iter().zip(&mut maps) {
            style = style + relative(gram(map), target.clone()) / self.style.len() as f64;
        }
        Ok([content, style, total_variation(picture.clone())])
    }
}

/// ‖x − target‖² / ‖target‖².
pub fn relative<const D: usize>(x: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    let scale = target.clone().square().sum() + 1e-12;
    (x - target).square().sum() / scale
}

/// The picture of a content `[1, c, h, w]` in styles. `watch` is called at each step with its number, the losses and the picture so far.
///
/// # Errors
/// If a layer does not exist, a picture is too small for it, or the search leaves the numbers.
pub fn stylize(
    net: &LayerNet,
    content: Tensor<4>,
    styles: &[(Tensor<4>, f64)],
    config: &Config,
    mut watch: impl FnMut(usize, Losses, &Tensor<4>),
) -> Result<Tensor<4>> {
    let targets = Targets::new(net, &content, styles, config)?;
    let start = match config.start {
        Start::Content => content.clone(),
        Start::Noise => {
            normal::<4>(Key::new(config.seed).purpose("stylize"), 0..1, content.dims(), &content.device()) * 0.1
        }
    };
    let descent = match config.method {
        Method::Lbfgs => Descent::Lbfgs(Lbfgs { history: 20, ..Lbfgs::default() }),
        Method::Adam => Descent::Optimizer(OptimizerConfig::adam(config.learning_rate)),
    };
    let losses = std::cell::Cell::new(Losses::default());
    let objective = |variables: &[Tensor<4>]| {
        let [content, style, tv] = targets.terms(&variables[0])?;
        let value = |term: &Tensor<1>| f64::from(term.clone().into_scalar::<f32>());
        losses.set(Losses { content: value(&content), style: value(&style), tv: value(&tv) });
        Ok(content * config.content_weight + style * config.style_weight + tv * config.tv_weight)
    };
    let found = minimise(vec![start], objective, &descent, config.steps, |step, _, variables| {
        watch(step, losses.get(), &variables[0]);
    });
    // A search that stumbles late has still come far.
    let found = match found {
        Ok(found) => found,
        Err(stopped) => match stopped.last {
            Some(last) if last.steps > 0 => last,
            _ => return Err(stopped.error),
        },
    };
    let picture = found.variables.into_iter().next().unwrap_or(content);
    Ok(picture.clamp(-1.0, 1.0))
}
