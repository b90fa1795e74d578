use proptest::prelude::*;

use super::*;
use crate::testing::{EPOCH, refuses_every_change, registry, root, state};

fn builder(seq: u32) -> PackBuilder {
    PackBuilder::new(state(), registry(), EPOCH, seq)
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32])
        .finalize_xof()
        .fill(&mut out);
    out
}

fn opener(pack: &SealedPack) -> PackOpener {
    PackOpener::new(&PackHeader::parse(&pack.bytes).unwrap(), &root(1)).unwrap()
}

fn sealed<'a>(pack: &'a SealedPack, at: &FrameRef) -> &'a [u8] {
    &pack.bytes[at.offset as usize..(at.offset + at.sealed) as usize]
}

#[test]
fn frames_come_back_one_by_one() {
    let mut b = builder(9);
    let plains = [vec![], b"a".to_vec(), vec![0; MAX_FRAME], noise(70_000, 1)];
    let refs: Vec<_> = plains.iter().map(|p| b.push(p).unwrap().unwrap()).collect();
    let pack = b.seal(&root(1), &[3; 32]).unwrap();
    assert_eq!(pack.bytes.len(), pack.size.bytes());
    assert_eq!(pack.digest, Digest::of(&pack.bytes));
    assert_eq!(pack.size, SizeClass::K256);
    let o = opener(&pack);
    for (plain, at) in plains.iter().zip(&refs).rev() {
        at.validate().unwrap();
        assert_eq!(*o.open(at, sealed(&pack, at)).unwrap(), *plain);
    }
    let last = refs[3];
    let end = (last.offset + last.sealed) as usize;
    o.open_last(4, end as u32, &pack.bytes[end..]).unwrap();
    assert!(o.open_last(3, end as u32, &pack.bytes[end..]).is_err());
    assert!(refs[2].sealed < 1000, "zeros compress");
}

#[test]
fn an_empty_pack_and_a_full_one_have_sizes_of_the_table() {
    let pack = builder(0).seal(&root(1), &[0; 32]).unwrap();
    assert_eq!(pack.size, SizeClass::K64);
    let mut b = builder(1);
    let frame = noise(MAX_FRAME, 2);
    let mut n = 0;
    while b.push(&frame).unwrap().is_some() {
        n += 1;
    }
    assert_eq!(n, 63);
    assert!(
        b.push(&noise(100, 1)).unwrap().is_some(),
        "a smaller one still fits"
    );
    assert_eq!(b.seal(&root(1), &[0; 32]).unwrap().size, SizeClass::M16);
    assert!(builder(2).push(&vec![0; MAX_FRAME + 1]).is_err());
}

#[test]
fn every_changed_byte_of_header_and_frames_is_refused() {
    let mut b = builder(9);
    let refs: Vec<_> = [b"one".as_slice(), b"two"]
        .iter()
        .map(|p| b.push(p).unwrap().unwrap())
        .collect();
    let pack = b.seal(&root(1), &[3; 32]).unwrap();
    // Header: its place and key are bound; frames: the tag.
    refuses_every_change(&pack.bytes[..PACK_HEADER], |header| {
        header.len() == PACK_HEADER
            && PackHeader::parse(header)
                .and_then(|h| PackOpener::new(&h, &root(1)))
                .is_ok()
    });
    let o = opener(&pack);
    for at in &refs {
        refuses_every_change(sealed(&pack, at), |bytes| o.open(at, bytes).is_ok());
    }
}

