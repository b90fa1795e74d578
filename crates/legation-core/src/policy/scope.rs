//! The scope of an order: which epochs it lists is no choice of whoever writes it, but follows from version, target and
//! the log in sight of which it is written. Orders are written by the function by which they are judged.

use super::state::{Closed, VersionState};
use super::{Refusal, RegistryState, Rule, State};
use crate::id::{EpochNo, RegistryId};
use crate::order::CLOCK_MARGIN;
use crate::statement::{Commit, EpochSet, Target, VersionPick};

impl RegistryState {
    /// The version meant by `pick` in sight of the first `size` entries of the log.
    #[must_use]
    pub fn version_at(&self, pick: VersionPick, size: u64) -> Option<&VersionState> {
        match pick {
            VersionPick::Latest => self.versions.iter().rev().find(|v| v.index < size),
            VersionPick::Exactly(version) => self.version(version).filter(|v| v.index < size),
        }
    }

    /// The version from which an order reaches `target`, in sight of the first `size` entries: for a position the newest
    /// one that is consistent by then. A moment is the database's, and the log knows other clocks: so the newest version
    /// that was logged clearly before, else the oldest that was begun by then. What is exact is found when the log is
    /// opened.
    #[must_use]
    pub fn version_for(&self, target: Target, size: u64) -> Option<&VersionState> {
        let seen = |v: &&VersionState| v.index < size && v.commit.wal.is_some();
        let mut newest = self.versions.iter().rev().filter(seen);
        match target {
            Target::EndOfWal => self.version_at(VersionPick::Latest, size),
            Target::Lsn(lsn) => {
                newest.find(|v| v.commit.wal.as_ref().is_some_and(|w| w.stop <= lsn))
            }
            Target::Time(time) => newest
                .find(|v| v.received.plus_millis(CLOCK_MARGIN) <= time)
                .or_else(|| {
                    self.versions
                        .iter()
                        .find(seen)
                        .filter(|v| v.commit.captured <= time)
                }),
        }
    }

    /// The epochs after a version's own that its log goes on in up to `target`: all, or up to the first that was left at
    /// or after it.
    fn after(&self, commit: &Commit, target: Target, size: u64) -> Vec<EpochNo> {
        let last = commit.epochs.last();
        let mut after = Vec::new();
        for epoch in self
            .epochs
            .iter()
            .filter(|e| e.index < size && e.epoch >= last)
        {
            if epoch.epoch > last {
                after.push(epoch.epoch);
            }
            let closed = epoch.closed.filter(|closed| closed.index < size);
            if closed.is_some_and(|closed| closed.reaches(commit, target)) {
                break;
            }
        }
        after
    }
}

impl Closed {
    /// Whether all that lies before `target` is in this epoch or earlier ones.
    fn reaches(&self, commit: &Commit, target: Target) -> bool {
        match target {
            Target::EndOfWal => false,
            Target::Lsn(lsn) => commit.timeline == Some(self.timeline) && self.lsn > lsn,
            Target::Time(time) => self.at >= time.plus_millis(CLOCK_MARGIN),
        }
    }
}

impl State {
    /// The epochs that an order for this version and target lists, in sight of the first `size` entries: those that the
    /// commit names, and with a [`Target`], if the version has a range of log, the later ones up to it too.
    ///
    /// # Errors
    /// [`Refusal`] under `Scope` if there is no such registry or version, or if the epochs cannot be listed.
    pub fn scope(
        &self,
        registry: RegistryId,
        pick: VersionPick,
        target: Option<Target>,
        size: u64,
    ) -> Result<EpochSet, Refusal> {
        let refuse = |why| Err(Refusal::new(Rule::Scope, why));
        let Some(known) = self.registries.get(&registry) else {
            return refuse(format!("the mandate names no registry {registry}"));
        };
        let Some(version) = known.version_at(pick, size) else {
            return refuse(format!(
                "{registry} has no such version among the first {size} entries of the log: see 'legation versions'"
            ));
        };
        let commit = &version.commit;
        let after = match (target, &commit.wal) {
            (Some(Target::Lsn(lsn)), Some(wal)) if lsn < wal.stop => {
                return refuse(format!(
                    "{} of {registry} is consistent from {} on, after {lsn}: order an earlier version",
                    commit.version, wal.stop
                ));
            }
            (Some(point), None) if point.is_point() => {
                return refuse(format!(
                    "{} of {registry} has no log that leads to a point in time: 'target: none'",
                    commit.version
                ));
            }
            (Some(target), Some(_)) => known.after(commit, target, size),
            _ => Vec::new(),
        };
        let scope = EpochSet::of(commit.epochs.iter().chain(after));
        scope.map_or_else(
            || {
                refuse(format!(
                    "{registry} needs more separate ranges of epochs than an order may list: take a new version first"
                ))
            },
            Ok,
        )
    }
}
