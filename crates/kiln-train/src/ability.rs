//! What a system can do. Each ability is a trait here, a row of the table at the end, and a verb of the command line.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use kiln_core::Result;
use kiln_core::random::Key;
use serde::Serialize;

use crate::batch::Tokens;
use crate::request::{Input, Request};
use crate::sizes::SizeRule;

/// Draws pictures from noise, perhaps under a condition.
pub trait Generate<N>: Sync {
    /// The parts of a request that it uses.
    fn takes(&self) -> Vec<Input> {
        Vec::new()
    }

    /// Pictures `[n, c, h, w]` in [−1, 1].
    ///
    /// # Errors
    /// If the request asks for what the system does not have (a class, a sampler).
    fn generate(&self, networks: &N, request: &Request) -> Result<Tensor<4>>;

    /// Whether each sample is of a class: the one the request asks for, else the one that [`Request::classes`] draws for it.
    fn shows_classes(&self) -> bool {
        false
    }

    /// Features of the context that it looks at, if it does.
    fn context_features(&self) -> Option<usize> {
        None
    }
}

/// Encodes pictures and decodes them again.
pub trait Reconstruct<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → the same.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn reconstruct(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<4>>;

    /// Names of what is decoded apart where a code has parts (domain separation networks), the whole first.
    fn parts(&self) -> Vec<&'static str> {
        vec!["whole"]
    }

    /// What one of [`Reconstruct::parts`] alone decodes to, of pictures of a domain: 0, the source, or 1, the target.
    ///
    /// # Errors
    /// As [`Reconstruct::reconstruct`], and if there is no such part.
    fn reconstruct_part(&self, networks: &N, images: Tensor<4>, _part: &str, _domain: usize) -> Result<Tensor<4>> {
        self.reconstruct(networks, images)
    }
}

/// Maps pictures to latents.
pub trait Encode<N>: Sync {
    /// The parts of a request that it uses.
    fn takes(&self) -> Vec<Input> {
        Vec::new()
    }

    /// `[n, c, h, w]` in [−1, 1] → `[n, d]`; picture i is sample `request.indices[i]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn encode(&self, networks: &N, images: Tensor<4>, request: &Request) -> Result<Tensor<2>>;
}

/// Maps latents to pictures: what interpolation and latent arithmetic walk on.
pub trait Decode<N>: Sync {
    /// The spaces that latents may be taken from, the default first. With more than one the sampler's setting `space` says
    /// which.
    fn spaces(&self) -> Vec<&'static str> {
        vec!["z"]
    }

    /// Latents of samples, `[n, d]`: the ones [`Generate`] would use.
    ///
    /// # Errors
    /// If the request asks for what the system does not have.
    fn latents(&self, networks: &N, request: &Request) -> Result<Tensor<2>>;

    /// `[n, d]` → `[n, c, h, w]` in [−1, 1].
    ///
    /// # Errors
    /// If the latents do not fit the network.
    fn decode(&self, networks: &N, latents: Tensor<2>) -> Result<Tensor<4>>;

    /// The point a fraction `t` of the way from `a` to `b`, `[1, d]` each. By default on the great
    /// circle, which keeps a Gaussian latent's norm (White 2016).
    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        slerp(a, b, t)
    }
}

/// Knows which of its latents shape what: those of [`Decode`] that are styles of layers.
pub trait Mix<N>: Sync {
    /// Names of groups of styles, the coarsest first, and the numbers of a latent that hold them.
    fn styles(&self) -> Vec<StyleGroup>;
}

