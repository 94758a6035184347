//! The corpus of every fuzz target, and bounded mutations of it.
//!
//! Seeds are fixed, so that a failure comes again. `TOLLGATE_FUZZ_SECONDS=60 cargo test --test fuzz` goes on for that
//! long a target, with seeds that differ; `scripts/fuzz` is the same guided by coverage.

mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use targets::{ALL, Target};
use tollgate::contract::compile::{BUILTIN, builtin};

/// Inputs played to each target in an ordinary run; to those that compile a whole file a fifth of it.
const INPUTS: u64 = 1500;
/// The longest input.
const LONGEST: usize = 4096;

#[test]
fn no_bytes_of_a_stranger_break_a_claim() {
    for (name, target) in ALL {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        for input in &corpus {
            play(name, *target, input);
        }
        let whole = seconds().map(|seconds| (now(), Duration::from_secs(seconds)));
        let inputs = if matches!(*name, "contract" | "configuration") { INPUTS / 5 } else { INPUTS };
        let mut played = 0;
        while whole.map_or(played < inputs, |(from, most)| from.elapsed() < most) {
            let mut dice = Dice(played.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ whole.map_or(0, |_| started()));
            play(name, *target, &mutated(&mut dice, &corpus));
            played += 1;
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    let folders = std::fs::read_dir(root()).expect("the corpora").map(|folder| folder.expect("a folder").file_name());
    let mut folders: Vec<String> = folders.map(|name| name.into_string().expect("a plain name")).collect();
    folders.sort();
    let mut names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(folders, names);
}

fn play(name: &str, target: Target, input: &[u8]) {
    let holds = catch_unwind(AssertUnwindSafe(|| target(input))).is_ok();
    assert!(holds, "{name} broke on {:?}: keep it in tests/fuzz/corpus/{name}", String::from_utf8_lossy(input));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(root().join(name)).expect("a folder of inputs");
    let mut files: Vec<PathBuf> = folder.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let mut inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("an input")).collect();
    match name {
        "contract" => {
            let text = |name: &&str| builtin(name).expect("a built-in contract").as_bytes().to_vec();
            inputs.extend(BUILTIN.iter().map(text));
        }
        "configuration" => inputs.push(include_bytes!("../../config/gateway.toml").to_vec()),
        _ => {}
    }
    inputs
}

/// One input of the corpus, changed in a few places: bytes flipped, cut, doubled, or taken from another input.
fn mutated(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    const PIECES: &[&[u8]] = &[
        b"/",
        b"//",
        b"/../",
        b"%2e",
        b"%2f",
        b"%5c",
        b"%00",
        b"%25",
        b";",
        b"\\",
        b"#",
        b"?",
        b",",
        b"\n",
        b"\r\n",
        b":",
        b"_",
        b"-",
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b"=",
        b".",
        b"..",
        b" ",
        b"\0",
        b"\xff",
        b"\xc0\xaf",
        "\u{85}".as_bytes(),
        b"::ffff:",
        b"10.0.0.1",
        b"unknown",
        b"Bearer ",
        b"ApiKey ",
        b"vantage_",
        b"chunked",
        b"null",
        b"1e999",
        b"-1",
        b"${A}",
        b"true",
    ];
    let mut input = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(5) {
        let at = dice.below(input.len() + 1);
        let end = (at + dice.below(16)).min(input.len());
        match dice.below(6) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 => drop(input.drain(at..end)),
            2 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            3 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                let piece = other[from..(from + dice.below(64)).min(other.len())].to_vec();
                input.splice(at..end, piece);
            }
            _ => drop(input.splice(at..at, PIECES[dice.below(PIECES.len())].iter().copied())),
        }
    }
    // A whole contract or configuration may be long; what a client sends is bounded before it is looked at.
    let longest = corpus.iter().map(Vec::len).max().unwrap_or(0).max(LONGEST) * 2;
    input.truncate(longest);
    input
}

/// `SplitMix64`: the same inputs at every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap_or(0)
    }
}

#[expect(clippy::disallowed_methods, reason = "the test's own switch")]
fn seconds() -> Option<u64> {
    std::env::var("TOLLGATE_FUZZ_SECONDS").ok()?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "bounds the run, decides nothing")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a seed that differs")]
fn started() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
