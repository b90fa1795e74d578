//! Share envelopes: armored age files, sealed to one officer's recipient and opened by his identity alone. Stock
//! `age -d -i KEY` opens them too. This module knows age and nothing of what is inside.

use std::io::{Read, Write};
use std::path::Path;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::x25519::Recipient;
use zeroize::Zeroizing;

use crate::exit::{Code, Failure};

/// The most bytes an envelope may decrypt to: a share file of sixteen generations is below 4 KiB.
const MAX_SHARE_PLAIN: u64 = 64 * 1024;

/// The most bytes read of an envelope or of an identity file.
const MAX_FILE: u64 = 256 * 1024;

/// Checks an age recipient (`age1…`).
///
/// # Errors
/// When it is not an X25519 recipient.
pub fn recipient(text: &str) -> Result<Recipient, Failure> {
    text.trim().parse::<Recipient>().map_err(|why| {
        Failure::usage(format!(
            "age recipient {text}: {why}; age-keygen prints one as `public key: age1…`"
        ))
    })
}

/// Seals `plain` to one recipient, armored.
///
/// # Errors
/// When the recipient is unusable.
pub fn seal(recipient: &Recipient, plain: &[u8]) -> Result<Vec<u8>, Failure> {
    let broken =
        |why: &dyn std::fmt::Display| Failure::failed(format!("sealing a share envelope: {why}"));
    let encryptor =
        age::Encryptor::with_recipients(std::iter::once(recipient as &dyn age::Recipient))
            .map_err(|why| broken(&why))?;
    let mut out = Vec::new();
    let armor =
        ArmoredWriter::wrap_output(&mut out, Format::AsciiArmor).map_err(|why| broken(&why))?;
    let mut writer = encryptor.wrap_output(armor).map_err(|why| broken(&why))?;
    writer.write_all(plain).map_err(|why| broken(&why))?;
    writer
        .finish()
        .and_then(ArmoredWriter::finish)
        .map_err(|why| broken(&why))?;
    Ok(out)
}

/// Opens an envelope with the identities of a file as `age-keygen` writes it.
///
/// # Errors
/// [`Error::WrongKey`] when none of the identities fits; [`Error::Input`] when either file is not what it should be.
pub fn open(envelope: &Path, identity: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let sealed = super::read_bounded(envelope, MAX_FILE)?;
    let keys = super::read_bounded(identity, MAX_FILE)?;
    if keys.starts_with(b"age-encryption.org/") || keys.starts_with(b"-----BEGIN AGE") {
        return Err(Failure::usage(format!(
            "{} is locked with a passphrase; unlock it first: age -d {} > identity.txt",
            identity.display(),
            identity.display()
        )));
    }
    let identities = age::IdentityFile::from_buffer(&keys[..])
        .map_err(|why| why.to_string())
        .and_then(|file| file.into_identities().map_err(|why| why.to_string()))
        .map_err(|why| {
            Failure::usage(format!(
                "{} holds no age identity: {why}",
                identity.display()
            ))
        })?;
    let decryptor = age::Decryptor::new(ArmoredReader::new(&sealed[..])).map_err(|why| {
        Failure::usage(format!(
            "{} is not an age envelope: {why}",
            envelope.display()
        ))
    })?;
    let mut reader = decryptor
        .decrypt(
            identities
                .iter()
                .map(|identity| &**identity as &dyn age::Identity),
        )
        .map_err(|why| match why {
            age::DecryptError::NoMatchingKeys => Failure::new(
                Code::WrongKey,
                format!(
                    "{} does not open with {}; it is sealed to another officer's age identity",
                    envelope.display(),
                    identity.display()
                ),
            ),
            other => Failure::usage(format!(
                "{}: {other}; the envelope is damaged, use the officer's other copy",
                envelope.display()
            )),
        })?;
    let mut plain = Zeroizing::new(Vec::with_capacity(8192));
    reader
        .by_ref()
        .take(MAX_SHARE_PLAIN + 1)
        .read_to_end(&mut plain)
        .map_err(|why| {
            Failure::usage(format!(
                "{}: {why}; the envelope is damaged, use the officer's other copy",
                envelope.display()
            ))
        })?;
    if plain.len() as u64 > MAX_SHARE_PLAIN {
        return Err(Failure::usage(format!(
            "{} is too long for a share envelope",
            envelope.display()
        )));
    }
    Ok(plain)
}
