use super::*;

/// The format's own vectors: a pack, a stream, and the epoch root that they were sealed under.
#[test]
fn the_right_key_opens_and_no_other() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors");
    let root: Vec<u8> = (0..32).collect();
    for file in ["pack.bin", "journal.bin"] {
        let lock = Lock::parse(&fs::read(vectors.join(file)).unwrap()).unwrap();
        assert!(lock.opens(&root), "{file}");
        assert!(!lock.opens(&[0; 32]), "{file}");
        assert_eq!(lock.of.1, 4, "{file}");
    }
}

#[test]
fn keys_are_found_plain_in_base64_and_in_hexadecimal() {
    let root: [u8; 32] = std::array::from_fn(|i| 0xe0 | i as u8);
    let hex: String = root.iter().map(|b| format!("{b:02x}")).collect();
    let plain = [b"noise".as_slice(), &root, b"noise"].concat();
    let base64 = format!("secret: {}\n", STANDARD.encode(root));
    for bytes in [
        plain,
        format!("secret: {hex}\n").into_bytes(),
        base64.into_bytes(),
    ] {
        assert!(guesses(&bytes).contains(&root));
    }
}
