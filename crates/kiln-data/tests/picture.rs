//! Decoding, channels, values, PNG text and contact sheets.
#![allow(clippy::unwrap_used)]

use kiln_data::{Picture, contact_sheet, read_png_text};

fn png(colour: png::ColorType, depth: png::BitDepth, size: (u32, u32), data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, size.0, size.1);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(vec![10, 20, 30, 200, 100, 50]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    out
}

#[test]
fn every_kind_of_png_decodes() {
    use png::BitDepth::{Eight, One, Sixteen};
    use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let decode = |colour, depth, data: &[u8]| {
        let p = Picture::decode(&png(colour, depth, (2, 1), data), "x.png").unwrap();
        assert_eq!((p.width, p.height), (2, 1));
        (p.channels, p.pixels)
    };
    assert_eq!(decode(Grayscale, Eight, &[3, 250]), (1, vec![3, 250]));
    // 0x8000 is 127.5 of 255 and 0x01ff is 1.98: rounded, not cut.
    assert_eq!(decode(Grayscale, Sixteen, &[0x80, 0, 1, 0xff]), (1, vec![128, 2]));
    assert_eq!(decode(Grayscale, One, &[0b0100_0000]), (1, vec![0, 255]));
    assert_eq!(decode(GrayscaleAlpha, Eight, &[9, 255, 8, 0]), (4, vec![9, 9, 9, 255, 8, 8, 8, 0]));
    assert_eq!(decode(Rgb, Eight, &[1, 2, 3, 4, 5, 6]), (3, vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(decode(Rgba, Eight, &[1, 2, 3, 4, 5, 6, 7, 8]), (4, vec![1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(decode(Indexed, Eight, &[1, 0]), (3, vec![200, 100, 50, 10, 20, 30]));
}

#[test]
fn other_formats_decode() {
    let pgm = Picture::decode(b"P5\n# a comment\n3 1\n255\n\x01\x02\x03", "a.pgm").unwrap();
    assert_eq!((pgm.width, pgm.channels, pgm.pixels), (3, 1, vec![1, 2, 3]));
    let ppm = Picture::decode(b"P6 1 1 255\n\x01\x02\x03", "a.ppm").unwrap();
    assert_eq!((ppm.channels, ppm.pixels), (3, vec![1, 2, 3]));
    let flat = image::RgbImage::from_pixel(16, 8, image::Rgb([200, 60, 20]));
    for (format, near) in [(image::ImageFormat::Jpeg, 3), (image::ImageFormat::WebP, 0), (image::ImageFormat::Gif, 4)] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        flat.write_to(&mut bytes, format).unwrap();
        let p = Picture::decode(bytes.get_ref(), "x").unwrap();
        assert_eq!((p.width, p.height, p.channels), (16, 8, 3), "{format:?}");
        let ok = |(a, b): (&u8, &u8)| a.abs_diff(*b) <= near;
        assert!(p.pixels.iter().zip(flat.as_raw()).all(ok), "{format:?} {:?}", &p.pixels[..3]);
    }
}

#[test]
fn damaged_and_foreign_bytes_name_the_file() {
    let whole = png(png::ColorType::Rgb, png::BitDepth::Eight, (40, 40), &[7; 4800]);
    for bytes in [&whole[..whole.len() / 2], b"not a picture", b""] {
        let error = Picture::decode(bytes, "pets/bad.png").unwrap_err().to_string();
        assert!(error.starts_with("pets/bad.png: "), "{error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn channels_convert() {
    let rgba = Picture::new(2, 1, 4, vec![255, 0, 0, 255, 0, 0, 0, 51]).unwrap();
    // 51/255 = 1/5 black over (100, 200, 50).
    assert_eq!(rgba.with_channels(3, [100, 200, 50]).pixels, [255, 0, 0, 80, 160, 40]);
    assert_eq!(rgba.with_channels(1, [255; 3]).pixels, [76, 204]);
    let grey = Picture::new(1, 1, 1, vec![9]).unwrap();
    assert_eq!(grey.with_channels(4, [0; 3]).pixels, [9, 9, 9, 255]);
    assert!(Picture::new(1, 1, 2, vec![0; 2]).is_err());
    assert!(Picture::new(2, 2, 1, vec![0; 3]).is_err());
    assert!(Picture::new(0, 2, 1, vec![]).is_err());
}

#[test]
fn values_round_trip_and_are_planar() {
    let pixels: Vec<u8> = (0..=255).chain((0..=255).rev()).chain([7; 256]).collect();
    let p = Picture::new(256, 1, 3, pixels).unwrap();
    let values = p.to_unit();
    assert_eq!(values[0], -1.0);
    assert_eq!(values[256], f32::from(p.pixels[1]) / 127.5 - 1.0);
    assert_eq!(Picture::from_unit(&values, 3, 1, 256), p);
    let odd = Picture::from_unit(&[-9.0, 9.0, f32::NAN, 0.0], 1, 2, 2);
    assert_eq!(odd.pixels, [0, 255, 0, 128]);
}

#[test]
fn png_carries_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let p = Picture::new(2, 1, 3, vec![1, 2, 3, 4, 5, 6]).unwrap();
    let text = [("kiln:seed", "17"), ("kiln:prompt", "un café"), ("kiln:note", "雪\nsnow")];
    p.write_png(&path, &text).unwrap();
    let back = read_png_text(&path).unwrap();
    assert_eq!(back, text.map(|(k, v)| (k.to_string(), v.to_string())));
    assert_eq!(Picture::open(&path).unwrap(), p);
    // Nothing but the file is left behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = p.write_png(&folder.path().join("no/a.png"), &[]).unwrap_err().to_string();
    assert!(error.contains("no/a.png"), "{error}");
    assert!(p.encode_png(&[("", "an empty keyword")]).is_err());
}

#[test]
fn a_contact_sheet_is_a_grid() {
    let one = |v| Picture::new(2, 2, 1, vec![v; 4]).unwrap();
    let sheet = contact_sheet(&[one(1), one(2), one(3)], 2, 3).unwrap();
    assert_eq!((sheet.width, sheet.height, sheet.channels), (14, 14, 1));
    let at = |x: usize, y: usize| sheet.pixels[y * 14 + x];
    assert_eq!([at(0, 0), at(5, 5), at(8, 0), at(0, 8), at(6, 0), at(8, 8)], [1, 1, 2, 3, 255, 255]);
    assert_eq!(contact_sheet(&[one(1)], 0, 0).unwrap().width, 64);
    assert!(contact_sheet(&[], 1, 1).is_err());
    let wide = Picture::new(3, 2, 1, vec![0; 6]).unwrap();
    assert!(contact_sheet(&[one(1), wide], 2, 1).is_err());
}

#[test]
fn a_picture_is_extended_by_its_edges_and_cut_back() {
    let picture = Picture::new(2, 2, 1, vec![1, 2, 3, 4]).unwrap();
    let larger = picture.extend(4, 3);
    assert_eq!((larger.width, larger.height), (4, 3));
    assert_eq!(larger.pixels, [1, 2, 2, 2, 3, 4, 4, 4, 3, 4, 4, 4]);
    assert_eq!(larger.crop(0, 0, 2, 2), picture);
    assert_eq!(picture.extend(2, 2), picture);
}
