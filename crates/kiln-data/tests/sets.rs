//! Folders, zips, IDX and the starter data.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use kiln_core::random::Key;
use kiln_data::{
    DataKind, DataSet, Loader, Picture, PictureRule, Prepared, Resize, Split, check_pairs, few_labels, open, open_all,
};

fn picture(width: usize, height: usize, value: u8) -> Picture {
    Picture::new(width, height, 3, vec![value; width * height * 3]).unwrap()
}

fn write(folder: &Path, name: &str, p: &Picture) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    p.write_png(&path, &[]).unwrap();
}

fn rule(size: usize, resize: Resize) -> PictureRule {
    PictureRule { size: size.into(), resize, ..PictureRule::default() }
}

fn open_here(folder: &Path, split: Split) -> kiln_core::Result<Arc<dyn DataSet>> {
    open(folder.to_str().unwrap(), split, &PictureRule::default())
}

fn names(set: &dyn DataSet) -> Vec<String> {
    (0..set.len()).map(|i| set.get(i).unwrap().name).collect()
}

fn message<T>(result: kiln_core::Result<T>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn sub_folders_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for i in 0..10 {
        write(root, &format!("dog/{i}.png"), &picture(2, 2, i));
        write(root, &format!("cat/deep/{i}.png"), &picture(2, 2, 100 + i));
    }
    std::fs::write(root.join("cat/readme.md"), "no picture").unwrap();
    std::fs::write(root.join(".hidden.png"), "no picture").unwrap();
    let (train, test) = (open_here(root, Split::Train).unwrap(), open_here(root, Split::Test).unwrap());
    assert_eq!(train.classes(), ["cat", "dog"]);
    assert_eq!(test.classes(), train.classes());
    assert_eq!(train.len() + test.len(), 20);
    assert!(!test.is_empty() && test.len() < train.len());
    let mut all = names(train.as_ref());
    assert!(all.is_sorted());
    all.extend(names(test.as_ref()));
    all.sort();
    all.dedup();
    assert_eq!(names(open_here(root, Split::All).unwrap().as_ref()), all);
    assert_eq!(all.len(), 20);
    for i in 0..train.len() {
        let sample = train.get(i).unwrap();
        assert_eq!(sample.label, Some(u32::from(sample.picture.pixels[0] < 100)));
    }
    assert!(train.kinds().contains(&DataKind::Labelled));
    assert_ne!(train.fingerprint(), test.fingerprint());
    assert_eq!(train.fingerprint(), open_here(root, Split::Train).unwrap().fingerprint());
    write(root, "stray.png", &picture(2, 2, 0));
    assert!(message(open_here(root, Split::Train)).contains("stray.png lies beside"));
}

#[test]
fn flat_folders_splits_and_captions() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["b.png", "a.PNG"] {
        write(root, name, &picture(2, 2, 0));
        std::fs::write(root.join(name).with_extension("txt"), format!("this is {name}\n")).unwrap();
    }
    // Four and fewer are all for training.
    let set = open_here(root, Split::Train).unwrap();
    assert_eq!(set.get(0).unwrap().caption.unwrap(), "this is a.PNG");
    assert_eq!((set.len(), set.get(1).unwrap().label), (2, None));
    assert_eq!(set.kinds(), [DataKind::Images, DataKind::TwoDomains, DataKind::Captioned]);
    assert!(message(open_here(root, Split::Test)).contains("no pictures for the test split"));

    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "train/x/1.png", &picture(2, 2, 1));
    write(root, "test/y/2.png", &picture(2, 2, 2));
    let test = open_here(root, Split::Test).unwrap();
    assert_eq!((test.len(), test.get(0).unwrap().label), (1, Some(1)));
    assert_eq!(test.classes(), ["x", "y"]);
}

