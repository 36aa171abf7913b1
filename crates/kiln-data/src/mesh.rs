//! Reader of Wavefront OBJ files.
//!
//! `tobj` reads it: vertices, normals, polygons (cut into triangles as a fan around their first corner) and materials, of
//! which the diffuse colour, the opacity and the picture that colours the surface count here. Lines that are not needed are
//! withheld from it: it refuses texture coordinates that do not exist, as one model of Sweet Home 3D has them, and makes
//! polygons of polylines.

use std::cell::Cell;
use std::path::Path;

use kiln_core::{Error, Result};
use tobj::LoadError;

/// Triangles in space.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mesh {
    /// Corners.
    pub(crate) positions: Vec<[f32; 3]>,
    /// The direction given for each corner, of any length.
    pub(crate) normals: Vec<Option<[f32; 3]>>,
    /// Three places in `positions` each.
    pub(crate) triangles: Vec<[u32; 3]>,
    /// The first triangle of each run of one material, and the material. The first run begins at 0.
    pub(crate) materials: Vec<(usize, Material)>,
}

/// What a surface is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Material {
    /// Diffuse colour, 0 to 1.
    pub(crate) colour: [f32; 3],
    /// 1 hides what is behind.
    pub(crate) opacity: f32,
    /// The file of a picture that colours the surface.
    pub(crate) texture: Option<String>,
}

impl Default for Material {
    fn default() -> Self {
        Self { colour: [0.8; 3], opacity: 1.0, texture: None }
    }
}

impl Mesh {
    /// Reads an OBJ file; `place` names it in errors. `library` gives the place and the text of a file of materials, by the
    /// name that the OBJ file has for it; what is made of an unknown material is grey.
    ///
    /// In a run of one material, either all corners have their normals or none.
    ///
    /// # Errors
    /// Names the line of what cannot be read; or says that a corner does not exist, or that there are no polygons.
    pub(crate) fn parse(text: &str, place: &str, library: impl Fn(&str) -> Option<(String, String)>) -> Result<Self> {
        let broken = Cell::new(None);
        let load = |file: &Path| {
            let Some((place, text)) = library(&file.to_string_lossy()) else {
                return Ok(Default::default());
            };
            read(&text, &place, needed_of_library, |text| tobj::load_mtl_buf(text)).map_err(|error| {
                broken.set(Some(error));
                LoadError::MaterialParseError
            })
        };
        // One index for positions and normals.
        let options = tobj::LoadOptions { single_index: true, triangulate: true, ..Default::default() };
        let (models, materials) = read(text, place, needed, |text| tobj::load_obj_buf(text, &options, load))?;
        if let Some(error) = broken.take() {
            return Err(error);
        }
        let materials = materials.unwrap_or_default();
        let mut mesh = Self::default();
        for tobj::Mesh { positions, normals, indices, material_id, .. } in models.into_iter().map(|model| model.mesh) {
            let material = material_id.and_then(|id| materials.get(id)).map(Material::new).unwrap_or_default();
            mesh.materials.push((mesh.triangles.len(), material));
            let first = mesh.positions.len() as u32;
            mesh.positions.extend(positions.as_chunks().0);
            // Corners without a normal are not told apart: there are fewer normals then.
            let whole = normals.len() == positions.len();
            mesh.normals.extend(normals.as_chunks().0.iter().take_while(|_| whole).map(|&normal| Some(normal)));
            mesh.normals.resize(mesh.positions.len(), None);
            mesh.triangles
                .extend(indices.as_chunks::<3>().0.iter().map(|corners| corners.map(|corner| first + corner)));
        }
        if mesh.triangles.is_empty() {
            return Err(Error::new(format!("{place}: no polygons in it (lines that begin with f)")));
        }
        if mesh.positions.iter().chain(mesh.normals.iter().flatten()).flatten().any(|x| !x.is_finite()) {
            return Err(Error::new(format!("{place}: a coordinate is not a finite number")));
        }
        Ok(mesh)
    }

    /// Maps every position, and every normal without the shift that this makes.
    pub(crate) fn map(&mut self, linear: impl Fn([f32; 3]) -> [f32; 3]) {
        self.positions.iter_mut().chain(self.normals.iter_mut().flatten()).for_each(|p| *p = linear(*p));
    }

    /// Moves the middle of the box around all triangles to 0, and scales so that the farthest corner is 1 away from it.
    ///
    /// # Errors
    /// If all corners are one point.
    pub(crate) fn normalise(&mut self, place: &str) -> Result<()> {
        let (mut low, mut high) = ([f32::INFINITY; 3], [f32::NEG_INFINITY; 3]);
        for &corner in self.triangles.iter().flatten() {
            let p = self.positions[corner as usize];
            for axis in 0..3 {
                low[axis] = low[axis].min(p[axis]);
                high[axis] = high[axis].max(p[axis]);
            }
        }
        let middle = [0, 1, 2].map(|axis| (low[axis] + high[axis]) / 2.0);
        let away = |p: [f32; 3]| [0, 1, 2].map(|axis| p[axis] - middle[axis]);
        let used = self.triangles.iter().flatten().map(|&corner| away(self.positions[corner as usize]));
        let radius = used.map(length).fold(0.0, f32::max);
        // Also false for what is not a number.
        if !(radius > 0.0 && radius.is_finite()) {
            return Err(Error::new(format!("{place}: all corners are one point")));
        }
        self.positions.iter_mut().for_each(|p| *p = away(*p).map(|x| x / radius));
        Ok(())
    }

