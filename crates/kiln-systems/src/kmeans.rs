//! Coates, Ng & Lee, *An Analysis of Single-Layer Networks in Unsupervised Feature Learning*, 2011, and Coates & Ng, *Selecting
//! Receptive Fields in Deep Networks*, 2011: features by clustering patches, which Radford 2016 (table 1) compares a
//! discriminator's with.
//!
//! A layer cuts its input into patches, whitens them, and finds `features` centres c among them. A patch x then has the
//! features max(0, mean_k z_k − z_k) with z_k = ‖x − c_k‖ ("triangle"). Their sums over the four quarters of a picture are
//! what a linear SVM is given.
//!
//! | paper | here |
//! |---|---|
//! | patches of 6×6, each with its mean taken out and divided by its deviation | `patch`, `contrast` |
//! | ZCA whitening | `Group::fit` |
//! | k-means | `lloyd` |
//! | a deeper layer: sums of 2×2 neighbours, of which groups of channels with the largest squared correlation are clustered | `layers`, `groups`, `group_size`, `related` |
//! | all layers' features together | [`KMeans::represent`] |
//!
//! It is trained in one pass, in closed form. `kiln train kmeans --data fashion`, then `kiln evaluate RUN --metrics svm`.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use faer::{Mat, Side};
use kiln_core::random::Key;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::tensor::{from_indices, from_values, to_values};
use kiln_train::request::check_pictures;
use kiln_train::{Abilities, DataConfig, FitData, Phase, Pictures, Represent, System, TrainConfig};
use serde::{Deserialize, Serialize};

/// Added to the variance of a patch, of values in [−1, 1]: 10 of 255 levels squared in the paper's code.
const CONTRAST: f64 = 10.0 / (127.5 * 127.5);
/// Added to the eigenvalues of whitening.
const WHITEN: f64 = 0.1;
/// Side of the patches of deeper layers.
const DEEPER: usize = 2;
/// Patches whose distances are in memory at a time.
const CHUNK: usize = 8_192;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Layers, 1 or more.
    pub layers: usize,
    /// Centres of each layer.
    pub features: usize,
    /// Side of the patches of the first layer.
    pub patch: usize,
    /// Patches that centres are found among.
    pub patches: usize,
    /// Groups of channels of each deeper layer, which share its centres.
    pub groups: usize,
    /// Channels of a group.
    pub group_size: usize,
    /// Moves of the centres.
    pub moves: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { layers: 1, features: 800, patch: 6, patches: 100_000, groups: 16, group_size: 64, moves: 20 }
    }
}

/// All layers, and how features are brought to one scale.
#[derive(Module, Debug)]
pub struct Networks {
    /// From the first.
    pub layers: Vec<Layer>,
    /// The mean of each feature, `[features]`.
    pub mean: Param<Tensor<1>>,
    /// Its deviation.
    pub deviation: Param<Tensor<1>>,
}

/// Groups of channels, each clustered alone.
#[derive(Module, Debug)]
pub struct Layer {
    groups: Vec<Group>,
}

/// Channels that are clustered together.
#[derive(Module, Debug)]
pub struct Group {
    /// Their numbers.
    channels: Param<Tensor<1>>,
    /// The mean patch, `[d]`.
    mean: Param<Tensor<1>>,
    /// `[d, d]`.
    whiten: Param<Tensor<2>>,
    /// `[k, d]`.
    centres: Param<Tensor<2>>,
}

impl Group {
    fn new(channels: usize, side: usize, centres: usize, init: &mut Init) -> Self {
        let d = channels * side * side;
        Self {
            channels: init.constant([channels], 0.0),
            mean: init.constant([d], 0.0),
            whiten: init.constant([d, d], 0.0),
            centres: init.constant([centres, d], 0.0),
        }
    }

