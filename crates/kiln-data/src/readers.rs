//! Readers that only named sets come by, of single files: what `fuzz/` feeds with damaged ones.

use std::path::Path;
use std::sync::Arc;

use kiln_core::Result;

use crate::icons::{IconFile, IconSet};
use crate::mesh::Mesh;
use crate::render::{View, render};
use crate::{DataSet, Picture, PictureRule, Split, digits};

/// A table of digits, 8 x 8 grey levels and a class a line.
pub fn digit_table(file: &Path) -> Result<Arc<dyn DataSet>> {
    Ok(Arc::new(digits::table("digits", file, 8, 16)?))
}

/// Iconify's `icons.json`, rendered at the rule's size.
pub fn icons(bytes: &[u8], rule: &PictureRule) -> Result<Arc<dyn DataSet>> {
    rule.check()?;
    let file = IconFile::parse(bytes, "icons.json")?;
    let names = file.names();
    Ok(Arc::new(IconSet::new("icons", file, names, Split::All, rule)))
}

/// An OBJ file and the text of every file of materials that it names, drawn.
pub fn solid(obj: &str, library: &str, size: [usize; 2]) -> Result<Picture> {
    let mut mesh = Mesh::parse(obj, "model.obj", |name| Some((name.into(), library.into())))?;
    mesh.without(|material| material.opacity < 0.5);
    mesh.normalise("model.obj")?;
    let view = View { azimuth: 0.5, elevation: 0.3, light: 0.7 };
    render(&mesh, |triangle| [triangle as f32 % 2.0; 3], view, size, [255; 3])
}
