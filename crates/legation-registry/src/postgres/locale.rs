//! Collations: a database whose locale is missing here starts and then refuses every connection. Found before.

use std::collections::BTreeSet;
use std::process::Command;

use super::facts::Facts;
use crate::{Error, Result};

/// Fails with the names of the locales that the databases use and this machine lacks.
pub(crate) fn check(facts: &Facts) -> Result<()> {
    are_here(&facts.locales)
}

/// As [`check`], of locales alone.
pub(crate) fn are_here(locales: &BTreeSet<String>) -> Result<()> {
    let Ok(output) = Command::new("locale")
        .arg("-a")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
    else {
        // Systems without the tool have one built-in set; the server itself is the judge there.
        return Ok(());
    };
    let here = String::from_utf8_lossy(&output.stdout);
    let missing = missing(locales, &here);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "databases of this version use locales that this machine lacks: {}",
            missing.join(", ")
        ),
        "add them (Debian: apt install locales-all) and start PostgreSQL again; the same release of the C library keeps \
         indexes on text in order",
    ))
}

fn missing(needed: &BTreeSet<String>, here: &str) -> Vec<String> {
    let here: BTreeSet<_> = here.lines().map(normal).collect();
    let built_in = |name: &String| matches!(name.as_str(), "C" | "POSIX" | "");
    needed
        .iter()
        .filter(|name| !built_in(name) && !here.contains(&normal(name)))
        .cloned()
        .collect()
}

/// `et_EE.UTF-8` and `et_EE.utf8` are one: the C library compares character sets without case and punctuation.
fn normal(name: &str) -> String {
    let Some((language, rest)) = name.trim().split_once('.') else {
        return name.trim().to_owned();
    };
    let (charset, modifier) = rest
        .split_once('@')
        .map_or((rest, None), |(c, m)| (c, Some(m)));
    let charset: String = charset
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let modifier = modifier.map(|m| format!("@{m}")).unwrap_or_default();
    format!("{language}.{}{modifier}", charset.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn spellings_of_one_locale_are_one() {
        let here = "C\nC.utf8\nPOSIX\net_EE.utf8\nde_DE@euro\nsr_RS.utf8@latin\n";
        let needed = [
            "C",
            "",
            "C.UTF-8",
            "et_EE.UTF-8",
            "de_DE@euro",
            "sr_RS.UTF-8@latin",
        ];
        assert!(missing(&needed.map(str::to_owned).into(), here).is_empty());
        let needed = ["fi_FI.UTF-8", "et_EE", "sr_RS.UTF-8"].map(str::to_owned);
        assert_eq!(
            missing(&needed.into(), here),
            ["et_EE", "fi_FI.UTF-8", "sr_RS.UTF-8"]
        );
    }
}
