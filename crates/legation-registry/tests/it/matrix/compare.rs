//! Two data directories, file by file: every relation's pages behind their masks, visibility maps and init forks, and the
//! maps of the catalogs. Free space maps are excluded: they are hints, and not in the log. So are sequences: a copy of one
//! may be ahead of what the log says of it, by design.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use legation_registry::postgres::ConnectConfig;

use super::check::{databases, lines};
use super::mask::{Method, PAGE, mask};

/// The files of relations, by path below the data directory, with what they are.
pub type Files = BTreeMap<String, (String, Method)>;

/// Asks a running server.
pub fn files(config: &ConnectConfig) -> Files {
    let mut all = Files::new();
    for database in databases(config) {
        let rows = lines(
            &config.with_database(&database),
            "select pg_relation_filepath(c.oid), c.oid::regclass, \
             case when c.relkind = 'i' then a.amname else 'heap' end \
             from pg_class c left join pg_am a on a.oid = c.relam \
             where c.relkind in ('r', 'i', 't', 'm') and pg_relation_filepath(c.oid) is not null",
        );
        for row in rows {
            let mut fields = row.split('|');
            let mut field = || fields.next().unwrap_or_else(|| panic!("{row}")).to_owned();
            let (path, name, method) = (field(), field(), field());
            let method = Method::named(&method).unwrap_or_else(|| panic!("{row}"));
            all.insert(path, (format!("{database} {name}"), method));
        }
    }
    all
}

/// How many pages were compared.
#[derive(Debug, Default)]
pub struct Compared {
    pub relations: usize,
    pub pages: usize,
    pub maps: usize,
}

/// Compares two directories whose servers do not run; both lists were taken while they did.
pub fn compare((one, of_one): (&Path, &Files), (two, of_two): (&Path, &Files)) -> Compared {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(of_one), names(of_two), "other relations");
    let (mut done, mut wrong) = (Compared::default(), Vec::new());
    for (path, (name, method)) in of_one {
        let (a, b) = (pages(one, path, ""), pages(two, path, ""));
        done.relations += 1;
        done.pages += a.len() / PAGE;
        if let Some(why) = differ(*method, a, b) {
            wrong.push(format!("{name} ({path}): {why}"));
        }
        let (a, b) = (pages(one, path, "_init"), pages(two, path, "_init"));
        if let Some(why) = differ(*method, a, b) {
            wrong.push(format!("{name} ({path}_init): {why}"));
        }
        let (a, b) = (bits(one, path), bits(two, path));
        done.maps += usize::from(!a.is_empty());
        if a != b {
            wrong.push(format!("{name} ({path}_vm): {a:x?} and {b:x?}"));
        }
    }
    for map in maps(of_one) {
        // Where only single tables of a database lie, there is none.
        let read = |dir: &Path| std::fs::read(dir.join(&map)).ok();
        if read(one) != read(two) {
            wrong.push(format!("{map} differs"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    done
}

/// Where the catalogs' own files are written down.
fn maps(files: &Files) -> BTreeSet<String> {
    let dir = |path: &String| Some(format!("{}/pg_filenode.map", path.rsplit_once('/')?.0));
    files.keys().filter_map(dir).collect()
}

/// A fork with all its segments, without unused pages at its end: adding pages is not in the log, using them is.
fn pages(dir: &Path, path: &str, fork: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for segment in 0.. {
        let name = match segment {
            0 => format!("{path}{fork}"),
            n => format!("{path}{fork}.{n}"),
        };
        match std::fs::read(dir.join(&name)) {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
            Err(e) => panic!("{name}: {e}"),
        }
    }
    assert!(
        all.len().is_multiple_of(PAGE),
        "{path}{fork}: {} bytes",
        all.len()
    );
    while all.len() >= PAGE && all[all.len() - PAGE..].iter().all(|b| *b == 0) {
        all.truncate(all.len() - PAGE);
    }
    all
}

/// The bits of a visibility map; what lies past the last that is set counts for nothing.
fn bits(dir: &Path, path: &str) -> Vec<u8> {
    let mut all: Vec<u8> = pages(dir, path, "_vm")
        .chunks(PAGE)
        .flat_map(|page| &page[24..])
        .copied()
        .collect();
    while all.last() == Some(&0) {
        all.pop();
    }
    all
}

fn differ(method: Method, mut a: Vec<u8>, mut b: Vec<u8>) -> Option<String> {
    if a.len() != b.len() {
        return Some(format!("{} and {} pages", a.len() / PAGE, b.len() / PAGE));
    }
    let both = a.chunks_mut(PAGE).zip(b.chunks_mut(PAGE));
    for (block, (a, b)) in both.enumerate() {
        mask(method, block as u32, a);
        mask(method, block as u32, b);
        if let Some(at) = (0..PAGE).find(|at| a[*at] != b[*at]) {
            let near = |page: &[u8]| format!("{:02x?}", &page[at & !7..PAGE.min((at & !7) + 32)]);
            return Some(format!(
                "page {block}, byte {at}: {} and {}",
                near(a),
                near(b)
            ));
        }
    }
    None
}