/// A group of styles and the numbers of a latent that hold them.
pub type StyleGroup = (&'static str, Range<usize>);

/// How unlike pictures are: `[n, c, h, w]` twice → `[n]`, differentiable in the first.
pub type Distance<'a> = dyn Fn(Tensor<4>, Tensor<4>) -> Result<Tensor<1>> + 'a;

/// The nearest pictures that a generator makes.
#[derive(Clone, Debug)]
pub struct Projection {
    /// `[n, c, h, w]` in [−1, 1].
    pub images: Tensor<4>,
    /// Their latents as [`Decode`] has them, `[n, d]`.
    pub latents: Tensor<2>,
    /// How far they are from the given ones, `[n]`.
    pub distances: Tensor<1>,
}

/// Finds the latents of pictures by descent.
pub trait Project<N>: Sync {
    /// What is nearest to `[n, c, h, w]` in [−1, 1]; picture i is sample `request.indices[i]`. The request's sampler has the
    /// settings, its watch is called at each step.
    ///
    /// # Errors
    /// If the pictures do not fit the network, or the distance fails.
    fn project(
        &self,
        networks: &N,
        images: Tensor<4>,
        distance: &Distance<'_>,
        request: &Request,
    ) -> Result<Projection>;
}

/// Spherical interpolation: sin((1−t)θ)/sin θ · a + sin(tθ)/sin θ · b, θ the angle between them.
pub fn slerp(a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
    let dot = |x: &Tensor<2>, y: &Tensor<2>| f64::from((x.clone() * y.clone()).sum().into_scalar::<f32>());
    let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt().max(1e-12);
    let theta = cosine.clamp(-1.0, 1.0).acos();
    if theta.sin() < 1e-4 {
        return a * (1.0 - t) + b * t;
    }
    a * (((1.0 - t) * theta).sin() / theta.sin()) + b * ((t * theta).sin() / theta.sin())
}

/// Turns pictures of one domain into another.
pub trait Translate<N>: Sync {
    /// The parts of a request that it uses.
    fn takes(&self) -> Vec<Input> {
        Vec::new()
    }

    /// Names of the directions, the default first (`a2b`, `b2a`).
    fn directions(&self) -> Vec<&'static str>;

    /// For a network that takes pictures of other sizes than those it was trained on: which.
    fn own_sizes(&self) -> Option<SizeRule> {
        None
    }

    /// Whether it translates only with a [`Style`](crate::request::Style), of a picture such as those of its second set.
    fn needs_style(&self) -> bool {
        false
    }

    /// How many times as high and wide its pictures are as those it is given (super-resolution).
    fn scale(&self) -> usize {
        1
    }

    /// `[n, c, h, w]` in [−1, 1] → `[n, c', s·h, s·w]`, s its [`Translate::scale`], of the other domain, along `request.condition.direction`; picture i is
    /// sample `request.indices[i]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network, or the direction is not one of [`Translate::directions`].
    fn translate(&self, networks: &N, images: Tensor<4>, request: &Request) -> Result<Tensor<4>>;
}

/// Fills in a part of a picture.
pub trait Inpaint<N>: Sync {
    /// The parts of a request that it uses.
    fn takes(&self) -> Vec<Input> {
        Vec::new()
    }

    /// Where it paints when no mask is given, for each pixel, `h·w`, row by row.
    fn default_mask(&self) -> Vec<bool>;

    /// `[n, c, h, w]` in [−1, 1] → the same with what the mask covers drawn anew, picture i by draw
    /// `request.indices[i]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network, or the request asks for what the system does not have.
    fn inpaint(&self, networks: &N, images: Tensor<4>, request: &Request) -> Result<Tensor<4>>;
}

/// Says which class a picture shows.
pub trait Classify<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → logits `[n, classes]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn classify(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>>;

    /// Of pictures of the first set of a run on source and target, where it sees them otherwise.
    ///
    /// # Errors
    /// As [`Classify::classify`].
    fn classify_source(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>> {
        self.classify(networks, images)
    }

    /// For a classifier that knows noise: the logits of x = `signal`·x₀ + `sigma`·ε; `None` for any other.
    ///
    /// # Errors
    /// As [`Classify::classify`].
    fn classify_noisy(&self, _networks: &N, _x: Tensor<4>, _signal: f64, _sigma: f64) -> Result<Option<Tensor<2>>> {
        Ok(None)
    }
}

/// Says which class each pixel shows. Of a run with masks the classes are theirs; else class 0 is the ground, and class c + 1 is label c.
pub trait Segment<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → logits `[n, classes, h, w]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn segment(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<4>>;

    /// The true classes `[n, h, w]` of pictures `[n, c, h, w]` with labels `[n]`, of a run without masks.
    fn segment_map(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Tensor<3, Int>;
}

/// Maps pictures to features learned for another end.
pub trait Represent<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → features `[n, d]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn represent(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>>;

    /// Of pictures of the first set of a run on source and target, where it sees them otherwise.
    ///
    /// # Errors
    /// As [`Represent::represent`].
    fn represent_source(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>> {
        self.represent(networks, images)
    }
}

/// Sorts pictures into groups of its own, which it has found without labels.
pub trait Cluster<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → logits `[n, groups]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn cluster(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>>;
}

/// Says how real a picture looks.
pub trait Discriminate<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → the discriminator's raw output for each, `[n]`; more is more real.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn scores(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<1>>;

    /// Whether it is the logit of the probability that a picture is real.
    fn is_logit(&self) -> bool;
}

/// Knows (a bound on) the probability of a picture.
pub trait Likelihood<N>: Sync {
    /// Negative log-likelihood in nats of each picture, `[n]`: the evidence bound if `samples` is 0,
    /// else the importance-sampled estimate with that many samples.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn nll(&self, networks: &N, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>>;

    /// Negative log-likelihood in nats of each picture's 256 levels, `[n]`, exact but for the noise of `probes`
    /// random vectors; `None` if there is only a bound.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn exact_nll(&self, _networks: &N, _images: Tensor<4>, _probes: usize, _key: Key) -> Result<Option<Tensor<1>>> {
        Ok(None)
    }

    /// The pictures that the probability is of, `[n, c, h, w]`: those given, unless they are made binary first.
    fn observed(&self, images: Tensor<4>) -> Tensor<4> {
        images
    }

    /// Passes of the network that [`Likelihood::nll`] takes for a picture where `samples` is 0: many for a chain of many steps.
    fn nll_passes(&self) -> usize {
        1
    }

    /// The metric's name with so many samples.
    fn nll_name(&self, samples: usize) -> String {
        if samples == 0 { "nll_bound".into() } else { format!("nll_{samples}") }
    }
}

