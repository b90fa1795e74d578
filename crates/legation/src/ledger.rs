//! A copy of a log, verified and replayed: whose it is, what it came to, and every entry that the mandate did not allow.
//!
//! It needs no network and no key but those in the log's own first entry; who trusts it compares the fingerprint.

use std::path::Path;

use legation_core::attachments::Attachments;
use legation_core::id::{Sha256, StateId};
use legation_core::log::{Checkpoint, LogVerifier};
use legation_core::policy::{Refusal, Rule, State};
use legation_core::replay::replay;
use legation_core::statement::{Entry, Name};
use legation_repo::folded::Folded;
use legation_repo::log::Mirror;

use crate::exit::{Code, Failure};
use crate::watch::Watch;

/// After how many new entries a replay is kept anew: writing it costs about as much as folding these.
const KEEP_EVERY: u64 = 1000;

/// A mirror whose checkpoint is signed by the log's key, and the state that its entries fold to.
pub struct Ledger {
    /// The copy.
    pub mirror: Mirror,
    /// What the log has come to.
    pub state: State,
    /// The label of the embassy whose log it is.
    pub label: Name,
    /// The checkpoint that covers it.
    pub checkpoint: Checkpoint,
    /// Entries that the mandate allowed.
    pub replayed: u64,
    /// Entries that the mandate did not allow, or that are no entries.
    pub bad: Vec<(u64, Refusal)>,
}

/// The attachments of a mirror, for the fold.
pub struct MirrorAttachments<'a>(pub &'a Mirror);

