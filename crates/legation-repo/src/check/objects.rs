//! Objects: each is the one of its name, whole, of a size of the table, of this state; damage is located by outboards.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use legation_core::id::{Digest, StateId};
use legation_core::list::PackList;
use legation_core::pack::{PACK_HEADER, PackHeader};
use legation_core::size::SizeClass;
use legation_core::slip;

use super::{Finding, Run, Said};
use crate::dir::{OUTBOARD_SUFFIX, beside};
use crate::durable;
use crate::outboard::{self, GROUP, Outboard, join};
use crate::state::StateDir;
use crate::store::{Kind, MAX_OBJECT, Store};

pub(super) fn check(dir: &StateDir, said: &Said, threads: usize, run: &Run<'_>) {
    let root = dir.root().join("object");
    let work = Mutex::new(Work {
        fans: fans(&root, run),
        files: Vec::new(),
    });
    let job = Job {
        dir,
        run,
        said,
        seen: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((kind, path)) = next(&work, run) {
                    job.file(kind, &path);
                }
            });
        }
    });
    for ((kind, digest), entry) in &said.objects {
        if run.is_stopped() {
            return;
        }
        if matches!(dir.objects().contains(*kind, digest), Ok(false)) {
            let why = format!("log entry {entry} names it and it is not there");
            run.found(Finding {
                kind: kind.as_str(),
                name: digest.to_string(),
                range: None,
                why,
            });
        }
    }
}

/// What is left to do: directories not yet opened, and the files of the one that is.
struct Work {
    fans: Vec<(Kind, PathBuf)>,
    files: Vec<(Kind, PathBuf)>,
}

fn next(work: &Mutex<Work>, run: &Run<'_>) -> Option<(Kind, PathBuf)> {
    let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if run.is_stopped() {
            return None;
        }
        if let Some(file) = work.files.pop() {
            return Some(file);
        }
        let (kind, fan) = work.fans.pop()?;
        let names = paths(&fan, run);
        work.files
            .extend(names.into_iter().map(|path| (kind, path)));
    }
}

fn fans(root: &Path, run: &Run<'_>) -> Vec<(Kind, PathBuf)> {
    let kinds = Kind::ALL.into_iter();
    kinds
        .flat_map(|k| {
            paths(&root.join(k.as_str()), run)
                .into_iter()
                .map(move |p| (k, p))
        })
        .collect()
}

fn paths(dir: &Path, run: &Run<'_>) -> Vec<PathBuf> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    };
    match read() {
        Ok(paths) => paths,
        Err(e) => {
            let name = dir.display().to_string();
            run.found(Finding {
                kind: "directory",
                name,
                range: None,
                why: e.to_string(),
            });
            Vec::new()
        }
    }
}

struct Job<'a> {
    dir: &'a StateDir,
    run: &'a Run<'a>,
    said: &'a Said,
    /// Packs whose presence was asked for: lists share most of theirs.
    seen: Mutex<HashSet<Digest>>,
}

