//! An embassy's objects as a [`Store`], so that versions are read over the network as they are read from a disk.

use std::ops::Range;

use legation_core::id::Digest;

use super::client::Client;
use super::error::ClientError;
use super::wire::{NamesBody, kind};
use crate::store::{Capabilities, Kind, MAX_LIST, Put, RetainUntil, Store, StoreError};

/// The objects of one state at one embassy. Retention is the embassy's to set, from the mandate.
#[derive(Clone, Debug)]
pub struct RemoteStore(pub Client);

impl Store for RemoteStore {
    fn put(
        &self,
        kind: Kind,
        digest: &Digest,
        bytes: &[u8],
        _retain_until: RetainUntil,
    ) -> Result<Put, StoreError> {
        let known = self
            .0
            .object_size(kind, digest)
            .map_err(|e| store_error(kind, digest, e))?;
        self.0
            .put_object(kind, digest, bytes.to_vec())
            .map_err(|e| store_error(kind, digest, e))?;
        Ok(if known.is_some() {
            Put::Existing
        } else {
            Put::Created
        })
    }

    fn get(&self, kind: Kind, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        let bytes = self
            .0
            .get_object_range(kind, digest, range.start, wanted)
            .map_err(|e| store_error(kind, digest, e))?;
        if bytes.len() as u64 == wanted {
            return Ok(bytes.to_vec());
        }
        let size = self.size(kind, digest)?;
        Err(StoreError::OutOfRange {
            what: format!("{kind} {digest}"),
            start: range.start,
            end: range.end,
            size,
        })
    }

    fn size(&self, kind: Kind, digest: &Digest) -> Result<u64, StoreError> {
        let size = self
            .0
            .object_size(kind, digest)
            .map_err(|e| store_error(kind, digest, e))?;
        size.ok_or_else(|| StoreError::NotFound {
            what: format!("{kind} {digest}"),
        })
    }

    fn list(
        &self,
        kind: Kind,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        let limit = limit.min(MAX_LIST);
        let path = match after {
            Some(after) => format!("object/{kind}?after={after}&limit={limit}"),
            None => format!("object/{kind}?limit={limit}"),
        };
        let body: NamesBody = self
            .0
            .get_json(&path)
            .map_err(|e| other(format!("list {kind} objects"), e))?;
        Ok(body.names)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backing: "embassy",
            durable: true,
            retention_recorded: true,
            retention_enforced: false,
        }
    }
}

fn store_error(object: Kind, digest: &Digest, error: ClientError) -> StoreError {
    let what = format!("{object} {digest}");
    match error.problem().map(|p| (p.kind.as_str(), p.detail.clone())) {
        Some((kind::NOT_FOUND, _)) => StoreError::NotFound { what },
        Some((kind::FULL, _)) => StoreError::Full { what },
        Some((kind::CONFLICT, _)) => StoreError::Conflict { what },
        Some((kind::INCOMPLETE, why)) => StoreError::Damaged { what, why },
        Some((kind::BYTES | kind::ROLE | kind::MANDATE | kind::FENCED, why)) => {
            StoreError::Refused { what, why }
        }
        _ => other(what, error),
    }
}

fn other(what: String, error: ClientError) -> StoreError {
    StoreError::Io {
        what,
        source: std::io::Error::other(error),
    }
}
