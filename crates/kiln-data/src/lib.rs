//! Data sets: decoding, transforms, loading, fetching.
//!
//! [`open`] turns a name, a folder or a zip into a [`DataSet`] of images with labels or captions.
//! [`Prepared`] gives all of them one shape, and [`Loader`] serves shuffled batches whose only state
//! is the number of images seen. [`catalogue`] lists the named sets, and [`fetch`] downloads those that do not
//! ship with the program, and the weights of [`trained`] networks. This crate does not depend on the tensor
//! engine: values are `Vec<f32>` in [-1, 1], planar (channels, height, width).

mod animation;
mod archive;
mod array;
mod augment;
mod cache;
mod captions;
mod catalogue;
mod contents;
mod digits;
mod drawings;
mod dsprites;
mod fetch;
mod few;
mod icons;
mod idx;
mod joined;
mod jpeg;
mod label_map;
mod layout;
mod listing;
mod litter;
mod loader;
mod masks;
mod memory;
mod mesh;
mod mnistm;
mod open;
mod packages;
mod pairs;
mod palette;
mod picture;
mod png_palette;
mod png_text;
mod prepared;
#[doc(hidden)]
pub mod readers;
mod render;
mod resize;
mod rings;
mod rule;
mod set;
mod shapes3d;
mod sheet;
mod silhouettes;
mod size;
mod specs;
mod starter;
mod store;
mod streets;
mod svg;
mod tokens;
mod trained;
mod views;
mod webp;

pub use animation::Animation;
pub use augment::Augment;
pub use cache::cache_dir;
pub use catalogue::{Entry, catalogue};
pub use contents::{Contents, Survey};
pub use fetch::fetch;
pub use few::few_labels;
pub use icons::ICON_SIZE;
pub use label_map::label_maps;
pub use loader::{Clamp, Grouping, HostBatch, Loader, Part};
pub use open::{absolute, is_named, notes, open, open_all, relative};
pub use pairs::check_pairs;
pub use palette::PaletteColour;
pub use picture::Picture;
pub use png_text::read_png_text;
pub use prepared::{Prepared, PreparedSample};
pub use rule::{PictureRule, Resize};
pub use set::{DataKind, DataSet, Factor, Sample, Split};
pub use sheet::contact_sheet;
pub use size::PictureSize;
pub use specs::{join_specs, split_specs};
pub use tokens::{TokenRows, Tokenizer};
pub use trained::{Trained, trained, trained_file};
