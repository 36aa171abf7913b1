//! What people's own folders and archives look like, and what is left out of them.
#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use kiln_data::{DataSet, Picture, PictureRule, Split, notes, open, open_all};

fn picture(value: u8) -> Picture {
    Picture::new(2, 2, 3, vec![value; 12]).unwrap()
}

fn write(folder: &Path, name: &str, text: &[(&str, &str)]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture(name.len() as u8).write_png(&path, text).unwrap();
}

fn write_all(folder: &Path, names: &[&str]) {
    names.iter().for_each(|name| write(folder, name, &[]));
}

fn opened(path: &Path, split: Split) -> kiln_core::Result<Arc<dyn DataSet>> {
    open(path.to_str().unwrap(), split, &PictureRule::default())
}

/// Pictures, classes and notes of all of a set.
fn seen(path: &Path) -> (usize, String, String) {
    let set = opened(path, Split::All).unwrap();
    (0..set.len()).for_each(|i| drop(set.get(i).unwrap()));
    (set.len(), set.classes().join(" "), set.notes().join("; "))
}

fn refused<T>(result: kiln_core::Result<T>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn parts_under_other_names_are_parts() {
    for (train, test) in [("train", "val"), ("Train", "Test"), ("training", "testing"), ("train_set", "valid_set")] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for class in ["a", "b"] {
            write_all(root, &[&format!("{train}/{class}/1.png"), &format!("{train}/{class}/2.png")]);
            write(root, &format!("{test}/{class}/3.png"), &[]);
        }
        assert_eq!(seen(root), (6, "a b".into(), String::new()));
        let names = |split| {
            let set = opened(root, split).unwrap();
            (0..set.len()).map(|i| set.stem(i).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(Split::Train), ["a/1", "a/2", "b/1", "b/2"]);
        assert_eq!(names(Split::Test), ["a/3", "b/3"]);
    }
}

#[test]
fn parts_may_lie_deeper() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_all(&root.join("classes"), &["cat/train/1.png", "cat/val/2.png", "dog/train/3.png"]);
    write_all(&root.join("yolo"), &["images/train/1.png", "images/val/2.png"]);
    let grey = Picture::new(2, 2, 1, vec![1; 4]).unwrap();
    for (part, name) in [("train", "1"), ("val", "2")] {
        write(root, &format!("masked/images/{part}/{name}.png"), &[]);
        let mask = root.join(format!("masked/masks/{part}/{name}.png"));
        std::fs::create_dir_all(mask.parent().unwrap()).unwrap();
        grey.write_png(&mask, &[]).unwrap();
    }
    for (name, classes, train) in [("classes", "cat dog", 2), ("yolo", "", 1), ("masked", "", 1)] {
        let set = opened(&root.join(name), Split::Train).unwrap();
        assert_eq!((set.len(), set.classes().join(" ").as_str()), (train, classes), "{name}");
        assert_eq!(opened(&root.join(name), Split::Test).unwrap().len(), 1, "{name}");
        assert_eq!(set.get(0).unwrap().mask.is_some(), name == "masked");
    }
}

#[test]
fn a_part_among_classes_is_refused_and_a_third_part_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_all(root, &["cat/1.png", "dog/2.png", "val/cat/3.png"]);
    assert!(refused(opened(root, Split::Train)).contains("val is the name of a part of a set, and lies beside cat"));
    std::fs::create_dir(root.join("train")).unwrap();
    std::fs::rename(root.join("cat"), root.join("train/cat")).unwrap();
    let set = opened(root, Split::Train).unwrap();
    assert_eq!((set.len(), set.notes().len()), (1, 1));
    assert!(set.notes()[0].contains("left out 1 picture in dog"), "{:?}", set.notes());
    write(root, "test/cat/9.png", &[]);
    let told = opened(root, Split::Test).unwrap().notes().join("; ");
    assert!(told.contains("2 pictures in dog, val"), "{told}");
}

