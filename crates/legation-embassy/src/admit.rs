//! The facts outside the log that a statement depends on: are the objects here that it names, whole, and its own?
//!
//! They are gathered before the statement is queued, because reading takes time and the facts cannot change back:
//! objects are written once and nothing deletes them. What the log itself says is the fold's, in `sequence`.

use std::collections::HashSet;

use legation_core::id::Digest;
use legation_core::list::{ListRow, PackList};
use legation_core::pack::{PACK_HEADER, PackHeader};
use legation_core::policy::{Admission, State};
use legation_core::slip;
use legation_core::statement::{Commit, Epoch, Signed, Statement};
use legation_repo::store::{Kind, StoreError};

use crate::hosted::Site;
use crate::http::Refused;
use crate::journal::Journals;
use crate::keep::{self, Keep};
use crate::sequence;

/// Checks what `signed` refers to outside the log. Reads; blocking.
pub fn facts(site: &Site, journals: &Journals, signed: &Signed) -> Result<(), Refused> {
    let statement = signed
        .statement()
        .map_err(|e| Refused::malformed(format!("this is no statement: {e}")))?;
    if !matches!(
        statement,
        Statement::Epoch(_) | Statement::Commit(_) | Statement::Mark(_)
    ) || sequence::admission_is_off()
    {
        return Ok(());
    }
    // Asked here as well so that nobody makes the embassy read packs for a statement that is refused anyway.
    let fold = site.fold();
    let received = site.now().max(fold.last_received());
    match fold.check(signed, received, &site.keep) {
        Ok(Admission::Replay { .. }) => return Ok(()),
        Ok(Admission::New) => {}
        Err(refusal) => return Err(sequence::refused(&refusal)),
    }
    match statement {
        Statement::Epoch(epoch) => slip_of(&site.keep, &epoch),
        Statement::Commit(commit) => {
            // One reader a registry: a client that gave up and came again does not make the disk read twice.
            let _turn = site.keep.turn(commit.registry).ok_or_else(Refused::busy)?;
            packs_of(&site.keep, &fold, &commit)
        }
        // A journal only grows, and a mark of what it does not hold would be damage for ever.
        Statement::Mark(mark) => journals.bears_out(&mark),
        _ => Ok(()),
    }
}

/// Whether a slip may be kept, by the fold: what is sealed to a spent generation is refused before it lies here.
pub fn slip(site: &Site, kind: Kind, digest: &Digest, bytes: &[u8]) -> Result<(), Refused> {
    if kind != Kind::Slip || sequence::admission_is_off() {
        return Ok(());
    }
    let header =
        slip::header(bytes).map_err(|e| Refused::bytes(format!("this is no {kind}: {e}")))?;
    if header.state != *site.keep.dir().state() {
        return Err(Refused::bytes(format!("this {kind} is of another state")));
    }
    let checked = site.fold().check_slip(&header, digest);
    checked.map_err(|refusal| sequence::refused(&refusal))
}

/// The slip of a new epoch is here and is that epoch's.
fn slip_of(keep: &Keep, epoch: &Epoch) -> Result<(), Refused> {
    let bytes = whole(keep, Kind::Slip, &epoch.slip)?;
    let header = slip::header(&bytes)
        .map_err(|e| Refused::incomplete(format!("slip {}: {e}", epoch.slip)))?;
    let named = (epoch.state, epoch.registry, epoch.epoch, epoch.generation);
    if (
        header.state,
        header.registry,
        header.epoch,
        header.generation,
    ) != named
    {
        return Err(Refused::incomplete(format!(
            "slip {} is of another registry, epoch or generation",
            epoch.slip
        )));
    }
    Ok(())
}

