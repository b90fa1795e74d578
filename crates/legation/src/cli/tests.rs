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
fn a_usage_error_is_told_whole_to_programs() {
    use clap::Parser;
    let said = |args: &[&str]| super::usage(&Cli::try_parse_from(args).unwrap_err().to_string());
    let failure = said(&["legation", "order", "approve", "order.txt"]);
    for option in ["--annex <FILE>", "--as <NAME>", "--ssh-key <KEY>"] {
        assert!(failure.message.contains(option), "{failure}");
    }
    assert!(!failure.message.contains("Usage"), "{failure}");
    let failure = said(&["legation", "verfy"]);
    assert!(failure.message.contains("verfy"), "{failure}");
    assert!(failure.hint.unwrap().contains("verify"));
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
