//! The verbs whose answers are proofs: statements, acknowledgements, checkpoints and the log itself.
//!
//! An answer counts only when it verifies: a receipt by the log's two signatures, the inclusion of the very text that
//! was sent, and the continuation of the checkpoint held before; an acknowledgement by the embassy's own signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use legation_core::id::{RegistryId, Sha256, StateId, StreamId};
use legation_core::log::{Checkpoint, check_inclusion, leaf_hash};
use legation_core::statement::{Ack, Entry, Signed, Signer, Statement};
use reqwest::Method;

use super::client::{Client, octets, text};
use super::error::ClientError;
use super::trust::Trust;
use super::wire::{ConsistencyBody, MAX_STATEMENT, ReceiptBody};
use crate::log::LogSource;
use crate::store::StoreError;

/// Largest file of a log: a bundle of 256 entries of 65,535 bytes.
const MAX_LOG_FILE: usize = 17 << 20;

/// Proof that a statement is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The entry: index, receive time, and the statement as it was logged.
    pub entry: Entry,
    /// The inclusion proof of the entry in the checkpoint's tree.
    pub inclusion: Vec<Sha256>,
    /// The checkpoint that covers it.
    pub checkpoint: Checkpoint,
}

impl Client {
    /// Submits a statement and verifies the receipt. A statement that is in the log already gives its old entry.
    pub fn submit(&self, signed: &Signed) -> Result<Receipt, ClientError> {
        let held = self.trust.held();
        let old = held.as_ref().map_or(0, Checkpoint::size);
        let bytes = Bytes::from(signed.encode());
        if bytes.len() > MAX_STATEMENT {
            return Err(self.protocol("the statement is longer than an embassy takes"));
        }
        let answer = self.exchange(Method::POST, &format!("statement?old={old}"), |r| {
            text(r, &bytes)
        })?;
        let body: ReceiptBody = self.json(answer)?;

        self.trust
            .receipt(signed, held.as_ref(), &body, |old, new| {
                self.consistency(old, new)
            })
    }

    /// Appends whole frames to a journal and verifies the acknowledgement. Frames that were sent before are
    /// acknowledged again; frames that do not continue the stream are refused with its
    /// [position](ClientError::position).
    pub fn append_journal(
        &self,
        registry: RegistryId,
        stream: &StreamId,
        frames: impl Into<Bytes>,
    ) -> Result<Ack, ClientError> {
        self.append_journal_signed(registry, stream, frames)
            .map(|(ack, _)| ack)
    }

    /// As [`Client::append_journal`], with the signed text, for whoever keeps it as a proof.
    pub fn append_journal_signed(
        &self,
        registry: RegistryId,
        stream: &StreamId,
        frames: impl Into<Bytes>,
    ) -> Result<(Ack, Signed), ClientError> {
        let frames: Bytes = frames.into();
        let answer = self.exchange(Method::POST, &format!("journal/{registry}/{stream}"), |r| {
            octets(r, &frames)
        })?;
        let bytes = self.body(answer, MAX_STATEMENT)?;
        self.trust
            .acknowledgement(self.state, registry, stream, &bytes)
    }

    /// The embassy's newest checkpoint, proven to continue the one held before.
    pub fn checkpoint(&self) -> Result<Checkpoint, ClientError> {
        let held = self.trust.held();
        let old = held.as_ref().map_or(0, Checkpoint::size);
        let body: ConsistencyBody = self.get_json(&format!("log/consistency?old={old}"))?;
        let next = self.open_checkpoint(&body.checkpoint)?;
        self.advance(held.as_ref(), next, &body.consistency)
    }

