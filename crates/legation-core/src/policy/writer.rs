//! Writers' statements: epochs, commits, marks, and what tells of holes.

use super::{Change, Refusal, RegistryState, Rule, State, hold};
use crate::id::{Digest, EpochNo, Generation, RegistryId, Sha256, StateId, Term, Timeline};
use crate::order::MAX_VERSION_EPOCHS;
use crate::slip::SlipHeader;
use crate::statement::{
    Cause, Commit, Doubt, Epoch, Gap, Mark, Name, Signed, Time, Unchanged, WalRange,
};
use crate::suite::SUITE;

/// Least time between two statements that tell of nothing new, by the embassy's clock: a source that rests says so
/// every few seconds at most, and one that lies must not fill the log faster than one that works.
pub const REPEAT_AFTER_MS: u64 = 500;

impl State {
    /// State, mandate, signature, registry, term, writer: what every writer's statement must have right.
    fn check_writer(
        &self,
        (state, mandate): (StateId, u32),
        registry: RegistryId,
        term: Term,
        signed: &Signed,
    ) -> Result<&RegistryState, Refusal> {
        self.check_names(state, mandate)?;
        let key = self.check_key_signature(signed)?;
        let Some(writer) = self.mandate.writer.iter().find(|w| w.key == key) else {
            return Err(Refusal::new(
                Rule::Signer,
                "an embassy does not sign statements of this kind",
            ));
        };
        self.check_may_write(&writer.name, registry, term)
    }

    pub(super) fn check_may_write(
        &self,
        writer: &Name,
        registry: RegistryId,
        term: Term,
    ) -> Result<&RegistryState, Refusal> {
        let known = self.registry_state(registry)?;
        hold!(
            known.row.writer == *writer,
            Writer,
            "the mandate does not let '{writer}' write {registry}"
        );
        let now = known.term;
        hold!(
            term >= now,
            Fenced,
            "home is fenced: {registry} is in term {now}, and nothing is accepted under term {term}"
        );
        hold!(
            term == now,
            Writer,
            "{registry} is in term {now}; term {term} has not begun"
        );
        let current = known.writer.as_ref() == Some(writer);
        hold!(
            current,
            Fenced,
            "home is fenced: '{writer}' wrote {registry} in an earlier term and has no place in term {now}"
        );
        Ok(known)
    }

    /// Whether a slip may be kept: the one of an epoch that is logged, or one that a next epoch may name.
    ///
    /// # Errors
    /// What its epoch would be refused with, so that nothing sealed to a spent generation is kept.
    pub fn check_slip(&self, header: &SlipHeader, slip: &Digest) -> Result<(), Refusal> {
        let registry = self.registry_state(header.registry)?;
        match registry.epoch(header.epoch) {
            Some(logged) => {
                hold!(
                    logged.slip == *slip,
                    Epoch,
                    "epoch {} of {} is logged with another slip",
                    header.epoch,
                    header.registry
                );
                Ok(())
            }
            None => self.check_generation(header.generation),
        }
    }

    fn check_generation(&self, sealed_to: Generation) -> Result<(), Refusal> {
        let Some(now) = self.generation() else {
            return Err(Refusal::new(
                Rule::Generation,
                "every vault generation is spent: the officers must deal new ones",
            ));
        };
        hold!(
            sealed_to == now,
            Generation,
            "the epoch is sealed to vault generation {sealed_to}; generation {now} is in use: seal it to that one"
        );
        Ok(())
    }

    pub(super) fn check_epoch(&self, it: Box<Epoch>, signed: &Signed) -> Result<Change, Refusal> {
        let registry = self.check_writer((it.state, it.mandate), it.registry, it.term, signed)?;
        check_suite(it.suite)?;
        let last = registry.last_epoch();
        hold!(
            last.next() == Some(it.epoch),
            Epoch,
            "epoch {} was sent; {} epochs are logged, so the next number is one more",
            it.epoch,
            last
        );
        self.check_generation(it.generation)?;
        Ok(Change::Epoch(it))
    }

    pub(super) fn check_commit(&self, it: Box<Commit>, signed: &Signed) -> Result<Change, Refusal> {
        let registry = self.check_writer((it.state, it.mandate), it.registry, it.term, signed)?;
        check_suite(it.suite)?;
        let (parent, next) = registry
            .head()
            .map_or((None, Some(crate::id::VersionNo(1))), |h| {
                (Some(h.id), h.commit.version.next())
            });
        let named = digest_or_none(it.parent);
        hold!(
            it.parent == parent,
            Parent,
            "the commit's parent is {named}; the newest version is {}: commit on top of that",
            digest_or_none(parent)
        );
        hold!(
            Some(it.version) == next,
            Parent,
            "the commit says {}; its parent's number makes it the next one",
            it.version
        );
        let class = &registry.row.class;
        hold!(
            it.class == *class,
            RetentionClass,
            "the commit has the class '{}'; the mandate keeps {} as '{class}'",
            it.class,
            it.registry
        );
        let last = registry.last_epoch();
        hold!(
            it.epochs.last() <= last,
            EpochsLogged,
            "the commit needs epochs {}; {last} are logged: log the epoch first",
            it.epochs
        );
        let count = it.epochs.count();
        hold!(
            count <= MAX_VERSION_EPOCHS,
            Fields,
            "the version needs the keys of {count} epochs, and no release carries that many: at most \
             {MAX_VERSION_EPOCHS}; capture everything anew, in one epoch"
        );
        hold!(
            it.epochs.contains(it.root.epoch),
            Fields,
            "the manifest lies in epoch {}, which the commit does not name",
            it.root.epoch
        );
        hold!(
            it.packs.count >= 1,
            Fields,
            "a version has at least one pack: the one with its manifest"
        );
        check_wal(it.timeline, it.wal.as_deref())?;
        hold!(
            it.stream.is_none() || it.wal.is_some(),
            Fields,
            "a stream continues a version that has a range of log"
        );
        Ok(Change::Commit(it))
    }

