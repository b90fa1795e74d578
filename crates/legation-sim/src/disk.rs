//! A disk that can lose power.
//!
//! The files are real ones, in a directory of their own in memory. Beside them this keeps what a disk would hold of
//! them: of each file which writes were synced, of each directory which names. When the power goes, what was synced
//! stays; of the rest each write survives, vanishes, is torn or leaves zeros, and of each directory's changes of names
//! some first ones survive, all by the seed. Then the real files are made to be that. This is more than most file
//! systems lose, and nothing that POSIX forbids them to lose.
//!
//! A change can also be refused, made in part, or made and reported failed. After a failed sync what it should have
//! covered is never durable by a later sync alone: the kernel has called those pages clean.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use legation_repo::disk::{Change, Verdict, Watch, Watching, watch};

use crate::dice::Dice;

/// What a disk writes at once, or not.
const SECTOR: usize = 512;
/// Errors as the kernel numbers them.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

type Ino = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(Ino),
    Dir(Ino),
}

/// Whether the disk has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// A sync came after it.
    Synced,
    /// In memory only.
    Pending,
    /// A sync that should have brought it failed.
    Lost,
}

#[derive(Debug, Clone)]
enum Bytes {
    At(u64, Vec<u8>),
    Cut(u64),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    /// What is durable without a doubt.
    base: Vec<u8>,
    /// What came after that, in order.
    since: Vec<(Bytes, Held)>,
    /// Its length now.
    length: u64,
}

#[derive(Debug, Clone, Default)]
struct Directory {
    durable: BTreeMap<OsString, Node>,
    now: BTreeMap<OsString, Node>,
    /// Names that were set or removed since they were durable, in order.
    since: Vec<(OsString, Option<Node>)>,
}

/// What can go wrong by itself, in thousandths of all changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Refused with an I/O error.
    pub refused: usize,
    /// Made and reported failed.
    pub late: usize,
}

/// What happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Happened {
    /// Changes made.
    pub changes: u64,
    /// Changes that were refused, or made and reported failed.
    pub failed: u64,
    /// Refused for want of room.
    pub full: u64,
    /// Times that the power went.
    pub outages: u64,
    /// Writes that a power failure took back, tore or left as zeros.
    pub undone: u64,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    dice: Dice,
    files: Vec<Inode>,
    dirs: Vec<Directory>,
    faults: Faults,
    /// Changes until the power goes.
    fuse: Option<u64>,
    dead: bool,
    capacity: u64,
    happened: Happened,
    /// During a power failure: what became of each file, which may have two names.
    settled: BTreeMap<Ino, Ino>,
}

/// One machine's disk.
#[derive(Debug, Clone)]
pub struct Disk(Rc<RefCell<Inner>>);

impl Disk {
    /// An empty disk, with its files in the directory `root`.
    #[must_use]
    pub fn new(root: &Path, dice: Dice) -> Self {
        fs::create_dir_all(root).expect("a directory in memory");
        Self(Rc::new(RefCell::new(Inner {
            root: root.to_owned(),
            dice,
            files: Vec::new(),
            dirs: vec![Directory::default()],
            faults: Faults::default(),
            fuse: None,
            dead: false,
            capacity: u64::MAX,
            happened: Happened::default(),
            settled: BTreeMap::new(),
        })))
    }

