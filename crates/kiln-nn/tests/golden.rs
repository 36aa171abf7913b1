//! Layers and losses against PyTorch: outputs and every gradient.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use fixtures::Fixtures;
use kiln_nn::orthogonal::orthogonality;
use kiln_nn::resample::{reflect_pad, upsample_nearest};
use kiln_nn::transformer::{MultiHeadAttention, SpatialTransformer, SpatialTransformerConfig};
use kiln_nn::unet::{Pooling, UNetConfig};
use kiln_nn::{
    Activation, BatchNorm2d, Condition, ConditionalBatchNorm2d, Conv2dConfig, Embedding, GroupNorm, Init,
    InstanceNorm2d, LayerNorm, LinearConfig, Parametrization, WeightInit, attention, loss, tensor, time,
};

fn init() -> Init {
    Init::new(&Device::flex().autodiff(), 0)
}

/// Puts the reference parameters `prefix.<path>` into a layer.
fn with_reference<M: Module>(layer: M, fixtures: &Fixtures, prefix: &str) -> M {
    with_renamed(layer, fixtures, prefix, |path| path)
}

/// The same where torch's names differ.
fn with_renamed<M: Module>(layer: M, fixtures: &Fixtures, prefix: &str, name: impl Fn(String) -> String) -> M {
    struct Load<'a, N>(Vec<String>, &'a Fixtures, &'a str, N);
    impl<N: Fn(String) -> String> ModuleMapper for Load<'_, N> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let tracked = param.val().is_require_grad();
            let (id, _, mapper) = param.consume();
            let value = self.1.tensor::<D>(&format!("{}.{}", self.2, (self.3)(self.0.join(".")))).autodiff();
            Param::from_mapped_value(id, if tracked { value.require_grad() } else { value }, mapper)
        }
    }
    layer.map(&mut Load(Vec::new(), fixtures, prefix, name))
}

/// Checks output and input gradient of `f`, and gives the gradients for the parameters.
fn check<const D: usize, const E: usize>(
    fixtures: &Fixtures,
    name: &str,
    f: impl FnOnce(Tensor<D>) -> Tensor<E>,
) -> Gradients {
    let x = fixtures.tensor::<D>(&format!("{name}.input")).autodiff().require_grad();
    let y = f(x.clone());
    fixtures.assert_close(y.clone().inner(), &format!("{name}.output"), 1e-5);
    let upstream = fixtures.tensor::<E>(&format!("{name}.grad_output"));
    let gradients = (y * upstream.autodiff()).sum().backward();
    fixtures.assert_close(x.grad(&gradients).unwrap(), &format!("{name}.grad_input"), 1e-4);
    gradients
}

fn check_param<const D: usize>(fixtures: &Fixtures, gradients: &Gradients, param: &Param<Tensor<D>>, name: &str) {
    fixtures.assert_close(param.val().grad(gradients).unwrap(), name, 1e-4);
}

#[test]
fn convolutions() {
    let f = Fixtures::open("layers");
    for (name, config) in [
        ("conv2d", Conv2dConfig::same3(3, 4)),
        ("conv2d_4x4_s2", Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(3, 4, 4) }),
        ("conv2d_3x3_s2", Conv2dConfig { stride: 2, ..Conv2dConfig::same3(3, 4) }),
    ] {
        let layer = with_reference(config.init(&mut init()), &f, name);
        let g = check(&f, name, |x: Tensor<4>| layer.forward(x));
        check_param(&f, &g, &layer.weight, &format!("{name}.grad_weight"));
        check_param(&f, &g, layer.bias.as_ref().unwrap(), &format!("{name}.grad_bias"));
    }
    for (name, config) in [
        ("conv_transpose2d_4x4_s2", Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(3, 4, 4) }),
        ("conv_transpose2d_3x3_s2", Conv2dConfig { stride: 2, output_padding: 1, ..Conv2dConfig::same3(3, 4) }),
    ] {
        let layer = with_reference(config.init_transposed(&mut init()), &f, name);
        let g = check(&f, name, |x: Tensor<4>| layer.forward(x));
        check_param(&f, &g, &layer.weight, &format!("{name}.grad_weight"));
        check_param(&f, &g, layer.bias.as_ref().unwrap(), &format!("{name}.grad_bias"));
    }
}

