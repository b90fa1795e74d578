//! What a client believes an embassy by: its keys from the mandate, and the last checkpoint that it signed.
//!
//! The pin only ever moves forward, along proofs. A tree that is smaller, or that does not continue the one held, is
//! refused; then both signed notes are kept as files beside the pin, because together they convict the log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use legation_core::id::{Sha256, StateId};
use legation_core::keys::VerifyingKey;
use legation_core::log::{Checkpoint, LogError, LogVerifier, MAX_CHECKPOINT};
use legation_core::statement::{Keyring, Mandate, Name};

use super::error::{ClientError, SplitView};
use crate::durable;
use crate::log::Believed;

/// The keys of one embassy, and the newest checkpoint seen of it. Clones share the pin.
#[derive(Clone, Debug)]
pub struct Trust {
    keys: Arc<Keys>,
    held: Arc<Mutex<Option<Checkpoint>>>,
}

#[derive(Debug)]
struct Keys {
    label: Name,
    origin: String,
    log: LogVerifier,
    signing: VerifyingKey,
    pin: Option<PathBuf>,
}

impl Trust {
    /// Trusts the keys that a mandate and its keyring give to the embassy `label`. Nothing is pinned yet.
    pub fn of_mandate(
        state: StateId,
        mandate: &Mandate,
        keyring: &Keyring,
        label: &str,
    ) -> Result<Self, ClientError> {
        let bad = |why: String| {
            ClientError::Trust(format!("the mandate's keys of embassy {label}: {why}"))
        };
        let row = mandate
            .embassy
            .iter()
            .find(|row| row.label.as_str() == label)
            .ok_or_else(|| ClientError::Trust(format!("the mandate names no embassy {label}")))?;
        let log = keyring
            .log_key(&row.log_key)
            .map_err(|e| bad(e.to_string()))?;
        let log = LogVerifier::decode(log).map_err(|e| bad(e.to_string()))?;
        let signing = keyring
            .verifying_key(&row.key)
            .map_err(|e| bad(e.to_string()))?;
        let keys = Keys {
            label: row.label.clone(),
            origin: origin(&state, label),
            log,
            signing,
            pin: None,
        };
        Ok(Self {
            keys: Arc::new(keys),
            held: Arc::default(),
        })
    }

    /// Keeps the pin in the file `pin`, and begins from what it holds.
    ///
    /// # Errors
    /// `Local` when the file cannot be read; `Trust` when it is not a checkpoint of this log signed by its key.
    pub fn pinned_in(self, pin: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let pin = pin.into();
        let trouble = |why: String| {
            ClientError::Trust(format!(
                "the pinned checkpoint {} cannot be used: {why}",
                pin.display()
            ))
        };
        let held = match durable::read_bounded(&pin, MAX_CHECKPOINT as u64) {
            Ok(note) => Some(self.open(&note).map_err(|e| trouble(e.to_string()))?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(trouble(e.to_string()));
            }
            Err(e) => {
                let why = format!("cannot read {}: {e}", pin.display());
                return Err(ClientError::Local(why));
            }
        };
        let Keys {
            label,
            origin,
            log,
            signing,
            ..
        } = &*self.keys;
        let (label, origin, log, signing) =
            (label.clone(), origin.clone(), log.clone(), signing.clone());
        let keys = Keys {
            label,
            origin,
            log,
            signing,
            pin: Some(pin),
        };
        Ok(Self {
            keys: Arc::new(keys),
            held: Arc::new(Mutex::new(held)),
        })
    }

    /// The embassy's label.
    pub fn label(&self) -> &Name {
        &self.keys.label
    }

    /// The log's name: state and label.
    pub fn origin(&self) -> &str {
        &self.keys.origin
    }

    /// The log's key.
    pub fn log_key(&self) -> &LogVerifier {
        &self.keys.log
    }

    /// The key of the embassy's own statements and acknowledgements.
    pub fn signing_key(&self) -> &VerifyingKey {
        &self.keys.signing
    }

    /// The newest checkpoint that is believed.
    pub fn held(&self) -> Option<Checkpoint> {
        self.lock().clone()
    }

