//! Sources that are no database, the whole way: a real agent and embassy, real programs and files, back by a grant.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::process::{Daemon, Ran};
use legation_world::rng::Rng;
use legation_world::world::World;
use rustix::process::Signal;
use serde_json::Value;

use crate::survive::{LONG, small};

/// A state with one registry, whose agent captures this source; `source` is told where it may put things.
fn world(seed: u64, source: impl FnOnce(&Path) -> String) -> World {
    let mut world = small(seed, &[Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    let place = world.path("home/place");
    fs::create_dir(&place).expect("a directory");
    let config = config(&world);
    let text = fs::read_to_string(&config).expect("a configuration");
    let (before, _) = text.split_once("[[registry.source]]").expect("a source");
    let text = format!("{before}[[registry.source]]\n{}\n", source(&place));
    fs::write(&config, text).expect("a configuration");
    world
}

fn config(world: &World) -> PathBuf {
    world.path("home/agent/agent.toml")
}

fn start(world: &mut World) {
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("a version");
}

fn capture(world: &World) -> Ran {
    let config = config(world);
    let ran = args!["capture", "gazette", "--json", "--config", config];
    world.legation.run(ran).expect("running it")
}

/// Asks for a capture and does not wait for it.
fn ask(world: &World) {
    let spool = config(world).with_file_name("spool");
    let dir = spool.join(world.id(Registry::Gazette));
    fs::write(dir.join("request"), "changes\n").expect("a request");
}

/// A capture that must end well.
fn captured(world: &World) {
    let ran = capture(world);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}

/// A capture that must not; what it said.
fn refused(world: &World) -> String {
    let ran = capture(world);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    ran.out + &ran.err
}

fn status(world: &World) -> Value {
    let lag = world.lag().expect("a status");
    lag[&Registry::Gazette].raw.clone()
}

fn version(world: &World) -> u64 {
    status(world)["version"].as_u64().expect("a version")
}

/// Bytes at the embassy.
fn kept(world: &World) -> u64 {
    fn below(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).expect("a directory").flatten();
        let sizes = entries.map(|entry| {
            let path = entry.path();
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => below(&path),
                false => fs::metadata(&path).map_or(0, |file| file.len()),
            }
        });
        sizes.sum()
    }
    below(&world.store())
}

/// Three officers, one of them abroad, let the desk read the newest version.
fn restored(world: &World, to: &Path) -> Ran {
    let grant = world.order_grant("grant", "gazette").expect("a grant");
    let officers = [1, 2, 4].map(|n| &world.officers[n - 1]);
    for officer in officers {
        assert_eq!(world.approve(&grant, officer).expect("a signature").code, 0);
    }
    assert_eq!(world.submit(&grant, &officers).expect("a log").code, 0);
    assert_eq!(world.release(&grant, &officers).expect("shares").code, 0);
    assert_eq!(world.deliver(&grant).expect("a delivery").code, 0);
    let person = world.person();
    let ran = args![
        "restore", "gazette", "--order", grant.text, "--to", to, "--config", person, "--json"
    ];
    world.legation.ok(ran).expect("a restore")
}

fn versions(world: &World) -> Vec<Value> {
    let person = world.person();
    let ran = args!["versions", "gazette", "--json", "--config", person];
    let ran = world.legation.ok(ran).expect("versions");
    let records = ran.records().expect("JSON").into_iter();
    records.filter(|r| r["message_type"] == "version").collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed, "noise");
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        out.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Whether a process with these words on its command line lives.
fn lives(words: &str) -> bool {
    let procs = fs::read_dir("/proc").expect("/proc").flatten();
    let mut lines = procs.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(words))
}

#[test]
fn what_cannot_be_read_keeps_nothing_else_from_being_protected() {
    let mut world = world(71, |place| {
        format!(
            "kind = \"tree\"\npath = \"{}\"\nevery = \"1h\"",
            place.display()
        )
    });
    let place = world.path("home/place");
    fs::write(place.join("plain"), b"protected all the same").expect("a file");
    // Deeper than anybody's files are.
    let deep = vec!["d"; 520].join("/");
    fs::create_dir_all(place.join(&deep)).expect("directories");
    start(&mut world);
    let said = refused(&world);
    assert!(said.contains("deeper than 512 directories"), "{said}");
    assert!(said.contains("all else is kept"), "{said}");
    let told = status(&world)["incomplete"].clone();
    assert!(
        told.as_str().is_some_and(|t| t.contains("deeper than")),
        "{told}"
    );
    let all = versions(&world);
    assert!(
        all.iter()
            .all(|v| v["whole"] == false && v["would_start"] == true),
        "{all:?}"
    );
    // What was touched a moment ago is read once more. Then nothing changed, so there is no other version; what is wrong is
    // said as long as it is.
    let mut first = 0;
    until("no other version", || {
        let before = std::mem::replace(&mut first, version(&world));
        refused(&world);
        first == before && version(&world) == first
    });

    fs::remove_dir_all(place.join("d")).expect("no directories");
    captured(&world);
    until("a whole version", || {
        version(&world) > first && status(&world)["incomplete"] == Value::Null
    });
    let all = versions(&world);
    let wholes: Vec<_> = all.iter().map(|v| v["whole"] == true).collect();
    assert_eq!(wholes.iter().filter(|whole| **whole).count(), 1, "{all:?}");

    fs::create_dir_all(place.join(&deep)).expect("directories");
    fs::write(place.join("later"), b"this too").expect("a file");
    let before = version(&world);
    refused(&world);
    until("a version with what is later", || version(&world) > before);
    let to = world.path("desk/restored");
    let ran = restored(&world, &to);
    let record = ran.record("restored").expect("a record");
    assert_eq!(record["incomplete"], 1, "{record}");
    let said = ran.out + &ran.err;
    assert!(said.contains("missing: it lies deeper than 512"), "{said}");
    assert_eq!(
        fs::read(to.join("plain")).expect("a file"),
        b"protected all the same"
    );
    assert_eq!(fs::read(to.join("later")).expect("a file"), b"this too");
}

