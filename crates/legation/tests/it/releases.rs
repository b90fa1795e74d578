//! A registry of another release than 15, the whole way; and an embassy that cannot start that release.

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::pg::Programs;

use crate::survive::{LONG, destroy_and_reckon, small};

#[test]
fn a_release_that_is_missing_abroad_is_named_before_any_share_moves() {
    let mut world = small(17, &[Registry::Treasury]);
    world.programs = Programs::of(17).expect("PostgreSQL 17");
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    world.start_writers(1).expect("writers");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("first versions");

    // The embassy's machine has 15 only.
    let order = world.order_activate("early", &[]).expect("an order");
    let config = world.path("embassy/embassy.toml");
    let ran = |more: &[&str]| {
        let all = args!["activate", "--order", order.text, "--config", config];
        let all = all.iter().map(|a| a.as_os_str());
        let more = more.iter().map(std::ffi::OsStr::new);
        world.legation.run(all.chain(more)).expect("activate")
    };
    let dry = ran(&["--dry-run"]);
    assert_eq!(dry.code, 1, "{}{}", dry.out, dry.err);
    assert!(
        dry.out.contains("PostgreSQL 17 is not installed here"),
        "{}",
        dry.out
    );
    assert!(!dry.out.contains("PostgreSQL 15"), "{}", dry.out);
    // Nor does it wait for an order and keys that it could do nothing with.
    let real = ran(&[]);
    assert_eq!(real.code, 1, "{}{}", real.out, real.err);
    assert!(
        real.err.contains("PostgreSQL 17 is not installed here")
            && real.err.contains("apt install postgresql-17"),
        "{}",
        real.err
    );

    // Where it is installed, everything that was acknowledged is there.
    destroy_and_reckon(&mut world);
}
