//! Vector quantisation with a codebook that follows the encoder by moving averages (van den Oord 2017, appendix A.1), whose unused
//! codes begin anew at vectors of the batch (Dhariwal 2020, *Jukebox*, §3.1).

use burn::module::{Module, RunningState};
use burn::tensor::{Int, Tensor};
use kiln_core::random::Key;
use kiln_nn::Init;
use kiln_nn::tensor::{constant_beside, from_indices};

/// The decay of the averages.
const DECAY: f64 = 0.99;
/// A code whose average count is below this part of an even share begins anew.
const DEAD: f64 = 0.1;

/// K vectors of d numbers.
#[derive(Module, Debug)]
pub struct Codebook {
    /// e, `[K, d]`.
    pub embedding: RunningState<Tensor<2>>,
    /// N, how many vectors of a batch are nearest to each, averaged: `[K]`.
    pub counts: RunningState<Tensor<1>>,
    /// m, their sums, averaged: `[K, d]`.
    pub sums: RunningState<Tensor<2>>,
}

/// What became of a batch of vectors.
pub struct Quantized {
    /// The nearest codes, through which gradients pass as if nothing had happened: `[n, d, h, w]`.
    pub latents: Tensor<4>,
    /// Their numbers, `[n·h·w]`, pictures first, then rows.
    pub indices: Tensor<1, Int>,
    /// The mean squared distance that the encoder is to close.
    pub commitment: Tensor<1>,
    /// exp of the entropy of codes in the batch: how many are in use.
    pub perplexity: Tensor<1>,
}

impl Codebook {
    /// Of `codes` vectors of `width` numbers, all unused, so that the first batch fills them.
    pub fn new(codes: usize, width: usize, init: &Init) -> Self {
        let zeros = || Tensor::zeros([codes, width], init.device());
        Self {
            embedding: RunningState::new(zeros()),
            counts: RunningState::new(Tensor::zeros([codes], init.device())),
            sums: RunningState::new(zeros()),
        }
    }

    /// The vectors, `[K, d]`.
    pub fn vectors(&self) -> Tensor<2> {
        self.embedding.value_sync()
    }

    /// The nearest code of each vector of a map. In training, where `key` is given, the codes follow the vectors.
    ///
    /// # Shapes
    /// `[n, d, h, w]`
    pub fn quantize(&self, z: Tensor<4>, key: Option<Key>) -> Quantized {
        let [n, d, h, w] = z.dims();
        let rows = z.clone().permute([0, 2, 3, 1]).reshape([n * h * w, d]);
        if let Some(key) = key {
            self.restart(rows.clone().detach(), key);
        }
        let codes = self.vectors();
        let k = codes.dims()[0];
        let indices = nearest(rows.clone().detach(), codes.clone());
        let chosen = codes.select(0, indices.clone());
        let commitment = (rows.clone() - chosen.clone().detach()).square().mean();
        let one_hot: Tensor<2> = indices.clone().one_hot::<2>(k).float();
        let share = one_hot.clone().mean_dim(0);
        let entropy = -(share.clone() * (share + 1e-10).log()).sum();
        if key.is_some() {
            self.follow(rows.clone().detach(), one_hot);
        }
        let through = rows.clone() + (chosen - rows).detach();
        Quantized {
            latents: through.reshape([n, h, w, d]).permute([0, 3, 1, 2]),
            indices,
            commitment,
            perplexity: entropy.exp(),
        }
    }

    /// N ← γN + (1 − γ)n, m ← γm + (1 − γ)Σz, e = m / N; a code without vectors stays.
    fn follow(&self, rows: Tensor<2>, one_hot: Tensor<2>) {
        let [k, _] = self.vectors().dims();
        let count = one_hot.clone().sum_dim(0).reshape([k]).inner();
        let sum = one_hot.transpose().matmul(rows.clone()).inner();
        let counts = self.counts.value_sync().inner() * DECAY + count * (1.0 - DECAY);
        let sums = self.sums.value_sync().inner() * DECAY + sum * (1.0 - DECAY);
        let embedding = sums.clone() / (counts.clone() + 1e-5).unsqueeze_dim(1);
        self.set(embedding, counts, sums, &rows);
    }

    /// Codes that are hardly used become vectors of the batch, chosen at random.
    fn restart(&self, rows: Tensor<2>, key: Key) {
        let (embedding, counts) = (self.vectors().inner(), self.counts.value_sync().inner());
        let ([k, _], [n, _]) = (embedding.dims(), rows.dims());
        let share = n as f64 / k as f64;
        let dead: Tensor<1> = counts.clone().lower_elem(DEAD * share).float();
        let drawn: Vec<u32> = key.below(0..k as u64, n as u64).into_iter().map(|row| row as u32).collect();
        let fresh = rows.clone().inner().select(0, from_indices(&drawn, &counts.device()));
        let which: Tensor<2> = dead.clone().unsqueeze_dim(1);
        let embedding = fresh * which.clone() + embedding * (which.clone() * -1.0 + 1.0);
        // As much as an even share, so that it has time to gather vectors.
        let counts = dead.clone() * share + counts * (dead * -1.0 + 1.0);
        let sums = embedding.clone() * counts.clone().unsqueeze_dim(1) * which.clone()
            + self.sums.value_sync().inner() * (which * -1.0 + 1.0);
        self.set(embedding, counts, sums, &rows);
    }

    fn set(&self, embedding: Tensor<2>, counts: Tensor<1>, sums: Tensor<2>, like: &Tensor<2>) {
        self.embedding.update(constant_beside(embedding, like));
        self.counts.update(constant_beside(counts, like));
        self.sums.update(constant_beside(sums, like));
        // An update waits until it is looked at.
        let _ = (self.embedding.value_sync(), self.counts.value_sync(), self.sums.value_sync());
    }
}

/// The number of the nearest code of each row: ‖z − e‖² without ‖z‖².
fn nearest(rows: Tensor<2>, codes: Tensor<2>) -> Tensor<1, Int> {
    let n = rows.dims()[0];
    let lengths = codes.clone().square().sum_dim(1).transpose();
    (lengths - rows.matmul(codes.transpose()) * 2.0).argmin(1).reshape([n])
}
