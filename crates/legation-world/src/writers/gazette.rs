//! The gazette's editor: publishes acts by atomic rename, and keeps every edition outside home.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Press, Shared};
use crate::error::{Doing, Error, Result};
use crate::fixtures::{Plan, Registry, gazette};
use crate::journal::now_micros;
use crate::rng::Rng;

/// One wording of one act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    /// The file outside home with the same bytes.
    pub copy: PathBuf,
    /// When the rename that published it was begun; zero for the fixture.
    pub begun: u64,
    /// When that rename had returned.
    pub told: u64,
}

pub(super) struct Editor {
    press: Press,
    journal: File,
    rng: Rng,
    acts: u64,
    next: i64,
}

impl Editor {
    pub(super) fn new(press: Press, plan: &Plan, first: i64) -> Result<Self> {
        for dir in [&press.desk, &press.shadow.join("editions")] {
            fs::create_dir_all(dir).doing("making a directory for the editor")?;
        }
        let path = press.shadow.join("editions.csv");
        let journal = File::options()
            .create(true)
            .append(true)
            .open(path)
            .doing("opening the editor's journal")?;
        Ok(Self {
            press,
            journal,
            rng: plan.rng(&format!("editor {first}")),
            acts: plan.acts(),
            next: first,
        })
    }

    pub(super) fn work(mut self, shared: &Shared) -> Result<()> {
        while !shared.stopped() {
            match self.publish() {
                Ok(()) => shared.count(Registry::Gazette),
                // Home is being removed, which takes a moment: nothing to publish to.
                Err(e) if gone(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
            std::thread::sleep(self.press.pause);
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        let n = self.next;
        self.next += 1;
        // One in five is a new act, the rest are new wordings.
        let number = if self.rng.chance(20) {
            self.acts + n.unsigned_abs()
        } else {
            self.rng.below(self.acts)
        };
        let path = gazette::path(number);
        let text = gazette::act(&mut self.rng, number, 1 + n.unsigned_abs(), None);
        fs::write(
            self.press.shadow.join("editions").join(n.to_string()),
            &text,
        )
        .doing("keeping an edition")?;
        let (draft, at) = (
            self.press.desk.join(n.to_string()),
            self.press.root.join(&path),
        );
        // One level only: what was removed with home must not come back.
        if let Some(dir) = at.parent()
            && !dir.exists()
        {
            fs::create_dir(dir).doing("making a directory of the gazette")?;
        }
        fs::write(&draft, &text).doing("drafting an act")?;
        let begun = now_micros();
        fs::rename(&draft, &at).doing("publishing an act")?;
        let told = now_micros();
        writeln!(self.journal, "{n},{},{begun},{told}", path.display())
            .doing("writing the editor's journal")
    }
}

/// Whether a place that was there is there no more.
fn gone(e: &Error) -> bool {
    matches!(e, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// All editions of every path, oldest first; the fixture is the first one where it had the act.
pub fn editions(shadow: &Path) -> Result<BTreeMap<PathBuf, Vec<Edition>>> {
    let mut all: BTreeMap<PathBuf, Vec<Edition>> = BTreeMap::new();
    let base = shadow.join("base");
    let mut dirs = vec![base.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).doing("reading the kept gazette")? {
            let entry = entry.doing("reading the kept gazette")?;
            let kind = entry.file_type().doing("reading the kept gazette")?;
            let copy = entry.path();
            if kind.is_dir() {
                dirs.push(copy);
            } else if kind.is_file()
                && let Ok(path) = copy.strip_prefix(&base)
            {
                all.insert(
                    path.into(),
                    vec![Edition {
                        copy: copy.clone(),
                        begun: 0,
                        told: 0,
                    }],
                );
            }
        }
    }
    let journal = fs::read_to_string(shadow.join("editions.csv")).unwrap_or_default();
    for line in journal.lines() {
        let f: Vec<_> = line.split(',').collect();
        let [n, path, begun, told] = f.as_slice() else {
            continue;
        };
        let (Ok(begun), Ok(told)) = (begun.parse(), told.parse()) else {
            continue;
        };
        let copy = shadow.join("editions").join(n);
        all.entry(PathBuf::from(path))
            .or_default()
            .push(Edition { copy, begun, told });
    }
    Ok(all)
}
