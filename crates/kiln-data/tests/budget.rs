//! What files claim, and what they are cut to: refused in one line before memory is taken.
#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Write};
use std::path::Path;

use image::{ImageFormat, RgbImage};
use kiln_core::{Budget, budget, set_budget};
use kiln_data::{Picture, PictureRule, Prepared, Resize, Split, open};

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let flat = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 3) as u8, (y * 2) as u8, (x * y) as u8]));
    flat.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn refused(bytes: &[u8]) -> String {
    Picture::decode(bytes, "a file").unwrap_err().to_string()
}

/// Writes numbers over the first place of a marker, and some bytes after it.
fn claim(mut bytes: Vec<u8>, marker: &[u8], after: usize, numbers: &[u8]) -> Vec<u8> {
    let at = bytes.windows(marker.len()).position(|w| w == marker).unwrap() + after;
    bytes[at..at + numbers.len()].copy_from_slice(numbers);
    bytes
}

#[test]
fn a_size_that_is_only_claimed_is_refused() {
    let huge = [0xfd, 0xe8, 0xfd, 0xe8];
    for (name, bytes) in [
        ("gif", claim(encoded(ImageFormat::Gif), b"GIF8", 6, &[0xff, 0xff, 0xff, 0xff])),
        ("jpeg", claim(encoded(ImageFormat::Jpeg), &[0xff, 0xc0], 5, &huge)),
        ("ppm", b"P6 100000 100000 255\n............".to_vec()),
        ("pam", b"P7\nWIDTH 100000\nHEIGHT 100000\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n......".to_vec()),
        ("pbm", b"P4 4294967295 4294967295\n......".to_vec()),
        ("bmp", claim(encoded(ImageFormat::Bmp), b"BM", 18, &[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0])),
        ("tiff", claim(encoded(ImageFormat::Tiff), &[0, 1, 4, 0, 1, 0, 0, 0, 64], 8, &[0xff, 0xff, 0xff, 0x7f])),
    ] {
        let said = refused(&bytes);
        assert!(said.contains("--max-pixels") || name == "tiff" || name == "pbm", "{name}: {said}");
    }
    let rule = PictureRule { size: [28, 1 << 31].into(), resize: Resize::Crop, ..PictureRule::default() };
    let error = open("starter", Split::All, &rule).err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("--max-pixels"), "{error}");
}

#[test]
fn a_cut_file_is_refused_at_any_length() {
    for format in
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff]
    {
        let whole = encoded(format);
        Picture::decode(&whole, "whole").unwrap();
        for share in [3, 25, 50, 75, 90, 97] {
            refused(&whole[..whole.len() * share / 100]);
        }
    }
    let jpeg = encoded(ImageFormat::Jpeg);
    for missing in 1..20 {
        assert!(refused(&jpeg[..jpeg.len() - missing]).contains("cut off"), "{missing}");
    }
    // A thumbnail in front, and a second picture behind, are no reason.
    let exif =
        [b"\xff\xd8\xff\xe1".as_slice(), &(jpeg.len() as u16 + 2).to_be_bytes(), &jpeg, &jpeg[2..], &jpeg].concat();
    assert_eq!(Picture::decode(&exif, "exif").unwrap(), Picture::decode(&jpeg, "plain").unwrap());
}

#[test]
fn a_cut_picture_in_an_archive_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.zip");
    let jpeg = encoded(ImageFormat::Jpeg);
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&file).unwrap());
    for (name, bytes) in [("a.jpg", &jpeg[..]), ("b.jpg", &jpeg[..jpeg.len() - 9])] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    let set = open(file.to_str().unwrap(), Split::All, &PictureRule::default()).unwrap();
    let error = Prepared::new(set, PictureRule::default()).err().unwrap().to_string();
    assert!(error.contains("x.zip/b.jpg") && error.contains("cut off"), "{error}");
}

#[test]
fn a_long_thin_picture_is_cropped_and_padded() {
    let thin = Picture::new(1, 200_000, 1, (0..200_000).map(|i| (i / 1000) as u8).collect()).unwrap();
    for (resize, middle) in [(Resize::Crop, 100), (Resize::Pad, 100), (Resize::Stretch, 100)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thin.png");
        thin.write_png(&path, &[]).unwrap();
        let rule = PictureRule { size: 64.into(), resize, ..PictureRule::default() };
        let set = open(path.to_str().unwrap(), Split::All, &rule).unwrap();
        let sample = Prepared::new(set, rule).unwrap().get(0).unwrap();
        let centre = sample.picture.pixels[32 * 64 + 31];
        assert!(centre.abs_diff(middle) <= 2, "{resize:?} {centre}");
    }
}

/// One test, since the budget is the process's.
#[test]
fn what_decompresses_to_too_much_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let said = |path: &Path| {
        let set = open(path.to_str().unwrap(), Split::Train, &PictureRule::default());
        set.and_then(|set| set.get(0)).unwrap_err().to_string()
    };
    let zeros = vec![0; 3 << 20];
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(&zeros).unwrap();
    let gz = gz.finish().unwrap();
    std::fs::create_dir(file("idx")).unwrap();
    std::fs::write(file("idx/train-images-idx3-ubyte.gz"), &gz).unwrap();
    std::fs::write(file("bomb.tar.gz"), &gz).unwrap();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(file("bomb.zip")).unwrap());
    zip.start_file("a.bmp", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&zeros).unwrap();
    zip.finish().unwrap();
    std::fs::write(file("long.npy"), &zeros).unwrap();
    let before = budget();
    set_budget(Budget { bytes: 2 << 20, ..before });
    for name in ["idx", "bomb.tar.gz", "bomb.zip", "long.npy"] {
        let said = said(&file(name));
        assert!(said.contains("--max-bytes"), "{name}: {said}");
    }
    set_budget(before);
}

#[test]
fn records_of_a_zip_that_share_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bomb.zip");
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("a.png", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&encoded(ImageFormat::Png)).unwrap();
    zip.shallow_copy_file("a.png", "b.png").unwrap();
    std::fs::write(&file, zip.finish().unwrap().into_inner()).unwrap();
    let error = open(file.to_str().unwrap(), Split::All, &PictureRule::default()).err().unwrap().to_string();
    assert!(error.contains("share bytes"), "{error}");
}
