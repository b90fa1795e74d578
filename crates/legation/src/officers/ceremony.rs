//! The founding: deals the vault, writes the mandate and the envelopes, and later seals what all officers signed.
//!
//! The seeds of the vault exist in memory between dealing and the end of [`found`], and nowhere else.

use std::path::Path;

use legation_core::id::{Generation, RegistryId, Sha256, StateId};
use legation_core::keys::Entropy;
use legation_core::statement::{
    Act, ClientRow, EmbassyRow, KOfN, Keyring, Mandate, Name, Of, OfficerRow, RegistryRow,
    RetentionRow, ShareRow, Territory, ThresholdRow, Time, VaultRow, WriterRow,
};
use legation_core::vault::{self, ShareFile, Threshold, VaultShare};

use super::card::OfficerCard;
use super::names::{NameEntry, Names};
use super::plan::{OfficerFacts, Quorum, StateFile};
use crate::exit::{Code, Failure};
use crate::identity::{Card, Role};

/// What a founding writes.
#[derive(Debug)]
pub struct Founding {
    /// The text that every officer signs.
    pub mandate: Mandate,
    /// The public keys that it names by digest.
    pub keyring: Keyring,
    /// What the registries are called, for home and officers.
    pub names: Names,
    /// One armored age envelope an officer, in the order of the mandate.
    pub envelopes: Vec<(String, Vec<u8>)>,
}

/// Reads the cards, refuses impossible rules, deals every generation and seals each officer's shares to him.
///
/// # Errors
/// What is impossible, doubled or unusable, and what to change.
pub fn found(
    file: &StateFile,
    base: &Path,
    quorum: Quorum,
    now: Time,
    rng: &mut dyn Entropy,
) -> Result<Founding, Failure> {
    let officers = file
        .officer
        .iter()
        .map(|entry| OfficerCard::load(&base.join(&entry.card)))
        .collect::<Result<Vec<_>, _>>()?;
    let facts: Vec<_> = officers
        .iter()
        .map(|card| OfficerFacts {
            name: &card.name,
            abroad: card.abroad,
            ssh: &card.ssh,
            age: &card.age,
        })
        .collect();
    quorum.check(&facts)?;

    let mut keys = Vec::new();
    let embassy = embassies(file, base, &mut keys)?;
    let writer = writers(file, base, &mut keys)?;
    let client = clients(file, base)?;
    doubled_tls(&embassy, &writer, &client)?;
    let (registry, names) = registries(file, &embassy, rng)?;
    let dealt = deal(file.generations, &officers, quorum, rng)?;
    keys.extend(dealt.keys);

    let keyring = Keyring::of(keys);
    let mandate = Mandate {
        state: Of::This,
        sequence: 1,
        previous: None,
        suite: legation_core::suite::SUITE,
        created: now.whole_seconds(),
        need: KOfN {
            k: quorum.need.into(),
            n: quorum.of.into(),
        },
        abroad: dealt.abroad,
        officer: officers.iter().map(officer_row).collect::<Result<_, _>>()?,
        share: dealt.share,
        vault: dealt.vault,
        threshold: [Act::Activate, Act::Grant]
            .map(|act| ThresholdRow {
                act,
                need: quorum.need.into(),
                abroad: quorum.abroad.into(),
            })
            .to_vec(),
        embassy,
        ack: KOfN { k: 1, n: 1 },
        witness: None,
        retention: retention(file)?,
        writer,
        client,
        registry,
        keyring: keyring.id(),
    };
    let mut envelopes = Vec::with_capacity(officers.len());
    let state = StateId::of_mandate(mandate.text().as_bytes());
    for (officer, shares) in officers.iter().zip(dealt.hands) {
        let recipient = super::envelope::recipient(&officer.age)?;
        let file = ShareFile {
            state,
            officer: officer.name.clone(),
            shares,
        };
        envelopes.push((
            officer.name.clone(),
            super::envelope::seal(&recipient, file.encode().as_bytes())?,
        ));
    }
    Ok(Founding {
        mandate,
        keyring,
        names,
        envelopes,
    })
}

