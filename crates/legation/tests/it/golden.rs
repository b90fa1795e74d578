//! The golden store: made once by the first format 1, checked in, and read by every later build.
//!
//! `spec/golden/v1` holds a store, a copy of its log, three officers' shares in the clear (of a state that exists
//! nowhere else), and the files that were captured. `LEGATION_BLESS=1` makes it anew; a change of format makes a `v2`
//! beside it instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use legation_core::id::{EpochNo, Generation};
use legation_core::keys::EpochRoot;
use legation_core::replay::replay;
use legation_core::slip;
use legation_core::source::{ObjectKind, ObjectSource};
use legation_core::vault::{ShareFile, VaultShare, rebuild};
use legation_registry::tree::TreeRestorer;
use legation_repo::log::Mirror;
use legation_repo::reader::{Check, VersionName, VersionReader};
use legation_repo::state::StateDir;
use legation_repo::store::Objects;
use legation_world::args;
use legation_world::cli::stock;
use legation_world::fixtures::Registry;

use crate::survive::{LONG, small};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/golden/v1")
}

#[test]
fn the_golden_store_opens_and_equals_what_was_captured() {
    if std::env::var_os("LEGATION_BLESS").is_some() {
        bless();
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let golden = complete(scratch.path());
    let program = env!("CARGO_BIN_EXE_legation");
    for args in [
        args!["verify", "--store", golden.join("store")],
        args!["log", "verify", golden.join("log")],
    ] {
        let ran = Command::new(program)
            .args(&args)
            .output()
            .expect("legation runs");
        assert!(
            ran.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    let log = Mirror::open(&golden.join("log")).expect("the log's copy");
    let entries: Vec<_> = log.entries(0).collect::<Result<_, _>>().expect("entries");
    let report = replay(&entries, &log);
    assert!(report.is_lawful(), "{:?}", report.refused);
    let state = report.state.expect("a state");
    let (_, registry) = state.registries().next().expect("a registry");
    let version = registry.head().expect("a version");

    let shares = shares(&golden);
    let store = StateDir::open_reader(&golden.join("store"), &state.id()).expect("the store");
    let objects: Arc<dyn ObjectSource> = Arc::new(Objects(
        legation_repo::dir::DirStore::open_reader(&store.root().join("object")).expect("objects"),
    ));
    let mut roots: BTreeMap<EpochNo, EpochRoot> = BTreeMap::new();
    for epoch in &registry.epochs {
        let vault = rebuild(epoch.generation, &of(&shares, epoch.generation), true)
            .expect("three shares, one from abroad");
        let bytes = objects
            .read(ObjectKind::Slip, &epoch.slip, 0, 4096)
            .expect("a slip");
        roots.insert(
            epoch.epoch,
            slip::open(&vault, &bytes).expect("a slip that opens"),
        );
        // Two shares give another seed, and another seed opens nothing.
        let two: Vec<_> = of(&shares[..2], epoch.generation);
        assert!(
            rebuild(epoch.generation, &two, false)
                .map_or(true, |wrong| slip::open(&wrong, &bytes).is_err()),
            "fewer shares opened epoch {}",
            epoch.epoch
        );
    }
    let name = VersionName {
        state: state.id(),
        registry: registry.row.id,
        version: version.commit.version,
        list: version.commit.packs.list,
        root: legation::recover::start::frame_ref(&version.commit.root),
    };
    let reader = VersionReader::open(objects, Arc::new(roots), &name, Check::Whole, 1 << 22)
        .expect("the version");
    let to = tempfile::tempdir().expect("a directory");
    let target = to.path().join("files");
    let mut restorer = TreeRestorer::new(&target).expect("an empty target");
    reader
        .restore(0, b"", &mut restorer, &mut |_| {})
        .expect("a restore");
    restorer.finish().expect("its end");
    stock(
        "diff",
        args!["-r", "--no-dereference", target, golden.join("files")],
        b"",
    )
    .expect("diff")
    .ok()
    .expect("every byte equal");
}

/// A copy with the empty directories that a version control system does not keep.
fn complete(scratch: &Path) -> PathBuf {
    let status = Command::new("cp")
        .arg("-a")
        .arg(golden())
        .arg(scratch)
        .status();
    assert!(status.expect("cp").success());
    let copy = scratch.join("v1");
    let state = fs::read_dir(copy.join("store")).expect("the store").next();
    let state = state.expect("a state").expect("an entry").path();
    for empty in ["journal", "release", "object/tmp"] {
        fs::create_dir_all(state.join(empty)).expect("a directory");
    }
    fs::create_dir_all(copy.join("files/empty")).expect("a directory");
    copy
}

/// The shares of officers 1, 2 and 4.
fn shares(golden: &Path) -> Vec<ShareFile> {
    [1, 2, 4]
        .map(|n| {
            fs::read_to_string(golden.join(format!("shares/officer-{n}.share"))).expect("a share")
        })
        .iter()
        .map(|text| ShareFile::decode(text).expect("a share file"))
        .collect()
}

fn of(files: &[ShareFile], generation: Generation) -> Vec<VaultShare> {
    files
        .iter()
        .flat_map(|f| {
            f.shares
                .iter()
                .filter(|s| s.generation == generation)
                .cloned()
        })
        .collect()
}

fn bless() {
    let mut world = small(1, &[Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("a version");
    for agent in &mut world.agents {
        agent.kill();
    }
    world.agents.clear();
    let _ = fs::remove_dir_all(golden());
    fs::create_dir_all(golden().join("shares")).expect("a directory");
    world
        .mirror_log(&golden().join("log"))
        .expect("mirror")
        .ok()
        .expect("a copy of the log");
    world.stop_embassy().expect("the embassy stops");
    let copy = |from: PathBuf, to: &str| {
        let status = Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(golden().join(to))
            .status()
            .expect("cp");
        assert!(status.success());
    };
    copy(world.store(), "store");
    copy(world.press().root, "files");
    for n in [1, 2, 4] {
        let officer = &world.officers[n - 1];
        let text = stock(
            "age",
            args!["-d", "-i", officer.age_identity(), officer.share()],
            b"",
        )
        .expect("age")
        .ok()
        .expect("an envelope that opens");
        fs::write(golden().join(format!("shares/officer-{n}.share")), text.out).expect("a share");
    }
}
