use super::*;
use crate::store::Store;

fn state(byte: u8) -> StateId {
    StateId([byte; 20])
}

#[test]
fn one_process_writes_and_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let writer = StateDir::create(dir.path(), &state(1)).unwrap();
    let second = StateDir::create(dir.path(), &state(1)).unwrap_err();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    // Another state below the same path is nobody's business.
    StateDir::create(dir.path(), &state(2)).unwrap();
    let reader = StateDir::open_reader(dir.path(), &state(1)).unwrap();
    let digest = writer.put_attachment(b"keyring").unwrap();
    assert_eq!(reader.attachment(&digest).unwrap().unwrap(), b"keyring");
    assert_eq!(reader.attachments().unwrap(), [digest]);
    assert!(reader.put_attachment(b"other").is_err());
    assert_eq!(StateDir::states(dir.path()).unwrap(), [state(1), state(2)]);
    drop(writer);
    let again = StateDir::create(dir.path(), &state(1)).unwrap();
    assert!(again.objects().capabilities().durable);
}

#[test]
fn another_format_suite_or_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(StateDir::create(dir.path(), &state(1)).unwrap());
    let path = dir.path().join(state(1).to_string()).join(FORMAT);
    let good = fs::read_to_string(&path).unwrap();
    let check = |text: String, expect: &str| {
        fs::write(&path, text).unwrap();
        for error in [
            StateDir::create(dir.path(), &state(1)).unwrap_err(),
            StateDir::open_reader(dir.path(), &state(1)).unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Format { .. }), "{error}");
            assert!(error.to_string().contains(expect), "{error}");
        }
    };
    check(
        good.replace("format: 1", "format: 2"),
        "format \"2\" is not known",
    );
    check(
        good.replace("suite: 1", "suite: 9"),
        "suite \"9\" is not known",
    );
    check(
        good.replace(&state(1).to_string(), &state(2).to_string()),
        "belongs to the state",
    );
    check(String::new(), "not one");
    check(format!("{good}more\n"), "not one");
    fs::write(&path, &good).unwrap();
    StateDir::create(dir.path(), &state(1)).unwrap();
    // Content without FORMAT is not taken over.
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        StateDir::create(dir.path(), &state(1)).unwrap_err(),
        StoreError::Format { .. }
    ));
    assert!(matches!(
        StateDir::open_reader(dir.path(), &state(9)).unwrap_err(),
        StoreError::NotFound { .. }
    ));
}

#[test]
fn releases_stand_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let writer = StateDir::create(dir.path(), &state(1)).unwrap();
    let order: OrderId = "2026-11-22-7f2c91d0".parse().unwrap();
    let [early, late, desk, other] = [1, 2, 3, 4].map(|n| Sha256([n; 32]));
    assert_eq!(writer.releases_to(&order, &late).unwrap(), []);
    assert_eq!(writer.released().unwrap(), []);
    let put = |to, from, bytes: &[u8]| writer.put_release(&order, to, from, bytes).unwrap();
    assert_eq!(put(&early, &desk, b"keys"), Put::Created);
    assert_eq!(put(&late, &desk, b"keys"), Put::Created);
    assert_eq!(put(&late, &desk, b"keys"), Put::Existing);
    assert_eq!(put(&late, &other, b"more"), Put::Created);
    let found = writer.releases_to(&order, &late).unwrap();
    let read = |name| writer.release(name).unwrap().unwrap();
    assert_eq!(
        found.iter().map(read).collect::<Vec<_>>(),
        [b"keys", b"more"]
    );
    assert_eq!(writer.releases_of(&order).unwrap().len(), 3);
    assert_eq!(writer.released().unwrap(), std::slice::from_ref(&order));

    // One that is damaged is told, and replaced by the right bytes.
    let path = writer.root().join(found[0].path());
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"keyS").unwrap();
    let damaged = writer.release(&found[0]).unwrap_err();
    assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
    assert_eq!(put(&late, &desk, b"keys"), Put::Created);
    assert_eq!(read(&found[0]), b"keys");
}

#[test]
fn a_damaged_attachment_is_told_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let writer = StateDir::create(dir.path(), &state(1)).unwrap();
    let digest = writer.put_attachment(b"keyring").unwrap();
    let path = writer.root().join("attachment").join(digest.to_string());
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"keyrinG").unwrap();
    assert!(matches!(
        writer.attachment(&digest),
        Err(StoreError::Damaged { .. })
    ));
    // The right bytes take its place.
    assert_eq!(writer.put_attachment(b"keyring").unwrap(), digest);
    assert_eq!(writer.attachment(&digest).unwrap().unwrap(), b"keyring");
}
