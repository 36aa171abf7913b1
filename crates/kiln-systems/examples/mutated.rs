//! Gives the readers of `fuzz/` mutated inputs, in processes of bounded memory and time, and counts how that ends.
//!
//! `mutated SEEDS COUNT SEED OUT [TARGET…]`: `SEEDS/TARGET/*` are whole inputs; what is a finding is written below OUT.
//! An input is made of a seed by one to four changes: bits flipped, an end cut off, the rest of another seed put in, bytes
//! repeated, numbers replaced by extreme ones, in bytes or in digits.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)] // a test, too long to be one

#[path = "../../../fuzz/src/data.rs"]
mod data;
#[path = "../../../fuzz/src/engine.rs"]
mod engine;
#[path = "../../../fuzz/src/files.rs"]
mod files;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Most memory of a child, in KiB.
const MEMORY: u64 = 2 << 20;
/// Most time for an input.
const TIME: Duration = Duration::from_secs(20);

const ACCEPTED: &str = "accepted";
const REFUSED: &str = "refused in one line";
const FINDINGS: [&str; 4] = ["refused otherwise", "panicked", "aborted", "over time"];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--child", target] => child(target),
        [seeds, count, seed, out, ref targets @ ..] => {
            let (count, seed) = (count.parse().expect("a count"), seed.parse().expect("a seed"));
            let chosen =
                readers().into_iter().map(|(name, _)| name).filter(|name| targets.is_empty() || targets.contains(name));
            println!(
                "{:12} {:>9} {ACCEPTED:>9} {REFUSED:>19} {:>17} {:>9} {:>8} {:>9}",
                "reader", "inputs", FINDINGS[0], FINDINGS[1], FINDINGS[2], FINDINGS[3]
            );
            let mut clean = true;
            for target in chosen {
                let counts = try_all(target, Path::new(seeds), count, seed, Path::new(out));
                let n = |kind: &str| counts.get(kind).copied().unwrap_or(0);
                let [otherwise, panicked, aborted, late] = FINDINGS.map(n);
                println!(
                    "{target:12} {count:>9} {:>9} {:>19} {otherwise:>17} {panicked:>9} {aborted:>8} {late:>9}",
                    n(ACCEPTED),
                    n(REFUSED)
                );
                clean &= FINDINGS.iter().all(|kind| n(kind) == 0);
            }
            std::process::exit(i32::from(!clean));
        }
        _ => panic!("usage: mutated SEEDS COUNT SEED OUT [TARGET…]"),
    }
}

fn readers() -> Vec<(&'static str, files::Reader)> {
    [data::READERS.to_vec(), engine::READERS.to_vec()].concat()
}

/// Reads inputs, each after its length, and answers each in a line.
fn child(target: &str) {
    let (_, reader) = readers().into_iter().find(|(name, _)| *name == target).expect("the parent names a target");
    let mut input = std::io::stdin().lock();
    let mut len = [0; 8];
    while input.read_exact(&mut len).is_ok() {
        let mut bytes = vec![0; u64::from_le_bytes(len) as usize];
        input.read_exact(&mut bytes).expect("the rest of an input");
        let answer = match std::panic::catch_unwind(|| reader(&bytes)) {
            Ok(Ok(())) => ACCEPTED,
            Ok(Err(error)) if error.to_string().lines().count() == 1 => REFUSED,
            Ok(Err(_)) => FINDINGS[0],
            Err(_) => FINDINGS[1],
        };
        println!("{answer}");
    }
}

/// A child and what it answers.
struct Worker {
    process: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    fn start(target: &str) -> Self {
        let own = std::env::current_exe().expect("this program's path");
        let limited = format!("ulimit -v {MEMORY} && exec \"$0\" --child \"$1\"");
        let mut process = Command::new("sh")
            .args(["-c", &limited])
            .arg(own)
            .arg(target)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let (input, output) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let (send, answers) = channel();
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| send.send(line.clone()).is_ok())
                .count()
        });
        Self { process, input, answers }
    }

    /// How an input ends; the worker is of no more use after the last two of [`FINDINGS`].
    fn answer(&mut self, bytes: &[u8]) -> String {
        let sent = self.input.write_all(&(bytes.len() as u64).to_le_bytes()).and_then(|()| self.input.write_all(bytes));
        let answer = sent.and_then(|()| self.input.flush()).map(|()| self.answers.recv_timeout(TIME));
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(RecvTimeoutError::Timeout)) => FINDINGS[3].into(),
            _ => FINDINGS[2].into(),
        }
    }

    fn stop(mut self) {
        // It may have ended by itself.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn try_all(target: &str, seeds: &Path, count: u64, seed: u64, out: &Path) -> BTreeMap<String, u64> {
    let folder = std::fs::read_dir(seeds.join(target)).unwrap_or_else(|_| panic!("no seeds of {target}"));
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.expect("a listing").path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("a seed")).collect();
    let mut random = Random(seed.wrapping_mul(2).wrapping_add(1));
    target.bytes().for_each(|byte| random.0 = (random.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3) | 1);
    let mut counts = BTreeMap::new();
    let mut worker = Worker::start(target);
    for number in 0..count {
        let input = mutated(&seeds, &mut random);
        let answer = worker.answer(&input);
        if FINDINGS.contains(&answer.as_str()) {
            let name = format!("{target}-{}-{number}", answer.replace(' ', "-"));
            std::fs::create_dir_all(out).expect("a folder for findings");
            std::fs::write(out.join(name), &input).expect("room for a finding");
        }
        if FINDINGS[2..].contains(&answer.as_str()) {
            std::mem::replace(&mut worker, Worker::start(target)).stop();
        }
        *counts.entry(answer).or_default() += 1;
    }
    worker.stop();
    counts
}

/// A xorshift generator (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end.max(1)
    }
}

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => (0..=random.below(8)).for_each(|_| {
                let at = random.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }),
            1 => bytes.truncate(at),
            2 => {
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
            3 => {
                let end = bytes.len().min(at + 1 + random.below(64));
                let part = bytes[at..end].to_vec();
                (0..=random.below(16)).for_each(|_| drop(bytes.splice(at..at, part.iter().copied())));
            }
            4 => {
                // From the header, mostly.
                let at = if random.below(2) == 0 { random.below(bytes.len().min(64)) } else { at };
                let number = [0, 1, 2, 255, 65_535, 0x7fff, 0x7fff_ffff, 0xffff_ffff, 1 << 31, 1 << 62, u64::MAX]
                    [random.below(11)];
                let width = [1, 2, 4, 8][random.below(4)];
                let little = number.to_le_bytes();
                let big = number.to_be_bytes();
                let number = if random.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            _ => {
                let is_digit = |byte: &u8| byte.is_ascii_digit();
                let Some(start) = bytes[at..].iter().position(is_digit).map(|first| at + first) else { continue };
                let end = bytes[start..].iter().position(|byte| !is_digit(byte)).map_or(bytes.len(), |len| start + len);
                let numbers = [
                    "0",
                    "-1",
                    "1",
                    "65536",
                    "2147483648",
                    "4294967296",
                    "9223372036854775807",
                    "18446744073709551616",
                    "1e308",
                    "-1e-308",
                    "nan",
                    "0.5",
                ];
                bytes.splice(start..end, numbers[random.below(numbers.len())].bytes());
            }
        }
    }
    bytes
}
