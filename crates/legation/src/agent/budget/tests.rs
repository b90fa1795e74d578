use std::time::Duration;

use super::Budget;
use crate::stop::Stop;

#[test]
fn live_bytes_are_turned_away_when_full_and_until_there_is_room_to_speak_of() {
    let budget = Budget::new(1000);
    assert!(budget.take_live(900));
    assert!(!budget.take_live(200));
    assert!(budget.is_full());
    budget.give_live(10);
    assert!(!budget.is_full());
    assert_eq!(budget.used(), 890);
}

#[test]
fn versions_wait_for_room_and_leave_half_to_the_stream() {
    let budget = Budget::new(1000);
    let stop = Stop::new();
    assert!(budget.wait_queued(700, &stop), "one piece always passes");
    budget.found_queued(700);
    let waiting = budget.clone();
    let waiter = std::thread::spawn(move || waiting.wait_queued(100, &Stop::new()));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    assert!(budget.take_live(300));
    budget.give_queued(700);
    assert!(waiter.join().unwrap());
    assert_eq!(budget.used(), 300);
}

#[test]
fn whoever_waits_is_told_to_stop() {
    let budget = Budget::new(10);
    let stop = Stop::new();
    budget.found_queued(10);
    stop.raise();
    assert!(!budget.wait_queued(10, &stop));
}