#[test]
fn no_class_is_kept_from_training() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    (0..30).for_each(|i| write(root, &format!("a/{i}.png"), &[]));
    // Each is held out in a set without classes, or of which it is not the only one.
    let held: Vec<String> = (0..200)
        .map(|i| format!("b/{i}.png"))
        .filter(|name| {
            let other = tempfile::tempdir().unwrap();
            (0..5).for_each(|i| write(other.path(), &format!("a/{i}.png"), &[]));
            (0..50).for_each(|i| write(other.path(), &format!("b/x{i}.png"), &[]));
            write(other.path(), name, &[]);
            let set = opened(other.path(), Split::Test).unwrap();
            (0..set.len()).any(|i| set.stem(i).unwrap() == name.trim_end_matches(".png"))
        })
        .take(2)
        .collect();
    assert_eq!(held.len(), 2);
    for name in &held {
        write(root, name, &[]);
        let (train, test) = (opened(root, Split::Train).unwrap(), opened(root, Split::Test).unwrap());
        let of_b = |set: &Arc<dyn DataSet>| (0..set.len()).filter(|&i| set.get(i).unwrap().label == Some(1)).count();
        assert!(of_b(&train) > 0 && of_b(&test) == 0);
        assert_eq!(train.len() + test.len(), opened(root, Split::All).unwrap().len());
    }
    // Where the parts are given, it is said.
    let folder = tempfile::tempdir().unwrap();
    write_all(folder.path(), &["train/a/1.png", "test/a/2.png", "test/b/3.png"]);
    assert!(seen(folder.path()).2.contains("no picture to train on has the class b"));
}

#[test]
fn every_format_is_read_and_others_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let flat = image::RgbImage::from_pixel(16, 8, image::Rgb([200, 60, 20]));
    for (ending, format) in [
        ("bmp", image::ImageFormat::Bmp),
        ("tif", image::ImageFormat::Tiff),
        ("TIFF", image::ImageFormat::Tiff),
        ("jfif", image::ImageFormat::Jpeg),
        ("jpe", image::ImageFormat::Jpeg),
        ("pam", image::ImageFormat::Pnm),
    ] {
        flat.save_with_format(root.join(format!("of-{ending}.{ending}")), format).unwrap();
    }
    assert_eq!(seen(root), (6, String::new(), String::new()));
    for name in ["a.avif", "b.AVIF", "c.heic", "d", "list.csv", "Thumbs.db", "desktop.ini", ".DS_Store"] {
        std::fs::write(root.join(name), "x").unwrap();
    }
    let told = seen(root).2;
    assert_eq!(told, "left out files that are not read as pictures: 2 .avif, 1 .csv, 1 .heic, 1 without an ending");
    // A class must not vanish.
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_all(root, &["a/1.png", "c/1.png"]);
    std::fs::create_dir(root.join("b")).unwrap();
    std::fs::write(root.join("b/1.avif"), "x").unwrap();
    assert!(refused(opened(root, Split::All)).contains("b/1.avif cannot be read"));
    assert!(refused(opened(&root.join("b"), Split::All)).contains("1 .avif"));
    assert!(refused(opened(&root.join("b/1.avif"), Split::All)).contains("pictures of this kind are not read"));
}

#[test]
fn what_systems_and_runs_leave_behind_is_no_data() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_all(root, &["a/1.png", "b/2.png"]);
    write_all(root, &["@eaDir/1.png/THUMB.jpg", "$RECYCLE.BIN/x.png", "a/Thumbnails/1.png", ".trash/1.png"]);
    write_all(root, &["runs/vae/previews/1.png", "runs/vae/samples/00000.png"]);
    std::fs::create_dir(root.join("runs/vae/checkpoints")).unwrap();
    std::fs::write(root.join("runs/vae/recipe.toml"), "system = 'vae'").unwrap();
    let (pictures, classes, told) = seen(root);
    assert_eq!((pictures, classes.as_str()), (2, "a b"));
    assert!(told.contains("left out $RECYCLE.BIN, @eaDir, Thumbnails"), "{told}");
    assert!(told.contains("left out runs/vae: made by kiln train"), "{told}");
    assert!(refused(opened(&root.join("runs/vae"), Split::All)).contains("a run, not a data set"));
    // Its samples can be asked for.
    assert_eq!(seen(&root.join("runs/vae/samples")).0, 1);
}

