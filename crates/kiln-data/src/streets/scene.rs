//! Where things stand in a street: a scene of its number, and what a ray from the eye meets.
//!
//! Metres, the eye at (0, eye, 0), x to the right, y up, z ahead. The street runs along z between two rows of houses, whose
//! fronts are planes x = const., and ends at a wall z = const. Nothing here uses functions that differ between machines.

use super::chance::Draws;
use super::class::Class;
use super::things::{Kind, Thing};

/// A scene.
pub(super) struct Scene {
    pub(super) number: u32,
    /// Height of the horizon below the upper edge, and of the vanishing point right of the left one; in heights of the picture.
    pub(super) horizon: f32,
    vanishing: f32,
    /// Heights of the picture for a slope of 1.
    focal: f32,
    eye: f32,
    /// The kerbs, and the fronts of the houses: left and right.
    pub(super) kerbs: [f32; 2],
    walls: [f32; 2],
    /// How far the street goes.
    end: f32,
    rows: [Vec<House>; 2],
    last: House,
    /// Far ones first.
    pub(super) things: Vec<Thing>,
    /// Which row the light falls on.
    pub(super) lit: usize,
    /// How much of the sky is covered, 0 to 1.
    pub(super) clouds: f32,
    /// How light the scene is, around 1, and how warm, around 0.
    pub(super) light: f32,
    pub(super) warmth: f32,
}

/// One house of a row, from one z to the next; of height 0 it is a gap.
pub(super) struct House {
    from: f32,
    height: f32,
    /// Which paint it has, and how light that is.
    pub(super) paint: u32,
    pub(super) shade: f32,
    /// Height of a floor, width of a bay, and the parts of both that a window takes.
    floor: f32,
    bay: f32,
    pane: [f32; 2],
    /// Whether the ground floor is a shop.
    shop: bool,
    pub(super) bricks: bool,
    pub(super) seed: u32,
}

/// What is seen at a place, and how far away.
pub(super) struct Spot<'a> {
    pub(super) class: Class,
    pub(super) surface: Surface<'a>,
    pub(super) depth: f32,
}

/// A surface with the place on it.
#[derive(Clone, Copy)]
pub(super) enum Surface<'a> {
    /// The slope of the ray, to the side and up.
    Sky {
        across: f32,
        up: f32,
    },
    /// Along the front and up, in metres; `side` is 0, 1, or 2 for the end of the street.
    Wall {
        house: &'a House,
        side: usize,
        along: f32,
        up: f32,
    },
    /// The number of the window, and the place in it from 0 to 1.
    Window {
        house: &'a House,
        side: usize,
        cell: [i32; 2],
        at: [f32; 2],
    },
    /// To the side and ahead.
    Road {
        x: f32,
        z: f32,
    },
    Pavement {
        x: f32,
        z: f32,
    },
    Lawn {
        x: f32,
        z: f32,
    },
}

impl House {
    fn drawn(draws: &mut Draws, from: f32, gap: f32) -> Self {
        let tall = draws.between(0.0, 1.0);
        let height = if draws.chance(gap) { 0.0 } else { 4.5 + 11.0 * tall * tall };
        Self {
            from,
            height,
            paint: draws.below(8),
            shade: draws.between(0.8, 1.12),
            floor: draws.between(2.7, 3.5),
            bay: draws.between(1.7, 3.2),
            pane: [draws.between(0.4, 0.72), draws.between(0.45, 0.66)],
            shop: draws.chance(0.4),
            bricks: draws.chance(0.4),
            seed: draws.below(1 << 20),
        }
    }

