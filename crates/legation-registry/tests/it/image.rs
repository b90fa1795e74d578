//! Disk images and volumes while they are written to, on real file systems, judged by e2fsck and diff.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use legation_core::manifest::{Entry, Incomplete};
use legation_core::source::{Sink, SourceResult};
use legation_registry::Error;
use legation_registry::image::{ImageReport, Shape, Snapshot, capture, oci, snapshot};
use legation_registry::program::Program;
use legation_registry::tree::{Parent, TreeRestorer};
use sha2::{Digest, Sha256};

use crate::loops::{Device, Mounted, ok, text};
use crate::memory::MemorySink;

fn take(image: &Path, how: &Snapshot, marker: &Path) -> Result<(MemorySink, ImageReport), Error> {
    let mut sink = MemorySink::default();
    let report = capture(image, Shape::Disk, how, marker, &mut sink, &|| false)?;
    Ok((sink, report))
}

fn give_back(sink: &MemorySink, to: &Path) {
    let mut restorer = TreeRestorer::new(to).unwrap();
    sink.restore(&mut restorer).unwrap();
    restorer.finish().unwrap();
}

fn program(text: &str) -> Program {
    Program {
        argv: ["/bin/sh", "-ec", text].map(Into::into).into(),
        timeout: Duration::from_secs(120),
        ..Program::default()
    }
}

/// Does something when the first bytes of the image come.
struct Meddler<'a>(MemorySink, Option<&'a mut dyn FnMut()>);

impl Sink for Meddler<'_> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        self.0.begin(entry)
    }
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        if let Some(act) = self.1.take() {
            act();
        }
        self.0.data(offset, bytes)
    }
    fn end(&mut self) -> SourceResult<()> {
        self.0.end()
    }
    fn mark(&mut self, mark: &Incomplete) -> SourceResult<()> {
        self.0.mark(mark)
    }
    fn discard(&mut self) -> SourceResult<()> {
        self.0.discard()
    }
    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        self.0.unchanged(entry)
    }
    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.0.meta(key, value)
    }
}

#[test]
fn a_volume_that_is_written_to_comes_back_clean_through_its_owners_hooks() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Mounted::new(dir.path(), "live", "ext4", 96);
    let (copy, marker) = (dir.path().join("copy"), dir.path().join("marker"));
    let (at, image) = (text(&volume.at), text(&volume.image));
    // Frozen for the time of a copy: what a volume manager does in an instant.
    let create = format!(
        "fsfreeze -f {at}; trap 'fsfreeze -u {at}' EXIT; cp {image} {}",
        text(&copy)
    );
    let how = Snapshot::Hooks {
        create: program(&create),
        remove: program(&format!("rm -f {}", text(&copy))),
        path: copy.clone(),
    };
    let journal: Mutex<BTreeMap<PathBuf, Vec<u8>>> = Mutex::default();
    let stop = AtomicBool::new(false);
    let (before, sink) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let name = PathBuf::from(format!("{}/{i}", i % 10));
                let bytes = vec![(i * 7) as u8; 1000 + 977 * (i % 90)];
                fs::create_dir_all(volume.at.join(name.parent().unwrap())).unwrap();
                let mut file = fs::File::create(volume.at.join(&name)).unwrap();
                file.write_all(&bytes).unwrap();
                file.sync_all().unwrap();
                journal.lock().unwrap().insert(name, bytes);
                if i % 3 == 2 {
                    let old = PathBuf::from(format!("{}/{}", (i - 2) % 10, i - 2));
                    journal.lock().unwrap().remove(&old);
                    fs::remove_file(volume.at.join(&old)).unwrap();
                }
            }
        });
        while journal.lock().unwrap().len() < 100 {
            std::thread::yield_now();
        }
        let before = journal.lock().unwrap().clone();
        let taken = take(&volume.image, &how, &marker);
        stop.store(true, Ordering::SeqCst);
        (before, taken.unwrap().0)
    });
    assert!(
        !copy.exists() && !marker.exists(),
        "the snapshot is removed"
    );
    let to = dir.path().join("to");
    give_back(&sink, &to);
    let restored = to.join("live.img");
    // As after a power cut: the journal is replayed, then nothing is wrong.
    ok("e2fsck", &["-fp", text(&restored)]);
    ok("e2fsck", &["-fn", text(&restored)]);
    let found = Mounted::of(&restored, &dir.path().join("found"), "ro");
    let (mut equal, after) = (0, journal.lock().unwrap());
    for (name, bytes) in before.iter().filter(|(name, _)| after.contains_key(*name)) {
        assert!(fs::read(found.at.join(name)).unwrap() == *bytes, "{name:?}");
        equal += 1;
    }
    println!("{equal} files that were synced before the snapshot are equal");
    assert!(equal >= 50, "{equal}");
}

