//! An officer's card: what the ceremony must know of him, all of it public.

use std::path::Path;

use crate::exit::Failure;

const HEAD: &str = "legation/officer/v1";
/// A card with an RSA key of 16384 bits is below this.
const MAX_CARD: u64 = 16 * 1024;

/// Name, territory and public keys of one officer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfficerCard {
    /// His name in the mandate.
    pub name: String,
    /// Whether he is off the territory.
    pub abroad: bool,
    /// His SSH public key: type and base64, without the comment.
    pub ssh: String,
    /// His age recipient, `age1…`.
    pub age: String,
}

impl OfficerCard {
    /// A card of an officer's own public keys.
    ///
    /// # Errors
    /// When the name or a key is unusable; RSA below 3072 bits and certificates among them.
    pub fn new(name: &str, abroad: bool, ssh: &str, age: &str) -> Result<Self, Failure> {
        super::plan::plain_name("officer", name)?;
        let mut words = ssh.split_whitespace();
        let (Some(kind), Some(key)) = (words.next(), words.next()) else {
            return Err(
                Failure::usage("the SSH key file is not a public key").hint("give the .pub file")
            );
        };
        let ssh = format!("{kind} {key}");
        super::ssh::check_public(&ssh)?;
        let age = age.trim().to_owned();
        super::envelope::recipient(&age)?;
        Ok(Self {
            name: name.to_owned(),
            abroad,
            ssh,
            age,
        })
    }

    /// The card as text.
    pub fn text(&self) -> String {
        let territory = if self.abroad { "abroad" } else { "home" };
        format!(
            "{HEAD}\nname: {}\nterritory: {territory}\nssh: {}\nage: {}\n",
            self.name, self.ssh, self.age
        )
    }

    /// Reads a card.
    ///
    /// # Errors
    /// When it is missing, is not a card, or carries an unusable key.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = super::read_text(path, MAX_CARD)?;
        let card = Self::fields(&text).ok_or_else(|| {
            Failure::usage(format!("{} is not an officer's card", path.display()))
                .hint("`legation officer new` writes one")
        })?;
        let (name, abroad, ssh, age) = card;
        Self::new(name, abroad, ssh, age).map_err(|failure| failure.during(path.display()))
    }

    fn fields(text: &str) -> Option<(&str, bool, &str, &str)> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let name = lines.next()?.strip_prefix("name: ")?;
        let abroad = match lines.next()?.strip_prefix("territory: ")? {
            "home" => false,
            "abroad" => true,
            _ => return None,
        };
        let ssh = lines.next()?.strip_prefix("ssh: ")?;
        let age = lines.next()?.strip_prefix("age: ")?;
        lines.next().is_none().then_some((name, abroad, ssh, age))
    }
}
