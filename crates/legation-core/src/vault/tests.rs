use super::*;
use crate::testing::Fixed;

fn dealt() -> Dealt {
    let all = Threshold { need: 3, of: 5 };
    let abroad = Threshold { need: 1, of: 2 };
    deal(Generation(1), all, Some(abroad), &mut Fixed(1, 0)).unwrap()
}

fn pick(d: &Dealt, a: &[usize], b: &[usize]) -> Vec<VaultShare> {
    let a = a.iter().map(|i| d.a[*i].clone());
    a.chain(b.iter().map(|i| d.b[*i].clone())).collect()
}

#[test]
fn any_quorum_with_one_from_abroad_rebuilds_the_key() {
    let d = dealt();
    assert_eq!((d.a.len(), d.b.len()), (5, 2));
    for (a, b) in [([0, 1, 3], [0]), ([4, 2, 0], [1]), ([1, 2, 3], [0])] {
        let key = rebuild(Generation(1), &pick(&d, &a, &b), true).unwrap();
        assert_eq!(key.public(), d.key.public());
    }
    let more = rebuild(Generation(1), &pick(&d, &[0, 1, 2, 3, 4], &[0, 1]), true).unwrap();
    assert_eq!(more.public(), d.key.public());
}

#[test]
fn two_shares_or_none_from_abroad_open_nothing() {
    let d = dealt();
    let two = rebuild(Generation(1), &pick(&d, &[0, 4], &[0]), true).unwrap();
    assert_ne!(two.public(), d.key.public());
    assert!(rebuild(Generation(1), &pick(&d, &[0, 1, 2], &[]), true).is_err());
    let home = rebuild(Generation(1), &pick(&d, &[0, 1, 2], &[]), false).unwrap();
    assert_ne!(home.public(), d.key.public());
    assert!(rebuild(Generation(2), &pick(&d, &[0, 1, 2], &[0]), true).is_err());
    assert!(rebuild(Generation(1), &pick(&d, &[0, 1, 1], &[0]), true).is_err());
}

#[test]
fn generations_and_parts_differ() {
    let all = Threshold { need: 2, of: 3 };
    let one = deal(Generation(1), all, None, &mut Fixed(1, 0)).unwrap();
    let two = deal(Generation(2), all, None, &mut Fixed(1, 0)).unwrap();
    assert_eq!(one.a[0].share.bytes, two.a[0].share.bytes);
    assert_ne!(one.key.public(), two.key.public());
    assert_ne!(one.a[0].digest(), two.a[0].digest());
    assert!(one.b.is_empty());
    for bad in [Threshold { need: 0, of: 3 }, Threshold { need: 4, of: 3 }] {
        assert!(deal(Generation(1), bad, None, &mut Fixed(1, 0)).is_err());
    }
}

#[test]
fn share_files_have_one_spelling() {
    let d = dealt();
    let file = ShareFile {
        state: crate::testing::state(),
        officer: "officer-4".into(),
        shares: pick(&d, &[3], &[0]),
    };
    let text = file.encode();
    assert!(
        text.starts_with("legation/share/v1\nstate: lgn1-")
            && text.contains("\nofficer: officer-4\nshare: 1 A 4 ")
    );
    let back = ShareFile::decode(&text).unwrap();
    assert_eq!(back.encode(), text);
    assert_eq!(back.shares[1].digest(), d.b[0].digest());
    for bad in [
        text.replace("share: 1 A 4", "share: 1 A 0"),
        text.replace("share: 1 A 4", "share: 01 A 4"),
        text.replace("share: 1 A 4", "share: 1 C 4"),
        text.replace("share: 1 A 4", "share: 1 A 256"),
        text.replace('\n', "\r\n"),
        text.trim_end().to_owned(),
        text.to_uppercase(),
        format!("{}\n", *text),
        text.replace("officer-4", ""),
        text.replace("officer-4", "officer 4"),
    ] {
        assert!(ShareFile::decode(&bad).is_err(), "{bad}");
    }
    assert!(!format!("{file:?} {:?}", d.a[0]).contains(&hex(&d.a[0].share.bytes)[..8]));
}
