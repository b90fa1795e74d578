//! Orders as officers read and approve them: the sentence, its validity, the annex that must be opened first.

use std::path::{Path, PathBuf};

use legation_core::id::StateId;
use legation_core::order::MAX_UNSEEN;
use legation_core::sshsig::{SshPublicKey, Sshsig, dearmour};
use legation_core::statement::{Annex, Mandate, Name, Order, Signed, Time};

use super::{names::Names, ssh};
use crate::exit::{Code, Failure};

/// A statement's longest text.
const MAX_TEXT: u64 = 64 * 1024;
/// Columns of the box that shows an order.
const WIDTH: usize = 84;

/// Reads an order: grammar, shape, and the sentence against the fields.
///
/// # Errors
/// Code 8 for an order that nobody should approve: edited, reworded, with characters that cannot be seen.
pub fn load(path: &Path) -> Result<(Order, String), Failure> {
    let text = super::read_text(path, MAX_TEXT)?;
    let order = Order::parse(&text).map_err(|why| Failure::from(why).during(path.display()))?;
    order
        .check_shape()
        .map_err(|why| Failure::from(why).during(path.display()))?;
    Ok((order, text))
}

/// Reads an order's annex and compares it with the digest in the order.
///
/// # Errors
/// Code 8 when it is another one.
pub fn load_annex(path: &Path, order: &Order) -> Result<Annex, Failure> {
    if !path.exists() {
        return Err(Failure::usage(format!("{}: there is no such annex", path.display()))
            .hint("the annex travels with the order among officers; its sha256sum is the order's annex-sha256"));
    }
    let text = super::read_text(path, MAX_TEXT)?;
    let annex = Annex::parse(&text).map_err(|why| Failure::from(why).during(path.display()))?;
    annex
        .check(order)
        .map_err(|why| Failure::new(Code::Refused, why).during(path.display()))?;
    Ok(annex)
}

/// Refuses an annex that calls a registry otherwise than this machine's own names do: whoever wrote it may want another
/// one opened than the reader believes.
///
/// # Errors
/// Code 8, with both titles.
pub fn agree(annex: &Annex, names: &Names) -> Result<(), Failure> {
    for row in &annex.registry {
        let Some(own) = names.registry.iter().find(|own| own.id == row.id) else {
            continue;
        };
        if own.title != row.title.as_str() {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "the annex calls {} {:?}, and your own registries.toml calls it {:?}",
                    row.id,
                    row.title.as_str(),
                    own.title
                ),
            )
            .hint("do not sign; ask who wrote the order, by another way than it came"));
        }
    }
    Ok(())
}

/// Where the annex of `order.txt` lies by custom: `order.annex.txt`.
pub fn annex_path(order: &Path) -> PathBuf {
    order.with_extension("annex.txt")
}

/// Where the key of `grant.txt` lies by custom: `grant.key`, 0600, an X-Wing seed.
pub fn key_path(order: &Path) -> PathBuf {
    order.with_extension("key")
}

/// Where its public half lies.
pub fn public_key_path(order: &Path) -> PathBuf {
    order.with_extension("pub")
}

/// Where the release of an order lies: `grant.released`.
pub fn released_path(order: &Path) -> PathBuf {
    order.with_extension("released")
}

/// Where the bundle of an order lies: `order.bundle`.
pub fn bundle_path(order: &Path) -> PathBuf {
    order.with_extension("bundle")
}

/// The box that an officer reads before he signs.
pub fn show(order: &Order, annex: Option<&Annex>, names: &Names, now: Time) -> String {
    let mut lines = wrap(order.sentence.as_str(), WIDTH);
    lines.push(String::new());
    lines.push(validity(order, now));
    let scope = order.registry.iter().map(|row| {
        let title = annex
            .and_then(|annex| annex.registry.iter().find(|title| title.id == row.registry))
            .map_or_else(|| names.title(row.registry), |row| row.title.to_string());
        let id = row.registry.to_string();
        let title = if title == id {
            String::new()
        } else {
            format!("  {title}")
        };
        format!("{id}  epochs {}{title}", row.epochs)
    });
    lines.extend(scope);
    match annex {
        Some(annex) => lines.extend(wrap(&format!("Reason: {}", annex.reason), WIDTH)),
        None => lines.push("The names and the reason are in the annex: --annex FILE".into()),
    }
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let rule = format!("+{}+\n", "-".repeat(width + 2));
    let body: String = lines
        .iter()
        .map(|line| format!("| {line:width$} |\n"))
        .collect();
    format!(
        "{rule}{body}{rule}order {}    sha256 {}",
        order.order,
        order.id()
    )
}

