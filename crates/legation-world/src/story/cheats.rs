//! And by cheating?

use std::fs;
use std::path::{Path, PathBuf};

use super::show::thousands;
use super::{Tale, aside, gist};
use crate::args;
use crate::auditor;
use crate::cli::stock;
use crate::error::{Doing, Result, failed};
use crate::keytry;
use crate::rng::Rng;
use crate::search::{Search, Seen};
use crate::writers::editions;

/// One way of cheating; its error is a claim that does not hold.
type Part = fn(&mut Tale) -> Result<()>;

impl Tale {
    pub(super) fn cheat(&mut self) {
        self.t.say("");
        self.t.say("   And by cheating?");
        // Tried in the order scene, with the bundle of the very order that was released later.
        let few = self.few.join("; ");
        self.line("too few shares, on this very order", &few);
        let parts: [(&str, Part); 7] = [
            ("home's disk as the thief found it", Self::thief),
            ("an order for one registry", Self::one_registry),
            ("one word of the order changed", Self::edited_order),
            (
                "one byte flipped in a copy of the store",
                Self::flipped_byte,
            ),
            ("log set back behind everybody's back", Self::set_back),
            ("what the host can see", Self::host_view),
            ("legation log verify", Self::log_verified),
        ];
        for (what, part) in parts {
            if let Err(e) = part(self) {
                self.t.claim(false, format!("{what}: {e}"));
            }
        }
    }

    fn line(&mut self, what: &str, outcome: &str) {
        self.t.say(format!("   {what:<44} {outcome}"));
    }

    /// Whoever took home's disk has the agent's keys, spool and state, and asks for what is abroad.
    fn thief(&mut self) -> Result<()> {
        let disk = self.world.path("thief/disk");
        let desk = self.world.path("desk");
        let text = fs::read_to_string(self.world.person()).doing("reading a configuration")?;
        let config = self.world.path("thief/legation.toml");
        let text = text
            .replace(
                "\"desk.key",
                &format!("\"{}/agent/agent.key", disk.display()),
            )
            .replace("\"founding/", &format!("\"{}/founding/", desk.display()))
            .replace(
                "\"locators.toml",
                &format!("\"{}/agent/locators.toml", disk.display()),
            );
        fs::write(&config, text).doing("writing the thief's configuration")?;
        let to = self.world.path("thief/loot");
        let ran = self.world.legation.run(args![
            "restore",
            "population",
            "latest",
            "--to",
            to,
            "--config",
            config
        ])?;
        let locks = keytry::locks(&self.world.store())?;
        let tried = keytry::try_all(&disk.join("agent"), &locks)?;
        self.t.claim(
            tried.locks >= self.world.options.registries.len(),
            "there are epochs to try keys on",
        );
        self.t.claim(
            tried.opened.is_empty(),
            format!("what the thief holds opens {:?}", tried.opened.first()),
        );
        let empty = !to.exists() || fs::read_dir(&to).is_ok_and(|mut d| d.next().is_none());
        self.t
            .claim(ran.code != 0 && empty, "the thief restores nothing");
        self.line(
            "home's disk as the thief found it",
            &format!(
                "opens none of {} epochs: {} keys tried, all that its {} files not sealed hold",
                tried.locks,
                thousands(tried.guesses),
                tried.files
            ),
        );
        let complaint = self.short(&said(&ran));
        self.line(
            "  and the agent's own key, asked to restore",
            &format!("refused (exit {}): {complaint}", ran.code),
        );
        Ok(())
    }

    /// An order to read the gazette opens the gazette, and nothing else.
    fn one_registry(&mut self) -> Result<()> {
        let order = self.world.order_grant("grant", "gazette")?;
        let officers = [1, 3, 5].map(|n| self.world.officers[n - 1].clone());
        for officer in &officers {
            self.world.approve(&order, officer)?.ok()?;
        }
        let officers: Vec<_> = officers.iter().collect();
        self.world.submit(&order, &officers)?.ok()?;
        let released = self
            .world
            .release(&order, &officers)?
            .ok()?
            .record("released")?;
        let (path, wordings) = editions(&self.world.press().shadow)?
            .into_iter()
            .find(|(_, w)| w.iter().all(|e| e.told <= self.captured))
            .doing("looking for an act that was published before the capture")?;
        let dump = self.world.legation.ok(args![
            "dump",
            "gazette",
            "latest",
            path,
            "--order",
            order.text,
            "--config",
            self.world.person()
        ])?;
        let newest = wordings.last().doing("looking for an edition")?;
        let same = fs::read_to_string(&newest.copy).doing("reading a kept edition")? == dump.out;
        self.t
            .claim(same, format!("{} comes back byte for byte", path.display()));
        let to = self.world.path("desk/loot");
        let other = self.world.legation.run(args![
            "restore",
            "population",
            "latest",
            "--to",
            to,
            "--order",
            order.text,
            "--config",
            self.world.person()
        ])?;
        self.t.claim(
            other.code == 8,
            format!(
                "an order for the gazette opens no other registry: {}",
                said(&other)
            ),
        );
        self.line(
            "an order for one registry",
            &format!(
                "opens {} of {} keys; {} equal; population refused (exit {})",
                released["keys"],
                released["of"],
                path.display(),
                other.code
            ),
        );
        Ok(())
    }

