//! Every network against torch-fidelity, torchvision and lpips, on the same pseudo-random weights.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;
mod hashed;

use burn::tensor::{Device, Tensor};
use fixtures::Fixtures;
use kiln_features::inception::Inception;
use kiln_features::pixels::{imagenet, levels, resize_antialiased, resize_tensorflow1};
use kiln_features::vgg::{Depth, Vgg};
use kiln_features::{FeatureNet, LayerNet, Lpips, WeightsFile};
use kiln_nn::resample::global_mean;

fn device() -> Device {
    Device::flex()
}

/// Pictures in [−1, 1], as Kiln holds them.
fn pictures(f: &Fixtures, name: &str) -> Tensor<4> {
    f.tensor::<4>(name) / 127.5 - 1.0
}

fn net(name: &str, layout: &str) -> FeatureNet {
    FeatureNet::load(name, &hashed::network(layout), &device()).unwrap()
}

/// Keras's layout and the order and scale of its channels are turned into those of [`imagenet`].
#[test]
fn edges_of_vgg16() {
    let f = Fixtures::open("keras");
    let (mut shapes, mut inputs) = (std::collections::BTreeMap::new(), 3);
    for (block, (count, outputs)) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)].into_iter().enumerate() {
        for i in 0..count {
            let layer = if i == 0 { String::new() } else { format!("_{i}") };
            let path = format!("block{}/layers/conv2d{layer}/vars", block + 1);
            shapes.insert(format!("{path}/0"), vec![3, 3, inputs, outputs]);
            shapes.insert(format!("{path}/1"), vec![outputs]);
            inputs = outputs;
        }
    }
    let file = WeightsFile::from_bytes("vgg16-hed", hashed::safetensors(&shapes)).unwrap();
    let net = Vgg::load_hed(&file, &device()).unwrap();
    let names = ["relu1_1", "relu1_2", "relu2_1", "relu2_2"];
    let maps = net.activations(imagenet(f.tensor::<4>("input")), &names).unwrap();
    for (name, map) in names.iter().zip(maps) {
        let channels = map.dims()[1];
        let some = Tensor::cat((0..channels).step_by(16).map(|c| map.clone().narrow(1, c, 1)).collect(), 1);
        // What is beyond the border is the mean of ImageNet here and that of Caffe's VGG there, half a level apart.
        let [_, c, h, w] = some.dims();
        let inside = |x: Tensor<4>| x.slice([0..1, 0..c, 4..h - 4, 4..w - 4]).try_into_vec_as::<f32>().unwrap();
        let (got, wanted) = (inside(some), inside(f.tensor::<4>(name)));
        let scale = wanted.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        assert!(scale > 0.0);
        for (got, wanted) in got.into_iter().zip(wanted) {
            assert!((got - wanted).abs() <= 1e-4 * scale, "{name}: {got} {wanted}");
        }
    }
}

#[test]
fn resizes() {
    let f = Fixtures::open("features");
    let x = f.tensor::<4>("resize.input");
    for [height, width] in [[20, 7], [9, 31], [4, 13]] {
        let size = format!("{height}x{width}");
        f.assert_close(resize_tensorflow1(x.clone(), [height, width]), &format!("resize.tensorflow1.{size}"), 1e-6);
        f.assert_close(resize_antialiased(x.clone(), [height, width]), &format!("resize.antialiased.{size}"), 1e-6);
    }
}

#[test]
fn levels_are_those_of_a_png() {
    let f = Fixtures::open("features");
    let expected = f.tensor::<4>("pictures").try_into_vec_as::<f32>().unwrap();
    // Anything within half a level rounds to it, and what is out of range is clamped.
    let off = pictures(&f, "pictures") + 0.49 / 127.5;
    assert_eq!(levels(off).unwrap().try_into_vec_as::<f32>().unwrap(), expected);
    let grey = Tensor::from_data([[[[-7.0, 0.0, 9.0]]]], &device());
    let grey = levels(grey).unwrap().try_into_vec_as::<f32>().unwrap();
    assert_eq!(grey, [0.0, 128.0, 255.0].repeat(3));
}