fn validity(order: &Order, now: Time) -> String {
    let (from, until) = (order.not_before, order.expires);
    if now >= until {
        format!("EXPIRED: it was valid until {until}.")
    } else if now < from {
        format!("Not valid yet: from {from} until {until}.")
    } else if now > from.plus_millis(MAX_UNSEEN) {
        // Its words speak of the log as it was then.
        format!("Valid until {until}. Latest means: as of {from}.")
    } else {
        format!("Valid until {until}.")
    }
}

/// Breaks text at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.len() - 1;
        let fits = lines[line].chars().count() + 1 + word.chars().count() <= width;
        if lines[line].is_empty() {
            lines[line].push_str(word);
        } else if fits {
            lines[line].push(' ');
            lines[line].push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// What an officer tells `order approve`.
#[derive(Debug, Clone, Copy)]
pub struct Approve<'a> {
    /// The order.
    pub order: &'a Path,
    /// Its annex.
    pub annex: &'a Path,
    /// His name in the mandate.
    pub officer: &'a str,
    /// His SSH key, or its public half when the agent or a card holds it.
    pub ssh_key: &'a Path,
    /// The mandate and the state that it founds, if he has it at hand.
    pub mandate: Option<(StateId, &'a Mandate)>,
}

/// Opens the annex, checks that the order is one and that it says what this machine's `names` say, shows exactly what is
/// about to be signed, and has stock `ssh-keygen` sign it. Returns the signature's path.
///
/// # Errors
/// Code 2 for a name that no officer can have; code 8 for an order or annex that does not hold, or a mandate of another
/// state; code 12 for a key that is not the officer's.
pub fn approve(
    told: Approve<'_>,
    names: &Names,
    now: Time,
    show: &dyn Fn(&Order, &Annex),
) -> Result<(Order, PathBuf), Failure> {
    // The name becomes part of a path.
    let officer: Name = told.officer.parse().map_err(|_| {
        Failure::usage(format!("{:?} is no officer's name", told.officer))
            .hint("--as takes your name in the mandate, such as officer-1")
    })?;
    let (order, text) = load(told.order)?;
    let annex = load_annex(told.annex, &order)?;
    agree(&annex, names)?;
    if now >= order.expires {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "the order expired at {}; there is nothing to approve",
                order.expires
            ),
        ));
    }
    let key = match told.mandate {
        Some((state, _)) if state != order.state => {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "the order is of state {}, the mandate founds {state}",
                    order.state
                ),
            ));
        }
        Some((_, mandate)) => Some(officer_key(mandate, officer.as_str())?),
        None => None,
    };
    show(&order, &annex);
    let armored = ssh::sign(told.ssh_key, Order::HEADER, text.as_bytes(), key)?;
    let path = ssh::signature_path(told.order, officer.as_str());
    // Signing again replaces one's own signature: ECDSA and cards sign differently every time.
    std::fs::write(&path, armored)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
    Ok((order, path))
}

fn officer_key<'a>(mandate: &'a Mandate, officer: &str) -> Result<&'a SshPublicKey, Failure> {
    let row = mandate
        .officer
        .iter()
        .find(|row| row.name.as_str() == officer);
    row.map(|row| &row.key).ok_or_else(|| {
        let names: Vec<_> = mandate
            .officer
            .iter()
            .map(|row| row.name.as_str())
            .collect();
        Failure::new(
            Code::Refused,
            format!("the mandate knows no officer {officer}"),
        )
        .hint(format!("its officers are: {}", names.join(", ")))
    })
}

/// Puts the approvals beside the order's text. Whose a signature is, its key tells; what the file is called does not.
///
/// # Errors
/// Code 8 for a signature by nobody whom the mandate names; code 2 for a file that is no signature.
pub fn gather(text: &str, mandate: &Mandate, approvals: &[PathBuf]) -> Result<Signed, Failure> {
    let mut signed = Signed::unsigned(text)?;
    for path in approvals {
        let armored = super::read_text(path, MAX_TEXT)?;
        let signature = dearmour(&armored)
            .and_then(|blob| Sshsig::parse(&blob))
            .map_err(|why| Failure::from(why).during(path.display()))?;
        let officer: Option<Name> = mandate
            .officer
            .iter()
            .find(|row| row.key == signature.key)
            .map(|row| row.name.clone());
        let officer = officer.ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!(
                    "{} is signed with a key of none of the mandate's officers",
                    path.display()
                ),
            )
        })?;
        signed
            .add_officer(officer, &armored)
            .map_err(|why| Failure::from(why).during(path.display()))?;
    }
    Ok(signed)
}
