//! The host: he changes bytes, cuts files, and shows an older log. All of it must be found, and nothing wrong believed.

use std::fs;
use std::path::{Path, PathBuf};

use legation_repo::check;

use crate::audit::{Checked, found};
use crate::restore::{self, From};
use crate::world::World;

/// How many files he changes, one after the other.
const CHANGES: usize = 3;

/// Files with their bytes.
type Copied = Vec<(PathBuf, Vec<u8>)>;

/// What he has put by.
#[derive(Default)]
pub struct Insider {
    log: Option<(u64, Copied)>,
}

impl World {
    fn state_dir(&self) -> PathBuf {
        self.site.disk.root().join(self.founding.state.to_string())
    }

    /// He puts a copy of the log by.
    pub(crate) fn copy_log(&mut self) {
        let dir = self.state_dir().join("log");
        let files = every_file(&dir).into_iter();
        let copied = files.filter_map(|path| {
            let bytes = fs::read(&path).ok()?;
            Some((path, bytes))
        });
        let copied = copied.collect();
        if let Some(embassy) = self.site.process() {
            self.insider.log = Some((embassy.log().size(), copied));
            self.trace.say(format_args!("the host copies the log"));
        }
    }

    /// He does what he can. The world is at rest.
    pub(crate) fn tamper(&mut self) -> Checked {
        self.site.kill();
        for _ in 0..CHANGES {
            self.change_a_file()?;
        }
        self.roll_back()
    }

    fn change_a_file(&mut self) -> Checked {
        let dir = self.state_dir();
        // A watermark and a lock promise nothing.
        let promised = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !["SYNCED", "LOCK"].contains(&&*name) && fs::metadata(path).is_ok_and(|m| m.len() > 0)
        };
        let mut files = every_file(&dir);
        files.retain(promised);
        let path = self.dice.pick(&files).clone();
        let Ok(before) = fs::read(&path) else {
            return Ok(());
        };
        let mut bytes = before.clone();
        let how = match self.dice.roll(5) {
            0 => {
                bytes.truncate(self.dice.roll(bytes.len()));
                "cut"
            }
            _ => {
                let at = self.dice.roll(bytes.len());
                bytes[at] ^= 1 << self.dice.roll(8);
                "changed"
            }
        };
        write(&path, &bytes);
        self.counts.tampered += 1;
        let below = path.strip_prefix(&dir).unwrap_or(&path);
        let kind = below.components().next().map(|c| c.as_os_str().to_owned());
        let kind = kind.unwrap_or_default().to_string_lossy().into_owned();
        self.trace
            .say(format_args!("the host has {how} a file of {kind}"));
        let report = check::check(&self.site.disk.root(), &self.founding.state, 1, &|_| true);
        if report.is_ok_and(|report| report.is_whole()) {
            return found(
                "check",
                format!("{} was {how}, and nothing was found", below.display()),
            );
        }
        self.nothing_wrong()?;
        write(&path, &before);
        Ok(())
    }

    /// What can be restored is right; what cannot says so.
    fn nothing_wrong(&self) -> Checked {
        let state = self.state_dir();
        for (registry, known) in self.audit.fold().registries() {
            let Ok(roots) = restore::roots(self.founding, &self.audit, &state, registry) else {
                continue;
            };
            let from = From::new(&state, roots)?;
            for version in &known.versions {
                let captured = self.audit.versions.get(&version.commit.packs.list);
                if let (Some(captured), Ok(files)) =
                    (captured, from.files(self.founding, registry, version))
                {
                    restore::same(captured, &files)?;
                }
            }
        }
        Ok(())
    }

    /// He shows the log as it was once, and goes on from there. Whoever has seen more does not believe it.
    fn roll_back(&mut self) -> Checked {
        let Some((size, copied)) = self.insider.log.take() else {
            return Ok(());
        };
        if size >= self.audit.size() {
            return Ok(());
        }
        let dir = self.state_dir().join("log");
        for path in every_file(&dir) {
            fs::remove_file(path).expect("removes");
        }
        for (path, bytes) in copied {
            write(&path, &bytes);
        }
        self.betrayed = true;
        self.counts.tampered += 1;
        let started = self.site.start();
        self.trace.say(format_args!(
            "the host sets the log back from {} entries to {size}: {}",
            self.audit.size(),
            if started.is_ok() { "up" } else { "down" }
        ));
        // Journals are ahead of that log, and an embassy that sees so may refuse; its own lie is what it is.
        if started.is_err() || !self.site.is_up() {
            return Ok(());
        }
        let time = self.time();
        for agent in &self.agents {
            if agent.believed() <= size {
                continue;
            }
            let statement = agent.remark(time);
            let sent = (statement.clone(), agent.believed());
            let answer = self.site.with(|embassy| embassy.submit(&[sent]).pop());
            if let Some(Some(Ok(receipt))) = answer
                && agent.believes(&statement, &receipt)
            {
                return found(
                    "trust",
                    format!(
                        "agent {} has seen {} entries, and believes a log that was set back to {size}",
                        agent.number,
                        agent.believed()
                    ),
                );
            }
        }
        Ok(())
    }
}

fn every_file(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.extend(every_file(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Writes a file's bytes, whatever its mode says.
fn write(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    if let Some(dir) = path.parent() {
        let _ = fs::create_dir_all(dir);
    }
    fs::write(path, bytes).expect("writes in memory");
}