#[test]
fn inception() {
    let f = Fixtures::open("features");
    let file = hashed::network("inception");
    let net = FeatureNet::load("inception-v3-fid", &file, &device()).unwrap();
    let seen = net.see(pictures(&f, "pictures")).unwrap();
    f.assert_close(seen.features.clone(), "inception.features", 1e-4);
    f.assert_close(seen.logits.unwrap(), "inception.logits_unbiased", 1e-4);
    assert_eq!(seen.features.dims()[1], net.width());
    let net = Inception::load(&file, &device()).unwrap();
    f.assert_close(net.logits(seen.features), "inception.logits", 1e-4);
}

#[test]
fn mobilenetv2() {
    let f = Fixtures::open("features");
    let net = net("mobilenetv2-imagenet", "mobilenetv2");
    let seen = net.see(pictures(&f, "pictures")).unwrap();
    f.assert_close(seen.features.clone(), "mobilenetv2.features", 1e-4);
    f.assert_close(seen.logits.unwrap(), "mobilenetv2.logits", 1e-4);
    assert_eq!(seen.features.dims()[1], net.width());
}

#[test]
fn efficientnet_lite0() {
    let f = Fixtures::open("efficientnet");
    let net = net("efficientnet-lite0-imagenet", "efficientnet-lite0");
    let seen = net.see(pictures(&f, "pictures")).unwrap();
    f.assert_close(seen.features.clone(), "features", 1e-4);
    f.assert_close(seen.logits.unwrap(), "logits", 1e-4);
    assert_eq!(seen.features.dims()[1], net.width());
    let net = LayerNet::efficientnet_lite0(&hashed::network("efficientnet-lite0"), &device()).unwrap();
    let maps = net.maps(pictures(&f, "pictures"), &net.style_layers()).unwrap();
    for (stage, map) in (1..).zip(maps) {
        f.assert_close(global_mean(map), &format!("stage{stage}.mean"), 1e-4);
    }
}

#[test]
fn vgg16_to_its_second_connected_layer() {
    let f = Fixtures::open("features");
    let net = net("vgg16-fc2", "vgg16");
    let seen = net.see(pictures(&f, "pictures").narrow(0, 0, 1)).unwrap();
    f.assert_close(seen.features.clone(), "vgg16.fc2_relu", 1e-4);
    assert!(seen.logits.is_none());
    assert_eq!(seen.features.dims()[1], net.width());
}

#[test]
fn vgg_activations() {
    let f = Fixtures::open("features");
    let x = imagenet(pictures(&f, "pictures"));
    for (layout, depth, names) in [
        ("vgg16", Depth::Vgg16, &["relu1_1", "relu2_2", "relu3_3", "relu5_3"][..]),
        ("vgg19", Depth::Vgg19, &["relu1_2", "relu2_1", "relu3_4", "relu4_4", "relu5_4"]),
    ] {
        let mut shapes = hashed::shapes(layout);
        shapes.retain(|name, _| name.starts_with("features."));
        let file = WeightsFile::from_bytes(layout, hashed::safetensors(&shapes)).unwrap();
        let net = Vgg::load(&file, depth, &device()).unwrap();
        let activations = net.activations(x.clone(), names).unwrap();
        for (name, activation) in names.iter().zip(&activations) {
            f.assert_close(global_mean(activation.clone()), &format!("{layout}.{name}.mean"), 1e-4);
        }
        let (name, last) = (names.last().unwrap(), activations.last().unwrap());
        f.assert_close(last.clone(), &format!("{layout}.{name}"), 1e-4);
        // In the order they are asked for, each as often.
        let twice = net.activations(x.clone(), &[names[1], names[0], names[1]]).unwrap();
        let dims = |x: &Tensor<4>| x.dims();
        assert_eq!(dims(&twice[0]), dims(&activations[1]));
        assert_eq!(dims(&twice[1]), dims(&activations[0]));
        assert_eq!(dims(&twice[2]), dims(&activations[1]));
        for (name, said) in
            [("relu6_1", "no activation relu6_1"), ("relu1_3", "no activation"), ("pool", "no activation")]
        {
            let error = net.activations(x.clone(), &[name]).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(said), "{error}");
        }
        let tiny = x.clone().narrow(2, 0, 15);
        let error = net.activations(tiny.clone(), &["relu5_1"]).unwrap_err().to_string();
        assert!(error.contains("too small for relu5_1"), "{error}");
        assert!(net.activations(tiny, &["relu4_1"]).is_ok());
    }
}

