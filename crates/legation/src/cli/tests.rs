use clap::CommandFactory;

use super::{Cli, filter};

#[test]
fn every_verb_has_an_example() {
    let mut lacking = Vec::new();
    visit(&Cli::command(), "legation", &mut lacking);
    assert!(lacking.is_empty(), "no example in --help of: {lacking:?}");
}

fn visit(command: &clap::Command, name: &str, lacking: &mut Vec<String>) {
    let help = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    if !help.contains("Example") || !help.contains("legation ") {
        lacking.push(name.to_owned());
    }
    for verb in command.get_subcommands() {
        visit(verb, &format!("{name} {}", verb.get_name()), lacking);
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_crates_that_connect_say_no_more_than_warnings() {
    for verbose in 0..4 {
        let level = filter(verbose);
        for connects in ["hyper", "hyper_util", "h2", "reqwest", "rustls"] {
            let quiet = format!("{connects}=warn");
            assert!(
                level.split(',').any(|one| one == quiet),
                "{level}: {connects}"
            );
        }
    }
}
