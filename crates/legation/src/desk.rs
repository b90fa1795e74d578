//! A person's machine: his configuration, the embassy it names, and a verified copy of its log, brought up to date.
//!
//! What it shows comes from that copy. The embassy is asked only for bytes that the copy names, or for what is outside
//! the log (how far journals are), and that is said to be the embassy's word.

use std::path::{Path, PathBuf};

use legation_core::id::Sha256;
use legation_core::policy::State;
use legation_core::statement::{Entry, Recipient, Statement};
use legation_repo::http::Client;
use legation_repo::log::Mirror;

use crate::charter::Charter;
use crate::config::person::Person;
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};
use crate::ledger::Ledger;
use crate::officers::names::Names;
use crate::watch::Watch;

/// A person at his desk, connected.
pub struct Desk {
    /// His configuration.
    pub person: Person,
    /// The founding of his state.
    pub charter: Charter,
    /// What registries are called.
    pub names: Names,
    /// The embassy.
    pub client: Client,
    /// Its log, as it is now.
    pub ledger: Ledger,
}

impl Desk {
    /// Connects to the state's embassy and brings the copy of its log up to date.
    ///
    /// # Errors
    /// Code 10 when nobody answers; code 4 when the log is shorter than or forked from the copy; code 8 when the copy is
    /// of another state or holds what the mandate does not allow.
    pub fn open(ctx: &Ctx) -> Result<Self, Failure> {
        let person = ctx.person()?;
        let names = Names::of_person(&person)?;
        let (client, charter) = crate::line::of_person(&person)?;
        let ledger = pull(&client, &person, &charter, ctx)?;
        Ok(Self {
            person,
            charter,
            names,
            client,
            ledger,
        })
    }

    /// Brings the copy of the log up to date again.
    ///
    /// # Errors
    /// As [`Desk::open`].
    pub fn refresh(&mut self) -> Result<(), Failure> {
        let copy = copy(&self.client, &self.mirror_path(), self.ledger.mirror.size())?;
        self.ledger.follow(copy)
    }

    /// What the log has come to.
    pub fn state(&self) -> &State {
        &self.ledger.state
    }

    /// Where the copy of the log lies.
    pub fn mirror_path(&self) -> PathBuf {
        mirror_path(&self.person, &self.charter)
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

/// Copies the log of `client` into `dir`, with every attachment that its statements name, and replays it.
///
/// # Errors
/// As [`Desk::open`].
pub fn mirror(client: &Client, dir: &Path, watch: &Watch) -> Result<Ledger, Failure> {
    Ledger::replay(copy(client, dir, 0)?, watch)
}

/// Brings the copy in `dir` up to date; `seen` entries of it are known to have their attachments.
///
/// # Errors
/// As [`Desk::open`].
pub fn copy(client: &Client, dir: &Path, seen: u64) -> Result<Mirror, Failure> {
    // The proof that the checkpoint continues the one seen before, whatever copy is being made.
    client.checkpoint()?;
    std::fs::create_dir_all(dir)
        .map_err(|why| Failure::failed(format!("{}: {why}", dir.display())))?;
    let copy = Mirror::update(dir, &client.log_files(), &client.trust().believed())?;
    for leaf in copy.entries(seen) {
        let Some(digest) = named(&leaf?) else {
            continue;
        };
        if copy.attachment(&digest)?.is_none() {
            match client.get_attachment(&digest) {
                Ok(bytes) => copy.put_attachment(&bytes).map(drop)?,
                // The replay will name the statement whose attachment the embassy does not have.
                Err(why) if why.is_not_found() => {}
                Err(why) => return Err(why.into()),
            }
        }
    }
    Ok(copy)
}

/// The attachment that an entry names: a keyring, a session key, a recipient's key.
fn named(leaf: &[u8]) -> Option<Sha256> {
    match Entry::parse(leaf).ok()?.signed.statement().ok()? {
        Statement::Mandate(mandate) => Some(mandate.keyring),
        Statement::Session(session) => Some(session.key),
        Statement::Order(order) => match order.recipient {
            Recipient::Key(key) => Some(key),
            Recipient::Session => None,
        },
        _ => None,
    }
}

fn pull(client: &Client, person: &Person, charter: &Charter, ctx: &Ctx) -> Result<Ledger, Failure> {
    let watch = ctx.watch("log", "entries");
    let dir = mirror_path(person, charter);
    let folded = Identity::load(&person.identity.file, Role::Client)?.folded(&dir);
    let recalled = folded.recall();
    let copy = copy(client, &dir, recalled.as_ref().map_or(0, State::size))?;
    let ledger = Ledger::resume(copy, recalled, &folded, &watch)?;
    if ledger.state.id() != charter.state {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "embassy {} keeps a log of state {}, not of {}",
                client.label(),
                ledger.state.id(),
                charter.state
            ),
        ));
    }
    Ok(ledger)
}

fn mirror_path(person: &Person, charter: &Charter) -> PathBuf {
    person.trust.join(charter.state.to_string()).join("log")
}
