//! Released keys reach the session that asked for them, whatever else is delivered and however often it began anew.

use std::fs;
use std::time::{Duration, Instant};

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::process::Ran;
use legation_world::world::{Live, Order, World};

use crate::survive::{LONG, alive};

/// Waits until the activations, which append to one log, have said `what` so many times.
fn wait_said(live: &Live, what: &str, times: usize) {
    let until = Instant::now() + LONG;
    let said = || {
        let all = live.records();
        all.iter().filter(|r| r["message_type"] == what).count()
    };
    while said() < times {
        assert!(Instant::now() < until, "no {what}: {:?}", live.records());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A release with the right address whose sealed part does not open: delivered before the real one.
fn deliver_junk(world: &World, order: &Order) {
    let text = fs::read_to_string(order.beside("released")).expect("a release");
    let (clear, sealed) = text.split_once("annex: ").expect("a sealed part");
    let junk = world.path("desk/junk.released");
    let flipped = if sealed.starts_with('A') { "B" } else { "A" };
    fs::write(&junk, format!("{clear}annex: {flipped}{}", &sealed[1..])).expect("writing");
    let ran = world.legation.ok(args![
        "order",
        "submit",
        junk,
        "--config",
        world.person(),
        "--json"
    ]);
    ran.expect("delivering junk");
}

#[test]
fn junk_and_a_new_session_do_not_stand_in_the_way_of_the_release() {
    let world = alive(41, &[Registry::Gazette]);
    let order = world.order_activate("order", &[]).expect("an order");
    let officers = [0, 1, 3].map(|n| &world.officers[n]);
    for officer in officers {
        world
            .approve(&order, officer)
            .and_then(Ran::ok)
            .expect("an approval");
    }
    let submit = || {
        world
            .submit(&order, &officers)
            .and_then(Ran::ok)
            .expect("a bundle")
    };
    let release = || {
        world
            .release(&order, &officers)
            .and_then(Ran::ok)
            .expect("a release")
    };

    // The first session is killed between its key and the delivery.
    let first = world.activate(&order.text).expect("activate");
    submit();
    release();
    wait_said(&first, "session", 1);
    deliver_junk(&world, &order);
    wait_said(&first, "passed-over", 1);
    first.kill();

    // The next one has another key: what was released to the first is refused, and says what to do.
    let mut live = world.activate(&order.text).expect("activate again");
    wait_said(&live, "session", 2);
    let old = world.deliver(&order).expect("delivering what is too old");
    assert_eq!(old.code, 8, "{}", old.err);
    assert!(
        old.err.contains("release from the new bundle"),
        "{}",
        old.err
    );
    fs::remove_dir_all(order.beside("bundle")).expect("a bundle");
    fs::remove_file(order.beside("released")).expect("a release");
    submit();
    release();
    deliver_junk(&world, &order);
    wait_said(&live, "passed-over", 2);
    live.released();
    world.deliver(&order).and_then(Ran::ok).expect("a delivery");
    live.wait_serving(&world, LONG).expect("it serves");
    live.seal().expect("it seals");
}
