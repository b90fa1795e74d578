use proptest::prelude::*;

use super::*;

#[test]
fn frames_are_bounded() {
    assert_eq!(frame_length(b"", 100).unwrap(), None);
    assert_eq!(frame_length(b"Z\0\0\0", 100).unwrap(), None);
    assert_eq!(frame_length(b"Z\0\0\0\x05", 100).unwrap(), Some(6));
    assert!(frame_length(b"Z\0\0\0\x03", 100).is_err());
    assert!(frame_length(b"D\0\0\0\x65", 100).is_err());
    assert!(frame_length(b"HTTP/1.1 400", MAX_MESSAGE).is_err());
}

#[test]
fn rows_are_read_and_bounded() {
    let body = [&[0, 3][..], &[0, 0, 0, 2], b"ab", &[0xff; 4], &[0, 0, 0, 0]].concat();
    assert_eq!(
        row(Bytes::from(body)).unwrap(),
        [Some("ab".into()), None, Some(String::new())]
    );
    assert!(row(Bytes::from_static(&[0, 1, 0, 0, 0, 9, b'x'])).is_err());
    assert!(row(Bytes::from_static(&[0xff, 0xff])).is_err());
    assert!(row(Bytes::from_static(&[0])).is_err());
}

#[test]
fn errors_say_what_the_server_said() {
    let body = b"SFEHLER\0VFATAL\0C28000\0Mno pg_hba.conf entry\0Dmore\0Hadvice\0Fauth.c\0\0";
    let error = server_error(body);
    assert_eq!(
        (error.severity.as_str(), error.code.as_str()),
        ("FATAL", "28000")
    );
    assert_eq!(
        error.to_string(),
        "no pg_hba.conf entry (28000); more; advice"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), limit in 4usize..1000) {
        if let Ok(Some(length)) = frame_length(&bytes, limit) {
            prop_assert!((5..=limit + 1).contains(&length));
        }
        if let Ok(row) = row(Bytes::copy_from_slice(&bytes)) {
            // A lossy reading may grow: each broken byte becomes three.
            prop_assert!(row.iter().flatten().map(String::len).sum::<usize>() <= bytes.len() * 3);
        }
        let _ = server_error(&bytes);
        let mut body = Bytes::copy_from_slice(&bytes);
        while take_cstr(&mut body).is_ok() {}
        while take_u64(&mut body).is_ok() {}
        while take_u8(&mut body).is_ok() {}
        prop_assert!(body.is_empty());
    }
}