/// Every pack of a commit is here. Those that the version before it had were read whole then, the others since they came.
fn packs_of(keep: &Keep, fold: &State, commit: &Commit) -> Result<(), Refused> {
    let list = list_of(keep, &commit.packs.list)?;
    let bad = |why: String| Refused::incomplete(format!("pack list {}: {why}", commit.packs.list));
    if (list.state, list.registry) != (commit.state, commit.registry) {
        return Err(bad("it is of another state or registry".into()));
    }
    if list.rows().len() as u64 != commit.packs.count || list.bytes() != commit.bytes {
        return Err(bad(
            "it has another number of packs or bytes than the commit says".into(),
        ));
    }
    if list
        .epochs()
        .into_iter()
        .any(|epoch| !commit.epochs.contains(epoch))
    {
        return Err(bad("it needs an epoch that the commit does not name".into()));
    }
    if list.find(commit.root.epoch, commit.root.seq).is_none() {
        return Err(bad("the pack that holds the root is not in it".into()));
    }
    let parent = fold.registry(commit.registry).and_then(|r| r.head());
    let before: HashSet<ListRow> = match parent {
        Some(parent) => list_of(keep, &parent.commit.packs.list)?
            .rows()
            .iter()
            .copied()
            .collect(),
        None => HashSet::new(),
    };
    for row in list.rows() {
        if before.contains(row) {
            there(keep, row)?;
        } else {
            its_own(keep, commit, row)?;
        }
    }
    Ok(())
}

fn list_of(keep: &Keep, digest: &Digest) -> Result<PackList, Refused> {
    let bytes = whole(keep, Kind::List, digest)?;
    PackList::decode(&bytes).map_err(|e| Refused::incomplete(format!("pack list {digest}: {e}")))
}

/// A pack that was whole when it was last read, in its size: checks of the whole store watch over it since.
fn there(keep: &Keep, row: &ListRow) -> Result<(), Refused> {
    let size = keep
        .store()
        .size(Kind::Pack, &row.digest)
        .map_err(|e| missing(Kind::Pack, &row.digest, e))?;
    if size == row.size.bytes() as u64 {
        return Ok(());
    }
    Err(Refused::incomplete(format!(
        "pack {} has {size} bytes here, not those that it had",
        row.digest
    )))
}

/// A pack that no earlier version has: whole, and of the state, registry, epoch and number that the list says. One that
/// this process has seen whole, when it came or at an earlier try, is not read again but for its header.
fn its_own(keep: &Keep, commit: &Commit, row: &ListRow) -> Result<(), Refused> {
    let bytes = if keep.seen_whole(&row.digest) {
        there(keep, row)?;
        keep.store()
            .get(Kind::Pack, &row.digest, 0..PACK_HEADER as u64)
            .map_err(|e| missing(Kind::Pack, &row.digest, e))?
    } else {
        let bytes = whole(keep, Kind::Pack, &row.digest)?;
        keep.saw_whole(&row.digest);
        bytes
    };
    let size = if bytes.len() == PACK_HEADER {
        row.size.bytes()
    } else {
        bytes.len()
    };
    let header = PackHeader::parse(&bytes)
        .map_err(|e| Refused::incomplete(format!("pack {}: {e}", row.digest)))?;
    let named = (commit.state, commit.registry, row.epoch, row.seq);
    if (header.state, header.registry, header.epoch, header.seq) != named
        || size != row.size.bytes()
    {
        return Err(Refused::incomplete(format!(
            "pack {} is of another state, registry, epoch or number than the list says",
            row.digest
        )));
    }
    Ok(())
}

fn whole(keep: &Keep, kind: Kind, digest: &Digest) -> Result<Vec<u8>, Refused> {
    keep.store()
        .get_whole(kind, digest)
        .map_err(|e| missing(kind, digest, e))
}

fn missing(kind: Kind, digest: &Digest, error: StoreError) -> Refused {
    match error {
        StoreError::NotFound { .. } => Refused::incomplete(format!(
            "{kind} {digest} is not here: put it first, then submit the statement again"
        )),
        StoreError::Damaged { .. } => {
            tracing::error!(%kind, %digest, "damaged");
            Refused::incomplete(format!(
                "{kind} {digest} is damaged at this embassy: the version cannot be kept"
            ))
        }
        other => keep::refused(other),
    }
}
