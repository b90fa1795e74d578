//! Reaching an embassy: keys from the mandate, the address from the locators, the pinned checkpoint from this disk.

use std::path::Path;
use std::time::Duration;

use legation_repo::folded::Folded;
use legation_repo::http::{Client, ClientError, ClientOptions};
use legation_repo::log::Mirror;

use crate::charter::Charter;
use crate::config::locators::Locators;
use crate::config::person::Person;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};
use crate::ledger::Ledger;
use crate::watch::Watch;

/// How long an agent's or person's connection attempt may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one answer may take: a pack over a slow line.
const ANSWER: Duration = Duration::from_secs(60);

/// A client of the embassy `label`, which is believed by the mandate's keys and by the checkpoint kept at `pin`.
///
/// # Errors
/// Code 10 when no address is known, 8 when the mandate does not name it, 4 when the pin does not verify.
pub fn client(
    charter: &Charter,
    identity: &Identity,
    locators: &Locators,
    label: &str,
    pin: &Path,
    attempts: u32,
) -> Result<Client, Failure> {
    let address = locators.of(label)?.reveal();
    let tls = identity.tls_identity(&charter.state.to_string())?;
    let mut options = ClientOptions::of_mandate(
        charter.state,
        &charter.mandate,
        &charter.keyring,
        label,
        address,
        tls,
    )?;
    options.trust = options.trust.pinned_in(pin)?;
    options.connect_timeout = CONNECT;
    options.timeout = ANSWER;
    options.attempts = attempts;
    Ok(Client::new(options)?)
}

/// A person's client of the one embassy that the mandate names, and the charter it was made from.
///
/// # Errors
/// As [`client`]; code 2 for missing files.
pub fn of_person(person: &Person) -> Result<(Client, Charter), Failure> {
    let charter = Charter::load_of(&person.mandate, &person.state)?;
    let identity = Identity::load(&person.identity.file, Role::Client)?;
    let locators = Locators::load(&person.locators)?;
    let row = charter.mandate.embassy.first();
    let label = row
        .ok_or_else(|| Failure::new(Code::Refused, "the mandate names no embassy"))?
        .label
        .to_string();
    let pin = person.trust.join(format!("{label}.checkpoint"));
    let client = client(&charter, &identity, &locators, &label, &pin, 3)?;
    Ok((client, charter))
}

/// The embassy's whole log, copied to `dir`, verified against the pinned checkpoint, and replayed, from where it was
/// `folded` to before.
///
/// # Errors
/// Code 4 when it does not verify; code 10 when the embassy does not answer.
pub fn ledger(
    client: &Client,
    dir: &Path,
    folded: &Folded,
    watch: &Watch,
) -> Result<Ledger, Failure> {
    client.checkpoint()?;
    let mirror = Mirror::update(dir, &client.log_files(), &client.trust().believed())?;
    for digest in client.attachments()? {
        if mirror.attachment(&digest)?.is_none() {
            mirror.put_attachment(&client.get_attachment(&digest)?)?;
        }
    }
    let ledger = Ledger::resume(mirror, folded.recall(), folded, watch)?;
    if ledger.state.id() != client.state() {
        return Err(Failure::new(
            Code::VerificationFailed,
            "the embassy showed the log of another state",
        ));
    }
    Ok(ledger)
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let code = Code::from_number(error.exit_code());
        let failure = Failure::new(code, &error);
        if matches!(error, ClientError::SplitView { .. }) {
            return failure.hint(
                "stop here: both signed checkpoints lie beside the pinned one; take them to the officers and to an auditor",
            );
        }
        match code {
            Code::NoEmbassy => {
                failure.hint("check the line and the address in the file of locators")
            }
            Code::WrongKey => {
                failure.hint("compare this identity's card and the embassy's with the mandate")
            }
            _ => failure,
        }
    }
}
