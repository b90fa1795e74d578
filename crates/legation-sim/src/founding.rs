//! A founded state: its people, their keys, and what an embassy is started with. The same for every seed.

use std::sync::OnceLock;

use legation_core::example::{Officer, Unfounded, World as Example, registry, v};
use legation_core::id::{Generation, RegistryId, Sha256, StateId};
use legation_core::keys::{OpeningKey, SigningKey};
use legation_core::log::LogSigner;
use legation_core::statement::{Keyring, Mandate, Name, ShareRow, Signed, Territory, VaultRow};
use legation_core::vault::{self, Threshold, VaultShare};
use legation_embassy::HostedState;
use legation_embassy::local::LocalKeys;
use zeroize::Zeroizing;

use crate::dice::Dice;

/// How many vault generations are dealt: every order spends one.
const GENERATIONS: u32 = 12;
/// How many shares open the vault, and how many of those from abroad.
pub const NEED: (usize, usize) = (3, 1);
const LOG_SEED: [u8; 64] = [41; 64];
const EMBASSY_SEED: [u8; 64] = [21; 64];

/// One state.
pub struct Founding {
    /// Which.
    pub state: StateId,
    /// Its mandate.
    pub mandate: Mandate,
    /// The keys that the mandate names.
    pub keyring: Keyring,
    /// The mandate as every officer signed it.
    pub signed: Signed,
    /// Three officers at home, two abroad.
    pub officers: Vec<Officer>,
    /// Each officer's shares, of every generation.
    pub shares: Vec<Vec<VaultShare>>,
    writers: Vec<[u8; 64]>,
    vault: Vec<[u8; 32]>,
}

/// The state that every seed begins with.
pub fn founding() -> &'static Founding {
    static FOUNDED: OnceLock<Founding> = OnceLock::new();
    FOUNDED.get_or_init(Founding::new)
}

impl Founding {
    fn new() -> Self {
        let (mut unfounded, mut mandate) = Example::unfounded();
        let mut rng = Dice::new(0);
        let (all, abroad) = (Threshold { need: 3, of: 5 }, Threshold { need: 1, of: 2 });
        let mut shares: Vec<Vec<VaultShare>> = vec![Vec::new(); unfounded.officers.len()];
        let (mut seeds, mut publics) = (Vec::new(), Vec::new());
        (mandate.vault, mandate.share) = (Vec::new(), Vec::new());
        for generation in (1..=GENERATIONS).map(Generation) {
            let dealt = vault::deal(generation, all, Some(abroad), &mut rng).expect("deals");
            let public = dealt.key.public();
            mandate.vault.push(VaultRow {
                generation,
                key: public.id(),
            });
            let mut of_abroad = dealt.b.iter();
            for ((officer, a), own) in unfounded.officers.iter().zip(&dealt.a).zip(&mut shares) {
                let is_abroad = officer.territory == Territory::Abroad;
                let b = is_abroad.then(|| of_abroad.next().expect("one for each abroad"));
                mandate.share.push(ShareRow {
                    officer: officer.name.clone(),
                    generation,
                    a: a.digest(),
                    b: b.map(VaultShare::digest),
                });
                own.push(a.clone());
                own.extend(b.cloned());
            }
            seeds.push(*dealt.key.seed());
            publics.push(public.encode().to_vec());
        }
        let log = LogSigner::from_seed(&LOG_SEED).expect("a seed");
        let log = log.verifier().clone();
        let (writers, embassy): (Vec<[u8; 64]>, _) = (
            unfounded.writers.iter().map(|key| *key.seed()).collect(),
            SigningKey::from_seed(&EMBASSY_SEED).expect("a seed"),
        );
        let signers = unfounded.writers.iter().chain([&embassy]);
        let mut keys: Vec<Vec<u8>> = signers
            .map(|key| key.verifying_key().encode().to_vec())
            .collect();
        keys.extend(publics);
        keys.push(log.encode());
        let keyring = Keyring::of(keys);
        mandate.embassy[0].log_key = log.digest();
        mandate.embassy[0].key = embassy.verifying_key().id();
        mandate.embassy[0].tls = tls();
        mandate.keyring = unfounded.held.add(keyring.text());
        let signed = unfounded.entry(&mandate, &[1, 2, 3, 4, 5]).signed;
        let Unfounded { officers, .. } = unfounded;
        Self {
            state: StateId::of_mandate(signed.text().as_bytes()),
            mandate,
            keyring,
            signed,
            officers,
            shares,
            writers,
            vault: seeds,
        }
    }

    /// A registry, from 0.
    #[must_use]
    pub fn registry(&self, number: usize) -> RegistryId {
        registry(number as u32 + 1)
    }

    /// The name of the writer of a registry, and his key.
    #[must_use]
    pub fn writer(&self, number: usize) -> (Name, SigningKey) {
        let which = usize::from(number == 2);
        let key = SigningKey::from_seed(&self.writers[which]).expect("a seed");
        (v(&format!("w-{}", which + 1)), key)
    }

    /// The embassy's keys.
    #[must_use]
    pub fn embassy(&self) -> LocalKeys {
        LocalKeys {
            signing: SigningKey::from_seed(&EMBASSY_SEED).expect("a seed"),
            log: Zeroizing::new(LOG_SEED),
            tls: tls(),
        }
    }

    /// What the embassy hosts.
    #[must_use]
    pub fn hosted(&self, quota: Option<u64>) -> HostedState {
        HostedState {
            mandate: self.signed.encode().into_bytes(),
            keyring: self.keyring.text().into_bytes(),
            quota,
        }
    }

    /// The vault's key of a generation, which in life nobody holds: for whoever checks that all can be opened.
    #[must_use]
    pub fn vault(&self, generation: Generation) -> OpeningKey {
        OpeningKey::from_seed(&self.vault[generation.0 as usize - 1]).expect("a seed")
    }
}

fn tls() -> Sha256 {
    Sha256::of(b"tls a")
}
