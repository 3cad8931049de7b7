//! Only what is needed crosses the network.

use std::fs;
use std::os::unix::fs::FileExt as _;

use fixtures::content::Content;
use fixtures::images::{self, BIG_SEED};
use fixtures::layer::Compress;
use fixtures::registry::Registry;

use crate::support::{Sandbox, wait_until};

const GIB: u64 = 1 << 30;

#[test]
fn one_byte_deep_in_a_gigabyte_fetches_one_chunk() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    let image = images::one_big_file(GIB, Compress::Gzip { level: 1 });
    registry.push(&image, "team/big", "1");
    let reference = registry.reference("team/big", "1");
    let built = sandbox.json(["index", "--json", &reference]);
    let layer = &built["layers"][0];
    let (size, chunks) = (layer["size"].as_u64().unwrap(), layer["chunks"].as_u64().unwrap());
    assert!(chunks > 400, "a gigabyte is hundreds of chunks, not {chunks}");

    let mountpoint = sandbox.mount(&reference, &[]);
    registry.reset_log();
    let offset = 700_000_001;
    let mut byte = [0];
    fs::File::open(mountpoint.join("big")).unwrap().read_exact_at(&mut byte, offset).unwrap();
    let mut want = [0];
    Content::new(BIG_SEED).read_at(offset, &mut want);
    assert_eq!(byte, want);

    let blobs: Vec<_> = registry.log().into_iter().filter(|r| r.path.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 1, "one request: {blobs:?}");
    // A chunk ends at the first deflate block that ends behind 2 MiB of plain bytes: a tenth more at most.
    let sent = registry.bytes_sent_for(layer["digest"].as_str().unwrap());
    let average = size / chunks;
    assert!(sent > 0 && sent < average * 3 / 2, "sent {sent}, a chunk has about {average}");
}

/// Complete objects in the store, counted by their files.
fn objects(sandbox: &Sandbox) -> usize {
    let shards = fs::read_dir(sandbox.cache().join("objects")).unwrap().map(|shard| shard.unwrap().path());
    shards.flat_map(|shard| fs::read_dir(shard).unwrap()).count()
}

#[test]
fn a_big_file_reads_whole_and_becomes_an_object() {
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    for (tag, how) in [
        ("gzip", Compress::Gzip { level: 6 }),
        ("members", Compress::GzipMultiMember { bytes: 100_000 }),
        ("zstd", Compress::Zstd { level: 3 }),
        ("frames", Compress::ZstdFrames { bytes: 1 << 20 }),
        ("none", Compress::None),
    ] {
        let len = 48 << 20;
        registry.push(&images::one_big_file(len, how), "team/big", tag);
        let mountpoint = sandbox.mount(&registry.reference("team/big", tag), &[]);
        let read = fs::read(mountpoint.join("big")).unwrap();
        assert!(read == Content::bytes(BIG_SEED, usize::try_from(len).unwrap()), "{tag}");
        assert_eq!(fs::read(mountpoint.join("before")).unwrap(), b"before\n");
        assert_eq!(fs::read(mountpoint.join("after")).unwrap(), b"after\n");
        // The store is written behind: an unmount does not wait for it.
        wait_until("three objects", || objects(&sandbox) == 3);
        sandbox.umount(&mountpoint);
    }
    assert_eq!(objects(&sandbox), 3, "the same content is one object, whatever layer it came from");
}
