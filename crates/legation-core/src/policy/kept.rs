//! The fold's state as bytes, so that whoever folded a log goes on where he stopped instead of folding it anew.
//!
//! Such bytes are a convenience of one machine and no evidence: a key of that machine's own authenticates them, and they
//! count only for the very fold that made them. In any doubt there is no state, and the log is folded from its first
//! entry. An auditor always does that.

use super::heads::Heads;
use super::{
    Closed, EpochState, FenceState, MarkState, OrderState, ProofState, RegistryState, State,
    UnchangedState, VersionState,
};
use crate::codec::{Put, Reader};
use crate::error::FormatError;
use crate::id::{
    Digest, EpochNo, Generation, Lsn, RegistryId, Sha256, StateId, StreamId, Term, Timeline,
    VersionNo,
};
use crate::keys::VerifyingKey;
use crate::statement::{
    Commit, Doubt, EpochSet, Fence, Gap, Keyring, Mandate, Mark, Name, Order, RegistryRow, Report,
    SealCause, Session, Step, Time, Unchanged,
};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

const MAGIC: &[u8; 8] = b"LGNFOLD\x01";
const WHAT: &str = "kept fold";
/// Bytes of the authentication at the end.
const MAC: usize = 32;

/// What decides what a log comes to. A build in which any of it differs folds anew.
const SOURCES: [&str; 23] = [
    include_str!("mod.rs"),
    include_str!("embassy.rs"),
    include_str!("heads.rs"),
    include_str!("kept.rs"),
    include_str!("query.rs"),
    include_str!("quorum.rs"),
    include_str!("refusal.rs"),
    include_str!("scope.rs"),
    include_str!("stage.rs"),
    include_str!("state.rs"),
    include_str!("writer.rs"),
    include_str!("../mandate.rs"),
    include_str!("../order.rs"),
    include_str!("../keyring.rs"),
    include_str!("../replay.rs"),
    include_str!("../statement/entry.rs"),
    include_str!("../statement/field.rs"),
    include_str!("../statement/kinds.rs"),
    include_str!("../statement/row.rs"),
    include_str!("../statement/signed.rs"),
    include_str!("../statement/text.rs"),
    include_str!("../statement/value.rs"),
    include_str!("../statement/word.rs"),
];

/// The key for [`State::keep`] that comes of a machine's own secret.
#[must_use]
pub fn keep_key(secret: &[u8]) -> [u8; 32] {
    blake3::derive_key("legation/v1/kept fold", secret)
}

/// The digest of the rules: bytes that were kept under others are not read.
fn rules() -> Sha256 {
    let parts = SOURCES.map(str::as_bytes);
    Sha256::of_parts(&parts)
}

impl State {
    /// The state as bytes that [`State::recall`] reads under the same key.
    #[must_use]
    pub fn keep(&self, key: &[u8; 32]) -> Vec<u8> {
        let Self {
            id,
            mandate,
            mandate_id: _,
            keyring,
            keys: _,
            registries,
            orders,
            spent,
            session_keys,
            logged,
            heads,
            last_received,
        } = self;
        let mut out = Vec::new();
        out.put(MAGIC).put(&rules().0).put(&id.0);
        text(&mut out, &mandate.text());
        text(&mut out, &keyring.text());
        out.put_u64(last_received.millis());
        list(&mut out, registries, |out, (id, registry)| {
            text(out, &id.to_string());
            put_registry(out, registry);
        });
        list(&mut out, orders.values(), put_order);
        list(&mut out, spent, |out, one| _ = out.put_u32(one.0));
        list(&mut out, session_keys, |out, one| _ = out.put(&one.0));
        list(&mut out, logged, |out, (id, index)| {
            _ = out.put(&id.0).put_u64(*index)
        });
        heads.put(&mut out);
        let mac = blake3::keyed_hash(key, &out);
        out.put(mac.as_bytes());
        out
    }