/// Miyato 2018: one power iteration in a training pass, whose vectors inference keeps.
#[test]
fn spectral_normalisation() {
    let f = Fixtures::open("layers");
    let config = Conv2dConfig { parametrization: Parametrization::Spectral, ..Conv2dConfig::same3(3, 4) };
    let name = |path: String| path.replace("parametrization.", "");
    let layer = with_renamed(config.init(&mut init()), &f, "spectral_norm", name);
    let g = check(&f, "spectral_norm", |x: Tensor<4>| layer.forward(x));
    check_param(&f, &g, &layer.weight, "spectral_norm.grad_weight");
    check_param(&f, &g, layer.bias.as_ref().unwrap(), "spectral_norm.grad_bias");
    for (state, name) in [(&layer.parametrization.u, "u_after"), (&layer.parametrization.v, "v_after")] {
        f.assert_close(state.as_ref().unwrap().value_sync().inner(), &format!("spectral_norm.{name}"), 1e-6);
    }
    let output = layer.valid().forward(f.tensor::<4>("spectral_norm.input"));
    f.assert_close(output, "spectral_norm.output", 1e-5);
}

#[test]
fn linear_layers() {
    let f = Fixtures::open("layers");
    let layer = with_reference(LinearConfig::new(5, 4).init(&mut init()), &f, "linear");
    let g = check(&f, "linear", |x: Tensor<2>| layer.forward(x));
    check_param(&f, &g, &layer.weight, "linear.grad_weight");
    check_param(&f, &g, layer.bias.as_ref().unwrap(), "linear.grad_bias");

    let table = with_reference(Embedding::new(7, 4, &mut init()), &f, "embedding");
    let (_, indices) = f.values("embedding.input");
    let indices: Vec<u32> = indices.into_iter().map(|i| i as u32).collect();
    let y = table.forward(tensor::from_indices(&indices, &Device::flex().autodiff())).reshape([2, 3, 4]);
    f.assert_close(y.clone().inner(), "embedding.output", 0.0);
    let g = (y * f.tensor::<3>("embedding.grad_output").autodiff()).sum().backward();
    check_param(&f, &g, &table.weight, "embedding.grad_weight");
}

#[test]
fn normalisations() {
    let f = Fixtures::open("layers");
    let layer = with_reference(GroupNorm::new(2, 6, &mut init()), &f, "group_norm");
    let g = check(&f, "group_norm", |x: Tensor<4>| layer.forward(x, Activation::None));
    check_param(&f, &g, &layer.weight, "group_norm.grad_weight");
    check_param(&f, &g, &layer.bias, "group_norm.grad_bias");

    check(&f, "instance_norm2d", |x: Tensor<4>| InstanceNorm2d::default().forward(x, Activation::None));

    let layer = with_reference(LayerNorm::new(6, &mut init()), &f, "layer_norm");
    let g = check(&f, "layer_norm", |x: Tensor<3>| layer.forward(x));
    check_param(&f, &g, &layer.weight, "layer_norm.grad_weight");
}

#[test]
fn batch_normalisation_trains_and_infers() {
    let f = Fixtures::open("layers");
    let layer = with_reference(BatchNorm2d::new(3, &mut init()), &f, "batch_norm2d");
    let g = check(&f, "batch_norm2d", |x: Tensor<4>| layer.forward(x, Activation::None));
    check_param(&f, &g, &layer.weight, "batch_norm2d.grad_weight");
    check_param(&f, &g, &layer.bias, "batch_norm2d.grad_bias");
    f.assert_close(layer.running_mean.value_sync().inner(), "batch_norm2d.running_mean_after", 1e-5);
    f.assert_close(layer.running_var.value_sync().inner(), "batch_norm2d.running_var_after", 1e-5);

    let layer = with_reference(BatchNorm2d::new(3, &mut init()), &f, "batch_norm2d_eval").valid();
    let y = layer.forward(f.tensor("batch_norm2d_eval.input"), Activation::None);
    f.assert_close(y, "batch_norm2d_eval.output", 1e-5);
    // A frozen network under an input with gradients, as guidance has it: the statistics are constants.
    check(&f, "batch_norm2d_eval", |x: Tensor<4>| layer.forward(x, Activation::None));
}

