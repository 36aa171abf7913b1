//! How do captions become numbers?

use std::path::Path;

use kiln_core::{Error, Result, budget, read_file, refuse_if};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::wordlevel::{WordLevel, WordLevelTrainer};
use tokenizers::normalizers::utils::Lowercase;
use tokenizers::pre_tokenizers::whitespace::Whitespace;
use tokenizers::{AddedToken, PaddingParams, PostProcessor, Tokenizer as Inner, TruncationDirection};

/// What fills a row up, token 0 of a vocabulary of words.
const PADDING: &str = "[PAD]";
/// What stands for a word that is not in the vocabulary.
const UNKNOWN: &str = "[UNK]";
/// A vocabulary above this is a mistake in its file; a table of it would fill the memory.
const MOST: usize = 1 << 24;

/// Turns text into tokens: a `tokenizer.json` as the library `tokenizers` writes it, or the words of captions.
pub struct Tokenizer {
    inner: Inner,
    padding: u32,
    vocabulary: usize,
}

/// Texts as rows of tokens, all of one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRows {
    /// `[texts, length]`; a shorter text is padded at its end.
    pub ids: Vec<u32>,
    /// Tokens of each text, padding not counted.
    pub lengths: Vec<usize>,
    /// Of every row.
    pub length: usize,
}

impl TokenRows {
    /// The rows of some texts.
    pub fn rows(&self, texts: std::ops::Range<usize>) -> Self {
        let ids = self.ids[texts.start * self.length..texts.end * self.length].to_vec();
        Self { ids, lengths: self.lengths[texts].to_vec(), length: self.length }
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Names the file if it is not there or not a tokenizer, or if its numbers of tokens cannot be.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read_file(path, budget().bytes)?;
        let wrong = |e: &dyn std::fmt::Display| {
            let why = e.to_string();
            Error::new(format!("{}: not a tokenizer.json ({})", path.display(), why.lines().next().unwrap_or_default()))
        };
        // The library panics at some places of a file that is no JSON, and where a template does not fit.
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
        check_templates(&json["post_processor"]).map_err(|e| wrong(&e))?;
        let mut inner = Inner::from_bytes(bytes).map_err(|e| wrong(&e))?;
        let known = ["[PAD]", "<pad>", "<|endoftext|>"].iter().find_map(|token| inner.token_to_id(token));
        let padding = inner.get_padding().map(|p| p.pad_id).or(known).unwrap_or(0);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::new(format!("{}: {e}", path.display())))?;
        let read = Self::new(inner, padding);
        let (place, vocabulary) = (path.display(), read.vocabulary);
        refuse_if!(
            vocabulary > MOST,
            "{place}: its vocabulary has a token {}; all must be below {MOST}",
            vocabulary - 1
        );
        refuse_if!(
            padding as usize >= vocabulary,
            "{place}: its padding is token {padding}, and its vocabulary ends at {}; add the token or change pad_id",
            vocabulary - 1
        );
        Ok(read)
    }

    /// The words and signs of captions in lower case, the most frequent first and at most `most` tokens with the two that
    /// stand for padding and for unknown words; 0 takes all.
    ///
    /// # Errors
    /// If `most` leaves no word.
    pub fn of_words(captions: &[String], most: usize) -> Result<Self> {
        if (1..3).contains(&most) {
            return Err(Error::usage(format!(
                "data.vocabulary = {most} leaves no word; give at least 3, or 0 for all"
            )));
        }
        let fail = |e: tokenizers::Error| Error::new(format!("making a vocabulary of captions: {e}"));
        let model = WordLevel::builder().unk_token(UNKNOWN.into()).build().map_err(fail)?;
        let mut inner = Inner::new(model);
        inner.with_normalizer(Some(Lowercase)).map_err(fail)?;
        inner.with_pre_tokenizer(Some(Whitespace));
        let trainer = WordLevelTrainer::builder()
            .vocab_size(if most == 0 { usize::MAX } else { most })
            .show_progress(false)
            .special_tokens([PADDING, UNKNOWN].map(|token| AddedToken::from(token, true)).to_vec())
            .build()
            .map_err(|e| Error::new(format!("making a vocabulary of captions: {e}")))?;
        inner.train(&mut TrainerWrapper::from(trainer), captions.iter().map(String::as_str)).map_err(fail)?;
        Ok(Self::new(inner, 0))
    }

    fn new(inner: Inner, padding: u32) -> Self {
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        Self { inner, padding, vocabulary: largest as usize + 1 }
    }

    /// As a `tokenizer.json`, which also says what the padding is.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        let mut inner = self.inner.clone();
        inner.with_padding(Some(PaddingParams { pad_id: self.padding, ..PaddingParams::default() }));
        inner.to_string(true).map_err(|e| Error::new(format!("writing a tokenizer: {e}")))
    }

    /// How many tokens there are: all are below this.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// If the text has none that the tokenizer knows, and it has none for the unknown; if the tokenizer's post-processor
    /// adds one that is not in its vocabulary.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.cut(text, usize::MAX)
    }

    /// The tokens of a text of which so many may be the text's own. The special ones around them stay, as by the
    /// tokenizer's own truncation, whose length would have to be set before the tokenizer is shared.
    fn cut(&self, text: &str, own: usize) -> Result<Vec<u32>> {
        let fail = |e: tokenizers::Error| Error::new(format!("tokens of `{text}`: {e}"));
        let mut encoding = self.inner.encode(text, false).map_err(fail)?;
        encoding.truncate(own, 0, TruncationDirection::Right);
        encoding.take_overflowing();
        let encoding = self.inner.post_process(encoding, None, true).map_err(fail)?;
        if let Some(id) = encoding.get_ids().iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(Error::usage(format!(
                "tokens of `{text}`: the tokenizer's post-processor adds token {id}, and its vocabulary ends at {}; add \
                 the token to the tokenizer.json",
                self.vocabulary - 1
            )));
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// The parts of a text that are not in the vocabulary, in their order.
    pub fn unknown<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let stands_for = [UNKNOWN, "<unk>"].iter().find_map(|token| self.inner.token_to_id(token));
        let Ok(encoding) = self.inner.encode(text, false) else { return Vec::new() };
        let parts = encoding.get_ids().iter().zip(encoding.get_offsets());
        let unknown = parts.filter(|(id, _)| Some(**id) == stands_for);
        unknown.filter_map(|(_, (start, end))| text.get(*start..*end)).collect()
    }

    /// Texts as rows of `length` tokens; what is longer is cut, but for the special tokens around it.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`], and if the special tokens alone are more than `length`.
    pub fn rows<'a>(&self, texts: impl IntoIterator<Item = &'a str>, length: usize) -> Result<TokenRows> {
        let mut rows = TokenRows { length, ..TokenRows::default() };
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        for text in texts {
            let mut tokens = self.cut(text, length.saturating_sub(special))?;
            refuse_if!(
                tokens.len() > length,
                "data.caption_length = {length} has no room for the tokenizer's {special} special tokens of a caption; \
                 give at least {}",
                special + 1
            );
            rows.lengths.push(tokens.len());
            tokens.resize(length, self.padding);
            rows.ids.extend(tokens);
        }
        Ok(rows)
    }
}

