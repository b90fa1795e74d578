//! Children that never outlive us: every process of a world is known by its number, ended by that number with
//! all below it, and ended too when we ourselves are killed.
//!
//! Must not know what the processes are for.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Doing, Result, failed};

/// How long a process may take to end once it was told to, before it is killed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A shell that outlives us by a moment: it reads what we started from a pipe, and when the pipe ends without
/// a farewell (panic, Ctrl-C, SIGKILL) it ends and removes all of that.
struct Guard(Child);

static GUARD: Mutex<Option<Guard>> = Mutex::new(None);

impl Guard {
    fn start() -> std::io::Result<Self> {
        Command::new("sh")
            .args(["-c", include_str!("guard.sh")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Guard)
    }
}

/// Tells the guard one line; starts it on first use.
fn tell(line: &str) -> Result<()> {
    let mut guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some(Guard::start().doing("starting the guard shell")?);
    }
    let Some(Guard(child)) = guard.as_mut() else {
        return Ok(());
    };
    let Some(pipe) = child.stdin.as_mut() else {
        return Ok(());
    };
    writeln!(pipe, "{line}").doing("telling the guard shell")
}

/// Ends the guard: all that it was told of is gone, or is meant to stay.
pub fn dismiss_guard() {
    let guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Guard(mut child)) = guard {
        if let Some(mut pipe) = child.stdin.take() {
            let _ = writeln!(pipe, "done");
        }
        let _ = child.wait();
    }
}

/// A directory of our own under `parent`, removed when dropped (mounts in it first), also when we are killed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes `legation-<name>-<random>`; others may pass through it but not list it.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new()
            .prefix(&format!("legation-{name}-"))
            .tempdir_in(parent)
            .doing(format_args!(
                "making a scratch directory in {}",
                parent.display()
            ))?;
        let path = dir.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711))
            .doing("opening the scratch directory")?;
        tell(&format!("dir {}", path.display()))?;
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it in place when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let inside = format!("{}/", self.path.display());
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut mounts: Vec<_> = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(1))
            .filter(|m| m.starts_with(&inside))
            .collect();
        mounts.sort_unstable();
        for m in mounts.into_iter().rev() {
            let _ = Command::new("umount")
                .args(["-l", m])
                .stderr(Stdio::null())
                .status();
        }
        let _ = remove_tree(&self.path);
    }
}

/// Removes a directory that somebody may still be writing into.
pub fn remove_tree(path: &Path) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(e) if Instant::now() > until => {
                return Err(e).doing(format_args!("removing {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// A long-running child with a log file; ended with all below it when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts `command` in a process group of its own, both outputs appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .doing(format_args!("opening {}", log.display()))?;
        let err = out.try_clone().doing("opening a log")?;
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        let child = command.spawn().doing(format_args!("starting {name}"))?;
        tell(&format!("pid {}", child.id()))?;
        Ok(Self {
            name: name.into(),
            child,
            log: log.into(),
            ended: None,
        })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
            if self.ended.is_some() {
                let _ = tell(&format!("gone {}", self.child.id()));
            }
        }
        self.ended
    }

    /// Its number and those of all below it, parents first.
    pub fn tree(&self) -> Vec<u32> {
        tree(self.child.id())
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Tells it to end and waits; after [`PATIENCE`] it is killed and that is an error.
    pub fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.signal(signal);
        match self.wait(PATIENCE) {
            Some(status) => Ok(status),
            None => {
                self.kill();
                failed(format!(
                    "{} did not end within {} s of being told to",
                    self.name,
                    PATIENCE.as_secs()
                ))
            }
        }
    }

    /// Waits until it ends by itself, at most so long.
    pub fn wait(&mut self, most: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + most;
        while self.ended().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ended
    }

    /// SIGKILL to it and all below it; returns how many were killed.
    pub fn kill(&mut self) -> usize {
        if self.ended().is_some() {
            return 0;
        }
        let (killed, _) = kill_trees(&[self.child.id()]);
        self.ended = self.child.wait().ok();
        let _ = tell(&format!("gone {}", self.child.id()));
        killed
    }

    /// Lets go of it: it goes on running when we are gone.
    pub fn release(mut self) {
        let _ = tell(&format!("gone {}", self.child.id()));
        self.ended = Some(ExitStatus::from_raw(0));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Politely first: an activated embassy seals, which unmounts.
        if self.ended().is_none() {
            self.signal(Signal::TERM);
            if self.wait(Duration::from_secs(4)).is_none() {
                self.kill();
            }
        }
    }
}