#[test]
fn a_clone_is_of_one_moment_and_always_goes() {
    let dir = tempfile::tempdir().unwrap();
    let xfs = Mounted::new(dir.path(), "pool", "xfs", 320);
    let (image, marker) = (xfs.at.join("vm.raw"), dir.path().join("marker"));
    let bytes: Vec<u8> = (0..24u32 << 20).map(|i| (i / 4096 + i) as u8 | 1).collect();
    fs::write(&image, &bytes).unwrap();
    let write = || {
        let file = fs::File::options().write(true).open(&image).unwrap();
        (0..24).for_each(|mib| file.write_all_at(&[0; 5000], mib << 20).unwrap());
    };
    let names = || fs::read_dir(&xfs.at).unwrap().count();
    let mut meddle = write;
    let mut sink = Meddler(MemorySink::default(), Some(&mut meddle));
    let how = Snapshot::Reflink;
    capture(&image, Shape::Disk, &how, &marker, &mut sink, &|| false).unwrap();
    assert!(
        sink.0.content("vm.raw") == bytes,
        "as it was when the capture began"
    );
    assert_eq!((names(), marker.exists()), (1, false));

    // Without a snapshot the same is noticed.
    fs::write(&image, &bytes).unwrap();
    let mut meddle = write;
    let mut sink = Meddler(MemorySink::default(), Some(&mut meddle));
    let failed = capture(
        &image,
        Shape::Disk,
        &Snapshot::None,
        &marker,
        &mut sink,
        &|| false,
    );
    assert!(
        failed
            .unwrap_err()
            .to_string()
            .contains("changed while it was read")
    );

    // Killed in between: it is there, and the next start takes it away.
    let mut die = || panic!("killed");
    let mut sink = Meddler(MemorySink::default(), Some(&mut die));
    let killed = catch_unwind(AssertUnwindSafe(|| {
        capture(&image, Shape::Disk, &how, &marker, &mut sink, &|| false)
    }));
    assert!(killed.is_err());
    assert_eq!((names(), marker.exists()), (2, true));
    snapshot::clean(&marker, &|| false).unwrap();
    assert_eq!((names(), marker.exists()), (1, false));
    // So does one that a capture finds.
    let mut sink = Meddler(MemorySink::default(), Some(&mut die));
    let killed = catch_unwind(AssertUnwindSafe(|| {
        capture(&image, Shape::Disk, &how, &marker, &mut sink, &|| false)
    }));
    assert!(killed.is_err());
    let (sink, _) = take(&image, &how, &marker).unwrap();
    assert!(sink.content("vm.raw") == fs::read(&image).unwrap());
    assert_eq!((names(), marker.exists()), (1, false));

    // Where files cannot be cloned it says so, and leaves nothing.
    let plain = Mounted::new(dir.path(), "plain", "ext4", 8);
    let image = plain.at.join("vm.raw");
    fs::write(&image, b"x").unwrap();
    let failed = take(&image, &how, &marker).err().unwrap();
    assert!(
        failed.to_string().contains("cannot clone files"),
        "{failed}"
    );
    assert!(!marker.exists() && !plain.at.join(".vm.raw.legation-snapshot").exists());
}

#[test]
fn hooks_that_fail_leave_nothing_behind_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("vm"), dir.path().join("copy"));
    let marker = dir.path().join("marker");
    fs::write(&image, b"image").unwrap();
    let hooks = |create: &str, remove: &str| Snapshot::Hooks {
        create: program(create),
        remove: program(remove),
        path: copy.clone(),
    };
    let remove = format!("rm {}", text(&copy));
    let half = format!("echo half >{}; echo no space >&2; exit 5", text(&copy));
    let failed = take(&image, &hooks(&half, &remove), &marker)
        .err()
        .unwrap()
        .to_string();
    assert!(failed.contains("status 5; it said: no space"), "{failed}");
    assert!(!copy.exists() && !marker.exists());
    // One that cannot be removed is not followed by another; the version is whole.
    let create = format!("cp {} {}", text(&image), text(&copy));
    let never = hooks(&create, "exit 1");
    let (sink, _) = take(&image, &never, &marker).unwrap();
    assert_eq!(sink.content("vm"), b"image");
    assert!(copy.exists() && marker.exists());
    assert!(take(&image, &never, &marker).is_err());
}