#[test]
fn lpips() {
    let f = Fixtures::open("features");
    let (a, b) = (pictures(&f, "pictures"), pictures(&f, "others"));
    let mut vgg16 = hashed::shapes("vgg16");
    vgg16.retain(|name, _| name.starts_with("features."));
    let vgg16 = WeightsFile::from_bytes("vgg16", hashed::safetensors(&vgg16)).unwrap();
    let heads = |name: &str| hashed::network(&format!("{name}.heads"));
    for metric in [
        Lpips::vgg16(&vgg16, &heads("lpips-vgg16"), &device()).unwrap(),
        Lpips::alex(&hashed::network("alexnet"), &heads("lpips-alex"), &device()).unwrap(),
        Lpips::like_mobilenetv2(&hashed::network("mobilenetv2"), &device()).unwrap(),
    ] {
        let name = metric.name();
        f.assert_close(metric.distance(a.clone(), b.clone()).unwrap(), name, 1e-4);
        f.assert_close(metric.distance(b.clone(), a.clone()).unwrap(), name, 1e-4);
        let same = metric.distance(a.clone(), a.clone()).unwrap().try_into_vec_as::<f32>().unwrap();
        assert_eq!(same, [0.0, 0.0], "{name}");
        let error = metric.distance(a.clone(), a.clone().narrow(2, 0, 36)).unwrap_err().to_string();
        assert!(error.contains("no pairs"), "{error}");
        let tiny = a.clone().narrow(3, 0, 15);
        match metric.distance(tiny.clone(), tiny) {
            Ok(distance) => assert!(name.contains("mobilenet") && distance.dims() == [2]),
            Err(error) => assert!(!name.contains("mobilenet") && error.to_string().contains("too small"), "{error}"),
        }
    }
}

#[test]
fn files_of_other_networks_and_other_pictures_are_refused() {
    let only = |name: &str, shape: &[usize]| {
        let shapes = [(name.to_string(), shape.to_vec())].into();
        WeightsFile::from_bytes("a file", hashed::safetensors(&shapes)).unwrap()
    };
    let load = |name: &str, file: &WeightsFile| FeatureNet::load(name, file, &device()).unwrap_err().to_string();
    let file = only("features.0.0.weight", &[32, 3, 3, 3]);
    let said = load("inception-v3-fid", &file);
    assert!(said.contains("inception-v3-fid: a file has no tensor `Conv2d_1a_3x3.conv.weight`"), "{said}");
    // A VGG with another number of hidden features.
    let said = load("vgg19-fc2", &only("classifier.0.weight", &[8, 25088]));
    assert!(said.contains("`classifier.0.weight` has shape [8, 25088], needed is [4096, 25088]"), "{said}");
    let said = FeatureNet::load("resnet", &file, &device()).unwrap_err();
    assert!(said.is_usage() && said.to_string().contains("inception-v3-fid, mobilenetv2-imagenet"), "{said}");

    let net = net("mobilenetv2-imagenet", "mobilenetv2");
    assert_eq!((net.name(), net.weights().len()), ("mobilenetv2-imagenet", 64));
    let see = |shape: [usize; 4]| net.features(Tensor::zeros(shape, &device()));
    assert_eq!(see([2, 1, 5, 1]).unwrap().dims(), [2, 1280]);
    assert!(see([1, 4, 8, 8]).unwrap_err().to_string().contains("4 channels"));
    assert!(see([0, 3, 8, 8]).unwrap_err().to_string().contains("no pixels"));
}
