//! Reader of Wavefront OBJ files.
//!
//! Vertices (`v`), normals (`vn`), polygons (`f`, cut into triangles as a fan around their first corner) and the names of
//! materials (`usemtl`, `mtllib`); of a material library (`newmtl`) the diffuse colour, the opacity and the picture that
//! colours the surface. Everything else is passed over: curves, lines, texture coordinates, smoothing groups.

use std::collections::BTreeMap;

use kiln_core::{Error, Result};

/// Triangles in space.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mesh {
    /// Corners.
    pub(crate) positions: Vec<[f32; 3]>,
    /// Directions given for corners, of any length.
    pub(crate) normals: Vec<[f32; 3]>,
    /// Three places in `positions` each.
    pub(crate) triangles: Vec<[u32; 3]>,
    /// Three places in `normals` for each triangle, [`NO_NORMAL`] where the file gives none; or nothing at all.
    pub(crate) triangle_normals: Vec<[u32; 3]>,
    /// The first triangle of each run of one material, and that material's name.
    pub(crate) materials: Vec<(usize, String)>,
    /// Files of materials.
    pub(crate) libraries: Vec<String>,
}

/// Stands where a corner has no normal.
pub(crate) const NO_NORMAL: u32 = u32::MAX;

/// What a material library says of a material.
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
    /// Reads an OBJ file; `place` names it in errors.
    ///
    /// # Errors
    /// Names the line: a number that is none, a corner that does not exist; or says that there are no polygons.
    pub(crate) fn parse(text: &str, place: &str) -> Result<Self> {
        let mut mesh = Self::default();
        for (number, line) in text.lines().enumerate() {
            let wrong = |what: String| Error::new(format!("{place}, line {}: {what}", number + 1));
            let (keyword, rest) = split(line);
            match keyword {
                "v" => mesh.positions.push(vector(rest).map_err(wrong)?),
                "vn" => mesh.normals.push(vector(rest).map_err(wrong)?),
                "f" => mesh.polygon(rest).map_err(wrong)?,
                "usemtl" => mesh.materials.push((mesh.triangles.len(), rest.into())),
                "mtllib" => mesh.libraries.push(rest.into()),
                _ => (),
            }
        }
        if mesh.triangles.is_empty() {
            return Err(Error::new(format!("{place}: no polygons in it (lines that begin with f)")));
        }
        if mesh.triangle_normals.iter().flatten().all(|&n| n == NO_NORMAL) {
            mesh.triangle_normals = Vec::new();
        }
        Ok(mesh)
    }

    /// One `f` line: corners `v`, `v/vt`, `v//vn` or `v/vt/vn`, counted from 1, or backwards from −1.
    fn polygon(&mut self, corners: &str) -> std::result::Result<(), String> {
        let place = |text: &str, count: usize, what: &str| {
            let number: i64 = text.parse().map_err(|_| format!("`{text}` is no whole number"))?;
            let at = if number < 0 { count as i64 + number } else { number - 1 };
            match usize::try_from(at) {
                Ok(at) if at < count => Ok(at as u32),
                _ => Err(format!("{what} {number}, and there are {count} so far")),
            }
        };
        let mut all = Vec::new();
        for corner in corners.split_whitespace() {
            let mut parts = corner.split('/');
            let position = place(parts.next().unwrap_or_default(), self.positions.len(), "corner")?;
            let normal = match parts.nth(1).filter(|text| !text.is_empty()) {
                Some(text) => place(text, self.normals.len(), "normal")?,
                None => NO_NORMAL,
            };
            all.push((position, normal));
        }
        // Of fewer than three corners, as exporters leave them behind, nothing is seen.
        let [first, rest @ ..] = all.as_slice() else {
            return Ok(());
        };
        for pair in rest.windows(2) {
            self.triangles.push([first.0, pair[0].0, pair[1].0]);
            self.triangle_normals.push([first.1, pair[0].1, pair[1].1]);
        }
        Ok(())
    }

    /// Maps every position, and every normal without the shift that this makes.
    pub(crate) fn map(&mut self, linear: impl Fn([f32; 3]) -> [f32; 3]) {
        self.positions.iter_mut().chain(&mut self.normals).for_each(|p| *p = linear(*p));
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

    /// Leaves out the triangles of some runs of materials, by name, unless nothing else is there.
    pub(crate) fn without(&mut self, hidden: impl Fn(&str) -> bool) {
        let ends = self.materials.iter().skip(1).map(|(start, _)| *start).chain([self.triangles.len()]);
        let runs: Vec<(usize, usize, String)> =
            self.materials.iter().zip(ends).map(|((start, name), end)| (*start, end, name.clone())).collect();
        let first = runs.first().map_or(self.triangles.len(), |run| run.0);
        let mut kept =
            Self { materials: Vec::new(), triangles: Vec::new(), triangle_normals: Vec::new(), ..self.clone() };
        let bare = std::iter::once((0, first, None));
        let named = runs.into_iter().filter(|run| !hidden(&run.2)).map(|(start, end, name)| (start, end, Some(name)));
        for (start, end, name) in bare.chain(named) {
            kept.materials.extend(name.map(|name| (kept.triangles.len(), name)));
            kept.triangles.extend(&self.triangles[start..end]);
            if !self.triangle_normals.is_empty() {
                kept.triangle_normals.extend(&self.triangle_normals[start..end]);
            }
        }
        if !kept.triangles.is_empty() {
            *self = kept;
        }
    }
}

