//! Programs that a source runs: what they print is streamed, how they end decides. Each has a process group of its own,
//! which is killed as a whole when its time is over or somebody asks to stop. No shell is between, nothing is given to
//! its standard input, and of the environment it gets only what is named.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::{Error, Result};

/// How often time and the stop flag are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// One read of what a program prints.
const READ: usize = 256 * 1024;
/// How much of the end of what it says beside that is kept: a message names it.
const SAID: usize = 2 * 1024;
/// How long output may stay open after everything was killed: what left the group holds it.
const AFTER: Duration = Duration::from_secs(2);
/// What every program gets of the environment, if it is set: where things are and how they are written, no secrets.
const USUAL_ENV: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// A program to run.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The program and its arguments; nothing in them is expanded.
    pub argv: Vec<OsString>,
    /// Where it runs; the root directory when absent.
    pub directory: Option<PathBuf>,
    /// Names of variables of our environment that it gets beside the usual ones.
    pub env: Vec<OsString>,
    /// How long it may take.
    pub timeout: Duration,
}

/// What stands between a program and its end.
struct Running {
    child: Child,
    group: Pid,
    /// Once it is reaped its number may be another's: nothing is killed any more.
    reaped: bool,
    /// Why it was killed.
    killed: Option<Why>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Stopped,
    TooLong,
    /// Whoever takes the output does not want more.
    Unwanted,
}

impl Running {
    fn kill(&mut self, why: Why) {
        if !self.reaped && self.killed.is_none() {
            self.killed = Some(why);
            // Also when its leader has ended: those that it started are in the group.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }

    /// How it ended, if it did. Not reaped before its group was dealt with.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.group), options), Ok(None))
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.reaped = true;
        self.child.wait()
    }
}

impl Program {
    /// What it is called in messages: its arguments may hold what is nobody's business.
    #[must_use]
    pub fn name(&self) -> String {
        let first = self.argv.first();
        first.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// Whether it can be found and started at all.
    ///
    /// # Errors
    /// `Refused` when it cannot.
    pub fn find(&self) -> Result<()> {
        let name = self.name();
        let executable = |path: &PathBuf| {
            path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
        };
        let found = if name.contains('/') {
            executable(&PathBuf::from(&name))
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            !name.is_empty() && std::env::split_paths(&path).any(|dir| executable(&dir.join(&name)))
        };
        if found {
            return Ok(());
        }
        Err(Error::refused(
            format!("there is no program {name:?} here"),
            "install it, or name it with its whole path in argv",
        ))
    }

    /// Runs it and gives all that it prints to `out`, as it comes.
    ///
    /// # Errors
    /// `Refused`, with the end of what it said, unless it ends by itself, in time and with status 0; `Stopped`; what
    /// `out` says.
    pub fn run(
        &self,
        stop: &(dyn Fn() -> bool + Sync),
        out: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut child = self.start()?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::io(self.name(), io::Error::other("it has no output")));
        };
        let group = Pid::from_child(&child);
        let running = Mutex::new(Running {
            child,
            group,
            reaped: false,
            killed: None,
        });
        let mut said = VecDeque::new();
        let over = AtomicBool::new(false);
        let deadline = Instant::now() + self.timeout;
        let read = std::thread::scope(|scope| {
            // Beside the reader, which may wait for room as long as it takes.
            let guard = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let why = match (stop(), Instant::now() >= deadline) {
                        (true, _) => Some(Why::Stopped),
                        (false, true) => Some(Why::TooLong),
                        (false, false) => None,
                    };
                    if let Some(why) = why {
                        lock(&running).kill(why);
                        return;
                    }
                    std::thread::park_timeout(LOOK);
                }
            });
            let read = pump(stdout, stderr, &running, out, &mut said);
            if read.is_err() {
                lock(&running).kill(Why::Unwanted);
            }
            let ended = await_end(&running);
            over.store(true, Ordering::SeqCst);
            guard.thread().unpark();
            read.and(ended)
        });
        let killed = lock(&running).killed;
        let status = match (killed, read) {
            (Some(Why::Stopped), _) => return Err(Error::Stopped),
            (Some(Why::TooLong), _) => {
                let within = self.timeout.as_secs_f64();
                let what = format!("it was killed: it was not done within {within} s");
                return Err(self.failed(&what, &said));
            }
            (_, read) => read?,
        };
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(self.failed(&format!("it ended with status {code}"), &said)),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                Err(self.failed(&format!("signal {signal} ended it"), &said))
            }
        }
    }

    fn start(&self) -> Result<Child> {
        let (Some(program), rest) = (self.argv.first(), self.argv.get(1..).unwrap_or_default())
        else {
            return Err(Error::refused("no program is named", "name one in argv"));
        };
        let named = self.env.iter().map(OsString::as_os_str);
        let usual = USUAL_ENV.iter().map(|name| name.as_ref());
        let env = named.chain(usual);
        let env = env.filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?)));
        Command::new(program)
            .args(rest)
            .current_dir(self.directory.as_deref().unwrap_or("/".as_ref()))
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| {
                Error::refused(
                    format!("{} cannot be started: {e}", self.name()),
                    "look at argv and directory, and whether the agent's user may run it",
                )
            })
    }

    fn failed(&self, how: &str, said: &VecDeque<u8>) -> Error {
        let bytes: Vec<u8> = said.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let lines: Vec<String> = text
            .lines()
            .map(|line| {
                line.chars()
                    .map(plain)
                    .collect::<String>()
                    .trim()
                    .to_owned()
            })
            .filter(|line| !line.is_empty())
            .collect();
        let last = lines
            .get(lines.len().saturating_sub(5)..)
            .unwrap_or_default();
        let told = match last.join(" / ") {
            none if none.is_empty() => "it said nothing".to_owned(),
            last => format!("it said: {last}"),
        };
        Error::refused(
            format!("{}: {how}; {told}", self.name()),
            "run it by hand as the agent's user, with the same arguments",
        )
    }
}