    /// A state that [`State::keep`] wrote under this key and these rules.
    ///
    /// # Errors
    /// `Malformed` for anything else: then fold the log.
    pub fn recall(bytes: &[u8], key: &[u8; 32]) -> Result<Self, FormatError> {
        let bad = |why| FormatError::malformed(WHAT, why);
        let split = bytes
            .len()
            .checked_sub(MAC)
            .ok_or(bad("it ends too early"))?;
        let (body, mac) = bytes.split_at(split);
        // Compared in constant time by the type.
        if blake3::keyed_hash(key, body).as_bytes() != mac {
            return Err(bad("it was not written here, or is damaged"));
        }
        let mut from = Reader::new(WHAT, body);
        from.magic(MAGIC)?;
        if from.array()? != rules().0 {
            return Err(bad("it was kept under other rules"));
        }
        let id = StateId(from.array()?);
        let (mandate_text, keyring) = (take_text(&mut from)?, take_text(&mut from)?);
        let mandate = Mandate::parse(mandate_text).map_err(|_| bad("no mandate"))?;
        let keyring = Keyring::parse(keyring).map_err(|_| bad("no keyring"))?;
        let last_received = time(&mut from)?;
        let rows: BTreeMap<RegistryId, RegistryRow> = mandate
            .registry
            .iter()
            .map(|row| (row.id, row.clone()))
            .collect();
        let registries = take_list(&mut from, |from| {
            let id: RegistryId = word(from)?;
            let row = rows
                .get(&id)
                .cloned()
                .ok_or(bad("a registry of no mandate"))?;
            Ok((id, take_registry(from, row)?))
        })?;
        let orders: Vec<OrderState> = take_list(&mut from, take_order)?;
        let spent = take_list(&mut from, |from| Ok(Generation(from.u32()?)))?;
        let session_keys = take_list(&mut from, |from| Ok(Sha256(from.array()?)))?;
        let logged = take_list(&mut from, |from| Ok((Sha256(from.array()?), from.u64()?)))?;
        let heads = Heads::take(&mut from)?;
        from.finish()?;
        let mut keys: BTreeMap<Sha256, VerifyingKey> = BTreeMap::new();
        let writers = mandate.writer.iter().map(|w| w.key);
        for key in writers.chain(mandate.embassy.iter().map(|e| e.key)) {
            let verifying = keyring.verifying_key(&key);
            keys.insert(key, verifying.map_err(|_| bad("a key is missing"))?);
        }
        Ok(Self {
            id,
            mandate_id: Sha256::of(mandate_text.as_bytes()),
            mandate,
            keyring,
            keys,
            registries,
            orders: orders
                .into_iter()
                .map(|o| (o.order.order.clone(), o))
                .collect(),
            spent,
            session_keys,
            logged,
            heads,
            last_received,
        })
    }
}

fn put_registry(out: &mut Vec<u8>, registry: &RegistryState) {
    let RegistryState {
        row: _,
        term,
        writer,
        epochs,
        versions,
        mark,
        unchanged,
        fences,
        gaps,
        doubts,
        proofs,
        streams,
    } = registry;
    out.put_u32(term.0);
    text(out, writer.as_ref().map_or("", Name::as_str));
    list(out, epochs, |out, one| {
        let EpochState {
            epoch,
            term,
            generation,
            slip,
            index,
            received,
            closed,
        } = one;
        out.put_u32(epoch.0).put_u32(term.0).put_u32(generation.0);
        out.put(&slip.0);
        at(out, *index, *received);
        list(out, closed, |out, one| {
            let Closed {
                index,
                timeline,
                lsn,
                at: time,
            } = one;
            out.put_u32(timeline.0).put_u64(lsn.0);
            at(out, *index, *time);
        });
    });
    list(out, versions, |out, one| {
        let VersionState {
            id,
            commit,
            index,
            received,
        } = one;
        said(out, &commit.text(), *id, *index, *received);
    });
    list(out, mark, |out, one| {
        let MarkState {
            id,
            mark,
            index,
            received,
        } = one;
        said(out, &mark.text(), *id, *index, *received);
    });
    list(out, unchanged, |out, one| {
        let UnchangedState {
            id,
            unchanged,
            index,
            received,
        } = one;
        said(out, &unchanged.text(), *id, *index, *received);
    });
    list(out, fences, |out, one| {
        let FenceState {
            fence,
            index,
            received,
        } = one;
        text(out, &fence.text());
        at(out, *index, *received);
    });
    list(out, gaps, |out, (index, gap)| {
        out.put_u64(*index);
        text(out, &gap.text());
    });
    list(out, doubts, |out, (index, doubt)| {
        out.put_u64(*index);
        text(out, &doubt.text());
    });
    list(out, proofs, |out, one| {
        let ProofState {
            report,
            index,
            received,
        } = one;
        text(out, &report.text());
        at(out, *index, *received);
    });
    list(out, streams, |out, one| _ = out.put(&one.0));
}