    /// The group of these channels, whitened and clustered on patches, row-major.
    fn fit(self, channels: &[u32], patches: Vec<f32>, moves: usize, key: Key) -> Result<Self> {
        let [k, d] = self.centres.dims();
        let device = self.mean.device();
        let n = patches.len() / d;
        refuse_if!(n < k, "{k} centres among {n} patches: lower model.features, or give more or larger images");
        let x = Mat::from_fn(n, d, |i, j| f64::from(patches[i * d + j]));
        let mean: Vec<f64> = (0..d).map(|j| (0..n).map(|i| x[(i, j)]).sum::<f64>() / n as f64).collect();
        let x = Mat::from_fn(n, d, |i, j| x[(i, j)] - mean[j]);
        let covariance = Mat::from_fn(d, d, |i, j| (x.col(i).transpose() * x.col(j)) / (n as f64 - 1.0));
        let eigen = covariance
            .self_adjoint_eigen(Side::Lower)
            .map_err(|_| Error::new("the patches have no principal components"))?;
        let (u, s) = (eigen.U(), eigen.S().column_vector());
        let scaled = Mat::from_fn(d, d, |i, j| u[(i, j)] / (s[j].max(0.0) + WHITEN).sqrt());
        let whiten = scaled * u.transpose();
        let narrow = |m: &Mat<f64>| -> Vec<f32> {
            (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)] as f32)).collect()
        };
        let whitened = from_values(narrow(&(x * &whiten)), [n, d], &device);
        let vector = |values: Vec<f32>| from_values::<1>(values, [d], &device);
        let centres = lloyd(whitened, k, moves, key);
        Ok(Self {
            channels: self
                .channels
                .map(|c| from_values(channels.iter().map(|c| *c as f32).collect(), c.dims(), &device)),
            mean: self.mean.map(|_| vector(mean.iter().map(|v| *v as f32).collect())),
            whiten: self.whiten.map(|_| from_values(narrow(&whiten), [d, d], &device)),
            centres: self.centres.map(|_| centres.clone()),
        })
    }

    fn select(&self, x: Tensor<4>) -> Tensor<4> {
        x.select(1, self.channels.val().int())
    }

    /// Triangle features of every patch.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, k, h − side + 1, w − side + 1]`
    fn encode(&self, x: Tensor<4>, side: usize, first: bool) -> Tensor<4> {
        let [n, _, h, w] = x.dims();
        let (rows, columns) = (h - side + 1, w - side + 1);
        let patches = patches(self.select(x), side, first);
        let d = patches.dims()[1];
        let white = (patches - self.mean.val().reshape([1, d])).matmul(self.whiten.val());
        let k = self.centres.dims()[0];
        let z = distances(white, self.centres.val()).sqrt();
        let triangle = (z.clone().mean_dim(1) - z).clamp_min(0.0);
        triangle.reshape([n, rows, columns, k]).permute([0, 3, 1, 2])
    }
}

/// All patches of pictures, of the first layer each by its own mean and deviation.
///
/// # Shapes
/// `[n, c, h, w]` → `[n·(h − side + 1)·(w − side + 1), c·side²]`
fn patches(x: Tensor<4>, side: usize, first: bool) -> Tensor<2> {
    let [n, c, h, w] = x.dims();
    let (rows, columns) = (h - side + 1, w - side + 1);
    let shifted = (0..side * side).map(|i| x.clone().narrow(2, i / side, rows).narrow(3, i % side, columns));
    let all = Tensor::cat(shifted.collect(), 1).permute([0, 2, 3, 1]).reshape([n * rows * columns, c * side * side]);
    if first { contrast(all) } else { all }
}

/// Each row with its mean taken out, divided by its deviation.
fn contrast(x: Tensor<2>) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    centred / (variance + CONTRAST).sqrt()
}

/// Squared distances: `[n, d]`, `[k, d]` → `[n, k]`.
fn distances(x: Tensor<2>, centres: Tensor<2>) -> Tensor<2> {
    let k = centres.dims()[0];
    let of_centres = centres.clone().square().sum_dim(1).reshape([1, k]);
    (x.clone().square().sum_dim(1) + of_centres - x.matmul(centres.transpose()) * 2.0).clamp_min(0.0)
}

