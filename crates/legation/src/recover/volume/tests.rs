use super::*;

/// Somewhere on the tmpfs that machines have.
fn place(name: &str) -> PathBuf {
    PathBuf::from(format!(
        "/dev/shm/legation-test-{}-{name}",
        std::process::id()
    ))
}

#[test]
fn a_volume_is_in_memory_private_and_gone_when_wiped() {
    let path = place("wiped");
    let volume = Volume::open(&path, None).unwrap();
    assert!(on_tmpfs(&path).unwrap());
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    std::fs::create_dir(path.join("land")).unwrap();
    std::fs::write(path.join("land/page"), b"plain").unwrap();
    volume.fits(1).unwrap();
    assert!(
        volume
            .fits(u64::MAX)
            .unwrap_err()
            .message
            .contains("are needed in memory")
    );
    assert_eq!(Volume::open(&path, None).unwrap_err().code, Code::Locked);
    volume.wipe().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_directory_on_a_disk_is_no_place_for_plaintext() {
    let path = std::env::temp_dir().join(format!("legation-test-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    if !on_tmpfs(&path).unwrap() {
        let failure = Volume::share(&path, 1 << 20, None).unwrap_err();
        assert!(failure.message.contains("is on a disk"), "{failure}");
    }
    std::fs::remove_dir(&path).unwrap();
}
