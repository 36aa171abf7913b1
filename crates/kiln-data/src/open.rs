//! Opens a data set by name, folder or zip.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_core::{Context, Error, Result};

use crate::cache::cache_dir;
use crate::catalogue::{Listed, PHOTO_PACKAGES, Reader, unknown};
use crate::drawings::Drawings;
use crate::dsprites::Dsprites;
use crate::icons::{IconFile, IconSet};
use crate::joined::Joined;
use crate::layout::{extension, is_picture};
use crate::listing::FileSet;
use crate::litter::is_unread_picture;
use crate::mnistm::Blended;
use crate::packages::{self, Files};
use crate::rings::Rings;
use crate::shapes3d::Shapes3d;
use crate::silhouettes::Silhouettes;
use crate::specs::{join_specs, split_specs};
use crate::streets::Streets;
use crate::trained;
use crate::views;
use crate::{DataSet, PictureRule, Split, array, digits, idx, starter};

/// What stands before the names of several sets that are opened as one, `joined:A+B`.
const JOINED: &str = "joined:";

/// Whether a word is the name of a data set, not a path.
pub fn is_named(spec: &str) -> bool {
    Listed::find(spec).is_some()
}

/// A set before the split: icon sets opened together are first restricted to their common names.
enum Found {
    Icons(IconFile),
    Set(Arc<dyn DataSet>),
}

/// Opens NAME (see [`crate::catalogue`]), FOLDER, ZIP or a single picture; any of these behind a view of it, such as `left:` or `inverted:`.
///
/// The rule is needed here only by icons and solid models, which are rendered at its size on its background. A
/// folder whose name is also that of a data set is reached as `./NAME`. Errors: an unknown name, a set
/// that is not on this machine yet, a folder without pictures, a split without pictures, or files
/// that are not what they should be.
pub fn open(spec: &str, split: Split, rule: &PictureRule) -> Result<Arc<dyn DataSet>> {
    // A comma of its name may be marked as such, but several sets are not one.
    let specs = split_specs(spec);
    let spec = if specs.len() == 1 { &specs[0] } else { spec };
    let mut sets = open_all_specs(&[spec], split, rule)?;
    sets.pop().ok_or_else(|| Error::usage("no data set named"))
}

/// What a person should know of sets that were opened by these `specs`: what was left out of each, and which folder was not
/// taken since a named set has its name.
pub fn notes(specs: &str, sets: &[Arc<dyn DataSet>]) -> Vec<String> {
    let shadowed = |spec: &String| is_named(spec) && Path::new(spec).exists();
    let named = split_specs(specs)
        .into_iter()
        .filter(shadowed)
        .map(|spec| format!("{spec}: the named set of `kiln data list`; the folder of this name here is ./{spec}"));
    let of = |set: &Arc<dyn DataSet>| set.notes().into_iter().map(|note| format!("{}: {note}", set.name())).collect();
    named.chain(sets.iter().flat_map(|set| -> Vec<String> { of(set) })).collect()
}

/// Opens several sets for a multi-domain system: `A,B` is split at commas (see [`split_specs`]).
///
/// Icon sets opened together are restricted to the names all of them have, in the same order, so that
/// index i of each is the known pair.
pub fn open_all(specs: &str, split: Split, rule: &PictureRule) -> Result<Vec<Arc<dyn DataSet>>> {
    let specs = split_specs(specs);
    open_all_specs(&specs.iter().map(String::as_str).collect::<Vec<_>>(), split, rule)
}

/// The sets of `A,B` with whole paths in place of relative ones, so that they are found from any folder.
pub fn absolute(specs: &str) -> Result<String> {
    let whole = |spec: &str| {
        if let Some(names) = spec.strip_prefix(JOINED).filter(|_| !Path::new(spec).exists()) {
            let names = names.split('+').map(absolute).collect::<Result<Vec<_>>>()?;
            return Ok(format!("{JOINED}{}", names.join("+")));
        }
        let (view, path) = behind_views(spec);
        match is_named(path) || !Path::new(path).exists() {
            true => Ok(spec.to_string()),
            false => std::path::absolute(path).map(|path| format!("{view}{}", path.display())).context(|| path),
        }
    };
    let specs: Vec<String> = split_specs(specs).iter().map(|spec| whole(spec)).collect::<Result<_>>()?;
    // A path that is written as it stands needs no mark at its commas.
    Ok(join_specs(&specs))
}

