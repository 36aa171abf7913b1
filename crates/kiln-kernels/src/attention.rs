//! Scaled dot-product attention that never holds all its scores.
//!
//! With scores `S = Q Kᵀ / sqrt(d)` and `P = softmax(S)` the output is `O = P V`. Keys come in chunks,
//! queries in blocks; a block keeps the maximum and the sum of its softmax as it goes and corrects what it
//! has summed when the maximum grows (Milakov and Gimelshein 2018, *Online normalizer calculation for
//! softmax*). Kept for the gradient is only `L = log sum exp S` of each query, from which `P = exp(S - L)`
//! is computed again (Dao et al. 2022, *FlashAttention*, algorithm 4): with `D = sum(dO O)` over features,
//!
//! `dV = Pᵀ dO`, `dP = dO Vᵀ`, `dS = P (dP - D)`, `dQ = dS K / sqrt(d)`, `dK = dSᵀ Q / sqrt(d)`.
//!
//! Scores lie key by key with queries in the lanes, `Sᵀ = K Qᵀ`, so that the softmax needs no sum across a
//! vector. Operands are read where they lie, whichever of tokens and features are neighbours there, and the
//! results are laid out like them.

use crate::{
    Mask,
    conv::transpose,
    isa::{Isa, mul_add, vectorised},
    lanes,
    output::{self, Output},
    product::{ZERO, copy, parts, product},
    tasks,
    tile::{Start, Steps, Tile},
};
use std::ops::Range;

/// Queries of a block: a whole number of vector pairs on every instruction set.
const QUERIES: usize = 64;
/// Keys of a chunk, likewise.
const KEYS: usize = 128;
/// From one row of queries, or of keys, to the next: an odd number of cache lines, lest rows compete for
/// few sets.
const QUERY_PITCH: usize = QUERIES + 16;
const KEY_PITCH: usize = KEYS + 16;
/// Lanes worked on at once by the loops over scores.
const LANES: usize = 16;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) images: usize,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// Features of a query and of a key.
    pub(crate) features: usize,
    /// Features of a value.
    pub(crate) values: usize,
}

impl Shape {
    /// Multiply-adds of one product.
    fn work(&self) -> usize {
        self.images * self.heads * self.queries * self.keys * self.features.max(self.values)
    }

    /// Dimensions of the output.
    pub(crate) fn out(&self) -> [usize; 4] {
        [self.images, self.heads, self.queries, self.values]
    }

    fn query_blocks(&self) -> usize {
        self.queries.div_ceil(QUERIES)
    }

    fn key_chunks(&self) -> usize {
        self.keys.div_ceil(KEYS)
    }
}

/// Distances between neighbours along (image, head, token, feature).
pub(crate) type Strides = [usize; 4];

/// An operand `[images, heads, tokens, features]` where it lies in memory.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) strides: Strides,
}

impl View<'_> {
    /// The strides of a new tensor `[images, heads, tokens, features]` in this one's order of memory.
    pub(crate) fn strides_for(&self, [_, heads, tokens, features]: [usize; 4]) -> Strides {
        let [_, head, token, feature] = self.strides;
        if token < feature {
            [heads * features * tokens, features * tokens, 1, tokens]
        } else if head < token {
            [tokens * heads * features, features, heads * features, 1]
        } else {
            [heads * tokens * features, tokens * features, features, 1]
        }
    }

    /// Copies `tokens` of one head: `to[token * pitch + feature]`.
    fn by_tokens(&self, isa: Isa, at: Head, tokens: Range<usize>, features: usize, to: &mut [f32], pitch: usize) {
        let [.., token, feature] = self.strides;
        let from = &self.data[at.offset(self.strides) + tokens.start * token..];
        copy(isa, from, [token, feature], [tokens.len(), features], to, pitch);
    }

    /// Copies `tokens` of one head: `to[feature * pitch + token]`.
    fn by_features(&self, isa: Isa, at: Head, tokens: Range<usize>, features: usize, to: &mut [f32], pitch: usize) {
        let [.., token, feature] = self.strides;
        let from = &self.data[at.offset(self.strides) + tokens.start * token..];
        copy(isa, from, [feature, token], [features, tokens.len()], to, pitch);
    }
}

