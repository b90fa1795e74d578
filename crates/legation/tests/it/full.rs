//! Disks that fill for real: small volumes in memory, mounted for the test. Needs root, as `make test` in CI has.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use legation_world::fixtures::Registry;
use legation_world::rng::Rng;
use legation_world::world::World;

use crate::survive::{LONG, small, verified};

/// A volume of a few MiB, unmounted at the end whatever happens.
struct Volume(std::path::PathBuf);

impl Volume {
    fn mount(at: &Path, mib: u32) -> Self {
        fs::create_dir_all(at).expect("a directory");
        mount(
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mib}m,mode=0700"),
                "none",
            ],
            at,
        );
        Self(at.into())
    }

    fn grow(&self, mib: u32) {
        mount(&["-o", &format!("remount,size={mib}m")], &self.0);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a process that is being ended may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str], at: &Path) {
    let done = Command::new("mount")
        .args(args)
        .arg(at)
        .output()
        .expect("mount runs");
    assert!(
        done.status.success(),
        "mounting a small volume needs root: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Files that do not compress, more than a small volume holds.
fn fill(world: &World, mib: usize) {
    let mut rng = Rng::new(9, "fill");
    for n in 0..mib {
        let bytes: Vec<u8> = (0..1 << 17)
            .flat_map(|_| rng.next_u64().to_le_bytes())
            .collect();
        fs::write(world.press().root.join(format!("scan-{n}.bin")), bytes).expect("a file");
    }
}

fn version(world: &World) -> u64 {
    world
        .lag()
        .ok()
        .and_then(|l| l.get(&Registry::Gazette)?.version)
        .unwrap_or(0)
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn founded() -> World {
    let mut world = small(11, &[Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world
}

#[test]
fn an_agent_whose_disk_is_full_says_so_and_goes_on_when_it_has_room() {
    let mut world = founded();
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    let volume = Volume::mount(&world.path("home/agent/spool"), 40);
    world.start_agent().expect("an agent");
    wait("a first version is abroad", || version(&world) > 0);
    // The embassy away, everything has to wait in the spool.
    world.stop_embassy().expect("the embassy stops");
    let before = version(&world);
    fill(&world, 60);
    let log = world.path("home/agent/agent.log");
    wait("the agent says that its spool is full", || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.contains("full") || said.contains("No space")
    });
    world.start_embassy().expect("an embassy");
    volume.grow(400);
    wait("the capture goes on by itself", || version(&world) > before);
    assert!(
        world.agents.iter_mut().all(|a| a.ended().is_none()),
        "the agent lives"
    );
    verified(&world);
    world.agents.drain(..).for_each(|mut a| _ = a.kill());
    world.stop_embassy().expect("the embassy stops");
}

#[test]
fn an_agent_whose_disk_somebody_else_fills_goes_on_when_that_is_gone() {
    let mut world = founded();
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    let _volume = Volume::mount(&world.path("home/agent/spool"), 40);
    world.start_agent().expect("an agent");
    wait("a first version is abroad", || version(&world) > 0);
    // The embassy answers all the while, so also what follows an answer has to be written.
    let filler = world.path("home/agent/spool/filler");
    let filled = Command::new("sh")
        .arg("-c")
        .arg("cat /dev/zero >\"$0\"")
        .arg(&filler)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&filled.stderr).into_owned();
    assert!(said.contains("No space"), "{said}");
    let before = version(&world);
    fs::write(world.press().root.join("late.xml"), b"<act/>").expect("a file");
    let log = world.path("home/agent/agent.log");
    wait("the agent says that its disk is full", || {
        fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("No space")
    });
    assert!(
        world.agents.iter_mut().all(|a| a.ended().is_none()),
        "the agent lives"
    );
    fs::remove_file(&filler).expect("room again");
    wait("the capture goes on by itself", || version(&world) > before);
    verified(&world);
    world.agents.drain(..).for_each(|mut a| _ = a.kill());
    world.stop_embassy().expect("the embassy stops");
}

#[test]
fn an_embassy_whose_disk_is_full_keeps_what_it_has_and_takes_the_rest_later() {
    let mut world = founded();
    // More than the reserve of 64 MiB, which is kept for the log, by less than what is to come.
    let volume = Volume::mount(&world.path("embassy/store"), 100);
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    world.start_agent().expect("an agent");
    wait("a first version is abroad", || version(&world) > 0);
    fill(&world, 60);
    let before = version(&world);
    let log = world.path("home/agent/agent.log");
    wait("the agent says that the embassy has no room", || {
        fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("no room")
    });
    // What it took is whole, and it can be started again as it is.
    verified(&world);
    world.stop_embassy().expect("the embassy stops");
    world.start_embassy().expect("an embassy");
    verified(&world);
    volume.grow(400);
    wait("the version comes by itself", || version(&world) > before);
    verified(&world);
    world.agents.drain(..).for_each(|mut a| _ = a.kill());
    world.stop_embassy().expect("the embassy stops");
}
