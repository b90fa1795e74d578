//! Abroad: the embassy's process, and what starts there.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{EMBASSY, World, private};
use crate::args;
use crate::cli::records;
use crate::error::{Doing, Result, failed};
use crate::fixtures::{Registry, Source};
use crate::process::{Daemon, Ran};
use crate::reckon::Server;

/// Longest wait for the embassy to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// A registry that serves abroad.
#[derive(Debug, Clone)]
pub struct Started {
    /// Which.
    pub registry: Registry,
    /// Where it answers; port 0 for a tree of files.
    pub port: u16,
    /// Where its files are.
    pub path: PathBuf,
    /// From the start of `activate` to the first answer that we got ourselves.
    pub rto: Duration,
    /// What the program reported of it.
    pub report: Value,
}

/// A running `legation activate`.
#[derive(Debug)]
pub struct Live {
    daemon: Daemon,
    out: PathBuf,
    began: Instant,
}

impl World {
    /// `embassy.toml`, with what is known by now.
    pub(super) fn write_embassy_config(&self) -> Result<()> {
        let run_as = if self.programs.run_as().is_some() {
            "run_as = \"postgres\"\n"
        } else {
            ""
        };
        let mut t = format!(
            "format = 1\nlabel = \"{EMBASSY}\"\nlisten = [\"127.0.0.1:{}\"]\nidentity = {{ file = \"embassy.key\" }}\n\
             \n[store]\nkind = \"dir\"\npath = \"store\"\nreserve = \"64MiB\"\n\
             \n[activation]\npath = \"{}\"\nlauncher = \"process\"\nport = {}\n{run_as}",
            self.embassy_port,
            self.live_path().display(),
            self.live_port
        );
        for file in ["mandate.signed", "mandate.keys"] {
            let from = self.path("desk/founding").join(file);
            if from.exists() {
                fs::copy(from, self.path("embassy").join(file))
                    .doing("handing the mandate to the embassy")?;
            }
        }
        if !self.state.is_empty() {
            t.push_str("\n[[state]]\nmandate = \"mandate.signed\"\nquota = \"20GiB\"\n");
        }
        private(&self.path("embassy/embassy.toml"), &t)
    }

