use super::*;

fn round<T: FromStr + fmt::Display>(text: &str)
where
    T::Err: fmt::Debug,
{
    let value: T = text.parse().unwrap();
    assert_eq!(value.to_string(), text);
}

#[test]
fn texts_round_trip() {
    round::<Digest>(&"0f".repeat(32));
    round::<StreamId>(&"a0".repeat(16));
    round::<EpochNo>("4");
    round::<VersionNo>("v7");
    round::<RegistryId>("r-3f9a1c");
    round::<RegistryId>("r-00000a");
    round::<Lsn>("0/5A1C2E80");
    round::<Lsn>("16/B374D848");
    round::<OrderId>("2026-11-22-7f2c91d0");
    round::<StateId>("lgn1-qqqq-qqqq-qqqq-qqqq-qqqq-qqqq-qqqq-qqqq");
    assert_eq!(
        "16/0B3748aF".parse::<Lsn>().unwrap().to_string(),
        "16/B3748AF"
    );
}

#[test]
fn other_spellings_are_refused() {
    for bad in ["", "04", "+4", "-1", " 4", "4294967296"] {
        assert!(bad.parse::<EpochNo>().is_err(), "{bad}");
    }
    for bad in ["7", "v", "v07", "V7"] {
        assert!(bad.parse::<VersionNo>().is_err(), "{bad}");
    }
    for bad in ["r-3F9A1C", "r-3f9a1", "3f9a1c", "r-3f9a1c0"] {
        assert!(bad.parse::<RegistryId>().is_err(), "{bad}");
    }
    for bad in ["0", "0/", "/0", "0/123456789", "0/+1"] {
        assert!(bad.parse::<Lsn>().is_err(), "{bad}");
    }
    for bad in [
        "2026-13-22-7f2c91d0",
        "2026-11-00-7f2c91d0",
        "2026-11-22-7F2C91D0",
        "2026-11-22-7f2c91d",
        "2026-11-é2-7f2c91d0",
    ] {
        assert!(bad.parse::<OrderId>().is_err(), "{bad}");
    }
    for bad in [
        "lgn1-qqqq-qqqq-qqqq-qqqq",
        "lgn1-qqqq-qqqq-qqqq-qqqq-qqqq-qqqq-qqqq-qqqb",
        "lgn1-qqqqqqqqq-qqqq-qqqq-qqqq-qqqq-qqqq-qqqq",
    ] {
        assert!(bad.parse::<StateId>().is_err(), "{bad}");
    }
}

#[test]
fn state_bits_are_big_endian() {
    let mut id = [0; 20];
    id[0] = 0b0000_1000; // the first five bits say 1
    id[19] = 0b0001_1111; // the last five bits say 31
    assert_eq!(
        StateId(id).to_string(),
        "lgn1-pqqq-qqqq-qqqq-qqqq-qqqq-qqqq-qqqq-qqql"
    );
}

#[test]
fn sha256_is_sha256() {
    // FIPS 180-2, appendix B.1.
    assert_eq!(
        Sha256::of(b"abc").to_string(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(Sha256::of_parts(&[b"a", b"", b"bc"]), Sha256::of(b"abc"));
}

proptest::proptest! {
    #[test]
    fn states_round_trip(bytes: [u8; 20]) {
        let id = StateId(bytes);
        proptest::prop_assert_eq!(id.to_string().parse::<StateId>().unwrap(), id);
    }
}
