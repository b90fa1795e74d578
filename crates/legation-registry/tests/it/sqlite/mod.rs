//! SQLite databases under real writers: separate processes over another build of SQLite, killed in between. What an
//! image holds is told by that other build and compared with what the writers were told.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use legation_core::manifest::Entry;
use legation_core::source::{BLOCK, Sink, SourceResult};
use legation_registry::Error;
use legation_registry::sqlite::{Mark, Report, capture};

mod life;
mod refusals;

const WRITER: &str = include_str!("writer.py");

/// Takes an image in place, on top of an earlier one.
#[derive(Default)]
pub struct Image {
    /// The image before; then this one.
    pub bytes: Vec<u8>,
    parent: Option<Vec<u8>>,
    pub entry: Option<Entry>,
    pub same: u64,
    pub data: u64,
    pub again: u32,
    pub meta: Vec<(String, String)>,
    open: bool,
}

impl Image {
    fn on(parent: &Image) -> Image {
        Image {
            parent: Some(parent.bytes.clone()),
            ..Image::default()
        }
    }
}

impl Sink for Image {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        assert!(!self.open && self.entry.is_none());
        self.entry = Some(entry);
        self.open = true;
        Ok(())
    }
    fn in_place(&mut self) -> SourceResult<Option<u64>> {
        assert!(self.open && self.bytes.is_empty());
        Ok(self.parent.as_ref().map(|parent| parent.len() as u64))
    }
    fn same(&mut self, offset: u64, len: u64) -> SourceResult<()> {
        assert_eq!((offset, len % BLOCK), (self.bytes.len() as u64, 0));
        let parent = self.parent.as_ref().unwrap();
        let part = &parent[offset as usize..(offset + len) as usize];
        self.bytes.extend_from_slice(part);
        self.same += len;
        Ok(())
    }
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        assert!(self.open);
        assert_eq!((offset, offset % BLOCK), (self.bytes.len() as u64, 0));
        self.bytes.extend_from_slice(bytes);
        self.data += bytes.len() as u64;
        Ok(())
    }
    fn again(&mut self) -> SourceResult<()> {
        self.parent = Some(std::mem::take(&mut self.bytes));
        self.again += 1;
        Ok(())
    }
    fn end(&mut self) -> SourceResult<()> {
        assert!(self.open);
        self.open = false;
        Ok(())
    }
    fn unchanged(&mut self, _entry: Entry) -> SourceResult<()> {
        unreachable!("an image is never given as a whole unchanged file")
    }
    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.meta.push((key.into(), value.into()));
        Ok(())
    }
}

/// A database, with what its writers were told.
pub struct World {
    pub dir: tempfile::TempDir,
    pub db: PathBuf,
    journal: PathBuf,
    script: PathBuf,
    pub seed: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("writer.py");
        std::fs::write(&script, WRITER).unwrap();
        let journal = dir.path().join("told");
        std::fs::write(&journal, "").unwrap();
        World {
            db: dir.path().join("app.db"),
            journal,
            script,
            seed,
            dir,
        }
    }

    /// Starts a writer, and returns once it is about to commit.
    pub fn write(&self, mode: &str, commits: u32) -> Child {
        let mut child = Command::new("python3")
            .arg(&self.script)
            .arg("write")
            .args([&self.db, &self.journal])
            .args([self.seed.to_string(), mode.into(), commits.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    /// As [`World::write`], until all is committed.
    pub fn written(&self, mode: &str, commits: u32) {
        assert!(self.write(mode, commits).wait().unwrap().success());
    }

    /// What writers were told so far.
    pub fn told(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.journal).unwrap();
        // A line that is being written is not told yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits until so many commits were told.
    pub fn wait_told(&self, count: usize) {
        while self.told().len() < count {
            std::thread::yield_now();
        }
    }

    /// What an image holds, by another build of SQLite; fails if that does not agree with itself.
    pub fn holds(&self, image: &[u8]) -> Vec<String> {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let path = dir.path().join("image.db");
        std::fs::write(&path, image).unwrap();
        let run = Command::new("python3")
            .arg(&self.script)
            .arg("check")
            .arg(&path)
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "seed {}: {why}", self.seed);
        let text = String::from_utf8(run.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub fn capture(&self, mark: Option<&Mark>, image: &mut Image) -> Result<Report, Error> {
        capture(&self.db, mark, image, &|| false)
    }

    /// Captures on top of an earlier image and checks the whole of it against what writers were told before and after.
    pub fn checked(&self, before: Option<(&Mark, &Image)>) -> Result<(Report, Image), Error> {
        let mut image = before.map_or_else(Image::default, |(_, image)| Image::on(image));
        let first = self.told();
        let report = self.capture(before.map(|(mark, _)| mark), &mut image)?;
        let held = self.holds(&image.bytes);
        let mut last = self.told();
        while last.len() < held.len() {
            // The image has a commit that its writer is being told of; it may also have been killed before.
            let more = held[last.len()].clone();
            last.push(more);
        }
        let (seed, n) = (self.seed, held.len());
        assert!(n >= first.len(), "seed {seed}: {n} of {}", first.len());
        assert_eq!(held, last[..n], "seed {seed}");
        assert_eq!(report.bytes, image.bytes.len() as u64);
        assert_eq!(report.read, image.data, "what was read was given");
        Ok((report, image))
    }
}

/// Runs the stock shell on a database.
pub fn sqlite3(db: &Path, sql: &str) -> String {
    let run = Command::new("sqlite3")
        .args(["-batch", "-cmd", ".timeout 60000"])
        .arg(db)
        .arg(sql)
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{sql}: {why}");
    String::from_utf8(run.stdout).unwrap().trim().to_owned()
}