/// The vault as dealt: its public side for the mandate, and the shares in each officer's hand.
struct DealtAll {
    abroad: Option<KOfN>,
    share: Vec<ShareRow>,
    vault: Vec<VaultRow>,
    keys: Vec<Vec<u8>>,
    hands: Vec<Vec<VaultShare>>,
}

fn deal(
    generations: u32,
    officers: &[OfficerCard],
    quorum: Quorum,
    rng: &mut dyn Entropy,
) -> Result<DealtAll, Failure> {
    let away: Vec<usize> = (0..officers.len())
        .filter(|at| officers[*at].abroad)
        .collect();
    // `Quorum::check` bounded the officers to what a byte counts.
    let count = u8::try_from(away.len()).map_err(|_| Failure::usage("too many officers"))?;
    let home = Threshold {
        need: quorum.need,
        of: quorum.of,
    };
    let abroad = (quorum.abroad > 0).then_some(Threshold {
        need: quorum.abroad,
        of: count,
    });
    let mut all = DealtAll {
        abroad: abroad.map(|rule| KOfN {
            k: rule.need.into(),
            n: rule.of.into(),
        }),
        share: Vec::new(),
        vault: Vec::new(),
        keys: Vec::new(),
        hands: officers.iter().map(|_| Vec::new()).collect(),
    };
    for number in 1..=generations {
        let generation = Generation(number);
        let dealt = vault::deal(generation, home, abroad, rng)?;
        let public = dealt.key.public();
        all.vault.push(VaultRow {
            generation,
            key: public.id(),
        });
        all.keys.push(public.encode().to_vec());
        let mut b: Vec<_> = officers.iter().map(|_| None).collect();
        for (at, share) in away.iter().zip(dealt.b) {
            b[*at] = Some(share);
        }
        for (((officer, hand), a), b) in officers.iter().zip(&mut all.hands).zip(dealt.a).zip(b) {
            all.share.push(ShareRow {
                officer: name("officer", &officer.name)?,
                generation,
                a: a.digest(),
                b: b.as_ref().map(VaultShare::digest),
            });
            hand.push(a);
            hand.extend(b);
        }
    }
    // By officer, then by generation: each finds his lines together.
    let order: Vec<_> = officers.iter().map(|card| card.name.as_str()).collect();
    all.share.sort_by_key(|row| {
        (
            order.iter().position(|name| *name == row.officer.as_str()),
            row.generation,
        )
    });
    Ok(all)
}

fn embassies(
    file: &StateFile,
    base: &Path,
    keys: &mut Vec<Vec<u8>>,
) -> Result<Vec<EmbassyRow>, Failure> {
    let [entry] = file.embassy.as_slice() else {
        return Err(Failure::usage(format!(
            "{} embassies are named; this version keeps a state at exactly one",
            file.embassy.len()
        )));
    };
    let card = load_card(&base.join(&entry.card), Role::Embassy)?;
    let missing = || {
        Failure::usage(format!(
            "{}: the card lacks a signing key or a log key",
            entry.card.display()
        ))
    };
    let signing = card.signing.ok_or_else(missing)?;
    let log = card.log.ok_or_else(missing)?;
    let row = EmbassyRow {
        label: name("embassy", &entry.label)?,
        jurisdiction: name("jurisdiction", &entry.jurisdiction.to_lowercase())?,
        class: name("class", &entry.class)?,
        key: Sha256::of(&signing),
        log_key: Sha256::of(&log),
        tls: Sha256(card.tls_spki),
    };
    keys.extend([signing, log]);
    Ok(vec![row])
}

fn writers(
    file: &StateFile,
    base: &Path,
    keys: &mut Vec<Vec<u8>>,
) -> Result<Vec<WriterRow>, Failure> {
    let mut rows = Vec::new();
    for entry in &file.writer {
        let card = load_card(&base.join(&entry.card), Role::Agent)?;
        let signing = card.signing.ok_or_else(|| {
            Failure::usage(format!(
                "{}: the card lacks a signing key",
                entry.card.display()
            ))
        })?;
        rows.push(WriterRow {
            name: name("writer", &entry.name)?,
            key: Sha256::of(&signing),
            tls: Sha256(card.tls_spki),
        });
        keys.push(signing);
    }
    Ok(rows)
}

