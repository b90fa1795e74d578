//! An embassy's machine: its disk, its clock, and the process while it runs.

use std::time::Duration;

use legation_core::statement::{Name, Time};
use legation_embassy::Reserve;
use legation_embassy::local::{LocalEmbassy, set_clock};

use crate::audit::{Checked, found};
use crate::disk::Disk;
use crate::founding::Founding;

/// What an embassy keeps free for log and journals.
const RESERVE: Reserve = Reserve::Bytes(512 << 10);
/// Most changes that a power failure lets an embassy make before it.
pub const FUSE: u64 = 60;

/// An embassy.
pub struct Site {
    founding: &'static Founding,
    label: Name,
    /// Its disk.
    pub disk: Disk,
    process: Option<LocalEmbassy>,
    /// How far its clock is off, in milliseconds.
    pub off: i64,
    /// Starts.
    pub starts: u64,
}

impl Site {
    /// One that has never run.
    #[must_use]
    pub fn new(founding: &'static Founding, disk: Disk) -> Self {
        Self {
            founding,
            label: founding.mandate.embassy[0].label.clone(),
            disk,
            process: None,
            off: 0,
            starts: 0,
        }
    }

    /// Sets its clock: the true time, and how long the machine has run.
    pub fn at(&self, now: u64, monotonic: u64) {
        let wall = now.saturating_add_signed(self.off);
        let wall = Time::from_millis(wall).unwrap_or_default();
        set_clock(wall, Duration::from_millis(monotonic));
    }

    /// What its clock says.
    #[must_use]
    pub fn wall(&self, now: u64) -> Time {
        Time::from_millis(now.saturating_add_signed(self.off)).unwrap_or_default()
    }

    /// The process, while it runs.
    #[must_use]
    pub fn process(&self) -> Option<&LocalEmbassy> {
        self.process.as_ref()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the process.
    ///
    /// # Errors
    /// When it does not start although its disk does what it is told.
    pub fn start(&mut self) -> Checked<bool> {
        self.starts += 1;
        self.process = None;
        let before = self.disk.happened();
        let opened = {
            let _on = self.disk.on();
            LocalEmbassy::open(
                &self.label,
                self.founding.embassy(),
                &self.disk.root(),
                RESERVE,
                self.founding.hosted(None),
            )
        };
        let after = self.disk.happened();
        match opened {
            // The power went while it started: nobody has seen it run.
            _ if self.disk.is_dead() => {
                drop(opened);
                self.disk.power_cycle();
                Ok(false)
            }
            Ok(process) => {
                self.process = Some(process);
                Ok(true)
            }
            Err(_) if after.failed > before.failed || after.full > before.full => Ok(false),
            Err(error) => found("restart", format!("the embassy does not start: {error}")),
        }
    }

    /// The process dies; the machine goes on.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Everything ends, and only what the disk holds is left.
    pub fn lose_power(&mut self) {
        self.process = None;
        self.disk.power_cycle();
    }

    /// Does something with the process. `None` when it does not run, or the power went meanwhile: then nobody hears.
    pub fn with<T>(&mut self, act: impl FnOnce(&mut LocalEmbassy) -> T) -> Option<T> {
        let process = self.process.as_mut()?;
        let done = {
            let _on = self.disk.on();
            act(process)
        };
        if self.disk.is_dead() {
            self.lose_power();
            return None;
        }
        Some(done)
    }
}