fn take_registry(from: &mut Reader<'_>, row: RegistryRow) -> Result<RegistryState, FormatError> {
    let term = Term(from.u32()?);
    let writer = match take_text(from)? {
        "" => None,
        name => Some(parsed(name)?),
    };
    Ok(RegistryState {
        row,
        term,
        writer,
        epochs: take_list(from, |from| {
            Ok(EpochState {
                epoch: EpochNo(from.u32()?),
                term: Term(from.u32()?),
                generation: Generation(from.u32()?),
                slip: Digest(from.array()?),
                index: from.u64()?,
                received: time(from)?,
                closed: take_list::<_, Vec<_>>(from, |from| {
                    let (timeline, lsn) = (Timeline(from.u32()?), Lsn(from.u64()?));
                    Ok(Closed {
                        timeline,
                        lsn,
                        index: from.u64()?,
                        at: time(from)?,
                    })
                })?
                .pop(),
            })
        })?,
        versions: take_list(from, |from| {
            let (commit, id, index, received) = take_said(from, Commit::parse)?;
            Ok(VersionState {
                id,
                commit,
                index,
                received,
            })
        })?,
        mark: take_list::<_, Vec<_>>(from, |from| {
            let (mark, id, index, received) = take_said(from, Mark::parse)?;
            Ok(MarkState {
                id,
                mark,
                index,
                received,
            })
        })?
        .pop(),
        unchanged: take_list::<_, Vec<_>>(from, |from| {
            let (unchanged, id, index, received) = take_said(from, Unchanged::parse)?;
            Ok(UnchangedState {
                id,
                unchanged,
                index,
                received,
            })
        })?
        .pop(),
        fences: take_list(from, |from| {
            Ok(FenceState {
                fence: statement(from, Fence::parse)?,
                index: from.u64()?,
                received: time(from)?,
            })
        })?,
        gaps: take_list(from, |from| Ok((from.u64()?, statement(from, Gap::parse)?)))?,
        doubts: take_list(from, |from| {
            Ok((from.u64()?, statement(from, Doubt::parse)?))
        })?,
        proofs: take_list(from, |from| {
            Ok(ProofState {
                report: statement(from, Report::parse)?,
                index: from.u64()?,
                received: time(from)?,
            })
        })?,
        streams: take_list(from, |from| Ok(StreamId(from.array()?)))?,
    })
}

fn put_order(out: &mut Vec<u8>, state: &OrderState) {
    let OrderState {
        order,
        id,
        index,
        received,
        approvals,
        versions,
        session,
        fenced,
        opened,
        steps,
        reports,
        sealed,
    } = state;
    said(out, &order.text(), *id, *index, *received);
    list(out, approvals, |out, one| text(out, one.as_str()));
    list(out, versions, |out, (registry, version)| {
        text(out, &registry.to_string());
        out.put_u32(version.0);
    });
    list(out, session, |out, one| text(out, &one.text()));
    list(out, fenced, |out, one| text(out, &one.to_string()));
    list(out, opened, |out, (registry, sets)| {
        text(out, &registry.to_string());
        list(out, sets, |out, set| text(out, &set.to_string()));
    });
    list(out, steps, |out, one| text(out, &one.text()));
    list(out, reports, |out, one| text(out, &one.text()));
    list(out, sealed, |out, one| text(out, &one.to_string()));
}

