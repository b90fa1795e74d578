//! What a base needs beside its packs: the epochs of the WAL that makes it consistent.

use super::*;

fn memory() -> Memory {
    Memory {
        format: 1,
        last_epoch: EpochNo(0),
        generation: Generation(1),
        term: Term(1),
        lost: BTreeSet::new(),
        wal: Vec::new(),
        version: None,
        breaks: 1,
        capturing: 0,
    }
}

fn numbers(epochs: Vec<EpochNo>) -> Vec<u32> {
    epochs.into_iter().map(|epoch| epoch.0).collect()
}

#[test]
fn a_base_needs_the_epochs_of_its_wal() {
    let mut memory = memory();
    for (from, epoch) in [(0, 1), (100, 1), (200, 2), (300, 4), (400, 5)] {
        memory.wal_begins(Lsn(from), EpochNo(epoch));
    }
    assert_eq!(numbers(memory.clone().wal_epochs(Lsn(50), Lsn(150))), [1]);
    assert_eq!(
        numbers(memory.clone().wal_epochs(Lsn(150), Lsn(301))),
        [1, 2, 4]
    );
    assert_eq!(numbers(memory.clone().wal_epochs(Lsn(200), Lsn(300))), [2]);
    // What only an earlier base needed is forgotten, and nothing else.
    assert_eq!(numbers(memory.wal_epochs(Lsn(250), Lsn(350))), [2, 4]);
    assert_eq!(numbers(memory.wal_epochs(Lsn(250), Lsn(500))), [2, 4, 5]);
    // A stream that was given up: its epoch holds nothing from where the next one goes on.
    memory.wal_begins(Lsn(350), EpochNo(6));
    assert_eq!(numbers(memory.wal_epochs(Lsn(250), Lsn(500))), [2, 4, 6]);
    // A history that begins anew, with smaller positions.
    memory.wal_begins(Lsn(10), EpochNo(7));
    assert_eq!(numbers(memory.wal_epochs(Lsn(10), Lsn(20))), [7]);
}

#[test]
fn memories_of_earlier_runs_are_read() {
    let mut value = serde_json::to_value(memory()).unwrap();
    value.as_object_mut().unwrap().remove("wal");
    assert_eq!(serde_json::from_value::<Memory>(value).unwrap(), memory());
}
