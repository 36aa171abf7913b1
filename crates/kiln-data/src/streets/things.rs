//! What stands in a street: trees, cars and people, flat and upright, as parts with outlines in metres.

use super::chance::{Draws, noise};
use super::class::Class;

/// A thing with its foot on the ground.
pub(super) struct Thing {
    pub(super) kind: Kind,
    pub(super) x: f32,
    pub(super) z: f32,
    /// How large it is, around 1, and how broad in proportion.
    size: f32,
    breadth: f32,
    /// Which colour it has, and a second one.
    pub(super) paint: u32,
    pub(super) second: u32,
    /// Whether its front is seen.
    pub(super) faces: bool,
    pub(super) seed: u32,
}

/// What a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tree,
    Car,
    Person,
}

/// A part of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Trunk,
    Leaves,
    Body,
    Glass,
    Tyre,
    Lamp,
    Skin,
    Hair,
    Coat,
    Legs,
}

/// Whether a place lies in an ellipse.
fn ellipse(u: f32, v: f32, [x, y, a, b]: [f32; 4]) -> bool {
    let (du, dv) = ((u - x) / a, (v - y) / b);
    du * du + dv * dv <= 1.0
}

impl Thing {
    pub(super) fn drawn(d: &mut Draws, kind: Kind, x: f32, z: f32, paint: u32) -> Self {
        let (size, breadth) = match kind {
            Kind::Tree => (d.between(0.8, 1.35), d.between(0.8, 1.25)),
            Kind::Car => (d.between(0.94, 1.12), d.between(0.95, 1.08)),
            Kind::Person => (d.between(0.88, 1.1), d.between(0.9, 1.2)),
        };
        Self { kind, x, z, size, breadth, paint, second: d.below(8), faces: d.chance(0.5), seed: d.below(1 << 20) }
    }

    /// Whether it may be elsewhere at another time.
    pub(super) fn moves(&self) -> bool {
        self.kind != Kind::Tree
    }

    pub(super) fn class(&self) -> Class {
        match self.kind {
            Kind::Tree => Class::Plant,
            Kind::Car => Class::Car,
            Kind::Person => Class::Person,
        }
    }

    /// Half of the breadth, the height, and how far the shadow falls towards the eye.
    pub(super) fn extent(&self) -> [f32; 3] {
        let (half, high, front) = match self.kind {
            Kind::Tree => (2.2, 5.8, 0.3),
            Kind::Car => (1.15, 1.6, 0.2),
            Kind::Person => (0.5, 1.9, 0.08),
        };
        [half * self.size * self.breadth, high * self.size, front * self.size]
    }

    /// The part that covers a place.
    pub(super) fn part(&self, u: f32, v: f32) -> Option<Part> {
        let (u, v) = (u / (self.size * self.breadth), v / self.size);
        match self.kind {
            Kind::Tree => self.tree(u, v),
            Kind::Car => car(u, v),
            Kind::Person => self.person(u, v),
        }
    }

    /// How dark the ground is there.
    pub(super) fn shadow(&self, u: f32, v: f32) -> Option<f32> {
        let [half, _, front] = self.extent();
        let (a, b) = (u / (0.95 * half), v / front);
        let off = a * a + b * b;
        (off < 1.0).then_some(1.0 - off * off)
    }

    fn tree(&self, u: f32, v: f32) -> Option<Part> {
        // Leaves are cut by noise, so that no two crowns have one outline.
        let ragged = 0.45 * (noise(u * 2.6, v * 2.6, self.seed) - 0.5);
        let blob = |i: u32| {
            let at = |k: u32| noise(i as f32 * 7.3, k as f32 * 3.1, self.seed) - 0.5;
            let (x, y, r) = (1.5 * at(1), 3.8 + 1.7 * at(2), 1.2 + 0.6 * at(3));
            let (du, dv) = (u - x, v - y);
            du * du + dv * dv <= (r + ragged) * (r + ragged)
        };
        if (0..4).any(blob) {
            return Some(Part::Leaves);
        }
        let thick = 0.16 + 0.05 * (2.6 - v).max(0.0);
        (u.abs() < thick && (0.0..3.6).contains(&v)).then_some(Part::Trunk)
    }

    fn person(&self, u: f32, v: f32) -> Option<Part> {
        if ellipse(u, v, [0.0, 1.62, 0.13, 0.155]) {
            return Some(if v > 1.68 || !self.faces { Part::Hair } else { Part::Skin });
        }
        let shoulders = 0.25 + 0.04 * (1.45 - v);
        if (0.85..1.46).contains(&v) && u.abs() < shoulders {
            return Some(Part::Coat);
        }
        let spread = 0.06 + 0.14 * (0.9 - v) * noise(0.0, 1.0, self.seed);
        let leg = |x: f32| (u - x).abs() < 0.105;
        ((0.0..0.86).contains(&v) && (leg(-spread) || leg(spread))).then_some(Part::Legs)
    }
}

/// A car from the front or from behind.
fn car(u: f32, v: f32) -> Option<Part> {
    let across = u.abs();
    if (0.86..1.46).contains(&v) {
        let edge = 0.86 - 0.3 * (v - 0.86);
        if across < edge - 0.09 && (0.92..1.38).contains(&v) {
            return Some(Part::Glass);
        }
        return (across < edge).then_some(Part::Body);
    }
    if (0.6..0.8).contains(&v) && (0.56..0.84).contains(&across) {
        return Some(Part::Lamp);
    }
    let round = if v > 0.7 { 0.9 - 0.3 * (v - 0.7) } else { 0.9 };
    if (0.24..0.9).contains(&v) && across < round {
        return Some(Part::Body);
    }
    ((0.0..0.3).contains(&v) && (0.56..0.86).contains(&across)).then_some(Part::Tyre)
}