/// The most memory that the agent held, in KiB.
fn peak(agent: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("VmHWM").parse().expect("a number")
}

/// So many files in one directory: time and memory of a capture, and what moving them all costs.
fn many(seed: u64, count: usize, size: usize) {
    let mut world = world(seed, |place| {
        format!(
            "kind = \"tree\"\npath = \"{}\"\nevery = \"1h\"",
            place.display()
        )
    });
    let place = world.path("home/place");
    fs::write(place.join("one"), b"one").expect("a file");
    start(&mut world);
    let idle = peak(&world.agents[0]);
    let dir = place.join("acts");
    fs::create_dir(&dir).expect("a directory");
    for i in 0..count {
        let bytes = noise((seed << 32) + i as u64, size);
        fs::write(dir.join(format!("act-{i:07}.xml")), bytes).expect("a file");
    }
    let (began, before) = (Instant::now(), kept(&world));
    captured(&world);
    until("the version", || version(&world) == 2);
    let (first, shipped) = (began.elapsed(), kept(&world) - before);
    let memory = peak(&world.agents[0]);
    // Not so young that they are read again for that.
    until("the files to rest", || {
        began.elapsed() > first + Duration::from_secs(3)
    });
    fs::write(place.join("one"), b"two").expect("a file");
    captured(&world);
    until("the version", || version(&world) == 3);
    fs::rename(&dir, place.join("laws")).expect("a new name");
    let (began, before) = (Instant::now(), kept(&world));
    captured(&world);
    until("the version", || version(&world) == 4);
    let (second, moved) = (began.elapsed(), kept(&world) - before);
    let later = peak(&world.agents[0]);
    println!(
        "{count} files of {size} bytes: {first:.1?}, {} MiB shipped, peak {} MiB ({} bytes an entry over {} MiB idle); \
         all renamed: {second:.1?}, {} KiB shipped, peak {} MiB ({} bytes an entry)",
        shipped >> 20,
        memory >> 10,
        (memory - idle) * 1024 / count as u64,
        idle >> 10,
        moved >> 10,
        later >> 10,
        (later - idle) * 1024 / count as u64,
    );
    assert!(shipped > (count * size) as u64, "noise does not shrink");
    // Their entries under new names, some 60 bytes each, and none of their bytes.
    assert!(
        moved < 120 * count as u64,
        "{moved} bytes shipped for a new name"
    );
    assert!(
        later - idle < 4 * count as u64,
        "more than 4 KiB an entry: {later} KiB"
    );
}

#[test]
fn fifty_thousand_files_are_captured_and_renamed() {
    many(72, 50_000, 1500);
}

#[test]
#[ignore = "takes many minutes; it measures"]
fn a_million_files_are_captured_and_renamed() {
    many(73, 1_000_000, 300);
}