#[test]
fn bad_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(message(open_here(root, Split::Train)).contains("no pictures in it"));
    for i in 0..3 {
        write(root, &format!("{i}.png"), &picture(30, 30, i));
    }
    let whole = std::fs::read(root.join("1.png")).unwrap();
    std::fs::write(root.join("1.png"), &whole[..whole.len() - 20]).unwrap();
    let set = open_here(root, Split::Train).unwrap();
    let error = message(Prepared::new(set, PictureRule::default()));
    assert!(error.contains("1.png: not a readable picture"), "{error}");
    std::fs::write(root.join("1.png"), b"text").unwrap();
    let set = open_here(root, Split::Train).unwrap();
    assert!(message(Prepared::new(set, rule(8, Resize::Crop))).contains("1.png"));
    let error = message(open("mnits-no-such", Split::Train, &PictureRule::default()));
    assert!(error.contains("mnits-no-such"), "{error}");
}

#[test]
fn mixed_sizes_need_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "a.png", &picture(8, 4, 10));
    let mut tall = picture(4, 8, 20);
    tall.pixels[..12].fill(200);
    write(root, "b.png", &tall);
    let grey = Picture::new(6, 6, 1, vec![30; 36]).unwrap();
    write(root, "c.png", &grey);
    let set = || open_here(root, Split::Train).unwrap();
    for rule in [PictureRule::default(), rule(6, Resize::None)] {
        let error = message(Prepared::new(set(), rule));
        let named = error.contains("a.png") || error.contains("b.png");
        assert!(named && error.contains("stretch, crop"), "{error}");
    }
    for resize in [Resize::Stretch, Resize::Crop, Resize::Pad] {
        let prepared = Prepared::new(set(), rule(6, resize)).unwrap();
        assert_eq!(prepared.shape(), [3, 6, 6]);
        assert!((0..3).all(|i| prepared.get(i).unwrap().values.len() == 108));
    }
    let at = |p: &Picture, x: usize, y: usize| p.pixels[(y * p.width + x) * 3];
    let padded = Prepared::new(set(), rule(6, Resize::Pad)).unwrap().get(0).unwrap().picture;
    assert_eq!([at(&padded, 0, 0), at(&padded, 0, 1), at(&padded, 5, 3), at(&padded, 5, 5)], [255, 10, 10, 255]);
    // The bright top row of the tall picture falls outside the middle.
    let cropped = Prepared::new(set(), rule(4, Resize::Crop)).unwrap().get(1).unwrap().picture;
    assert!(cropped.pixels.iter().all(|&v| v == 20));
    assert!(message(Prepared::new(set(), rule(0, Resize::Pad))).contains("needs a size"));
    // Rectangles: 8 x 4 and 4 x 8 into 3 wide, 6 high.
    for (resize, first) in [(Resize::Stretch, [10; 4]), (Resize::Crop, [10; 4]), (Resize::Pad, [255, 255, 10, 255])] {
        let prepared =
            Prepared::new(set(), PictureRule { size: [6, 3].into(), resize, ..PictureRule::default() }).unwrap();
        assert_eq!(prepared.shape(), [3, 6, 3]);
        let wide = prepared.get(0).unwrap().picture;
        assert_eq!([0, 1, 2, 5].map(|y| at(&wide, 1, y)), first, "{resize:?}");
        let tall = prepared.get(1).unwrap().picture;
        assert_eq!((tall.width, tall.height, at(&tall, 1, 3)), (3, 6, 20));
    }
    let channels = PictureRule { channels: 2, ..rule(4, Resize::Crop) };
    assert!(message(Prepared::new(set(), channels)).contains("channels = 2"));
    let grey = PictureRule { channels: 1, ..rule(4, Resize::Crop) };
    assert_eq!(Prepared::new(set(), grey).unwrap().shape(), [1, 4, 4]);
}

