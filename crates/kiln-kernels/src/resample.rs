//! Separable linear maps of pictures: resizing, pooling, FIR filters, padding, and their gradients.
//!
//! A [`Filter`] is a sparse matrix that makes one axis from another; a picture is mapped along both of its
//! axes, first along whichever leaves less to do along the other. Rows are sums of rows, in whole vectors. Along
//! a row, where most outputs repeat one pattern of weights (doubling, halving, blurring), neighbouring
//! outputs share a vector, and only those near the border are summed one by one; for any other filter the
//! plane is turned, mapped along its rows, and turned back.

use crate::{
    conv::transpose,
    isa::{Isa, mul_add, vectorised},
    output::{self, Output},
    tasks,
};
use std::{mem::MaybeUninit, ops::Range, sync::Arc};

/// A sparse matrix that maps one axis of a picture: each output is a weighted sum of inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Map);

#[derive(Clone, Debug, PartialEq)]
enum Map {
    /// So many values as they are.
    Identity(usize),
    /// Anything else.
    Sums(Arc<Sums>),
}

/// What each output is the sum of.
#[derive(Debug, PartialEq)]
struct Sums {
    inputs: usize,
    /// Where each output's taps begin, and where the last one's end.
    begins: Vec<usize>,
    /// Inputs in ascending order, and what they are multiplied with.
    taps: Vec<(u32, f32)>,
}

impl Filter {
    /// The map that leaves `count` values as they are.
    pub fn identity(count: usize) -> Filter {
        Filter(Map::Identity(count))
    }

    /// The map of `inputs` values whose outputs are these sums of `(input, weight)`. Panics if an input is
    /// out of range.
    pub fn new(inputs: usize, outputs: impl IntoIterator<Item = Vec<(usize, f32)>>) -> Filter {
        let (mut begins, mut taps) = (vec![0], Vec::<(u32, f32)>::new());
        for mut sum in outputs {
            sum.sort_by_key(|tap| tap.0);
            let begin = taps.len();
            for (input, weight) in sum {
                assert!(input < inputs, "a filter of {inputs} inputs has none at {input}");
                match taps[begin..].last_mut() {
                    Some(last) if last.0 == input as u32 => last.1 += weight,
                    _ => taps.push((input as u32, weight)),
                }
            }
            begins.push(taps.len());
        }
        let sums = Sums { inputs, begins, taps };
        let same = |output: usize| sums.taps(output) == [(output as u32, 1.0)];
        if sums.outputs() == inputs && (0..inputs).all(same) {
            return Filter::identity(inputs);
        }
        Filter(Map::Sums(Arc::new(sums)))
    }

    /// Length of the axis read.
    pub fn inputs(&self) -> usize {
        match &self.0 {
            Map::Identity(count) => *count,
            Map::Sums(sums) => sums.inputs,
        }
    }

    /// Length of the axis made.
    pub fn outputs(&self) -> usize {
        match &self.0 {
            Map::Identity(count) => *count,
            Map::Sums(sums) => sums.outputs(),
        }
    }

    /// The map back along which gradients go: the transposed matrix.
    pub fn transposed(&self) -> Filter {
        let Map::Sums(sums) = &self.0 else { return self.clone() };
        let mut turned = vec![Vec::new(); sums.inputs];
        for output in 0..sums.outputs() {
            for (input, weight) in sums.taps(output) {
                turned[*input as usize].push((output, *weight));
            }
        }
        Filter::new(sums.outputs(), turned)
    }

    /// The matrix `[inputs, outputs]` in row-major order, unless it is the identity.
    pub(crate) fn matrix(&self) -> Option<Vec<f32>> {
        let Map::Sums(sums) = &self.0 else { return None };
        let mut matrix = vec![0.0; sums.inputs * sums.outputs()];
        for output in 0..sums.outputs() {
            for (input, weight) in sums.taps(output) {
                matrix[*input as usize * sums.outputs() + output] = *weight;
            }
        }
        Some(matrix)
    }
}

impl Sums {
    fn outputs(&self) -> usize {
        self.begins.len() - 1
    }

    /// The taps `(input, weight)` of an output.
    fn taps(&self, output: usize) -> &[(u32, f32)] {
        &self.taps[self.begins[output]..self.begins[output + 1]]
    }
}