/// Reads both outputs to their ends.
fn pump(
    mut stdout: ChildStdout,
    mut stderr: ChildStderr,
    running: &Mutex<Running>,
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
    said: &mut VecDeque<u8>,
) -> Result<()> {
    let mut buffer = vec![0; READ];
    let (mut prints, mut speaks) = (true, true);
    let mut killed_at: Option<Instant> = None;
    while prints || speaks {
        // Only those that are open: one at its end would be ready for ever.
        let open = [(prints, stdout.as_fd()), (speaks, stderr.as_fd())];
        let open = open.into_iter().filter(|(open, _)| *open);
        let mut fds: Vec<_> = open
            .map(|(_, fd)| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("waiting for output", e)),
        }
        let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
        let printed = prints && ready(fds.first());
        let spoken = speaks && ready(fds.last());
        drop(fds);
        if printed {
            let got = read(&mut stdout, &mut buffer)?;
            prints = got > 0;
            out(&buffer[..got])?;
        }
        if spoken {
            let got = read(&mut stderr, &mut buffer)?;
            speaks = got > 0;
            said.extend(&buffer[..got]);
            said.drain(..said.len().saturating_sub(SAID));
        }
        if lock(running).killed.is_some() {
            let since = *killed_at.get_or_insert_with(Instant::now);
            if since.elapsed() >= AFTER {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|e| Error::io("reading output", e)),
        }
    }
}

/// Waits until it ended, by itself or killed.
fn await_end(running: &Mutex<Running>) -> Result<ExitStatus> {
    loop {
        let mut held = lock(running);
        if held.has_ended() {
            return held
                .reap()
                .map_err(|e| Error::io("waiting for a program", e));
        }
        drop(held);
        std::thread::sleep(LOOK / 10);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