/// One head of one image.
#[derive(Clone, Copy)]
struct Head {
    image: usize,
    head: usize,
}

impl Head {
    fn new(index: usize, heads: usize) -> Head {
        Head { image: index / heads, head: index % heads }
    }

    fn offset(self, strides: Strides) -> usize {
        self.image * strides[0] + self.head * strides[1]
    }
}

impl Mask {
    /// Keys, from the first on, that a query of an image sees.
    pub(crate) fn visible(&self, image: usize, query: usize, keys: usize) -> usize {
        match self {
            Mask::None => keys,
            Mask::Causal => keys.min(query + 1),
            Mask::Lengths(lengths) => lengths[image],
        }
    }
}

/// A sum over up to `size` tokens at a time.
struct Sum {
    size: usize,
    full: Steps,
    last: Steps,
}

impl Sum {
    /// Over `total` tokens, `left` and `right` floats apart on either side.
    fn new(total: usize, size: usize, left: usize, right: usize) -> Sum {
        let steps = |count: usize| Steps::new((0..count).map(|i| (i * left, i * right)));
        Sum { size, full: steps(size.min(total)), last: steps(total % size) }
    }

    fn over(&self, count: usize) -> &Steps {
        if count == self.size { &self.full } else { &self.last }
    }
}

/// What both directions share.
struct Plan<'a> {
    tile: Tile,
    s: Shape,
    mask: &'a Mask,
    /// Over the features of a query, and of a value, both sides in feature order.
    features: Steps,
    values: Steps,
    scale: f32,
}