/// Scale and shift of a condition, whose gradient is PyTorch's too; the buffers after a step, and inference by them.
#[test]
fn conditional_batch_normalisation_trains_and_infers() {
    let f = Fixtures::open("residual");
    let layer = || ConditionalBatchNorm2d::new(5, 3, WeightInit::Zero, Parametrization::Direct, &mut init());
    let norm = with_reference(layer(), &f, "conditional_norm");
    let y = f.tensor::<2>("conditional_norm_io.condition").autodiff().require_grad();
    let g = check(&f, "conditional_norm_io", |x: Tensor<4>| norm.forward(x, y.clone(), Activation::None));
    f.assert_close(y.grad(&g).unwrap(), "conditional_norm_io.grad_condition", 1e-4);
    check_param(&f, &g, &norm.gain.weight, "conditional_norm_grad.gain.weight");
    check_param(&f, &g, &norm.bias.weight, "conditional_norm_grad.bias.weight");
    f.assert_close(norm.running_mean.value_sync().inner(), "conditional_norm_after.running_mean", 1e-5);
    f.assert_close(norm.running_var.value_sync().inner(), "conditional_norm_after.running_var", 1e-5);

    let norm = with_reference(layer(), &f, "conditional_norm_eval").valid();
    let [x, y] = ["input", "condition"].map(|name| format!("conditional_norm_eval.{name}"));
    let output = norm.forward(f.tensor::<4>(&x), f.tensor::<2>(&y), Activation::None);
    f.assert_close(output, "conditional_norm_eval.output", 1e-5);
}

#[test]
fn orthogonal_regularisation() {
    #[derive(Module, Debug)]
    struct Weights {
        wide: Param<Tensor<4>>,
        tall: Param<Tensor<2>>,
        left_out: Param<Tensor<2>>,
        vector: Param<Tensor<1>>,
    }
    let f = Fixtures::open("residual");
    let mut init = init();
    let (left_out, vector) = (init.normal([2, 2], 0.0, 1.0), init.normal([3], 0.0, 1.0));
    let parameter = |name: &str| format!("orthogonality.{name}");
    let weights = Weights {
        wide: Param::from_tensor(f.tensor::<4>(&parameter("wide")).autodiff().require_grad()),
        tall: Param::from_tensor(f.tensor::<2>(&parameter("tall")).autodiff().require_grad()),
        left_out,
        vector,
    };
    let penalty = orthogonality(&weights, |path| path != "left_out").unwrap();
    f.assert_close(penalty.clone().inner(), "orthogonality.value", 1e-5);
    let g = penalty.backward();
    check_param(&f, &g, &weights.wide, "orthogonality.grad_wide");
    check_param(&f, &g, &weights.tall, "orthogonality.grad_tall");
    assert!(orthogonality(&weights, |_| false).is_none());
}

#[test]
fn gram_and_total_variation() {
    let f = Fixtures::open("style");
    let x = |name: &str| f.tensor::<4>(&format!("{name}.x")).autodiff().require_grad();
    let (a, b) = (x("gram"), x("tv"));
    let gram = loss::gram(a.clone());
    f.assert_close(gram.clone().inner(), "gram.output", 1e-5);
    let upstream = f.tensor::<3>("gram.grad_output").autodiff();
    f.assert_close(a.grad(&(gram * upstream).sum().backward()).unwrap(), "gram.grad_x", 1e-5);
    let tv = loss::total_variation(b.clone());
    f.assert_close(tv.clone().inner().reshape([1]), "tv.output", 1e-5);
    let upstream = f.tensor::<1>("tv.grad_output").autodiff();
    f.assert_close(b.grad(&(tv * upstream).sum().backward()).unwrap(), "tv.grad_x", 1e-5);
}

