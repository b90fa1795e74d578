//! How far a registry has come on its way to being protected: a function of the log and of the time, nothing else.
//!
//! `enrolled → seeding → shadow → verified → protected`. Each stage has its evidence, by the entries of the log that
//! give it, and says what is lacking for the next. Evidence goes stale: by its age, by a `gap`, by a `doubt`. Whoever
//! relies on a stage can look every entry up.

use std::fmt;

use super::{RegistryState, State};
use crate::id::RegistryId;
use crate::statement::{Report, Tier, Time, Verdict};

/// What marks and receipts take on their way: marks are written every second or so.
const SLACK_MS: u64 = 5_000;
/// A database in which nothing happens has nothing to acknowledge; its agent takes a base each day all the same, unless
/// it is told otherwise. After two days without either, silence is no quiet any more.
const SILENT_MS: u64 = 2 * DAY_MS;
/// A source that is captured whole is not sent again when it did not change, which leaves no entry. After this long
/// nobody can tell a quiet source from a capture that died; a full capture says it.
const QUIET_MS: u64 = 7 * DAY_MS;
const DAY_MS: u64 = 86_400_000;

/// A report on a registry, as an embassy logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofState {
    /// What it says.
    pub report: Report,
    /// Its entry.
    pub index: u64,
    /// When it was logged.
    pub received: Time,
}

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The mandate names it.
    Enrolled,
    /// Something of it is abroad, and nothing that could be started, or not within what was promised.
    Seeding,
    /// A version is abroad, and what came last was as young as was promised.
    Shadow,
    /// A version was opened, started and asked, and found intact.
    Verified,
    /// That was done within the time that was promised, and lately.
    Protected,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Enrolled => "enrolled",
            Stage::Seeding => "seeding",
            Stage::Shadow => "shadow",
            Stage::Verified => "verified",
            Stage::Protected => "protected",
        })
    }
}

/// An entry that speaks for a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// For which stage.
    pub stage: Stage,
    /// Which entry.
    pub entry: u64,
    /// What it says, in words.
    pub what: String,
}

/// Where a registry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The highest stage that the evidence carries.
    pub stage: Stage,
    /// The evidence, lowest stage first.
    pub evidence: Vec<Evidence>,
    /// What is lacking for the next stage, in words; nothing when there is none.
    pub lacks: Option<String>,
}

/// What a tier is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// How old what is acknowledged may be, milliseconds.
    pub rpo_ms: u64,
    /// How long a start may take, milliseconds.
    pub rto_ms: u64,
    /// How long a proof by starting counts, milliseconds: what must be back within the hour is rehearsed every quarter,
    /// what may take days once a year. A proof of twice that age verifies nothing any more.
    pub proof_ms: u64,
}

impl Promise {
    /// Of a tier.
    #[must_use]
    pub fn of(tier: Tier) -> Self {
        let (rpo_s, rto_h, proof_days) = match tier {
            Tier::T0 => (10, 1, 90),
            Tier::T1 => (60, 4, 180),
            Tier::T2 => (900, 24, 365),
            Tier::T3 => (86_400, 72, 365),
        };
        Self {
            rpo_ms: rpo_s * 1000,
            rto_ms: rto_h * 3_600_000,
            proof_ms: proof_days * DAY_MS,
        }
    }
}

impl State {
    /// Where a registry stands at a time.
    #[must_use]
    pub fn standing(&self, id: RegistryId, now: Time) -> Option<Standing> {
        Some(self.registry(id)?.standing(self.registries_since(), now))
    }

    /// The entry since which registries are in the mandate.
    fn registries_since(&self) -> u64 {
        self.logged(&self.mandate_id()).unwrap_or_default()
    }
}

impl RegistryState {
    fn standing(&self, since: u64, now: Time) -> Standing {
        let promise = Promise::of(self.row.tier);
        let mut standing = Standing {
            stage: Stage::Enrolled,
            evidence: vec![Evidence {
                stage: Stage::Enrolled,
                entry: since,
                what: format!(
                    "the mandate names it, {} of class {}",
                    self.row.tier, self.row.class
                ),
            }],
            lacks: None,
        };
        for stage in [
            Stage::Seeding,
            Stage::Shadow,
            Stage::Verified,
            Stage::Protected,
        ] {
            let found = match stage {
                Stage::Enrolled | Stage::Seeding => self.is_seeding(),
                Stage::Shadow => self.is_shadow(promise, now),
                Stage::Verified => self.is_verified(promise, now),
                Stage::Protected => self.is_protected(promise, now),
            };
            match found {
                Ok(found) => {
                    standing.stage = stage;
                    standing
                        .evidence
                        .extend(found.into_iter().map(|(entry, what)| Evidence {
                            stage,
                            entry,
                            what,
                        }));
                }
                Err(lacks) => {
                    standing.lacks = Some(lacks);
                    break;
                }
            }
        }
        standing
    }