/// Says how well texts and pictures belong together.
pub trait MatchTexts<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] and m texts → `[n, m]`, larger where they belong together; differentiable in the pictures.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn match_texts(&self, networks: &N, images: Tensor<4>, texts: &Tokens) -> Result<Tensor<2>>;
}

/// The table of abilities, handed to the macro `$then`. A row has the trait, its field in [`Abilities`], its verb, and the
/// trait's methods: one that `draws` takes a request, which is checked first; `on` uses the networks; `of` is of the
/// system alone.
macro_rules! abilities {
    ($then:ident) => {
        $then! {
                /// `sample`
                Generate generate "sample" {
                    draws generate(request: &Request) -> Tensor<4>;
                    of shows_classes() -> bool;
                    of context_features() -> Option<usize>;
                }
                /// `reconstruct`
                Reconstruct reconstruct "reconstruct" {
                    on reconstruct(images: Tensor<4>) -> Tensor<4>;
                    of parts() -> Vec<&'static str>;
                    on reconstruct_part(images: Tensor<4>, part: &str, domain: usize) -> Tensor<4>;
                }
                /// `encode`, and the ends of `interpolate` from pictures
                Encode encode "encode" {
                    draws encode(images: Tensor<4>, request: &Request) -> Tensor<2>;
                }
                /// `interpolate`, `edit`: pictures from latents
                Decode decode "interpolate" {
                    of spaces() -> Vec<&'static str>;
                    on latents(request: &Request) -> Tensor<2>;
                    on decode(latents: Tensor<2>) -> Tensor<4>;
                    of between(a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2>;
                }
                /// `edit --mix`: styles of one sample in another
                Mix mix "edit --mix" {
                    of styles() -> Vec<StyleGroup>;
                }
                /// `reconstruct` by a generator: the nearest picture that it makes
                Project project "reconstruct" {
                    on project(images: Tensor<4>, distance: &Distance<'_>, request: &Request) -> Projection;
                }
                /// `translate`
                Translate translate "translate" {
                    of directions() -> Vec<&'static str>;
                    of own_sizes() -> Option<SizeRule>;
                    of needs_style() -> bool;
                    of scale() -> usize;
                    draws translate(images: Tensor<4>, request: &Request) -> Tensor<4>;
                }
                /// `inpaint`
                Inpaint inpaint "inpaint" {
                    of default_mask() -> Vec<bool>;
                    draws inpaint(images: Tensor<4>, request: &Request) -> Tensor<4>;
                }
                /// `classify`
                Classify classify "classify" {
                    on classify(images: Tensor<4>) -> Tensor<2>;
                    on classify_source(images: Tensor<4>) -> Tensor<2>;
                    on classify_noisy(x: Tensor<4>, signal: f64, sigma: f64) -> Option<Tensor<2>>;
                }
                /// `evaluate --metrics segments`, and guidance by a map
                Segment segment "evaluate --metrics segments" {
                    on segment(images: Tensor<4>) -> Tensor<4>;
                    of segment_map(images: Tensor<4>, labels: Tensor<1, Int>) -> Tensor<3, Int>;
                }
                /// `evaluate --metrics svm`, and the features that other runs are scored by
                Represent represent "evaluate --metrics svm" {
                    on represent(images: Tensor<4>) -> Tensor<2>;
                    on represent_source(images: Tensor<4>) -> Tensor<2>;
                }
                /// `search`, `classify --labels`
                MatchTexts match_texts "search" {
                    on match_texts(images: Tensor<4>, texts: &Tokens) -> Tensor<2>;
                }
                /// `evaluate --metrics clusters`
                Cluster cluster "evaluate --metrics clusters" {
                    on cluster(images: Tensor<4>) -> Tensor<2>;
                }
                /// `evaluate --metrics optimal_discriminator`
                Discriminate discriminate "evaluate --metrics optimal_discriminator" {
                    on scores(images: Tensor<4>) -> Tensor<1>;
                    of is_logit() -> bool;
                }
                /// `evaluate --metrics nll,bpd`
                Likelihood likelihood "evaluate --metrics nll" {
                    on nll(images: Tensor<4>, samples: usize, key: Key) -> Tensor<1>;
                    on exact_nll(images: Tensor<4>, probes: usize, key: Key) -> Option<Tensor<1>>;
                    of observed(images: Tensor<4>) -> Tensor<4>;
                    of nll_passes() -> usize;
                    of nll_name(samples: usize) -> String;
                }
        }
    };
}
pub(crate) use abilities;

macro_rules! declare {
    ($($(#[doc = $doc:literal])* $Name:ident $field:ident $verb:literal { $($methods:tt)* })*) => {
        /// Something a system may be able to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Ability {
            $($(#[doc = $doc])* $Name,)*
        }

        impl Ability {
            /// The verb that needs the ability.
            pub fn verb(self) -> &'static str {
                match self {
                    $(Self::$Name => $verb,)*
                }
            }
        }

        /// The abilities of a system, as far as it has them.
        pub struct Abilities<'a, N> {
            $($(#[doc = $doc])* pub $field: Option<&'a dyn $Name<N>>,)*
        }

        impl<N> Default for Abilities<'_, N> {
            fn default() -> Self {
                Self { $($field: None,)* }
            }
        }

        impl<N> Abilities<'_, N> {
            /// Their names.
            pub fn list(&self) -> Vec<Ability> {
                let all = [$((self.$field.is_some(), Ability::$Name),)*];
                all.into_iter().filter_map(|(has, ability)| has.then_some(ability)).collect()
            }
        }
    };
}

abilities!(declare);
