//! An auditor's replay: it names every entry that the mandate did not allow, and goes on.

use super::replay;
use crate::attachments::Held;
use crate::example::World;
use crate::policy::Rule;
use crate::statement::{Entry, Signed};

#[test]
fn a_lawful_log_replays_to_the_embassys_own_state() {
    let world = World::lived();
    let report = replay(world.leaves(), &world.held);
    assert!(report.is_lawful());
    assert_eq!(
        (report.applied, report.repeated),
        (world.entries.len() as u64, 0)
    );
    assert_eq!(report.state.unwrap().head(), world.state.head());
}

#[test]
fn every_unlawful_entry_is_named_and_the_rest_still_counts() {
    let mut world = World::lived();
    let at = world.state.size();
    // An embassy that logs what it should have refused: an order by two, nonsense, a repeat, an unordered opening.
    let order = world.order("2026-11-22-7f2c91d0", &[1]);
    let by_two = world.approve(&order, &[1, 2]);
    let opened = world.tell(world.opened(&order, 1));
    let repeat = world.entries[3].signed.clone();
    let commit = world.write(1, world.commit(1));
    let mut leaves = world.leaves();
    let entry = |index: u64, signed: Signed| {
        Entry {
            index,
            received: world.now,
            signed,
        }
        .encode()
    };
    leaves.push(entry(at, by_two));
    leaves.push(b"nonsense".to_vec());
    leaves.push(entry(at + 2, repeat));
    leaves.push(entry(at + 3, opened));
    leaves.push(entry(at + 4, commit.clone()));
    leaves.push(entry(at + 9, commit));
    let report = replay(&leaves, &world.held);
    let refused: Vec<_> = report
        .refused
        .iter()
        .map(|(index, refusal)| (*index, refusal.rule))
        .collect();
    let wanted = [
        (at, Rule::Quorum),
        (at + 1, Rule::Text),
        (at + 3, Rule::Order),
        (at + 5, Rule::Sequence),
    ];
    assert_eq!(refused, wanted);
    assert_eq!(
        (report.repeated, report.applied),
        (1, world.entries.len() as u64 + 1)
    );
    let state = report.state.unwrap();
    assert_eq!(state.size(), leaves.len() as u64);
    assert_eq!(state.orders().count(), 0);
    // The same log without what was unlawful in it comes to the same versions.
    world.now = state.last_received();
    let last = state
        .registry(crate::example::registry(1))
        .unwrap()
        .head()
        .unwrap();
    assert_eq!(last.commit.version.0, 2);
}

#[test]
fn a_log_that_founds_nothing_is_refused_entry_by_entry() {
    let world = World::lived();
    let report = replay(world.leaves(), &Held::new());
    assert!(report.state.is_none() && report.applied == 0);
    assert_eq!(report.refused.len(), world.entries.len());
    assert!(
        report
            .refused
            .iter()
            .all(|(_, refusal)| refusal.rule == Rule::Founding)
    );
    assert!(!replay(Vec::<Vec<u8>>::new(), &Held::new()).is_lawful());
}
