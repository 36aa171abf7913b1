//! What a pixel of a street can show.

/// The classes, in the colours of the Cityscapes set where it has them.
pub(super) const PALETTE: [(&str, [u8; 3]); 8] = [
    ("sky", [70, 130, 180]),
    ("building", [70, 70, 70]),
    ("window", [102, 102, 156]),
    ("road", [128, 64, 128]),
    ("pavement", [244, 35, 232]),
    ("plant", [107, 142, 35]),
    ("car", [0, 0, 142]),
    ("person", [220, 20, 60]),
];

/// A class of [`PALETTE`], by its place there. The later one is shown where two have as many samples of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    Sky,
    Building,
    Window,
    Road,
    Pavement,
    Plant,
    Car,
    Person,
}
