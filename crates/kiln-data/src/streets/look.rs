//! What colour things have, by day and at dusk. Channels from 0 to 1; light falls on one row of houses.

use super::chance::{hashed, noise};
use super::scene::{House, Scene, Surface};
use super::things::{Kind, Part, Thing};

/// A look of the scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Day,
    Dusk,
}

type Colour = [f32; 3];

/// Paints of houses.
const WALLS: [Colour; 8] = [
    [0.87, 0.79, 0.64],
    [0.67, 0.37, 0.29],
    [0.70, 0.71, 0.70],
    [0.82, 0.64, 0.38],
    [0.60, 0.69, 0.76],
    [0.91, 0.89, 0.85],
    [0.80, 0.57, 0.51],
    [0.58, 0.62, 0.50],
];
/// Paints of cars, and cloths.
const PAINTS: [Colour; 8] = [
    [0.75, 0.10, 0.10],
    [0.12, 0.23, 0.55],
    [0.88, 0.88, 0.89],
    [0.13, 0.13, 0.15],
    [0.55, 0.57, 0.60],
    [0.85, 0.68, 0.14],
    [0.16, 0.42, 0.30],
    [0.52, 0.32, 0.22],
];
/// Leaves.
const LEAVES: [Colour; 6] = [
    [0.24, 0.46, 0.16],
    [0.34, 0.53, 0.20],
    [0.18, 0.38, 0.20],
    [0.45, 0.55, 0.18],
    [0.63, 0.47, 0.16],
    [0.28, 0.50, 0.24],
];

fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    let t = t.clamp(0.0, 1.0);
    [0, 1, 2].map(|i| a[i] + t * (b[i] - a[i]))
}

fn times(a: Colour, by: Colour) -> Colour {
    [0, 1, 2].map(|i| a[i] * by[i])
}

impl Look {
    /// The light on all surfaces.
    fn ambient(self, scene: &Scene) -> Colour {
        let (light, warmth) = (scene.light, scene.warmth);
        match self {
            Self::Day => [light * (1.0 + warmth), light, light * (1.0 - warmth)],
            Self::Dusk => [0.46 * light, 0.40 * light, 0.56 * light],
        }
    }

    /// The sky in a direction.
    fn sky(self, scene: &Scene, across: f32, up: f32) -> Colour {
        let high = (up * 1.5).clamp(0.0, 1.0);
        let cloud = |stretch: f32| {
            let (x, y) = (across * 3.0, up * 3.0 * stretch);
            let n = |s: f32, seed: u32| noise(x * s, y * s, scene.number.wrapping_mul(31) ^ seed);
            0.55 * n(1.0, 1) + 0.3 * n(2.2, 2) + 0.15 * n(4.7, 3)
        };
        match self {
            Self::Day => {
                let clear = mix([0.80, 0.89, 0.97], [0.32, 0.56, 0.90], high);
                let clear = mix(clear, [0.74, 0.78, 0.82], 0.8 * (scene.clouds - 0.55).max(0.0) / 0.45);
                let cover = (cloud(2.0) - 0.72 + 0.4 * scene.clouds) * 5.0;
                mix(clear, [0.96, 0.96, 0.97], cover)
            }
            Self::Dusk => {
                let glow = mix([1.0, 0.60, 0.25], [0.62, 0.27, 0.42], high * 2.2);
                let clear = mix(glow, [0.13, 0.13, 0.33], high * 1.7 - 0.55);
                let cover = (cloud(5.0) - 0.62 + 0.3 * scene.clouds) * 4.0;
                mix(clear, [0.36, 0.19, 0.33], 0.75 * cover.clamp(0.0, 1.0))
            }
        }
    }

    /// The air between the eye and something far.
    fn far(self, scene: &Scene, colour: Colour, depth: f32) -> Colour {
        let (haze, most) = match self {
            Self::Day => ([0.80, 0.87, 0.93], 0.40),
            Self::Dusk => ([0.74, 0.42, 0.33], 0.55),
        };
        mix(colour, haze, most * (depth / (depth + 60.0)) * (0.6 + 0.6 * scene.clouds))
    }