/// `[planes, rows.outputs(), columns.outputs()]` from `[planes, rows.inputs(), columns.inputs()]`.
pub(crate) fn resample(isa: Isa, x: &[f32], planes: usize, rows: &Filter, columns: &Filter) -> Vec<f32> {
    let ([h, w], [oh, ow]) = ([rows, columns].map(Filter::inputs), [rows, columns].map(Filter::outputs));
    if x.is_empty() || planes * oh * ow == 0 {
        return vec![0.0; planes * oh * ow];
    }
    let (rows, columns) = match (&rows.0, &columns.0) {
        (Map::Identity(_), Map::Identity(_)) => return x.to_vec(),
        (Map::Sums(rows), Map::Identity(_)) => return along_columns(isa, x, planes, rows, w),
        (Map::Identity(_), Map::Sums(columns)) => (None, columns),
        (Map::Sums(rows), Map::Sums(columns)) => (Some(rows), columns),
    };
    let across = Across::new(columns);
    // Rows first where that is less work.
    let (by_rows, by_columns) = (rows.map_or(0, |rows| rows.taps.len()), columns.taps.len());
    let rows_first = by_rows * w + oh * by_columns <= h * by_columns + by_rows * ow;
    let (lines, between) = match rows {
        None => (h, 0),
        Some(_) if rows_first => (oh, oh * w),
        Some(_) => (h, h * ow),
    };
    let fill = |out: &Output<'_>| {
        tasks::each(planes, planes * (h * w + oh * ow), |plane| {
            tasks::with_scratch(between + across.scratch(lines), |scratch| {
                let (between, scratch) = scratch.split_at_mut(between);
                let from = &x[plane * h * w..][..h * w];
                // SAFETY: each task has its own plane.
                let to = unsafe { out.slice(plane * oh * ow..(plane + 1) * oh * ow) };
                match rows {
                    None => across.run(isa, from, lines, scratch, to),
                    Some(rows) if rows_first => {
                        sum_rows(isa, rows, 0..oh, from, w, writable(between));
                        across.run(isa, between, lines, scratch, to);
                    }
                    Some(rows) => {
                        across.run(isa, from, lines, scratch, writable(between));
                        sum_rows(isa, rows, 0..oh, between, ow, to);
                    }
                }
            });
        });
    };
    // SAFETY: the planes together are the whole output, and each way above writes all of one.
    unsafe { output::filled(planes * oh * ow, fill) }
}

/// Elements of a task where one plane can make several.
const SHARE: usize = 1 << 14;

/// Maps the rows alone.
fn along_columns(isa: Isa, x: &[f32], planes: usize, rows: &Sums, width: usize) -> Vec<f32> {
    let (plane, outputs) = (rows.inputs * width, rows.outputs());
    let band = SHARE.div_ceil(width).min(outputs);
    let bands = outputs.div_ceil(band);
    let len = planes * outputs * width;
    let fill = |out: &Output<'_>| {
        tasks::each(planes * bands, planes * plane + len, |task| {
            let (index, first) = (task / bands, task % bands * band);
            let lines = first..(first + band).min(outputs);
            let (start, end) = (index * outputs + lines.start, index * outputs + lines.end);
            // SAFETY: each task has its own rows of its plane.
            let to = unsafe { out.slice(start * width..end * width) };
            sum_rows(isa, rows, lines, &x[index * plane..][..plane], width, to);
        });
    };
    // SAFETY: the bands together are all rows of all planes.
    unsafe { output::filled(len, fill) }
}

/// Initialised memory as memory to write. What this file writes are values.
fn writable(buffer: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: both types have the same layout, and nothing here takes a value away.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), buffer.len()) }
}

/// Lanes of a row that are summed at once.
const LANES: usize = 32;

vectorised! {
    /// Writes `outputs` of the filter, each a sum of rows `width` wide.
    fn sum_rows(filter: &Sums, outputs: Range<usize>, from: &[f32], width: usize, to: &mut [MaybeUninit<f32>]) {
        for (output, to) in outputs.zip(to.chunks_exact_mut(width)) {
            let taps = filter.taps(output);
            if let [(input, weight)] = taps && *weight == 1.0 {
                to.write_copy_of_slice(&from[*input as usize * width..][..width]);
                continue;
            }
            for (lane, to) in (0..width).step_by(LANES).zip(to.chunks_mut(LANES)) {
                let mut sums = [0.0f32; LANES];
                if to.len() == LANES {
                    for (input, weight) in taps {
                        let row = &from[*input as usize * width + lane..][..LANES];
                        for l in 0..LANES {
                            sums[l] = mul_add::<FMA>(*weight, row[l], sums[l]);
                        }
                    }
                } else {
                    for (input, weight) in taps {
                        let row = &from[*input as usize * width + lane..][..to.len()];
                        for (sum, value) in sums.iter_mut().zip(row) {
                            *sum = mul_add::<FMA>(*weight, *value, *sum);
                        }
                    }
                }
                to.write_copy_of_slice(&sums[..to.len()]);
            }
        }
    }
}

