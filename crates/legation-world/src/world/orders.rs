//! Orders: written at the desk, approved with stock `ssh-keygen`, logged, released off the embassy.

use std::path::{Path, PathBuf};

use super::{EMBASSY, Officer, World};
use crate::args;
use crate::error::Result;
use crate::process::Ran;

/// An order and the files beside it.
#[derive(Debug, Clone)]
pub struct Order {
    /// `order.txt`.
    pub text: PathBuf,
}

impl Order {
    /// An order's file of another ending, such as `annex.txt` or `officer-1.sig`.
    pub fn beside(&self, ending: &str) -> PathBuf {
        let name = self
            .text
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let stem = name.strip_suffix(".txt").unwrap_or(&name);
        match ending {
            "annex.txt" | "bundle" | "released" => {
                self.text.with_file_name(format!("{stem}.{ending}"))
            }
            _ => self.text.with_file_name(format!("{name}.{ending}")),
        }
    }
}

impl World {
    /// A new order to start everything, or `registries` alone, for reading and writing.
    pub fn order_activate(&self, name: &str, registries: &[&str]) -> Result<Order> {
        let text = self.path("desk").join(format!("{name}.txt"));
        let list = registries.join(",");
        let mut args: Vec<_> = args![
            "order",
            "new",
            "activate",
            "--grant",
            "read-write",
            "--at",
            EMBASSY
        ]
        .into();
        args.extend(match registries {
            [] => args!["--all"].to_vec(),
            _ => args!["--registry", list].to_vec(),
        });
        args.extend(args![
            "--reason",
            "The home data centre does not answer, and its site is not in our hands.",
            "--valid",
            "12h",
            "--out",
            text,
            "--config",
            self.person()
        ]);
        self.legation.ok(args)?;
        Ok(Order { text })
    }

    /// A new order that lets this desk read a registry.
    pub fn order_grant(&self, name: &str, registry: &str) -> Result<Order> {
        let text = self.path("desk").join(format!("{name}.txt"));
        self.legation.ok(args![
            "order",
            "new",
            "grant",
            registry,
            "--grant",
            "read",
            "--version",
            "latest",
            "--valid",
            "24h",
            "--reason",
            "A record is looked up.",
            "--out",
            text,
            "--config",
            self.person()
        ])?;
        Ok(Order { text })
    }

    /// The person's configuration.
    pub fn person(&self) -> PathBuf {
        self.path("desk/legation.toml")
    }

    /// What an officer reads before he signs.
    pub fn order_show(&self, order: &Order) -> Result<Ran> {
        let annex = order.beside("annex.txt");
        self.legation.run(args![
            "order",
            "show",
            order.text,
            "--annex",
            annex,
            "--config",
            self.person()
        ])
    }

    /// An officer approves.
    pub fn approve(&self, order: &Order, officer: &Officer) -> Result<Ran> {
        self.legation.run(args![
            "order",
            "approve",
            order.text,
            "--annex",
            order.beside("annex.txt"),
            "--as",
            officer.name,
            "--ssh-key",
            officer.ssh_key(),
            "--config",
            self.person()
        ])
    }

    /// Sends an order with these officers' approvals to the embassy's log.
    pub fn submit(&self, order: &Order, officers: &[&Officer]) -> Result<Ran> {
        let mut args: Vec<_> = args![
            "order",
            "submit",
            order.text,
            "--config",
            self.person(),
            "--json"
        ]
        .into();
        for officer in officers {
            args.extend(args![
                "--approval",
                order.beside(&format!("{}.sig", officer.name))
            ]);
        }
        self.legation.run(args)
    }

    /// These officers bring their shares together, away from the embassy.
    pub fn release(&self, order: &Order, officers: &[&Officer]) -> Result<Ran> {
        let bundle = order.beside("bundle");
        let mut args: Vec<_> = args![
            "order",
            "release",
            bundle,
            "--out",
            order.beside("released"),
            "--json"
        ]
        .into();
        for officer in officers {
            args.extend(args![
                "--share",
                officer.share(),
                "--age-identity",
                officer.age_identity()
            ]);
        }
        self.legation.run(args)
    }

    /// Delivers what was released.
    pub fn deliver(&self, order: &Order) -> Result<Ran> {
        self.legation.run(args![
            "order",
            "submit",
            order.beside("released"),
            "--config",
            self.person(),
            "--json"
        ])
    }

    /// A copy of the log as an auditor takes it.
    pub fn mirror_log(&self, to: &Path) -> Result<Ran> {
        self.legation
            .run(args!["log", "mirror", to, "--config", self.person()])
    }
}