/// Whether what is put around a text is there: a template names special tokens, and of two texts the first alone.
fn check_templates(processor: &serde_json::Value) -> Result<()> {
    for piece in processor["single"].as_array().into_iter().flatten() {
        let (token, text) = (&piece["SpecialToken"]["id"], &piece["Sequence"]["id"]);
        let known = token.as_str().is_none_or(|token| !processor["special_tokens"][token].is_null());
        if !known || text == "B" {
            return Err(Error::new(format!("its template has {piece} where there is none")));
        }
    }
    processor["processors"].as_array().into_iter().flatten().try_for_each(check_templates)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn captions() -> Vec<String> {
        ["A red bird.", "A bird on a red roof", "a blue bird"].map(String::from).to_vec()
    }

    #[test]
    fn words_come_in_the_order_of_their_counts() {
        let words = Tokenizer::of_words(&captions(), 0).unwrap();
        // a 4, bird 3, red 2, then once each: . blue on roof
        assert_eq!(words.vocabulary(), 9);
        assert_eq!(words.tokens("A red, blue BIRD").unwrap(), [2, 4, 1, 6, 3]);
        assert_eq!(words.unknown("a Green, red bird!"), ["Green", ",", "!"]);
        let rows = words.rows(["a bird", "on a red roof"], 3).unwrap();
        assert_eq!((rows.ids.as_slice(), rows.lengths.as_slice()), (&[2, 3, 0, 7, 2, 4][..], &[2, 3][..]));
        assert_eq!(rows.rows(1..2).ids, [7, 2, 4]);
        let few = Tokenizer::of_words(&captions(), 4).unwrap();
        assert_eq!((few.vocabulary(), few.tokens("a red bird").unwrap()), (4, vec![2, 1, 3]));
        assert!(Tokenizer::of_words(&captions(), 2).err().unwrap().is_usage());
    }

    #[test]
    fn a_tokenizer_is_the_same_after_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let words = Tokenizer::of_words(&captions(), 0).unwrap();
        std::fs::write(&path, words.to_json().unwrap()).unwrap();
        let read = Tokenizer::open(&path).unwrap();
        let text = "A red bird on the ROOF.";
        assert_eq!((read.tokens(text).unwrap(), read.vocabulary()), (words.tokens(text).unwrap(), words.vocabulary()));
        assert_eq!(read.to_json().unwrap(), words.to_json().unwrap());
        assert_eq!(read.rows(["roof"], 2).unwrap(), words.rows(["roof"], 2).unwrap());
        let other = Tokenizer::new(words.inner.clone(), 3);
        std::fs::write(&path, other.to_json().unwrap()).unwrap();
        assert_eq!(Tokenizer::open(&path).unwrap().padding, 3, "a run's file keeps the padding");
        std::fs::write(&path, "{}").unwrap();
        let error = Tokenizer::open(&path).err().unwrap().to_string();
        assert!(error.contains("tokenizer.json: not a tokenizer.json") && error.lines().count() == 1, "{error}");
        let broken = words.to_json().unwrap().replace("\"decoder\": null", "\"decoder\": oull");
        assert!(broken.contains("oull"));
        std::fs::write(&path, broken).unwrap();
        assert!(Tokenizer::open(&path).err().unwrap().to_string().contains("not a tokenizer.json"));
    }

    #[test]
    fn a_template_without_its_tokens_is_refused() {
        let words = Tokenizer::of_words(&captions(), 0).unwrap().to_json().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let template = |piece: serde_json::Value| serde_json::json!({ "type": "TemplateProcessing", "single": [piece], "pair": [], "special_tokens": {} });
        let token = template(serde_json::json!({ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }));
        let second = template(serde_json::json!({ "Sequence": { "id": "B", "type_id": 0 } }));
        let inside = serde_json::json!({ "type": "Sequence", "processors": [token.clone()] });
        for processor in [token, second, inside] {
            let mut json: serde_json::Value = serde_json::from_str(&words).unwrap();
            json["post_processor"] = processor;
            std::fs::write(&path, json.to_string()).unwrap();
            let error = Tokenizer::open(&path).err().unwrap().to_string();
            assert!(error.contains("not a tokenizer.json"), "{error}");
        }
    }

    /// The words of the captions with BERT's two special tokens, `[SEP]` of this number, and with a padding.
    fn bert(sep: u32, pad: u32) -> Result<Tokenizer> {
        let words = Tokenizer::of_words(&captions(), 0).unwrap().to_json().unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&words).unwrap();
        let special = |id: &str, number: u32| serde_json::json!({"id": id, "ids": [number], "tokens": [id]});
        let piece = |id: &str| serde_json::json!({"SpecialToken": {"id": id, "type_id": 0}});
        let text = |id: &str| serde_json::json!({"Sequence": {"id": id, "type_id": 0}});
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [piece("[CLS]"), text("A"), piece("[SEP]")],
            "pair": [text("A"), text("B")],
            "special_tokens": {"[CLS]": special("[CLS]", 7), "[SEP]": special("[SEP]", sep)},
        });
        json["padding"] = serde_json::json!({
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": pad, "pad_type_id": 0, "pad_token": "[PAD]",
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        Tokenizer::open(&path)
    }

    #[test]
    fn tokens_that_are_not_in_the_vocabulary_are_refused() {
        let error = |result: Result<Vec<u32>>| result.err().unwrap();
        let unknown = error(bert(99999, 0).unwrap().tokens("a bird"));
        assert!(unknown.is_usage() && unknown.to_string().contains("`a bird`"), "{unknown}");
        assert!(unknown.to_string().contains("adds token 99999, and its vocabulary ends at 8"), "{unknown}");
        assert!(bert(9, 0).unwrap().rows(["a bird"], 4).is_err());
        let padding = bert(8, 9).err().unwrap();
        assert!(padding.is_usage() && padding.to_string().contains("its padding is token 9"), "{padding}");
        let words = Tokenizer::of_words(&captions(), 0).unwrap().to_json().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_str(&words).unwrap();
        json["model"]["vocab"]["roof"] = 4_000_000_000_u32.into();
        std::fs::write(&path, json.to_string()).unwrap();
        let large = Tokenizer::open(&path).err().unwrap();
        assert!(large.is_usage() && large.to_string().contains("token 4000000000"), "{large}");
    }

    #[test]
    fn special_tokens_stay_where_a_caption_is_cut() {
        let bert = bert(8, 0).unwrap();
        assert_eq!(bert.tokens("a red bird").unwrap(), [7, 2, 4, 3, 8]);
        let rows = bert.rows(["a red bird", "a", ""], 4).unwrap();
        assert_eq!(rows.ids, [7, 2, 4, 8, 7, 2, 8, 0, 7, 8, 0, 0]);
        assert_eq!(rows.lengths, [4, 3, 2]);
        assert_eq!(bert.rows(["a red bird"], 2).unwrap().ids, [7, 8]);
        let error = bert.rows(["a red bird"], 1).err().unwrap();
        assert!(error.is_usage() && error.to_string().contains("2 special tokens"), "{error}");
    }
}
