//! The grammar: one spelling for every statement, and nothing that a person cannot see.

use super::text::{MAX_TEXT, is_allowed};
use super::*;
use crate::example::{World, samples, v};
use crate::id::{EpochNo, Lsn, Sha256};
use proptest::prelude::*;

/// Parses, and insists that what was parsed prints as it was read.
fn parse(text: &str) -> Result<Statement, ParseError> {
    let statement = Statement::parse(text)?;
    assert_eq!(statement.text(), text, "two spellings of one statement");
    Ok(statement)
}

#[test]
fn there_is_a_sample_of_every_kind_and_it_reads_back() {
    let all = samples();
    for statement in &all {
        assert_eq!(parse(&statement.text()).as_ref(), Ok(statement));
    }
    for kind in KINDS {
        assert!(
            all.iter().any(|s| s.kind().name == kind.name),
            "no sample of {}",
            kind.name
        );
    }
}

#[test]
fn every_changed_character_is_refused_or_makes_another_statement() {
    for statement in samples() {
        let text = statement.text();
        let step = 1 + text.len() / 1500;
        for (at, c) in text.char_indices().step_by(step) {
            for other in [
                '0', '9', 'a', 'A', ' ', '\n', ':', '-', '\t', '\r', '\u{202e}', 'é', '\u{301}',
                '\0',
            ] {
                if other == c {
                    continue;
                }
                let changed = format!("{}{other}{}", &text[..at], &text[at + c.len_utf8()..]);
                if let Ok(found) = parse(&changed) {
                    assert_ne!(found, statement, "{changed:?}");
                }
                let inserted = format!("{}{other}{}", &text[..at], &text[at..]);
                if let Ok(found) = parse(&inserted) {
                    assert_ne!(found, statement, "{inserted:?}");
                }
            }
            let removed = format!("{}{}", &text[..at], &text[at + c.len_utf8()..]);
            if let Ok(found) = parse(&removed) {
                assert_ne!(found, statement, "{removed:?}");
            }
        }
    }
}

#[test]
fn fields_stand_in_their_order_each_once() {
    for statement in samples() {
        let text = statement.text();
        let lines: Vec<&str> = text.lines().collect();
        for i in 1..lines.len() {
            // A list may be shorter by one line; a field that stands alone may not be left out.
            let name = lines[i].split(':').next();
            let alone = lines
                .iter()
                .filter(|line| line.split(':').next() == name)
                .count()
                == 1;
            let list = [
                "registry",
                "share",
                "key",
                "client",
                "threshold",
                "embassy",
                "vault",
            ];
            if alone && !name.is_some_and(|name| list.contains(&name)) {
                let mut fewer = lines.clone();
                fewer.remove(i);
                assert!(
                    parse(&joined(&fewer)).is_err(),
                    "{} may be left out",
                    lines[i]
                );
            }
            if i + 1 < lines.len() && name != lines[i + 1].split(':').next() {
                let mut swapped = lines.clone();
                swapped.swap(i, i + 1);
                assert!(
                    parse(&joined(&swapped)).is_err(),
                    "{} may come later",
                    lines[i]
                );
            }
        }
        let mut more = lines.clone();
        more.push("note: more");
        assert!(parse(&joined(&more)).is_err());
        assert!(
            parse(text.trim_end()).is_err(),
            "the last line ends with LF"
        );
        assert!(parse(&text.replace('\n', "\r\n")).is_err());
        assert!(parse(&format!("\u{feff}{text}")).is_err());
    }
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_cannot_be_seen_is_refused() {
    let annex = |reason: &str| {
        let mut text = String::new();
        for line in samples()
            .iter()
            .find(|s| s.kind().name == "annex")
            .unwrap()
            .text()
            .lines()
        {
            let line = if line.starts_with("reason: ") {
                format!("reason: {reason}")
            } else {
                line.to_owned()
            };
            text.push_str(&format!("{line}\n"));
        }
        parse(&text).map(|_| ())
    };
    assert_eq!(
        annex("Õigus, Ελλάδα, Україна, 東京: all of these can be read."),
        Ok(())
    );
    for hidden in [
        '\u{0}',
        '\u{7}',
        '\t',
        '\r',
        '\u{7f}',
        '\u{85}',
        '\u{a0}',
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{115f}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{2028}',
        '\u{202a}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{2069}',
        '\u{3000}',
        '\u{e000}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{fffd}',
        '\u{1f600}',
        '\u{e0041}',
    ] {
        let error = annex(&format!("not{hidden}here")).unwrap_err();
        assert!(
            matches!(error, ParseError::Character { code, .. } if code == u32::from(hidden)),
            "{hidden:?}: {error}"
        );
    }
    // The same letter in two ways of writing it: only the composed one is NFC.
    assert_eq!(annex("Jõgeva"), Ok(()));
    assert_eq!(annex("Jo\u{303}geva"), Err(ParseError::NotNfc));
    assert!(annex(" edge").is_err() && annex("edge ").is_err() && annex("").is_err());
    let long = "x".repeat(MAX_TEXT);
    assert!(matches!(annex(&long), Err(ParseError::Size { .. })));
}

#[test]
fn unknown_kinds_and_words_are_errors() {
    for (text, says) in [
        (
            "legation/purge/v1\n",
            "unknown kind of statement: \"purge\"",
        ),
        ("legation/order/v2\nact: activate\n", "unknown kind"),
        ("legation/ORDER/v1\n", "unknown kind"),
        ("", "unknown kind"),
        ("legation/order/v1", "line 1 is not"),
        (
            "legation/order/v1\nact: explode\n",
            "'act' must be activate | grant",
        ),
        (
            "legation/order/v1\norder: 2026-11-22-7f2c91d0\n",
            "expected the field 'act'",
        ),
        (
            "legation/mark/v1\nstate: lgn1-7kq4\n",
            "'state' must be a state",
        ),
    ] {
        let error = Statement::parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text:?}: {error}");
    }
}

