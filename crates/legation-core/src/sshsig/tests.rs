//! Signatures made by the ssh-keygen that officers have, and security keys by hand.

use super::*;
use crate::example::put;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use std::path::Path;
use std::process::Command;

const NAMESPACE: &str = "legation/order/v1";
const MESSAGE: &[u8] = b"legation/order/v1\nact: activate\n";

fn ssh_keygen(dir: &Path, arguments: &[&str]) -> bool {
    let output = Command::new("ssh-keygen")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("ssh-keygen is installed");
    output.status.success()
}

/// Makes a key, signs the message with it, and returns the public key and the signature file.
fn signed(dir: &Path, name: &str, arguments: &[&str], namespace: &str) -> (String, String) {
    assert!(ssh_keygen(
        dir,
        &[&["-q", "-N", "", "-C", "a comment", "-f", name], arguments].concat()
    ));
    std::fs::write(dir.join("message"), MESSAGE).unwrap();
    let _ = std::fs::remove_file(dir.join("message.sig"));
    assert!(ssh_keygen(
        dir,
        &["-Y", "sign", "-f", name, "-n", namespace, "message"]
    ));
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    (read(&format!("{name}.pub")), read("message.sig"))
}

#[test]
fn ssh_keygen_signs_and_we_verify_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [(&str, &[&str]); 4] = [
        ("ed25519", &["-t", "ed25519"]),
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
        ("rsa", &["-t", "rsa", "-b", "3072"]),
    ];
    for (name, arguments) in kinds {
        let (public, armoured) = signed(dir.path(), name, arguments, NAMESPACE);
        let key = SshPublicKey::from_pub_file(&public).unwrap();
        assert!(
            public.starts_with(&key.to_string()),
            "the key prints as it was read"
        );
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        let blob = dearmour(&armoured).unwrap();
        let signature = Sshsig::parse(&blob).unwrap();
        assert_eq!(signature.verify(&key, NAMESPACE, MESSAGE), Ok(()), "{name}");
        assert_eq!(
            signature.verify(&key, NAMESPACE, b"other"),
            Err(SshsigError::Invalid),
            "{name}"
        );
        let elsewhere = signature.verify(&key, "legation/mandate/v1", MESSAGE);
        assert!(
            matches!(elsewhere, Err(SshsigError::Namespace { .. })),
            "{name}"
        );
        // Our armour is what ssh-keygen reads.
        assert_eq!(armour(&blob), armoured, "{name}");
        std::fs::write(dir.path().join("signers"), format!("officer {public}")).unwrap();
        std::fs::write(dir.path().join("again.sig"), armour(&blob)).unwrap();
        let verify = [
            "-Y",
            "verify",
            "-f",
            "signers",
            "-I",
            "officer",
            "-n",
            NAMESPACE,
            "-s",
            "again.sig",
        ];
        let input = std::fs::File::open(dir.path().join("message")).unwrap();
        let status = Command::new("ssh-keygen")
            .args(verify)
            .current_dir(dir.path())
            .stdin(input)
            .output()
            .unwrap()
            .status;
        assert!(status.success(), "{name}");
        // Not one bit of the blob can be changed.
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 1;
            let still =
                Sshsig::parse(&changed).and_then(|sig| sig.verify(&key, NAMESPACE, MESSAGE));
            assert!(still.is_err(), "{name}: byte {at} may be changed");
        }
        for cut in 0..blob.len() {
            assert!(Sshsig::parse(&blob[..cut]).is_err(), "{name}: cut at {cut}");
        }
    }
}

#[test]
fn another_namespace_or_key_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (public, armoured) = signed(dir.path(), "one", &["-t", "ed25519"], "file");
    let key = SshPublicKey::from_pub_file(&public).unwrap();
    let signature = Sshsig::parse(&dearmour(&armoured).unwrap()).unwrap();
    let error = signature.verify(&key, NAMESPACE, MESSAGE).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("ssh-keygen -Y sign -n legation/order/v1"),
        "{error}"
    );
    let (other, _) = signed(dir.path(), "two", &["-t", "ed25519"], NAMESPACE);
    let other = SshPublicKey::from_pub_file(&other).unwrap();
    assert_eq!(
        signature.verify(&other, "file", MESSAGE),
        Err(SshsigError::OtherKey)
    );
}

#[test]
fn weak_keys_and_certificates_never_count() {
    let dir = tempfile::tempdir().unwrap();
    let (public, armoured) = signed(dir.path(), "weak", &["-t", "rsa", "-b", "2048"], NAMESPACE);
    let error = SshPublicKey::from_pub_file(&public).unwrap_err();
    assert_eq!(error, SshsigError::Key("RSA keys need 3072 to 8192 bits"));
    assert!(Sshsig::parse(&dearmour(&armoured).unwrap()).is_err());

    let (public, armoured) = signed(dir.path(), "p521", &["-t", "ecdsa", "-b", "521"], NAMESPACE);
    assert!(matches!(
        SshPublicKey::from_pub_file(&public),
        Err(SshsigError::UnknownKey(_))
    ));
    assert!(Sshsig::parse(&dearmour(&armoured).unwrap()).is_err());

    signed(dir.path(), "ca", &["-t", "ed25519"], NAMESPACE);
    signed(dir.path(), "user", &["-t", "ed25519"], NAMESPACE);
    assert!(ssh_keygen(
        dir.path(),
        &[
            "-q", "-s", "ca", "-I", "officer", "-n", "officer", "user.pub"
        ]
    ));
    let certificate = std::fs::read_to_string(dir.path().join("user-cert.pub")).unwrap();
    let refused = SshPublicKey::from_pub_file(&certificate).unwrap_err();
    assert!(
        refused.to_string().contains("certificates do not count"),
        "{refused}"
    );
    // ssh-keygen can sign with a certificate in the place of the key.
    std::fs::remove_file(dir.path().join("message.sig")).unwrap();
    assert!(ssh_keygen(
        dir.path(),
        &[
            "-Y",
            "sign",
            "-f",
            "user-cert.pub",
            "-n",
            NAMESPACE,
            "message"
        ]
    ));
    let armoured = std::fs::read_to_string(dir.path().join("message.sig")).unwrap();
    match Sshsig::parse(&dearmour(&armoured).unwrap()) {
        Err(error) => assert!(
            error.to_string().contains("certificates do not count"),
            "{error}"
        ),
        Ok(signature) => assert_eq!(signature.key.algorithm(), SshAlgorithm::Ed25519),
    }
}