#[test]
fn mode_seeking() {
    let f = Fixtures::open("residual");
    let [a, b] = ["a", "b"].map(|name| f.tensor::<4>(&format!("mode_seeking.{name}")).autodiff().require_grad());
    let [z_a, z_b] = ["z_a", "z_b"].map(|name| f.tensor::<2>(&format!("mode_seeking.{name}")).autodiff());
    let term = loss::mode_seeking(a.clone(), b.clone(), z_a, z_b);
    f.assert_close(term.clone().inner(), "mode_seeking.value", 1e-5);
    let g = term.backward();
    f.assert_close(a.grad(&g).unwrap(), "mode_seeking.grad_a", 1e-4);
    f.assert_close(b.grad(&g).unwrap(), "mode_seeking.grad_b", 1e-4);
}

#[test]
fn resampling() {
    let f = Fixtures::open("layers");
    check(&f, "upsample_nearest", |x: Tensor<4>| upsample_nearest(x, 2));
    check(&f, "reflect_pad", |x: Tensor<4>| reflect_pad(x, 2));
}

#[test]
fn time_embeddings_are_those_of_the_reference_code() {
    let f = Fixtures::open("layers");
    for shift in [0, 1] {
        let e = time::sinusoidal(f.tensor("time_embedding.input"), 16, f64::from(shift));
        // Sines of arguments near 1000 lose digits in f32.
        f.assert_close(e, &format!("time_embedding.flip0_shift{shift}"), 1e-4);
    }
}

#[test]
fn scaled_dot_product_attention() {
    let f = Fixtures::open("layers");
    let x = f.tensor::<3>("attention.input");
    let [n, tokens, c] = x.dims();
    let w = f.tensor::<2>("attention.in_proj_weight");
    let b = f.tensor::<1>("attention.in_proj_bias");
    let qkv = x.reshape([n * tokens, c]).matmul(w.transpose()) + b.unsqueeze();
    let part = |i: usize| qkv.clone().narrow(1, i * c, c).reshape([n, tokens, 2, c / 2]).swap_dims(1, 2);
    let y = attention::attention(part(0), part(1), part(2)).swap_dims(1, 2).reshape([n * tokens, c]);
    let y = y.matmul(f.tensor::<2>("attention.out_proj.weight").transpose())
        + f.tensor::<1>("attention.out_proj.bias").unsqueeze();
    f.assert_close(y.reshape([n, tokens, c]), "attention.output", 1e-5);
}

/// The attention block of a U-Net; torch calls its layers n, qkv and p.
#[test]
fn attention_over_a_feature_map() {
    let f = Fixtures::open("diffusion");
    let block = attention::FeatureAttention::new(16, 8, 1, &mut init());
    let block = with_renamed(block, &f, "attn", |path| path.replace("norm.", "n.").replace("proj.", "p."));
    let x = f.tensor::<4>("attn_io.input").autodiff().require_grad();
    let y = block.forward(x.clone());
    f.assert_close(y.clone().inner(), "attn_io.output", 1e-5);
    let g = (y * f.tensor::<4>("attn_io.grad_output").autodiff()).sum().backward();
    f.assert_close(x.grad(&g).unwrap(), "attn_io.grad_input", 1e-4);
}

/// Checks the value of a loss of one differentiable input, and its gradient.
fn check_loss<const D: usize>(f: &Fixtures, name: &str, input: &str, value: impl FnOnce(Tensor<D>) -> Tensor<1>) {
    let x = f.tensor::<D>(&format!("{name}.{input}")).autodiff().require_grad();
    let value = value(x.clone());
    let (_, expected) = f.values(&format!("{name}.value"));
    let got = f64::from(value.clone().into_scalar::<f32>());
    assert!((got - expected[0]).abs() <= 1e-5 * expected[0].abs().max(1.0), "{name}: {got} instead of {}", expected[0]);
    let g = value.backward();
    f.assert_close(x.grad(&g).unwrap(), &format!("{name}.grad_{input}"), 1e-4);
}

