use super::{Kind, Outbox};
use crate::agent::budget::Budget;

#[test]
fn items_come_back_in_order_and_leave_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::new(1000);
    let outbox = Outbox::open(dir.path(), budget.clone()).unwrap();
    outbox.push(Kind::Pack, b"pack").unwrap();
    outbox.push(Kind::Statement, b"statement").unwrap();
    assert_eq!(budget.used(), 13);

    let outbox = Outbox::open(dir.path(), Budget::new(1000)).unwrap();
    let first = outbox.front().unwrap();
    assert_eq!(
        (first.kind, outbox.read(&first).unwrap()),
        (Kind::Pack, Some(b"pack".to_vec()))
    );
    outbox.remove(&first).unwrap();
    let second = outbox.front().unwrap();
    assert_eq!(second.kind, Kind::Statement);
    outbox.remove(&second).unwrap();
    assert!(outbox.is_empty());
    let third = outbox.push(Kind::Pack, b"later").unwrap();
    assert_eq!(outbox.front().unwrap().digest, third);
}

#[test]
fn what_was_never_finished_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path(), Budget::new(1000)).unwrap();
    outbox.push(Kind::Pack, b"of a version").unwrap();
    outbox.push(Kind::Statement, b"its commit").unwrap();
    outbox
        .push(Kind::Pack, b"of another that was cut short")
        .unwrap();
    assert_eq!(outbox.abandon_unfinished().unwrap(), 1);
    let kinds: Vec<_> = outbox.items().iter().map(|item| item.kind).collect();
    assert_eq!(kinds, [Kind::Pack, Kind::Statement]);
}

#[test]
fn a_changed_item_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path(), Budget::new(1000)).unwrap();
    outbox.push(Kind::Pack, b"pack").unwrap();
    let file = std::fs::read_dir(dir.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    std::fs::write(file.path(), b"pick").unwrap();
    let failure = outbox.read(&outbox.front().unwrap()).unwrap_err();
    assert_eq!(failure.code as u8, 4);
}

#[test]
fn a_foreign_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), b"hello").unwrap();
    let failure = Outbox::open(dir.path(), Budget::new(1000)).unwrap_err();
    assert!(failure.message.contains("notes.txt"));
}

#[test]
fn what_was_given_up_on_its_way_is_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::new(1000);
    let outbox = Outbox::open(dir.path(), budget.clone()).unwrap();
    outbox.push(Kind::Pack, b"pack").unwrap();
    let on_its_way = outbox.front().unwrap();
    // The capture fails between the shipper's look and its reading, and again before it takes the item out.
    outbox.abandon_unfinished().unwrap();
    assert_eq!(outbox.read(&on_its_way).unwrap(), None);
    outbox.remove(&on_its_way).unwrap();
    assert_eq!(budget.used(), 0, "its room is given back once");
}

#[test]
fn an_item_that_somebody_else_removed_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path(), Budget::new(1000)).unwrap();
    outbox.push(Kind::Pack, b"pack").unwrap();
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap();
    std::fs::remove_file(file.unwrap().path()).unwrap();
    let failure = outbox.read(&outbox.front().unwrap()).unwrap_err();
    assert_eq!(failure.code as u8, 4);
}

#[cfg(feature = "faults")]
#[test]
fn a_write_that_failed_leaves_nothing_for_a_later_run() {
    use legation_repo::edge::{Fault, arm, disarm};
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path(), Budget::new(1000)).unwrap();
    for fault in [Fault::Eio, Fault::LateEio] {
        arm("agent.outbox", 1, fault);
        assert!(outbox.push(Kind::Statement, b"first").is_err());
        assert!(!disarm());
    }
    outbox.push(Kind::Statement, b"second").unwrap();
    let outbox = Outbox::open(dir.path(), Budget::new(1000)).unwrap();
    let found: Vec<_> = outbox
        .items()
        .iter()
        .map(|item| outbox.read(item).unwrap())
        .collect();
    assert_eq!(found, [Some(b"second".to_vec())]);
}
