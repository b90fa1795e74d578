use super::*;

fn officers(territories: &[bool]) -> Vec<(String, String, String, bool)> {
    territories
        .iter()
        .enumerate()
        .map(|(at, abroad)| {
            (
                format!("officer-{at}"),
                format!("ssh-ed25519 K{at}"),
                format!("age1{at}"),
                *abroad,
            )
        })
        .collect()
}

fn check(quorum: (u8, u8, u8), people: &[(String, String, String, bool)]) -> Result<(), String> {
    let facts: Vec<_> = people
        .iter()
        .map(|(name, ssh, age, abroad)| OfficerFacts {
            name,
            abroad: *abroad,
            ssh,
            age,
        })
        .collect();
    let (need, of, abroad) = quorum;
    Quorum { need, of, abroad }
        .check(&facts)
        .map_err(|failure| failure.message)
}

#[test]
fn possible_rules_pass() {
    let people = officers(&[false, false, false, true, true]);
    for quorum in [(3, 5, 1), (5, 5, 2), (1, 5, 0), (2, 5, 2)] {
        assert_eq!(check(quorum, &people), Ok(()), "{quorum:?}");
    }
}

#[test]
fn impossible_rules_are_named() {
    let people = officers(&[false, false, false, true, true]);
    for (quorum, said) in [
        ((6, 5, 1), "can never be met"),
        ((0, 5, 0), "can never be met"),
        ((3, 4, 1), "5 officers are named"),
        ((1, 5, 2), "more than --need"),
        ((3, 5, 3), "2 of the officers are off the territory"),
    ] {
        let message = check(quorum, &people).unwrap_err();
        assert!(message.contains(said), "{quorum:?}: {message}");
    }
}

#[test]
fn doubled_officers_and_keys_are_named() {
    for (field, said) in [
        (0, "same name"),
        (1, "same SSH key"),
        (2, "same age recipient"),
    ] {
        let mut people = officers(&[false, false, true]);
        match field {
            0 => people[2].0 = people[0].0.clone(),
            1 => people[2].1 = people[0].1.clone(),
            _ => people[2].2 = people[0].2.clone(),
        }
        let message = check((2, 3, 1), &people).unwrap_err();
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn odd_names_are_refused() {
    for name in ["", "Officer", "a b", "../x", "-n"] {
        assert!(plain_name("officer", name).is_err(), "{name:?}");
    }
}
