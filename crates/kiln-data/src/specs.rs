//! Lists of data sets in one line: `A,B`.

use std::path::Path;

/// The sets that a list names, separated by commas. A comma that belongs to a name is written `\\,`; what is the path of a
/// file or folder as it stands, commas and all, needs no such sign.
pub fn split_specs(list: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut rest = list.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.peek() == Some(&',') => {
                pieces.iter_mut().last().into_iter().for_each(|p| p.extend(rest.next()))
            }
            ',' => pieces.push(String::new()),
            c => pieces.iter_mut().last().into_iter().for_each(|p| p.push(c)),
        }
    }
    let mut specs = Vec::new();
    let mut left = pieces.as_slice();
    while !left.is_empty() {
        // The longest that exists.
        let there = |n: &usize| *n == 1 || Path::new(left[..*n].join(",").trim()).exists();
        let n = (1..=left.len()).rev().find(there).unwrap_or(1);
        specs.push(left[..n].join(",").trim().to_string());
        left = &left[n..];
    }
    specs
}

/// The list of some sets, such that [`split_specs`] gives them again.
pub fn join_specs<S: AsRef<str>>(specs: &[S]) -> String {
    specs.iter().map(|spec| spec.as_ref().replace(',', "\\,")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_or_belong_to_a_name() {
        assert_eq!(split_specs("a, b"), ["a", "b"]);
        assert_eq!(split_specs("a\\,b,c"), ["a,b", "c"]);
        assert_eq!(split_specs(""), [""]);
        let list = ["x,y", "z", "ü,"];
        assert_eq!(split_specs(&join_specs(&list)), list);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(path("a,b")).unwrap();
        std::fs::create_dir(path("c")).unwrap();
        assert_eq!(split_specs(&path("a,b")), [path("a,b")]);
        assert_eq!(split_specs(&format!("{},{}", path("a,b"), path("c"))), [path("a,b"), path("c")]);
        assert_eq!(split_specs(&format!("{},{}", path("c"), path("a,b"))), [path("c"), path("a,b")]);
    }
}
