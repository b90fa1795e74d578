//! What can found a state, and what cannot.

use crate::example::{World, v};
use crate::id::{Generation, Sha256};
use crate::mandate::Role;
use crate::policy::{Refusal, Rule, State};
use crate::statement::*;

fn found(change: impl FnOnce(&mut Mandate)) -> Result<World, Refusal> {
    let (unfounded, mut mandate) = World::unfounded();
    change(&mut mandate);
    unfounded.found(mandate)
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Mandate), rule: Rule, says: &str) {
    let refusal = found(change).err().expect("refused");
    assert_eq!(refusal.rule, rule, "{refusal}");
    assert!(refusal.message.contains(says), "{refusal}");
}

#[test]
fn a_whole_mandate_founds_a_state() {
    let world = found(|_| {}).unwrap();
    let text = world.entries[0].signed.text();
    assert_eq!(
        world.state.id(),
        crate::id::StateId::of_mandate(text.as_bytes())
    );
    assert_eq!(world.state.size(), 1);
    assert_eq!(world.state.generation(), Some(Generation(1)));
    let role = |what: &str| world.state.role_of(&Sha256::of(what.as_bytes()));
    assert_eq!(role("tls a"), Some(Role::Embassy(v("a"))));
    assert_eq!(role("tls w-2"), Some(Role::Writer(v("w-2"))));
    assert_eq!(role("tls desk"), Some(Role::Client(v("desk"))));
    assert_eq!(role("tls thief"), None);
    // Without a rule for officers abroad there are no shares of B.
    found(|m| {
        m.abroad = None;
        m.share.iter_mut().for_each(|share| share.b = None);
    })
    .unwrap();
}

#[test]
fn every_officer_signs_the_founding() {
    let (unfounded, mandate) = World::unfounded();
    let four =
        State::found(&unfounded.entry(&mandate, &[1, 2, 3, 5]), &unfounded.held).unwrap_err();
    assert_eq!((four.rule, four.exit_code()), (Rule::Quorum, 5));
    assert!(four.message.contains("still missing: officer-4"), "{four}");
    let twice = State::found(
        &unfounded.entry(&mandate, &[1, 2, 3, 5, 5]),
        &unfounded.held,
    )
    .unwrap_err();
    assert_eq!(twice.rule, Rule::Quorum);
    let without = State::found(
        &unfounded.entry(&mandate, &[1, 2, 3, 4, 5]),
        &crate::attachments::Held::new(),
    )
    .unwrap_err();
    assert_eq!(without.rule, Rule::Founding);
    let mut entry = unfounded.entry(&mandate, &[1, 2, 3, 4, 5]);
    entry.index = 1;
    assert_eq!(
        State::found(&entry, &unfounded.held).unwrap_err().rule,
        Rule::Sequence
    );
    let world = World::new();
    let mark = Entry {
        index: 0,
        received: world.now,
        signed: world.write(1, World::lived().mark(1)),
    };
    assert_eq!(
        State::found(&mark, &world.held).unwrap_err().rule,
        Rule::Founding
    );
}

#[test]
fn what_this_version_cannot_hold_to_is_refused() {
    refused(|m| m.suite = 2, Rule::Unsupported, "suite 2");
    refused(
        |m| m.witness = Some(v("w")),
        Rule::Unsupported,
        "write 'witness: none'",
    );
    refused(
        |m| m.ack = KOfN { k: 2, n: 3 },
        Rule::Unsupported,
        "write 'ack: 1 of 1'",
    );
    refused(
        |m| {
            m.embassy.push(EmbassyRow {
                label: v("b"),
                ..m.embassy[0].clone()
            })
        },
        Rule::Unsupported,
        "exactly one",
    );
    let erase = ThresholdRow {
        act: Act::Erase,
        need: 4,
        abroad: 1,
    };
    refused(
        |m| m.threshold.push(erase),
        Rule::Unsupported,
        "'erase' is not supported",
    );
}