    /// Where plaintext lives when the embassy is open: root mounts memory there, others use memory that is mounted.
    pub fn live_path(&self) -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return self.path("embassy/live");
        }
        let name = self.scratch.path().file_name().unwrap_or_default();
        Path::new("/dev/shm").join(name)
    }

    /// Starts the embassy and waits until it listens.
    pub fn start_embassy(&mut self) -> Result<()> {
        self.write_embassy_config()?;
        let mut command = self.legation.command(args![
            "embassy",
            "--config",
            self.path("embassy/embassy.toml")
        ]);
        command
            .current_dir(self.path("embassy"))
            .env("HOME", self.path("embassy"))
            .envs(self.extra("embassy"));
        let mut embassy = Daemon::start(
            "legation embassy",
            command,
            &self.path("embassy/embassy.log"),
        )?;
        wait_listening(&mut embassy, self.embassy_port)?;
        self.embassy = Some(embassy);
        Ok(())
    }

    /// Stops the embassy as an administrator does.
    pub fn stop_embassy(&mut self) -> Result<()> {
        match self.embassy.take() {
            Some(mut embassy) => embassy.stop(Signal::TERM).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Starts `legation activate` for a logged order; it waits for the release by itself.
    pub fn activate(&self, order: &Path) -> Result<Live> {
        let config = self.path("embassy/embassy.toml");
        let mut command = self.legation.command(args![
            "activate", "--order", order, "--config", config, "--json"
        ]);
        // The embassy's machine has the release that home has.
        let mut path = self.programs.bin().as_os_str().to_owned();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        command
            .current_dir(self.path("embassy"))
            .env("HOME", self.path("embassy"))
            .env("PATH", path);
        let out = self.path("embassy/activate.log");
        Ok(Live {
            daemon: Daemon::start("legation activate", command, &out)?,
            out,
            began: Instant::now(),
        })
    }

    /// Starts an embassy with the same keys on another store, as one that was set back would be, and asks it from the
    /// desk, which has seen later checkpoints.
    pub fn show_older(&self, store: &Path) -> Result<Ran> {
        let dir = self.path("set-back");
        let port = crate::ports::claim()?;
        let text =
            fs::read_to_string(self.path("embassy/embassy.toml")).doing("reading embassy.toml")?;
        let text = text
            .replace(
                &format!("127.0.0.1:{}", self.embassy_port),
                &format!("127.0.0.1:{port}"),
            )
            .replace(
                "path = \"store\"",
                &format!("path = \"{}\"", store.display()),
            );
        private(&dir.join("embassy.toml"), &text)?;
        for file in ["embassy.key", "mandate.signed", "mandate.keys"] {
            fs::copy(self.path("embassy").join(file), dir.join(file))
                .doing("copying the embassy's keys")?;
        }
        let mut command =
            self.legation
                .command(args!["embassy", "--config", dir.join("embassy.toml")]);
        command.current_dir(&dir).env("HOME", &dir);
        let mut older = Daemon::start(
            "legation embassy (set back)",
            command,
            &dir.join("embassy.log"),
        )?;
        wait_listening(&mut older, port)?;
        let desk = self.path("desk");
        let person = fs::read_to_string(self.person()).doing("reading legation.toml")?;
        private(
            &desk.join("legation-older.toml"),
            &person.replace("\"locators.toml", "\"locators-older.toml"),
        )?;
        private(&desk.join("locators-older.toml"), &self.locators(port))?;
        let ran = self.legation.run(args![
            "versions",
            "--config",
            desk.join("legation-older.toml")
        ])?;
        older.stop(Signal::TERM)?;
        Ok(ran)
    }

    /// A plain client's way to a started registry.
    pub fn server(&self, started: &Started) -> Server {
        Server {
            port: started.port,
            password: self.password.clone(),
        }
    }
}

/// Waits until an embassy takes connections.
fn wait_listening(embassy: &mut Daemon, port: u16) -> Result<()> {
    let until = Instant::now() + LISTEN;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if embassy.ended().is_some() || Instant::now() > until {
            return failed(format!(
                "the embassy does not listen: {}",
                embassy.said().trim()
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Live {
    /// What it has printed so far, as JSON objects; lines that are none are skipped.
    pub fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        text.lines()
            .filter_map(|l| records(l).ok())
            .flatten()
            .collect()
    }

    /// Starts the clock anew: the keys have been released at this moment.
    pub fn released(&mut self) {
        self.began = Instant::now();
    }

    /// Waits until every registry of the world serves, asking each by a client of our own.
    pub fn wait_serving(&mut self, world: &World, most: Duration) -> Result<Vec<Started>> {
        let mut all: Vec<Started> = Vec::new();
        while all.len() < world.options.registries.len() {
            if self.began.elapsed() > most || self.daemon.ended().is_some() {
                let said = self.daemon.said();
                let tail: Vec<_> = said.lines().rev().take(4).collect();
                return failed(format!(
                    "{} of {} registries serve after {} s: {}",
                    all.len(),
                    world.options.registries.len(),
                    self.began.elapsed().as_secs(),
                    tail.join(" / ")
                ));
            }
            for record in self
                .records()
                .into_iter()
                .filter(|r| r["message_type"] == "serving")
            {
                let Some(registry) = record["registry"]
                    .as_str()
                    .or(record["name"].as_str())
                    .and_then(Registry::named)
                else {
                    continue;
                };
                if all.iter().any(|s| s.registry == registry) {
                    continue;
                }
                let port = record["port"]
                    .as_u64()
                    .and_then(|p| u16::try_from(p).ok())
                    .unwrap_or(0);
                let path = PathBuf::from(record["path"].as_str().unwrap_or_default());
                let answers = match registry.shape().source {
                    Source::Tree => path.is_dir(),
                    Source::Postgres => {
                        let server = Server {
                            port,
                            password: world.password.clone(),
                        };
                        server
                            .connect(registry)
                            .and_then(|mut c| c.query_one(registry.probe(), &[]).doing("probing"))
                            .is_ok_and(|row| row.get(0))
                    }
                };
                if answers {
                    all.push(Started {
                        registry,
                        port,
                        path,
                        rto: self.began.elapsed(),
                        report: record,
                    });
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(all)
    }

    /// What it has said so far, on both outputs.
    pub fn said(&self) -> String {
        self.daemon.said()
    }

    /// Sends it a signal, and does not wait.
    pub fn signal(&self, signal: Signal) {
        self.daemon.signal(signal);
    }

    /// Waits until it ends, at most so long.
    pub fn wait(&mut self, most: Duration) -> Option<std::process::ExitStatus> {
        self.daemon.wait(most)
    }

    /// Seals: tells it to end, and waits.
    pub fn seal(mut self) -> Result<()> {
        let status = self.daemon.stop(Signal::TERM)?;
        if status.success() || status.code() == Some(130) {
            return Ok(());
        }
        failed(format!(
            "activate ended with {status} when it was told to seal: {}",
            self.daemon.said().trim()
        ))
    }

    /// Kills it as a loss of power would: it says nothing more and seals nothing.
    pub fn kill(mut self) {
        self.daemon.kill();
    }

    /// Leaves it running when we are gone.
    pub fn release(self) -> u32 {
        let pid = self.daemon.pid();
        self.daemon.release();
        pid
    }
}