    /// The number of the window at a place of the front, and where in it the place lies.
    fn window(&self, along: f32, up: f32) -> Option<([i32; 2], [f32; 2])> {
        let (column, row) = ((along / self.bay).floor(), (up / self.floor).floor());
        // A window that the eaves would cut is none.
        if row < 0.0 || (row + 0.9) * self.floor > self.height {
            return None;
        }
        let shop = self.shop && row == 0.0;
        let [wide, high] = if shop { [0.86, 0.62] } else { self.pane };
        let sill = if shop { 0.12 } else { 0.6 - high / 2.0 };
        let (u, v) = (along / self.bay - column, up / self.floor - row);
        let at = [(u - 0.5) / wide + 0.5, (v - sill) / high];
        let inside = at.iter().all(|x| (0.0..=1.0).contains(x));
        inside.then_some(([column as i32, row as i32], at))
    }
}

impl Scene {
    /// The scene of a number, for pictures so many times as wide as high.
    pub(super) fn of(number: u32, aspect: f32) -> Self {
        let d = &mut Draws::of(number);
        let horizon = d.between(0.40, 0.56);
        let vanishing = aspect * d.between(0.3, 0.7);
        let focal = d.between(0.62, 0.95);
        let eye = d.between(1.5, 2.6);
        // The eye stands on one half of the road or on the kerb.
        let half = d.between(2.6, 4.6);
        let off = d.between(-0.5, 0.8) * half;
        let kerbs = [-half - off, half - off];
        let pavements = [d.between(1.6, 3.6), d.between(1.6, 3.6)];
        let walls = [kerbs[0] - pavements[0], kerbs[1] + pavements[1]];
        let end = d.between(28.0, 70.0);
        let gap = d.between(0.0, 0.3);
        let mut row = || {
            let (mut houses, mut from) = (Vec::new(), 0.0);
            while from < end {
                houses.push(House::drawn(d, from, gap));
                from += d.between(4.5, 13.0);
            }
            houses
        };
        let rows = [row(), row()];
        let last = House::drawn(d, walls[0], 0.15);
        let mut scene = Self {
            number,
            horizon,
            vanishing,
            focal,
            eye,
            kerbs,
            walls,
            end,
            rows,
            last,
            things: Vec::new(),
            lit: d.below(2) as usize,
            clouds: d.between(0.0, 1.0),
            light: d.between(0.88, 1.1),
            warmth: d.between(-0.04, 0.06),
        };
        scene.things = scene.populate(d);
        scene
    }

    /// The same place at another time: houses and trees are where they were, other people and cars have come.
    pub(super) fn again(self) -> Self {
        let mut things = self.populate(&mut Draws::again(self.number));
        things.retain(|thing| thing.moves());
        things.extend(self.things.into_iter().filter(|thing| !thing.moves()));
        things.sort_by(|a, b| b.z.total_cmp(&a.z));
        Self { things, ..self }
    }

    /// Trees and people on the pavements, cars on the road: the farthest first.
    fn populate(&self, d: &mut Draws) -> Vec<Thing> {
        let mut things = Vec::new();
        let [left, right] = self.kerbs;
        for (side, kerb) in self.kerbs.into_iter().enumerate() {
            let outwards = if side == 0 { -1.0 } else { 1.0 };
            let breadth = (self.walls[side] - kerb).abs();
            if d.chance(0.62) {
                // A row of trees of one kind along the kerb.
                let (spacing, paint) = (d.between(5.0, 11.0), d.below(6));
                let mut z = d.between(4.0, 9.0);
                while z < 34.0 {
                    let x = kerb + outwards * d.between(0.4, 0.7);
                    things.push(Thing::drawn(d, Kind::Tree, x, z, paint));
                    z += spacing * d.between(0.8, 1.4);
                }
            }
            for _ in 0..d.below(4) {
                let x = kerb + outwards * breadth * d.between(0.15, 0.85);
                let (z, paint) = (d.between(2.8, 13.0), d.below(8));
                things.push(Thing::drawn(d, Kind::Person, x, z, paint));
            }
            // Parked cars, one behind the other.
            if d.chance(0.55) {
                let mut z = d.between(5.0, 16.0);
                for _ in 0..1 + d.below(3) {
                    let paint = d.below(8);
                    things.push(Thing::drawn(d, Kind::Car, kerb - outwards * 1.15, z, paint));
                    z += d.between(5.4, 9.0);
                }
            }
        }
        for _ in 0..d.below(3) {
            let lane = if d.chance(0.5) { 0.3 } else { 0.7 };
            let (z, paint) = (d.between(6.0, 24.0), d.below(8));
            things.push(Thing::drawn(d, Kind::Car, left + lane * (right - left), z, paint));
        }
        if d.chance(0.3) {
            // Somebody crosses.
            let (x, z, paint) = (left + (right - left) * d.between(0.1, 0.9), d.between(3.5, 10.0), d.below(8));
            things.push(Thing::drawn(d, Kind::Person, x, z, paint));
        }
        things.sort_by(|a, b| b.z.total_cmp(&a.z));
        things
    }