impl<'a> Plan<'a> {
    fn new(isa: Isa, s: &Shape, mask: &'a Mask) -> Plan<'a> {
        let steps = |count: usize| Steps::new((0..count).map(|i| (i * KEY_PITCH, i * QUERY_PITCH)));
        Plan {
            tile: Tile::new(isa),
            s: *s,
            mask,
            features: steps(s.features),
            values: steps(s.values),
            scale: 1.0 / (s.features as f32).sqrt(),
        }
    }

    fn isa(&self) -> Isa {
        self.tile.isa()
    }

    /// Queries of block `index`.
    fn queries(&self, index: usize) -> Range<usize> {
        index * QUERIES..((index + 1) * QUERIES).min(self.s.queries)
    }

    /// Keys of chunk `index`.
    fn keys(&self, index: usize) -> Range<usize> {
        index * KEYS..((index + 1) * KEYS).min(self.s.keys)
    }

    /// Chunks that some of `queries` sees part of.
    fn chunks(&self, at: Head, queries: &Range<usize>) -> usize {
        let seen = queries.clone().map(|query| self.mask.visible(at.image, query, self.s.keys)).max();
        seen.unwrap_or(0).div_ceil(KEYS)
    }

    /// The scaled queries of a block, `to[feature * QUERY_PITCH + query]`, zero where there are none.
    fn load_queries(&self, q: View, at: Head, queries: Range<usize>, to: &mut [f32]) {
        if queries.len() < QUERIES {
            to.fill(0.0);
        }
        q.by_features(self.isa(), at, queries, self.s.features, to, QUERY_PITCH);
        to.iter_mut().for_each(|value| *value *= self.scale);
    }

    /// `scores[key * QUERY_PITCH + query]` of a block and a chunk, minus infinity where a key is hidden.
    fn scores(&self, at: Head, queries: &Range<usize>, keys: Range<usize>, k: &[f32], q: &[f32], scores: &mut [f32]) {
        product(self.tile, &self.features, k, keys.len(), q, queries.len(), ZERO, scores, QUERY_PITCH);
        for (lane, query) in queries.clone().enumerate() {
            let seen = self.mask.visible(at.image, query, self.s.keys);
            for hidden in seen.max(keys.start)..keys.end {
                scores[(hidden - keys.start) * QUERY_PITCH + lane] = f32::NEG_INFINITY;
            }
        }
    }

    /// Writes `block[feature * pitch + token]` to `tokens` of one head of a tensor with `strides` that begins
    /// at `part` of `out`.
    ///
    /// # Safety
    /// Nothing else may touch these elements during the call.
    #[allow(clippy::too_many_arguments)]
    unsafe fn store(
        &self,
        block: &[f32],
        pitch: usize,
        features: usize,
        at: Head,
        tokens: Range<usize>,
        strides: Strides,
        staged: &mut [f32],
        (out, part): (&Output<'_>, usize),
    ) {
        let [.., token, feature] = strides;
        let first = part + at.offset(strides) + tokens.start * token;
        if token == 1 {
            for f in 0..features {
                // SAFETY: by the caller's promise.
                unsafe { out.write(first + f * feature, 1, &block[f * pitch..][..tokens.len()]) };
            }
        } else {
            transpose::channels_last(self.isa(), block, pitch, features, tokens.len(), staged, features);
            for (t, row) in staged.chunks_exact(features).take(tokens.len()).enumerate() {
                // SAFETY: as above.
                unsafe { out.write(first + t * token, 1, row) };
            }
        }
    }
}

/// The output, laid out in memory as the queries are, and `L` of every query.
pub(crate) fn forward(isa: Isa, s: &Shape, [q, k, v]: [View; 3], mask: &Mask) -> (Vec<f32>, Vec<f32>) {
    let (heads, strides) = (s.images * s.heads, q.strides_for(s.out()));
    let mut logs = vec![0.0; heads * s.queries];
    let plan = Plan::new(isa, s, mask);
    let sum = Sum::new(s.keys, KEYS, s.values, QUERY_PITCH);
    // Where there are few heads their queries are divided too; a task of few would copy keys for little.
    let blocks = s.query_blocks();
    let splits = (4 * tasks::threads()).div_ceil(heads.max(1)).min(blocks.div_ceil(2)).max(1);
    let fill = |out: &Output<'_>| {
        let logs = Output::new(&mut logs);
        tasks::each(heads * splits, 2 * s.work(), |task| {
            let (index, split) = (task / splits, task % splits);
            let mine = split * blocks / splits..(split + 1) * blocks / splits;
            forward_head(&plan, &sum, index, mine, [q, k, v], strides, out, &logs);
        });
    };
    // SAFETY: tasks divide heads and queries, each writes all its queries' features, and the strides give every
    // feature an element of its own.
    let out = unsafe { output::filled(heads * s.queries * s.values, fill) };
    (out, logs)
}

#[allow(clippy::too_many_arguments)]
fn forward_head(
    plan: &Plan,
    sum: &Sum,
    index: usize,
    blocks: Range<usize>,
    [q, k, v]: [View; 3],
    strides: Strides,
    out: &Output<'_>,
    logs: &Output<'_>,
) {
    let (s, tile, isa, at) = (&plan.s, plan.tile, plan.isa(), Head::new(index, plan.s.heads));
    let chunk_len = s.features * KEY_PITCH;
    let lengths = [
        s.key_chunks() * chunk_len,
        s.keys * s.values,
        s.features * QUERY_PITCH,
        KEYS * QUERY_PITCH,
        s.values * QUERY_PITCH,
        QUERIES * s.values,
    ];
    tasks::with_scratch(lengths.iter().sum(), |scratch| {
        let [all_keys, all_values, block, scores, sums, staged] = parts(scratch, lengths);
        for (chunk, to) in all_keys.chunks_exact_mut(chunk_len).enumerate() {
            k.by_features(isa, at, plan.keys(chunk), s.features, to, KEY_PITCH);
        }
        v.by_tokens(isa, at, 0..s.keys, s.values, all_values, s.values);
        for queries in blocks.map(|block| plan.queries(block)) {
            plan.load_queries(q, at, queries.clone(), block);
            let width = queries.len().next_multiple_of(LANES);
            let mut running = Running::default();
            for chunk in 0..plan.chunks(at, &queries) {
                let keys = plan.keys(chunk);
                let k = &all_keys[chunk * chunk_len..];
                plan.scores(at, &queries, keys.clone(), k, block, scores);
                soften(isa, scores, keys.len(), width, &mut running);
                let start = if chunk == 0 {
                    ZERO
                } else {
                    scale_columns(isa, sums, s.values, width, &running.correction);
                    Start::Stored
                };
                let v = &all_values[keys.start * s.values..];
                let steps = sum.over(keys.len());
                product(tile, steps, v, s.values, scores, queries.len(), start, sums, QUERY_PITCH);
            }
            let share = running.sum.map(|sum| 1.0 / sum);
            scale_columns(isa, sums, s.values, width, &share);
            let log: [f32; QUERIES] = std::array::from_fn(|i| running.max[i] + running.sum[i].ln());
            // SAFETY: these queries of this head belong to this task alone.
            unsafe {
                logs.write(index * s.queries + queries.start, 1, &log[..queries.len()]);
                plan.store(sums, QUERY_PITCH, s.values, at, queries, strides, staged, (out, 0));
            }
        }
    });
}

/// Gradients in queries, keys and values for output gradient `g`, laid out in memory as these are; those not
/// wanted are empty.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    isa: Isa,
    s: &Shape,
    [q, k, v]: [View; 3],
    out: View,
    logs: &[f32],
    g: View,
    mask: &Mask,
    wants: [bool; 3],
) -> [Vec<f32>; 3] {
    let heads = s.images * s.heads;
    let plan = Plan::new(isa, s, mask);
    // A task has some chunks of one head's keys and goes over all its queries; where heads are divided,
    // the gradients in the queries come in parts that are added in order.
    let chunks = s.key_chunks();
    let splits = (2 * tasks::threads()).div_ceil(heads.max(1)).clamp(1, chunks);
    let lengths = [heads * s.queries * s.features, heads * s.keys * s.features, heads * s.keys * s.values];
    let wanted = |i: usize| vec![0.0; if wants[i] { lengths[i] } else { 0 }];
    let (mut dq, mut dk, mut dv) = (vec![0.0; splits * wanted(0).len()], wanted(1), wanted(2));
    {
        let backward = Backward {
            plan: &plan,
            operands: [q, k, v],
            out,
            logs,
            g,
            wants,
            over_keys: Sum::new(s.keys, KEYS, s.features, QUERY_PITCH),
            over_queries: [s.features, s.values].map(|len| Sum::new(s.queries, QUERIES, len, KEY_PITCH)),
            strides: [(q, s.queries, s.features), (k, s.keys, s.features), (v, s.keys, s.values)]
                .map(|(x, tokens, features)| x.strides_for([s.images, s.heads, tokens, features])),
            to: [&mut dq, &mut dk, &mut dv].map(|to| Output::new(to)),
        };
        tasks::each(heads * splits, 5 * s.work(), |task| {
            let (index, split) = (task / splits, task % splits);
            let mine = split * chunks / splits..(split + 1) * chunks / splits;
            backward.head(index, mine, split * lengths[0]);
        });
    }
    if splits > 1 && !dq.is_empty() {
        let (sum, parts) = dq.split_at_mut(lengths[0]);
        for part in parts.chunks_exact(lengths[0]) {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        dq.truncate(lengths[0]);
    }
    [dq, dk, dv]
}

/// The gradients being computed.
struct Backward<'a> {
    plan: &'a Plan<'a>,
    operands: [View<'a>; 3],
    out: View<'a>,
    logs: &'a [f32],
    g: View<'a>,
    wants: [bool; 3],
    over_keys: Sum,
    /// Of queries, and of output gradients.
    over_queries: [Sum; 2],
    strides: [Strides; 3],
    to: [Output<'a>; 3],
}

impl Backward<'_> {
    /// Goes over all queries of head `index` with the keys of `chunks`; writes the gradient in the queries
    /// `part` elements on.
    fn head(&self, index: usize, chunks: Range<usize>, part: usize) {
        let plan = self.plan;
        let (s, tile, isa, at) = (&plan.s, plan.tile, plan.isa(), Head::new(index, plan.s.heads));
        let ([q, k, v], [wants_q, wants_k, wants_v]) = (self.operands, self.wants);
        let mine = plan.keys(chunks.start).start..plan.keys(chunks.end - 1).end;
        let (k_len, v_len) = (s.features * KEY_PITCH, s.values * KEY_PITCH);
        let lengths = [
            // Keys by features and by tokens, values by features, and their gradients by features.
            chunks.len() * k_len,
            mine.len() * s.features,
            chunks.len() * v_len,
            chunks.len() * k_len,
            chunks.len() * v_len,
            // Queries by features and by tokens, output gradients likewise, outputs.
            s.features * QUERY_PITCH,
            QUERIES * s.features,
            s.values * QUERY_PITCH,
            QUERIES * s.values,
            s.values * QUERY_PITCH,
            // P and dS with queries in the lanes and with keys in the lanes, dQ, the stage.
            KEYS * QUERY_PITCH,
            KEYS * QUERY_PITCH,
            QUERIES * KEY_PITCH,
            QUERIES * KEY_PITCH,
            s.features * QUERY_PITCH,
            KEYS * s.features.max(s.values),
        ];
        tasks::with_scratch(lengths.iter().sum(), |scratch| {
            let [
                k_features,
                k_tokens,
                v_features,
                dk,
                dv,
                q_features,
                q_tokens,
                g_features,
                g_tokens,
                out,
                p,
                ds,
                p_turned,
                ds_turned,
                dq,
                staged,
            ] = parts(scratch, lengths);
            for (i, chunk) in chunks.clone().enumerate() {
                k.by_features(isa, at, plan.keys(chunk), s.features, &mut k_features[i * k_len..], KEY_PITCH);
                v.by_features(isa, at, plan.keys(chunk), s.values, &mut v_features[i * v_len..], KEY_PITCH);
            }
            k.by_tokens(isa, at, mine.clone(), s.features, k_tokens, s.features);
            dk.fill(0.0);
            dv.fill(0.0);
            for queries in (0..s.query_blocks()).map(|block| plan.queries(block)) {
                let (count, width) = (queries.len(), queries.len().next_multiple_of(LANES));
                plan.load_queries(q, at, queries.clone(), q_features);
                self.g.by_features(isa, at, queries.clone(), s.values, g_features, QUERY_PITCH);
                self.out.by_features(isa, at, queries.clone(), s.values, out, QUERY_PITCH);
                if wants_k {
                    // With the scale, which this gradient needs once too.
                    transpose::channels_last(isa, q_features, QUERY_PITCH, s.features, count, q_tokens, s.features);
                }
                if wants_v {
                    self.g.by_tokens(isa, at, queries.clone(), s.values, g_tokens, s.values);
                }
                let mut log = [0.0; QUERIES];
                log[..count].copy_from_slice(&self.logs[index * s.queries + queries.start..][..count]);
                let mut d = [0.0; QUERIES];
                inner_products(isa, g_features, out, s.values, width, &mut d);

                dq.fill(0.0);
                let seen = plan.chunks(at, &queries);
                for (i, chunk) in chunks.clone().take_while(|chunk| *chunk < seen).enumerate() {
                    let keys = plan.keys(chunk);
                    plan.scores(at, &queries, keys.clone(), &k_features[i * k_len..], q_features, p);
                    weights(isa, p, keys.len(), width, &log);
                    if wants_v {
                        transpose::channels_last(isa, p, QUERY_PITCH, keys.len(), count, p_turned, KEY_PITCH);
                        let (steps, to) = (self.over_queries[1].over(count), &mut dv[i * v_len..]);
                        product(tile, steps, g_tokens, s.values, p_turned, keys.len(), Start::Stored, to, KEY_PITCH);
                    }
                    if !wants_q && !wants_k {
                        continue;
                    }
                    let v = &v_features[i * v_len..];
                    product(tile, &plan.values, v, keys.len(), g_features, count, ZERO, ds, QUERY_PITCH);
                    score_backward(isa, p, ds, keys.len(), width, &d);
                    if wants_q {
                        let k = &k_tokens[(keys.start - mine.start) * s.features..];
                        let steps = self.over_keys.over(keys.len());
                        product(tile, steps, k, s.features, ds, count, Start::Stored, dq, QUERY_PITCH);
                    }
                    if wants_k {
                        transpose::channels_last(isa, ds, QUERY_PITCH, keys.len(), count, ds_turned, KEY_PITCH);
                        let (steps, to) = (self.over_queries[0].over(count), &mut dk[i * k_len..]);
                        product(tile, steps, q_tokens, s.features, ds_turned, keys.len(), Start::Stored, to, KEY_PITCH);
                    }
                }
                if wants_q {
                    dq.iter_mut().for_each(|value| *value *= plan.scale);
                    // SAFETY: this part of these queries' gradient belongs to this task alone.
                    unsafe {
                        let to = (&self.to[0], part);
                        plan.store(dq, QUERY_PITCH, s.features, at, queries, self.strides[0], staged, to);
                    }
                }
            }
            for (i, chunk) in chunks.enumerate() {
                let keys = plan.keys(chunk);
                // SAFETY: these keys of this head belong to this task alone.
                unsafe {
                    if wants_k {
                        let (block, to) = (&dk[i * k_len..], (&self.to[1], 0));
                        plan.store(block, KEY_PITCH, s.features, at, keys.clone(), self.strides[1], staged, to);
                    }
                    if wants_v {
                        let (block, to) = (&dv[i * v_len..], (&self.to[2], 0));
                        plan.store(block, KEY_PITCH, s.values, at, keys, self.strides[2], staged, to);
                    }
                }
            }
        });
    }
}

/// A softmax over the keys so far, for each query of a block.
struct Running {
    max: [f32; QUERIES],
    /// Of `exp(score - max)`.
    sum: [f32; QUERIES],
    /// What earlier sums must be multiplied with since the maximum grew.
    correction: [f32; QUERIES],
}

impl Default for Running {
    fn default() -> Self {
        Running { max: [f32::NEG_INFINITY; QUERIES], sum: [0.0; QUERIES], correction: [0.0; QUERIES] }
    }
}

/// `exp(x)` for `x <= 0`: nothing at all where it is below 1e-38, as for a hidden key. NaN passes through.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    let inside = if x < -87.0 { -87.0 } else { x };
    let value = lanes::exp::<FMA>(inside);
    if x < -87.0 { 0.0 } else { value }
}

