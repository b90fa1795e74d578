use aws_lc_rs::{agreement, digest, hmac, kem, rand};

use super::*;
use crate::testing::refuses_every_change;

fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; SIGNING_SEED]).unwrap()
}

#[test]
fn both_halves_of_a_signature_must_verify() {
    let key = signer(1);
    let public = VerifyingKey::decode(key.verifying_key().encode()).unwrap();
    let good = key.sign(b"message").unwrap();
    assert_eq!(good.len(), SIGNATURE);
    public.verify(b"message", &good).unwrap();
    assert!(public.verify(b"massage", &good).is_err());
    refuses_every_change(&good, |signature| {
        public.verify(b"message", signature).is_ok()
    });
}

#[test]
fn halves_of_two_keys_do_not_make_one() {
    let (one, two) = (signer(1), signer(2));
    let mixed = [
        &one.verifying_key().encode()[..32],
        &two.verifying_key().encode()[32..],
    ]
    .concat();
    let mixed = VerifyingKey::decode(&mixed).unwrap();
    let signature = [
        &one.sign(b"m").unwrap()[..64],
        &two.sign(b"m").unwrap()[64..],
    ]
    .concat();
    assert!(mixed.verify(b"m", &signature).is_err());
}

#[test]
fn keys_come_back_from_their_seed_and_show_nothing() {
    let key = signer(1);
    let again = SigningKey::from_seed(key.seed()).unwrap();
    assert_eq!(key.verifying_key(), again.verifying_key());
    assert_ne!(key.verifying_key().id(), signer(2).verifying_key().id());
    assert!(VerifyingKey::decode(&[0; 10]).is_err());
    for shown in [
        format!("{key:?}"),
        format!("{:?}", EpochRoot::from_bytes([0xaa; 32])),
        format!("{:?}", OpeningKey::from_seed(&[0xaa; 32]).unwrap()),
    ] {
        assert!(
            shown.contains("secret") && !shown.contains("170") && !shown.contains("aaaa"),
            "{shown}"
        );
    }
}

#[test]
fn what_is_sealed_opens_with_the_same_context_only() {
    let key = OpeningKey::from_seed(&[1; 32]).unwrap();
    let public = SealingKey::decode(key.public().encode()).unwrap();
    let sealed = public.seal(&[9; 32], b"info", b"aad", b"secret").unwrap();
    assert_eq!(sealed.len(), 6 + SEALED_OVERHEAD);
    assert_eq!(&*key.open(b"info", b"aad", &sealed).unwrap(), b"secret");
    assert!(key.open(b"other", b"aad", &sealed).is_err());
    assert!(key.open(b"info", b"other", &sealed).is_err());
    let other = OpeningKey::from_seed(&[2; 32]).unwrap();
    assert!(other.open(b"info", b"aad", &sealed).is_err());
    refuses_every_change(&sealed, |bytes| key.open(b"info", b"aad", bytes).is_ok());
    assert!(
        SealingKey::decode(&[0xff; SEALING_KEY]).is_err(),
        "no ML-KEM key"
    );
    assert!(SealingKey::decode(&public.encode()[1..]).is_err());
}

#[test]
fn an_epoch_root_needs_both_secrets() {
    let root = |rng, secret| {
        *EpochRoot::derive(&[rng; 32], &[secret; 32])
            .unwrap()
            .expose()
    };
    assert_eq!(root(1, 1), root(1, 1));
    assert_ne!(root(1, 1), root(1, 2));
    assert_ne!(root(1, 1), root(2, 1));
}

#[test]
fn hkdf_is_rfc_5869() {
    // RFC 5869, appendix A.1, the input key material and the info given in two parts.
    let info = [0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9];
    let salt: Vec<u8> = (0..=12).collect();
    let mut okm = [0; 42];
    hkdf_sha256(
        &salt,
        &[&[0x0b; 20], &[0x0b; 2]],
        &[&info[..4], &info[4..]],
        &mut okm,
    )
    .unwrap();
    assert_eq!(
        crate::codec::hex(&okm),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    );
}

/// X-Wing and HPKE's key schedule once more, from the primitives of another library: what this seals, ours opens.
#[test]
fn a_second_implementation_seals_what_we_open() {
    let key = OpeningKey::from_seed(&[7; 32]).unwrap();
    let public = key.public();
    let (pk_m, pk_x) = public.encode().split_at(1184);

    let (ct_m, ss_m) = kem::EncapsulationKey::new(&kem::ML_KEM_768, pk_m)
        .unwrap()
        .encapsulate()
        .unwrap();
    let mine =
        agreement::EphemeralPrivateKey::generate(&agreement::X25519, &rand::SystemRandom::new())
            .unwrap();
    let ct_x = mine.compute_public_key().unwrap();
    let theirs = agreement::UnparsedPublicKey::new(&agreement::X25519, pk_x);
    let ss_x = agreement::agree_ephemeral(mine, theirs, (), |ss| Ok(ss.to_vec())).unwrap();
    let label = br"\.//^\";
    let parts = [ss_m.as_ref(), &ss_x, ct_x.as_ref(), pk_x, label].concat();
    let shared = digest::digest(&digest::SHA3_256, &parts);

    // RFC 9180 §5.1: base mode, KEM 0x647a, HKDF-SHA256, AES-256-GCM.
    let suite = [b"HPKE".as_slice(), &[0x64, 0x7a, 0, 1, 0, 2]].concat();
    let mac = |key: &[u8], parts: &[&[u8]]| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        parts.iter().for_each(|p| context.update(p));
        context.sign().as_ref().to_vec()
    };
    let extract =
        |salt: &[u8], label: &[u8], ikm: &[u8]| mac(salt, &[b"HPKE-v1", &suite, label, ikm]);
    let expand = |prk: &[u8], label: &[u8], info: &[u8], len: u8| {
        mac(prk, &[&[0, len], b"HPKE-v1", &suite, label, info, &[1]])[..len.into()].to_vec()
    };
    let context = [
        &[0][..],
        &extract(b"", b"psk_id_hash", b""),
        &extract(b"", b"info_hash", b"info"),
    ]
    .concat();
    let secret = extract(shared.as_ref(), b"secret", b"");
    let aead_key = expand(&secret, b"key", &context, 32);
    let nonce = expand(&secret, b"base_nonce", &context, 12);

    let aes = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &aead_key).unwrap());
    let mut body = b"secret".to_vec();
    let nonce = aead::Nonce::try_assume_unique_for_key(&nonce).unwrap();
    aes.seal_in_place_append_tag(nonce, aead::Aad::from(b"aad"), &mut body)
        .unwrap();
    let sealed = [ct_m.as_ref(), ct_x.as_ref(), &body].concat();
    assert_eq!(&*key.open(b"info", b"aad", &sealed).unwrap(), b"secret");
}