#[test]
fn a_mandate_is_whole_in_itself() {
    let refused = |change: &dyn Fn(&mut Mandate), says| refused(change, Rule::Founding, says);
    refused(
        &|m| m.state = Of::State(crate::id::StateId([0; 20])),
        "state: this",
    );
    refused(&|m| m.sequence = 2, "the sequence 1");
    refused(
        &|m| m.previous = Some(Sha256::of(b"")),
        "no previous mandate",
    );
    refused(
        &|m| m.need = KOfN { k: 3, n: 6 },
        "speaks of 6 officers; there are 5",
    );
    refused(&|m| m.need = KOfN { k: 0, n: 5 }, "cannot be met");
    refused(&|m| m.abroad = Some(KOfN { k: 3, n: 2 }), "cannot be met");
    refused(&|m| m.abroad = Some(KOfN { k: 1, n: 3 }), "there are 2");
    refused(
        &|m| m.officer[1].name = v("officer-1"),
        "officer-1 is named twice",
    );
    refused(
        &|m| m.officer[1].key = m.officer[0].key.clone(),
        "is named twice",
    );
    refused(&|m| m.threshold[0].need = 6, "cannot be met");
    refused(&|m| m.threshold[0].need = 2, "below what opens the vault");
    refused(&|m| m.threshold[0].abroad = 0, "below what opens the vault");
    refused(&|m| _ = m.threshold.pop(), "no threshold for 'grant'");
    refused(&|m| m.vault.clear(), "no vault generation");
    refused(&|m| m.vault[1].generation = Generation(7), "without a gap");
    refused(
        &|m| _ = m.share.pop(),
        "19 shares are named; every officer and generation make 20",
    );
    refused(&|m| m.share[0].officer = v("officer-2"), "is named twice");
    refused(
        &|m| m.share[0].b = Some(Sha256::of(b"b")),
        "share B belongs to officers abroad",
    );
    refused(
        &|m| m.share[4].b = None,
        "share B belongs to officers abroad",
    );
    refused(&|m| m.share[1].a = m.share[0].a, "share digest");
    refused(
        &|m| m.registry[0].class = v("never"),
        "'never', which is not defined",
    );
    refused(&|m| m.registry[0].writer = v("w-9"), "which is no writer");
    refused(&|m| m.registry[0].embassy = v("z"), "which is no embassy");
    refused(&|m| m.registry[0].id = m.registry[1].id, "is named twice");
    refused(&|m| m.client[0].tls = m.writer[0].tls, "TLS key");
    refused(&|m| m.writer[1].key = m.writer[0].key, "is named twice");
    refused(
        &|m| m.keyring = Sha256::of(b"elsewhere"),
        "send it as an attachment first",
    );
    refused(
        &|m| m.vault[0].key = Sha256::of(b"no such key"),
        "lacks the vault key",
    );
    refused(
        &|m| m.vault[0].key = m.embassy[0].log_key,
        "is not a vault key",
    );
    refused(
        &|m| _ = m.writer.pop().map(|_| m.registry.pop()),
        "which the mandate does not name",
    );
}

#[test]
fn a_damaged_keyring_is_found() {
    let (mut unfounded, mut mandate) = World::unfounded();
    let keyring = Keyring::of([vec![1; 40], vec![2; 40]]);
    let (mut swapped, mut forged) = (keyring.clone(), keyring);
    swapped.key.reverse();
    forged.key[0].bytes.0[0] ^= 1;
    for bad in [swapped, forged] {
        assert!(bad.check().unwrap_err().to_string().contains("damaged"));
        mandate.keyring = unfounded.held.add(bad.text());
        let refusal = State::found(
            &unfounded.entry(&mandate, &[1, 2, 3, 4, 5]),
            &unfounded.held,
        )
        .unwrap_err();
        assert_eq!(refusal.rule, Rule::Founding);
    }
}