vectorised! {
    /// Turns the scores of a chunk into `exp(score - max)`, `max` being the greatest of all keys so far.
    fn soften(scores: &mut [f32], keys: usize, width: usize, running: &mut Running) {
        for lane in (0..width).step_by(LANES) {
            let range = lane..lane + LANES;
            let old: [f32; LANES] = std::array::from_fn(|l| running.max[lane + l]);
            let mut max = old;
            for row in scores.chunks_exact(QUERY_PITCH).take(keys) {
                for (max, score) in max.iter_mut().zip(&row[range.clone()]) {
                    *max = if *score > *max { *score } else { *max };
                }
            }
            let mut sum = [0.0f32; LANES];
            for row in scores.chunks_exact_mut(QUERY_PITCH).take(keys) {
                let row = &mut row[range.clone()];
                for l in 0..LANES {
                    row[l] = exp::<FMA>(row[l] - max[l]);
                    sum[l] += row[l];
                }
            }
            for l in 0..LANES {
                let correction = exp::<FMA>(old[l] - max[l]);
                running.max[lane + l] = max[l];
                running.correction[lane + l] = correction;
                running.sum[lane + l] = running.sum[lane + l] * correction + sum[l];
            }
        }
    }
}

vectorised! {
    /// Multiplies each column of `rows` rows by its factor.
    fn scale_columns(block: &mut [f32], rows: usize, width: usize, factors: &[f32; QUERIES]) {
        for row in block.chunks_exact_mut(QUERY_PITCH).take(rows) {
            for (value, factor) in row[..width].iter_mut().zip(factors) {
                *value *= factor;
            }
        }
    }
}