/// k centres: random rows, moved to the mean of the rows that are nearest to them (Lloyd 1982). One that no row is nearest
/// to begins anew at a random row.
fn lloyd(x: Tensor<2>, k: usize, moves: usize, key: Key) -> Tensor<2> {
    let [n, d] = x.dims();
    let device = x.device();
    let chosen: Vec<u32> = (0..k as u64).map(|i| key.purpose("centres").permute(i, n as u64) as u32).collect();
    let mut centres = x.clone().select(0, from_indices(&chosen, &device));
    let rows = to_values(x.clone());
    for step in 0..moves {
        let (mut sums, mut counts) = (vec![0f64; k * d], vec![0usize; k]);
        for start in (0..n).step_by(CHUNK) {
            let part = x.clone().narrow(0, start, CHUNK.min(n - start));
            let nearest: Tensor<1, Int> = distances(part, centres.clone()).argmin(1).reshape([-1]);
            let nearest: Vec<i64> = nearest.into_data().iter::<i64>().collect();
            for (i, centre) in nearest.into_iter().enumerate() {
                let centre = centre as usize;
                counts[centre] += 1;
                let row = &rows[(start + i) * d..][..d];
                sums[centre * d..][..d].iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
            }
        }
        let again = key.purpose("again").at(step as u64).below(0..k as u64, n as u64);
        let moved = (0..k).flat_map(|c| {
            let (count, at) = (counts[c], again[c] as usize);
            let (sums, rows) = (&sums, &rows);
            (0..d).map(move |j| if count == 0 { rows[at * d + j] } else { (sums[c * d + j] / count as f64) as f32 })
        });
        centres = from_values(moved.collect(), [k, d], &device);
    }
    centres
}

/// `size` channels for each of `groups` seeds: those whose squares correlate most with the seed's (Coates & Ng 2011,
/// equation 2). `rows` are values of all channels, `[n, channels]`.
fn related(rows: &[f32], channels: usize, groups: usize, size: usize, key: Key) -> Vec<Vec<u32>> {
    let n = rows.len() / channels;
    let mean = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
    let value = |i: usize, c: usize| f64::from(rows[i * channels + c]);
    let means: Vec<f64> = (0..channels).map(|c| mean(&|i| value(i, c))).collect();
    let deviations: Vec<f64> =
        (0..channels).map(|c| mean(&|i| (value(i, c) - means[c]).powi(2)).sqrt().max(1e-9)).collect();
    let squares: Vec<f64> = (0..n * channels)
        .map(|at| ((f64::from(rows[at]) - means[at % channels]) / deviations[at % channels]).powi(2))
        .collect();
    let square = |i: usize, c: usize| squares[i * channels + c];
    let kurtosis: Vec<f64> = (0..channels).map(|c| mean(&|i| square(i, c).powi(2)) - 1.0).collect();
    let group = |seed: usize| {
        let likeness = |c: usize| {
            let together = mean(&|i| square(i, seed) * square(i, c)) - 1.0;
            together / (kurtosis[seed] * kurtosis[c]).max(1e-9).sqrt()
        };
        let mut all: Vec<(f64, u32)> = (0..channels).map(|c| (-likeness(c), c as u32)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut chosen: Vec<u32> = all.into_iter().take(size).map(|(_, c)| c).collect();
        chosen.sort_unstable();
        chosen
    };
    (0..groups as u64).map(|g| group(key.permute(g % channels as u64, channels as u64) as usize)).collect()
}

/// Sums over the four quarters: `[n, k, h, w]` → `[n, 4k]`.
fn quarters(x: Tensor<4>) -> Tensor<2> {
    let [n, k, h, w] = x.dims();
    let half = |len: usize| [(0, len.div_ceil(2)), (len / 2, len.div_ceil(2))];
    let mut parts = Vec::new();
    for (top, rows) in half(h) {
        for (left, columns) in half(w) {
            let part = x.clone().narrow(2, top, rows).narrow(3, left, columns);
            parts.push(part.sum_dims(&[2, 3]).reshape([n, k]));
        }
    }
    Tensor::cat(parts, 1)
}

/// Sums of 2×2 neighbours, an odd last row or column left out: `[n, k, h, w]` → `[n, k, h/2, w/2]`.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let [n, k, h, w] = x.dims();
    let (rows, columns) = (h / 2, w / 2);
    let even = x.narrow(2, 0, 2 * rows).narrow(3, 0, 2 * columns);
    even.reshape([n * k, rows, 2, columns * 2])
        .sum_dim(2)
        .reshape([n * k, rows, columns, 2])
        .sum_dim(3)
        .reshape([n, k, rows, columns])
}