/// Sends a signal; a process that is gone is no error.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The parent of every process now.
fn parents() -> HashMap<u32, u32> {
    let Ok(proc) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    proc.flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            // The command in parentheses may hold anything, so fields count from its last parenthesis.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            (fields.next()? != "Z").then_some(())?;
            Some((pid, fields.next()?.parse().ok()?))
        })
        .collect()
}

/// A process and all below it, parents first.
pub fn tree(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = if parents.contains_key(&root) {
        vec![root]
    } else {
        vec![]
    };
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        let mut below: Vec<_> = parents
            .iter()
            .filter(|&(_, &parent)| parent == of)
            .map(|(&pid, _)| pid)
            .collect();
        below.sort_unstable();
        found.extend(below);
        at += 1;
    }
    found
}

/// SIGKILL to several processes and all below them, as near to one moment as can be; returns how many, and just
/// before which moment (wall time).
pub fn kill_trees(roots: &[u32]) -> (usize, SystemTime) {
    let mut killed = HashSet::new();
    let mut all: Vec<u32> = roots.iter().flat_map(|&r| tree(r)).collect();
    let moment = SystemTime::now();
    // Parents are killed first, so nothing new appears below them; a second look catches what was being born.
    for _ in 0..3 {
        for &pid in &all {
            send(pid, Signal::KILL);
        }
        killed.extend(std::mem::take(&mut all));
        let born = roots
            .iter()
            .flat_map(|&r| tree(r))
            .filter(|p| !killed.contains(p));
        all.extend(born);
        if all.is_empty() {
            break;
        }
    }
    // Orphans of a killed parent hang on init: they were in the list already, so their numbers are known.
    let until = Instant::now() + PATIENCE;
    let waits = |parents: &HashMap<u32, u32>| {
        killed
            .iter()
            .any(|p| parents.contains_key(p) && !roots.contains(p))
    };
    while waits(&parents()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    (killed.len(), moment)
}

/// What a program that ran to its end left behind.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line as a person would type it.
    pub line: String,
    /// The exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// An error with what the program said, unless it ended with `code`.
    pub fn want(self, code: i32) -> Result<Self> {
        if self.code == code {
            return Ok(self);
        }
        let said = if self.err.trim().is_empty() {
            &self.out
        } else {
            &self.err
        };
        failed(format!(
            "`{}` ended with {} instead of {code}: {}",
            self.line,
            self.code,
            said.trim()
        ))
    }

    /// An error with what the program said, unless it succeeded.
    pub fn ok(self) -> Result<Self> {
        self.want(0)
    }

    /// The first line of what it said against the request, without a leading "error: ".
    pub fn complaint(&self) -> &str {
        let line = self
            .err
            .lines()
            .find(|l| !l.trim().is_empty())
            .unwrap_or_default()
            .trim();
        line.strip_prefix("error: ").unwrap_or(line)
    }
}

/// Runs a program to its end, at most so long; its whole tree is killed afterwards if it did not end.
pub fn run(mut command: Command, input: &[u8], most: Duration) -> Result<Ran> {
    let line = shown(&command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let began = Instant::now();
    let mut child = command.spawn().doing(format_args!("starting `{line}`"))?;
    let pid = child.id();
    tell(&format!("pid {pid}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let drain = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = drain(out.map(|p| Box::new(p) as _));
    let err = drain(err.map(|p| Box::new(p) as _));
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(input);
    }
    let status = loop {
        if let Some(status) = child.try_wait().doing("waiting for a child")? {
            break status;
        }
        if began.elapsed() > most {
            kill_trees(&[pid]);
            let _ = child.wait();
            let _ = tell(&format!("gone {pid}"));
            return failed(format!("`{line}` did not end within {} s", most.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let took = began.elapsed();
    let _ = tell(&format!("gone {pid}"));
    Ok(Ran {
        line,
        code: status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
        took,
    })
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    command.get_args().fold(program, |line, arg| {
        format!("{line} {}", arg.to_string_lossy())
    })
}