#[test]
fn the_last_moment_can_be_said() {
    let last = Time::from_millis(0).unwrap().plus_millis(u64::MAX);
    assert_eq!(last.to_string(), "9999-12-30T22:00:00Z");
    assert_eq!(last.to_string().parse(), Ok(last));
    assert_eq!(Time::from_millis(last.millis() + 1), None);
    assert!("9999-12-31T00:00:00Z".parse::<Time>().is_err());
}

#[test]
fn values_have_one_spelling() {
    fn only<T: Field>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(
                T::read(text).map(|value| value.write()).as_deref(),
                Some(*text)
            );
        }
        for text in bad {
            assert!(T::read(text).is_none(), "{text:?}");
        }
    }
    only::<Time>(
        &[
            "2026-11-22T09:00:00Z",
            "2026-11-22T09:41:07.318Z",
            "1970-01-01T00:00:00Z",
            "2026-11-22T09:00:00.100Z",
        ],
        &[
            "2026-11-22T09:00:00.000Z",
            "2026-11-22T09:00:00.1Z",
            "2026-11-22T09:00:00+00:00",
            "2026-11-22 09:00:00Z",
            "2026-11-22t09:00:00z",
            "2026-02-30T09:00:00Z",
            "2026-11-22T09:00:60Z",
            "1969-12-31T23:59:59Z",
            "2026-11-22T09:00Z",
        ],
    );
    only::<EpochSet>(
        &["1-4", "4-4", "1-2,4-4", "1-1,3-9,4294967295-4294967295"],
        &[
            "4",
            "4-1",
            "0-3",
            "1-2,3-4",
            "1-4,4-5",
            "5-6,1-2",
            "01-2",
            "1-2,",
            "",
            "1-2 ,4-4",
            "1-4294967296",
        ],
    );
    only::<Name>(
        &["a", "officer-1", "w-1"],
        &["", "A", "1a", "-a", "a b", "none", "é", &"a".repeat(33)],
    );
    only::<Keep>(
        &["forever", "90d"],
        &["0d", "d", "090d", "90", "Forever", "-1d", "+1d"],
    );
    only::<KOfN>(
        &["3 of 5"],
        &[
            "3of5", "3 of  5", "03 of 5", "3 of 5 ", "3 out 5", "+3 of 5",
        ],
    );
    only::<WalRange>(
        &["0/1000000 16/B374D848"],
        &["0/01000000 0/2", "0/a 0/B", "0/A", "0/A 0/B 0/C"],
    );
    only::<BaseWal>(
        &["0/1000000 16/B374D848", "0/1000000 16/B374D848 16"],
        &[
            "0/01000000 0/2",
            "0/A",
            "0/A 0/B 0/C",
            "0/A 0/B 016",
            "0/A 0/B +16",
            "0/A 0/B 16 ",
            "0/A 0/B  16",
            "0/A 0/B 16 17",
            "0/A 0/B 65536",
        ],
    );
    only::<VersionPick>(&["latest", "v7"], &["Latest", "v07", "7", "v", "v-1"]);
    only::<Option<VersionPick>>(&["none", "v7"], &["None", ""]);
    only::<LogHead>(
        &[&format!("216 {}", "0a".repeat(32))],
        &[&format!("216 {}", "0A".repeat(32)), "216 0a", "216"],
    );
    only::<Base64>(&["QQ==", "QUI=", "QUJD"], &["QQ", "QR==", "Q Q=", "QQ==="]);
}

