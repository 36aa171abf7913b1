//! The text encoder of a run of `clip`, frozen, for systems that draw from texts.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_nn::encoder::{EncoderConfig, TextTransformer};
use kiln_nn::{Init, Linear, LinearConfig};
use kiln_train::batch::Tokens;
use kiln_train::run::TOKENIZER;
use kiln_train::{DataConfig, InitFrom, Pictures, Request, Run};
use serde::{Deserialize, Serialize};

use super::clip::{Clip, Objective, at_last, unit};

/// What a run's encoder is like; filled in from the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextEncoderConfig {
    /// Features of each token.
    pub text_width: usize,
    /// Layers.
    pub text_layers: usize,
    /// Numbers of a text's vector.
    pub projection_dim: usize,
    /// Words that it knows; 0 with `random`.
    pub vocabulary: usize,
    /// Tokens that it reads; 0 with `random`.
    pub caption_length: usize,
}

impl Default for TextEncoderConfig {
    fn default() -> Self {
        Self { text_width: 64, text_layers: 1, projection_dim: 64, vocabulary: 0, caption_length: 0 }
    }
}

impl TextEncoderConfig {
    /// Filled in from the run of `clip` that `model.text_encoder` names; as it is with [`InitFrom::RANDOM`], an untrained encoder of the
    /// data's own words.
    ///
    /// # Errors
    /// If none is named, there is no such run, or it was not trained to tell texts apart.
    pub fn settled(self, run: &str) -> Result<Self> {
        refuse_if!(
            run.is_empty(),
            "model.text_encoder: name the run of clip that reads the texts, such as --set model.text_encoder=runs/clip"
        );
        if run == InitFrom::RANDOM {
            return Ok(self);
        }
        let opened = Run::open(Path::new(run))?;
        opened.check_system("clip")?;
        let recipe = opened.recipe_of::<Clip>()?;
        let (model, data) = (recipe.model, recipe.data);
        refuse_if!(
            model.objective != Objective::Contrastive,
            "{run}: its objective is \"predictive\", which has no vectors of texts; give one with \"contrastive\""
        );
        Ok(Self {
            text_width: model.text_width,
            text_layers: model.text_layers,
            projection_dim: model.projection_dim,
            vocabulary: data.vocabulary,
            caption_length: data.caption_length,
        })
    }

    /// Captions read with the words of a run, unless others are asked for.
    pub fn data(&self, run: &str, data: DataConfig) -> DataConfig {
        if run == InitFrom::RANDOM || !data.tokenizer.is_empty() {
            return data;
        }
        let tokenizer = Path::new(run).join(TOKENIZER).display().to_string();
        DataConfig { tokenizer, caption_length: self.caption_length, vocabulary: self.vocabulary, ..data }
    }

    /// Whether captions are read as the encoder's run read its own.
    ///
    /// # Errors
    /// A usage error that says how.
    pub fn check(&self, run: &str, pictures: &Pictures) -> Result<()> {
        refuse_if!(
            self.text_width == 0 || self.text_layers == 0 || self.projection_dim == 0,
            "{run}: an encoder of no size"
        );
        refuse_if!(
            run != InitFrom::RANDOM
                && (pictures.vocabulary, pictures.caption_length) != (self.vocabulary, self.caption_length),
            "captions must be read with the words of {run}: leave out data.tokenizer, and set data.caption_length={}",
            self.caption_length
        );
        Ok(())
    }
}

/// Texts to vectors of length 1.
#[derive(Module, Debug)]
pub struct TextEncoder {
    /// What tokens become.
    pub text_model: TextTransformer,
    /// What the last of them is projected by.
    pub text_projection: Linear,
}

impl TextEncoder {
    /// Fresh networks for the words of `pictures`.
    pub fn new(config: &TextEncoderConfig, pictures: &Pictures, init: &mut Init) -> Self {
        let encoder = EncoderConfig::new(config.text_width, config.text_layers);
        let (words, length) = (pictures.vocabulary.max(1), pictures.caption_length.max(1));
        let projection = LinearConfig { bias: false, ..LinearConfig::new(config.text_width, config.projection_dim) };
        Self { text_model: TextTransformer::new(&encoder, words, length, init), text_projection: projection.init(init) }
    }

    /// Where a system takes its network `text_encoder` from.
    pub fn init_from(run: &str) -> Vec<InitFrom<'_>> {
        let paths = &[("text_model", "text_encoder.text_model"), ("text_projection", "text_encoder.text_projection")];
        InitFrom::named(run, paths)
    }

    /// The texts of a request, `[n, size]`; without any, vectors as long as theirs in any direction.
    pub fn requested(&self, request: &Request, size: usize) -> Tensor<2> {
        match &request.condition.text {
            Some(text) => self.forward(&text.of(&request.indices)),
            None => unit(request.normal("text", [request.len(), size])),
        }
    }

    /// # Shapes
    /// n texts → `[n, projection_dim]`, without gradients
    pub fn forward(&self, texts: &Tokens) -> Tensor<2> {
        unit(self.text_projection.forward(at_last(&self.text_model, texts)).detach())
    }
}