/// The system.
pub struct KMeans {
    config: Config,
    shape: [usize; 3],
}

impl System for KMeans {
    const ID: &'static str = "kmeans";
    const PAPER: &'static str = "Coates, Ng & Lee: An Analysis of Single-Layer Networks in Unsupervised Feature Learning; Coates & Ng: Selecting Receptive Fields in Deep Networks, 2011";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { ema_half_life: 0.0, ..TrainConfig::default() })
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        let positive = [c.layers, c.features, c.patch, c.patches, c.groups, c.group_size];
        refuse_if!(
            positive.contains(&0),
            "model.layers, features, patch, patches, groups and group_size must each be at least 1"
        );
        refuse_if!(
            c.layers > 1 && c.features < c.groups.max(c.group_size),
            "model.features = {}: a deeper layer needs as many as model.groups and model.group_size",
            c.features
        );
        let system = Self { shape: pictures.shape, config };
        let [_, height, width] = system.shape;
        let too_deep = (0..system.config.layers)
            .any(|layer| system.sides(layer, height).is_none() || system.sides(layer, width).is_none());
        refuse_if!(
            too_deep,
            "images of {width} x {height} are too small for model.layers = {} with patches of {}",
            system.config.layers,
            system.config.patch
        );
        Ok(system)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let c = &self.config;
        let layers = (0..c.layers)
            .map(|layer| {
                let (groups, channels) = self.groups(layer);
                let centres = |g: usize| (g + 1) * c.features / groups - g * c.features / groups;
                let group = |g| Group::new(channels, self.side(layer), centres(g), init);
                Layer { groups: (0..groups).map(group).collect() }
            })
            .collect();
        let features = 4 * c.features * c.layers;
        Networks { layers, mean: init.constant([features], 0.0), deviation: init.constant([features], 1.0) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        Vec::new()
    }

    fn fit(&self, fresh: Networks, data: &FitData<'_>) -> Result<Option<Networks>> {
        let c = &self.config;
        let Networks { layers: unfitted, mean, deviation } = fresh;
        let mut layers: Vec<Layer> = Vec::new();
        for (depth, layer) in unfitted.into_iter().enumerate() {
            let key = Key::new(0).purpose("k-means").at(depth as u64);
            // Enough pictures for the patches, some places of each.
            let pictures = c.patches.div_ceil(PLACES);
            let mut maps = Vec::new();
            for part in data.some(0, pictures) {
                maps.push(self.input(&layers, part?.images));
            }
            let inputs = maps.first().map_or(0, |x: &Tensor<4>| x.dims()[1]);
            let channels: Vec<Vec<u32>> = match depth {
                0 => vec![(0..inputs as u32).collect()],
                _ => related(&self.rows(&maps, &all(inputs), 1, false), inputs, c.groups, c.group_size, key),
            };
            let side = self.side(depth);
            let groups = layer
                .groups
                .into_iter()
                .zip(&channels)
                .enumerate()
                .map(|(g, (group, channels))| {
                    let rows = self.rows(&maps, channels, side, depth == 0);
                    group.fit(channels, rows, c.moves, key.at(g as u64))
                })
                .collect::<Result<_>>()?;
            layers.push(Layer { groups });
        }
        let (mut sum, mut squares, mut n) = (None, None, 0);
        let mut networks = Networks { layers, mean, deviation };
        for part in data.some(0, 2_000) {
            let found = self.features(&networks, part?.images);
            n += found.dims()[0];
            let total = |old: Option<Tensor<2>>, new: Tensor<2>| Some(old.map_or(new.clone(), |old| old + new));
            sum = total(sum, found.clone().sum_dim(0));
            squares = total(squares, found.square().sum_dim(0));
        }
        let (Some(sum), Some(squares)) = (sum, squares) else { return Err(Error::new("there are no images")) };
        let features = sum.dims()[1];
        let average = (sum / n as f64).reshape([features]);
        let variance = (squares / n as f64).reshape([features]) - average.clone().square();
        networks.mean = networks.mean.map(|_| average);
        networks.deviation = networks.deviation.map(|_| (variance.clamp_min(0.0) + 1e-4).sqrt());
        Ok(Some(networks))
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { represent: Some(self), ..Abilities::default() }
    }
}