    /// Paths without the scratch directory, digests by their beginning.
    fn short(&self, text: &str) -> String {
        let root = format!("{}", self.world.path("").display());
        let word = |w: &str| {
            let hex = w.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return w.replace(hex, &format!("{}…", &hex[..8]));
            }
            w.to_owned()
        };
        text.replace(&root, "")
            .split(' ')
            .map(word)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The order with one word of its sentence changed, under the very same approvals.
    fn edited_order(&mut self) -> Result<()> {
        let Some(order) = self.order.clone() else {
            return failed("no order was given");
        };
        let text = fs::read_to_string(&order.text).doing("reading the order")?;
        let edited = text.replacen("for reading and writing", "for reading", 1);
        if edited == text {
            return failed("the order's sentence does not say what it grants");
        }
        let copy = self.world.path("desk/edited.txt");
        fs::write(&copy, &edited).doing("writing the edited order")?;
        let mut submit: Vec<_> =
            args!["order", "submit", copy, "--config", self.world.person()].into();
        for officer in [1, 2, 4].map(|n| self.world.officers[n - 1].clone()) {
            submit.extend(args![
                "--approval",
                order.beside(&format!("{}.sig", officer.name))
            ]);
        }
        let ran = self.world.legation.run(submit)?;
        let officer = self.world.officers[0].clone();
        let stock = self.world.stock_verify(
            &copy,
            &order.beside(&format!("{}.sig", officer.name)),
            &officer,
            "legation/order/v1",
        )?;
        let verdict = stock
            .err
            .lines()
            .chain(stock.out.lines())
            .last()
            .unwrap_or_default()
            .trim()
            .to_owned();
        self.t.claim(
            ran.code == 8,
            format!(
                "an edited order is refused with exit 8, not {}: {}",
                ran.code,
                said(&ran)
            ),
        );
        self.t
            .claim(stock.code != 0, "stock ssh-keygen refuses the edited order");
        self.line(
            "one word of the order changed",
            &format!("refused (exit {}); ssh-keygen agrees: {verdict}", ran.code),
        );
        Ok(())
    }

    /// One bit of one pack, in a copy; and the untouched store beside it.
    fn flipped_byte(&mut self) -> Result<()> {
        let whole = self
            .world
            .legation
            .run(args!["verify", "--store", self.world.store()])?;
        self.t.claim(
            whole.code == 0,
            format!("the store verifies: {}", said(&whole)),
        );
        let copy = aside(&self.world, "flipped")?.join("store");
        stock("cp", args!["-al", self.world.store(), copy], b"")?.ok()?;
        let mut packs = Vec::new();
        objects(&copy, &mut packs)?;
        packs.retain(|p| p.to_string_lossy().contains("/pack/"));
        packs.sort();
        let mut seed = [0u8; 8];
        let _ = getrandom::fill(&mut seed);
        let mut rng = Rng::new(u64::from_le_bytes(seed), "flip");
        let Some(pack) = packs.get(rng.below(packs.len() as u64) as usize).cloned() else {
            return failed("the store holds no pack");
        };
        let mut bytes = fs::read(&pack).doing("reading a pack")?;
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
        // A file of its own in place of the link, or the real store would be changed too.
        fs::remove_file(&pack).doing("unlinking a pack")?;
        fs::write(&pack, &bytes).doing("writing a pack")?;
        let ran = self.world.legation.run(args!["verify", "--store", copy])?;
        let name = pack
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let told = format!("{}{}", ran.out, ran.err);
        let line = told
            .lines()
            .find(|l| l.contains(&name[..8]))
            .unwrap_or_default()
            .trim()
            .to_owned();
        let (from, to) = range(&line).unwrap_or_default();
        self.t.claim(
            ran.code == 4,
            format!("a flipped byte ends verify with 4, not {}", ran.code),
        );
        self.t.claim(
            !line.is_empty() && (from..to.max(from + 1)).contains(&(at as u64)),
            format!("byte {at} of pack {} is located: {line:?}", &name[..8]),
        );
        self.line(
            "one byte flipped in a copy of the store",
            &format!(
                "legation verify (exit {}): {} (it was byte {})",
                ran.code,
                self.short(gist(&line)),
                thousands(at as u64)
            ),
        );
        Ok(())
    }