    /// What a copy of the log must agree with: its name, its key, and the newest checkpoint that is believed.
    pub fn believed(&self) -> Believed {
        Believed {
            origin: self.keys.origin.clone(),
            key: self.keys.log.clone(),
            seen: self.held(),
        }
    }

    /// Reads a note as a checkpoint of this log, both signatures verified.
    pub fn open(&self, note: &[u8]) -> Result<Checkpoint, LogError> {
        Checkpoint::open(note, &self.keys.origin, &self.keys.log)
    }

    /// Takes `next`, proven to continue `from` (the checkpoint held when the question was asked). When the pin has
    /// moved in the meantime, `next` is compared with it by `prove`, which fetches the proof from a smaller to a
    /// larger size.
    pub(super) fn advance(
        &self,
        from: Option<&Checkpoint>,
        next: Checkpoint,
        proof: &[Sha256],
        mut prove: impl FnMut(u64, u64) -> Result<Vec<Sha256>, ClientError>,
    ) -> Result<Checkpoint, ClientError> {
        if let Some(from) = from {
            self.continues(from, &next, proof)?;
        }
        let mut known = from.cloned();
        loop {
            let moved = {
                let mut held = self.lock();
                match &*held {
                    Some(now) if Some(now) != known.as_ref() => now.clone(),
                    // Nothing moved: what was proven against is what is held.
                    now => {
                        if now.as_ref().is_none_or(|now| now.size() < next.size()) {
                            self.keep(&next)?;
                            *held = Some(next.clone());
                        }
                        return Ok(next);
                    }
                }
            };
            if moved.size() <= next.size() {
                let proof = prove(moved.size(), next.size())?;
                self.continues(&moved, &next, &proof)?;
            } else {
                let proof = prove(next.size(), moved.size())?;
                self.continues(&next, &moved, &proof)?;
                return Ok(next);
            }
            known = Some(moved);
        }
    }

    fn continues(
        &self,
        held: &Checkpoint,
        next: &Checkpoint,
        proof: &[Sha256],
    ) -> Result<(), ClientError> {
        let Err(error) = held.head().advance(&next.head(), proof) else {
            return Ok(());
        };
        let mut view = SplitView {
            held: held.note().to_owned(),
            offered: next.note().to_owned(),
            why: error.to_string(),
        };
        // The two halves are in the error as well: that they cannot be kept here does not make them untrue.
        if let Err(local) = self.keep_evidence(&view) {
            view.why = format!("{} ({local})", view.why);
        }
        Err(ClientError::SplitView {
            label: self.keys.label.to_string(),
            view: Box::new(view),
        })
    }

    fn keep(&self, checkpoint: &Checkpoint) -> Result<(), ClientError> {
        let Some(pin) = &self.keys.pin else {
            return Ok(());
        };
        write(pin, checkpoint.note())
    }

    fn keep_evidence(&self, view: &SplitView) -> Result<(), ClientError> {
        let Some(pin) = &self.keys.pin else {
            return Ok(());
        };
        let name = pin
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mark = Sha256::of_parts(&[view.held.as_bytes(), view.offered.as_bytes()]).short();
        write(
            &pin.with_file_name(format!("{name}.evidence-{mark}-held")),
            &view.held,
        )?;
        write(
            &pin.with_file_name(format!("{name}.evidence-{mark}-offered")),
            &view.offered,
        )
    }

    fn lock(&self) -> MutexGuard<'_, Option<Checkpoint>> {
        // The value is replaced whole, so a panicked holder leaves it sound.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the log that the embassy `label` keeps for `state`.
pub fn origin(state: &StateId, label: &str) -> String {
    format!("{state}/{label}")
}

fn write(path: &Path, text: &str) -> Result<(), ClientError> {
    let made = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => durable::create_dir(dir),
        _ => Ok(()),
    };
    made.and_then(|()| durable::write_atomic(path, text.as_bytes()))
        .map_err(|e| {
            ClientError::Local(format!(
                "cannot write {}: {e}; make room there or give this program the right to write",
                path.display()
            ))
        })
}