    pub(super) fn check_mark(
        &self,
        it: Box<Mark>,
        signed: &Signed,
        received: Time,
    ) -> Result<Change, Refusal> {
        let registry = self.check_writer((it.state, it.mandate), it.registry, it.term, signed)?;
        check_epoch_logged(registry, it.epoch)?;
        if let Some(known) = &registry.mark {
            let last = &known.mark;
            let same = Mark {
                at: last.at,
                ..(*it).clone()
            };
            if same == *last {
                // The source rests: nothing but the time goes on.
                check_repeat((last.at, it.at), (known.received, received))?;
            } else if last.stream == it.stream {
                let forward = it.sequence > last.sequence
                    && it.lsn >= last.lsn
                    && it.timeline == last.timeline
                    && it.epoch == last.epoch;
                hold!(
                    forward,
                    Forward,
                    "the stream is marked up to frame {} at {}; frame {} at {} is not after it",
                    last.sequence,
                    last.lsn,
                    it.sequence,
                    it.lsn
                );
            } else {
                hold!(
                    !registry.streams.contains(&it.stream),
                    Forward,
                    "the stream {} was left for {}; open a new one",
                    it.stream,
                    last.stream
                );
            }
        }
        Ok(Change::Mark(it))
    }

    pub(super) fn check_unchanged(
        &self,
        it: Box<Unchanged>,
        signed: &Signed,
        received: Time,
    ) -> Result<Change, Refusal> {
        let registry = self.check_writer((it.state, it.mandate), it.registry, it.term, signed)?;
        let head = registry.head().map(|head| head.commit.version);
        hold!(
            head == Some(it.version),
            Forward,
            "{} is not the newest version of {}: look at the source again, against that one",
            it.version,
            it.registry
        );
        if let Some(last) = &registry.unchanged {
            check_repeat((last.unchanged.at, it.at), (last.received, received))?;
        }
        Ok(Change::Unchanged(it))
    }

    pub(super) fn check_gap(&self, it: Box<Gap>, signed: &Signed) -> Result<Change, Refusal> {
        self.check_writer((it.state, it.mandate), it.registry, it.term, signed)?;
        check_wal(it.timeline, it.wal.as_ref())?;
        hold!(
            !matches!(it.cause, Cause::StandbyRemoved | Cause::DamagedPage)
                && !it.cause.is_of_version(),
            Fields,
            "'{}' makes a doubt, not a gap",
            it.cause
        );
        Ok(Change::Gap(it))
    }

    pub(super) fn check_doubt(&self, it: Box<Doubt>, signed: &Signed) -> Result<Change, Refusal> {
        let registry = self.check_writer((it.state, it.mandate), it.registry, it.term, signed)?;
        check_wal(it.timeline, it.wal.as_ref())?;
        hold!(
            it.version.is_some() == it.cause.is_of_version(),
            Fields,
            "a doubt names a version exactly when its cause, '{}', is one of versions",
            it.cause
        );
        let known = it
            .version
            .is_none_or(|version| registry.version(version).is_some());
        hold!(
            known,
            Fields,
            "the doubt is about a version that is not logged"
        );
        Ok(Change::Doubt(it))
    }
}

/// Whether what tells of nothing new may follow the one before it: it says a later time, and does not come too soon.
fn check_repeat(
    (said, says): (Time, Time),
    (before, received): (Time, Time),
) -> Result<(), Refusal> {
    hold!(
        says > said,
        Forward,
        "nothing is new since {said}, and {says} is not after it"
    );
    hold!(
        received.millis().saturating_sub(before.millis()) >= REPEAT_AFTER_MS,
        Forward,
        "nothing is new, and less than {REPEAT_AFTER_MS} ms have passed since that was said: wait"
    );
    Ok(())
}

fn check_suite(suite: u16) -> Result<(), Refusal> {
    hold!(
        suite == SUITE,
        Suite,
        "suite {suite} is not the mandate's; it is {SUITE}"
    );
    Ok(())
}

pub(super) fn check_epoch_logged(registry: &RegistryState, epoch: EpochNo) -> Result<(), Refusal> {
    let logged = registry.epoch(epoch).is_some();
    hold!(
        logged,
        EpochsLogged,
        "epoch {epoch} of {} is not logged: log it first",
        registry.row.id
    );
    Ok(())
}

fn check_wal(timeline: Option<Timeline>, wal: Option<&WalRange>) -> Result<(), Refusal> {
    hold!(
        timeline.is_some() == wal.is_some(),
        Fields,
        "'timeline' and 'wal' are both given or both none"
    );
    hold!(
        wal.is_none_or(|w| w.start <= w.stop),
        Fields,
        "the range of log ends before it starts"
    );
    Ok(())
}

fn digest_or_none(digest: Option<Sha256>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string())
}