    /// A surface, seen at a height of the picture by one of its samples.
    pub(super) fn surface(
        self,
        scene: &Scene,
        surface: Surface<'_>,
        depth: f32,
        height: f32,
        [column, row]: [u32; 2],
    ) -> Colour {
        let day = self == Self::Day;
        let rough = hashed(column, row, scene.number) - 0.5;
        let colour = match surface {
            Surface::Sky { across, up } => return self.sky(scene, across, up),
            Surface::Wall { house, side, along, up } => self.wall(scene, house, side, [along, up], rough),
            Surface::Window { house, side, cell, at } => self.window(scene, house, side, cell, at),
            Surface::Road { x, z } => {
                let [left, right] = scene.kerbs;
                let middle = (x - (left + right) / 2.0).abs();
                let patch = noise(x * 0.9, z * 0.5, scene.number ^ 17);
                let line = middle < 0.08 && (z * 0.25).fract() < 0.5;
                if line {
                    times(if day { [0.93, 0.93, 0.90] } else { [0.80, 0.75, 0.70] }, self.ambient(scene))
                } else if day {
                    let grey = 0.40 + 0.09 * (patch - 0.5) + 0.07 * rough;
                    times([grey, grey, grey * 1.03], self.ambient(scene))
                } else {
                    // Wet: it shines of the sky, in streaks towards the eye.
                    let streak = noise(x / z * 22.0, z * 0.12, scene.number ^ 5);
                    let shine = (1.25 * scene.horizon / height - 0.25).clamp(0.0, 1.0);
                    let wet = 0.75 * shine * shine * (0.35 + 0.9 * streak);
                    mix([0.10, 0.10, 0.15], [0.93, 0.53, 0.30], wet + 0.04 * rough)
                }
            }
            Surface::Pavement { x, z } => {
                let joint = (x * 1.4).rem_euclid(1.0) < 0.07 || (z * 1.4).rem_euclid(1.0) < 0.07;
                let kerb = scene.kerbs.iter().any(|k| (x - k).abs() < 0.16);
                let tile = hashed((x * 1.4).floor() as i32 as u32, (z * 1.4).floor() as i32 as u32, scene.number);
                let tone = 0.70 + 0.10 * (tile - 0.5) + 0.05 * rough + if kerb { 0.14 } else { 0.0 };
                let tone = if joint && depth < 14.0 { tone * 0.82 } else { tone };
                let cold = if day { [tone, tone * 0.96, tone * 0.88] } else { [tone * 0.86, tone * 0.80, tone] };
                times(cold, self.ambient(scene))
            }
            Surface::Lawn { x, z } => {
                let tone = 0.8 + 0.5 * noise(x * 1.7, z * 1.7, 3) + 0.25 * rough;
                times([0.33 * tone, 0.48 * tone, 0.18 * tone], self.ambient(scene))
            }
        };
        self.far(scene, colour, depth)
    }

    /// How much of the light a side of the street has.
    fn falls(self, scene: &Scene, side: usize) -> f32 {
        let sharp = 1.0 - 0.5 * scene.clouds;
        match (self, side) {
            (Self::Day, 2) => 0.92,
            (Self::Day, side) if side == scene.lit => 1.04,
            (Self::Day, _) => 1.0 - 0.46 * sharp,
            (Self::Dusk, 2) => 0.62,
            (Self::Dusk, side) if side == scene.lit => 1.0,
            (Self::Dusk, _) => 0.72,
        }
    }

    fn wall(self, scene: &Scene, house: &House, side: usize, [along, up]: [f32; 2], rough: f32) -> Colour {
        let stain = noise(along * 0.7, up * 0.5, house.seed) - 0.5;
        let paint = WALLS[house.paint as usize % WALLS.len()];
        let mut tone = house.shade * (1.0 + 0.14 * stain + 0.06 * rough);
        if house.bricks {
            let course = (up * 3.0).floor();
            let shift = if course.rem_euclid(2.0) < 1.0 { 0.0 } else { 0.5 };
            let brick = hashed((along * 1.8 + shift).floor() as i32 as u32, course as i32 as u32, house.seed);
            tone *= 0.90 + 0.22 * brick;
        }
        if up < 0.5 {
            tone *= 0.8;
        }
        let lit = times(paint, self.ambient(scene)).map(|c| c * tone * self.falls(scene, side));
        match self {
            Self::Day => lit,
            // Lamps below, the glow of the sky above.
            Self::Dusk => mix(lit, [0.60, 0.34, 0.26], 0.22 * (1.0 - up / 9.0)),
        }
    }