    /// The embassy as it was while home lived, shown to a desk that has seen more.
    fn set_back(&mut self) -> Result<()> {
        let shown = self.world.show_older(&self.world.path("set-back/store"))?;
        self.t.claim(
            shown.code == 4,
            format!(
                "a log set back is refused with exit 4, not {}: {}",
                shown.code,
                said(&shown)
            ),
        );
        let said = said(&shown);
        let why = said
            .find("log cut short")
            .map_or(said.as_str(), |at| &said[at..]);
        let mut kept = Vec::new();
        checkpoints(&self.world.path("desk"), &mut kept)?;
        self.t
            .claim(kept.len() == 2, "both checkpoints are kept as evidence");
        self.line(
            "log set back behind the desk's back",
            &format!(
                "refused (exit {}): {}; both checkpoints kept",
                shown.code,
                gist(why)
            ),
        );
        Ok(())
    }

    fn host_view(&mut self) -> Result<()> {
        let mut words = self.world.plan.canaries.all();
        let planted = words.len();
        // Names and titles of registries too, where they are long enough not to come about by chance.
        for r in &self.world.options.registries {
            words.extend(
                [r.name(), r.shape().title]
                    .into_iter()
                    .filter(|w| w.len() >= 7)
                    .map(str::to_owned),
            );
        }
        let search = Search::new(&words);
        let mut seen = Seen::default();
        for place in [
            "embassy/store",
            "embassy/embassy.log",
            "embassy/mandate.signed",
            "embassy/mandate.keys",
        ] {
            search.below(&self.world.path(place), &mut seen)?;
        }
        self.t.claim(
            seen.hits.is_empty(),
            format!("a planted word lies in the open: {:?}", seen.hits.first()),
        );
        // The search itself is tried where the words must be.
        let mut control = Seen::default();
        search.below(&self.world.press().shadow.join("base"), &mut control)?;
        self.t.claim(
            control.hits.len() >= 12,
            "the search finds planted words where they are",
        );
        let mut all = Vec::new();
        objects(&self.world.store(), &mut all)?;
        let mut sizes: Vec<u64> = all
            .iter()
            .filter_map(|p| p.metadata().ok())
            .map(|m| m.len())
            .collect();
        let count = sizes.len();
        sizes.sort_unstable();
        sizes.dedup();
        self.t.claim(
            sizes.iter().all(|s| (0..7).any(|c| *s == 4096 << (2 * c))),
            format!("objects have only the table's sizes: {sizes:?}"),
        );
        self.line(
            "what the host can see",
            &format!(
                "{} objects of {} sizes; {} words found {} times in {} files",
                thousands(count as u64),
                sizes.len(),
                planted + (words.len() - planted),
                seen.hits.len(),
                thousands(seen.files)
            ),
        );
        Ok(())
    }

    fn log_verified(&mut self) -> Result<()> {
        let mirror = self.world.path("desk/log");
        self.world.mirror_log(&mirror)?.ok()?;
        let ran = self.world.legation.run(args!["log", "verify", mirror])?;
        let copied = auditor::read(&mirror)?;
        self.t.claim(
            ran.code == 0,
            format!("the log replays within the mandate: {}", said(&ran)),
        );
        let told = ran
            .out
            .lines()
            .rfind(|l| !l.trim().is_empty())
            .unwrap_or_default()
            .trim()
            .to_owned();
        self.line(
            "$ legation log verify log/",
            &format!("{told} ({} entries hashed again here)", copied.size),
        );
        Ok(())
    }
}

/// What a program said against a request, in one line.
fn said(ran: &crate::process::Ran) -> String {
    ran.complaint().to_owned()
}

/// Checkpoints that contradict each other, kept as evidence.
fn checkpoints(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).doing(format_args!("listing {}", dir.display()))? {
        let path = entry.doing("listing the desk")?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            checkpoints(&path, into)?;
        } else if name.contains(".evidence-") {
            into.push(path);
        }
    }
    Ok(())
}

/// Object files below a store: packs, lists, slips; without what lies beside them for checking.
fn objects(store: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(store).doing(format_args!("listing {}", store.display()))? {
        let path = entry.doing("listing the store")?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            objects(&path, into)?;
        } else if name.len() == 64
            && ["/pack/", "/list/", "/slip/"]
                .iter()
                .any(|k| path.to_string_lossy().contains(k))
        {
            into.push(path);
        }
    }
    Ok(())
}

/// The byte range that a line names: `bytes 65,536..131,072`.
fn range(line: &str) -> Option<(u64, u64)> {
    let rest = line
        .split("byte")
        .nth(1)?
        .trim_start_matches('s')
        .trim_start();
    let digits = |s: &str| {
        s.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse::<u64>()
            .ok()
    };
    let word = rest.split([' ', ';', ')']).next()?;
    match word.split_once("..") {
        Some((from, to)) => Some((digits(from)?, digits(to)?)),
        None => digits(word).map(|n| (n, n + 1)),
    }
}
