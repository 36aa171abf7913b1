//! Texts for runs that say how well a text and an image belong together: prompts, tokens, scores.

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Result, refuse_if, tell};
use kiln_data::Tokenizer;
use kiln_train::{Ability, Model, Tokens};

use crate::verbs::need;

#[derive(Args)]
pub struct TemplateArgs {
    /// Text around each label, with {} in its place; of several templates the mean score counts
    #[arg(long, value_name = "TEXT", default_value = "{}")]
    pub template: Vec<String>,
}

impl Default for TemplateArgs {
    fn default() -> Self {
        Self { template: vec!["{}".into()] }
    }
}

/// A run with what makes tokens of texts.
pub struct Tokenized<'a> {
    model: &'a dyn Model,
    tokenizer: Tokenizer,
}

impl<'a> Tokenized<'a> {
    /// # Errors
    /// If the run has learned from no captions.
    pub fn of(model: &'a dyn Model) -> Result<Self> {
        Ok(Self { model, tokenizer: model.info().tokenizer()? })
    }

    /// Tokens of texts that a person has written. Words that the run has not learned are reported.
    ///
    /// # Errors
    /// If a text has no word that the run has learned. `flag` is where the texts come from.
    pub fn tokens(&self, flag: &str, texts: &[String]) -> Result<Tokens> {
        let info = self.model.info();
        for text in texts {
            let known = self.tokenizer.tokens(text)?.len();
            refuse_if!(known == 0, "{flag} \"{text}\": no words in it");
            let unknown = self.tokenizer.unknown(text);
            refuse_if!(
                unknown.len() == known,
                "{flag} \"{text}\": {} has learned none of its words; its captions are those of {}",
                info.run,
                info.data.set
            );
            if !unknown.is_empty() {
                tell!("{flag} \"{text}\": not learned: {}", unknown.join(", "));
            }
            let length = info.pictures.caption_length;
            if known > length {
                tell!("{flag} \"{text}\": {known} tokens, of which the first {length} count");
            }
        }
        self.rows(texts)
    }

    /// Tokens of texts as they are.
    pub fn rows(&self, texts: &[String]) -> Result<Tokens> {
        let info = self.model.info();
        let rows = self.tokenizer.rows(texts.iter().map(String::as_str), info.pictures.caption_length)?;
        Ok(Tokens::new(rows, &info.device))
    }
}

/// A run that matches texts.
pub struct Matcher<'a> {
    /// Its tokens.
    pub texts: Tokenized<'a>,
}

impl<'a> Matcher<'a> {
    /// # Errors
    /// If the run matches no texts.
    pub fn of(model: &'a dyn Model) -> Result<Self> {
        need(model, Ability::MatchTexts)?;
        Ok(Self { texts: Tokenized::of(model)? })
    }

    /// How well images match labels, `[n, labels]`: the mean over templates of which `tokens` has those of all labels, one
    /// template after the other.
    pub fn scores(&self, images: Tensor<4>, tokens: &Tokens, templates: usize) -> Result<Tensor<2>> {
        let scores = self.texts.model.match_texts(images, tokens)?;
        let [n, all] = scores.dims();
        Ok(scores.reshape([n, templates, all / templates]).mean_dim(1).reshape([n, all / templates]))
    }
}

/// Every label in every template, one template after the other.
///
/// # Errors
/// If a template has no place for a label.
pub fn prompts(labels: &[String], templates: &[String]) -> Result<Vec<String>> {
    if let Some(template) = templates.iter().find(|template| !template.contains("{}")) {
        refuse_if!(true, "--template \"{template}\": write {{}} where the label goes");
    }
    Ok(templates.iter().flat_map(|template| labels.iter().map(|label| template.replace("{}", label))).collect())
}
