//! Weights files that torch.save and safetensors wrote, whole, damaged and hostile.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fixtures::Fixtures;
use kiln_features::WeightsFile;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures/weights").join(name)
}

fn error(name: &str) -> String {
    let error = WeightsFile::open(&path(name)).unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
    error
}

#[test]
fn every_format_gives_the_same_numbers() {
    let f = Fixtures::open("weights");
    let names: BTreeSet<String> = f.names().into_iter().collect();
    for file in ["zip.pth", "legacy.pth", "plain.safetensors"] {
        let weights = WeightsFile::open(&path(file)).unwrap();
        assert_eq!(weights.shapes().map(|(n, _)| n.to_string()).collect::<BTreeSet<_>>(), names, "{file}");
        for name in &names {
            let (shape, expected) = f.values(name);
            let expected: Vec<f32> = expected.into_iter().map(|v| v as f32).collect();
            assert_eq!(weights.values(name, &shape).unwrap(), expected, "{file} {name}");
        }
        let said = weights.values("conv.weight", &[3, 2, 9]).unwrap_err().to_string();
        assert!(said.contains("has shape [3, 2, 3, 3], needed is [3, 2, 9]"), "{said}");
        let said = weights.values("conv", &[1]).unwrap_err().to_string();
        assert!(said.contains(file) && said.contains("no tensor `conv`"), "{said}");
    }
    let weights = WeightsFile::open(&path("python2.pth")).unwrap();
    let (shape, expected) = f.values("whole");
    let expected: Vec<f32> = expected.into_iter().map(|v| v as f32).collect();
    assert_eq!(weights.values("whole", &shape).unwrap(), expected);
    assert_eq!(weights.values("scalar", &[]).unwrap(), [2.5]);
}

/// The arrays of tests/reference/keras.py.
#[test]
fn hdf5_gives_its_arrays_by_their_paths() {
    let weights = WeightsFile::open(&path("keras.h5")).unwrap();
    let shapes: Vec<(&str, &[usize])> = weights.shapes().collect();
    let known: [(&str, &[usize]); 3] =
        [("a/layers/conv2d/vars/0", &[3, 3, 2, 4]), ("a/layers/conv2d/vars/1", &[4]), ("b/vars/0", &[5])];
    assert_eq!(shapes, known);
    for (name, shape) in known {
        let wanted: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32 / 8.0).collect();
        assert_eq!(weights.values(name, shape).unwrap(), wanted, "{name}");
    }
}

#[test]
fn a_pickle_that_asks_for_more_is_refused_by_name() {
    for file in ["forbidden-zip.pth", "forbidden-legacy.pth"] {
        let said = error(file);
        assert!(said.contains("`posix.system`"), "{said}");
    }
    assert!(!Path::new("kiln-was-here").exists());
}

#[test]
fn what_is_no_state_dict_is_told_apart() {
    assert!(error("checkpoint.pth").contains("`state` is no tensor"));
    assert!(error("expanded.pth").contains("does not fit the 1 numbers"));
    assert!(error("complex.pth").contains("torch.Complex"), "{}", error("complex.pth"));
    assert!(error("other.pkl").contains("not one of torch.save"));
    assert!(error("no-such-file.pth").contains("reading"));
    let said = |bytes: &[u8]| WeightsFile::from_bytes("a file", bytes.to_vec()).unwrap_err().to_string();
    assert!(said(b"").contains("neither safetensors,"));
    assert!(said(b"\x89HDF\r\n\x1a\n").contains("damaged HDF5"));
    assert!(error("packed.h5").contains("compressed HDF5"), "{}", error("packed.h5"));
    assert!(said(b"PK\x03\x04 and so on").contains("damaged zip"));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for file in ["zip.pth", "legacy.pth", "plain.safetensors", "python2.pth", "keras.h5"] {
        let whole = std::fs::read(path(file)).unwrap();
        for len in 0..whole.len() {
            let cut = WeightsFile::from_bytes(file, whole[..len].to_vec());
            assert!(cut.is_err(), "{file} cut to {len} of {}", whole.len());
        }
    }
}

#[test]
fn a_damaged_byte_never_panics() {
    for file in ["zip.pth", "legacy.pth", "plain.safetensors", "python2.pth", "keras.h5"] {
        let whole = std::fs::read(path(file)).unwrap();
        for at in 0..whole.len() {
            for flip in [0x01, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                let Ok(weights) = WeightsFile::from_bytes(file, bytes) else { continue };
                for (name, shape) in weights.shapes() {
                    let values = weights.values(name, shape).unwrap();
                    assert!(values.len() <= whole.len(), "{file} {at} {name}");
                }
            }
        }
    }
}