#[test]
fn another_epoch_registry_state_number_or_position_is_refused() {
    let mut b = builder(9);
    let first = b.push(b"first").unwrap().unwrap();
    let second = b.push(b"other").unwrap().unwrap();
    let pack = b.seal(&root(1), &[3; 32]).unwrap();
    let header = PackHeader::parse(&pack.bytes).unwrap();
    assert_eq!(
        PackOpener::new(&header, &root(2)).err(),
        Some(FormatError::NotOpened { what: "pack" })
    );
    for wrong in [
        PackHeader {
            epoch: EpochNo(5),
            ..header.clone()
        },
        PackHeader {
            seq: 10,
            ..header.clone()
        },
        PackHeader {
            state: StateId([8; 20]),
            ..header.clone()
        },
        PackHeader {
            registry: RegistryId::new(1).unwrap(),
            ..header.clone()
        },
    ] {
        assert!(PackOpener::new(&wrong, &root(1)).is_err());
    }
    let o = opener(&pack);
    assert!(o.open(&second, sealed(&pack, &first)).is_err());
    assert!(
        o.open(&FrameRef { index: 0, ..second }, sealed(&pack, &second))
            .is_err()
    );
    assert!(
        o.open(&FrameRef { plain: 4, ..first }, sealed(&pack, &first))
            .is_err()
    );
    assert!(matches!(
        o.open(&FrameRef { seq: 8, ..first }, sealed(&pack, &first)),
        Err(FormatError::Misplaced { .. })
    ));
}

#[test]
fn unknown_formats_suites_and_reserved_bytes_are_hard_errors() {
    let pack = builder(0).seal(&root(1), &[0; 32]).unwrap();
    let with = |at: usize, v: u8| {
        let mut bytes = pack.bytes[..PACK_HEADER].to_vec();
        bytes[at] = v;
        PackHeader::parse(&bytes).unwrap_err()
    };
    assert!(matches!(
        with(8, 2),
        FormatError::Unsupported {
            field: "format",
            found: 2,
            ..
        }
    ));
    assert!(matches!(
        with(10, 2),
        FormatError::Unsupported {
            field: "suite",
            found: 2,
            ..
        }
    ));
    assert!(matches!(with(12, 1), FormatError::Malformed { .. }));
    assert!(matches!(with(159, 1), FormatError::Malformed { .. }));
    assert!(
        matches!(with(39, 1), FormatError::Malformed { .. }),
        "registry from 2^24 on"
    );
}

#[test]
fn a_cloned_machine_does_not_repeat_a_key() {
    let salt = |plain: &[u8]| {
        let mut b = builder(9);
        b.push(plain).unwrap();
        PackHeader::parse(&b.seal(&root(1), &[3; 32]).unwrap().bytes)
            .unwrap()
            .salt
    };
    assert_ne!(salt(b"one"), salt(b"two"));
    assert_eq!(salt(b"one"), salt(b"one"));
}

#[test]
fn references_have_one_spelling() {
    let at = FrameRef {
        epoch: EPOCH,
        seq: 17,
        index: 0,
        offset: 160,
        sealed: 812,
        plain: 1630,
    };
    assert_eq!(at.to_string(), "4:17:0:160:812:1630");
    assert_eq!("4:17:0:160:812:1630".parse(), Ok(at));
    for bad in [
        "4:17:0:160:812",
        "4:17:0:160:812:01630",
        "4:17:0:160:812:+1",
        "",
        "4:17:0:160:812:1630:0",
    ] {
        assert!(bad.parse::<FrameRef>().is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_frames_round_trip(plains in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 1..20)) {
        let mut b = builder(1);
        let refs: Vec<_> = plains.iter().map(|p| b.push(p).unwrap().unwrap()).collect();
        let pack = b.seal(&root(1), &[0; 32]).unwrap();
        let o = opener(&pack);
        for (plain, at) in plains.iter().zip(&refs) {
            prop_assert_eq!(&*o.open(at, sealed(&pack, at)).unwrap(), plain);
            let mut bytes = Vec::new();
            at.encode(&mut bytes);
            prop_assert_eq!(FrameRef::decode(&mut Reader::new("t", &bytes)).unwrap(), *at);
        }
    }

    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = PackHeader::parse(&bytes);
        let _ = FrameRef::decode(&mut Reader::new("t", &bytes));
    }
}