fn clients(file: &StateFile, base: &Path) -> Result<Vec<ClientRow>, Failure> {
    file.client
        .iter()
        .map(|entry| {
            let card = load_card(&base.join(&entry.card), Role::Client)?;
            Ok(ClientRow {
                name: name("client", &entry.name)?,
                tls: Sha256(card.tls_spki),
            })
        })
        .collect()
}

/// A TLS key says who somebody is, so no two may share one.
fn doubled_tls(
    embassy: &[EmbassyRow],
    writer: &[WriterRow],
    client: &[ClientRow],
) -> Result<(), Failure> {
    let all = (embassy.iter().map(|row| (&row.label, row.tls)))
        .chain(writer.iter().map(|row| (&row.name, row.tls)))
        .chain(client.iter().map(|row| (&row.name, row.tls)));
    let mut seen = std::collections::BTreeMap::new();
    for (name, tls) in all {
        if let Some(other) = seen.insert(tls, name) {
            return Err(Failure::usage(format!(
                "{other} and {name} have the same card; each process has keys of its own"
            )));
        }
    }
    Ok(())
}

fn registries(
    file: &StateFile,
    embassy: &[EmbassyRow],
    rng: &mut dyn Entropy,
) -> Result<(Vec<RegistryRow>, Names), Failure> {
    let at = embassy
        .first()
        .ok_or_else(|| Failure::usage("no embassy is named"))?;
    let mut rows: Vec<RegistryRow> = Vec::new();
    let mut names = Names::default();
    for entry in &file.registry {
        let id = loop {
            let [a, b, c, ..] = *rng.draw()?;
            let id = RegistryId::new(u32::from_be_bytes([0, a, b, c]));
            if let Some(id) = id.filter(|id| rows.iter().all(|row| row.id != *id)) {
                break id;
            }
        };
        entry
            .title
            .parse::<legation_core::statement::Line>()
            .map_err(|why| Failure::usage(format!("registry {}: title: {why}", entry.name)))?;
        rows.push(RegistryRow {
            id,
            tier: entry.tier.parse().map_err(|_| {
                Failure::usage(format!(
                    "registry {}: tier {:?} is not T0, T1, T2 or T3",
                    entry.name, entry.tier
                ))
            })?,
            class: name("retention class", &entry.retention)?,
            writer: name("writer", &entry.writer)?,
            embassy: at.label.clone(),
        });
        names.registry.push(NameEntry {
            id,
            name: entry.name.clone(),
            title: entry.title.clone(),
            wave: None,
        });
    }
    Ok((rows, names))
}

fn retention(file: &StateFile) -> Result<Vec<RetentionRow>, Failure> {
    file.retention
        .iter()
        .map(|entry| {
            Ok(RetentionRow {
                class: name("retention class", &entry.class)?,
                keep: entry.keep.parse().map_err(|_| {
                    Failure::usage(format!(
                        "retention class {}: keep = {:?} is not forever or days (90d)",
                        entry.class, entry.keep
                    ))
                })?,
            })
        })
        .collect()
}

fn officer_row(card: &OfficerCard) -> Result<OfficerRow, Failure> {
    Ok(OfficerRow {
        name: name("officer", &card.name)?,
        territory: if card.abroad {
            Territory::Abroad
        } else {
            Territory::Home
        },
        key: super::ssh::check_public(&card.ssh)?,
    })
}

fn load_card(path: &Path, role: Role) -> Result<Card, Failure> {
    let card = Card::load(path)?;
    if card.role != role {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "{} is the card of a(n) {}, not of a(n) {}",
                path.display(),
                card.role.word(),
                role.word()
            ),
        ));
    }
    Ok(card)
}

fn name(what: &str, text: &str) -> Result<Name, Failure> {
    text.parse().map_err(|_| {
        Failure::usage(format!(
            "{what} {text:?}: use a lower-case letter, then at most 31 letters, digits and hyphens"
        ))
    })
}
