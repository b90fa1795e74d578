//! An officer's own part of the founding: his envelope opens, the shares in it are those of the mandate, he says so
//! over his signature; and the sealing of what all have proven and signed.

use std::path::Path;

use legation_core::attachments::Held;
use legation_core::id::{Generation, Sha256, StateId};
use legation_core::policy::State;
use legation_core::sshsig::Sshsig;
use legation_core::statement::{
    Entry, Mandate, Name, Proof, ProvenRow, Signed, Signer, Statement, Time,
};
use legation_core::vault::{Part, ShareFile};

use super::{envelope, ssh};
use crate::exit::{Code, Failure};

/// A mandate's text is at most 32 KiB; a signed one as long as an entry.
const MAX_TEXT: u64 = 64 * 1024;
/// A keyring is at most a MiB.
const MAX_KEYRING: u64 = 1 << 20;

/// The mandate's file in a founding directory.
pub const MANDATE: &str = "mandate.txt";
/// The keyring's.
pub const KEYRING: &str = "mandate.keys";
/// The signed mandate's, which every process of the state is given.
pub const SIGNED: &str = "mandate.signed";

/// Reads a mandate, signed or not, and its exact text.
///
/// # Errors
/// When it is missing or malformed.
pub fn load_mandate(path: &Path) -> Result<(Mandate, String), Failure> {
    let text = super::read_text(path, MAX_TEXT)?;
    let text = match text.split_once("\n\n") {
        Some((text, _)) => format!("{text}\n"),
        None => text,
    };
    let mandate = Mandate::parse(&text).map_err(|why| Failure::from(why).during(path.display()))?;
    Ok((mandate, text))
}

/// Opens an officer's envelope.
///
/// # Errors
/// Code 12 when it does not open with that identity; code 4 when what it holds was altered.
pub fn open_share(envelope: &Path, identity: &Path) -> Result<ShareFile, Failure> {
    let plain = envelope::open(envelope, identity)?;
    let broken = |why: &dyn std::fmt::Display| {
        Failure::new(
            Code::VerificationFailed,
            format!("{}: {why}", envelope.display()),
        )
        .hint("it is not what the ceremony wrote; use the officer's other copy")
    };
    let text = std::str::from_utf8(&plain).map_err(|why| broken(&why))?;
    ShareFile::decode(text).map_err(|why| broken(&why))
}

/// Compares an officer's shares with the digests of the mandate, and returns them as he proves them.
///
/// # Errors
/// Code 12, naming the generation and part that differ or miss.
pub fn check_share(mandate: &Mandate, share: &ShareFile) -> Result<Vec<ProvenRow>, Failure> {
    let rows: Vec<_> = mandate
        .share
        .iter()
        .filter(|row| row.officer.as_str() == share.officer)
        .collect();
    if rows.is_empty() {
        return Err(wrong_share(
            &share.officer,
            "the mandate knows no officer of that name",
        ));
    }
    let digest = |generation: Generation, part: Part| {
        let mut held = share
            .shares
            .iter()
            .filter(|held| held.generation == generation && held.part == part);
        let digest = held.next().map(legation_core::vault::VaultShare::digest);
        if held.next().is_some() { None } else { digest }
    };
    let mut count = 0;
    let mut proven = Vec::with_capacity(rows.len());
    for row in rows {
        let (a, b) = (
            digest(row.generation, Part::A),
            digest(row.generation, Part::B),
        );
        for (part, found, wanted) in [("A", a, Some(row.a)), ("B", b, row.b)] {
            if found != wanted {
                let what = if found.is_none() {
                    "is missing"
                } else {
                    "is not the one that the mandate names"
                };
                return Err(wrong_share(
                    &share.officer,
                    format!("share {part} of generation {} {what}", row.generation),
                ));
            }
            count += usize::from(found.is_some());
        }
        proven.push(ProvenRow {
            generation: row.generation,
            a: row.a,
            b: row.b,
        });
    }
    if count != share.shares.len() {
        return Err(wrong_share(
            &share.officer,
            "it holds shares that the mandate does not name",
        ));
    }
    Ok(proven)
}

/// Compares the shares that a file holds, which may be those of some generations only, with the mandate's digests.
///
/// # Errors
/// Code 12, naming the generation and part that the mandate does not name.
pub fn check_held(mandate: &Mandate, share: &ShareFile) -> Result<(), Failure> {
    for held in &share.shares {
        let row = mandate
            .share
            .iter()
            .find(|row| row.officer.as_str() == share.officer && row.generation == held.generation);
        let wanted = row.and_then(|row| {
            if held.part == Part::A {
                Some(row.a)
            } else {
                row.b
            }
        });
        if wanted != Some(held.digest()) {
            let (part, generation) = (held.part, held.generation);
            return Err(wrong_share(
                &share.officer,
                format!(
                    "share {part:?} of generation {generation} is not the one that the mandate names"
                ),
            ));
        }
    }
    Ok(())
}

fn wrong_share(officer: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::WrongKey,
        format!("the share of {officer} does not fit this mandate: {why}"),
    )
    .hint("it is of another state or ceremony, or was altered; use the right envelope")
}

/// What `officer prove` is told.
#[derive(Debug, Clone, Copy)]
pub struct Prove<'a> {
    /// His envelope.
    pub share: &'a Path,
    /// His age identity.
    pub age_identity: &'a Path,
    /// The mandate.
    pub mandate: &'a Path,
    /// His name in it.
    pub officer: &'a str,
    /// His SSH key, or its public half when the agent or a card holds it.
    pub ssh_key: &'a Path,
}

