//! Every input that was kept is played through its target, and a few hundred changes of each.

use std::fs;
use std::path::{Path, PathBuf};

use legation_fuzz::TARGETS;

/// Changes of each input.
const CHANGES: u64 = 200;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}

#[test]
fn corpora_and_changes_of_them_do_no_harm() {
    for (name, target) in TARGETS {
        let mut inputs: Vec<_> = fs::read_dir(corpus(name))
            .unwrap_or_else(|error| panic!("{name} has no corpus: {error}"))
            .map(|entry| entry.expect("a file").path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        target(b"");
        for path in inputs {
            let input = fs::read(&path).expect("an input");
            target(&input);
            let mut rng = Rng(0x9e37_79b9 ^ input.len() as u64);
            for _ in 0..CHANGES {
                target(&rng.change(&input));
            }
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut named: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let listed =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).expect("corpora");
    let mut there: Vec<_> = listed
        .map(|entry| {
            entry
                .expect("a directory")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    named.sort();
    there.sort();
    assert_eq!(named, there);
}

/// Repeatable chance (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One to three changes: a byte flipped, set to an extreme, taken out, put in; a part repeated, or the end cut off.
    fn change(&mut self, input: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 0x7f, 0x80, 0xff][self.below(4)],
                2 if !bytes.is_empty() => _ = bytes.remove(at),
                3 => bytes.insert(at, self.next() as u8),
                4 => {
                    let end = (at + self.below(64)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}
