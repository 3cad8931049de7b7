//! However the stream is cut, the entries are the same; and nothing makes the scanner panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::build::{END, Head, long, pax};
use super::{content, file, scan};
use crate::decode::tar::{Entry, EntryKind, TarLimits, TarScanner};

/// Entries, and the error's text.
type Outcome = (Vec<Entry>, Option<String>);

fn scan_in<'a>(portions: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut entries = Vec::new();
    let mut scanner = TarScanner::new(TarLimits::default());
    let pushed = portions.into_iter().try_for_each(|portion| {
        scanner.push(portion, &mut |entry| {
            entries.push(entry);
            Ok(())
        })
    });
    let result = pushed.and_then(|()| scanner.finish());
    (entries, result.err().map(|error| error.to_string()))
}

fn assert_any_split(archive: &[u8]) {
    let whole = scan_in([archive]);
    assert_eq!(scan_in(archive.chunks(1)), whole, "byte by byte");
    for len in [2, 3, 511, 512, 513, 1000] {
        assert_eq!(scan_in(archive.chunks(len)), whole, "portions of {len}");
    }
    for at in 0..=archive.len() {
        let (left, right) = archive.split_at(at);
        assert_eq!(scan_in([left, right]), whole, "split at {at}");
    }
}

fn hand_made(choice: u8, data: &[u8]) -> Vec<u8> {
    let sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9000")];
    let map = format!("2\n10\n{}\n8999\n0\n", data.len());
    match choice {
        0 => Head::v7("old/").flag(0).with(b""),
        1 => [
            pax(&[("path", "pax"), ("mtime", "-1.5"), ("SCHILY.xattr.user.k", "v")]),
            Head::ustar("x").with(data),
        ]
        .concat(),
        2 => [long(b'L', &"long/".repeat(150)), long(b'K', "to"), Head::gnu("x").flag(b'2').seal().to_vec()]
            .concat(),
        3 => {
            let mut member = Head::gnu("sparse")
                .flag(b'S')
                .text(386, &format!("00000000144\0{:011o}\0", data.len()))
                .bytes(482, &[1])
                .text(483, "00000100000\0")
                .with(data);
            member.splice(512..512, [0; 512]);
            member
        }
        4 => {
            let mut stored = map.into_bytes();
            stored.resize(512, 0);
            stored.extend_from_slice(data);
            [pax(&sparse), Head::ustar("s").with(&stored)].concat()
        }
        5 => super::build::extended(b'g', &[("comment", "nobody cares")]),
        _ => Head::ustar("plain").with(data),
    }
}

#[test]
fn every_split_of_every_form() {
    let members: Vec<u8> = (0..=6).flat_map(|choice| hand_made(choice, b"some data")).collect();
    let archive = [members.as_slice(), &END, b"garbage"].concat();
    assert_eq!(scan(&archive).len(), 6);
    assert_any_split(&archive);
    assert_any_split(&archive[..archive.len() - 1024 - 7 - 508]);
    let bad = [hand_made(6, b"x"), Head::ustar("bad").flag(b'V').seal().to_vec()].concat();
    assert_any_split(&bad);
}

/// A member for the `tar` crate's writer, and what must come out.
#[derive(Debug, Clone)]
struct Model {
    name: String,
    mode: u32,
    id: u32,
    mtime: u64,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    File(Vec<u8>),
    Dir,
    Symlink(String),
    Hardlink(String),
}

fn model() -> impl Strategy<Value = Model> {
    let name = || "[a-z]{1,9}(/[a-zäß ]{1,40}){0,6}";
    let body = prop_oneof![
        4 => vec(any::<u8>(), 0..2000).prop_map(Body::File),
        1 => Just(Body::Dir),
        1 => name().prop_map(Body::Symlink),
        1 => name().prop_map(Body::Hardlink),
    ];
    (name(), 0..0o10000_u32, 0..0o7_777_777_u32, 0..0o77_777_777_777_u64, body)
        .prop_map(|(name, mode, id, mtime, body)| Model { name, mode, id, mtime, body })
}