impl Attachments for MirrorAttachments<'_> {
    fn get(&self, digest: &Sha256) -> Option<Vec<u8>> {
        // One that is damaged counts as absent: the statement that names it is then refused, and named.
        self.0.attachment(digest).ok().flatten()
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("state", &self.state.id())
            .field("size", &self.mirror.size())
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens a mirror directory, verifies it against the keys of its founding mandate, and replays it.
    ///
    /// # Errors
    /// Code 10 when there is no log; code 4 when it does not verify; code 8 when its first entry founds no state; code
    /// 130 when it is broken off.
    pub fn open(dir: &Path, watch: &Watch) -> Result<Self, Failure> {
        let mirror = Mirror::open(dir).map_err(|why| Failure::from(why).during(dir.display()))?;
        Self::replay(mirror, watch).map_err(|failure| failure.during(dir.display()))
    }

    /// As [`Ledger::replay`], from what was kept of an earlier replay, if that holds: then only what is new is folded. What
    /// it comes to is kept in turn.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn resume(
        mirror: Mirror,
        recalled: Option<State>,
        folded: &Folded,
        watch: &Watch,
    ) -> Result<Self, Failure> {
        let before = recalled.as_ref().map_or(0, State::size);
        let state = match recalled {
            Some(state) if before <= mirror.size() => go_on(&mirror, state, watch)?,
            _ => None,
        };
        let ledger = match state {
            Some(state) => {
                let replayed = state.size();
                Self::signed(mirror, state, replayed, Vec::new())?
            }
            None => Self::replay(mirror, watch)?,
        };
        if ledger.bad.is_empty() && ledger.mirror.size().abs_diff(before) >= KEEP_EVERY {
            // Without it the next one only takes longer.
            if let Err(why) = folded.keep(&ledger.state) {
                tracing::debug!("{why}");
            }
        }
        Ok(ledger)
    }

    /// Verifies and replays an open mirror.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn replay(mirror: Mirror, watch: &Watch) -> Result<Self, Failure> {
        if mirror.size() == 0 {
            return Err(Failure::new(Code::NoEmbassy, "the log is empty"));
        }
        // Reading stops at the first leaf that cannot be had; what was folded until then is not used.
        watch.total(mirror.size());
        let mut broken = None;
        let leaves = mirror.entries(0).map_while(|leaf| {
            watch.add(1);
            let leaf = watch.go_on().and_then(|()| Ok(leaf?));
            leaf.map_err(|why| broken = Some(why)).ok()
        });
        let report = replay(leaves, &MirrorAttachments(&mirror));
        watch.finish();
        if let Some(why) = broken {
            return Err(why);
        }
        let Some(state) = report.state else {
            let why = report
                .refused
                .first()
                .map_or_else(String::new, |(_, refusal)| refusal.to_string());
            return Err(Failure::new(
                Code::Refused,
                format!("the first entry founds no state: {why}"),
            ));
        };
        let replayed = report.applied + report.repeated;
        Self::signed(mirror, state, replayed, report.refused)
    }

    /// Checks that the log's own key signed what was replayed.
    fn signed(
        mirror: Mirror,
        state: State,
        replayed: u64,
        bad: Vec<(u64, Refusal)>,
    ) -> Result<Self, Failure> {
        // This version keeps a state at one embassy, so its mandate names one.
        let row = state
            .mandate()
            .embassy
            .first()
            .cloned()
            .ok_or_else(|| Failure::new(Code::Refused, "no embassy"))?;
        let key = state
            .keyring()
            .log_key(&row.log_key)
            .map_err(|why| Failure::new(Code::Refused, why))?;
        let key =
            LogVerifier::decode(key).map_err(|why| Failure::new(Code::VerificationFailed, why))?;
        let checkpoint = mirror.verify(&origin(&state.id(), &row.label), &key)?;
        Ok(Self {
            mirror,
            state,
            label: row.label,
            checkpoint,
            replayed,
            bad,
        })
    }

    /// Goes on with a newer copy of the same log: what was folded before is not folded again.
    ///
    /// # Errors
    /// Code 4 when the copy does not verify or is shorter; as [`Ledger::open`] otherwise.
    pub fn follow(&mut self, mirror: Mirror) -> Result<(), Failure> {
        let before = self.mirror.size();
        let row = self
            .state
            .mandate()
            .embassy
            .first()
            .ok_or_else(|| Failure::new(Code::Refused, "no embassy"))?;
        let key = self
            .state
            .keyring()
            .log_key(&row.log_key)
            .map_err(|why| Failure::new(Code::Refused, why))?;
        let key =
            LogVerifier::decode(key).map_err(|why| Failure::new(Code::VerificationFailed, why))?;
        let checkpoint = mirror.verify(&origin(&self.state.id(), &row.label), &key)?;
        if mirror.size() < before || mirror.root_at(before)? != self.mirror.root_at(before)? {
            return Err(Failure::new(
                Code::VerificationFailed,
                format!(
                    "the log of {} entries does not continue the {before} seen before",
                    mirror.size()
                ),
            ));
        }
        for (index, leaf) in (before..).zip(mirror.entries(before)) {
            let leaf = leaf?;
            let refusal = match Entry::parse(&leaf) {
                Ok(entry) => self.state.apply(&entry, &MirrorAttachments(&mirror)).err(),
                Err(why) => {
                    self.state.skip(&leaf);
                    Some(Refusal {
                        rule: Rule::Text,
                        message: why.to_string(),
                    })
                }
            };
            match refusal {
                Some(refusal) => self.bad.push((index, refusal)),
                None => self.replayed += 1,
            }
        }
        (self.mirror, self.checkpoint) = (mirror, checkpoint);
        Ok(())
    }

    /// Refuses a log in which an embassy did what the mandate does not allow.
    ///
    /// # Errors
    /// Code 8, naming the first such entry.
    pub fn clean(&self) -> Result<(), Failure> {
        match self.bad.as_slice() {
            [] => Ok(()),
            [(index, why), ..] => Err(Failure::new(
                Code::Refused,
                format!("{} statement(s) in this log are outside the mandate; the first is entry {index}: {why}", self.bad.len()),
            )
            .hint("keep this copy: it is evidence; `legation log verify` names every one")),
        }
    }
}

/// Folds what a mirror has beyond a kept state. `None` when the two do not belong together, or something is refused: then
/// all of it is replayed, and told.
fn go_on(mirror: &Mirror, mut state: State, watch: &Watch) -> Result<Option<State>, Failure> {
    let from = state.size();
    watch.total(mirror.size() - from);
    for leaf in mirror.entries(from) {
        watch.add(1);
        watch.go_on()?;
        let Ok(entry) = Entry::parse(&leaf?) else {
            return Ok(None);
        };
        if state.apply(&entry, &MirrorAttachments(mirror)).is_err() {
            return Ok(None);
        }
    }
    watch.finish();
    let (head, is) = (mirror.head(), state.head());
    Ok(((head.size, head.root) == (is.size, is.root)).then_some(state))
}

/// The origin of an embassy's log: `<state>/<label>`.
pub fn origin(state: &StateId, label: &Name) -> String {
    format!("{state}/{label}")
}
