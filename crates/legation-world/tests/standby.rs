//! The yardstick itself, on PostgreSQL alone: a server's own standby takes the embassy's place.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use legation_world::fixtures::{self, Plan, Registry, gazette};
use legation_world::journal;
use legation_world::pg::{Cluster, Programs, SUPERUSER, lsn};
use legation_world::process::{Scratch, remove_tree, run};
use legation_world::reckon::{self, Server};
use legation_world::writers::{Press, Writers};

const PASSWORD: &str = "only-on-loopback";

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn a_promoted_standby_passes_and_a_doctored_one_does_not() -> Outcome {
    let scratch = Scratch::new(&PathBuf::from("/var/tmp"), "standby")?;
    let programs = Programs::find()?;
    let plan = Plan::new(7, 0.02);
    let home = scratch.path().join("home");
    std::fs::create_dir(&home)?;
    let mut all = Vec::new();
    for registry in [
        Registry::Population,
        Registry::Treasury,
        Registry::Land,
        Registry::Commercial,
    ] {
        let mut c = Cluster::create(
            &programs,
            &home.join(registry.name()),
            registry.name(),
            PASSWORD,
            "",
        )?;
        c.start()?;
        c.furnish()?;
        assert!(fixtures::load(registry, &c, &plan)? > 0);
        let before = reckon::fingerprint(&mut c.connect(SUPERUSER, registry.name())?, registry)?;
        // The standby: PostgreSQL's own.
        let there = scratch.path().join(format!("abroad-{}", registry.name()));
        programs.private_dir(&there)?;
        let mut base = programs.command("pg_basebackup");
        base.args([
            "-h",
            "127.0.0.1",
            "-U",
            SUPERUSER,
            "-R",
            "-N",
            "-X",
            "stream",
            "-c",
            "fast",
            "-p",
            &c.port().to_string(),
        ]);
        base.arg("-D")
            .arg(there.join("data"))
            .env("PGPASSWORD", PASSWORD);
        run(base, b"", Duration::from_secs(60))?.ok()?;
        let mut standby = Cluster::adopt(
            &programs,
            &there,
            registry.name(),
            PASSWORD,
            "hot_standby = on",
        )?;
        standby.start()?;
        all.push((registry, c, standby, before));
    }
    let journals = scratch.path().join("journals");
    let press = Press {
        root: home.join("gazette"),
        desk: home.join("desk"),
        shadow: scratch.path().join("shadow"),
        pause: Duration::from_millis(2),
    };
    let written = gazette::write(&press.root, &plan)?;
    assert_eq!(written, gazette::write(&press.shadow.join("base"), &plan)?);

    let writers = {
        let clusters: Vec<_> = all.iter().map(|a| &a.1).collect();
        Writers::start(&clusters, Some(&press), &journals, &plan, 1)?
    };
    std::thread::sleep(Duration::from_secs(3));
    let captured = journal::now_micros();
    let copy = scratch.path().join("gazette-abroad");
    let mut cp = std::process::Command::new("cp");
    cp.arg("-a").arg(&press.root).arg(&copy);
    run(cp, b"", Duration::from_secs(20))?.ok()?;
    std::thread::sleep(Duration::from_millis(300));
    let mut acknowledged = Vec::new();
    for (.., c, _, _) in &all {
        let sql = "select flush_lsn::text from pg_stat_replication";
        acknowledged.push(lsn(&c
            .connect(SUPERUSER, "postgres")?
            .query_one(sql, &[])?
            .get::<_, String>(0))?);
    }
    for (_, c, _, _) in &mut all {
        assert!(c.kill() > 3);
    }
    remove_tree(&home)?;
    writers.stop()?;

    let mut founds = std::collections::BTreeMap::new();
    let mut accounts = Vec::new();
    for (i, (registry, _, standby, before)) in all.iter().enumerate() {
        standby
            .connect(SUPERUSER, "postgres")?
            .query_one("select pg_promote()", &[])?;
        let told = journal::read(&journals, registry.name())?;
        let server = Server {
            port: standby.port(),
            password: PASSWORD.into(),
        };
        let found = reckon::read(&server, *registry)?;
        let a = reckon::account(*registry, &told, &found, acknowledged[i], before);
        assert_eq!(a.faults, Vec::<String>::new(), "{}", registry.name());
        assert!(
            a.told > 50 && a.told == a.found,
            "{} of {} in {}",
            a.found,
            a.told,
            registry.name()
        );
        let physical = reckon::physical(&server, *registry, &programs)?;
        assert_eq!(physical.faults, Vec::<String>::new(), "{}", registry.name());
        assert!(physical.pages > 500 && physical.indexes > 2);
        founds.insert(*registry, found);
        accounts.push((a, told));
    }
    let references = reckon::references(&founds, &accounts[0].1, acknowledged[0]);
    assert_eq!(references.lost, vec![]);
    assert!(references.resolved > 100);
    let files = reckon::gazette(&copy, &press.shadow, captured)?;
    assert_eq!(files.faults, Vec::<String>::new());
    assert!(files.due == files.equal && files.due >= written.files && !files.missing.is_empty());

    // The yardstick must see what is wrong, or it proves nothing.
    let (registry, _, standby, before) = &all[1];
    let server = Server {
        port: standby.port(),
        password: PASSWORD.into(),
    };
    let mut admin = server.connect(*registry)?;
    admin.batch_execute("delete from entry where id = (select max(id) from entry)")?;
    let a = reckon::account(
        *registry,
        &accounts[1].1,
        &reckon::read(&server, *registry)?,
        acknowledged[1],
        before,
    );
    assert!(
        a.faults.iter().any(|f| f.contains("sums to 0.00")) && a.found < a.told
            || a.faults.len() > 2,
        "{a:?}"
    );
    std::fs::write(copy.join("acts/1990/1.xml"), "forged")?;
    assert_eq!(
        reckon::gazette(&copy, &press.shadow, captured)?
            .faults
            .len(),
        1
    );
    Ok(())
}
