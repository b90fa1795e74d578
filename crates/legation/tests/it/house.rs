//! House rules that a reader of ARCHITECTURE.md relies on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The project's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below `dir` with this ending.
fn files(dir: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, ending, into);
        } else if path.to_string_lossy().ends_with(ending) {
            into.push(path);
        }
    }
}

/// Whether a file holds tests of its module.
fn is_test(path: &Path) -> bool {
    path.components()
        .any(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs") == "tests")
}

fn sources() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for krate in fs::read_dir(root().join("crates")).expect("crates") {
        let krate = krate.expect("an entry").path();
        for part in ["src", "tests"] {
            if krate.join(part).is_dir() {
                files(&krate.join(part), ".rs", &mut all);
            }
        }
    }
    all
}

/// The crates of ours that a crate's `[dependencies]` name.
fn uses(krate: &str) -> BTreeSet<String> {
    let manifest = read(root().join("crates").join(krate).join("Cargo.toml"));
    let mut inside = false;
    let mut all = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some(name) = line.strip_prefix("legation-") {
            all.insert(
                name.split(['.', ' ', '='])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
    }
    all
}

#[test]
fn crates_use_only_what_the_map_allows() {
    let allowed: [(&str, &[&str]); 7] = [
        ("legation-core", &[]),
        ("legation-repo", &["core"]),
        ("legation-registry", &["core"]),
        ("legation-embassy", &["core", "repo"]),
        ("legation", &["core", "repo", "registry", "embassy"]),
        ("legation-sim", &["core", "repo", "embassy"]),
        ("legation-world", &[]),
    ];
    for (krate, may) in allowed {
        for used in uses(krate) {
            assert!(may.contains(&used.as_str()), "{krate} uses legation-{used}");
        }
    }
}

#[test]
fn core_has_no_files_sockets_clocks_or_randomness() {
    let mut all = Vec::new();
    files(&root().join("crates/legation-core/src"), ".rs", &mut all);
    for path in all.iter().filter(|p| !is_test(p)) {
        let text = read(path);
        for word in [
            "std::fs",
            "std::net",
            "std::process",
            "std::thread",
            "std::env",
            "SystemTime::now",
            "Instant::now",
            "Timestamp::now",
            "getrandom::",
            "OsRng",
        ] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn the_embassy_has_no_way_to_open_anything() {
    let mut all = Vec::new();
    files(&root().join("crates/legation-embassy/src"), ".rs", &mut all);
    for path in all.iter().filter(|p| !is_test(p)) {
        let text = read(path);
        for word in [
            "PackOpener",
            "StreamOpener",
            "OpeningKey",
            "EpochRoot",
            "slip::open",
            "VersionReader",
        ] {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn no_store_can_delete() {
    let text = read(root().join("crates/legation-repo/src/store.rs"));
    let start = text.find("pub trait Store").expect("the trait");
    let body = &text[start..start + text[start..].find("\n}").expect("its end")];
    for word in ["delete", "remove", "discard", "truncate", "rename"] {
        assert!(!body.contains(&format!("fn {word}")), "Store has fn {word}");
    }
}

#[test]
fn every_named_invariant_has_its_test() {
    let text = read(root().join("ARCHITECTURE.md"));
    let all: String = sources().iter().map(read).collect();
    let mut named = 0;
    for line in text.lines().filter(|l| l.starts_with("| I")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        for test in cells.last().expect("a cell").split(',') {
            let name = test
                .trim()
                .trim_matches('`')
                .rsplit("::")
                .next()
                .unwrap_or_default()
                .to_owned();
            assert!(
                all.contains(&format!("fn {name}(")),
                "ARCHITECTURE.md names the test {name}, which does not exist: {line}"
            );
            named += 1;
        }
    }
    assert!(named >= 12, "only {named} tests are named by invariants");
}

#[test]
fn documents_name_only_verbs_that_exist() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_legation"))
        .arg("--help")
        .output()
        .expect("legation --help");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let mut all = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), ".md", &mut all);
    for path in all {
        for piece in read(&path).split("legation ").skip(1) {
            let verb: String = piece
                .chars()
                .take_while(|c| c.is_ascii_lowercase())
                .collect();
            let typed = piece[verb.len()..].starts_with(' ') && !verb.is_empty();
            // Prose such as "legation is" is not typed; verbs are named inside code only.
            let before = read(&path);
            let code = before.contains(&format!("`legation {verb}"))
                || before.contains(&format!("    legation {verb}"));
            if typed && code {
                assert!(
                    help.contains(&format!("  {verb} ")) || verb == "help",
                    "{} names the verb {verb}, which does not exist",
                    path.display()
                );
            }
        }
    }
}

/// What a shell would make of a line: words, up to a comment, a pipe, a redirection or another command.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        let begun = words.last().is_some_and(|word| !word.is_empty());
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, '|' | '>' | ';' | '&') => break,
            (None, '#') if !begun => break,
            (None, ' ') => {
                if begun {
                    words.push(String::new());
                }
            }
            _ => words.last_mut().expect("a word").push(c),
        }
    }
    // What goes on as before is left out in prose.
    words.retain(|word| !word.is_empty() && word != "…" && word != "...");
    words
}

/// Command lines of a document: whole lines of its code, and what stands in its text as code.
fn commands(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut typed, mut named) = (Vec::new(), Vec::new());
    let mut fenced = false;
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            typed.extend(
                line.trim()
                    .starts_with("legation ")
                    .then(|| line.trim().to_owned()),
            );
        } else {
            let inside = line.split('`').skip(1).step_by(2);
            named.extend(
                inside
                    .filter(|c| c.starts_with("legation "))
                    .map(str::to_owned),
            );
        }
    }
    (typed, named)
}

#[test]
fn documented_command_lines_parse() {
    use clap::Parser;
    use clap::error::ErrorKind;
    let mut all = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), ".md", &mut all);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in all {
        let (typed, named) = commands(&read(&path));
        let whole = typed.into_iter().map(|line| (line, true));
        for (line, whole) in whole.chain(named.into_iter().map(|line| (line, false))) {
            let Err(error) = legation::cli::Cli::try_parse_from(words(&line)) else {
                seen += 1;
                continue;
            };
            let fine = match error.kind() {
                // `legation help VERB` and the like.
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                ErrorKind::InvalidSubcommand => line.starts_with("legation help "),
                // Text may name a verb, or a part of what is typed.
                ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !whole,
                _ => false,
            };
            if !fine {
                wrong.push(format!("{}: {line}\n{error}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 30, "only {seen} command lines were found");
}

#[test]
fn every_file_can_be_read_in_one_sitting() {
    for path in sources() {
        let lines = read(&path).lines().count();
        assert!(
            lines <= 800,
            "{} has {lines} lines: redraw it",
            path.display()
        );
    }
}
