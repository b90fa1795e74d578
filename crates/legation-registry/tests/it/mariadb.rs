//! MariaDB by its own dump: consistent under writers, nothing when the server dies, equal rows after it is read in.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use legation_registry::Error;
use legation_registry::command::{Output, capture};
use legation_registry::program::Program;

use crate::memory::MemorySink;

/// Nobody, who is on every machine: the server refuses to run as root.
const NOBODY: u32 = 65534;
const ACCOUNTS: u32 = 2000;
/// Each account begins with this much.
const EACH: u64 = 1000;

/// A server of its own, without a network.
struct Server {
    process: Child,
    socket: PathBuf,
}

fn as_nobody(program: &str) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::null()).env("HOME", "/nonexistent");
    command
}

impl Server {
    fn start(dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = dir.join("data");
        let template = dir.with_file_name("template");
        if template.exists() {
            // As new: what it makes is the same each time, and takes some seconds.
            let copied = as_nobody("cp").arg("-a").args([&template, &data]).status();
            assert!(copied.unwrap().success());
            return Self::run(dir, &data);
        }
        let made = as_nobody("mariadb-install-db")
            .args([
                "--no-defaults",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ])
            .arg(format!("--datadir={}", data.display()))
            .output()
            .expect("mariadb-install-db; .ci/need installs it");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let copied = Command::new("cp")
            .arg("-a")
            .args([&data, &template])
            .status();
        assert!(copied.unwrap().success());
        Self::run(dir, &data)
    }

    fn run(dir: &Path, data: &Path) -> Self {
        let socket = dir.join("socket");
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = as_nobody("mariadbd")
            .args([
                "--no-defaults",
                "--skip-networking",
                "--innodb-buffer-pool-size=32M",
            ])
            .args([
                "--innodb-flush-log-at-trx-commit=2",
                "--innodb-log-file-size=8M",
            ])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .stderr(log)
            .spawn()
            .expect("mariadbd; .ci/need installs it");
        let server = Self { process, socket };
        let until = Instant::now() + Duration::from_secs(60);
        while !server
            .client(&["-e", "select 1"])
            .output()
            .unwrap()
            .status
            .success()
        {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap();
            assert!(Instant::now() < until, "{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = as_nobody("mariadb");
        command
            .args(["--no-defaults", "-u", "root", "-N", "-B"])
            .arg(format!("--socket={}", self.socket.display()))
            .args(args);
        command
    }

    fn ask(&self, sql: &str) -> String {
        let ran = self.client(&["-e", sql]).output().unwrap();
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    fn read_in(&self, dump: &[u8]) {
        let mut client = self.client(&[]).stdin(Stdio::piped()).spawn().unwrap();
        client.stdin.take().unwrap().write_all(dump).unwrap();
        assert!(client.wait().unwrap().success());
    }

    /// As the operating guide says it.
    fn dump(&self) -> Output {
        let socket = format!("--socket={}", self.socket.display());
        let argv = [
            "mariadb-dump",
            "--no-defaults",
            "-u",
            "root",
            &socket,
            "--single-transaction",
            "--skip-dump-date",
            "--databases",
            "bank",
        ];
        Output {
            program: Program {
                argv: argv.map(Into::into).into(),
                timeout: Duration::from_secs(120),
                ..Program::default()
            },
            name: "dump.sql".into(),
            may_be_empty: false,
            restore: vec!["mariadb".into()],
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn taken(output: &Output) -> Vec<u8> {
    let mut sink = MemorySink::default();
    capture(output, &mut sink, &|| false).unwrap();
    sink.content("dump.sql")
}

const DIGESTS: &str = "checksum table bank.account, bank.note; \
    select count(*), sum(balance), md5(group_concat(id, ':', balance order by id)) from bank.account";

#[test]
fn a_database_comes_back_by_its_own_dump() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let began = Instant::now();
    let home = Server::start(&dir.path().join("home"));
    home.ask(&format!(
        "create database bank; use bank; \
         create table account (id int primary key, balance bigint not null) engine=innodb; \
         insert into account select seq, {EACH} from seq_1_to_{ACCOUNTS}; \
         create table note (id int primary key auto_increment, text longtext, raw longblob) engine=innodb; \
         insert into note (text, raw) select repeat(md5(seq), 500), unhex(repeat(sha2(seq, 256), 100)) from seq_1_to_1000"
    ));
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    let under_writers = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = home
                .client(&["bank"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut to = client.stdin.take().unwrap();
            let mut i = 0u32;
            while !stop.load(Ordering::SeqCst) {
                i += 1;
                let (a, b) = (1 + i % ACCOUNTS, 1 + (i * 7 + 3) % ACCOUNTS);
                writeln!(
                    to,
                    "start transaction; update account set balance = balance - 1 where id = {a}; \
                     update account set balance = balance + 1 where id = {b}; commit;"
                )
                .unwrap();
                moved.store(i.into(), Ordering::SeqCst);
            }
            drop(to);
            assert!(client.wait().unwrap().success());
        });
        while moved.load(Ordering::SeqCst) < 200 {
            std::thread::yield_now();
        }
        let first = moved.load(Ordering::SeqCst);
        let dump = taken(&home.dump());
        assert!(
            moved.load(Ordering::SeqCst) > first,
            "money moved during the dump"
        );
        stop.store(true, Ordering::SeqCst);
        dump
    });
    // Read in elsewhere, no transaction is torn: the sum is what it was.
    let abroad = Server::start(&dir.path().join("abroad"));
    abroad.read_in(&under_writers);
    let total = (u64::from(ACCOUNTS) * EACH).to_string();
    assert_eq!(abroad.ask("select sum(balance) from bank.account"), total);
    assert_ne!(
        home.ask(DIGESTS),
        abroad.ask(DIGESTS),
        "the writers went on"
    );
    // At rest, everything is equal, and two dumps are the same bytes.
    let dump = taken(&home.dump());
    assert!(dump == taken(&home.dump()));
    abroad.ask("drop database bank");
    abroad.read_in(&dump);
    assert_eq!(home.ask(DIGESTS), abroad.ask(DIGESTS));
    println!(
        "{} bytes of dump; {} transactions; {:?}",
        dump.len(),
        moved.load(Ordering::SeqCst),
        began.elapsed()
    );

    // No such database: no version, and its own words.
    let mut none = home.dump();
    none.program.argv.pop();
    none.program.argv.push("nowhere".into());
    let mut sink = MemorySink::default();
    let Err(Error::Refused { what, .. }) = capture(&none, &mut sink, &|| false) else {
        panic!("a dump of nothing")
    };
    assert!(what.contains("Unknown database 'nowhere'"), "{what}");
}