    /// Where its files are.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.0.borrow().root.clone()
    }

    /// From now on until this is dropped, what the thread changes is changed on this disk.
    pub fn on(&self) -> Watching {
        watch(self.0.clone())
    }

    /// How often changes fail by themselves.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// The power goes before this many more changes are made.
    pub fn cut_after(&self, changes: u64) {
        self.0.borrow_mut().fuse = Some(changes);
    }

    /// Nothing cuts the power any more.
    pub fn mend(&self) {
        self.0.borrow_mut().fuse = None;
    }

    /// How many bytes it holds at most.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.borrow_mut().capacity = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.borrow().used()
    }

    /// Whether the power is gone: nothing changes any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.borrow().dead
    }

    /// What happened so far.
    #[must_use]
    pub fn happened(&self) -> Happened {
        self.0.borrow().happened
    }

    /// Removes a file.
    ///
    /// # Errors
    /// As the file system, or when the disk fails.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(path, &Change::Remove, || fs::remove_file(path))
    }

    /// Removes a directory with all that is in it.
    ///
    /// # Errors
    /// As the file system, or when the disk fails.
    pub fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.change(path, &Change::RemoveTree, || fs::remove_dir_all(path))
    }

    fn change(
        &self,
        path: &Path,
        change: &Change<'_>,
        operation: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let verdict = self.0.borrow_mut().before(path, change);
        if let Verdict::Refuse(error) = verdict {
            return Err(error);
        }
        operation()?;
        self.0.borrow_mut().made(path, change);
        match verdict {
            Verdict::MakeAndFail(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The power goes, if it has not, and comes back: the files are what a disk would hold.
    pub fn power_cycle(&self) {
        self.0.borrow_mut().lose_power();
    }

    /// All that it holds, to be put back later: a snapshot of a virtual machine that is stopped.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let root = self.root();
        let mut files = Vec::new();
        collect(&root, &root, &mut files);
        Snapshot(files)
    }

    /// Sets the disk back to a snapshot. All of it is durable.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut inner = self.0.borrow_mut();
        let root = inner.root.clone();
        fs::remove_dir_all(&root).expect("removes");
        fs::create_dir_all(&root).expect("creates");
        inner.files.clear();
        inner.dirs = vec![Directory::default()];
        (inner.dead, inner.fuse) = (false, None);
        for (path, content) in &snapshot.0 {
            let full = root.join(path);
            let (dir, name) = inner.place(&full).expect("parents come first");
            let node = match content {
                None => {
                    fs::create_dir(&full).expect("creates");
                    inner.dirs.push(Directory::default());
                    Node::Dir(inner.dirs.len() - 1)
                }
                Some(bytes) => {
                    fs::write(&full, bytes).expect("writes");
                    inner.files.push(Inode {
                        base: bytes.clone(),
                        since: Vec::new(),
                        length: bytes.len() as u64,
                    });
                    Node::File(inner.files.len() - 1)
                }
            };
            let directory = &mut inner.dirs[dir];
            directory.now.insert(name.clone(), node);
            directory.durable.insert(name, node);
        }
    }
}

/// Files and directories, parents first.
#[derive(Debug, Clone)]
pub struct Snapshot(Vec<(PathBuf, Option<Vec<u8>>)>);

fn collect(root: &Path, dir: &Path, out: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
    let entries = fs::read_dir(dir).expect("reads");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("reads").path()).collect();
    paths.sort();
    for path in paths {
        let below = path.strip_prefix(root).expect("below").to_owned();
        if path.is_dir() {
            out.push((below, None));
            collect(root, &path, out);
        } else {
            out.push((below, Some(fs::read(&path).expect("reads"))));
        }
    }
}

impl Watch for Inner {
    fn before(&mut self, path: &Path, change: &Change<'_>) -> Verdict {
        let fail = |errno| io::Error::from_raw_os_error(errno);
        if self.dead {
            return Verdict::Refuse(fail(EIO));
        }
        if self.fuse == Some(0) {
            // In the midst of a write, some of it has come as far as memory.
            self.in_part(path, change);
            self.dead = true;
            return Verdict::Refuse(fail(EIO));
        }
        self.fuse = self.fuse.map(|left| left - 1);
        if let Change::Write(at, bytes) = change {
            let grows = (at + bytes.len() as u64).saturating_sub(self.length(path));
            if self.capacity < u64::MAX && self.used().saturating_add(grows) > self.capacity {
                self.happened.full += 1;
                self.in_part(path, change);
                return Verdict::Refuse(fail(ENOSPC));
            }
        }
        let fault = self.dice.roll(1000);
        if fault < self.faults.refused {
            self.happened.failed += 1;
            if *change == Change::Sync {
                self.lose(path);
            } else {
                self.in_part(path, change);
            }
            return Verdict::Refuse(fail(EIO));
        }
        if fault < self.faults.refused + self.faults.late {
            self.happened.failed += 1;
            return Verdict::MakeAndFail(fail(EIO));
        }
        Verdict::Make
    }

