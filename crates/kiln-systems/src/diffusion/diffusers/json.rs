//! Reading the fields of diffusers' JSON files, each once and each by name: what is left over at the
//! end is unknown, and refused.

use std::path::Path;

use kiln_core::{Context, Error, Result, budget, read_text};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The fields of one file that nobody has asked for yet.
pub struct Fields {
    place: String,
    left: Map<String, Value>,
}

impl Fields {
    /// Reads a file that holds one object.
    ///
    /// # Errors
    /// If it cannot be read or holds something else.
    pub fn open(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let text = read_text(path, budget().bytes)?;
        match serde_json::from_str(&without_infinities(&text)).context(|| &place)? {
            Value::Object(left) => Ok(Self { place, left }),
            _ => Err(Error::new(format!("{place}: expected an object of settings"))),
        }
    }

    /// The file.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Refuses a field whose value Kiln cannot honour.
    pub fn refuse(&self, name: &str, value: &impl Serialize, supported: &str) -> Error {
        let value = serde_json::to_string(value).unwrap_or_default();
        Error::new(format!("{}: `{name}` = {value} is not supported; {supported}", self.place))
    }

    /// Whether a field is there, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// A field, `None` if it is not there or null.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|v| !v.is_null())
    }

    /// A field that may be null; `expected` says in words what else.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match serde_json::from_value(value.clone()) {
            Ok(read) => Ok(Some(read)),
            Err(_) => Err(self.refuse(name, &value, &format!("expected {expected}"))),
        }
    }

    /// A field with diffusers' default.
    ///
    /// # Errors
    /// If it is null or something else.
    pub fn or<T: DeserializeOwned>(&mut self, name: &str, default: T, expected: &str) -> Result<T> {
        if self.left.get(name).is_some_and(Value::is_null) {
            return Err(self.refuse(name, &Value::Null, &format!("expected {expected}")));
        }
        Ok(self.optional(name, expected)?.unwrap_or(default))
    }

    /// A field with one value for all of `levels`, or a list of one for each.
    ///
    /// # Errors
    /// If it is neither.
    pub fn each<T: DeserializeOwned + Clone>(
        &mut self,
        name: &str,
        levels: usize,
        default: T,
        expected: &str,
    ) -> Result<Vec<T>> {
        let Some(value) = self.value(name) else { return Ok(vec![default; levels]) };
        if let Ok(one) = serde_json::from_value::<T>(value.clone()) {
            return Ok(vec![one; levels]);
        }
        match serde_json::from_value::<Vec<T>>(value.clone()) {
            Ok(list) if list.len() == levels => Ok(list),
            _ => Err(self.refuse(name, &value, &format!("expected {expected}, or a list of one for each of {levels}"))),
        }
    }

    /// Fields that Kiln has only at one of these values each; null and absence are such a value.
    ///
    /// # Errors
    /// Names the field with another value.
    pub fn only(&mut self, allowed: &[(&str, &[Value])]) -> Result<()> {
        for (name, values) in allowed {
            match self.value(name) {
                Some(value) if !values.contains(&value) => {
                    let list: Vec<String> = values.iter().map(Value::to_string).chain(["null".into()]).collect();
                    return Err(self.refuse(name, &value, &format!("supported: {}", list.join(", "))));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Fields that say nothing about the model.
    pub fn ignore(&mut self, names: &[&str]) {
        self.left.retain(|name, _| !name.starts_with('_') && !names.contains(&name.as_str()));
    }

    /// What is left over, by name.
    pub fn rest(mut self) -> Map<String, Value> {
        self.ignore(&[]);
        self.left
    }

    /// Refuses what is left over; a field without a value says nothing.
    ///
    /// # Errors
    /// Names the first unknown field.
    pub fn finish(mut self) -> Result<()> {
        self.ignore(&[]);
        match self.left.iter().find(|(_, v)| !v.is_null()) {
            Some((name, value)) => Err(Error::new(format!(
                "{}: unknown field `{name}` = {value}; is the file of a newer diffusers, or of another class?",
                self.place
            ))),
            None => Ok(()),
        }
    }
}

/// Python writes numbers that are not finite as JSON does not know them; here they are null.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Strings lie between every other quotation mark that no backslash stands before.
    let (mut quoted, mut from) = (false, 0);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            _ if !quoted => {
                let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|w| bytes[at..].starts_with(w.as_bytes()));
                if let Some(word) = word {
                    out += &text[from..at];
                    out += "null";
                    at += word.len();
                    from = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    out + &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_null_outside_strings() {
        let text = r#"{"a": -Infinity, "NaN \" Infinity": [NaN, 1], "ü": Infinity}"#;
        assert_eq!(without_infinities(text), r#"{"a": null, "NaN \" Infinity": [null, 1], "ü": null}"#);
    }
}
