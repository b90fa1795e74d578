use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Collected {
    members: Vec<(Member, Vec<u8>)>,
    open: bool,
}

impl Members for Collected {
    fn begin(&mut self, member: Member) -> Result<()> {
        assert!(!self.open);
        self.open = true;
        self.members.push((member, Vec::new()));
        Ok(())
    }
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (_, content) = self.members.last_mut().unwrap();
        assert!(self.open && offset == content.len() as u64);
        content.extend_from_slice(bytes);
        Ok(())
    }
    fn end(&mut self) -> Result<()> {
        assert!(self.open);
        self.open = false;
        Ok(())
    }
}

fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{value:0width$o}").as_bytes());
}

fn header(path: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut h = vec![0u8; BLOCK];
    h[..path.len()].copy_from_slice(path);
    octal(&mut h[100..108], 0o640);
    octal(&mut h[108..116], 26);
    octal(&mut h[116..124], 27);
    octal(&mut h[124..136], size);
    octal(&mut h[136..148], 1_700_000_000);
    h[156] = kind;
    h[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut h);
    h
}

fn seal(h: &mut [u8]) {
    h[148..156].fill(b' ');
    let sum: u64 = h.iter().map(|b| u64::from(*b)).sum();
    h[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn archive(files: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = header(b"base/", b'5', 0);
    for (path, content) in files {
        out.extend(header(path, b'0', content.len() as u64));
        out.extend(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn read(bytes: &[u8], pieces: &[usize]) -> Result<Collected> {
    let (mut reader, mut collected, mut at, mut turn) =
        (TarReader::new(), Collected::default(), 0, 0);
    while at < bytes.len() {
        let take = pieces[turn % pieces.len()].clamp(1, bytes.len() - at);
        reader.feed(&bytes[at..at + take], &mut collected)?;
        at += take;
        turn += 1;
    }
    reader.finish()?;
    Ok(collected)
}

proptest! {
    #[test]
    fn any_files_come_back_however_the_stream_is_cut(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..8),
        pieces in prop::collection::vec(1usize..1500, 1..6),
    ) {
        let files: Vec<_> = contents.into_iter().enumerate().map(|(i, c)| (format!("base/{i}").into_bytes(), c)).collect();
        let found = read(&archive(&files), &pieces).unwrap();
        prop_assert_eq!(found.members.len(), files.len() + 1);
        prop_assert_eq!(&found.members[0].0.kind, &MemberKind::Dir);
        prop_assert_eq!(&found.members[0].0.path, b"base");
        for ((member, content), (path, expected)) in found.members[1..].iter().zip(&files) {
            prop_assert_eq!(&member.path, path);
            prop_assert_eq!(content, expected);
            prop_assert_eq!((member.mode, member.uid, member.gid, member.mtime), (0o640, 26, 27, 1_700_000_000));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), piece in 1usize..700) {
        let _ = read(&bytes, &[piece]);
    }

    #[test]
    fn no_damage_to_an_archive_makes_it_panic_or_leave_its_directory(
        at in 0usize..4096, flip in 1u8.., fix in any::<bool>(), cut in 0usize..6000,
    ) {
        let mut bytes = archive(&[(b"base/1".to_vec(), vec![7; 700]), (b"global/pg_control".to_vec(), vec![8; 900])]);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if fix && at / BLOCK * BLOCK + BLOCK <= bytes.len() {
            let block = at / BLOCK * BLOCK;
            seal(&mut bytes[block..block + BLOCK]);
        }
        bytes.truncate(cut.max(1));
        let mut collected = Collected::default();
        let _ = TarReader::new().feed(&bytes, &mut collected);
        for (member, _) in collected.members {
            prop_assert!(!member.path.starts_with(b"/"));
            prop_assert!(member.path.split(|b| *b == b'/').all(|p| !p.is_empty() && p != b".." && p != b"."));
        }
    }
}

#[test]
fn paths_that_leave_are_refused() {
    for path in [
        &b"../x"[..],
        b"/x",
        b"a/../x",
        b"a//x",
        b"",
        b"./",
        b"a/./b",
        b"..",
    ] {
        assert!(read(&header(path, b'0', 0), &[512]).is_err(), "{path:?}");
    }
    assert_eq!(
        read(&header(b"./a/b", b'0', 0), &[512]).unwrap().members[0]
            .0
            .path,
        b"a/b"
    );
}

#[test]
fn what_postgresql_does_not_send_is_refused() {
    for kind in [b'1', b'3', b'4', b'6', b'x', b'g', b'L', b'S'] {
        assert!(
            read(&header(b"x", kind, 0), &[512]).is_err(),
            "{}",
            char::from(kind)
        );
    }
    let mut prefix = header(b"x", b'0', 0);
    prefix[345] = b'p';
    seal(&mut prefix);
    assert!(read(&prefix, &[512]).is_err());
    let mut gnu = header(b"x", b'0', 0);
    gnu[257] = b'U';
    seal(&mut gnu);
    assert!(read(&gnu, &[512]).is_err());
    let mut after = archive(&[]);
    after.push(1);
    assert!(read(&after, &[512]).is_err());
}

#[test]
fn truncation_is_noticed_everywhere() {
    let whole = archive(&[(b"base/1".to_vec(), vec![7; 700])]);
    let ends: Vec<_> = (0..whole.len() - 2 * BLOCK)
        .filter(|cut| read(&whole[..*cut], &[300]).is_ok())
        .collect();
    // Between members the archive may end: the manifest tells what is missing then.
    assert_eq!(ends, [0, 512]);
}

#[test]
fn sizes_beyond_eight_gibibytes() {
    let mut h = header(b"base/1", b'0', 0);
    let size: u64 = 20 << 30;
    h[124..136].copy_from_slice(&[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    seal(&mut h);
    assert_eq!(parse_header(&h).unwrap().size, size);
    h[124..136].copy_from_slice(&[0xff; 12]);
    seal(&mut h);
    assert!(parse_header(&h).is_err());
}