#[test]
fn losses() {
    let f = &Fixtures::open("losses");
    let constant = |name: &str| f.tensor::<2>(name).autodiff();
    check_loss(f, "mse", "input", |x: Tensor<2>| loss::mse(x, constant("mse.target")));
    check_loss(f, "l1", "input", |x: Tensor<2>| loss::l1(x, constant("l1.target")));
    check_loss(f, "bce_with_logits", "input", |x: Tensor<1>| {
        loss::binary_cross_entropy(x, f.tensor("bce_with_logits.target").autodiff()).mean()
    });
    check_loss(f, "cross_entropy", "input", |x: Tensor<2>| {
        let labels: Vec<u32> = f.values("cross_entropy.target").1.into_iter().map(|v| v as u32).collect();
        loss::cross_entropy(x, tensor::from_indices(&labels, &Device::flex().autodiff()))
    });
    check_loss(f, "gaussian_kl", "mu", |mu: Tensor<2>| loss::gaussian_kl(mu, constant("gaussian_kl.logvar")).mean());
    check_loss(f, "gaussian_kl", "logvar", |v: Tensor<2>| loss::gaussian_kl(constant("gaussian_kl.mu"), v).mean());
    check_loss(f, "bernoulli_log_likelihood", "logits", |x: Tensor<4>| {
        let target = f.tensor::<4>("bernoulli_log_likelihood.target").autodiff();
        loss::bernoulli_log_likelihood(target.reshape([3, 20]), x.reshape([3, 20])).mean()
    });
    for input in ["mean", "logvar"] {
        check_loss(f, "gaussian_log_likelihood_learned", input, |x: Tensor<4>| {
            let read = |name: &str| f.tensor::<4>(&format!("gaussian_log_likelihood_learned.{name}")).autodiff();
            let (mean, log_var) = if input == "mean" { (x, read("logvar")) } else { (read("mean"), x) };
            let flat = |t: Tensor<4>| t.reshape([3, 20]);
            loss::gaussian_log_likelihood(flat(read("target")), flat(mean), flat(log_var)).mean()
        });
    }
    for input in ["mean", "log_scale"] {
        check_loss(f, "discretised_logistic_log_likelihood", input, |x: Tensor<2>| {
            let read = |name: &str| constant(&format!("discretised_logistic_log_likelihood.{name}"));
            let (mean, log_scale) = if input == "mean" { (x, read("log_scale")) } else { (read("mean"), x) };
            loss::discretised_logistic_log_likelihood(read("target"), mean, log_scale).mean()
        });
    }
    for input in ["mu", "logvar", "prior_mu", "prior_logvar"] {
        check_loss(f, "gaussian_kl_prior", input, |x: Tensor<2>| {
            let read =
                |name: &str| if name == input { x.clone() } else { constant(&format!("gaussian_kl_prior.{name}")) };
            loss::gaussian_kl_between(read("mu"), read("logvar"), read("prior_mu"), read("prior_logvar")).mean()
        });
    }
    for (name, target) in [("gan_softplus_d", 1.0), ("gan_label_smoothing_d", 0.9)] {
        check_loss(f, name, "real", |x: Tensor<1>| {
            loss::binary_cross_entropy_to(x, target)
                + loss::binary_cross_entropy_to(f.tensor::<1>(&format!("{name}.fake")).autodiff(), 0.0)
        });
    }
    check_loss(f, "gan_least_squares_g", "fake", |x: Tensor<1>| loss::squared_to(x, 1.0) * 0.5);
}

#[test]
fn gradients_are_reversed_and_scaled() {
    let f = Fixtures::open("losses");
    let x = f.tensor::<2>("gradient_reversal.input").autodiff().require_grad();
    let y = loss::reverse_gradient(x.clone(), 0.3);
    f.assert_close(y.clone().inner(), "gradient_reversal.output", 1e-6);
    let g = (y * f.tensor::<2>("gradient_reversal.grad_output").autodiff()).sum().backward();
    f.assert_close(x.grad(&g).unwrap(), "gradient_reversal.grad_input", 1e-6);
}

