//! Renders the 3-D models of Sweet Home 3D to images with known factors.
//!
//! 820 pieces of furniture, lamps, plants, people and vehicles, each an OBJ file with a category (the label) and a name (the
//! caption). Each is drawn on the picture rule's background in every combination of three angles:
//!
//! | factor | values |
//! |---|---|
//! | model | the models of the split: no image of a test model is in the training part |
//! | azimuth | 19, from −90° to 90° around the front |
//! | elevation | 7, from 0° to 60° |
//! | light | 9, from −80° to 80° around the camera's heading, 30° above the horizon |
//!
//! The middle of a model's box lies in the middle of the picture, and its farthest corner is as far from it as any other's.
//! Surfaces have the material's diffuse colour, or the mean of the picture that it is covered with; more than half
//! transparent ones are left out. A model is read when its first picture is asked for, and kept.

use std::collections::BTreeMap;
use std::f32::consts::PI;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use kiln_core::{Context, Error, Result, budget, open_file, read_within};
use zip::ZipArchive;

use crate::mesh::Mesh;
use crate::render::{View, render};
use crate::set::{factor_kinds, fingerprint, joined, parted};
use crate::{DataKind, DataSet, Factor, Picture, PictureRule, PictureSize, Sample, Split};

/// The catalogue in each archive.
const CATALOGUE: &str = "PluginFurnitureCatalog.properties";

/// Default side in pixels.
const SIDE: usize = 64;

/// The models, read from their archives when they are needed.
pub(crate) struct Shapes3d {
    name: String,
    archives: Vec<Archive>,
    models: Vec<Model>,
    classes: Vec<String>,
    factors: Vec<Factor>,
    counts: [usize; 4],
    /// Height and width.
    size: [usize; 2],
    background: [u8; 3],
}

/// A zip of models.
struct Archive {
    place: String,
    zip: Mutex<ZipArchive<File>>,
}

/// One model of a catalogue.
struct Model {
    archive: usize,
    /// The OBJ file's path in the archive.
    path: String,
    title: String,
    category: String,
    /// Turns the file's coordinates upright, a row after another.
    rotation: Option<[f32; 9]>,
    solid: OnceLock<Solid>,
}

/// What is drawn.
struct Solid {
    mesh: Mesh,
    /// The colour of each run of triangles in [`Mesh::materials`].
    colours: Vec<[f32; 3]>,
}

impl Shapes3d {
    /// The models of `archives` whose title has `filter` in it, in any case.
    pub(crate) fn open(name: &str, archives: &[&Path], filter: &str, split: Split, rule: &PictureRule) -> Result<Self> {
        let archives = archives.iter().map(|path| Archive::open(path)).collect::<Result<Vec<_>>>()?;
        let mut models = Vec::new();
        for (number, archive) in archives.iter().enumerate() {
            // Property files are Latin-1.
            let text: String = archive.read(CATALOGUE)?.into_iter().map(char::from).collect();
            models.extend(catalogue(&text, number, &format!("{}/{CATALOGUE}", archive.place))?);
        }
        let mut classes: Vec<String> = models.iter().map(|m: &Model| m.category.clone()).collect();
        classes.sort();
        classes.dedup();
        models.retain(|m| m.title.to_lowercase().contains(filter));
        let models = split.keep(models, |m| m.path.clone());
        if models.is_empty() {
            return Err(Error::new(format!("{name}: no models for the {split} split")));
        }
        let degrees = |d: f32| d * PI / 180.0;
        let factors = vec![
            Factor::named("model", models.len()),
            Factor::even("azimuth", 19, degrees(-90.0), degrees(90.0)),
            Factor::even("elevation", 7, 0.0, degrees(60.0)),
            Factor::even("light", 9, degrees(-80.0), degrees(80.0)),
        ];
        let counts = [0, 1, 2, 3].map(|i| factors[i as usize].values.len());
        let size = rule.size.or([SIDE; 2]);
        Ok(Self { name: name.into(), archives, models, classes, factors, counts, size, background: rule.background })
    }

    /// The model, read if it has not been.
    fn solid<'a>(&self, model: &'a Model) -> Result<&'a Solid> {
        if let Some(solid) = model.solid.get() {
            return Ok(solid);
        }
        let solid = self.archives[model.archive].solid(model)?;
        Ok(model.solid.get_or_init(|| solid))
    }
}

