//! The log: its entries lead to the root that its key signed, and its tiles are theirs. What it says was kept is
//! collected for the other checks.

use legation_core::id::{Sha256, StateId};
use legation_core::keyring::LOG_KEY;
use legation_core::log::{Checkpoint, LogVerifier, MAX_CHECKPOINT};
use legation_core::statement::{Entry, Keyring, Recipient, Statement};

use super::journals::Marked;
use super::{Finding, Run, Said};
use crate::durable;
use crate::log::inspect::{Seen, inspect};
use crate::state::StateDir;
use crate::store::Kind;

/// Checks the log. A running embassy may move entries from the tail to tiles between two reads, so what looks damaged is
/// looked at a second time before it is reported.
pub(super) fn check(dir: &StateDir, run: &Run<'_>) -> Said {
    let mut once = Once::default();
    once.go(dir);
    if !once.findings.is_empty() {
        once = Once::default();
        once.go(dir);
    }
    for finding in once.findings {
        run.found(finding);
    }
    run.read(once.bytes, |report| report.entries = once.entries);
    once.said
}

#[derive(Default)]
struct Once {
    said: Said,
    findings: Vec<Finding>,
    entries: u64,
    bytes: u64,
    key: Option<(String, LogVerifier)>,
}

impl Once {
    fn found(&mut self, name: &str, why: impl Into<String>) {
        let finding = Finding {
            kind: "log",
            name: name.to_owned(),
            range: None,
            why: why.into(),
        };
        self.findings.push(finding);
    }

    fn go(&mut self, dir: &StateDir) {
        let path = dir.log_path();
        let note = durable::read_bounded(&path.join("checkpoint"), MAX_CHECKPOINT as u64);
        let note = match note {
            Ok(note) => note,
            Err(e) => {
                self.found("checkpoint", e.to_string());
                Vec::new()
            }
        };
        let claims = Checkpoint::claims(&note);
        let head = claims.as_ref().ok().map(|(_, head)| *head);
        let leads = inspect(&path, head, |seen| match seen {
            Seen::Entry(index, bytes) => self.entry(dir, index, bytes),
            Seen::Bytes(bytes) => self.bytes += bytes,
            Seen::Bad(name, why) => self.found(&name, why),
        });
        let origin = match claims {
            Ok((origin, _)) => origin,
            Err(e) => return self.found("checkpoint", e.to_string()),
        };
        let Some((label, key)) = self.key.take() else {
            return self.found("checkpoint", "no mandate in entry 0 names the log's key");
        };
        match Checkpoint::open(&note, &origin, &key) {
            Ok(_) if origin != label => {
                self.found(
                    "checkpoint",
                    format!("it is of {origin}, the mandate names {label}"),
                );
            }
            Ok(checkpoint) if leads => self.said.head = Some(checkpoint.head()),
            Ok(_) => {}
            Err(e) => self.found("checkpoint", e.to_string()),
        }
    }

    fn entry(&mut self, dir: &StateDir, index: u64, bytes: &[u8]) {
        self.entries += 1;
        let parsed = Entry::parse(bytes);
        let entry = match parsed {
            Ok(entry) if entry.index == index => entry,
            Ok(entry) => {
                return self.found(
                    &format!("entry {index}"),
                    format!("it says {}", entry.index),
                );
            }
            Err(e) => return self.found(&format!("entry {index}"), e.to_string()),
        };
        // Statements of kinds that are not known here say nothing that this check could use.
        let Ok(statement) = entry.signed.statement() else {
            return;
        };
        match statement {
            Statement::Mandate(mandate) => {
                self.said.attachments.insert(mandate.keyring, index);
                if index == 0 {
                    let founded = StateId::of_mandate(entry.signed.text().as_bytes());
                    if founded != *dir.state() {
                        self.found("entry 0", format!("its mandate founds {founded}"));
                    }
                    let keys = mandate
                        .embassy
                        .iter()
                        .map(|e| (e.label.to_string(), e.log_key));
                    self.key = log_key(dir, &mandate.keyring, keys.collect());
                }
            }
            Statement::Commit(commit) => {
                self.said
                    .objects
                    .entry((Kind::List, commit.packs.list))
                    .or_insert(index);
            }
            Statement::Epoch(epoch) => {
                self.said
                    .objects
                    .entry((Kind::Slip, epoch.slip))
                    .or_insert(index);
            }
            Statement::Mark(mark) => {
                let (sequence, chain) = (mark.sequence, mark.chain);
                let new = Marked {
                    entry: index,
                    sequence,
                    chain,
                };
                let standing = self
                    .said
                    .marks
                    .entry((mark.registry, mark.stream))
                    .or_insert(new);
                if standing.sequence <= sequence {
                    *standing = new;
                }
            }
            Statement::Session(session) => {
                self.said.attachments.entry(session.key).or_insert(index);
            }
            Statement::Order(order) => {
                if let Recipient::Key(key) = order.recipient {
                    self.said.attachments.entry(key).or_insert(index);
                }
            }
            _ => {}
        }
    }
}

/// The log's origin and key, as the founding mandate names them. This version knows mandates of one embassy.
fn log_key(
    dir: &StateDir,
    keyring: &Sha256,
    embassies: Vec<(String, Sha256)>,
) -> Option<(String, LogVerifier)> {
    let (label, id) = embassies.into_iter().next()?;
    let bytes = dir.attachment(keyring).ok()??;
    let keyring = Keyring::parse(std::str::from_utf8(&bytes).ok()?).ok()?;
    let key = keyring
        .log_key(&id)
        .ok()
        .filter(|key| key.len() == LOG_KEY)?;
    Some((
        format!("{}/{label}", dir.state()),
        LogVerifier::decode(key).ok()?,
    ))
}
