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
    volume.room().fits(1).unwrap();
    assert!(
        volume
            .room()
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
fn an_empty_volume_of_a_killed_activation_is_taken_away_and_one_in_use_is_not() {
    let path = place("left");
    if !rustix::process::geteuid().is_root() {
        // Without root nothing is mounted: what is left is a directory, ours and empty.
        drop(Volume::open(&path, None).unwrap());
        return Volume::open(&path, None).unwrap().wipe().unwrap();
    }
    let owner = Owner {
        uid: PLAIN,
        gid: PLAIN,
    };
    let used = Volume::open(&path, Some(owner)).unwrap();
    let failure = Volume::open(&path, Some(owner)).unwrap_err();
    assert_eq!(failure.code, Code::Locked, "{failure}");
    // Killed: its hold is gone, its mount is not.
    drop(used);
    assert!(Volume::foresee(&path).is_ok());
    let next = Volume::open(&path, Some(owner)).unwrap();
    std::fs::write(path.join("page"), b"plain").unwrap();
    drop(next);
    let failure = Volume::open(&path, Some(owner)).unwrap_err();
    assert_eq!(failure.code, Code::Locked, "{failure}");
    let hint = failure.hint.unwrap();
    assert!(hint.contains("umount"), "{hint}");
    assert!(
        std::process::Command::new("umount")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    assert!(
        std::fs::read_dir(&path).unwrap().next().is_none(),
        "one mount, not two"
    );
    std::fs::remove_dir(&path).unwrap();
}

#[test]
fn mounts_are_known_by_place_kind_and_source() {
    let line = r"36 35 0:44 / /srv/a\040b rw,nosuid - tmpfs legation rw,size=1k";
    assert!(is_volume(line, Path::new("/srv/a b")));
    assert!(!is_volume(line, Path::new("/srv/a")));
    for other in ["- tmpfs tmpfs", "- ext4 legation"] {
        let line = line.replace("- tmpfs legation", other);
        assert!(!is_volume(&line, Path::new("/srv/a b")));
    }
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

/// Runs `what` as a user without any right over root's files; as ourselves when we are none.
fn as_plain_user(what: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // Of this thread alone: the system call does not touch its siblings.
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(PLAIN)).unwrap();
            }
            what();
        });
        ran.join().unwrap();
    });
}

/// `nobody` on every distribution.
const PLAIN: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_directory_that_forbids_writing_is_wiped_too() {
    let path = place("read-only");
    as_plain_user(|| {
        let volume = Volume::open(&path, None).unwrap();
        assert_eq!(volume.kind(), Kind::SharedTmpfs);
        let inner = path.join("gazette/acts/1995");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("29.xml"), b"plain").unwrap();
        std::os::unix::fs::symlink("/dev/shm", inner.join("link")).unwrap();
        mode(&inner, 0o000);
        mode(&path.join("gazette/acts"), 0o555);
        volume.wipe().unwrap();
        assert!(!path.exists());
    });
    assert!(Path::new("/dev/shm").exists());
}

#[test]
fn what_cannot_be_removed_is_named_and_does_not_keep_the_rest() {
    if !rustix::process::geteuid().is_root() {
        // Somebody else's file takes somebody else.
        return;
    }
    let path = place("kept");
    // Root's directory, with a file, inside the plain user's volume; and the plain user's own files around it.
    as_plain_user(|| {
        let volume = Volume::open(&path, None).unwrap();
        std::mem::forget(volume);
        for name in ["a", "z"] {
            std::fs::create_dir(path.join(name)).unwrap();
            std::fs::write(path.join(name).join("page"), b"plain").unwrap();
        }
    });
    std::fs::create_dir(path.join("m")).unwrap();
    mode(&path.join("m"), 0o755);
    std::fs::write(path.join("m/page"), b"root's").unwrap();
    as_plain_user(|| {
        let volume = Volume {
            path: path.clone(),
            mount: None,
            kind: Kind::SharedTmpfs,
            room: 1,
        };
        let failure = volume.wipe().unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.message.contains("m/page"), "{failure}");
        assert!(failure.hint.unwrap().contains("remove"));
    });
    assert!(!path.join("a").exists() && !path.join("z").exists());
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn a_mount_that_somebody_holds_is_told_as_not_wiped() {
    let path = place("busy");
    let volume = Volume::open(&path, None).unwrap();
    if volume.mount.is_none() {
        // Only a mount can be busy.
        return volume.wipe().unwrap();
    }
    let held = std::fs::File::create(path.join("page")).unwrap();
    let failure = volume.wipe().unwrap_err();
    assert!(
        failure.message.contains("plaintext may be left"),
        "{failure}"
    );
    assert!(failure.hint.unwrap().contains("umount"));
    drop(held);
    unmount(&path, UnmountFlags::empty()).unwrap();
    std::fs::remove_dir(&path).unwrap();
}

#[test]
fn a_link_or_a_directory_of_others_is_no_place_for_plaintext() {
    let aim = place("aim");
    std::fs::create_dir(&aim).unwrap();
    let link = place("link");
    std::os::unix::fs::symlink(&aim, &link).unwrap();
    let failure = Volume::open(&link, None).unwrap_err();
    assert!(failure.message.contains("is a link"), "{failure}");
    std::fs::remove_file(&link).unwrap();

    // /dev/shm is everybody's: only what nobody else could have opened is taken.
    mode(&aim, 0o755);
    let failure = Volume::open(&aim, None).unwrap_err();
    assert!(failure.message.contains("0700"), "{failure}");
    mode(&aim, 0o700);
    if rustix::process::geteuid().is_root() {
        chown(&aim, Some(PLAIN), None).unwrap();
        let failure = Volume::open(&aim, None).unwrap_err();
        assert!(failure.message.contains("another user"), "{failure}");
        chown(&aim, Some(0), None).unwrap();
    }

    let inside = aim.join("live");
    mode(&aim, 0o770);
    let failure = Volume::open(&inside, None).unwrap_err();
    assert!(failure.message.contains("others may write"), "{failure}");
    assert!(!inside.exists());
    mode(&aim, 0o700);
    Volume::open(&inside, None).unwrap().wipe().unwrap();
    std::fs::remove_dir(&aim).unwrap();
}