    /// A view of the log's static files, for `legation_repo::log::Mirror`.
    pub fn log_files(&self) -> LogFiles<'_> {
        LogFiles { client: self }
    }

    fn open_checkpoint(&self, note: &str) -> Result<Checkpoint, ClientError> {
        self.trust
            .open(note.as_bytes())
            .map_err(|e| self.unverified(e.to_string()))
    }

    fn advance(
        &self,
        held: Option<&Checkpoint>,
        next: Checkpoint,
        proof: &[Sha256],
    ) -> Result<Checkpoint, ClientError> {
        self.trust
            .advance(held, next, proof, |old, new| self.consistency(old, new))
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Vec<Sha256>, ClientError> {
        let body: ConsistencyBody =
            self.get_json(&format!("log/consistency?old={old}&new={new}"))?;
        Ok(body.consistency)
    }

    fn log_file(&self, path: &str) -> Result<Option<Bytes>, ClientError> {
        match self.exchange(Method::GET, &format!("log/{path}"), |r| r) {
            Err(e) if e.is_not_found() => Ok(None),
            other => self.body(other?, MAX_LOG_FILE).map(Some),
        }
    }
}

impl Trust {
    /// Verifies the answer to a statement: the log's signatures, the inclusion of the very text that was sent, and that
    /// its tree continues the one held when it was sent. Then the pin moves. `prove` fetches the proof from a smaller
    /// to a larger size.
    ///
    /// # Errors
    /// `Protocol`; `Unverified`; `SplitView` when the log does not continue what was seen of it.
    pub fn receipt(
        &self,
        signed: &Signed,
        held: Option<&Checkpoint>,
        body: &ReceiptBody,
        prove: impl FnMut(u64, u64) -> Result<Vec<Sha256>, ClientError>,
    ) -> Result<Receipt, ClientError> {
        let entry = STANDARD
            .decode(&body.entry)
            .map_err(|_| self.protocol("an entry that is not Base64"))?;
        let leaf = leaf_hash(&entry);
        let entry = Entry::parse(&entry).map_err(|e| self.protocol(format!("{e}")))?;
        if entry.signed.text() != signed.text() || entry.index != body.index {
            return Err(self.unverified("the receipt is for another statement"));
        }
        let next = self
            .open(body.checkpoint.as_bytes())
            .map_err(|e| self.unverified(e.to_string()))?;
        check_inclusion(
            &leaf,
            entry.index,
            next.size(),
            &body.inclusion,
            &next.root(),
        )
        .map_err(|e| self.unverified(e.to_string()))?;
        let checkpoint = self.advance(held, next, &body.consistency, prove)?;
        Ok(Receipt {
            entry,
            inclusion: body.inclusion.clone(),
            checkpoint,
        })
    }

    /// Verifies the answer to frames of a stream: signed by the embassy, and about that stream.
    ///
    /// # Errors
    /// `Protocol`; `Unverified`.
    pub fn acknowledgement(
        &self,
        state: StateId,
        registry: RegistryId,
        stream: &StreamId,
        bytes: &[u8],
    ) -> Result<(Ack, Signed), ClientError> {
        let signed = Signed::parse(bytes).map_err(|e| self.protocol(format!("{e}")))?;
        let key = self.signing_key();
        let [signature] = signed.signatures() else {
            return Err(self.unverified("an acknowledgement with more or less than one signature"));
        };
        if signature.signer != Signer::Key(key.id()) {
            return Err(self.unverified("the acknowledgement is not signed by the embassy's key"));
        }
        key.verify(signed.text().as_bytes(), &signature.bytes)
            .map_err(|e| self.unverified(e.to_string()))?;
        let Ok(Statement::Ack(ack)) = signed.statement() else {
            return Err(self.protocol("something else than an acknowledgement"));
        };
        let named = (ack.state, &ack.embassy, ack.registry, ack.stream);
        if named != (state, self.label(), registry, *stream) {
            return Err(self.unverified("the acknowledgement is of another stream"));
        }
        Ok((*ack, signed))
    }

    fn protocol(&self, why: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            label: self.label().to_string(),
            why: why.into(),
        }
    }

    fn unverified(&self, why: impl Into<String>) -> ClientError {
        ClientError::Unverified {
            label: self.label().to_string(),
            why: why.into(),
        }
    }
}

/// The log of one embassy as static files, over the network.
pub struct LogFiles<'a> {
    client: &'a Client,
}

impl LogSource for LogFiles<'_> {
    fn fetch(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.client.log_file(path).map_err(|e| StoreError::Io {
            what: format!("fetch {path}"),
            source: std::io::Error::other(e),
        })?;
        Ok(found.map(|bytes| bytes.to_vec()))
    }
}