#[test]
fn sha1_rsa_signatures_never_count() {
    let dir = tempfile::tempdir().unwrap();
    let (_, armoured) = signed(dir.path(), "rsa", &["-t", "rsa", "-b", "3072"], NAMESPACE);
    let blob = dearmour(&armoured).unwrap();
    let at = blob
        .windows(12)
        .rposition(|w| w == b"rsa-sha2-512")
        .unwrap();
    // Name the signature ssh-rsa: the length of the name, and of the field around it, change with it.
    let mut changed = blob[..at - 4].to_vec();
    put(&mut changed, b"ssh-rsa");
    changed.extend_from_slice(&blob[at + 12..]);
    let outer = at - 8;
    let length = u32::try_from(changed.len() - outer - 4).unwrap();
    changed[outer..outer + 4].copy_from_slice(&length.to_be_bytes());
    let error = Sshsig::parse(&changed).unwrap_err();
    assert!(error.to_string().contains("SHA-1"), "{error}");
}

/// What a security key would sign, and the blob around it.
fn security_key(
    kind: &str,
    public: &[u8],
    flags: u8,
    sign: impl Fn(&[u8]) -> Vec<u8>,
) -> (SshPublicKey, Vec<u8>) {
    let mut key = Vec::new();
    put(&mut key, kind.as_bytes());
    if kind.starts_with("sk-ecdsa") {
        put(&mut key, b"nistp256");
    }
    put(&mut key, public);
    put(&mut key, b"ssh:");
    let mut inner = b"SSHSIG".to_vec();
    for part in [NAMESPACE.as_bytes(), b"", b"sha256", &Sha256::of(MESSAGE).0] {
        put(&mut inner, part);
    }
    let counter = 7_u32.to_be_bytes();
    let message = [
        &Sha256::of(b"ssh:").0[..],
        &[flags],
        &counter,
        &Sha256::of(&inner).0,
    ]
    .concat();
    let mut signature = Vec::new();
    put(&mut signature, kind.as_bytes());
    put(&mut signature, &sign(&message));
    signature.push(flags);
    signature.extend_from_slice(&counter);
    let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
    for part in [&key[..], NAMESPACE.as_bytes(), b"", b"sha256", &signature] {
        put(&mut blob, part);
    }
    (SshPublicKey::from_blob(&key).unwrap(), blob)
}

#[test]
fn security_keys_count_when_they_were_touched() {
    let ed = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let rng = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let sign_ec = |message: &[u8]| {
        let fixed = ec.sign(&rng, message).unwrap();
        let mut body = Vec::new();
        for half in fixed.as_ref().chunks(32) {
            let skip = half.iter().take_while(|b| **b == 0).count();
            let sign = if half[skip] & 0x80 != 0 {
                &[0][..]
            } else {
                &[]
            };
            put(&mut body, &[sign, &half[skip..]].concat());
        }
        body
    };
    for (flags, touched) in [(1, true), (5, true), (0, false), (4, false)] {
        let sign_ed = |message: &[u8]| ed.sign(message).as_ref().to_vec();
        for (key, blob) in [
            security_key(
                "sk-ssh-ed25519@openssh.com",
                ed.public_key().as_ref(),
                flags,
                sign_ed,
            ),
            security_key(
                "sk-ecdsa-sha2-nistp256@openssh.com",
                ec.public_key().as_ref(),
                flags,
                sign_ec,
            ),
        ] {
            let verified = Sshsig::parse(&blob)
                .unwrap()
                .verify(&key, NAMESPACE, MESSAGE);
            assert_eq!(
                verified,
                if touched {
                    Ok(())
                } else {
                    Err(SshsigError::NotTouched)
                },
                "{key:?} {flags}"
            );
        }
    }
}

#[test]
fn keys_have_one_spelling_and_their_own_type() {
    let key = crate::example::World::new().officers[0].public();
    let text = key.to_string();
    for bad in [
        text.replace("ssh-ed25519 ", "ecdsa-sha2-nistp256 "),
        text.replace("ssh-ed25519 ", "ssh-dss "),
        text.replace("ssh-ed25519 ", "ssh-ed25519  "),
        format!("{text} comment"),
        format!("{text}="),
        text[..text.len() - 4].to_owned(),
        "ssh-ed25519".to_owned(),
        String::new(),
    ] {
        assert!(bad.parse::<SshPublicKey>().is_err(), "{bad}");
    }
}