/// How rows are mapped.
enum Across<'a> {
    /// A pattern that most outputs repeat.
    Repeated(&'a Sums, Pattern),
    /// No such pattern: the plane is turned.
    Turned(&'a Sums),
}

impl<'a> Across<'a> {
    fn new(filter: &'a Sums) -> Across<'a> {
        match Pattern::of(filter) {
            Some(pattern) => Across::Repeated(filter, pattern),
            None => Across::Turned(filter),
        }
    }

    /// Floats needed beside source and target for so many rows.
    fn scratch(&self, lines: usize) -> usize {
        match self {
            Across::Repeated(..) => 0,
            Across::Turned(filter) => (filter.inputs.max(filter.outputs()) + filter.outputs()) * lines,
        }
    }

    /// Maps `lines` rows.
    fn run(&self, isa: Isa, from: &[f32], lines: usize, scratch: &mut [f32], to: &mut [MaybeUninit<f32>]) {
        match self {
            Across::Repeated(filter, pattern) => repeated(isa, filter, pattern, from, lines, to),
            Across::Turned(filter) => {
                let (w, ow) = (filter.inputs, filter.outputs());
                let (turned, made) = scratch.split_at_mut(w.max(ow) * lines);
                transpose::channels_last(isa, from, w, lines, w, turned, lines);
                sum_rows(isa, filter, 0..ow, turned, lines, writable(made));
                let back = &mut turned[..ow * lines];
                transpose::channels_last(isa, made, lines, ow, lines, back, ow);
                to.write_copy_of_slice(back);
            }
        }
    }
}

/// Outputs `up * j + phase` that all read the inputs from `down * j` on with the weights of their phase.
struct Pattern {
    up: usize,
    down: usize,
    /// The first `j`, how many there are, and what the first one reads first.
    first: usize,
    count: usize,
    start: usize,
    /// Inputs read, a multiple of `down`, and their weights for each phase.
    reach: usize,
    weights: Vec<f32>,
}

impl Pattern {
    /// Inputs read beyond which a pattern is not worth following.
    const REACH: usize = 32;

    /// The pattern most outputs of a filter repeat, if more than half of them do.
    fn of(filter: &Sums) -> Option<Pattern> {
        let rates = [(1, 1), (2, 1), (1, 2), (4, 1), (1, 4)];
        let found = rates.into_iter().filter_map(|(up, down)| Pattern::at_rate(filter, up, down));
        let best = found.max_by_key(|pattern| pattern.count * pattern.up)?;
        (2 * best.count * best.up > filter.outputs()).then_some(best)
    }

    /// The longest run of outputs around the middle one with its pattern.
    fn at_rate(filter: &Sums, up: usize, down: usize) -> Option<Pattern> {
        let groups = filter.outputs() / up;
        let middle = groups / 2;
        let taps = |j: usize| (0..up).flat_map(move |p| filter.taps(up * j + p).iter().map(move |tap| (p, tap)));
        let inputs = || taps(middle).map(|(_, tap)| tap.0 as usize);
        if groups == 0 {
            return None;
        }
        let (low, high) = (inputs().min()?, inputs().max()?);
        let reach = (high + 1 - low).next_multiple_of(down);
        // Where group j begins to read.
        let start = |j: usize| (low + down * j).checked_sub(down * middle);
        let alike = |j: &usize| {
            let Some(start) = start(*j).filter(|start| start + reach <= filter.inputs) else { return false };
            taps(*j)
                .map(|(p, tap)| (p, (tap.0 as usize).wrapping_sub(start), tap.1))
                .eq(taps(middle).map(|(p, tap)| (p, tap.0 as usize - low, tap.1)))
        };
        if reach > Pattern::REACH || !alike(&middle) {
            return None;
        }
        let first = (0..middle).rev().take_while(alike).last().unwrap_or(middle);
        let count = (first..groups).take_while(alike).count();
        let mut weights = vec![0.0; up * reach];
        for (p, (input, weight)) in taps(middle) {
            weights[p * reach + *input as usize - low] = *weight;
        }
        Some(Pattern { up, down, first, count, start: start(first)?, reach, weights })
    }

    /// The outputs that follow the pattern.
    fn outputs(&self) -> Range<usize> {
        self.up * self.first..self.up * (self.first + self.count)
    }
}

vectorised! {
    /// Maps `lines` rows by a filter with a pattern.
    fn repeated(filter: &Sums, pattern: &Pattern, from: &[f32], lines: usize, to: &mut [MaybeUninit<f32>]) {
        let (w, ow, inside) = (filter.inputs, filter.outputs(), pattern.outputs());
        // Rows that each read all of theirs and nothing beyond make one long row.
        let whole = inside.len() == ow && pattern.reach == pattern.down && pattern.count * pattern.down == w;
        let (lines, w, ow) = if whole { (1, w * lines, ow * lines) } else { (lines, w, ow) };
        let inside = if whole { 0..ow } else { inside };
        let count = inside.len() / pattern.up;
        for (from, to) in from.chunks_exact(w).zip(to.chunks_exact_mut(ow)).take(lines) {
            let (reads, writes) = (&from[pattern.start..], &mut to[inside.clone()]);
            match (pattern.up, pattern.down) {
                (2, 1) => phases::<FMA, 2, 1>(pattern, reads, count, writes),
                (4, 1) => phases::<FMA, 4, 1>(pattern, reads, count, writes),
                (1, 2) => phases::<FMA, 1, 2>(pattern, reads, count, writes),
                (1, 4) => phases::<FMA, 1, 4>(pattern, reads, count, writes),
                _ => phases::<FMA, 1, 1>(pattern, reads, count, writes),
            }
            for output in (0..inside.start).chain(inside.end..ow) {
                let sum = filter.taps(output).iter().fold(0.0, |sum, (input, weight)| {
                    mul_add::<FMA>(*weight, from[*input as usize], sum)
                });
                to[output].write(sum);
            }
        }
    }
}

/// `count` groups of `UP` outputs that read `DOWN` inputs further each.
#[inline(always)]
fn phases<const FMA: bool, const UP: usize, const DOWN: usize>(
    pattern: &Pattern,
    from: &[f32],
    count: usize,
    to: &mut [MaybeUninit<f32>],
) {
    /// Groups at once.
    const LANES: usize = 16;
    let reach = pattern.reach;
    let (groups, _) = to.as_chunks_mut::<UP>();
    let (vectors, rest) = groups[..count].as_chunks_mut::<LANES>();
    for (i, groups) in vectors.iter_mut().enumerate() {
        let mut sums = [[0.0f32; LANES]; UP];
        for step in (0..reach).step_by(DOWN) {
            let inputs = &from[DOWN * LANES * i + step..][..DOWN * LANES];
            let (inputs, _) = inputs.as_chunks::<DOWN>();
            for (sums, weights) in sums.iter_mut().zip(pattern.weights.chunks_exact(reach)) {
                for (d, weight) in weights[step..step + DOWN].iter().enumerate() {
                    for l in 0..LANES {
                        sums[l] = mul_add::<FMA>(*weight, inputs[l][d], sums[l]);
                    }
                }
            }
        }
        for l in 0..LANES {
            for phase in 0..UP {
                groups[l][phase].write(sums[phase][l]);
            }
        }
    }
    for (i, group) in rest.iter_mut().enumerate() {
        let inputs = &from[DOWN * (LANES * vectors.len() + i)..][..reach];
        for (phase, to) in group.iter_mut().enumerate() {
            let weights = &pattern.weights[phase * reach..][..reach];
            let sum = inputs.iter().zip(weights).fold(0.0, |sum, (x, w)| mul_add::<FMA>(*w, *x, sum));
            to.write(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919) as f32 * 0.37).sin() * 2.0).collect()
    }

    fn sums(filter: &Filter) -> Arc<Sums> {
        let count = filter.inputs();
        match &filter.0 {
            Map::Sums(sums) => sums.clone(),
            Map::Identity(_) => Arc::new(Sums {
                inputs: count,
                begins: (0..=count).collect(),
                taps: (0..count).map(|i| (i as u32, 1.0)).collect(),
            }),
        }
    }

    fn plain(x: &[f32], planes: usize, rows: &Filter, columns: &Filter) -> Vec<f64> {
        let (h, w) = (rows.inputs(), columns.inputs());
        let (rows, columns) = (sums(rows), sums(columns));
        let size = rows.outputs() * columns.outputs();
        let value = |place: usize| -> f64 {
            let (plane, y, z) = (place / size, place % size / columns.outputs(), place % columns.outputs());
            let line = |row: &[f32]| -> f64 {
                columns.taps(z).iter().map(|(i, weight)| f64::from(*weight) * f64::from(row[*i as usize])).sum()
            };
            let down = rows.taps(y).iter();
            down.map(|(i, weight)| f64::from(*weight) * line(&x[(plane * h + *i as usize) * w..])).sum()
        };
        (0..planes * size).map(value).collect()
    }

    /// Doubling, halving and quartering by repetition and means, a blur with its borders, one that
    /// doubles, steps of no rate, a mirror, nothing at all.
    fn filters(n: usize) -> Vec<Filter> {
        let blur = |rate: usize, step: usize, outputs: usize| {
            Filter::new(
                n,
                (0..outputs).map(move |o| {
                    let taps = [0.1f32, 0.4, 0.35, 0.15].into_iter().enumerate();
                    let place = |(t, weight): (usize, f32)| {
                        let at = (o * step + t).checked_sub(2)?;
                        (at % rate == 0 && at / rate < n).then_some((at / rate, weight))
                    };
                    taps.filter_map(place).collect()
                }),
            )
        };
        vec![
            Filter::new(n, (0..n).map(|i| vec![(i, 1.0)])),
            Filter::new(n, (0..2 * n).map(|i| vec![(i / 2, 1.0)])),
            Filter::new(n, (0..4 * n).map(|i| vec![(i / 4, 1.0)])),
            Filter::new(n, (0..n / 2).map(|i| vec![(2 * i, 0.5), (2 * i + 1, 0.5)])),
            Filter::new(n, (0..n / 4).map(|i| (0..4).map(|k| (4 * i + k, 0.25)).collect())),
            blur(1, 1, n),
            blur(2, 1, 2 * n),
            blur(1, 2, n.div_ceil(2)),
            blur(3, 2, 2 * n),
            Filter::new(n, (0..n + 5).map(|i| vec![((i * 7) / (n + 5) * n / 7, 0.5), (n - 1, 0.25)])),
            Filter::new(n, (0..n).map(|i| vec![(n - 1 - i, 1.0)])),
            Filter::new(n, (0..3).map(|_| vec![])),
        ]
    }

    #[test]
    fn every_instruction_set_matches_the_definition() {
        let sizes = [(1, 1, 1), (3, 2, 3), (2, 7, 5), (5, 8, 40), (1, 63, 33), (1, 257, 63), (33, 4, 16)];
        for (case, (planes, h, w)) in sizes.into_iter().enumerate() {
            let (down, across) = (filters(h), filters(w));
            for i in 0..down.len() {
                // Every filter across, each with another one down.
                let (rows, columns) = (&down[(i * 5 + case) % down.len()], &across[i]);
                for (rows, columns) in [(rows, columns), (&rows.transposed(), &columns.transposed())] {
                    let x = &noise(planes * rows.inputs() * columns.inputs());
                    let expected = plain(x, planes, rows, columns);
                    for isa in Isa::all() {
                        let got = resample(isa, x, planes, rows, columns);
                        assert_eq!(got.len(), expected.len());
                        for (at, (got, want)) in got.iter().zip(&expected).enumerate() {
                            let off = (f64::from(*got) - want).abs();
                            assert!(off <= 4e-6, "{isa:?} {planes}x{h}x{w}, filter {i}, at {at}: {got}, not {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn usual_filters_repeat_a_pattern() {
        let found: Vec<Option<(usize, usize, usize)>> =
            filters(64).iter().map(|f| Pattern::of(&sums(f)).map(|p| (p.up, p.down, p.count))).collect();
        let expected = [(1, 1, 64), (2, 1, 64), (4, 1, 64), (1, 2, 32), (1, 4, 16), (1, 1, 61), (2, 1, 62), (1, 2, 31)];
        assert_eq!(found[..8], expected.map(Some));
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        for filter in filters(17) {
            assert_eq!(filter.transposed().transposed(), filter);
        }
    }

    #[test]
    fn taps_of_one_input_are_one() {
        let filter = Filter::new(3, [vec![(2, 0.5), (0, 1.0), (2, 0.25)]]);
        assert_eq!(sums(&filter).taps(0), [(0, 1.0), (2, 0.75)]);
    }
}
