//! `clipfs cat`: a file's bytes, fetched and verified as a mount would.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use super::args::CatArgs;
use super::browse;
use super::context::Context;
use super::failure::Failure;
use super::output::{Output, printable};
use crate::index::Kind;
use crate::num::to_u64;
use crate::read::{ReadOptions, Reader};
use crate::store::{Store, StoreOptions};

/// Bytes per read: a few chunks, so that they are fetched and decoded in parallel.
const PIECE: u32 = 8 << 20;

/// Runs the command.
pub(super) async fn run(context: &Context, args: &CatArgs) -> Result<(), Failure> {
    let opened = context.open(&args.target.target, args.image.as_deref()).await?;
    let path = printable(args.path.as_bytes());
    let (_, _, inode) = browse::resolve(&opened, &args.path, true)?;
    let content = match inode.kind {
        Kind::File(Some(content)) => content,
        Kind::File(None) => return Ok(()),
        _ => return Err(Failure::NotAFile(path)),
    };
    let Some(source) = opened.source else { return Err(Failure::NeedsImage(opened.path)) };
    let settings = &context.settings;
    let options = StoreOptions {
        dir: settings.cache_dir.clone(),
        quota: settings.cache_size.0,
        memory: settings.memory.0,
    };
    let store =
        tokio::task::spawn_blocking(|| Store::open(options)).await.map_err(|_| Failure::Panicked)??;
    let options = ReadOptions { timeout: settings.read_timeout.0, small_file: settings.small_file.0 };
    let runtime = tokio::runtime::Handle::current();
    let reader = Reader::new(opened.index, Some(source), Arc::new(store), options, runtime);
    let mut offset = 0;
    while offset < inode.size {
        let refuse = |source| Failure::Read { path: path.clone(), source };
        let bytes = reader.read(content, offset, PIECE).await.map_err(refuse)?;
        if bytes.is_empty() {
            // A short read must not count as success.
            return Err(refuse(crate::read::ReadError::NoContent));
        }
        offset += to_u64(bytes.len());
        let written = tokio::task::spawn_blocking(move || {
            let mut out = Output::new();
            out.write_all(&bytes)?;
            out.flush()
        });
        written.await.map_err(|_| Failure::Panicked)??;
    }
    Ok(())
}