#[test]
fn samples_are_data_by_themselves_and_not_among_others() {
    let sample = |i: &str| [("system", "vae".to_string()), ("run", "r".into()), ("index", i.to_string())];
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let write_sample = |name: &str, i: &str| {
        let text = sample(i);
        write(root, name, &text.each_ref().map(|(k, v)| (*k, v.as_str())));
    };
    for i in 0..3 {
        write_sample(&format!("out/{i:05}.png"), &i.to_string());
    }
    for sheet in ["grid", "preview", "trajectory"] {
        write(root, &format!("out/{sheet}.png"), &[("system", "vae")]);
    }
    let (pictures, _, told) = seen(&root.join("out"));
    assert_eq!((pictures, told.as_str()), (3, ""));
    // Beside others they are left out, but for those that someone has put among them.
    write_all(root, &["a/1.png", "b/1.png"]);
    write(root, "translated/1.png", &[("system", "cyclegan"), ("input", "a/1.png")]);
    let (pictures, classes, told) = seen(root);
    assert_eq!((pictures, classes.as_str()), (2, "a b"));
    assert!(
        told.contains("left out 4 pictures that Kiln drew, in out, translated;") && told.contains("3 sheets"),
        "{told}"
    );
    write_sample("a/made.png", "7");
    assert_eq!(seen(root).0, 3);
}

#[test]
fn archives_of_other_programs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let png = picture(3).encode_png(&[]).unwrap();
    let names = |shape: &str| ["a/1", "a/2", "b/1"].map(|n| shape.replace("{}", n));
    for (name, shape) in
        [("plain.zip", "{}.png"), ("dot.zip", "./{}.png"), ("up.zip", "/pets/{}.png"), ("back.zip", "{}.png")]
    {
        let mut zip = zip::ZipWriter::new(std::fs::File::create(file(name)).unwrap());
        for path in names(shape) {
            let path = if name == "back.zip" { path.replace('/', "\\") } else { path };
            zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(&png).unwrap();
        }
        zip.finish().unwrap();
        assert_eq!(seen(&file(name)), (3, "a b".into(), String::new()), "{name}");
    }
    // A program in front, as of an archive that unpacks itself, and a folder of its own.
    let whole = std::fs::read(file("plain.zip")).unwrap();
    std::fs::write(file("self.zip"), [b"#!/bin/sh\nexit\n".as_slice(), &whole].concat()).unwrap();
    assert_eq!(seen(&file("self.zip")).0, 3);
    let tar = || {
        let mut tar = tar::Builder::new(Vec::new());
        for path in names("pets/{}.png") {
            let mut header = tar::Header::new_ustar();
            header.set_size(png.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, png.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    };
    std::fs::write(file("pets.tar"), tar()).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar()).unwrap();
    std::fs::write(file("pets.tar.gz"), gz.finish().unwrap()).unwrap();
    for name in ["pets.tar", "pets.tar.gz"] {
        assert_eq!(seen(&file(name)), (3, "a b".into(), String::new()), "{name}");
    }
    std::fs::write(file("cut.tar"), &tar()[..700]).unwrap();
    assert!(
        refused(opened(&file("cut.tar"), Split::All)).contains("cut"),
        "{}",
        refused(opened(&file("cut.tar"), Split::All))
    );
}

