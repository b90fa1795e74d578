use super::*;

fn manifest(files: &str) -> Vec<u8> {
    let head = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}],\n\"WAL-Ranges\": [\n],\n"
    );
    let sum = Sha256::of(head.as_bytes());
    format!("{head}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
}

fn file(path: &str, size: u64, crc: u32) -> String {
    let crc: String = crc
        .to_le_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!(
        "{{ {path}, \"Size\": {size}, \"Last-Modified\": \"x\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}"
    )
}

#[test]
fn every_difference_from_the_manifest_is_found() {
    let files: HashMap<_, _> = [
        (b"PG_VERSION".to_vec(), (3, 0x0102_0304)),
        (b"\xff".to_vec(), (0, 0)),
    ]
    .into_iter()
    .collect();
    let (first, second) = (
        file("\"Path\": \"PG_VERSION\"", 3, 0x0102_0304),
        file("\"Encoded-Path\": \"ff\"", 0, 0),
    );
    let good = manifest(&format!("{first},\n{second}\n"));
    check_manifest(&good, &files).unwrap();
    let says = |text: &[u8], expect: &str| {
        let error = check_manifest(text, &files).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    for (one, expect) in [
        (
            file("\"Path\": \"PG_VERSION\"", 4, 0x0102_0304),
            "PG_VERSION differs",
        ),
        (
            file("\"Path\": \"PG_VERSION\"", 3, 0x0102_0305),
            "PG_VERSION differs",
        ),
        (
            file("\"Path\": \"other\"", 3, 0x0102_0304),
            "other is in the manifest and was not sent",
        ),
        (file("\"Encoded-Path\": \"zz\"", 3, 0), "broken path"),
        (
            file("\"Path\": \"PG_VERSION\"", 3, 0x0102_0304).replace("CRC32C", "NONE"),
            "no CRC-32C",
        ),
    ] {
        says(&manifest(&format!("{one},\n{second}\n")), expect);
    }
    says(&manifest(&first), "the manifest does not name");
    says(b"{}", "no checksum");
    for at in (0..good.len() - 3).step_by(7) {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        assert!(check_manifest(&damaged, &files).is_err(), "byte {at}");
    }
}

#[test]
fn labels_and_rates_are_kept_within_bounds() {
    let mut options = BaseOptions::new("slot");
    options.label = "it's".into();
    options.max_rate_kib = Some(1);
    let command = command(&options).unwrap();
    assert!(
        command.contains("LABEL 'it''s'") && command.contains("MAX_RATE 32"),
        "{command}"
    );
    for label in ["", "a\nb", &"x".repeat(201)] {
        options.label = label.into();
        assert!(super::command(&options).is_err());
    }
}