/// The models that a catalogue lists as `key#number=value`.
fn catalogue(text: &str, archive: usize, place: &str) -> Result<Vec<Model>> {
    let mut entries: BTreeMap<usize, BTreeMap<&str, &str>> = BTreeMap::new();
    for line in text.lines() {
        if let Some((key, value)) = line.split_once('=')
            && let Some((key, number)) = key.split_once('#')
            && let Ok(number) = number.parse()
        {
            entries.entry(number).or_default().insert(key, value.trim());
        }
    }
    let model = |(number, entry): (usize, BTreeMap<&str, &str>)| {
        let need = |key: &str| entry.get(key).ok_or_else(|| Error::new(format!("{place}: no {key} of model {number}")));
        let rotation = match entry.get("modelRotation") {
            None => None,
            Some(text) => {
                let numbers: Option<Vec<f32>> = text.split_whitespace().map(|w| w.parse().ok()).collect();
                let nine = numbers.and_then(|n| <[f32; 9]>::try_from(n).ok());
                let wrong = || Error::new(format!("{place}: modelRotation of model {number} is not 9 numbers"));
                Some(nine.ok_or_else(wrong)?)
            }
        };
        Ok(Model {
            archive,
            path: need("model")?.trim_start_matches('/').into(),
            title: (*need("name")?).into(),
            category: (*need("category")?).into(),
            rotation,
            solid: OnceLock::new(),
        })
    };
    entries.into_iter().map(model).collect()
}

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let place = || format!("{}: not a readable zip", path.display());
        let zip = Mutex::new(ZipArchive::new(open_file(path)?.0).context(place)?);
        Ok(Self { place: path.display().to_string(), zip })
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let place = || format!("reading {}/{path}", self.place);
        // Nothing that holds the lock can leave the archive in a bad state.
        let mut zip = self.zip.lock().unwrap_or_else(|e| e.into_inner());
        let entry = zip.by_name(path).context(place)?;
        read_within(entry, 0, budget().bytes, &format!("{}/{path}", self.place))
    }

    fn text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path)?).into_owned())
    }

    /// A model with z up and its front towards −y, in the unit ball.
    fn solid(&self, model: &Model) -> Result<Solid> {
        let place = |path: &str| format!("{}/{path}", self.place);
        let beside = |file: &str| match model.path.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{file}"),
            None => file.into(),
        };
        // One model names a file of materials that was left out.
        let library = |file: &str| Some((place(&beside(file)), self.text(&beside(file)).ok()?));
        let mut mesh = Mesh::parse(&self.text(&model.path)?, &place(&model.path), library)?;
        mesh.without(|material| material.opacity < 0.5);
        if let Some(r) = model.rotation {
            mesh.map(|p| [0, 3, 6].map(|i| r[i] * p[0] + r[i + 1] * p[1] + r[i + 2] * p[2]));
        }
        // In the files y is up, and the front towards +z.
        mesh.map(|[x, y, z]| [x, -z, y]);
        mesh.normalise(&place(&model.path))?;
        let mut pictures: BTreeMap<String, [f32; 3]> = BTreeMap::new();
        let mut colours = Vec::new();
        for (_, material) in &mesh.materials {
            colours.push(match &material.texture {
                None => material.colour,
                Some(file) => match pictures.get(file) {
                    Some(&colour) => colour,
                    None => {
                        let path = beside(file);
                        // Half of the names have other cases or options than the files: the colour serves then.
                        let colour = match self.read(&path).and_then(|bytes| Picture::decode(&bytes, &place(&path))) {
                            Ok(picture) => mean(&picture),
                            Err(_) => material.colour,
                        };
                        pictures.insert(file.clone(), colour);
                        colour
                    }
                },
            });
        }
        Ok(Solid { mesh, colours })
    }
}

/// The mean colour of a picture, 0 to 1.
fn mean(picture: &Picture) -> [f32; 3] {
    let picture = picture.with_channels(3, [255; 3]);
    let mut sum = [0u64; 3];
    picture.pixels.chunks_exact(3).for_each(|p| (0..3).for_each(|i| sum[i] += u64::from(p[i])));
    sum.map(|s| s as f32 / (255 * picture.width * picture.height) as f32)
}

impl DataSet for Shapes3d {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.counts.iter().product()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        if index >= self.len() {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        }
        let places = parted(index, &self.counts);
        let model = &self.models[places[0]];
        let Solid { mesh, colours } = self.solid(model)?;
        let value = |factor: usize| self.factors[factor].values[places[factor]];
        let view = View { azimuth: value(1), elevation: value(2), light: value(3) };
        let colour = |triangle: usize| colours[mesh.materials.partition_point(|(start, _)| *start <= triangle) - 1];
        let label = self.classes.binary_search(&model.category).ok();
        Ok(Sample {
            picture: render(mesh, colour, view, self.size, self.background)?,
            label: label.map(|l| l as u32),
            caption: Some(model.title.clone()),
            mask: None,
            name: format!("{}/{} {index}", self.archives[model.archive].place, model.path),
        })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn factors(&self) -> &[Factor] {
        &self.factors
    }

