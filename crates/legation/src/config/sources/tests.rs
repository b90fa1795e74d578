use super::super::agent::{Agent, Source};

/// A source as the guide writes it, in a file of its own.
fn source(text: &str) -> Result<Source, String> {
    let whole = format!(
        "format = 1\nstate = \"lgn1-x\"\nmandate = \"m\"\nidentity = {{ file = \"k\" }}\nlocators = \"l\"\n\
         [spool]\npath = \"s\"\nsize = \"1GiB\"\n[[registry]]\nid = \"r-3f9a11\"\nname = \"land\"\n{text}"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, whole).unwrap();
    let mut agent = Agent::load(&path).map_err(|failure| failure.message)?;
    Ok(agent.registry.remove(0).source.remove(0))
}

#[test]
fn the_sources_of_the_guide_are_read() {
    let guide = include_str!("../../../../../docs/operating/agent.md");
    let blocks = guide.split("```toml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let kinds: Vec<&str> = blocks
        .filter(|block| block.starts_with("[[registry.source]]"))
        .map(|block| {
            source(block)
                .unwrap_or_else(|why| panic!("{why}: {block}"))
                .kind()
        })
        .collect();
    for kind in ["command", "image"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}

#[test]
fn what_would_be_no_version_of_one_moment_is_refused() {
    let image = |rest: &str| {
        source(&format!(
            "[[registry.source]]\nkind = \"image\"\npath = \"/dev/vg/lv\"\n{rest}"
        ))
    };
    for (rest, says) in [
        ("", "needs snapshot"),
        ("snapshot = \"none\"", "quiesced = true"),
        (
            "snapshot = \"reflink\"\nquiesced = true",
            "without a snapshot",
        ),
        (
            "format = \"oci\"\nsnapshot = \"reflink\"",
            "format \"disk\"",
        ),
        (
            "snapshot = { create = [], remove = [\"rm\"], path = \"/x\" }",
            "names no program",
        ),
        ("snapshot = \"lvm\"", "snapshot"),
        ("snapshot = { create = [\"a\"], path = \"/x\" }", "snapshot"),
    ] {
        let why = image(rest).expect_err(rest);
        assert!(why.contains(says), "{rest}: {why}");
    }
    for good in [
        "snapshot = \"reflink\"",
        "snapshot = \"none\"\nquiesced = true",
        "format = \"oci\"",
        "format = \"archive\"",
    ] {
        image(good).unwrap();
    }
    let command = |rest: &str| source(&format!("[[registry.source]]\nkind = \"command\"\n{rest}"));
    for (rest, says) in [
        ("argv = []", "names no program"),
        ("argv = [\"\"]", "names no program"),
        ("argv = [\"a\"]\nname = \"../etc\"", "plain name"),
        ("argv = [\"a\"]\ntimeout = \"0s\"", "timeout"),
        ("argv = \"a b\"", "expected a sequence"),
    ] {
        let why = command(rest).expect_err(rest);
        assert!(why.contains(says), "{rest}: {why}");
    }
}
