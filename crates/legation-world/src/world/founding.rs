//! The ceremony: officers with stock keys, cards of embassy, agent and desk, shares proven, the mandate signed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{EMBASSY, World, private};
use crate::args;
use crate::cli::stock;
use crate::error::{Doing, Result, failed};
use crate::fixtures::Registry;
use crate::process::Ran;

/// Officers, of whom any three open, one of them from abroad.
pub const OFFICERS: [(&str, bool); 5] = [
    ("officer-1", false),
    ("officer-2", false),
    ("officer-3", false),
    ("officer-4", true),
    ("officer-5", true),
];

/// An officer and his own medium.
#[derive(Debug, Clone)]
pub struct Officer {
    /// His name in the mandate.
    pub name: &'static str,
    /// Whether he is off the territory.
    pub abroad: bool,
    /// His directory.
    pub dir: PathBuf,
}

impl Officer {
    /// His SSH key.
    pub fn ssh_key(&self) -> PathBuf {
        self.dir.join("id_ed25519")
    }

    /// His age identity.
    pub fn age_identity(&self) -> PathBuf {
        self.dir.join("age.key")
    }

    /// The envelope with his share.
    pub fn share(&self) -> PathBuf {
        self.dir.join(format!("{}.share.age", self.name))
    }
}

impl World {
    /// The officers' keys, by stock `ssh-keygen` and `age-keygen`, and their cards.
    pub fn officers(&mut self) -> Result<()> {
        for (name, abroad) in OFFICERS {
            let officer = Officer {
                name,
                abroad,
                dir: self.path("officers").join(name),
            };
            fs::create_dir(&officer.dir).doing("making an officer's directory")?;
            let key = officer.ssh_key();
            stock(
                "ssh-keygen",
                args!["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key],
                b"",
            )?
            .ok()?;
            stock("age-keygen", args!["-o", officer.age_identity()], b"")?.ok()?;
            let recipient = stock("age-keygen", args!["-y", officer.age_identity()], b"")?
                .ok()?
                .out;
            let territory = if abroad { "abroad" } else { "home" };
            let (public, card) = (key.with_extension("pub"), officer.dir.join("card"));
            self.legation.ok(args![
                "officer",
                "new",
                name,
                "--territory",
                territory,
                "--ssh",
                public,
                "--age-recipient",
                recipient.trim(),
                "--out",
                card
            ])?;
            self.officers.push(officer);
        }
        Ok(())
    }

    /// Founds the state: identities, `state.toml`, the dealing, five proofs, five signatures, the sealed mandate.
    /// Returns how many signatures stock `ssh-keygen -Y verify` found good.
    pub fn ceremony(&mut self) -> Result<usize> {
        if self.officers.is_empty() {
            self.officers()?;
        }
        self.write_embassy_config()?;
        self.write_agent_config()?;
        self.legation.ok(args![
            "embassy",
            "--init",
            "--config",
            self.path("embassy/embassy.toml")
        ])?;
        self.legation.ok(args![
            "agent",
            "--init",
            "--config",
            self.path("home/agent/agent.toml")
        ])?;
        let desk = self.path("desk");
        self.legation.ok(args![
            "officer",
            "new",
            "desk",
            "--client",
            "--out",
            desk.join("desk.key")
        ])?;
        private(&desk.join("state.toml"), &self.state_toml())?;
        let founding = desk.join("founding");
        self.legation.ok(args![
            "ceremony",
            "found",
            desk.join("state.toml"),
            "--need",
            "3",
            "--of",
            "5",
            "--abroad",
            "1",
            "--out",
            founding
        ])?;
        let good = self.prove_and_sign(&founding)?;
        let sealed = self
            .legation
            .ok(args!["ceremony", "seal", founding, "--json"])?
            .record("sealed")?;
        self.state = sealed["state"]
            .as_str()
            .doing("looking for the state's fingerprint")?
            .to_owned();
        self.read_ids(&founding)?;
        self.write_person_config()?;
        self.write_embassy_config()?;
        self.write_agent_config()?;
        Ok(good)
    }

    /// Each officer takes his envelope away, proves it, and signs the mandate by stock `ssh-keygen`.
    fn prove_and_sign(&self, founding: &Path) -> Result<usize> {
        let mandate = founding.join("mandate.txt");
        let mut good = 0;
        for o in &self.officers {
            let dealt = founding
                .join("shares")
                .join(format!("{}.share.age", o.name));
            fs::rename(&dealt, o.share()).doing("handing an envelope over")?;
            self.legation.ok(args![
                "officer",
                "prove",
                o.share(),
                "--age-identity",
                o.age_identity(),
                "--mandate",
                mandate,
                "--as",
                o.name,
                "--ssh-key",
                o.ssh_key(),
                "--out",
                founding.join(format!("{}.proof", o.name))
            ])?;
            stock(
                "ssh-keygen",
                args![
                    "-q",
                    "-Y",
                    "sign",
                    "-f",
                    o.ssh_key(),
                    "-n",
                    "legation/mandate/v1",
                    mandate
                ],
                b"",
            )?
            .ok()?;
            let signature = founding.join(format!("mandate.txt.{}.sig", o.name));
            fs::rename(founding.join("mandate.txt.sig"), &signature)
                .doing("keeping a signature")?;
            good += usize::from(
                self.stock_verify(&mandate, &signature, o, "legation/mandate/v1")?
                    .code
                    == 0,
            );
        }
        Ok(good)
    }

    /// What stock `ssh-keygen -Y verify` says of a signature, against the officers' public keys.
    pub fn stock_verify(
        &self,
        text: &Path,
        signature: &Path,
        officer: &Officer,
        namespace: &str,
    ) -> Result<Ran> {
        let allowed = self.path("officers/allowed");
        let mut lines = String::new();
        for o in &self.officers {
            let key = fs::read_to_string(o.ssh_key().with_extension("pub"))
                .doing("reading a public key")?;
            let _ = writeln!(lines, "{} {}", o.name, key.trim());
        }
        fs::write(&allowed, lines).doing("writing the list of officers' keys")?;
        let bytes = fs::read(text).doing(format_args!("reading {}", text.display()))?;
        stock(
            "ssh-keygen",
            args![
                "-Y",
                "verify",
                "-f",
                allowed,
                "-I",
                officer.name,
                "-n",
                namespace,
                "-s",
                signature
            ],
            &bytes,
        )
    }

    fn state_toml(&self) -> String {
        let mut t = String::from("format = 1\ngenerations = 8\n");
        for o in &self.officers {
            let _ = write!(
                t,
                "\n[[officer]]\ncard = \"{}\"\n",
                o.dir.join("card").display()
            );
        }
        let card = |below: &str| self.path(below).display().to_string();
        let _ = write!(
            t,
            "\n[[embassy]]\nlabel = \"{EMBASSY}\"\njurisdiction = \"LU\"\nclass = \"physical\"\ncard = \"{}\"\n\
             \n[[writer]]\nname = \"w-1\"\ncard = \"{}\"\n\n[[client]]\nname = \"desk\"\ncard = \"{}\"\n\
             \n[[retention]]\nclass = \"permanent\"\nkeep = \"forever\"\n",
            card("embassy/embassy.key.card"),
            card("home/agent/agent.key.card"),
            card("desk/desk.key.card"),
        );
        for r in &self.options.registries {
            let _ = write!(
                t,
                "\n[[registry]]\nname = \"{}\"\ntitle = \"{}\"\ntier = \"{}\"\nretention = \"permanent\"\nwriter = \"w-1\"\n",
                r.name(),
                r.shape().title,
                r.shape().tier
            );
        }
        t
    }

    /// The opaque ids that the ceremony drew, from `registries.toml`.
    fn read_ids(&mut self, founding: &Path) -> Result<()> {
        let text = fs::read_to_string(founding.join("registries.toml"))
            .doing("reading registries.toml")?;
        let quoted = |line: &str, key: &str| {
            let rest = line
                .strip_prefix(key)?
                .trim_start()
                .strip_prefix('=')?
                .trim();
            Some(rest.trim_matches('"').to_owned())
        };
        let mut id = String::new();
        for line in text.lines() {
            if let Some(value) = quoted(line, "id") {
                id = value;
            } else if let Some(registry) = quoted(line, "name").and_then(|n| Registry::named(&n)) {
                self.ids.insert(registry, id.clone());
            }
        }
        if self.ids.len() == self.options.registries.len() {
            return Ok(());
        }
        failed(format!(
            "registries.toml names {} registries of {}",
            self.ids.len(),
            self.options.registries.len()
        ))
    }

    fn write_person_config(&self) -> Result<()> {
        let desk = self.path("desk");
        let text = format!(
            "format = 1\nstate = \"{}\"\nmandate = \"founding/mandate.signed\"\nidentity = {{ file = \"desk.key\" }}\n\
             locators = \"locators.toml\"\nnames = \"founding/registries.toml\"\ntrust = \"trust\"\n",
            self.state
        );
        private(&desk.join("legation.toml"), &text)?;
        private(
            &desk.join("locators.toml"),
            &self.locators(self.embassy_port),
        )
    }

    /// The file that alone says where the embassy answers.
    pub(super) fn locators(&self, port: u16) -> String {
        format!("[[embassy]]\nlabel = \"{EMBASSY}\"\naddress = \"127.0.0.1:{port}\"\n")
    }
}
