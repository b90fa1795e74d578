//! The story that `make demo` tells: a state is founded, lives, loses its home, and starts abroad. Every figure in it
//! is measured in the run, every refusal is a real one, and a claim that does not hold fails the whole.

mod cheats;
mod foundation;
mod life;
mod order;
mod reckoning;
mod show;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Doing, Result, failed};
use crate::fixtures::Registry;
use crate::process::dismiss_guard;
use crate::world::{self, Disaster, Lag, Live, Order, Started, World};

pub use show::{bytes, clock, seconds, thousands};

/// How the story is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The world it happens in.
    pub world: world::Options,
    /// How long home lives.
    pub live: Duration,
    /// How long the release build took, where that was measured.
    pub built: Option<Duration>,
    /// Whether the activated registries stay up at the end.
    pub keep: bool,
    /// Where the reckoning is put as a picture.
    pub record: Option<PathBuf>,
}

/// Says lines, remembers them, and counts what was claimed.
#[derive(Debug, Default)]
pub struct Teller {
    said: Vec<String>,
    claims: usize,
    broken: Vec<String>,
}

impl Teller {
    /// One line, at once.
    pub fn say(&mut self, line: impl Display) {
        let line = line.to_string();
        println!("{}", line.trim_end());
        self.said.push(line);
    }

    /// A claim; when it does not hold, that is said where it was made and again at the end.
    pub fn claim(&mut self, holds: bool, what: impl Display) -> bool {
        self.claims += 1;
        if !holds {
            let what = what.to_string();
            self.say(format!("   NOT SO: {what}"));
            self.broken.push(what);
        }
        holds
    }

    /// A part that may fail as a whole: its error is a claim that does not hold, and the story goes on.
    pub fn part(&mut self, what: &str, part: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(e) = part(self) {
            self.claim(false, format!("{what}: {e}"));
        }
    }

    /// Everything said since a line that begins so.
    fn since(&self, begins: &str) -> String {
        let from = self
            .said
            .iter()
            .position(|l| l.starts_with(begins))
            .unwrap_or(0);
        self.said[from..].join("\n")
    }
}

/// The story so far.
struct Tale {
    t: Teller,
    world: World,
    options: Options,
    lag: BTreeMap<Registry, Lag>,
    disaster: Option<Disaster>,
    order: Option<Order>,
    live: Option<Live>,
    started: Vec<Started>,
    /// WAL position at which the embassy fenced each registry, from the log's own bytes.
    fences: BTreeMap<Registry, u64>,
    /// When the gazette's newest version was captured, microseconds, from the log's own bytes.
    captured: u64,
    /// When the first of the approvals was asked for, and how long people's part took.
    ordered: Option<Instant>,
    people: Duration,
    /// What too few shares came to.
    few: Vec<String>,
}

/// Tells the story; returns the claims that do not hold.
pub fn tell(options: Options) -> Result<Vec<String>> {
    let began = Instant::now();
    let mut t = Teller::default();
    t.say("Legation demo: real PostgreSQL, real keys, real kills; the state and its people are generated.");
    let world = World::new(options.world.clone())?;
    setup(&mut t, &world, options.built)?;
    let mut tale = Tale {
        t,
        world,
        options,
        lag: BTreeMap::new(),
        disaster: None,
        order: None,
        live: None,
        started: Vec::new(),
        fences: BTreeMap::new(),
        captured: 0,
        ordered: None,
        people: Duration::ZERO,
        few: Vec::new(),
    };
    // A scene that cannot be played ends the story: what follows would have nothing to stand on.
    let played = tale.play();
    if let Err(e) = played {
        tale.t.claim(false, format!("the story broke off: {e}"));
        tale.diagnose();
    }
    tale.end(began)
}

impl Tale {
    fn play(&mut self) -> Result<()> {
        self.found()?;
        self.embassy_opens()?;
        self.home_lives()?;
        self.disaster_strikes()?;
        self.order_is_given()?;
        self.reckon()?;
        self.cheat();
        self.close()
    }

    /// The last sentence.
    fn close(&mut self) -> Result<()> {
        let Some(disaster) = &self.disaster else {
            return failed("nothing happened");
        };
        let up = self.started.len();
        let all = self.world.options.registries.len();
        let intact = if self.t.broken.is_empty() {
            "Nothing acknowledged was lost."
        } else {
            "Not every claim holds."
        };
        let line = format!(
            "Home died at {}. {} after the first signature was asked for, {} of it officers' work, {up} of {all} \
             registries answered.",
            clock(disaster.micros, 0),
            seconds(
                self.ordered
                    .map_or(Duration::ZERO, |o| o.elapsed())
                    .min(self.answered())
                    .as_secs_f64()
            ),
            seconds(self.people.as_secs_f64()),
        );
        self.t.say("");
        self.t.say(line);
        self.t.say(format!(
            "{intact} {} claims made and checked.",
            self.t.claims
        ));
        Ok(())
    }