#[test]
fn a_device_has_its_size_and_zeros_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (image, marker) = (dir.path().join("disk"), dir.path().join("marker"));
    let file = fs::File::create(&image).unwrap();
    file.set_len(64 << 20).unwrap();
    for at in [0u64, (5 << 20) + 100, (64 << 20) - 70_000] {
        file.write_all_at(&[7; 70_000], at).unwrap();
    }
    // Zeros that are written and no hole.
    file.write_all_at(&vec![0; 8 << 20], 20 << 20).unwrap();
    file.sync_all().unwrap();
    let expected = fs::read(&image).unwrap();
    let device = Device::of(&image);
    for from in [&image, &device.0] {
        let (sink, report) = take(from, &Snapshot::None, &marker).unwrap();
        assert_eq!(report.size, 64 << 20);
        assert!(report.stat.is_none(), "too young, or a device");
        let name = from.file_name().unwrap().to_str().unwrap();
        assert!(sink.content(name) == expected);
        let given: usize = sink.entries[name.as_bytes()]
            .1
            .iter()
            .map(|(_, part)| part.len())
            .sum();
        assert!(given <= 7 * 65536, "{given}");
        let to = dir.path().join(format!("to-{name}"));
        give_back(&sink, &to);
        let restored = fs::metadata(to.join(name)).unwrap();
        assert!(restored.blocks() * 512 < 1 << 20, "it is no longer sparse");
    }
    assert!(take(Path::new("/dev/null"), &Snapshot::None, &marker).is_err());
}

/// Writes a blob; returns its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> serde_json::Value {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let dir = layout.join("blobs/sha256");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(&hex), bytes).unwrap();
    serde_json::json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
}

/// An image of two layers by hand, as the OCI image layout has it.
fn layout(layout: &Path) -> [PathBuf; 2] {
    let kind = |of: &str| format!("application/vnd.oci.image.{of}");
    let layers = [1u8, 2].map(|seed| {
        let bytes: Vec<u8> = (0..3_000_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed)
            .collect();
        blob(layout, &kind("layer.v1.tar+gzip"), &bytes)
    });
    let config = blob(
        layout,
        &kind("config.v1+json"),
        br#"{"architecture":"amd64","os":"linux"}"#,
    );
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let manifest = blob(
        layout,
        &kind("manifest.v1+json"),
        manifest.to_string().as_bytes(),
    );
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let path = |of: &serde_json::Value| {
        let digest = of["digest"].as_str().unwrap();
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    [path(&layers[1]), path(&manifest)]
}

#[test]
fn a_container_image_is_whole_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let [layer, manifest] = layout(&image);
    let run = || {
        let mut sink = MemorySink::default();
        oci::capture(&image, &Parent::default(), &mut sink, &|| false).map(|report| (sink, report))
    };
    let why = || match run() {
        Err(Error::Refused { what, .. }) => what,
        other => panic!("{:?}", other.map(|(_, report)| report)),
    };
    assert!(oci::is_layout(&image) && !oci::is_layout(dir.path()));
    let (sink, report) = run().unwrap();
    assert_eq!(report.entries, 9);
    let to = dir.path().join("to");
    give_back(&sink, &to);
    ok("diff", &["-r", text(&image), text(&to)]);

    let good = fs::read(&layer).unwrap();
    let mut bad = good.clone();
    bad[2_000_000] ^= 1;
    fs::write(&layer, &bad).unwrap();
    assert!(why().contains("is not what its name says"), "{}", why());
    fs::write(&layer, &good[..2_999_999]).unwrap();
    assert!(why().contains("is not what its name says"), "{}", why());
    fs::remove_file(&layer).unwrap();
    assert!(why().contains("is missing"), "{}", why());
    fs::write(&layer, &good).unwrap();
    run().unwrap();

    let text = fs::read(&manifest).unwrap();
    fs::write(&manifest, text.to_ascii_uppercase()).unwrap();
    assert!(why().contains("is not what its name says"), "{}", why());
    fs::write(&manifest, &text).unwrap();
    let index = image.join("index.json");
    for (wrong, says) in [
        ("{", "does not read"),
        (
            r#"{"manifests":[{"digest":"sha256:../../etc/passwd","size":1}]}"#,
            "is no digest",
        ),
        (
            r#"{"manifests":[{"digest":"md5:00","size":1}]}"#,
            "is no digest",
        ),
    ] {
        fs::write(&index, wrong).unwrap();
        assert!(why().contains(says), "{}", why());
    }
}
