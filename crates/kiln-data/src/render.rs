//! Renders a mesh to an image.
//!
//! A pinhole camera looks at the origin from a fixed distance; triangles are filled into a depth buffer of 2×2 samples a pixel
//! (Pineda 1988), and each sample has its surface's colour times ambient plus diffuse light (Lambert). Surfaces are two-sided: the
//! visible side is lit. Colours are averaged in their stored (sRGB) form.

use kiln_core::Result;

use crate::Picture;
use crate::mesh::Mesh;

/// From the camera to the middle of the thing, whose farthest corner is 1 away from it.
const DISTANCE: f32 = 4.0;

/// How much of the picture's shorter half side the unit ball around the middle takes.
const FILL: f32 = 0.95;

/// Samples along a pixel's side.
const SAMPLES: usize = 2;

/// Light that comes from everywhere, of 1.
const AMBIENT: f32 = 0.3;

/// Above the horizon stands the light, in radians.
const LIGHT_ELEVATION: f32 = std::f32::consts::FRAC_PI_6;

/// Where the camera and the light stand, in radians; z is up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    /// The camera's heading: 0 in front (at −y), a quarter turn at +x.
    pub(crate) azimuth: f32,
    /// The camera's height above the horizon.
    pub(crate) elevation: f32,
    /// The light's heading from the camera's, to its right if positive: it goes around with the camera.
    pub(crate) light: f32,
}

/// Draws a mesh that [`Mesh::normalise`] has made fit: `colour` of each triangle, 0 to 1, over `background`, in three channels.
///
/// # Errors
/// If `height` or `width` is 0.
pub(crate) fn render(
    mesh: &Mesh,
    colour: impl Fn(usize) -> [f32; 3],
    view: View,
    [height, width]: [usize; 2],
    background: [u8; 3],
) -> Result<Picture> {
    let (sin, cos) = view.azimuth.sin_cos();
    let (rise, level) = view.elevation.sin_cos();
    // The camera's right, up and backward.
    let right = [cos, sin, 0.0];
    let back = [sin * level, -cos * level, rise];
    let up = [-sin * rise, cos * rise, level];
    let (aside, ahead) = view.light.sin_cos();
    let (high, flat) = LIGHT_ELEVATION.sin_cos();
    let light = [flat * (aside * cos + ahead * sin), flat * (aside * sin - ahead * cos), high];

    // The unit ball's outline is seen under an angle of sine 1 / distance.
    let [rows, columns] = [height * SAMPLES, width * SAMPLES];
    let scale = FILL * (DISTANCE * DISTANCE - 1.0).sqrt() * rows.min(columns) as f32 / 2.0;
    // Place in samples, and 1 / depth, which is linear over the picture.
    let seen: Vec<[f32; 3]> = mesh
        .positions
        .iter()
        .map(|&p| {
            let near = 1.0 / (DISTANCE - dot(p, back));
            let [x, y] = [columns as f32 / 2.0, rows as f32 / 2.0];
            [x + scale * near * dot(p, right), y - scale * near * dot(p, up), near]
        })
        .collect();

    let mut nearest = vec![0.0f32; rows * columns];
    let mut lit = vec![background.map(f32::from); rows * columns];
    for (number, corners) in mesh.triangles.iter().enumerate() {
        let [a, b, c] = corners.map(|corner| seen[corner as usize]);
        let area = edge(a, b, c);
        if area == 0.0 || !area.is_finite() {
            continue;
        }
        let span = |axis: usize, size: usize| {
            let (low, high) = (a[axis].min(b[axis]).min(c[axis]), a[axis].max(b[axis]).max(c[axis]));
            // The samples whose middles may lie within: as many as there are middles below an edge.
            let below = |edge: f32| ((edge + 0.5).clamp(0.0, size as f32)) as usize;
            (below(low), below(high))
        };
        let ((left, right), (top, bottom)) = (span(0, columns), span(1, rows));
        // Most triangles of a fine mesh lie between samples.
        if left >= right || top >= bottom {
            continue;
        }
        let [p, q, r] = corners.map(|corner| mesh.positions[corner as usize]);
        let plane = cross(minus(q, p), minus(r, p));
        let normals = match corners.map(|corner| mesh.normals[corner as usize]) {
            [Some(a), Some(b), Some(c)] => [a, b, c],
            _ => [plane; 3],
        };
        // Seen from the camera, not only from its direction.
        let towards = minus(back.map(|x| x * DISTANCE), p);
        let facing = |n: [f32; 3]| if dot(n, towards) < 0.0 { n.map(|x| -x) } else { n };
        let (paint, whole) = (colour(number), 1.0 / area);
        for y in top..bottom {
            for x in left..right {
                let at = [x as f32 + 0.5, y as f32 + 0.5, 0.0];
                let weights = [edge(b, c, at) * whole, edge(c, a, at) * whole, edge(a, b, at) * whole];
                if weights.iter().any(|&w| w < 0.0) {
                    continue;
                }
                let weights = [weights[0] * a[2], weights[1] * b[2], weights[2] * c[2]];
                let near = weights.iter().sum::<f32>();
                let place = y * columns + x;
                if near <= nearest[place] {
                    continue;
                }
                nearest[place] = near;
                let normal = [0, 1, 2].map(|axis| (0..3).map(|i| weights[i] * normals[i][axis]).sum::<f32>());
                // A sum of 0 has no direction; the plane has one.
                let normal = if dot(normal, normal) > 0.0 { facing(normal) } else { facing(plane) };
                let diffuse = (dot(normal, light) / dot(normal, normal).sqrt()).max(0.0);
                lit[place] = paint.map(|p| 255.0 * p * (AMBIENT + (1.0 - AMBIENT) * diffuse));
            }
        }
    }

    let samples = (SAMPLES * SAMPLES) as f32;
    let mut pixels = Vec::with_capacity(height * width * 3);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let within = (0..SAMPLES).flat_map(|dy| (0..SAMPLES).map(move |dx| (dy, dx)));
        let places = within.map(|(dy, dx)| (y * SAMPLES + dy) * columns + x * SAMPLES + dx);
        let sum = places.fold([0.0; 3], |sum: [f32; 3], place| [0, 1, 2].map(|i| sum[i] + lit[place][i]));
        pixels.extend(sum.map(|s| (s / samples).round().clamp(0.0, 255.0) as u8));
    }
    Picture::new(width, height, 3, pixels)
}