#[test]
fn a_zip_is_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pets.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    };
    for i in 0..3 {
        add(&format!("pets/dog/{i}.png"), &picture(2, 2, i).encode_png(&[]).unwrap());
    }
    add("pets/cat/1.png", &picture(2, 2, 9).encode_png(&[]).unwrap());
    add("__MACOSX/pets/cat/1.png", b"junk");
    // Beside the folder around all pictures: shorter than its name, and with a letter of two bytes where that ends.
    add("a.md", b"pets");
    add("dogsü.pdf", b"junk");
    zip.finish().unwrap();
    let set = open_here(&path, Split::Train).unwrap();
    assert_eq!((set.len(), set.classes()), (4, &["cat".to_string(), "dog".to_string()][..]));
    assert_eq!(set.get(0).unwrap().picture, picture(2, 2, 9));
    assert_eq!(set.get(3).unwrap().label, Some(1));
    assert!(set.get(4).is_err());
    std::fs::write(&path, b"PK nothing").unwrap();
    assert!(message(open_here(&path, Split::Train)).contains("pets.zip: not a readable zip"));
}

#[test]
fn pairs_have_the_same_names() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["1", "2"] {
        write(root, &format!("a/train/{name}.png"), &picture(2, 2, 1));
        write(root, &format!("b/train/{name}.png"), &picture(2, 2, 2));
    }
    for side in ["a", "b"] {
        write(root, &format!("{side}/test/9.png"), &picture(2, 2, 3));
    }
    let check = || {
        let side = |name: &str| open_here(&root.join(name), Split::Train).unwrap();
        check_pairs(&side("a"), &side("b"))
    };
    check().unwrap();
    // The ending says nothing.
    std::fs::rename(root.join("b/train/2.png"), root.join("b/train/2.jpg")).unwrap();
    check().unwrap();
    write(root, "b/train/3.png", &picture(2, 2, 2));
    let error = check().unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("/a has no `3`"), "{error}");
    write(root, "a/train/11.png", &picture(2, 2, 2));
    let error = message(check());
    assert!(error.contains("/b has no `11`"), "{error}");
    let set = open_all("starter:noto,starter:twemoji", Split::Train, &PictureRule::default()).unwrap();
    check_pairs(&set[0], &set[1]).unwrap();
    let digits = |split| open("starter", split, &PictureRule::default()).unwrap();
    let error = message(check_pairs(&digits(Split::Train), &digits(Split::Test)));
    assert!(error.contains("9000 pictures"), "{error}");
}