    fn made(&mut self, path: &Path, change: &Change<'_>) {
        self.happened.changes += 1;
        match change {
            Change::Create => {
                self.files.push(Inode::default());
                let node = Node::File(self.files.len() - 1);
                self.set(path, Some(node));
            }
            Change::MakeDir => {
                self.dirs.push(Directory::default());
                let node = Node::Dir(self.dirs.len() - 1);
                self.set(path, Some(node));
            }
            Change::Write(at, bytes) => {
                if let Some(file) = self.file(path) {
                    file.length = file.length.max(at + bytes.len() as u64);
                    file.since
                        .push((Bytes::At(*at, bytes.to_vec()), Held::Pending));
                }
            }
            Change::Cut(length) => {
                if let Some(file) = self.file(path) {
                    file.length = *length;
                    file.since.push((Bytes::Cut(*length), Held::Pending));
                }
            }
            Change::Sync => {
                if let Some(file) = self.file(path) {
                    file.sync();
                }
            }
            Change::Rename(to) => {
                let node = self.node(path);
                self.set(to, node);
                self.set(path, None);
            }
            Change::Link(to) => {
                let node = self.node(path);
                self.set(to, node);
            }
            Change::Remove | Change::RemoveTree => self.set(path, None),
            Change::SyncDir => {
                if let Some(Node::Dir(dir)) = self.node(path) {
                    let directory = &mut self.dirs[dir];
                    for (name, node) in directory.since.drain(..) {
                        put(&mut directory.durable, name, node);
                    }
                }
            }
        }
    }

    fn room(&self) -> Option<(u64, u64)> {
        (self.capacity < u64::MAX).then(|| {
            let free = self.capacity.saturating_sub(self.used());
            (self.capacity, free)
        })
    }
}

impl Inode {
    fn sync(&mut self) {
        for (_, held) in &mut self.since {
            if *held == Held::Pending {
                *held = Held::Synced;
            }
        }
        let settled = self
            .since
            .iter()
            .take_while(|(_, held)| *held == Held::Synced)
            .count();
        for (bytes, _) in self.since.drain(..settled) {
            apply(&mut self.base, &bytes);
        }
    }

    /// What a disk holds of it after the power went, and how many writes that took back.
    fn remains(&self, dice: &mut Dice) -> (Vec<u8>, u64) {
        let (mut content, mut undone) = (self.base.clone(), 0);
        for (bytes, held) in &self.since {
            if *held == Held::Synced || dice.percent(40) {
                apply(&mut content, bytes);
                continue;
            }
            undone += 1;
            match bytes {
                Bytes::Cut(_) => {}
                Bytes::At(at, written) => match dice.roll(4) {
                    // The length came, the bytes did not.
                    0 => {
                        let zeros = Bytes::At(*at, vec![0; written.len()]);
                        apply(&mut content, &zeros);
                    }
                    // Some sectors.
                    1 => {
                        let keep = (dice.roll(written.len() / SECTOR + 1)) * SECTOR;
                        let part = written[..keep.min(written.len())].to_vec();
                        apply(&mut content, &Bytes::At(*at, part));
                    }
                    2 => {
                        for (n, sector) in written.chunks(SECTOR).enumerate() {
                            if dice.percent(50) {
                                let at = at + (n * SECTOR) as u64;
                                apply(&mut content, &Bytes::At(at, sector.to_vec()));
                            }
                        }
                    }
                    _ => {}
                },
            }
        }
        (content, undone)
    }
}

fn apply(content: &mut Vec<u8>, bytes: &Bytes) {
    match bytes {
        Bytes::Cut(length) => content.resize(*length as usize, 0),
        Bytes::At(at, written) => {
            let (from, to) = (*at as usize, *at as usize + written.len());
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(written);
        }
    }
}

fn put(names: &mut BTreeMap<OsString, Node>, name: OsString, node: Option<Node>) {
    match node {
        Some(node) => names.insert(name, node),
        None => names.remove(&name),
    };
}

impl Inner {
    fn used(&self) -> u64 {
        self.sum(0)
    }

    fn sum(&self, dir: Ino) -> u64 {
        let size = |node: &Node| match *node {
            Node::File(file) => self.files[file].length,
            Node::Dir(dir) => self.sum(dir),
        };
        self.dirs[dir].now.values().map(size).sum()
    }

    fn length(&self, path: &Path) -> u64 {
        match self.node(path) {
            Some(Node::File(file)) => self.files[file].length,
            _ => 0,
        }
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let below = path.strip_prefix(&self.root).ok()?;
        let mut node = Node::Dir(0);
        for part in below.components() {
            let (Component::Normal(name), Node::Dir(dir)) = (part, node) else {
                return None;
            };
            node = *self.dirs[dir].now.get(name)?;
        }
        Some(node)
    }