/// Places of a picture that patches are taken from.
const PLACES: usize = 10;

fn all(channels: usize) -> Vec<u32> {
    (0..channels as u32).collect()
}

impl KMeans {
    /// The side of a layer's patches.
    fn side(&self, layer: usize) -> usize {
        if layer == 0 { self.config.patch } else { DEEPER }
    }

    /// Groups of a layer, and the channels of each.
    fn groups(&self, layer: usize) -> (usize, usize) {
        match layer {
            0 => (1, self.shape[0]),
            _ => (self.config.groups, self.config.group_size),
        }
    }

    /// The side of a layer's map, of pictures of side `len`, if it has any pixel.
    fn sides(&self, layer: usize, len: usize) -> Option<usize> {
        let before = if layer == 0 { len } else { self.sides(layer - 1, len)? / 2 };
        (before + 1).checked_sub(self.side(layer)).filter(|side| *side > 0)
    }

    /// One layer's map of its input.
    fn map(&self, layer: &Layer, depth: usize, x: Tensor<4>) -> Tensor<4> {
        let side = self.side(depth);
        Tensor::cat(layer.groups.iter().map(|group| group.encode(x.clone(), side, depth == 0)).collect(), 1)
    }

    /// What the layer after these sees.
    fn input(&self, layers: &[Layer], images: Tensor<4>) -> Tensor<4> {
        layers.iter().enumerate().fold(images, |x, (depth, layer)| halved(self.map(layer, depth, x)))
    }

    /// Patches of some places of maps, row-major.
    fn rows(&self, maps: &[Tensor<4>], channels: &[u32], side: usize, first: bool) -> Vec<f32> {
        let mut rows = Vec::new();
        let mut number = 0;
        for x in maps {
            let [n, _, h, w] = x.dims();
            let places = (h - side + 1) * (w - side + 1);
            let key = Key::new(0).purpose("places");
            let mut chosen = Vec::new();
            for i in 0..n {
                let key = key.at(number + i as u64);
                let some =
                    (0..PLACES.min(places) as u64).map(|p| (i * places) as u32 + key.permute(p, places as u64) as u32);
                chosen.extend(some);
            }
            number += n as u64;
            let device = x.device();
            let all = patches(x.clone().select(1, from_indices(channels, &device)), side, first);
            rows.extend(to_values(all.select(0, from_indices(&chosen, &device))));
        }
        rows
    }

    /// Sums over quarters of every layer's map.
    fn features(&self, networks: &Networks, images: Tensor<4>) -> Tensor<2> {
        let (mut x, mut found) = (images, Vec::new());
        for (depth, layer) in networks.layers.iter().enumerate() {
            let map = self.map(layer, depth, x);
            found.push(quarters(map.clone()));
            x = halved(map);
        }
        Tensor::cat(found, 1)
    }
}

impl Represent<Networks> for KMeans {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        let found = self.features(networks, images);
        let row = |p: &Param<Tensor<1>>| p.val().unsqueeze_dim::<2>(0);
        Ok((found - row(&networks.mean)) / row(&networks.deviation))
    }
}