#[test]
fn a_programs_output_is_kept_if_it_ended_well() {
    let mut world = world(74, |place| {
        let script = place.join("dump");
        format!(
            "kind = \"command\"\nargv = [\"/bin/sh\", \"{}\"]\nname = \"dump.sql\"\nevery = \"1h\"\ntimeout = \"3s\"\n\
             directory = \"{}\"\nrestore_argv = [\"mariadb\", \"land\"]",
            script.display(),
            place.display()
        )
    });
    let place = world.path("home/place");
    let script = |text: &str| {
        let fresh = place.join("fresh");
        fs::write(&fresh, text).expect("a script");
        fs::rename(fresh, place.join("dump")).expect("a script");
    };
    let mut dump = noise(74, 12 << 20);
    let data = place.join("data");
    fs::write(&data, &dump).expect("a dump");
    script("exec cat data");
    start(&mut world);
    assert_eq!(
        (version(&world), status(&world)["source"].as_str()),
        (1, Some("command"))
    );

    // The same bytes make no version.
    captured(&world);
    until("its report", || status(&world)["unchanged_at"].is_u64());
    // Some in front and some in the middle: that is what is shipped.
    let before = kept(&world);
    dump.splice(6 << 20..6 << 20, *b"in the middle");
    dump.splice(0..0, *b"in front");
    fs::write(&data, &dump).expect("a dump");
    captured(&world);
    until("the second", || version(&world) == 2);
    let shipped = kept(&world) - before;
    println!("{shipped} bytes shipped for 21 new ones in a dump of 12 MiB");
    assert!(shipped < 2 << 20, "{shipped}");

    for (text, says) in [
        (
            "cat data; echo lost the server >&2; exit 2",
            "status 2; it said: lost the server",
        ),
        ("cat data; kill -9 $$", "signal 9 ended it"),
        ("true", "printed nothing"),
        ("cat data; sleep 7397.25", "not done within 3 s"),
    ] {
        script(text);
        let said = refused(&world);
        assert!(said.contains(says), "{said}");
        script("exec cat data");
        // It is tried again by itself, and what comes of that is not what is asked for next.
        until("all is well again", || status(&world)["trouble"].is_null());
    }
    assert!(!lives("7397.25"));
    captured(&world);
    assert_eq!((version(&world), versions(&world).len()), (2, 2));

    // Told to stop, the agent leaves nothing running.
    script("cat data; sleep 7396.25");
    ask(&world);
    until("the program", || lives("7396.25"));
    let mut agent = world.agents.pop().expect("an agent");
    agent.signal(Signal::TERM);
    until("the agent's end", || agent.ended().is_some());
    until("the program's end", || !lives("7396.25"));
    script("exec cat data");
    world.start_agent().expect("an agent");

    let to = world.path("desk/restored");
    let ran = restored(&world, &to);
    assert!(fs::read(to.join("dump.sql")).expect("a dump") == dump);
    let said = ran.out + &ran.err;
    assert!(said.contains(r#"\"mariadb\" \"land\""#), "{said}");
}

#[test]
fn a_program_that_is_not_there_is_named_before_anything_runs() {
    let world = world(75, |_| {
        "kind = \"command\"\nargv = [\"no-such-dump\"]".to_owned()
    });
    let config = config(&world);
    for verb in [&["config", "check"][..], &["agent"]] {
        let mut all: Vec<std::ffi::OsString> = verb.iter().map(Into::into).collect();
        all.extend(args!["--config", config]);
        let ran = world.legation.run(all).expect("running it");
        assert_eq!(ran.code, 3, "{verb:?}: {}{}", ran.out, ran.err);
        assert!(
            ran.err.contains("no program \"no-such-dump\""),
            "{}",
            ran.err
        );
    }
}

#[test]
fn an_image_is_read_through_its_snapshot_which_always_goes() {
    let mut world = world(76, |place| {
        let at = |name: &str| place.join(name).display().to_string();
        format!(
            "kind = \"image\"\npath = \"{}\"\nevery = \"1h\"\nsnapshot = {{ create = [\"/bin/sh\", \"{}\"], \
             remove = [\"rm\", \"{}\"], path = \"{}\" }}",
            at("vm.raw"),
            at("create"),
            at("copy"),
            at("copy")
        )
    });
    let place = world.path("home/place");
    let (image, copy, pause) = (
        place.join("vm.raw"),
        place.join("copy"),
        place.join("pause"),
    );
    let script = format!(
        "set -e; cd {}; cp --sparse=always vm.raw copy; while [ -e pause ]; do sleep 0.1; done",
        place.display()
    );
    fs::write(place.join("create"), script).expect("a script");
    let file = fs::File::create(&image).expect("an image");
    file.set_len(200 << 20).expect("a size");
    for (at, bytes) in [(0, noise(1, 20 << 20)), (100 << 20, noise(2, 3 << 20))] {
        file.write_all_at(&bytes, at).expect("an image");
    }
    start(&mut world);
    assert!(!copy.exists());

    let before = kept(&world);
    file.write_all_at(b"one block changes", 7 << 20)
        .expect("a block");
    captured(&world);
    until("the second", || version(&world) == 2);
    let shipped = kept(&world) - before;
    println!("{shipped} bytes shipped for one block of an image of 200 MiB, 23 of them used");
    assert!(shipped < 1 << 20, "{shipped}");

    // Killed while there is a snapshot.
    fs::write(&pause, b"").expect("a pause");
    file.write_all_at(b"another", 8 << 20).expect("a block");
    let asking = std::thread::scope(|scope| {
        let asking = scope.spawn(|| capture(&world));
        until("the snapshot", || copy.exists());
        world.agents[0].signal(Signal::KILL);
        asking.join().expect("a thread")
    });
    assert_ne!(asking.code, 0);
    world.agents.clear();
    assert!(copy.exists(), "it was left behind");
    // Nothing is to capture any more, and it goes all the same.
    fs::remove_file(&pause).expect("no pause");
    world.start_agent().expect("an agent");
    until("the third", || {
        world
            .lag()
            .is_ok_and(|lag| lag.values().all(|l| l.version == Some(3)))
    });
    until("the snapshot's end", || !copy.exists());

    let to = world.path("desk/restored");
    restored(&world, &to);
    let back = to.join("vm.raw");
    assert!(fs::read(&back).expect("an image") == fs::read(&image).expect("an image"));
    let blocks = fs::metadata(&back).expect("an image").blocks();
    assert!(blocks * 512 < 32 << 20, "holes stay holes: {blocks} blocks");
}