#[test]
fn images_and_masks() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // Light where the mask is, twice as wide as high.
    let grey = |pixels: Vec<u8>| Picture::new(8, 4, 1, pixels).unwrap();
    for i in 0..6usize {
        let inside = |at: usize| at % 8 > i;
        let light = (0..32).map(|at| if inside(at) { 220 } else { 20 }).collect();
        let mask = (0..32).map(|at| if inside(at) { 255 } else { 0 }).collect();
        write(root, &format!("images/{i}.png"), &grey(light));
        write(root, &format!("masks/{i}.png"), &grey(mask));
    }
    let set = || open_here(root, Split::All).unwrap();
    assert_eq!((set().len(), set().classes().len(), set().stem(2).unwrap().as_str()), (6, 0, "2"));
    assert!(set().kinds().contains(&DataKind::Masked));
    assert!(set().get(0).unwrap().mask.is_some());
    let (train, test) = (open_here(root, Split::Train).unwrap(), open_here(root, Split::Test).unwrap());
    assert_eq!(train.len() + test.len(), 6);

    // A map of classes is not blurred, and what is padded has class 0.
    let rule = PictureRule { size: [6, 6].into(), resize: Resize::Pad, flip: true, ..PictureRule::default() };
    let prepared = Prepared::new(set(), rule).unwrap();
    assert_eq!(prepared.find_mask_values().unwrap(), [0, 255]);
    let stream = Arc::new(prepared.with_masks(vec![0, 255]));
    let mut loader = Loader::new(vec![stream], 6, Key::new(1), 0).unwrap();
    let mut flips = [0, 0];
    for _ in 0..4 {
        let mut batch = loader.next().unwrap();
        let part = batch.parts.remove(0);
        let masks = part.masks.unwrap();
        assert_eq!(masks.len(), 6 * 36);
        for (item, mask) in masks.chunks(36).enumerate() {
            assert!(mask[..6].iter().chain(&mask[30..]).all(|&class| class == 0));
            // The light side of the picture is the mask's, mirrored or not.
            let row = &part.values[item * 36 + 18..][..6];
            let light = [row[0], row[5]].map(|v| u8::from(v > 0.0));
            assert_eq!(light, [mask[18], mask[23]], "{row:?} {mask:?}");
            flips[usize::from(mask[18] == 1)] += 1;
        }
    }
    assert!(flips[0] > 3 && flips[1] > 3, "{flips:?}");

    // What is wrong is named.
    write(root, "masks/3.png", &picture(8, 4, 7));
    assert_eq!(Prepared::new(set(), PictureRule::default()).unwrap().find_mask_values().unwrap(), [0, 7, 255]);
    let loader = |set| {
        let stream = Arc::new(Prepared::new(set, PictureRule::default()).unwrap().with_masks(vec![0, 255]));
        message(Loader::new(vec![stream], 6, Key::new(1), 0).unwrap().next())
    };
    assert!(loader(set()).contains("images/3.png: its mask has the value 7"));
    write(root, "masks/3.png", &picture(4, 4, 7));
    assert!(message(set().get(3)).contains("masks/3.png: 4 x 4, and its picture is 8 x 4"));
    let mut colours = picture(8, 4, 7);
    colours.pixels[0] = 9;
    write(root, "masks/3.png", &colours);
    assert!(message(set().get(3)).contains("masks/3.png: a mask of colours"));
    image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(8, 4, image::Luma([7]))
        .save(root.join("masks/3.png"))
        .unwrap();
    let error = set().get(3).err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("masks/3.png: a mask needs 8 bits a value"), "{error}");
    std::fs::write(root.join("masks/3.pgm"), "P2 1 1 255 7 ").unwrap();
    let error = message(open_here(root, Split::All));
    assert!(error.contains("masks/3.pgm and masks/3.png differ in their endings alone"), "{error}");
    std::fs::remove_file(root.join("masks/3.pgm")).unwrap();
    write(root, "images/3.jpg", &picture(8, 4, 7));
    let error = message(open_here(root, Split::All));
    assert!(error.contains("images/3.jpg and images/3.png differ in their endings alone"), "{error}");
    std::fs::remove_file(root.join("images/3.jpg")).unwrap();
    std::fs::remove_file(root.join("masks/3.png")).unwrap();
    assert!(message(open_here(root, Split::All)).contains("images/3.png has no mask of its name"));
}

#[test]
fn one_picture_is_a_set_of_one() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "one.png", &picture(5, 4, 7));
    let path = folder.path().join("one.png");
    let set = open_here(&path, Split::Train).unwrap();
    assert_eq!((set.len(), set.get(0).unwrap().picture), (1, picture(5, 4, 7)));
    assert_eq!(Prepared::new(set, PictureRule::default()).unwrap().shape(), [3, 4, 5]);
}

#[test]
fn the_catalogue_says_what_can_be_opened() {
    let all = kiln_data::catalogue();
    let names: std::collections::BTreeSet<_> = all.iter().map(|e| e.name).collect();
    assert_eq!(names.len(), all.len());
    for entry in &all {
        // What ships with the program, and what it makes.
        let made = ["dsprites", "rings", "silhouettes:starter"];
        let here = ["starter", "streets"].iter().any(|s| entry.name.starts_with(s)) || made.contains(&entry.name);
        assert_eq!(entry.package.is_none(), here, "{}", entry.name);
        assert!(entry.kinds.contains(&DataKind::Images));
        let opened = open(entry.name, Split::Test, &PictureRule::default());
        match opened {
            Ok(set) => assert!(entry.cached && set.kinds() == entry.kinds && !set.is_empty()),
            Err(e) => {
                assert!(!entry.cached && e.to_string().contains("kiln data fetch"), "{e}");
            }
        }
    }
    let error = message(open("fashon", Split::Train, &PictureRule::default()));
    assert!(error.contains("did you mean `fashion`"), "{error}");
}

fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|s| bytes.extend(s.to_be_bytes()));
    bytes.extend(data);
    bytes
}