    /// Leaves out what is made of some materials, unless nothing else is there.
    pub(crate) fn without(&mut self, hidden: impl Fn(&Material) -> bool) {
        let ends = self.materials.iter().skip(1).map(|(start, _)| *start).chain([self.triangles.len()]);
        let (mut triangles, mut materials) = (Vec::new(), Vec::new());
        for ((start, material), end) in self.materials.iter().zip(ends).filter(|((_, material), _)| !hidden(material)) {
            materials.push((triangles.len(), material.clone()));
            triangles.extend(&self.triangles[*start..end]);
        }
        if !triangles.is_empty() {
            (self.triangles, self.materials) = (triangles, materials);
        }
    }
}

impl Material {
    fn new(read: &tobj::Material) -> Self {
        let Self { colour, opacity, .. } = Self::default();
        Self {
            colour: read.diffuse.unwrap_or(colour),
            opacity: read.dissolve.unwrap_or(opacity),
            texture: read.diffuse_texture.clone(),
        }
    }
}

pub(crate) fn length(v: [f32; 3]) -> f32 {
    v.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// Gives `reader` the lines that are `needed`, and names the one that it stops at.
fn read<T>(
    text: &str,
    place: &str,
    needed: impl Fn(&str, &str) -> std::result::Result<bool, String>,
    reader: impl FnOnce(&mut &[u8]) -> std::result::Result<T, LoadError>,
) -> Result<T> {
    let wrong = |line: usize, what: String| Error::new(format!("{place}, line {line}: {what}"));
    let mut kept = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if needed(keyword, rest).map_err(|what| wrong(number + 1, what))? {
            kept.extend([keyword, " ", rest]);
        }
        // Also of a line that is not needed, so that lines are counted as in the file.
        kept.push('\n');
    }
    let mut left = kept.as_bytes();
    reader(&mut left).map_err(|error| match error {
        // Found at the end of a run of one material.
        LoadError::FaceVertexOutOfBounds | LoadError::FaceNormalOutOfBounds => Error::new(format!("{place}: {error}")),
        _ => wrong(kept[..kept.len() - left.len()].lines().count(), error.to_string()),
    })
}

/// Whether a line of an OBJ file is needed; an error for what `tobj` cannot take without a panic.
fn needed(keyword: &str, rest: &str) -> std::result::Result<bool, String> {
    match keyword {
        // Of fewer than three corners, as exporters leave them behind, nothing is seen.
        "f" if rest.split_whitespace().count() < 3 => Ok(false),
        "f" => match rest.split(|c: char| c == '/' || c.is_whitespace()).find(|number| number.len() > 10) {
            Some(number) => Err(format!("no corner has the number {number}")),
            None => Ok(true),
        },
        _ => Ok(matches!(keyword, "v" | "vn" | "usemtl" | "mtllib")),
    }
}