/// Opens the envelope, compares its shares with the mandate, and signs that by stock `ssh-keygen`.
///
/// # Errors
/// Code 12 for a wrong age identity or SSH key, or a share that the mandate does not name.
pub fn prove(told: Prove<'_>, now: Time) -> Result<Signed, Failure> {
    let (mandate, text) = load_mandate(told.mandate)?;
    let officer: Name = told
        .officer
        .parse()
        .map_err(|_| Failure::usage(format!("{:?} is no officer's name", told.officer)))?;
    let row = mandate
        .officer
        .iter()
        .find(|row| row.name == officer)
        .ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("the mandate knows no officer {officer}"),
            )
        })?;
    let share = open_share(told.share, told.age_identity)?;
    if share.officer != told.officer {
        return Err(Failure::new(
            Code::WrongKey,
            format!(
                "{} holds the share of {}, not of {officer}",
                told.share.display(),
                share.officer
            ),
        ));
    }
    let proof = Proof {
        mandate: Sha256::of(text.as_bytes()),
        officer: officer.clone(),
        share: check_share(&mandate, &share)?,
        at: now.whole_seconds(),
    };
    let text = proof.text();
    let armored = ssh::sign(told.ssh_key, Proof::HEADER, text.as_bytes(), Some(&row.key))?;
    let mut signed = Signed::unsigned(text)?;
    signed.add_officer(officer, &armored)?;
    Ok(signed)
}

/// A founding that all officers proved and signed.
#[derive(Debug)]
pub struct Founded {
    /// The state.
    pub state: StateId,
    /// The signed mandate.
    pub signed: Signed,
    /// Its officers: name, and whether abroad.
    pub officers: Vec<(String, bool)>,
}

/// Checks every proof and signature in a founding directory.
///
/// # Errors
/// Code 5, naming who has not proven or signed; code 4 or 8 for a proof or signature that does not hold.
pub fn seal(dir: &Path, now: Time) -> Result<Founded, Failure> {
    let path = dir.join(MANDATE);
    let (mandate, text) = load_mandate(&path)?;
    let keyring = super::read_bounded(&dir.join(KEYRING), MAX_KEYRING)?;
    if Sha256::of(&keyring) != mandate.keyring {
        return Err(Failure::new(
            Code::VerificationFailed,
            format!("{KEYRING} is not the keyring that {MANDATE} names"),
        ));
    }
    let mut missing = Vec::new();
    let mut signed = Signed::unsigned(text.clone())?;
    for row in &mandate.officer {
        let proof = dir.join(format!("{}.proof", row.name));
        let signature = ssh::signature_path(&path, row.name.as_str());
        if proof.exists() {
            check_proof(&proof, &mandate, &text, row.name.as_str())
                .map_err(|failure| failure.during(proof.display()))?;
        } else {
            missing.push(format!(
                "{} has not proven his share ({})",
                row.name,
                proof.display()
            ));
        }
        if signature.exists() {
            let armored = super::read_text(&signature, MAX_TEXT)?;
            let check = || -> Result<(), Failure> {
                let blob = legation_core::sshsig::dearmour(&armored)?;
                Ok(Sshsig::parse(&blob)?.verify(&row.key, Mandate::HEADER, text.as_bytes())?)
            };
            check().map_err(|failure| failure.during(signature.display()))?;
            signed.add_officer(row.name.clone(), &armored)?;
        } else {
            missing.push(format!(
                "{} has not signed ({})",
                row.name,
                signature.display()
            ));
        }
    }
    if !missing.is_empty() {
        return Err(Failure::new(
            Code::Quorum,
            format!("a founding takes every officer: {}", missing.join("; ")),
        ));
    }
    let mut attachments = Held::new();
    attachments.add(keyring.to_vec());
    let entry = Entry {
        index: 0,
        received: now,
        signed: signed.clone(),
    };
    let state = State::found(&entry, &attachments)?;
    let officers = mandate
        .officer
        .iter()
        .map(|row| {
            (
                row.name.to_string(),
                row.territory == legation_core::statement::Territory::Abroad,
            )
        })
        .collect();
    Ok(Founded {
        state: state.id(),
        signed,
        officers,
    })
}

fn check_proof(path: &Path, mandate: &Mandate, text: &str, officer: &str) -> Result<(), Failure> {
    let bytes = super::read_bounded(path, MAX_TEXT)?;
    let signed = Signed::parse(&bytes)?;
    let Statement::Proof(proof) = signed.statement()? else {
        return Err(Failure::new(Code::Refused, "this is no proof of a share"));
    };
    if proof.mandate != Sha256::of(text.as_bytes()) {
        return Err(Failure::new(
            Code::VerificationFailed,
            "it proves a share of another mandate",
        ));
    }
    let wanted: Vec<_> = mandate
        .share
        .iter()
        .filter(|row| row.officer.as_str() == officer)
        .map(|row| ProvenRow {
            generation: row.generation,
            a: row.a,
            b: row.b,
        })
        .collect();
    if proof.officer.as_str() != officer || proof.share != wanted {
        return Err(Failure::new(
            Code::VerificationFailed,
            "it does not prove the shares that the mandate names",
        ));
    }
    let row = mandate.officer.iter().find(|row| row.name == proof.officer);
    let signature = match (row, signed.signatures()) {
        (Some(row), [one]) if one.signer == Signer::Officer(row.name.clone()) => {
            Sshsig::parse(&one.bytes)?.verify(&row.key, Proof::HEADER, signed.text().as_bytes())
        }
        _ => {
            return Err(Failure::new(
                Code::Refused,
                "it is not signed by that officer alone",
            ));
        }
    };
    Ok(signature?)
}
