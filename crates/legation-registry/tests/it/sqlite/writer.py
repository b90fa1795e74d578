"""An application over a SQLite database: commits by the seed until it is killed or has done its rounds, and writes down
each commit once it was told of it. `check` is the other side: it says what a database holds."""

import hashlib, os, random, sqlite3, sys, time

SLOTS = 97


def body(seed, n):
    size = 20 + (n * 7919 + seed) % 3000
    return hashlib.shake_128(f"{seed}:{n}".encode()).digest(size)


def line(n, data):
    return f"{n} {hashlib.sha256(data).hexdigest()}\n"


def connect(path):
    return sqlite3.connect(path, timeout=60, isolation_level=None)


def write(path, journal, seed, mode, commits):
    rng = random.Random(f"{seed} {os.path.getsize(journal) if os.path.exists(journal) else 0}")
    db = connect(path)
    db.execute("pragma cache_size = 20")
    # Killed processes lose nothing that the system has; only a machine would.
    db.execute("pragma synchronous = off")
    calm = mode == "calm"
    if mode != "mixed":
        db.execute(f"pragma journal_mode = {'wal' if calm else mode}")
    db.execute("create table if not exists entry(n integer primary key, body blob not null)")
    db.execute("create table if not exists slot(s integer primary key, n integer not null)")
    db.execute("create table if not exists state(k text primary key, n integer not null)")
    n = db.execute("select coalesce(max(n), 0) from entry").fetchone()[0]
    out = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    known = sum(1 for _ in open(journal))
    # What was committed when the one before was killed, and not told.
    for missed in range(known + 1, n + 1):
        os.write(out, line(missed, body(seed, missed)).encode())
    print("ready", flush=True)
    last = n + commits
    while n < last:
        # Beside large databases: small commits at a pace, and the checkpoints that come of themselves.
        kind = 1 if calm else rng.random()
        if calm:
            time.sleep(0.01)
        if kind < 0.02:
            db.execute(f"pragma wal_checkpoint({rng.choice(['passive', 'truncate', 'restart', 'full'])})").fetchall()
        elif kind < 0.025:
            db.execute("vacuum")
        elif kind < 0.03 and mode == "mixed":
            db.execute(f"pragma journal_mode = {rng.choice(['wal', 'delete', 'truncate', 'persist'])}").fetchall()
        elif kind < 0.035 and mode == "mixed":
            if db.execute("pragma journal_mode = delete").fetchone()[0] == "delete":
                db.execute(f"pragma page_size = {rng.choice([512, 1024, 4096, 8192, 65536])}")
                db.execute("vacuum")
        elif kind < 0.06:
            # Spills what is never committed.
            db.execute("begin immediate")
            for lost in range(200):
                db.execute("insert into entry values (?, ?)", (1_000_000 + lost, body(seed, lost)))
            db.execute("rollback")
        else:
            count = 60 if rng.random() < 0.05 else 1
            db.execute("begin immediate")
            for m in range(n + 1, n + count + 1):
                db.execute("insert into entry values (?, ?)", (m, body(seed, m)))
                db.execute("insert into slot values (?, ?) on conflict do update set n = excluded.n", (m % SLOTS, m))
            db.execute("insert into state values ('n', ?) on conflict do update set n = excluded.n", (n + count,))
            db.execute("commit")
            os.write(out, "".join(line(m, body(seed, m)) for m in range(n + 1, n + count + 1)).encode())
            n += count
    db.close()


def check(path):
    """Prints the entries, after everything else was found to agree with them."""
    db = connect(path)
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)], "integrity_check"
    if not db.execute("select 1 from sqlite_schema where name = 'state'").fetchone():
        return
    rows = db.execute("select n, body from entry order by n").fetchall()
    n = len(rows)
    assert [row[0] for row in rows] == list(range(1, n + 1)), "a hole among the entries"
    assert db.execute("select coalesce(max(n), 0) from state").fetchone()[0] == n, "a torn transaction"
    slots = {m % SLOTS: m for m in range(1, n + 1)}
    assert dict(db.execute("select s, n from slot")) == slots, "slots of another moment"
    sys.stdout.write("".join(line(number, data) for number, data in rows))


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        write(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