    /// The directory that a path's last name is in.
    fn place(&self, path: &Path) -> Option<(Ino, OsString)> {
        let name = path.file_name().map(OsStr::to_owned)?;
        match self.node(path.parent()?)? {
            Node::Dir(dir) => Some((dir, name)),
            Node::File(_) => None,
        }
    }

    fn file(&mut self, path: &Path) -> Option<&mut Inode> {
        match self.node(path)? {
            Node::File(file) => self.files.get_mut(file),
            Node::Dir(_) => None,
        }
    }

    fn set(&mut self, path: &Path, node: Option<Node>) {
        if let Some((dir, name)) = self.place(path) {
            let directory = &mut self.dirs[dir];
            put(&mut directory.now, name.clone(), node);
            directory.since.push((name, node));
        }
    }

    /// A sync failed: what it should have made durable may never be.
    fn lose(&mut self, path: &Path) {
        if let Some(file) = self.file(path) {
            for (_, held) in &mut file.since {
                if *held == Held::Pending {
                    *held = Held::Lost;
                }
            }
        }
    }

    /// The beginning of a write is made.
    fn in_part(&mut self, path: &Path, change: &Change<'_>) {
        let Change::Write(at, bytes) = change else {
            return;
        };
        let part = self.dice.roll(bytes.len() + 1);
        let Ok(file) = fs::OpenOptions::new().write(true).open(path) else {
            return;
        };
        if part > 0 && file.write_all_at(&bytes[..part], *at).is_ok() {
            self.made(path, &Change::Write(*at, &bytes[..part]));
        }
    }

    fn lose_power(&mut self) {
        self.happened.outages += 1;
        let root = self.root.clone();
        let mut dirs = vec![Directory::default()];
        let mut files = Vec::new();
        self.settle(0, 0, &root, &mut dirs, &mut files);
        (self.dirs, self.files) = (dirs, files);
        self.settled.clear();
        (self.dead, self.fuse) = (false, None);
    }

    /// Makes the directory `old` at `path` what a disk holds of it, as directory `new`.
    fn settle(
        &mut self,
        old: Ino,
        new: Ino,
        path: &Path,
        dirs: &mut Vec<Directory>,
        files: &mut Vec<Inode>,
    ) {
        let Directory {
            mut durable,
            now,
            since,
        } = self.dirs[old].clone();
        let kept = match self.dice.roll(3) {
            0 => 0,
            1 => since.len(),
            _ => self.dice.roll(since.len() + 1),
        };
        self.happened.undone += (since.len() - kept) as u64;
        for (name, node) in since.into_iter().take(kept) {
            put(&mut durable, name, node);
        }
        for (name, node) in &now {
            if durable.get(name) != Some(node) {
                let gone = path.join(name);
                let removed = match node {
                    Node::File(_) => fs::remove_file(&gone),
                    Node::Dir(_) => fs::remove_dir_all(&gone),
                };
                removed.expect("removes what lost its name");
            }
        }
        for (name, node) in durable {
            let (at, same) = (path.join(&name), now.get(&name) == Some(&node));
            let settled = match node {
                Node::File(file) => {
                    let known = self.settled.get(&file).copied();
                    let settled = known.unwrap_or_else(|| {
                        let (content, undone) = self.files[file].remains(&mut self.dice);
                        self.happened.undone += undone;
                        files.push(Inode {
                            length: content.len() as u64,
                            base: content,
                            since: Vec::new(),
                        });
                        files.len() - 1
                    });
                    self.settled.insert(file, settled);
                    overwrite(&at, &files[settled].base);
                    Node::File(settled)
                }
                Node::Dir(dir) => {
                    if !same {
                        fs::create_dir(&at).expect("creates what came back");
                        // Nothing of it stands there any more.
                        self.dirs[dir].now.clear();
                    }
                    dirs.push(Directory::default());
                    let new = dirs.len() - 1;
                    self.settle(dir, new, &at, dirs, files);
                    Node::Dir(new)
                }
            };
            dirs[new].now.insert(name.clone(), settled);
            dirs[new].durable.insert(name, settled);
        }
    }
}

/// Makes a file hold this, unless it does; its mode stays.
fn overwrite(path: &Path, content: &[u8]) {
    if fs::read(path).is_ok_and(|found| found == content) {
        return;
    }
    let mode = fs::metadata(path).map_or(0o600, |found| found.permissions().mode());
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    file.and_then(|mut file| file.write_all(content))
        .expect("writes in memory");
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
}