    /// From the first approval asked for to the last answer.
    fn answered(&self) -> Duration {
        let slowest = self.started.iter().map(|s| s.rto).max().unwrap_or_default();
        self.people + slowest
    }

    /// What the processes said last, when a scene could not be played.
    fn diagnose(&mut self) {
        let logs = [
            "embassy/embassy.log",
            "home/agent/agent.log",
            "embassy/activate.log",
        ];
        for log in logs {
            let Ok(text) = fs::read_to_string(self.world.path(log)) else {
                continue;
            };
            let lines: Vec<_> = text.lines().rev().take(8).collect();
            for line in lines.into_iter().rev() {
                self.t.say(format!("   [{log}] {line}"));
            }
        }
    }

    fn end(mut self, began: Instant) -> Result<Vec<String>> {
        if let Some(path) = &self.options.record {
            let text = self.t.since("6  THE RECKONING");
            let picture = crate::svg::picture("The reckoning of a Legation demo run", &text);
            fs::write(path, picture).doing(format_args!("writing {}", path.display()))?;
        }
        if self.options.keep && self.live.is_some() {
            self.keep_up();
        } else if let Some(live) = self.live.take() {
            let sealed = live.seal();
            let wiped = !self.world.live_path().exists()
                || fs::read_dir(self.world.live_path()).is_ok_and(|mut d| d.next().is_none());
            self.t.claim(
                sealed.is_ok() && wiped,
                format!("sealing ends the services and wipes the volume: {sealed:?}"),
            );
            self.t
                .say("Sealed again; the opened volume is gone. Stay and look: make demo KEEP=1");
        } else {
            self.t.say("Stay and look: make demo KEEP=1");
        }
        let Self { t, world, .. } = self;
        drop(world);
        dismiss_guard();
        println!("[end] {} in all", seconds(began.elapsed().as_secs_f64()));
        if !t.broken.is_empty() {
            println!("\n{} of {} claims do not hold:", t.broken.len(), t.claims);
            t.broken.iter().for_each(|b| println!("  - {b}"));
        }
        Ok(t.broken)
    }

    /// Leaves embassy and registries running, and says how to look and how to end it.
    fn keep_up(&mut self) {
        self.world.keep();
        let mut pids = Vec::new();
        pids.extend(self.live.take().map(Live::release));
        pids.extend(self.world.embassy.take().map(|e| {
            let pid = e.pid();
            e.release();
            pid
        }));
        let password = self.world.password().to_owned();
        for s in self.started.clone() {
            let how = match s.registry {
                r if !r.is_database() => format!("ls {}", s.path.display()),
                r => format!(
                    "PGPASSWORD={password} psql -h 127.0.0.1 -p {} -U postgres {}",
                    s.port,
                    r.name()
                ),
            };
            self.t.say(format!("  {how}"));
        }
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        self.t.say(format!(
            "to end it: kill {}; then rm -r {}",
            pids.join(" "),
            self.world.path("").display()
        ));
    }
}

/// What the story is played with.
fn setup(t: &mut Teller, world: &World, built: Option<Duration>) -> Result<()> {
    let built = built
        .map(|b| format!(" · release build {}", seconds(b.as_secs_f64())))
        .unwrap_or_default();
    let ssh = crate::cli::stock("ssh", ["-V"], b"")?.err;
    let ssh = ssh
        .split([',', ' '])
        .next()
        .unwrap_or_default()
        .replace('_', " ");
    let age = crate::cli::stock("age", ["--version"], b"")?.out;
    t.say(format!(
        "[setup] PostgreSQL {} · {ssh} · age {}{built} · scale {} · scratch {}",
        world.programs.version()?,
        age.trim().trim_start_matches('v'),
        world.options.scale,
        world.path("").display(),
    ));
    Ok(())
}

/// The gist of what a program said against a request: the first part of its sentence that stands alone.
fn gist(text: &str) -> &str {
    const ENOUGH: usize = 30;
    let end = text
        .char_indices()
        .find(|&(i, c)| i >= ENOUGH && (c == ':' || c == ';'))
        .map_or(text.len(), |(i, _)| i);
    &text[..end]
}

/// A directory beside the world's for one experiment, removed with it.
fn aside(world: &World, name: &str) -> Result<PathBuf> {
    let path = world.path(name);
    fs::create_dir_all(&path).doing(format_args!("making {}", path.display()))?;
    Ok(path)
}