#[test]
fn idx_files_raw_and_gzipped() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let images = idx(&[3, 2, 2], &(0..12).collect::<Vec<u8>>());
    std::fs::write(root.join("train-images-idx3-ubyte"), &images).unwrap();
    let labels = root.join("train-labels-idx1-ubyte.gz");
    let gz = |bytes: &[u8]| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    };
    std::fs::write(&labels, gz(&idx(&[3], &[2, 0, 1]))).unwrap();
    let set = open_here(root, Split::Train).unwrap();
    let sample = set.get(1).unwrap();
    assert_eq!((sample.picture.pixels, sample.label), (vec![4, 5, 6, 7], Some(0)));
    assert_eq!(set.classes(), ["0", "1", "2"]);
    assert!(open_here(root, Split::Test).is_err());
    assert_eq!(open_here(root, Split::All).unwrap().fingerprint(), set.fingerprint());
    std::fs::write(root.join("t10k-images-idx3-ubyte"), idx(&[1, 2, 2], &[9, 8, 7, 6])).unwrap();
    let both = open_here(root, Split::All).unwrap();
    assert_eq!((both.len(), both.uniform()), (4, Some([1, 2, 2])));
    assert_eq!(both.get(3).unwrap().picture.pixels, [9, 8, 7, 6]);
    assert_eq!(both.get(1).unwrap(), set.get(1).unwrap());
    assert!(both.get(4).is_err());

    std::fs::write(&labels, gz(&idx(&[2], &[2, 0]))).unwrap();
    let error = message(open_here(root, Split::Train));
    assert!(error.contains("3 images") && error.contains("2 labels"), "{error}");
    std::fs::write(&labels, &gz(&idx(&[3], &[2, 0, 1]))[..20]).unwrap();
    assert!(message(open_here(root, Split::Train)).contains("train-labels-idx1-ubyte.gz"));
    std::fs::remove_file(&labels).unwrap();
    assert_eq!(open_here(root, Split::Train).unwrap().get(0).unwrap().label, None);
    std::fs::write(root.join("train-images-idx3-ubyte"), &images[..20]).unwrap();
    assert!(message(open_here(root, Split::Train)).contains("damaged"));
}

#[test]
fn samples_are_read_without_their_overview() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for i in 0..3 {
        let text = [("system", "ddpm"), ("index", "0")];
        picture(4, 4, i).write_png(&root.join(format!("{i:05}.png")), &text).unwrap();
    }
    picture(9, 9, 0).write_png(&root.join("grid.png"), &[("system", "ddpm")]).unwrap();
    assert_eq!(open_here(root, Split::All).unwrap().len(), 3);
    // A user's own picture may have any name.
    write(root, "grid.png", &picture(4, 4, 9));
    assert_eq!(open_here(root, Split::All).unwrap().len(), 4);
}