fn write(models: &[Model], xattr: bool) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for Model { name, mode, id, mtime, body } in models {
        let mut header = if xattr { tar::Header::new_ustar() } else { tar::Header::new_gnu() };
        header.set_mode(*mode);
        header.set_uid((*id).into());
        header.set_gid((id / 2).into());
        header.set_mtime(*mtime);
        header.set_size(0);
        if xattr {
            let name = name.as_bytes();
            // Only the last of them counts.
            builder.append_pax_extensions([("uid", &b"5"[..])]).unwrap();
            let records = [("path", name), ("mtime", b"1.5"), ("SCHILY.xattr.user.name", name)];
            builder.append_pax_extensions(records).unwrap();
        }
        let place = if xattr { "overridden" } else { name };
        match body {
            Body::File(data) => {
                header.set_size(data.len().try_into().unwrap());
                builder.append_data(&mut header, place, data.as_slice()).unwrap();
            }
            Body::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, place, std::io::empty()).unwrap();
            }
            Body::Symlink(target) | Body::Hardlink(target) => {
                let kind = if matches!(body, Body::Symlink(_)) {
                    tar::EntryType::Symlink
                } else {
                    tar::EntryType::Link
                };
                header.set_entry_type(kind);
                let target = if xattr { &target[..target.len().min(1)] } else { target };
                builder.append_link(&mut header, place, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn portions<'a>(archive: &'a [u8], cuts: &'a [usize]) -> Vec<&'a [u8]> {
    let mut rest = archive;
    let mut portions = Vec::new();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() || cuts.iter().all(|&cut| cut == 0) {
            break;
        }
        let (portion, behind) = rest.split_at((*cut).min(rest.len()));
        portions.push(portion);
        rest = behind;
    }
    portions.push(rest);
    portions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_the_tar_crate_writes_is_read(
        models in vec(model(), 0..12),
        xattr: bool,
        cuts in vec(0..1500_usize, 1..20),
    ) {
        let archive = write(&models, xattr);
        let entries = scan(&archive);
        prop_assert_eq!(entries.len(), models.len());
        for (entry, model) in entries.iter().zip(&models) {
            prop_assert_eq!(&entry.path, model.name.as_bytes());
            prop_assert_eq!((entry.mode, entry.uid, entry.gid), (model.mode, model.id, model.id / 2));
            let secs = if xattr { 1 } else { i64::try_from(model.mtime).unwrap() };
            prop_assert_eq!(entry.mtime.secs, secs);
            prop_assert_eq!(entry.mtime.nanos, if xattr { 500_000_000 } else { 0 });
            let xattrs = if xattr && !matches!(model.body, Body::Symlink(_)) {
                vec![(b"user.name".to_vec(), model.name.clone().into_bytes())]
            } else {
                Vec::new()
            };
            prop_assert_eq!(&entry.xattrs, &xattrs);
            let target = |name: &String| if xattr { name.as_bytes()[..1].to_vec() } else { name.clone().into_bytes() };
            match &model.body {
                Body::File(data) => {
                    prop_assert_eq!(&content(&archive, entry), data);
                    prop_assert_eq!(file(entry).digest, *blake3::hash(data).as_bytes());
                }
                Body::Dir => prop_assert_eq!(&entry.kind, &EntryKind::Dir),
                Body::Symlink(name) => prop_assert_eq!(&entry.kind, &EntryKind::Symlink(target(name))),
                Body::Hardlink(name) => prop_assert_eq!(&entry.kind, &EntryKind::Hardlink(target(name))),
            }
        }
        prop_assert_eq!(scan_in(portions(&archive, &cuts)), (entries, None));
    }

    #[test]
    fn damaged_archives_end_the_same_way_in_any_portions(
        members in vec((0..=6_u8, vec(any::<u8>(), 1..1500)), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..4),
        end in any::<prop::sample::Index>(),
        is_cut: bool,
        cuts in vec(0..1500_usize, 1..20),
    ) {
        let mut archive: Vec<u8> =
            members.iter().flat_map(|(choice, data)| hand_made(*choice, data)).chain(END).collect();
        for (place, byte, fix) in damage {
            let place = place.index(archive.len());
            archive[place] = byte;
            if fix {
                // Past the checksum, where the interesting code is.
                let block: &mut [u8; 512] = (&mut archive[place / 512 * 512..][..512]).try_into().unwrap();
                *block = Head::v7("").bytes(0, block).seal();
            }
        }
        if is_cut {
            archive.truncate(end.index(archive.len()));
        }
        let whole = scan_in([archive.as_slice()]);
        prop_assert_eq!(scan_in(portions(&archive, &cuts)), whole.clone());
        for entry in whole.0.iter().filter(|entry| matches!(entry.kind, EntryKind::File(_))) {
            let data = file(entry);
            let mut end = 0;
            for extent in &data.extents {
                prop_assert!(extent.len > 0 && (end == 0 || extent.file_offset > end || extent.file_offset == 0));
                end = extent.file_offset + extent.len;
                prop_assert!(end <= data.size);
                prop_assert!(extent.stream_offset + extent.len <= u64::try_from(archive.len()).unwrap());
            }
        }
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..3000)) {
        scan_in([noise.as_slice()]);
    }
}
