//! Reading a large file for the first time, from a registry on loopback.

use std::num::NonZeroUsize;

use anyhow::Result;
use fixtures::images;
use fixtures::layer::Compress;
use fixtures::registry::Registry;

use crate::build::{biggest, inflate_alone, mb};
use crate::report::{Row, median};
use crate::sandbox::{Sandbox, read_whole, run};

/// Cold sequential read; the peer is inflate on one core, times the cores.
///
/// # Errors
/// A tool fails.
pub fn measure(sandbox: &Sandbox) -> Result<Vec<Row>> {
    let bytes = if sandbox.quick { 256 << 20 } else { 1 << 30 };
    let image = images::one_big_file(bytes, Compress::Gzip { level: 6 });
    let layout = sandbox.path("cold-layout");
    image.write_layout(&layout)?;
    let blob = biggest(&layout.join("blobs/sha256"))?;
    let registry = Registry::plain();
    registry.push(&image, "bench/big", "1");
    let reference = registry.reference("bench/big", "1");
    run(sandbox.clipfs("cold").args(["index", &reference]))?;

    let (mut ours, mut inflate) = (Vec::new(), Vec::new());
    for _ in 0..sandbox.runs {
        inflate.push(mb(bytes) / inflate_alone(&blob)?);
        run(sandbox.clipfs("cold").args(["cache", "clear"]))?;
        let (mounted, _) = sandbox.mount("cold", &reference, &[])?;
        let (len, time) = read_whole(&mounted.at.join("big"))?;
        ours.push(len / 1e6 / time.as_secs_f64());
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
    let bound = median(inflate) * cores as f64;
    let ours = median(ours);
    Ok(vec![Row {
        what: "cold sequential read, registry on loopback (which shares the cores)".into(),
        ours,
        unit: "MB/s",
        peer: Some((bound, "inflate on all cores")),
        goal: "bound by inflate, not by round trips: >= 0.5 x",
        reached: ours >= 0.5 * bound,
    }])
}