fn take_order(from: &mut Reader<'_>) -> Result<OrderState, FormatError> {
    let (order, id, index, received) = take_said(from, Order::parse)?;
    Ok(OrderState {
        order,
        id,
        index,
        received,
        approvals: take_list(from, word)?,
        versions: take_list(from, |from| Ok((word(from)?, VersionNo(from.u32()?))))?,
        session: take_list::<_, Vec<_>>(from, |from| statement(from, Session::parse))?.pop(),
        fenced: take_list::<RegistryId, BTreeSet<_>>(from, word)?,
        opened: take_list(from, |from| {
            Ok((word(from)?, take_list(from, word::<EpochSet>)?))
        })?,
        steps: take_list(from, |from| statement(from, Step::parse))?,
        reports: take_list(from, |from| statement(from, Report::parse))?,
        sealed: take_list::<SealCause, Vec<_>>(from, word)?.pop(),
    })
}

fn text(out: &mut Vec<u8>, text: &str) {
    // Every text of a log is far shorter; a longer one would not read back, and the log is folded.
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put(text.as_bytes());
}

fn at(out: &mut Vec<u8>, index: u64, received: Time) {
    out.put_u64(index).put_u64(received.millis());
}

fn said(out: &mut Vec<u8>, statement: &str, id: Sha256, index: u64, received: Time) {
    text(out, statement);
    out.put(&id.0);
    at(out, index, received);
}

fn list<T>(
    out: &mut Vec<u8>,
    all: impl IntoIterator<Item = T, IntoIter: Clone>,
    put: impl Fn(&mut Vec<u8>, T),
) {
    let all = all.into_iter();
    out.put_u64(all.clone().count() as u64);
    for one in all {
        put(out, one);
    }
}

fn take_text<'a>(from: &mut Reader<'a>) -> Result<&'a str, FormatError> {
    let length = from.u32()?;
    let bytes = from.bytes(usize::try_from(length).unwrap_or(usize::MAX))?;
    std::str::from_utf8(bytes).map_err(|_| from.malformed("no text"))
}

fn parsed<T: FromStr>(text: &str) -> Result<T, FormatError> {
    let bad = |_| FormatError::malformed(WHAT, "a word is not spelled as it is written");
    text.parse().map_err(bad)
}

fn word<T: FromStr>(from: &mut Reader<'_>) -> Result<T, FormatError> {
    parsed(take_text(from)?)
}

fn time(from: &mut Reader<'_>) -> Result<Time, FormatError> {
    let at = from.u64()?;
    Time::from_millis(at).ok_or_else(|| from.malformed("a time that cannot be"))
}

fn statement<T, E>(
    from: &mut Reader<'_>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, FormatError> {
    let text = take_text(from)?;
    parse(text).map_err(|_| from.malformed("no statement"))
}

fn take_said<T, E>(
    from: &mut Reader<'_>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<(T, Sha256, u64, Time), FormatError> {
    let statement = statement(from, parse)?;
    Ok((statement, Sha256(from.array()?), from.u64()?, time(from)?))
}

/// Nothing is allocated by a length that was read: a list grows by what is there.
fn take_list<'a, T, L: Default + Extend<T>>(
    from: &mut Reader<'a>,
    mut take: impl FnMut(&mut Reader<'a>) -> Result<T, FormatError>,
) -> Result<L, FormatError> {
    let mut all = L::default();
    for _ in 0..from.u64()? {
        all.extend([take(from)?]);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
