//! The scope of an order: which epochs it lists is no choice of whoever writes it, but follows from version, target and
//! the log in sight of which it is written. Orders are written by the function by which they are judged.

use super::state::VersionState;
use super::{Refusal, RegistryState, Rule, State};
use crate::id::RegistryId;
use crate::statement::{EpochSet, Target, VersionPick};

impl RegistryState {
    /// The version meant by `pick` in sight of the first `size` entries of the log.
    #[must_use]
    pub fn version_at(&self, pick: VersionPick, size: u64) -> Option<&VersionState> {
        match pick {
            VersionPick::Latest => self.versions.iter().rev().find(|v| v.index < size),
            VersionPick::Exactly(version) => self.version(version).filter(|v| v.index < size),
        }
    }
}

impl State {
    /// The epochs that an order for this version and target lists, in sight of the first `size` entries: those that the
    /// commit names, and with [`Target::EndOfWal`], if the version has a range of log, all later ones too.
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
        let continued = target.is_some() && commit.wal.is_some();
        let after = known
            .epochs
            .iter()
            .filter(|e| continued && e.index < size && e.epoch > commit.epochs.last())
            .map(|e| e.epoch);
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