    fn window(self, scene: &Scene, house: &House, side: usize, cell: [i32; 2], [u, v]: [f32; 2]) -> Colour {
        let own = hashed(cell[0] as u32, cell[1] as u32, house.seed ^ side as u32);
        let pane = 0.08..=0.92;
        let frame = !pane.contains(&u) || !pane.contains(&v) || (u - 0.5).abs() < 0.045;
        match self {
            Self::Day if frame => times([0.80, 0.80, 0.78], self.ambient(scene)).map(|c| c * self.falls(scene, side)),
            Self::Day => {
                let glass = mix([0.13, 0.17, 0.23], [0.46, 0.60, 0.74], 0.55 * v + 0.45 * own - 0.1);
                times(glass, self.ambient(scene))
            }
            Self::Dusk if frame => [0.13, 0.11, 0.14],
            Self::Dusk if own < 0.55 => {
                let warm = mix([1.0, 0.86, 0.52], [1.0, 0.68, 0.30], own * 1.8);
                mix(warm, [0.72, 0.42, 0.20], 0.5 * (1.0 - v))
            }
            Self::Dusk => mix([0.07, 0.08, 0.15], [0.34, 0.25, 0.36], v * 0.7),
        }
    }

    /// A part of a thing at metres from its foot.
    pub(super) fn thing(
        self,
        scene: &Scene,
        thing: &Thing,
        part: Part,
        [u, v]: [f32; 2],
        [column, row]: [u32; 2],
    ) -> Colour {
        let day = self == Self::Day;
        let rough = hashed(column, row, thing.seed) - 0.5;
        let paint = |number: u32| PAINTS[number as usize % PAINTS.len()];
        let towards = if scene.lit == 0 { 0.12 * u } else { -0.12 * u };
        let colour = match part {
            Part::Leaves => {
                let tuft = noise(u * 3.2, v * 3.2, thing.seed ^ 9);
                let tone = 0.62 + 0.62 * tuft + 0.10 * (v - 3.8) + towards + 0.25 * rough;
                let dark = if day { 1.0 } else { 0.62 };
                LEAVES[thing.paint as usize % LEAVES.len()].map(|c| c * tone * dark)
            }
            Part::Trunk => [0.36, 0.27, 0.20].map(|c| c * (0.9 + 0.3 * rough + towards)),
            Part::Body => {
                let tone = 0.78 + 0.28 * v + 0.5 * towards;
                paint(thing.paint).map(|c| c * tone)
            }
            Part::Glass => mix([0.12, 0.15, 0.19], [0.52, 0.64, 0.75], 1.3 * (v - 0.95)),
            Part::Tyre => [0.07, 0.07, 0.08],
            Part::Lamp if day => {
                if thing.faces {
                    [0.90, 0.90, 0.86]
                } else {
                    [0.62, 0.08, 0.08]
                }
            }
            // It shines.
            Part::Lamp => return if thing.faces { [1.0, 0.97, 0.82] } else { [1.0, 0.18, 0.12] },
            Part::Skin => [[0.90, 0.73, 0.60], [0.55, 0.38, 0.27]][thing.second as usize % 2],
            Part::Hair => [[0.20, 0.14, 0.10], [0.48, 0.34, 0.18], [0.10, 0.09, 0.09]][thing.second as usize % 3],
            Part::Coat => paint(thing.paint).map(|c| c * (0.85 + 0.8 * towards + 0.12 * rough)),
            Part::Legs => mix(paint(thing.second), [0.15, 0.16, 0.22], 0.65),
        };
        let dim = if !day && thing.kind != Kind::Tree { 1.15 } else { 1.0 };
        self.far(scene, times(colour, self.ambient(scene)).map(|c| c * dim), thing.z)
    }

    /// How dark shadows are.
    pub(super) fn shadows(self) -> f32 {
        match self {
            Self::Day => 0.55,
            Self::Dusk => 0.7,
        }
    }

    /// The grain of a pixel.
    pub(super) fn grain(self, scene: &Scene, [column, row]: [u32; 2]) -> f32 {
        let by = match self {
            Self::Day => 0.016,
            Self::Dusk => 0.030,
        };
        by * (hashed(column, row, scene.number ^ 0x5eed) - 0.5)
    }
}
