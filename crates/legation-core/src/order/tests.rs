//! The sentences, word for word: they are what officers read aloud.

use crate::example::{World, v};
use crate::statement::*;

#[test]
fn the_sentence_says_the_whole_effect() {
    let mut world = World::lived();
    let full = world.order("2026-11-22-7f2c91d0", &[1, 2, 3]);
    assert_eq!(
        full.sentence.as_str(),
        "Start 3 registries at embassy a, for reading and writing, as last acknowledged, and accept nothing more from home \
         under term 1."
    );
    let quiet = Order {
        grant: Mode::Verify,
        term: None,
        target: None,
        ..world.order("2026-11-22-7f2c91d0", &[1])
    };
    assert_eq!(
        quiet.make_sentence(),
        "Start 1 registry at embassy a, for verification only, as of the latest version, while home goes on writing."
    );
    let exact = Order {
        version: v("v7"),
        grant: Mode::ReadOnly,
        ..quiet
    };
    assert_eq!(
        exact.make_sentence(),
        "Start 1 registry at embassy a, for reading only, as of version v7, while home goes on writing."
    );
    for (target, says) in [
        (
            "lsn 0/5A1C2E80",
            "from version v7 as of position 0/5A1C2E80",
        ),
        (
            "time 2026-11-22T09:30:00.104Z",
            "from version v7 as of 2026-11-22T09:30:00.104Z",
        ),
    ] {
        let past = Order {
            target: Some(v(target)),
            ..exact.clone()
        };
        assert_eq!(
            past.make_sentence(),
            format!(
                "Start 1 registry at embassy a, for reading only, {says}, while home goes on writing."
            )
        );
    }
    let key = crate::keys::OpeningKey::from_seed(&[71; 32]).unwrap();
    let grant = world.grant("2026-11-22-7f2c91d0", &[3], &key);
    let id = key.public().id();
    let says = format!(
        "Let the holder of key {id} read 1 registry kept at embassy a, as of the latest version."
    );
    assert_eq!(grant.sentence.as_str(), says);
}

#[test]
fn an_annex_belongs_to_one_order() {
    let all = crate::example::samples();
    let text = |name: &str| all.iter().find(|s| s.kind().name == name).unwrap().text();
    let order = Order::parse(&text("order")).unwrap();
    let annex = Annex::parse(&text("annex")).unwrap();
    assert_eq!(annex.check(&order), Ok(()));
    let reworded = Annex {
        reason: v("Another reason."),
        ..annex.clone()
    };
    assert!(
        reworded
            .check(&order)
            .unwrap_err()
            .to_string()
            .contains("is not the one that the order names")
    );
    let elsewhere = Annex {
        order: v("2026-11-22-00000000"),
        ..annex.clone()
    };
    assert!(
        elsewhere
            .check(&Order {
                annex_sha256: elsewhere.id(),
                ..order.clone()
            })
            .is_err()
    );
    let fewer = Annex {
        registry: annex.registry[..1].to_vec(),
        ..annex
    };
    assert!(
        fewer
            .check(&Order {
                annex_sha256: fewer.id(),
                ..order
            })
            .is_err()
    );
}
