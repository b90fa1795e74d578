//! Scenes 1 and 2: a state is founded, an embassy opens.

use std::fs;

use super::{Tale, aside, gist};
use crate::args;
use crate::auditor;
use crate::cli::stock;
use crate::error::{Doing, Result};

impl Tale {
    pub(super) fn found(&mut self) -> Result<()> {
        self.t.say("");
        self.t.say("1  A STATE IS FOUNDED");
        self.t
            .say("   five officers, any three open, at least one of them abroad");
        let good = self.world.ceremony()?;
        let (mut home, mut abroad, mut opened) = (Vec::new(), Vec::new(), 0);
        for o in &self.world.officers {
            let proof = self
                .world
                .path("desk/founding")
                .join(format!("{}.proof", o.name));
            self.t
                .claim(proof.is_file(), format!("{} proves his share", o.name));
            if o.abroad {
                abroad.push(o.name)
            } else {
                home.push(o.name)
            }
            // Stock age opens the envelope: nobody needs our program to get at his own share.
            let age = stock("age", args!["-d", "-i", o.age_identity(), o.share()], b"")?;
            opened += usize::from(age.code == 0 && age.out.starts_with("legation/share/v1"));
        }
        let all = self.world.officers.len();
        self.t.claim(
            opened == all,
            format!("stock age opens {opened} of {all} envelopes"),
        );
        self.t.claim(
            good == all,
            format!("stock ssh-keygen finds {good} of {all} signatures good"),
        );
        let other = stock(
            "age",
            args![
                "-d",
                "-i",
                self.world.officers[1].age_identity(),
                self.world.officers[0].share()
            ],
            b"",
        )?;
        self.t.claim(
            other.code != 0,
            "one officer's identity does not open another's envelope",
        );
        self.t.say(format!(
            "   share proven by its holder   home: {}    abroad: {}",
            home.join(" "),
            abroad.join(" ")
        ));
        self.t.say(format!("   envelopes                    stock age opens {opened} of {all}, each with its own identity only"));
        self.t.say(format!(
            "   mandate signed by {good} of {all}     ssh-keygen -Y verify -n legation/mandate/v1: Good signature ({good} times)"
        ));
        self.t.say(format!(
            "   the state is                 {}",
            self.world.state
        ));
        Ok(())
    }

    pub(super) fn embassy_opens(&mut self) -> Result<()> {
        self.t.say("");
        self.t.say("2  AN EMBASSY OPENS, SEALED");
        self.world.start_embassy()?;
        let pid = self
            .world
            .embassy
            .as_ref()
            .map_or(0, crate::process::Daemon::pid);
        self.t.say(format!("   another process ({pid}) in another directory; mutual TLS, keys pinned by the mandate"));
        let refused = self.stranger()?;
        self.t
            .say(format!("   a stranger with a key of his own   {refused}"));
        let mirror = self.world.path("desk/log-first");
        self.world.mirror_log(&mirror)?.ok()?;
        let log = auditor::read(&mirror)?;
        let (ed, ml) = log.signatures;
        self.t.claim(
            log.size >= 1 && log.statements("mandate").len() == 1,
            "the log begins with the mandate",
        );
        self.t.claim(
            ed && ml,
            "the checkpoint is signed with Ed25519 and ML-DSA-44",
        );
        self.t.say(format!(
            "   log: {} {} (the mandate), its root hashed again here, checkpoint signed Ed25519 + ML-DSA-44",
            log.size,
            if log.size == 1 { "entry" } else { "entries" }
        ));
        Ok(())
    }

    /// Somebody with the program, the address and the mandate, but without a pinned key.
    fn stranger(&mut self) -> Result<String> {
        let dir = aside(&self.world, "stranger")?;
        self.world.legation.ok(args![
            "officer",
            "new",
            "stranger",
            "--client",
            "--out",
            dir.join("stranger.key")
        ])?;
        let text = fs::read_to_string(self.world.person()).doing("reading a configuration")?;
        let desk = self.world.path("desk");
        let text = text
            .replace("desk.key", "stranger.key")
            .replace("\"founding/", &format!("\"{}/founding/", desk.display()))
            .replace(
                "\"locators.toml",
                &format!("\"{}/locators.toml", desk.display()),
            );
        let config = dir.join("legation.toml");
        fs::write(&config, text).doing("writing a stranger's configuration")?;
        let ran = self
            .world
            .legation
            .run(args!["versions", "--config", config])?;
        self.t.claim(ran.code != 0, "a stranger is refused");
        Ok(format!(
            "refused (exit {}): {}",
            ran.code,
            gist(ran.complaint())
        ))
    }
}