    fn is_seeding(&self) -> Found {
        let first = self
            .epochs
            .first()
            .ok_or("its agent has sent nothing yet: legation agent, at home")?;
        Ok(vec![(
            first.index,
            format!("epoch {} was opened", first.epoch),
        )])
    }

    fn is_shadow(&self, promise: Promise, now: Time) -> Found {
        let head = self.head().ok_or("no version of it is complete yet")?;
        let mut found = vec![(head.index, format!("{} is complete", head.commit.version))];
        let age = |at: Time| now.millis().saturating_sub(at.millis());
        // Home is fenced: nothing younger is expected of it.
        if self.writer.is_none() {
            return Ok(found);
        }
        let mark = self.mark.as_ref().filter(|_| head.commit.wal.is_some());
        let (newest, silent) = match mark {
            Some(mark) => (mark.received.max(head.received), SILENT_MS),
            None if head.commit.wal.is_some() => (head.received, SILENT_MS),
            None => (head.received, QUIET_MS),
        };
        let old = age(newest);
        if old > promise.rpo_ms.max(silent) + SLACK_MS {
            return Err(format!(
                "nothing of it came for {}: its agent does not run, the line is down, or a directory did not change; \
                 legation status beside its agent tells, and legation capture NAME --full sends a version",
                ago(old)
            ));
        }
        if let Some(mark) = mark {
            let behind = mark.received.millis().saturating_sub(mark.mark.at.millis());
            if behind > promise.rpo_ms + SLACK_MS {
                return Err(format!(
                    "what came last (entry {}) was {} old when it came, and {} may be lost: legation status beside its \
                     agent says why",
                    mark.index,
                    ago(behind),
                    ago(promise.rpo_ms)
                ));
            }
            found.push((
                mark.index,
                format!(
                    "acknowledged within {} of {}, {} ago",
                    ago(behind),
                    ago(promise.rpo_ms),
                    ago(age(mark.received))
                ),
            ));
        }
        Ok(found)
    }

    /// The newest report, unless something that was logged since takes it back.
    fn proof(&self) -> Result<&ProofState, String> {
        let newest = self.proofs.last().ok_or(
            "no version was ever started abroad: legation order new activate NAME --grant verify, then activate",
        )?;
        match newest.report.verdict {
            Verdict::Intact => {}
            verdict => {
                return Err(format!(
                    "the newest start (entry {}) was {verdict}: order another",
                    newest.index
                ));
            }
        }
        let since = |index: u64| index > newest.index;
        if let Some((index, gap)) = self.gaps.iter().rev().find(|(index, _)| since(*index)) {
            return Err(format!(
                "a gap was logged since it was proven (entry {index}, {}): prove a newer version",
                gap.cause
            ));
        }
        if let Some((index, doubt)) = self.doubts.iter().rev().find(|(index, _)| since(*index)) {
            return Err(format!(
                "a doubt was logged since it was proven (entry {index}, {}): look into it, and prove a newer version",
                doubt.cause
            ));
        }
        Ok(newest)
    }

    fn is_verified(&self, promise: Promise, now: Time) -> Found {
        let proof = self.proof()?;
        let old = now.millis().saturating_sub(proof.received.millis());
        if old > 2 * promise.proof_ms {
            return Err(format!(
                "the newest proof (entry {}) is {} old: order another start",
                proof.index,
                ago(old)
            ));
        }
        let Report {
            version,
            order,
            probes,
            ..
        } = &proof.report;
        let what = format!(
            "{version} was started by order {order}: intact, {} of {} probes",
            probes.passed, probes.asked
        );
        Ok(vec![(proof.index, what)])
    }

    fn is_protected(&self, promise: Promise, now: Time) -> Found {
        let proof = self.proof()?;
        let (old, took) = (
            now.millis().saturating_sub(proof.received.millis()),
            proof.report.rto_ms,
        );
        if took > promise.rto_ms {
            return Err(format!(
                "its start took {}, and may take {}: find out why, and order another",
                ago(took),
                ago(promise.rto_ms)
            ));
        }
        if old > promise.proof_ms {
            return Err(format!(
                "it was last started {} ago, and a proof counts for {}: order another",
                ago(old),
                ago(promise.proof_ms)
            ));
        }
        Ok(vec![(
            proof.index,
            format!(
                "it served after {}, within {}; {} ago",
                ago(took),
                ago(promise.rto_ms),
                ago(old)
            ),
        )])
    }
}

type Found = Result<Vec<(u64, String)>, String>;

fn ago(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / DAY_MS),
    }
}