/// The materials of a library, by name.
///
/// # Errors
/// Names the line with a number that is none.
pub(crate) fn materials(text: &str, place: &str) -> Result<BTreeMap<String, Material>> {
    let mut all: BTreeMap<String, Material> = BTreeMap::new();
    let mut name = String::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: String| Error::new(format!("{place}, line {}: {what}", number + 1));
        let (keyword, rest) = split(line);
        if keyword == "newmtl" {
            name = rest.into();
            all.insert(name.clone(), Material::default());
        }
        let Some(material) = all.get_mut(&name) else {
            continue;
        };
        match keyword {
            "Kd" => material.colour = vector(rest).map_err(wrong)?,
            "d" => material.opacity = float(rest.rsplit(' ').next().unwrap_or_default()).map_err(wrong)?,
            "map_Kd" => material.texture = Some(rest.into()),
            _ => (),
        }
    }
    Ok(all)
}

pub(crate) fn length(v: [f32; 3]) -> f32 {
    v.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// A line's first word and the rest.
fn split(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(keyword, rest)| (keyword, rest.trim()))
}

fn float(text: &str) -> std::result::Result<f32, String> {
    match text.parse() {
        Ok(value) if f32::is_finite(value) => Ok(value),
        _ => Err(format!("`{text}` is no number")),
    }
}

/// The first three numbers.
fn vector(text: &str) -> std::result::Result<[f32; 3], String> {
    let mut words = text.split_whitespace();
    let mut next = || float(words.next().ok_or_else(|| format!("`{text}`: 3 numbers are needed"))?);
    Ok([next()?, next()?, next()?])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// A cube of side 2 around (1, 2, 3), corners counted both ways, one side with normals, in two materials.
    pub(crate) const CUBE: &str = "# a cube
mtllib cube.mtl
v 0 1 2\nv 2 1 2\nv 2 3 2\nv 0 3 2\nv 0 1 4\nv 2 1 4\nv 2 3 4\nv 0 3 4
v 90 90 90
vn 0 0 1
usemtl red
f 5//1 6//1 7//1 8//1
f 4 3 2 1
usemtl glass
f -9/7 -8/7 -4/7 -5/7
f 3 4 8 7
f 1 5 8 4
usemtl red
f 2 3 7 6
";

    #[test]
    fn a_cube_is_twelve_triangles() {
        let mut mesh = Mesh::parse(CUBE, "cube.obj").unwrap();
        assert_eq!((mesh.positions.len(), mesh.triangles.len()), (9, 12));
        assert_eq!(mesh.triangles[..2], [[4, 5, 6], [4, 6, 7]]);
        assert_eq!(mesh.triangles[4], [0, 1, 5]);
        assert_eq!(mesh.triangle_normals[0], [0; 3]);
        assert_eq!(mesh.triangle_normals[2], [NO_NORMAL; 3]);
        assert_eq!(mesh.libraries, ["cube.mtl"]);
        let runs: Vec<_> = mesh.materials.iter().map(|(start, name)| (*start, name.as_str())).collect();
        assert_eq!(runs, [(0, "red"), (4, "glass"), (10, "red")]);
        mesh.normalise("cube.obj").unwrap();
        // Half the diagonal of the cube is 1; the corner that no triangle has does not count.
        let side = 1.0 / 3f32.sqrt();
        for p in &mesh.positions[..8] {
            assert!(p.iter().all(|x| (x.abs() - side).abs() < 1e-6), "{p:?}");
        }
        mesh.without(|name| name == "glass");
        assert_eq!((mesh.triangles.len(), mesh.triangle_normals.len()), (6, 6));
        assert_eq!(mesh.materials[1], (4, "red".into()));
        // What is all glass stays.
        mesh.without(|_| true);
        assert_eq!(mesh.triangles.len(), 6);
        let bare = Mesh::parse("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "").unwrap();
        assert!(bare.triangle_normals.is_empty());
    }

    #[test]
    fn broken_files_are_named_with_the_line() {
        let corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\n";
        let fails = |text: &str, said: &str| {
            let error = Mesh::parse(text, "chair.obj").unwrap_err().to_string();
            assert!(error.contains("chair.obj") && error.contains(said), "{error}");
        };
        fails("", "no polygons");
        fails("v 0 zero 0\n", "line 1: `zero` is no number");
        fails("v 0 1e99 0\n", "no number");
        fails("v 0 0\n", "3 numbers are needed");
        fails(&format!("{corners}f 1 2\nf\n"), "no polygons");
        fails(&format!("{corners}f 1 2 4\n"), "line 4: corner 4, and there are 3 so far");
        fails(&format!("{corners}f 0 1 2\n"), "corner 0");
        fails(&format!("{corners}f -4 1 2\n"), "corner -4");
        fails(&format!("{corners}f 1//1 2//1 3//1\n"), "normal 1, and there are 0");
        fails(&format!("{corners}f 1 2 x\n"), "`x` is no whole number");
        let mut point = Mesh::parse("v 5 5 5\nf 1 1 1\n", "dot.obj").unwrap();
        assert!(point.normalise("dot.obj").unwrap_err().to_string().contains("one point"));
    }

    #[test]
    fn materials_have_colours() {
        let text = "Kd 1 1 1\nnewmtl red\nKd 0.9 0 0.1\nd 1.0\nnewmtl wood stain\nKd 1 1 1\nmap_Kd old wood.jpg\nnewmtl air\nd 0.1\n";
        let all = materials(text, "m.mtl").unwrap();
        assert_eq!(all["red"], Material { colour: [0.9, 0.0, 0.1], ..Material::default() });
        assert_eq!(all["wood stain"].texture.as_deref(), Some("old wood.jpg"));
        assert_eq!(all["air"], Material { opacity: 0.1, ..Material::default() });
        let error = materials("newmtl a\nKd 1 1\n", "m.mtl").unwrap_err().to_string();
        assert!(error.contains("m.mtl, line 2"), "{error}");
    }
}