vectorised! {
    /// Turns scores into `P = exp(score - log)`.
    fn weights(scores: &mut [f32], keys: usize, width: usize, log: &[f32; QUERIES]) {
        for row in scores.chunks_exact_mut(QUERY_PITCH).take(keys) {
            for (value, log) in row[..width].iter_mut().zip(log) {
                *value = exp::<FMA>(*value - log);
            }
        }
    }
}

vectorised! {
    /// Turns `dP` into `dS = P (dP - D)`.
    fn score_backward(p: &[f32], dp: &mut [f32], keys: usize, width: usize, d: &[f32; QUERIES]) {
        for (p, dp) in p.chunks_exact(QUERY_PITCH).zip(dp.chunks_exact_mut(QUERY_PITCH)).take(keys) {
            for ((dp, p), d) in dp[..width].iter_mut().zip(p).zip(d) {
                *dp = p * (*dp - d);
            }
        }
    }
}

vectorised! {
    /// The inner product of each column of `a` with that of `b`.
    fn inner_products(a: &[f32], b: &[f32], rows: usize, width: usize, out: &mut [f32; QUERIES]) {
        for (a, b) in a.chunks_exact(QUERY_PITCH).zip(b.chunks_exact(QUERY_PITCH)).take(rows) {
            for ((out, a), b) in out[..width].iter_mut().zip(a).zip(b) {
                *out = mul_add::<FMA>(*a, *b, *out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + salt * 104_729) as f32 * 0.37).sin() * 1.5).collect()
    }

    /// `[images, heads, tokens, features]` and one value for each place of a tensor in any order of memory.
    fn at(x: &View, [i, h, t, f]: [usize; 4]) -> f64 {
        x.data[i * x.strides[0] + h * x.strides[1] + t * x.strides[2] + f * x.strides[3]] as f64
    }

    /// The definition in plain loops: output, logarithms, and gradients in queries, keys and values, in
    /// row-major order.
    fn plain(s: &Shape, [q, k, v]: [View; 3], g: View, mask: &Mask) -> [Vec<f64>; 5] {
        let Shape { images, heads, queries, keys, features, values } = *s;
        let mut all = [(queries, values), (queries, 1), (queries, features), (keys, features), (keys, values)]
            .map(|(tokens, features)| vec![0.0; images * heads * tokens * features]);
        let scale = 1.0 / (features as f64).sqrt();
        for (i, h) in (0..images).flat_map(|i| (0..heads).map(move |h| (i, h))) {
            let head = i * heads + h;
            for a in 0..queries {
                let seen = mask.visible(i, a, keys);
                let dot = |x: &View, y: &View, t: usize, u: usize, count: usize| -> f64 {
                    (0..count).map(|f| at(x, [i, h, t, f]) * at(y, [i, h, u, f])).sum()
                };
                let scores: Vec<f64> = (0..seen).map(|b| dot(&q, &k, a, b, features) * scale).collect();
                let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
                let log = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
                let p: Vec<f64> = scores.iter().map(|s| (s - log).exp()).collect();
                let dp: Vec<f64> = (0..seen).map(|b| dot(&g, &v, a, b, values)).collect();
                let d: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                let query = head * queries + a;
                all[1][query] = log;
                for b in 0..seen {
                    let key = head * keys + b;
                    for f in 0..values {
                        all[0][query * values + f] += p[b] * at(&v, [i, h, b, f]);
                        all[4][key * values + f] += p[b] * at(&g, [i, h, a, f]);
                    }
                    let ds = p[b] * (dp[b] - d) * scale;
                    for f in 0..features {
                        all[2][query * features + f] += ds * at(&k, [i, h, b, f]);
                        all[3][key * features + f] += ds * at(&q, [i, h, a, f]);
                    }
                }
            }
        }
        all
    }

    #[track_caller]
    fn close(what: &str, got: &[f32], strides: Strides, [images, heads, tokens, features]: [usize; 4], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "{what}");
        let view = View { data: got, strides };
        let scale = want.iter().fold(0.1f64, |m, v| m.max(v.abs()));
        for (place, want) in want.iter().enumerate() {
            let (row, f) = (place / features, place % features);
            let got = at(&view, [row / tokens / heads, row / tokens % heads, row % tokens, f]);
            assert!((got - want).abs() <= 1e-5 * scale, "{what} at {place}: {got} against {want}");
        }
        assert_eq!(images * heads * tokens * features, want.len());
    }

    #[test]
    fn every_instruction_set_matches_the_definition() {
        // images, heads, queries, keys, features, values
        let table = [
            [1, 1, 1, 1, 1, 1],
            [2, 3, 5, 7, 3, 4],
            [1, 2, 64, 128, 8, 8],
            [1, 1, 65, 129, 16, 5],
            [33, 1, 3, 48, 5, 130],
            [1, 1, 257, 63, 48, 32],
            [2, 1, 49, 300, 17, 64],
            [1, 1, 300, 300, 13, 14],
            [7, 2, 16, 1, 20, 3],
        ];
        for [images, heads, queries, keys, features, values] in table {
            let s = Shape { images, heads, queries, keys, features, values };
            let sizes = [(queries, features), (keys, features), (keys, values), (queries, values)];
            let data: Vec<Vec<f32>> = (0..4).map(|i| noise(images * heads * sizes[i].0 * sizes[i].1 + 11, i)).collect();
            let lengths = Mask::Lengths((0..images).map(|i| 1 + (i * 31 + keys / 2) % keys).collect());
            // Token by token, feature by feature, and with the heads of a token together.
            for (order, mask) in [(0, Mask::None), (1, Mask::Causal), (2, lengths), (1, Mask::None), (3, Mask::Causal)]
            {
                let views: [View; 4] = std::array::from_fn(|i| {
                    let (tokens, features) = sizes[i];
                    let strides = match if order == 3 { i % 3 } else { order } {
                        0 => [heads * tokens * features, tokens * features, features, 1],
                        1 => [heads * tokens * features, tokens * features, 1, tokens],
                        _ => [heads * tokens * features, features, heads * features, 1],
                    };
                    View { data: &data[i][i..], strides }
                });
                let [q, k, v, g] = views;
                let [y, log, dq, dk, dv] = plain(&s, [q, k, v], g, &mask);
                let dims = |i: usize| [images, heads, sizes[i].0, sizes[i].1];
                for isa in Isa::all() {
                    let what = format!("{isa:?} {s:?} {mask:?} {order}");
                    let strides = q.strides_for(dims(3));
                    let (out, logs) = forward(isa, &s, [q, k, v], &mask);
                    close(&what, &out, strides, dims(3), &y);
                    close(&what, &logs, [heads * queries, queries, 1, 1], [images, heads, queries, 1], &log);
                    let out = View { data: &out, strides };
                    let strides = [q.strides_for(dims(0)), k.strides_for(dims(1)), v.strides_for(dims(2))];
                    let run = |wants| backward(isa, &s, [q, k, v], out, &logs, g, &mask, wants);
                    let all = run([true; 3]);
                    for (i, want) in [&dq, &dk, &dv].into_iter().enumerate() {
                        close(&format!("gradient {i} {what}"), &all[i], strides[i], dims(i), want);
                        let only = run(std::array::from_fn(|j| i == j));
                        assert_eq!(only[i], all[i]);
                        assert!((0..3).all(|j| i == j || only[j].is_empty()));
                    }
                }
            }
        }
    }

    #[test]
    fn large_scores_neither_overflow_nor_lose_the_rest() {
        let s = Shape { images: 1, heads: 1, queries: 2, keys: 400, features: 1, values: 1 };
        let strides = [0, 0, 1, 1];
        // Scores from -400 to 399, then from 399 down: the maximum keeps growing, or never does.
        let k: Vec<f32> = (0..400).map(|i| i as f32 * 2.0 - 400.0).collect();
        let v: Vec<f32> = (0..400).map(|i| i as f32).collect();
        let [q, k, v] = [&[1.0f32, -1.0][..], &k, &v].map(|data| View { data, strides });
        for isa in Isa::all() {
            let (y, logs) = forward(isa, &s, [q, k, v], &Mask::None);
            // The sum of exp(-2 i) and of i exp(-2 i).
            let r = (-2.0f64).exp();
            let below = r / (1.0 - r);
            for (got, want) in [(y[0], 399.0 - below), (y[1], below), (logs[0], 398.0 - (1.0 - r).ln())] {
                assert!((f64::from(got) - want).abs() < 1e-4, "{isa:?}: {got} against {want}");
            }
        }
    }

    #[test]
    fn not_a_number_reaches_the_output() {
        let s = Shape { images: 1, heads: 1, queries: 1, keys: 2, features: 1, values: 1 };
        let strides = [0, 0, 1, 1];
        let [q, k, v] = [&[1.0f32][..], &[f32::NAN, 1.0], &[1.0, 2.0]].map(|data| View { data, strides });
        for isa in Isa::all() {
            assert!(forward(isa, &s, [q, k, v], &Mask::None).0[0].is_nan(), "{isa:?}");
        }
    }
}