    fn places(&self, index: usize) -> Vec<usize> {
        if index < self.len() { parted(index, &self.counts) } else { Vec::new() }
    }

    fn find(&self, places: &[usize]) -> Option<usize> {
        joined(places, &self.counts)
    }

    fn kinds(&self) -> Vec<DataKind> {
        factor_kinds(true)
    }

    fn fingerprint(&self) -> String {
        // Counts up when a picture changes.
        let drawn = format!("shapes3d 1 {} {:?}", PictureSize::from(self.size), self.background);
        fingerprint(std::iter::once(drawn.as_bytes()).chain(self.models.iter().map(|m| m.path.as_bytes())))
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some([3, self.size[0], self.size[1]])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::mesh::tests::{CUBE, CUBE_LIBRARY};

    /// Archives of two models: a cube in blue on its back, and one that is broken.
    fn archive(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("tiny.sh3f");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        let catalogue = "id=Tiny\nname#1=Blue Chair\ncategory#1=Living room\nmodel#1=/a/cube.obj\n\
                         name#2=Lamp\ncategory#2=Lights\nmodel#2=/a/broken.obj\nmodelRotation#2=1 0 0 0 0 1 0 -1 0\n";
        let files = [
            (CATALOGUE, catalogue),
            ("a/cube.obj", CUBE),
            ("a/cube.mtl", CUBE_LIBRARY),
            ("a/broken.obj", "v 0 0 0\nf 1 2 3\n"),
        ];
        for (name, text) in files {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    fn rule(size: usize) -> PictureRule {
        PictureRule { size: size.into(), background: [0; 3], ..PictureRule::default() }
    }

    #[test]
    fn pictures_are_of_their_factors() {
        let folder = tempfile::tempdir().unwrap();
        let path = archive(folder.path());
        let set = Shapes3d::open("shapes3d", &[&path], "", Split::All, &rule(32)).unwrap();
        assert_eq!((set.len(), set.uniform()), (2 * 19 * 7 * 9, Some([3, 32, 32])));
        assert_eq!(set.classes(), ["Lights", "Living room"]);
        let front = set.find(&[0, 9, 0, 4]).unwrap();
        assert_eq!(set.places(front), [0, 9, 0, 4]);
        let value = |factor: usize, place: usize| set.factors()[factor].values[place];
        assert!(value(1, 9).abs() < 1e-6 && value(3, 4).abs() < 1e-6);
        let sample = set.get(front).unwrap();
        assert_eq!((sample.label, sample.caption.as_deref()), (Some(1), Some("Blue Chair")));
        // Blue is seen, and the black ground.
        let blue = sample.picture.pixels.chunks(3).filter(|p| p[2] > 100 && p[0] == 0).count();
        assert!((200..900).contains(&blue), "{blue}");
        assert_ne!(set.get(set.find(&[0, 3, 0, 4]).unwrap()).unwrap().picture, sample.picture);
        // Two models are too few to keep one aside, and one is a chair.
        let chairs = Shapes3d::open("chairs", &[&path], "chair", Split::Train, &rule(0)).unwrap();
        assert_eq!((chairs.len(), chairs.uniform()), (19 * 7 * 9, Some([3, 64, 64])));
        assert_ne!(chairs.fingerprint(), set.fingerprint());
        let none = Shapes3d::open("shapes3d", &[&path], "sofa", Split::All, &rule(0)).err().unwrap();
        assert!(none.to_string().contains("no models"), "{none}");
    }

    #[test]
    fn broken_models_and_catalogues_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = archive(folder.path());
        let set = Shapes3d::open("shapes3d", &[&path], "lamp", Split::All, &rule(32)).unwrap();
        let error = set.get(0).unwrap_err().to_string();
        assert!(error.contains("tiny.sh3f/a/broken.obj: face vertex index out of bounds"), "{error}");
        assert!(set.get(set.len()).is_err() && set.places(set.len()).is_empty());
        let fails = |text: &str| catalogue(text, 0, "c").err().unwrap().to_string();
        assert!(fails("name#1=a\nmodel#1=b\n").contains("no category of model 1"));
        assert!(fails("name#1=a\nmodel#1=b\ncategory#1=c\nmodelRotation#1=1 2\n").contains("not 9 numbers"));
        std::fs::write(&path, "no zip").unwrap();
        let error = Shapes3d::open("shapes3d", &[&path], "", Split::All, &rule(0)).err().unwrap().to_string();
        assert!(error.contains("tiny.sh3f: not a readable zip"), "{error}");
    }
}