/// Output and gradients of a whole U-Net for pictures of one channel, against a topic's reference.
fn the_unet_of(topic: &str, config: &UNetConfig) {
    let f = Fixtures::open(topic);
    let net = with_reference(config.init(1, 2, 0, &mut init()), &f, "net");
    let times = f.tensor::<1>("times").autodiff();
    let x = f.tensor::<4>("input").autodiff().require_grad();
    let y = net.forward(x.clone(), times, &Condition::default());
    f.assert_close(y.clone().inner(), "output", 1e-5);
    let gradients = (y * f.tensor::<4>("grad_output").autodiff()).sum().backward();
    f.assert_close(x.grad(&gradients).unwrap(), "grad_input", 1e-4);

    check_params(&f, &gradients, &net, "grad");
}

/// Checks the gradient of every parameter that the reference recorded, as `prefix.<path>`; a path may have variants'
/// names more.
fn check_params<M: Module>(f: &Fixtures, gradients: &Gradients, module: &M, prefix: &str) {
    /// Path, reference, gradients, the names it has, how many were met, the prefix.
    struct Checked<'a>(Vec<String>, &'a Fixtures, &'a Gradients, Vec<String>, usize, &'a str);
    impl ModuleVisitor for Checked<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = format!("{}.{}", self.5, self.0.join("."));
            let found = [path.clone(), plain(path)].into_iter().find(|name| self.3.contains(name));
            if let Some(name) = found {
                check_param(self.1, self.2, param, &name);
                self.4 += 1;
            }
        }
    }
    let names: Vec<String> = f.names().into_iter().filter(|n| n.starts_with(&format!("{prefix}."))).collect();
    let count = names.len();
    let mut seen = Checked(Vec::new(), f, gradients, names, 0, prefix);
    module.visit(&mut seen);
    assert!(count > 0 && seen.4 == count, "{prefix}: {} of {count} gradients were met", seen.4);
}

/// A path as torch names it: without the names of variants.
fn plain(path: String) -> String {
    path.split('.').filter(|part| !part.starts_with(char::is_uppercase)).collect::<Vec<_>>().join(".")
}

/// Two blocks between convolutions, and one between linear layers that looks at the context alone.
#[test]
fn transformers_on_a_feature_map() {
    let f = Fixtures::open("transformer");
    let conv = SpatialTransformerConfig {
        channels: 8,
        context: 6,
        heads: 2,
        groups: 4,
        blocks: 2,
        linear: false,
        only_cross_attention: false,
        identity_at_start: false,
    };
    let linear = SpatialTransformerConfig { blocks: 1, linear: true, only_cross_attention: true, ..conv.clone() };
    for (name, config) in [("conv", conv), ("linear", linear)] {
        let layer = with_renamed(SpatialTransformer::new(&config, &mut init()), &f, name, plain);
        let context = f.tensor::<3>(&format!("{name}_io.context")).autodiff().require_grad();
        let gradients = check(&f, &format!("{name}_io"), |x: Tensor<4>| layer.forward(x, &context));
        f.assert_close(context.grad(&gradients).unwrap(), &format!("{name}_io.grad_context"), 1e-4);
        check_params(&f, &gradients, &layer, &format!("{name}_grad"));
        let fresh =
            SpatialTransformer::new(&SpatialTransformerConfig { identity_at_start: true, ..config }, &mut init());
        let x = f.tensor::<4>(&format!("{name}_io.input"));
        assert_eq!(fresh.forward(x.clone().autodiff(), &context).into_data(), x.into_data());
    }
}

#[test]
fn multi_head_attention_over_a_feature_map() {
    let f = Fixtures::open("transformer");
    let mut init = init();
    let norm = GroupNorm::new(4, 8, &mut init);
    let layer = with_reference(MultiHeadAttention::of_map(8, Some(norm), 2, &mut init), &f, "map");
    let gradients = check(&f, "map_io", |x: Tensor<4>| layer.forward_map(x));
    check_params(&f, &gradients, &layer, "map_grad");
}

fn small_unet() -> UNetConfig {
    UNetConfig {
        base_channels: 8,
        channel_multipliers: vec![1, 2],
        blocks: 1,
        attention_levels: vec![1],
        groups: 4,
        ..UNetConfig::default()
    }
}