#[test]
fn signed_statements_and_entries_have_one_spelling() {
    let world = World::lived();
    for entry in &world.entries {
        let bytes = entry.encode();
        assert_eq!(Entry::parse(&bytes).as_ref(), Ok(entry));
        assert_eq!(
            Signed::parse(entry.signed.encode().as_bytes()).as_ref(),
            Ok(&entry.signed)
        );
        let step = 1 + bytes.len() / 400;
        for at in (0..bytes.len()).step_by(step) {
            for flip in [1, 2, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                if let Ok(found) = Entry::parse(&changed) {
                    assert_eq!(found.encode(), changed, "two spellings of one entry");
                }
            }
            assert!(
                Entry::parse(&bytes[..at]).is_err() || bytes[at - 1] == b'\n',
                "cut at {at}"
            );
        }
    }
    let signed = world.entries[1].signed.encode();
    for bad in [
        signed.replace("\n\nsignature: ", "\nsignature: "),
        signed.replace("signature: ", "Signature: "),
        format!("{signed}\n"),
        format!("{signed}note: more\n"),
        signed.trim_end().to_owned(),
        signed.replace("signature: ", "signature:  "),
    ] {
        assert!(Signed::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let text = world.entries[1].signed.text();
    let many: String = (0..33)
        .map(|n| format!("signature: officer-{n} QQ==\n"))
        .collect();
    assert!(Signed::parse(format!("{text}\n{many}").as_bytes()).is_err());
    assert_eq!(
        Signed::unsigned(text).unwrap().id(),
        Sha256::of(text.as_bytes())
    );
}

fn line() -> impl Strategy<Value = Line> {
    let allowed = any::<char>().prop_filter("allowed", |c| is_allowed(*c) && *c != ' ');
    proptest::collection::vec(
        prop_oneof![
            allowed,
            prop_oneof!["[ -~]"].prop_map(|s: String| s.chars().next().unwrap())
        ],
        1..80,
    )
    .prop_filter_map("a line", |chars| {
        use unicode_normalization::UnicodeNormalization;
        let text: String = chars.into_iter().nfc().filter(|c| is_allowed(*c)).collect();
        text.nfc().collect::<String>().trim().parse().ok()
    })
}

fn epochs() -> impl Strategy<Value = EpochSet> {
    proptest::collection::vec(1_u32..60, 1..30)
        .prop_filter_map("a set", |all| EpochSet::of(all.into_iter().map(EpochNo)))
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(title in line(), reason in line(), salt in any::<[u8; 32]>(), set in epochs(),
                                  millis in 0_u64..253_402_300_800_000, lsn in any::<u64>(), sequence in any::<u64>()) {
        let time = Time::from_millis(millis).unwrap();
        prop_assert_eq!(time.to_string().parse::<Time>(), Ok(time));
        prop_assert_eq!(set.to_string().parse::<EpochSet>(), Ok(set.clone()));
        prop_assert_eq!(EpochSet::of(set.iter()), Some(set.clone()));
        prop_assert_eq!(set.iter().count() as u64, set.count());
        let world = SAMPLES.with(Clone::clone);
        let mut annex = world.0;
        annex.salt = Bytes32(salt);
        annex.registry[0].title = title;
        annex.reason = reason;
        prop_assert_eq!(Annex::parse(&annex.text()), Ok(annex));
        let mut mark = world.1;
        (mark.at, mark.lsn, mark.sequence) = (time, Lsn(lsn), sequence);
        prop_assert_eq!(Mark::parse(&mark.text()), Ok(mark));
        let mut opened = world.2;
        opened.epochs = set;
        prop_assert_eq!(Opened::parse(&opened.text()), Ok(opened));
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "(legation/[a-z]{1,8}/v1\n)?([a-z]{1,6}: [ -~]{0,20}\n){0,5}\n?(signature: [a-z0-9-]{1,9} [A-Za-z0-9+/=]{0,20}\n)?") {
        let _ = Entry::parse(&bytes);
        let _ = Signed::parse(&bytes);
        let _ = crate::sshsig::Sshsig::parse(&bytes);
        let _ = crate::sshsig::SshPublicKey::from_blob(&bytes);
        let _ = Statement::parse(&text);
        if let Ok(signed) = Signed::parse(text.as_bytes()) {
            prop_assert_eq!(signed.encode(), text);
        }
    }

    #[test]
    fn sets_of_epochs_behave_as_sets(one in epochs(), two in epochs()) {
        let hand = two.iter().all(|epoch| one.contains(epoch));
        prop_assert_eq!(one.covers(&two), hand);
        prop_assert_eq!(Some(one.last()), one.iter().last());
    }
}

thread_local! {
    static SAMPLES: (Annex, Mark, Opened) = {
        let find = |name: &str| samples().into_iter().find(|s| s.kind().name == name).unwrap().text();
        (Annex::parse(&find("annex")).unwrap(), Mark::parse(&find("mark")).unwrap(), Opened::parse(&find("opened")).unwrap())
    };
}

#[test]
fn names_are_never_taken_for_keys() {
    assert!(matches!(v::<Signer>("officer-1"), Signer::Officer(_)));
    assert!(matches!(v::<Signer>(&"ab".repeat(32)), Signer::Key(_)));
    assert!("ab".repeat(31).parse::<Signer>().is_err());
}

mod spec;