/// The inverse of [`absolute`]: paths below the present folder as a person there would write them.
pub fn relative(specs: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let short = |spec: String| {
        let (view, whole) = behind_views(&spec);
        match Path::new(whole).strip_prefix(&here) {
            Ok(path) if path.as_os_str().is_empty() => format!("{view}."),
            Ok(path) if path.to_str().is_some_and(is_named) => format!("{view}./{}", path.display()),
            Ok(path) if here.parent().is_some() => format!("{view}{}", path.display()),
            _ => spec,
        }
    };
    join_specs(&split_specs(specs).into_iter().map(short).collect::<Vec<_>>())
}

/// The views by which a set is named, and what stands behind them.
fn behind_views(spec: &str) -> (&str, &str) {
    let mut rest = spec;
    while let Some((_, behind)) = views::view_of(rest).filter(|_| !Path::new(rest).exists()) {
        rest = behind;
    }
    spec.split_at(spec.len() - rest.len())
}

fn open_all_specs(specs: &[&str], split: Split, rule: &PictureRule) -> Result<Vec<Arc<dyn DataSet>>> {
    rule.check()?;
    let found: Vec<Found> = specs.iter().map(|s| find(s, split, rule)).collect::<Result<_>>()?;
    let names = found.iter().filter_map(|f| match f {
        Found::Icons(file) => Some(file.names()),
        Found::Set(_) => None,
    });
    let shared: BTreeSet<String> = names.reduce(|a, b| &a & &b).unwrap_or_default();
    let finish = |(found, spec): (Found, &&str)| match found {
        Found::Set(set) => set,
        Found::Icons(file) => Arc::new(IconSet::new(spec, file, shared.clone(), split, rule)),
    };
    Ok(found.into_iter().zip(specs).map(finish).collect())
}

fn find(spec: &str, split: Split, rule: &PictureRule) -> Result<Found> {
    if spec.is_empty() {
        return Err(Error::usage(
            "no data set is named; name one by --data or --against, or as data.set in the run's recipe.toml",
        ));
    }
    if let Some(listed) = Listed::find(spec) {
        return find_listed(listed, split, rule);
    }
    if trained::Listed::find(spec).is_some() {
        return Err(Error::usage(format!(
            "{spec} is a trained network, not a data set; `kiln data list` shows the sets"
        )));
    }
    let path = Path::new(spec);
    if let Some(view) = views::view_of(spec).filter(|_| !path.exists()) {
        return Ok(Found::Set(views::open(spec, view, split, rule)?));
    }
    if let Some(names) = spec.strip_prefix(JOINED).filter(|_| !path.exists()) {
        let sets = names.split('+').map(|name| open(name, split, rule)).collect::<Result<Vec<_>>>()?;
        return Ok(Found::Set(Joined::of_sets(spec, sets)));
    }
    let set: Arc<dyn DataSet> = if path.is_dir() && idx::is_idx(path) {
        idx_parts(path, split, |part| Ok(Arc::new(idx::open(spec, path, part, None)?)))?
    } else if path.is_dir() {
        Arc::new(FileSet::folder(spec, path, split)?)
    } else if path.is_file() {
        match extension(spec).as_str() {
            _ if is_picture(spec) => {
                let file = (spec.to_string(), spec.to_string());
                Arc::new(FileSet::files(spec, Path::new(""), vec![file], split)?)
            }
            "npy" => array::open_npy(spec, path, split)?,
            "npz" => array::open_npz(spec, path, split)?,
            ending if is_unread_picture(ending) => {
                return Err(Error::new(format!(
                    "{spec}: pictures of this kind are not read; convert it to PNG or JPEG"
                )));
            }
            _ => Arc::new(FileSet::archive(spec, path, split)?),
        }
    } else if path.exists() {
        return Err(Error::new(format!("{spec}: not a regular file (a device, a pipe or a socket)")));
    } else {
        return Err(unknown(spec));
    };
    Ok(Found::Set(set))
}