/// As [`needed`], of a line of a file of materials.
fn needed_of_library(keyword: &str, rest: &str) -> std::result::Result<bool, String> {
    match keyword {
        "Kd" if rest.split_whitespace().count() < 3 => Err(format!("`{rest}`: 3 numbers are needed")),
        _ => Ok(matches!(keyword, "newmtl" | "Kd" | "d" | "map_Kd")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// A cube of side 2 around (1, 2, 3), corners counted both ways, one side with normals, in three materials.
    pub(crate) const CUBE: &str = "# a cube
mtllib cube.mtl
v 0 1 2\nv 2 1 2\nv 2 3 2\nv 0 3 2\nv 0 1 4\nv 2 1 4\nv 2 3 4\nv 0 3 4
v 90 90 90
vn 0 0 1
usemtl blue
f 5//1 6//1 7//1 8//1
usemtl red
f 4 3 2 1
usemtl glass
f -9/7 -8/7 -4/7 -5/7
f 3 4 8 7
f 1 5 8 4
usemtl red
f 2 3 7 6
l 1 2 3 4
";

    /// The materials of [`CUBE`].
    pub(crate) const CUBE_LIBRARY: &str = "newmtl red\nKd 0 0 1\nnewmtl blue\nKd 0 0 1\nnewmtl glass\nd 0.2\n";

    impl Mesh {
        /// A mesh without a file of materials.
        pub(crate) fn bare(text: &str, place: &str) -> Result<Self> {
            Self::parse(text, place, |_| None)
        }
    }

    #[test]
    fn a_cube_is_twelve_triangles() {
        let library = |file: &str| (file == "cube.mtl").then(|| (file.to_string(), CUBE_LIBRARY.to_string()));
        let mut mesh = Mesh::parse(CUBE, "cube.obj", library).unwrap();
        let corners = |mesh: &Mesh, triangle: usize| mesh.triangles[triangle].map(|c| mesh.positions[c as usize]);
        assert_eq!(mesh.triangles.len(), 12);
        assert_eq!(corners(&mesh, 0), [[0.0, 1.0, 4.0], [2.0, 1.0, 4.0], [2.0, 3.0, 4.0]]);
        assert_eq!(corners(&mesh, 1), [[0.0, 1.0, 4.0], [2.0, 3.0, 4.0], [0.0, 3.0, 4.0]]);
        assert_eq!(corners(&mesh, 4), [[0.0, 1.0, 2.0], [2.0, 1.0, 2.0], [2.0, 1.0, 4.0]]);
        let normals = |mesh: &Mesh, triangle: usize| mesh.triangles[triangle].map(|c| mesh.normals[c as usize]);
        assert_eq!(normals(&mesh, 1), [Some([0.0, 0.0, 1.0]); 3]);
        assert_eq!(normals(&mesh, 2), [None; 3]);
        let runs: Vec<_> = mesh.materials.iter().map(|(start, m)| (*start, m.colour[2], m.opacity)).collect();
        assert_eq!(runs, [(0, 1.0, 1.0), (2, 1.0, 1.0), (4, 0.8, 0.2), (10, 1.0, 1.0)]);
        mesh.normalise("cube.obj").unwrap();
        // Half the diagonal of the cube is 1; the corner that no triangle has does not count.
        let side = 1.0 / 3f32.sqrt();
        for p in &mesh.positions {
            assert!(p.iter().all(|x| (x.abs() - side).abs() < 1e-6), "{p:?}");
        }
        mesh.without(|material| material.opacity < 0.5);
        assert_eq!(mesh.triangles.len(), 6);
        assert_eq!(mesh.materials.iter().map(|run| run.0).collect::<Vec<_>>(), [0, 2, 4]);
        // What is all glass stays.
        mesh.without(|_| true);
        assert_eq!(mesh.triangles.len(), 6);
        let grey = Mesh::bare(CUBE, "cube.obj").unwrap();
        assert!(grey.materials.iter().all(|(_, material)| *material == Material::default()));
        // Of one material, some corners have normals here and some have none: none count.
        assert!(grey.normals.iter().all(Option::is_none));
    }

    #[test]
    fn broken_files_are_named_with_the_line() {
        let corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\n";
        let fails = |text: &str, said: &str| {
            let error = Mesh::bare(text, "chair.obj").unwrap_err().to_string();
            assert!(error.contains("chair.obj") && error.contains(said), "{error}");
        };
        fails("", "no polygons");
        fails("vt 1\nv 0 zero 0\n", "line 2: position parse error");
        fails("v 0 0\n", "line 1: position parse error");
        fails("v 0 1e99 0\nf 1 1 1\n", "not a finite number");
        fails(&format!("{corners}f 1 2\nf\n"), "no polygons");
        fails(&format!("{corners}f 1 2 4\n"), "face vertex index out of bounds");
        fails(&format!("{corners}f 0 1 2\n"), "face vertex index out of bounds");
        fails(&format!("{corners}f -4 1 2\n"), "face vertex index out of bounds");
        fails(&format!("{corners}vn 0 0 1\nf 1//2 2//1 3//1\n"), "face normal index out of bounds");
        fails(&format!("{corners}f 1 2 x\n"), "line 4: face parse error");
        fails(&format!("{corners}vn 0 0 1\nf 1//-6148914691236517206 2//1 3//1\n"), "line 5: no corner has the number");
        let mut point = Mesh::bare("v 5 5 5\nf 1 1 1\n", "dot.obj").unwrap();
        assert!(point.normalise("dot.obj").unwrap_err().to_string().contains("one point"));
    }

    #[test]
    fn materials_have_colours() {
        let parse = |library: &str| {
            let text = "mtllib m.mtl\nv 0 0 0\nusemtl\twood stain \nf 1/9 1/9 1/9\n";
            Mesh::parse(text, "m.obj", |_| Some(("m.mtl".into(), library.into())))
        };
        let wood = parse("Kd 1 1 1\nnewmtl wood stain\nNs high\nKd 1 1 0.5\nmap_Kd old wood.jpg\nd 0.1\n").unwrap();
        let texture = Some("old wood.jpg".into());
        assert_eq!(wood.materials, [(0, Material { colour: [1.0, 1.0, 0.5], opacity: 0.1, texture })]);
        let error = parse("newmtl a\nKd 1 1\n").unwrap_err().to_string();
        assert!(error.contains("m.mtl, line 2: `1 1`: 3 numbers"), "{error}");
        let error = parse("newmtl a\n\nd clear\n").unwrap_err().to_string();
        assert!(error.contains("m.mtl, line 3: material parse error"), "{error}");
    }
}