/// Every gradient, attention at one level, two output channels.
#[test]
fn the_unet_is_diffusers() {
    let parameters = Fixtures::open("unet").names();
    let count = |prefix: &str| parameters.iter().filter(|n| n.starts_with(prefix)).count();
    assert_eq!(count("grad."), count("net."));
    the_unet_of("unet", &small_unet());
}

/// AdaGN, heads of 8 channels, attention at both levels, residual blocks that resample, sums divided by √2.
#[test]
fn the_unet_of_adm_is_diffusers() {
    let config = UNetConfig {
        attention_levels: vec![0, 1],
        head_channels: 8,
        scale_shift: true,
        resample_blocks: true,
        rescale_residual: true,
        ..small_unet()
    };
    the_unet_of("adm", &config);
}

/// A class, a context, an image beside the noisy one, and what a control network adds: output, the gradient of each, and
/// some parameters'.
#[test]
fn the_conditioned_unet_is_diffusers() {
    let f = Fixtures::open("unet_condition");
    let config = UNetConfig { heads: 2, ..small_unet() };
    let net = with_renamed(config.init_with_context(2, 2, 3, 6, &mut init()), &f, "net", plain);
    let grown = |name: &str| f.tensor::<4>(name).autodiff().require_grad();
    let (x, images, residuals) =
        (grown("input"), grown("images"), [0, 1, 2, 3, 4].map(|i| grown(&format!("residual.{i}"))));
    let context = f.tensor::<3>("context").autodiff().require_grad();
    let condition = Condition {
        class: Some(f.tensor::<1>("classes").autodiff().int()),
        context: Some(context.clone()),
        images: Some(images.clone()),
        residuals: residuals.to_vec(),
        dropout: None,
    };
    let times = f.tensor::<1>("times").autodiff();
    let y = net.forward(x.clone(), times.clone(), &condition);
    f.assert_close(y.clone().inner(), "output", 1e-5);
    let gradients = (y.clone() * f.tensor::<4>("grad_output").autodiff()).sum().backward();
    for (tensor, name) in [(x.clone(), "input".to_string()), (images, "images".to_string())]
        .into_iter()
        .chain(residuals.into_iter().enumerate().map(|(i, r)| (r, format!("residual.{i}"))))
    {
        f.assert_close(tensor.grad(&gradients).unwrap(), &format!("grad_{name}"), 1e-4);
    }
    f.assert_close(context.grad(&gradients).unwrap(), "grad_context", 1e-4);
    check_params(&f, &gradients, &net, "grad");

    // Rows of a condition, joined again, are the condition.
    let swapped = condition.narrow(1, 1).cat(&condition.narrow(0, 1)).unwrap();
    let swap = Tensor::from_data([1i64, 0], &x.device());
    let again = net.forward(x.clone().select(0, swap.clone()), times.clone().select(0, swap.clone()), &swapped);
    let off = (again.inner() - y.inner().select(0, swap.inner())).abs().max().into_scalar::<f32>();
    assert!(off < 1e-5, "{off}");
    assert!(condition.cat(&Condition::default()).is_none());
    // No context is one of zeros, however many.
    let looking_at = |context| {
        let condition = Condition { context, images: condition.images.clone(), ..Condition::default() };
        tensor::to_values(net.forward(x.clone(), times.clone(), &condition).inner())
    };
    for (a, b) in looking_at(None).into_iter().zip(looking_at(Some(Tensor::zeros([2, 7, 6], &x.device())))) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

/// Half of the network: numbers for each picture, whose gradients reach the first layer.
#[test]
fn the_encoder_is_half_of_the_unet() {
    for pooling in [Pooling::Mean, Pooling::Attention] {
        let x = Fixtures::open("unet").tensor::<4>("input").autodiff().require_grad();
        let [_, channels, height, width] = x.dims();
        let net = small_unet().encoder(channels, [height, width], pooling, 3, &mut init());
        let times = Fixtures::open("unet").tensor::<1>("times").autodiff();
        let y = net.forward(x.clone(), times, None);
        assert_eq!(y.dims(), [2, 3]);
        let gradient = x.grad(&y.sum().backward()).unwrap();
        assert!(gradient.abs().sum().into_scalar::<f32>() > 0.0, "{pooling:?}");
    }
}