impl Job<'_> {
    fn found(&self, kind: &'static str, name: &str, range: Option<Range<u64>>, why: &str) {
        let finding = Finding {
            kind,
            name: name.to_owned(),
            range,
            why: why.to_owned(),
        };
        self.run.found(finding);
    }

    fn file(&self, kind: Kind, path: &Path) {
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.ends_with(OUTBOARD_SUFFIX) {
            // Read with its object. One alone is what a crash leaves, and is taken up when the object comes again.
            return;
        }
        let digest = name.parse::<Digest>().ok();
        match digest.filter(|digest| self.dir.objects().path(kind, digest) == path) {
            None => {
                let why = "nothing of this store has such a name";
                self.found("file", &path.display().to_string(), None, why);
            }
            Some(digest) => {
                if let Err(e) = self.object(kind, &digest, path) {
                    self.found(kind.as_str(), &name, None, &e.to_string());
                }
            }
        }
    }

    fn object(&self, kind: Kind, digest: &Digest, path: &Path) -> io::Result<()> {
        let name = digest.to_string();
        let file = durable::open_read(path)?;
        let length = file.metadata()?.len();
        let outboard = self.outboard(&name, digest, path, length);
        let damage = match &outboard {
            Some(outboard) => self.groups(&file, outboard, length)?,
            None => self.whole(&file, digest, length)?,
        };
        self.run.read(length, |report| report.objects += 1);
        let whole = damage.is_empty();
        for range in damage {
            let why = if range.start >= length {
                "missing"
            } else {
                "not the bytes of its name"
            };
            self.found(kind.as_str(), &name, Some(range), why);
        }
        let expected = outboard.map_or(length, |o| o.length());
        if whole || expected != length {
            self.size(kind, &name, expected, length);
        }
        if whole {
            self.content(kind, &name, &file, length)
        } else {
            Ok(())
        }
    }

    /// The object's outboard, proven; `None` where none is needed or it does not hold, which is then a finding.
    fn outboard(&self, name: &str, digest: &Digest, path: &Path, length: u64) -> Option<Outboard> {
        let limit = outboard::size_for(MAX_OBJECT);
        let read = match durable::read_bounded(&beside(path), limit) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !outboard::is_needed(length) => {
                return None;
            }
            other => other.map_err(|e| e.to_string()),
        };
        if let Ok(bytes) = &read {
            self.run.read(bytes.len() as u64, |_| {});
        }
        let parsed = read.and_then(|b| Outboard::parse(&b, digest).map_err(|e| e.to_string()));
        parsed
            .map_err(|why| self.found("outboard", name, None, &why))
            .ok()
    }

    /// Damage by groups, a group in memory at a time.
    fn groups(&self, file: &File, outboard: &Outboard, length: u64) -> io::Result<Vec<Range<u64>>> {
        let mut damage = Vec::new();
        for number in 0..outboard.length().div_ceil(GROUP) {
            let range = outboard.range(number);
            let held = range.start.min(length)..range.end.min(length);
            let mut bytes = vec![0; (held.end - held.start) as usize];
            file.read_exact_at(&mut bytes, held.start)?;
            if !outboard.matches(number, &bytes) {
                join(&mut damage, range);
            }
        }
        if length > outboard.length() {
            join(&mut damage, outboard.length()..length);
        }
        Ok(damage)
    }

    /// Damage as a whole, where there is no outboard.
    fn whole(&self, file: &File, digest: &Digest, length: u64) -> io::Result<Vec<Range<u64>>> {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        let mut buffer = vec![0; GROUP as usize];
        while at < length {
            let part = (length - at).min(GROUP) as usize;
            file.read_exact_at(&mut buffer[..part], at)?;
            hasher.update(&buffer[..part]);
            at += part as u64;
        }
        let good = hasher.finalize().as_bytes() == digest.as_bytes();
        Ok((!good).then_some(0..length).into_iter().collect())
    }

    fn size(&self, kind: Kind, name: &str, expected: u64, length: u64) {
        if expected != length {
            let why = format!("it has {length} bytes instead of {expected}");
            return self.found(kind.as_str(), name, None, &why);
        }
        let class = SizeClass::exact(length);
        let allowed = class.is_some_and(|class| match kind {
            Kind::Pack => class >= SizeClass::K64,
            Kind::List => true,
            Kind::Slip => class == SizeClass::K4,
        });
        if !allowed {
            let why = format!("{length} bytes is no size that a {kind} has");
            self.found(kind.as_str(), name, None, &why);
        }
    }

    /// What an intact object says in the clear.
    fn content(&self, kind: Kind, name: &str, file: &File, length: u64) -> io::Result<()> {
        let read = |limit: u64| -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; limit.min(length).min(MAX_OBJECT) as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let state = match kind {
            Kind::Pack => PackHeader::parse(&read(PACK_HEADER as u64)?).map(|h| h.state),
            Kind::Slip => slip::header(&read(length)?).map(|h| h.state),
            Kind::List => PackList::decode(&read(length)?).map(|list| {
                if self.is_promised(name) {
                    self.packs_of(name, &list);
                }
                list.state
            }),
        };
        match state {
            Ok(state) => self.belongs(kind, name, &state),
            Err(e) => self.found(kind.as_str(), name, None, &e.to_string()),
        }
        Ok(())
    }

    fn belongs(&self, kind: Kind, name: &str, state: &StateId) {
        if state != self.dir.state() {
            self.found(
                kind.as_str(),
                name,
                None,
                &format!("it belongs to the state {state}"),
            );
        }
    }

    /// Whether anything was promised of this list: whoever may write can leave one behind whose packs never came. Where
    /// there is no log that says, every list counts.
    fn is_promised(&self, name: &str) -> bool {
        let named = |digest| self.said.objects.contains_key(&(Kind::List, digest));
        self.said.head.is_none() || name.parse().is_ok_and(named)
    }

    fn packs_of(&self, name: &str, list: &PackList) {
        for row in list.rows() {
            let new = self
                .seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(row.digest);
            if !new {
                continue;
            }
            let why = match self.dir.objects().size(Kind::Pack, &row.digest) {
                Ok(size) if size == row.size.bytes() as u64 => continue,
                Ok(size) => format!("list {name} says {} bytes, not {size}", row.size.bytes()),
                Err(crate::store::StoreError::NotFound { .. }) => {
                    format!("list {name} names it and it is not there")
                }
                Err(e) => e.to_string(),
            };
            self.found("pack", &row.digest.to_string(), None, &why);
        }
    }
}
