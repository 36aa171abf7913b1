//! Unpacks files from the archives of packages.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Component, Path};

use flate2::bufread::GzDecoder;
use kiln_core::{Context, Error, Result};
use lzma_rust2::XzReader;
use zip::ZipArchive;

use crate::packages::{Files, Package};

/// Writes the package's files below `out`; all that are listed must be there.
pub(crate) fn unpack(file: &Path, package: &Package, out: &Path) -> Result<()> {
    let mut written = 0;
    each_file(file, &mut |path, data| {
        let inside = path.strip_prefix("./").unwrap_or(path).strip_prefix(package.root);
        let wanted = inside.filter(|p| match package.files {
            Files::List(list) => list.contains(p),
            Files::Like(pairs) => pairs.iter().any(|(begin, end)| p.starts_with(begin) && p.ends_with(end)),
        });
        let Some(wanted) = wanted.map(Path::new) else {
            return Ok(());
        };
        if !wanted.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(Error::new(format!("{path}: leads out of the archive")));
        }
        let target = out.join(wanted);
        let place = || format!("writing {}", target.display());
        std::fs::create_dir_all(target.parent().unwrap_or(out)).context(place)?;
        std::io::copy(data, &mut File::create(&target).context(place)?).context(place)?;
        written += 1;
        Ok(())
    })?;
    let expected = match package.files {
        Files::List(list) => list.len(),
        Files::Like(_) => written.max(1),
    };
    if written != expected {
        return Err(Error::new(format!("{}: {written} of {expected} needed files are in it", file.display())));
    }
    Ok(())
}

/// Shows each regular file of an archive, path and data, to `visit`: an npm package (tar.gz), a wheel
/// (zip) or a .deb (ar of tar.xz), told apart by their first bytes.
fn each_file(file: &Path, visit: &mut dyn FnMut(&str, &mut dyn Read) -> Result<()>) -> Result<()> {
    let place = || format!("unpacking {}", file.display());
    let mut reader = BufReader::new(File::open(file).context(place)?);
    let mut magic = [0; 8];
    reader.read_exact(&mut magic).context(place)?;
    reader.rewind().context(place)?;
    match &magic {
        [0x1f, 0x8b, ..] => each_tar(GzDecoder::new(reader), visit, &place),
        b"!<arch>\n" => each_tar(deb_data(reader).context(place)?, visit, &place),
        [b'P', b'K', ..] => {
            let mut archive = ZipArchive::new(reader).context(place)?;
            for i in 0..archive.len() {
                let mut entry = archive.by_index(i).context(place)?;
                if entry.is_file() {
                    let path = entry.name().context(place)?.into_owned();
                    visit(&path, &mut entry)?;
                }
            }
            Ok(())
        }
        _ => Err(Error::new(format!("{}: neither a .tgz, a wheel nor a .deb", file.display()))),
    }
}

fn each_tar(
    data: impl Read,
    visit: &mut dyn FnMut(&str, &mut dyn Read) -> Result<()>,
    place: &dyn Fn() -> String,
) -> Result<()> {
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries().context(place)? {
        let mut entry = entry.context(place)?;
        if entry.header().entry_type().is_file() {
            let path = entry.path().context(place)?.to_string_lossy().into_owned();
            visit(&path, &mut entry)?;
        }
    }
    Ok(())
}

/// The `data.tar.xz` of a Debian package, decompressed.
///
/// A .deb is an `ar` archive: after its 8-byte magic, each member has a 60-byte header (name in bytes
/// 0..16, decimal length in 48..58, "`\n" at the end), then its data, padded to an even length.
fn deb_data<R: Read + Seek>(mut reader: R) -> Result<XzReader<Take<R>>> {
    reader.seek(SeekFrom::Start(8)).context(|| "ar")?;
    loop {
        let mut header = [0; 60];
        reader.read_exact(&mut header).context(|| "no data.tar.xz in the ar archive")?;
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().to_string();
        let length: u64 = text(48..58).parse().context(|| "a damaged ar header")?;
        if header[58..] != *b"`\n" {
            return Err(Error::new("a damaged ar header"));
        }
        if text(0..16).trim_end_matches('/') == "data.tar.xz" {
            return Ok(XzReader::new(reader.take(length), false));
        }
        let next = i64::try_from(length + length % 2).context(|| "a damaged ar header")?;
        reader.seek(SeekFrom::Current(next)).context(|| "ar")?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::packages::Client;
    use std::io::Write;

    const WANTED: Package = Package {
        client: Client::Apt,
        name: "tiny",
        version: "1",
        sha256: "",
        root: "data/",
        files: Files::List(&["a.txt", "in/b.txt"]),
    };

    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn deb(data: &[u8]) -> Vec<u8> {
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        xz.write_all(data).unwrap();
        let data = xz.finish().unwrap();
        let mut out = b"!<arch>\n".to_vec();
        // The first member has an odd length and so a byte of padding.
        for (name, body) in [("debian-binary", &b"2.0"[..]), ("data.tar.xz", &data)] {
            writeln!(out, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100644, body.len()).unwrap();
            out.extend_from_slice(body);
            out.resize(out.len().next_multiple_of(2), b'\n');
        }
        out
    }

    #[test]
    fn each_kind_of_archive_gives_its_files() {
        let files = [("data/a.txt", "A"), ("data/in/b.txt", "B"), ("other/c.txt", "C")];
        let tar = tar(&files);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&tar).unwrap();
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (path, text) in files {
            zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        let zip = zip.finish().unwrap().into_inner();
        for bytes in [gz.finish().unwrap(), zip, deb(&tar)] {
            let folder = tempfile::tempdir().unwrap();
            let (file, out) = (folder.path().join("archive"), folder.path().join("out"));
            std::fs::write(&file, bytes).unwrap();
            unpack(&file, &WANTED, &out).unwrap();
            assert_eq!(std::fs::read_to_string(out.join("a.txt")).unwrap(), "A");
            assert_eq!(std::fs::read_to_string(out.join("in/b.txt")).unwrap(), "B");
            assert!(!out.join("c.txt").exists());
        }
    }

    #[test]
    fn missing_files_and_foreign_archives_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("archive");
        std::fs::write(&file, deb(&tar(&[("data/a.txt", "A")]))).unwrap();
        let error = unpack(&file, &WANTED, folder.path()).unwrap_err().to_string();
        assert!(error.contains("1 of 2 needed files"), "{error}");
        std::fs::write(&file, "no archive at all").unwrap();
        assert!(unpack(&file, &WANTED, folder.path()).is_err());
        std::fs::write(&file, b"!<arch>\nshort").unwrap();
        assert!(unpack(&file, &WANTED, folder.path()).is_err());
    }
}