#[test]
fn arrays_of_numpy_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let npy = |shape: &str, data: &[u8]| {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}");
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    };
    let file = folder.path().join("x.npy");
    std::fs::write(&file, npy("(10, 2, 3)", &(0..60).collect::<Vec<u8>>())).unwrap();
    let (train, test) = (opened(&file, Split::Train).unwrap(), opened(&file, Split::Test).unwrap());
    assert_eq!((train.len() + test.len(), train.uniform()), (10, Some([1, 2, 3])));
    assert_eq!(opened(&file, Split::All).unwrap().get(1).unwrap().picture.pixels, [6, 7, 8, 9, 10, 11]);

    let file = folder.path().join("x.npz");
    let write_npz = |arrays: &[(&str, Vec<u8>)]| {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in arrays {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        std::fs::write(&file, zip.finish().unwrap().into_inner()).unwrap();
    };
    write_npz(&[
        ("x_train.npy", npy("(3, 1, 1)", &[1, 2, 200])),
        ("y_train.npy", npy("(3,)", &[0, 1, 1])),
        ("x_test.npy", npy("(1, 1, 1)", &[4])),
        ("y_test.npy", npy("(1, 1)", &[2])),
        ("weights.npy", npy("(2, 2)", &[4; 4])),
    ]);
    let (train, test) = (opened(&file, Split::Train).unwrap(), opened(&file, Split::Test).unwrap());
    assert_eq!((train.len(), test.len(), train.classes().len(), test.classes().len()), (3, 1, 3, 3));
    let sample = test.get(0).unwrap();
    assert_eq!((sample.picture.pixels, sample.label), (vec![4], Some(2)));
    assert_eq!(opened(&file, Split::All).unwrap().len(), 4);

    write_npz(&[
        ("x_train.npy", npy("(1, 1, 1)", &[1])),
        ("x_test.npy", npy("(1, 1, 1)", &[4])),
        ("y_test.npy", npy("(1,)", &[2])),
    ]);
    assert!(opened(&file, Split::Train).unwrap().classes().is_empty());
    assert!(refused(opened(&file, Split::All)).contains("some have none"));
}

#[test]
fn a_comma_may_belong_to_a_path() {
    let folder = tempfile::tempdir().unwrap();
    write_all(folder.path(), &["a,b/1.png", "c/1.png"]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let count = |specs: String| open_all(&specs, Split::All, &PictureRule::default()).map(|sets| sets.len());
    assert_eq!(count(path("a,b")).unwrap(), 1);
    assert_eq!(count(format!("{},{}", path("a,b"), path("c"))).unwrap(), 2);
    assert_eq!(count(path("a\\,b")).unwrap(), 1);
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_read() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_all(root, &["1.png", "2.png"]);
    for byte in [0xe8, 0xe9] {
        let name = [b"caf".as_slice(), &[byte], b".png"].concat();
        std::fs::rename(
            root.join(if byte == 0xe8 { "1.png" } else { "2.png" }),
            root.join(std::ffi::OsStr::from_bytes(&name)),
        )
        .unwrap();
        let caption = [b"caf".as_slice(), &[byte], b".txt"].concat();
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(&caption)), [byte & 0x7f]).unwrap();
    }
    let set = opened(root, Split::All).unwrap();
    let named = |i: usize| set.get(i).unwrap();
    assert!(named(0).name.ends_with("caf\\xE8.png") && named(1).name.ends_with("caf\\xE9.png"));
    assert_eq!([named(0).caption.unwrap(), named(1).caption.unwrap()], ["h", "i"]);
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "1.png", &[]);
    std::os::unix::fs::symlink("/dev/zero", root.join("2.png")).unwrap();
    assert_eq!(seen(root), (1, String::new(), "left out 1 file: devices, pipes or sockets".into()));
    assert!(refused(opened(&root.join("2.png"), Split::All)).contains("not a regular file"));
}

#[test]
fn a_folder_with_the_name_of_a_set_is_told() {
    // The tests run in the crate's own folder.
    let sets = open_all("starter", Split::Train, &PictureRule::default()).unwrap();
    assert!(notes("starter", &sets).is_empty());
}