#[test]
fn the_starter_ships_fashion() {
    let train = open("starter", Split::Train, &PictureRule::default()).unwrap();
    let test = open("starter", Split::Test, &PictureRule::default()).unwrap();
    assert_eq!((train.len(), test.len(), train.classes().len()), (9000, 1000, 10));
    // Fashion-MNIST's test labels begin 9 2 1 1 6 1 4 6 5 7 (its README and every tutorial).
    let labels: Vec<u32> = (0..10).map(|i| train.get(i).unwrap().label.unwrap()).collect();
    assert_eq!(labels, [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
    assert_eq!(train.classes()[9], "Ankle boot");
    let boot = train.get(0).unwrap().picture;
    assert_eq!((boot.width, boot.height, boot.channels), (28, 28, 1));
    // The first picture starts with seven empty rows; its sole is dark to the left.
    assert!(boot.pixels[..28 * 7].iter().all(|&v| v == 0));
    assert_eq!(boot.pixels.iter().map(|&v| u64::from(v)).sum::<u64>(), 33456);
    assert_eq!(test.get(0).unwrap().name, "starter 9000");
}

#[test]
fn icons_render_alike_each_time_and_pair_up() {
    let rule = PictureRule { size: 24.into(), ..PictureRule::default() };
    let sets = open_all("starter:noto,starter:twemoji", Split::Train, &rule).unwrap();
    let test = open("starter:noto", Split::Test, &rule).unwrap();
    assert_eq!(sets[0].len() + test.len(), 500);
    assert!((70..130).contains(&test.len()));
    assert_eq!(names(sets[0].as_ref()), names(sets[1].as_ref()));
    let again = open("starter:noto", Split::Train, &rule).unwrap();
    for i in (0..sets[0].len()).step_by(7) {
        let (a, b) = (sets[0].get(i).unwrap(), sets[1].get(i).unwrap());
        assert_eq!(a, again.get(i).unwrap());
        assert_eq!(a.caption.as_deref(), Some(a.name.replace('-', " ").as_str()));
        for s in [&a, &b] {
            assert_eq!((s.picture.width, s.picture.height, s.picture.channels), (24, 24, 3));
            let inked = s.picture.pixels.iter().filter(|&&v| v < 230).count();
            assert!(inked > 30, "{} is blank", s.name);
        }
        assert_ne!(a.picture, b.picture);
    }
    assert!(sets[0].kinds().contains(&DataKind::Paired));
    // With alpha, what is behind shows through; composited, it is the opaque rendering.
    let alpha = PictureRule { channels: 4, ..rule.clone() };
    let clear = open("starter:noto", Split::Train, &alpha).unwrap().get(3).unwrap().picture;
    assert_eq!(clear.channels, 4);
    assert!(clear.pixels.chunks(4).any(|p| p[3] == 0));
    let (over, opaque) = (clear.with_channels(3, [255; 3]), sets[0].get(3).unwrap().picture);
    assert!(over.pixels.iter().zip(&opaque.pixels).all(|(a, b)| a.abs_diff(*b) <= 2));
}

#[test]
fn a_few_labels_are_shared_out_equally_and_the_others_keep_none() {
    let set = open("starter", Split::Train, &PictureRule::default()).unwrap();
    let part = |labels, choice| few_labels(set.clone(), labels, choice).unwrap();
    let labels = |set: &dyn DataSet| (0..set.len()).map(|i| set.get(i).unwrap().label).collect::<Vec<_>>();
    let [few, others] = part(50, 0);
    let found = labels(few.as_ref());
    assert_eq!(few.len(), 50);
    for class in 0..10 {
        assert_eq!(found.iter().filter(|&&l| l == Some(class)).count(), 5);
    }
    assert_eq!(others.len(), set.len() - 50);
    assert!(labels(others.as_ref()).iter().all(Option::is_none));
    // Together they are the set, each picture once.
    let mut all = names(few.as_ref());
    all.extend(names(others.as_ref()));
    let mut whole = names(set.as_ref());
    all.sort();
    whole.sort();
    assert_eq!(all, whole);
    assert_eq!((few.classes(), few.uniform()), (set.classes(), set.uniform()));

    let again = part(50, 0);
    assert_eq!((few.fingerprint(), others.fingerprint()), (again[0].fingerprint(), again[1].fingerprint()));
    assert_ne!(few.fingerprint(), part(50, 1)[0].fingerprint());
    assert_ne!(names(few.as_ref()), names(part(50, 1)[0].as_ref()));
    // More labels keep those there were.
    let more = names(part(100, 0)[0].as_ref());
    assert!(names(few.as_ref()).iter().all(|name| more.contains(name)));

    let [labelled, unlabelled] = part(0, 0);
    assert_eq!((labelled.len(), unlabelled.len()), (set.len(), set.len()));
    assert!(labelled.get(3).unwrap().label.is_some() && unlabelled.get(3).unwrap().label.is_none());
}

#[test]
fn labels_that_cannot_be_shared_out_are_refused() {
    let said = |spec: &str, labels| {
        let set = open(spec, Split::Train, &rule(8, Resize::Stretch)).unwrap();
        message(few_labels(set, labels, 0))
    };
    assert!(said("starter", 55).contains("set it to 50"), "{}", said("starter", 55));
    assert!(said("starter", 3).contains("set it to 10"));
    assert!(said("starter:noto", 10).contains("has no labels"));
    assert!(said("starter", 20_000).contains("or less"), "{}", said("starter", 20_000));
}
