//! A trained run without the type of its system, for the verbs.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::Tokenizer;

use crate::ability::{Ability, Distance, Projection, StyleGroup, abilities};
use crate::batch::Tokens;
use crate::checkpoint::Counters;
use crate::config::{DataConfig, TrainConfig};
use crate::recipe::Recipe;
use crate::request::Request;
use crate::run::TOKENIZER;
use crate::sizes::SizeRule;
use crate::system::{Pictures, System};

/// What is known of a loaded run.
pub struct Info {
    /// The system.
    pub system: &'static str,
    /// The run folder.
    pub run: String,
    /// Its path; a name need not be text.
    pub root: PathBuf,
    /// Images seen by the checkpoint.
    pub images: u64,
    /// Seconds it trained.
    pub seconds: f64,
    /// The run's seed.
    pub seed: u64,
    /// Shape and classes of its pictures.
    pub pictures: Pictures,
    /// The data it was trained on.
    pub data: DataConfig,
    /// How it was trained.
    pub train: TrainConfig,
    /// Where it computes.
    pub device: Device,
}

impl Info {
    /// What made tokens of the run's captions.
    ///
    /// # Errors
    /// If the run is of no captions, or its file is damaged.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.root.join(TOKENIZER);
        if self.pictures.vocabulary == 0 {
            return Err(Error::usage(format!("{}: {} has not learned from captions", self.run, self.system)));
        }
        Tokenizer::open(&path)
    }

    /// Of a run at one moment.
    pub(crate) fn of<S: System>(recipe: &Recipe<S::Config>, root: &Path, at: &Counters, device: &Device) -> Self {
        Self {
            system: S::ID,
            run: root.display().to_string(),
            root: root.to_path_buf(),
            images: at.images,
            seconds: at.seconds,
            seed: recipe.seed,
            pictures: Pictures::of(&recipe.data),
            data: DataConfig { set: kiln_data::relative(&recipe.data.set), ..recipe.data.clone() },
            train: recipe.train.clone(),
            device: device.clone(),
        }
    }
}

/// A system with its trained networks.
pub(crate) struct Loaded<S: System> {
    pub(crate) system: S,
    pub(crate) networks: S::Networks,
    pub(crate) info: Info,
}

impl<S: System> Loaded<S> {
    fn diverged(&self) -> Error {
        Error::new(format!(
            "{}: {} answers with values that are no numbers (NaN or infinite): a setting is out of range, or its training has diverged",
            self.info.run, self.info.system
        ))
    }
}

/// What the methods of abilities answer with: none of it leaves a run unless all of its values are numbers.
trait Answer {
    /// Whether all of its values are numbers, and none is infinite.
    fn all_finite(&self) -> bool {
        true
    }
}

impl<const D: usize> Answer for Tensor<D> {
    fn all_finite(&self) -> bool {
        // 0, unless one is infinite or no number.
        (self.clone() - self.clone()).sum().into_scalar::<f32>() == 0.0
    }
}

impl<T: Answer> Answer for Option<T> {
    fn all_finite(&self) -> bool {
        self.as_ref().is_none_or(Answer::all_finite)
    }
}

impl Answer for Projection {
    fn all_finite(&self) -> bool {
        self.images.all_finite() && self.latents.all_finite() && self.distances.all_finite()
    }
}

impl Answer for Tensor<3, Int> {}
impl Answer for Vec<&'static str> {}
impl Answer for Vec<bool> {}
impl Answer for Vec<StyleGroup> {}
impl Answer for String {}
impl Answer for bool {}
impl Answer for usize {}
impl Answer for SizeRule {}

/// The trait [`Model`] and its one implementation, from the table of abilities.
macro_rules! model {
    ($($(#[doc = $doc:literal])* $Name:ident $field:ident $verb:literal {
        $($kind:ident $method:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*
    })*) => {
        /// A trained run, whatever its system. Every method of every ability is a method here; one that the system
        /// lacks is a usage error (the verbs check [`Model::abilities`] first and name the systems that have it).
        pub trait Model {
            /// What is known of the run.
            fn info(&self) -> &Info;
            /// What it can do.
            fn abilities(&self) -> Vec<Ability>;
            $($(
                #[doc = concat!("See [`", stringify!($Name), "::", stringify!($method), "`](crate::", stringify!($Name), ").")]
                ///
                /// # Errors
                /// If the system lacks the ability, or refuses what it is asked.
                fn $method(&self, $($arg: $ty),*) -> Result<$out>;
            )*)*
        }

        impl<S: System> Model for Loaded<S> {
            fn info(&self) -> &Info {
                &self.info
            }

            fn abilities(&self) -> Vec<Ability> {
                self.system.abilities().list()
            }

            $($(
                fn $method(&self, $($arg: $ty),*) -> Result<$out> {
                    let lacks = || Error::usage(format!("{} cannot {}", S::ID, $verb));
                    let able = self.system.abilities().$field.ok_or_else(lacks)?;
                    let found: Result<$out> = call!($kind S, able.$method, &self.networks, $($arg),*);
                    let found = found?;
                    if found.all_finite() { Ok(found) } else { Err(self.diverged()) }
                }
            )*)*
        }
    };
}

/// A method of an ability, called as its row says.
macro_rules! call {
    (draws $S:ident, $able:ident.$method:ident, $networks:expr, $request:ident) => {{
        $request.check($S::ID, &$able.takes())?;
        $able.$method($networks, $request)
    }};
    (draws $S:ident, $able:ident.$method:ident, $networks:expr, $images:ident, $request:ident) => {{
        $request.check($S::ID, &$able.takes())?;
        $able.$method($networks, $images, $request)
    }};
    (on $S:ident, $able:ident.$method:ident, $networks:expr, $($arg:ident),*) => {
        $able.$method($networks, $($arg),*)
    };
    (of $S:ident, $able:ident.$method:ident, $networks:expr, $($arg:ident),*) => {
        Ok($able.$method($($arg),*))
    };
}

abilities!(model);
