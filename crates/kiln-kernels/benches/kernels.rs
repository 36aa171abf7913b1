//! How fast are the kernels? `cargo bench --bench kernels [FILTER]`.
//!
//! Elements a second are multiplications with additions for products, elements of the input otherwise. A backward
//! pass is timed together with its forward pass, which it needs. `RAYON_NUM_THREADS` sets the threads,
//! `KILN_KERNELS` the instruction set.

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use kiln_kernels::*;
use std::hint::black_box;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn random<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    Tensor::random(dims, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn tracked<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(x.clone()).require_grad()
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    memory::keep_freed();
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

/// Times `f` of the inputs, and again with the gradients of its sum in all of them.
fn both<const D: usize, const E: usize, const F: usize>(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    work: usize,
    x: &Tensor<D>,
    w: &Tensor<E>,
    f: impl Fn(Tensor<D>, Tensor<E>) -> Tensor<F>,
) {
    group.throughput(Throughput::Elements(work as u64));
    group.bench_function(format!("{name}, forward"), |b| b.iter(|| black_box(f(x.clone(), w.clone()))));
    group.bench_function(format!("{name}, with gradients"), |b| {
        b.iter(|| black_box(f(tracked(x), tracked(w)).sum().backward()));
    });
}

fn options<const D: usize>(stride: usize, padding: usize) -> ConvOptions<D> {
    ConvOptions { stride: [stride; D], padding: [padding; D], dilation: [1; D], groups: 1 }
}

fn convolutions(c: &mut Criterion) {
    let mut group = group(c, "conv2d");
    for (name, n, inputs, outputs, size, kernel, stride) in [
        ("U-Net 64 to 64, 3x3, 28x28, batch 32", 32, 64, 64, 28, 3, 1),
        ("U-Net 128 to 128, 3x3, 14x14, batch 32", 32, 128, 128, 14, 3, 1),
        ("U-Net 256 to 128, 3x3, 7x7, batch 32", 32, 256, 128, 7, 3, 1),
        ("U-Net 64 to 64, 3x3 stride 2, 28x28, batch 32", 32, 64, 64, 28, 3, 2),
        ("U-Net 128 to 384, 1x1, 14x14, batch 32", 32, 128, 384, 14, 1, 1),
        ("DCGAN 64 to 128, 4x4 stride 2, 32x32, batch 64", 64, 64, 128, 32, 4, 2),
    ] {
        let padding = (kernel - 1) / 2;
        let (x, w) = (random([n, inputs, size, size]), random([outputs, inputs, kernel, kernel]));
        let o = options(stride, padding);
        let out = (size + 2 * padding - kernel) / stride + 1;
        let work = n * inputs * outputs * kernel * kernel * out * out;
        both(&mut group, name, work, &x, &w, |x, w| conv2d(x, w, None, o));
    }
    group.finish();

    let mut group = self::group(c, "conv_transpose2d");
    let (x, w) = (random([64, 128, 16, 16]), random([128, 64, 4, 4]));
    let name = "DCGAN 128 to 64, 4x4 stride 2, 16x16, batch 64";
    let work = 64 * 128 * 64 * 16 * 16 * 16;
    both(&mut group, name, work, &x, &w, |x, w| conv_transpose2d(x, w, None, options(2, 1), [0, 0]));
    group.finish();

    let mut group = self::group(c, "conv3d");
    let (x, w) = (random([4, 64, 16, 16, 16]), random([128, 64, 4, 4, 4]));
    let work = 4 * 64 * 128 * 64 * 8 * 8 * 8;
    both(&mut group, "3D-GAN 64 to 128, 4x4x4 stride 2, 16x16x16, batch 4", work, &x, &w, |x, w| {
        conv3d(x, w, None, options(2, 1))
    });
    group.finish();
}

fn normalisations(c: &mut Criterion) {
    let (x, gamma) = (random([32, 64, 28, 28]), random([64]));
    let beta = random([64]);
    let work = x.shape().num_elements();
    let beside = |x: &Tensor<4>| if x.is_autodiff() { Tensor::from_inner(beta.clone()) } else { beta.clone() };
    let mut group = group(c, "normalisation");
    both(&mut group, "group, 8 groups, SiLU, 32x64x28x28", work, &x, &gamma, |x, gamma| {
        let beta = beside(&x);
        group_norm(x, gamma, beta, 8, 1e-5, Activation::Silu)
    });
    both(&mut group, "batch, ReLU, 32x64x28x28", work, &x, &gamma, |x, gamma| {
        let beta = beside(&x);
        let (mean, var) = batch_stats(x.clone());
        batch_norm(x, mean, var, gamma, beta, 1e-5, Activation::Relu)
    });
    group.finish();
}

fn products(c: &mut Criterion) {
    let mut group = group(c, "attention");
    for (name, n, heads, queries, keys, d) in [
        ("U-Net 14x14, 128 channels, batch 32", 32, 1, 196, 196, 128),
        ("U-Net 32x32, 4 heads of 32, batch 8", 8, 4, 1024, 1024, 32),
        ("cross, 256 to 77, 8 heads of 64, batch 8", 8, 8, 256, 77, 64),
    ] {
        // As a 1x1 convolution leaves them.
        let part = |tokens: usize| random([n, heads, d, tokens]).swap_dims(2, 3);
        let (q, k) = (part(queries), part(keys));
        let work = 2 * n * heads * queries * keys * d;
        both(&mut group, name, work, &q, &k, |q, k| attention(q, k.clone(), k, Mask::None));
    }
    group.finish();

    let mut group = self::group(c, "linear");
    for [rows, inputs, outputs] in [[32, 256, 256], [64, 784, 500], [128, 512, 512], [4096, 256, 256]] {
        let (x, w) = (random([rows, inputs]), random([outputs, inputs]));
        let name = format!("{inputs} to {outputs}, batch {rows}");
        both(&mut group, &name, rows * inputs * outputs, &x, &w, |x, w| linear(x, w, None));
    }
    group.finish();
}

fn resamplings(c: &mut Criterion) {
    let twice = |n: usize| Filter::new(n, (0..2 * n).map(|i| vec![(i / 2, 1.0)]));
    let half = |n: usize| Filter::new(n, (0..n / 2).map(|i| vec![(2 * i, 0.5), (2 * i + 1, 0.5)]));
    // The binomial filter of StyleGAN2 after its transposed convolutions.
    let blur = |n: usize| {
        let taps = |i: usize| {
            (i..i + 4).zip([0.25, 0.75, 0.75, 0.25]).filter_map(move |(at, w)| Some((at.checked_sub(1)?, w)))
        };
        Filter::new(n, (0..n - 1).map(|i| taps(i).filter(|tap| tap.0 < n).collect()))
    };
    let mut group = group(c, "resample");
    for (name, size, filter) in [
        ("nearest x2, 32x128x14x14", [32, 128, 14, 14], twice(14)),
        ("mean /2, 32x128x28x28", [32, 128, 28, 28], half(28)),
        ("blur, 16x64x33x33", [16, 64, 33, 33], blur(33)),
    ] {
        let x = random(size);
        let work = x.shape().num_elements();
        both(&mut group, name, work, &x, &random([1]), |x, _| resample(x, &filter, &filter));
    }
    group.finish();
}

fn updates(c: &mut Criterion) {
    let step = AdamStep {
        scale: 1.0,
        decay: 0.0,
        shrink: 1.0,
        beta1: 0.9,
        beta2: 0.999,
        rate: 1e-3,
        correction: 1.0,
        eps: 1e-8,
    };
    let count = 4 << 20;
    let gradient = random([count]);
    let mut group = group(c, "adam");
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("4 M parameters", |b| {
        // Nobody else holds the tensors, so that they are changed in place.
        let mut state = Some((random([count]), random([count]), random([count]).abs()));
        b.iter(|| state = state.take().map(|(value, m, v)| adam(value, gradient.clone(), m, v, step)));
    });
    group.finish();
}

criterion_group!(benches, convolutions, normalisations, products, resamplings, updates);
criterion_main!(benches);