fn find_listed(listed: &Listed, split: Split, rule: &PictureRule) -> Result<Found> {
    let name = listed.name;
    let folders = listed.folders().map_err(|e| match Path::new(name).exists() {
        true => Error::new(format!("{e}; the folder of this name here is ./{name}")),
        false => e,
    })?;
    // Only sets that ship with the program have no package, and they do not look here.
    let folder = folders.first().map_or(Path::new(""), PathBuf::as_path);
    let set: Arc<dyn DataSet> = match listed.reader {
        Reader::Starter => Arc::new(starter::pictures(split)?),
        Reader::StarterIcons(set) => return Ok(Found::Icons(starter::icons(set)?)),
        Reader::Icons => return Ok(Found::Icons(IconFile::of_iconify(folder)?)),
        Reader::Objects => return Ok(Found::Icons(IconFile::of_iconify(folder)?.with_groups(folder)?)),
        Reader::OpenMoji(edition) => return Ok(Found::Icons(IconFile::of_openmoji(folder, edition)?)),
        Reader::Mnist => idx_parts(folder, split, |part| Ok(Arc::new(idx::open(name, folder, part, None)?)))?,
        Reader::Fashion => fashion(name, folder, split)?,
        Reader::StarterSilhouettes => Arc::new(Silhouettes::of(name, Arc::new(starter::pictures(split)?))),
        Reader::FashionSilhouettes => Arc::new(Silhouettes::of(name, fashion(name, folder, split)?)),
        Reader::Streets(view) => Arc::new(Streets::new(name, view, split, rule)),
        Reader::Digits8 => Arc::new(digits::table(name, &folder.join("data/digits.csv.gz"), 8, 16)?.split(split)),
        Reader::Digits20 => Arc::new(digits::sheet(name, &folder.join("data/digits.png"), 20)?.split(split)),
        Reader::Faces | Reader::Stamps => Arc::new(FileSet::folder(name, folder, split)?),
        Reader::Clipart => Arc::new(Drawings::open(name, folder, split, rule)?),
        Reader::Photos => Arc::new(photos(name, split)?),
        Reader::Dsprites => Arc::new(Dsprites::new(name, split)),
        Reader::Rings => Arc::new(Rings::new(name, split)),
        Reader::Shapes3d(filter) => Arc::new(shapes(name, folder, filter, split, rule)?),
        Reader::Mnistm => idx_parts(folder, split, |part| {
            let digits = Arc::new(idx::open(name, folder, part, None)?);
            Ok(Arc::new(Blended::new(name, digits, &photos("photos", part)?, part)?))
        })?,
    };
    Ok(Found::Set(set))
}

/// One part of a set in IDX files, or both on end; `open` opens one.
fn idx_parts(
    folder: &Path,
    split: Split,
    open: impl Fn(Split) -> Result<Arc<dyn DataSet>>,
) -> Result<Arc<dyn DataSet>> {
    match split {
        Split::All => Joined::of(idx::parts(folder, split).into_iter().map(open).collect::<Result<_>>()?),
        part => open(part),
    }
}

/// Fashion-MNIST.
fn fashion(name: &str, folder: &Path, split: Split) -> Result<Arc<dyn DataSet>> {
    idx_parts(folder, split, |part| Ok(Arc::new(idx::open(name, folder, part, Some(&starter::FASHION))?)))
}

/// The solid models of their package, drawn.
fn shapes(name: &str, folder: &Path, filter: &str, split: Split, rule: &PictureRule) -> Result<Shapes3d> {
    let archives: Vec<PathBuf> = match packages::FURNITURE.files {
        Files::List(list) => list.iter().map(|file| folder.join(file)).collect(),
        Files::Like(_) => Vec::new(),
    };
    let archives: Vec<&Path> = archives.iter().map(PathBuf::as_path).collect();
    Shapes3d::open(name, &archives, filter, split, rule)
}

/// The photographs of all their packages.
fn photos(name: &str, split: Split) -> Result<FileSet> {
    let mut files = Vec::new();
    for package in PHOTO_PACKAGES {
        if let Files::List(list) = package.files {
            let pictures = list.iter().filter(|f| is_picture(f) && **f != "data/digits.png");
            files.extend(pictures.map(|f| (format!("{}/{f}", package.folder()), f.to_string())));
        }
    }
    FileSet::files(name, &cache_dir()?.join("data"), files, split)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_whole_and_short_again() {
        for (given, shown) in [("src", "src"), ("./src", "src"), ("src,starter", "src,starter"), (".", "."), ("/", "/")]
        {
            let whole = absolute(given).unwrap();
            assert!(split_specs(&whole).iter().all(|spec| is_named(spec) || Path::new(spec).is_absolute()), "{whole}");
            assert_eq!(relative(&whole), shown);
        }
        assert_eq!(absolute("nowhere").unwrap(), "nowhere");
    }
}
