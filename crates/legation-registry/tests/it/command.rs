//! Real programs as sources: how they end decides whether there is anything, and nothing of them outlives a stop.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use legation_registry::Error;
use legation_registry::command::{Output, OutputReport, RESTORE_KEY, capture};
use legation_registry::program::Program;

use crate::memory::MemorySink;

/// A script of the shell, which is the program here.
fn script(text: &str) -> Output {
    Output {
        program: Program {
            argv: ["/bin/sh", "-c", text].map(Into::into).into(),
            timeout: Duration::from_secs(60),
            ..Program::default()
        },
        name: "out".into(),
        may_be_empty: false,
        restore: Vec::new(),
    }
}

fn run(output: &Output) -> Result<(MemorySink, OutputReport), Error> {
    let mut sink = MemorySink::default();
    let report = capture(output, &mut sink, &|| false)?;
    Ok((sink, report))
}

fn why(output: &Output) -> String {
    match run(output) {
        Err(Error::Refused { what, .. }) => what,
        other => panic!("{:?}", other.map(|(_, report)| report)),
    }
}

/// Whether a process with these words on its command line lives.
fn lives(words: &str) -> bool {
    let procs = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut lines = procs.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(words))
}

fn gone(words: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while lives(words) {
        assert!(Instant::now() < until, "{words} lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_program_prints_is_a_file() {
    let mut output = script("seq 1 2000000; echo a warning >&2");
    output.restore = vec!["mariadb".into(), "land \"2\"".into()];
    let (sink, report) = run(&output).unwrap();
    let expected: String = (1..=2_000_000).map(|n| format!("{n}\n")).collect();
    assert!(sink.content("out") == expected.as_bytes());
    assert_eq!(report.bytes, expected.len() as u64);
    assert_eq!(
        report.digest,
        legation_core::id::Digest::of(expected.as_bytes())
    );
    assert_eq!(sink.meta[RESTORE_KEY], r#"["mariadb","land \"2\""]"#);
}

#[test]
fn how_it_ends_decides() {
    let status = why(&script("echo half of it; echo no such table >&2; exit 3"));
    assert_eq!(
        status,
        "/bin/sh: it ended with status 3; it said: no such table"
    );
    let signal = why(&script("echo half of it; kill -9 $$"));
    assert_eq!(signal, "/bin/sh: signal 9 ended it; it said nothing");
    let much = why(&script("seq 1 100000 >&2; exit 1"));
    assert!(
        much.ends_with("99996 / 99997 / 99998 / 99999 / 100000") && much.len() < 200,
        "{much}"
    );
    let mut none = script("true");
    assert!(why(&none).contains("printed nothing"));
    none.may_be_empty = true;
    assert_eq!(run(&none).unwrap().1.bytes, 0);
    let absent = Output {
        program: Program {
            argv: vec!["no-such-program".into()],
            ..none.program.clone()
        },
        ..none.clone()
    };
    assert!(why(&absent).contains("no-such-program cannot be started"));
    assert!(absent.program.find().is_err() && none.program.find().is_ok());
    let by_name = Program {
        argv: vec!["sh".into()],
        ..Program::default()
    };
    by_name.find().unwrap();
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
    // A child, a grandchild that ignores what can be ignored, and one in the background that holds the output.
    let mut output = script(
        "echo begun; trap '' TERM; sleep 86399.25 & sh -c 'trap \"\" TERM HUP; sleep 86399.5; true'; true",
    );
    output.program.timeout = Duration::from_secs(1);
    let began = Instant::now();
    let what = why(&output);
    assert!(what.contains("not done within 1 s"), "{what}");
    assert!(began.elapsed() < Duration::from_secs(30));
    gone("86399.25");
    gone("86399.5");
}

#[test]
fn a_stop_kills_it_also_while_nobody_takes_its_output() {
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let mut calls = 0;
    let program = script("while :; do echo 86398.75; done").program;
    let ended = program.run(&|| stop.load(Ordering::SeqCst), &mut |_| {
        calls += 1;
        if calls == 3 {
            // As a spool without room: what is printed waits.
            stop.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    });
    assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
    gone("86398.75");
    // As is one whose output is refused.
    let ended = program.run(&|| false, &mut |_| {
        Err(Error::refused("no more", "nothing"))
    });
    assert!(matches!(ended, Err(Error::Refused { .. })));
    gone("86398.75");
}

#[test]
fn it_gets_no_more_of_our_surroundings_than_is_named() {
    // Cargo gives every test these.
    let mut output = script("pwd; env | cut -d= -f1 | sort; head -c 1 | wc -c");
    let text = |output: &Output| String::from_utf8(run(output).unwrap().0.content("out")).unwrap();
    let told = text(&output);
    assert!(told.starts_with("/\n") && told.contains("PATH\n"), "{told}");
    assert!(!told.contains("CARGO"), "{told}");
    assert!(told.ends_with("\n0\n"), "no input: {told}");
    output.program.env = vec!["CARGO_PKG_NAME".into()];
    output.program.directory = Some(Path::new("/usr").into());
    let told = text(&output);
    assert!(
        told.starts_with("/usr\n") && told.contains("CARGO_PKG_NAME\n"),
        "{told}"
    );
}
