//! Officers' SSH keys, by stock OpenSSH: the program never holds an officer's private key. It asks `ssh-keygen -Y sign`
//! (which asks the agent or the card) and keeps the signature.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use legation_core::sshsig::{SshPublicKey, Sshsig, dearmour};

use crate::exit::{Code, Failure};

/// Checks a public key: `ssh-ed25519 AAAA…`, with or without a comment.
///
/// # Errors
/// A certificate, an unknown type, RSA below 3072 bits, or no key at all.
pub fn check_public(line: &str) -> Result<SshPublicKey, Failure> {
    SshPublicKey::from_pub_file(line).map_err(|why| Failure::usage(format!("SSH key: {why}")))
}

/// Signs `text` for `namespace` by stock `ssh-keygen`, checks the result (against `expected`, if the officer's key in the
/// mandate is known here), and returns it armored.
///
/// The text goes through standard input, so nothing is written beside the key.
///
/// # Errors
/// When `ssh-keygen` is missing, the signing is refused at the token, or the key is another officer's (code 12).
pub fn sign(
    key: &Path,
    namespace: &str,
    text: &[u8],
    expected: Option<&SshPublicKey>,
) -> Result<String, Failure> {
    let mut child = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| {
            Failure::failed(format!("ssh-keygen: {why}"))
                .hint("install OpenSSH's tools (openssh-client)")
        })?;
    if let Some(mut pipe) = child.stdin.take() {
        // A refusal closes the pipe early; the exit status below says why.
        let _ = pipe.write_all(text);
    }
    let output = child
        .wait_with_output()
        .map_err(|why| Failure::failed(format!("ssh-keygen: {why}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(
            Code::WrongKey,
            format!(
                "ssh-keygen did not sign with {}: {}",
                key.display(),
                said.trim()
            ),
        ));
    }
    let armored = String::from_utf8(output.stdout)
        .map_err(|_| Failure::failed("ssh-keygen printed no armored signature"))?;
    let signature = Sshsig::parse(&dearmour(&armored)?)?;
    signature
        .verify(expected.unwrap_or(&signature.key), namespace, text)
        .map_err(|why| {
            Failure::from(why)
                .during(key.display())
                .hint("sign with the key that the mandate names for you, under your own name")
        })?;
    Ok(armored)
}

/// Where the signature of `name` on `file` lies: `mandate.txt.officer-1.sig`.
pub fn signature_path(file: &Path, name: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(format!(".{name}.sig"));
    PathBuf::from(path)
}