    /// What is seen at a place of the picture, without the things.
    pub(super) fn spot(&self, x: f32, y: f32) -> Spot<'_> {
        let (across, up) = ((x - self.vanishing) / self.focal, (self.horizon - y) / self.focal);
        let ground = if up < 0.0 { -self.eye / up } else { f32::INFINITY };
        let side = usize::from(across > 0.0);
        let front = if across == 0.0 { f32::INFINITY } else { self.walls[side] / across };
        if front < ground.min(self.end) {
            let row = &self.rows[side];
            let house = &row[row.partition_point(|house| house.from <= front).saturating_sub(1)];
            let height = self.eye + up * front;
            if height < house.height {
                return on_wall(house, side, front - house.from, height, front);
            }
        }
        if ground < self.end {
            let (x, z) = (across * ground, ground);
            let (class, surface) = if (self.kerbs[0]..self.kerbs[1]).contains(&x) {
                (Class::Road, Surface::Road { x, z })
            } else if (self.walls[0]..self.walls[1]).contains(&x) {
                (Class::Pavement, Surface::Pavement { x, z })
            } else {
                (Class::Plant, Surface::Lawn { x, z })
            };
            return Spot { class, surface, depth: z };
        }
        let (along, height) = (across * self.end - self.walls[0], self.eye + up * self.end);
        let within = along >= 0.0 && across * self.end <= self.walls[1];
        if within && height < self.last.height {
            return on_wall(&self.last, 2, along, height, self.end);
        }
        if height < 2.6 {
            // A hedge closes what no house does.
            return Spot {
                class: Class::Plant,
                surface: Surface::Lawn { x: across * self.end, z: height },
                depth: self.end,
            };
        }
        Spot { class: Class::Sky, surface: Surface::Sky { across, up }, depth: f32::INFINITY }
    }

    /// Where a thing is seen.
    pub(super) fn frame(&self, thing: &Thing) -> Frame {
        let scale = self.focal / thing.z;
        let foot = [self.vanishing + thing.x * scale, self.horizon + self.eye * scale];
        Frame { foot, scale, extent: thing.extent() }
    }
}

/// A window of a house or its wall.
fn on_wall(house: &House, side: usize, along: f32, up: f32, depth: f32) -> Spot<'_> {
    match house.window(along, up) {
        Some((cell, at)) => Spot { class: Class::Window, surface: Surface::Window { house, side, cell, at }, depth },
        None => Spot { class: Class::Building, surface: Surface::Wall { house, side, along, up }, depth },
    }
}

/// Where a thing stands in the picture.
pub(super) struct Frame {
    foot: [f32; 2],
    /// Heights of the picture for a metre.
    scale: f32,
    /// Half of its breadth, its height, and how far its shadow falls towards the eye; in metres.
    extent: [f32; 3],
}

impl Frame {
    /// Left, right, top and bottom in heights of the picture.
    pub(super) fn bounds(&self) -> [f32; 4] {
        let ([x, y], [half, high, front]) = (self.foot, self.extent.map(|e| e * self.scale));
        [x - half, x + half, y - high, y + front]
    }

    /// Metres right of its foot and above it.
    pub(super) fn inside(&self, x: f32, y: f32) -> [f32; 2] {
        [(x - self.foot[0]) / self.scale, (self.foot[1] - y) / self.scale]
    }
}