/// Twice the signed area of a triangle in the picture.
fn edge(a: [f32; 3], b: [f32; 3], c: [f32; 3]) -> f32 {
    (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn minus(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn cross(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::f32::consts::{FRAC_PI_2, FRAC_PI_4, FRAC_PI_6};

    use super::*;
    use crate::mesh::tests::CUBE;

    const SIDE: usize = 64;
    const FRONT: View = View { azimuth: 0.0, elevation: 0.0, light: 0.0 };

    fn cube() -> Mesh {
        let mut mesh = Mesh::bare(CUBE, "cube").unwrap();
        mesh.normalise("cube").unwrap();
        mesh
    }

    /// Of a white thing over blue: what it reflects in each pixel, `None` where the ground is seen.
    fn look(mesh: &Mesh, view: View) -> Vec<Option<f32>> {
        let picture = render(mesh, |_| [1.0, 1.0, 0.0], view, [SIDE; 2], [0, 0, 255]).unwrap();
        let reflected = |p: &[u8]| (p[2] == 0).then_some(f32::from(p[0]) / 255.0);
        picture.pixels.chunks(3).map(reflected).collect()
    }

    fn row(picture: &[Option<f32>], y: usize) -> Vec<f32> {
        picture[y * SIDE..][..SIDE].iter().flatten().copied().collect()
    }

    #[test]
    fn a_cube_from_the_front_is_a_square_of_the_right_size_and_brightness() {
        let seen = look(&cube(), FRONT);
        // The front side is 1/√3 nearer than the middle, and as wide as 2/√3: 64/2 · 0.95 · √15 · 2/√3 / (4 − 1/√3) pixels.
        let side = 1.0 / 3f32.sqrt();
        let width = 32.0 * 0.95 * 15f32.sqrt() * 2.0 * side / (4.0 - side);
        let inside: Vec<usize> = (0..SIDE).map(|y| row(&seen, y).len()).collect();
        let rows = inside.iter().filter(|&&n| n > 0).count();
        assert!((rows as f32 - width).abs() < 2.0, "{rows} of {width}");
        assert!(inside.iter().all(|&n| n == 0 || n == rows), "{inside:?}");
        // The light stands 30° above the horizon in front.
        let wanted = AMBIENT + (1.0 - AMBIENT) * FRAC_PI_6.cos();
        assert!(seen.iter().flatten().all(|l| (l - wanted).abs() < 0.01));
    }

    #[test]
    fn light_and_camera_go_where_they_are_told() {
        let lambert = |cosine: f32| AMBIENT + (1.0 - AMBIENT) * cosine.max(0.0);
        let flat = FRAC_PI_6.cos();
        let middle = |view| row(&look(&cube(), view), SIDE / 2)[10];
        for light in [-1.0, 0.4, 1.4, 2.0] {
            let got = middle(View { light, ..FRONT });
            assert!((got - lambert(flat * f32::cos(light))).abs() < 0.01, "{light}: {got}");
            // Every side of a cube is like the front, and the light goes with the camera.
            let got = middle(View { azimuth: FRAC_PI_2, light, ..FRONT });
            assert!((got - lambert(flat * f32::cos(light))).abs() < 0.01, "{light}: {got}");
        }
        // Over an edge: two sides, the right one nearer to a light from the right.
        let edge_on = row(&look(&cube(), View { azimuth: FRAC_PI_4, light: FRAC_PI_4, ..FRONT }), SIDE / 2);
        let (left, right) = (edge_on[2], edge_on[edge_on.len() - 3]);
        assert!((left - lambert(0.0)).abs() < 0.01 && (right - lambert(flat)).abs() < 0.01, "{left} {right}");
        // From straight above, the upper side, lit at sin 30°.
        let above = middle(View { elevation: FRAC_PI_2, ..FRONT });
        assert!((above - lambert(FRAC_PI_6.sin())).abs() < 0.01, "{above}");
        // From above, the upper side is over the front side: it is the brighter or darker part in the upper rows.
        let seen = look(&cube(), View { elevation: FRAC_PI_4, ..FRONT });
        let column: Vec<f32> = (0..SIDE).filter_map(|y| seen[y * SIDE + SIDE / 2]).collect();
        assert!((column[1] - lambert(FRAC_PI_6.sin())).abs() < 0.01);
        assert!((column[column.len() - 2] - lambert(flat)).abs() < 0.01);
    }

    #[test]
    fn what_is_nearer_hides_what_is_behind_in_any_order() {
        let square = |y: f32, size: f32| {
            let corners = [[-size, y, -size], [size, y, -size], [size, y, size], [-size, y, size]];
            corners.map(|c| format!("v {} {} {}\n", c[0], c[1], c[2])).concat()
        };
        let text = square(-0.5, 0.3) + &square(0.5, 0.6);
        for faces in ["f 1 2 3 4\nf 5 6 7 8\n", "f 5 6 7 8\nf 4 3 2 1\n"] {
            let mesh = Mesh::bare(&format!("{text}{faces}"), "two").unwrap();
            let large = |n: usize| mesh.positions[mesh.triangles[n][0] as usize][1] > 0.0;
            let colour = |n| if large(n) { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
            let picture = render(&mesh, colour, FRONT, [SIDE; 2], [0; 3]).unwrap();
            let at = |x: usize, y: usize| &picture.pixels[(y * SIDE + x) * 3..][..3];
            assert!(at(32, 32)[1] > 100 && at(32, 32)[0] == 0, "{:?}", at(32, 32));
            assert!(at(19, 32)[0] > 100 && at(19, 32)[1] == 0, "{:?}", at(19, 32));
            // From behind, the large one hides the small one.
            let behind = View { azimuth: 2.0 * FRAC_PI_2, ..FRONT };
            let picture = render(&mesh, colour, behind, [SIDE; 2], [0; 3]).unwrap();
            assert!(picture.pixels.chunks(3).all(|p| p[1] == 0));
        }
    }

    #[test]
    fn normals_of_the_file_bend_the_light() {
        // A square whose corners look left and right.
        let text = "v -1 0 -1\nv 1 0 -1\nv 1 0 1\nv -1 0 1\nvn -1 -1 0\nvn 1 -1 0\nf 1//1 2//2 3//2 4//1\n";
        let mut mesh = Mesh::bare(text, "bent").unwrap();
        mesh.normalise("bent").unwrap();
        let light = row(&look(&mesh, View { light: FRAC_PI_4, ..FRONT }), SIDE / 2);
        assert!(light.windows(2).all(|p| p[1] >= p[0]), "{light:?}");
        let lambert = |cosine: f32| AMBIENT + (1.0 - AMBIENT) * cosine;
        assert!((light[light.len() - 2] - lambert(FRAC_PI_6.cos())).abs() < 0.02 && light[1] < 0.4, "{light:?}");
    }
}
