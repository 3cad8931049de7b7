//! An image of known bytes, in a registry that does as it is told, indexed, and read through the public API.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clipfs::build::{BuildOptions, Silent, index_image};
use clipfs::credentials::{Anonymous, CredentialProvider, CredentialSource};
use clipfs::index::{ChunkRecord, ClipIndex, ContentId, Kind};
use clipfs::oci::{ImageSpec, Platform};
use clipfs::read::{ReadError, ReadOptions, Reader};
use clipfs::registry::{ImageSource, Reach, RegistryOptions};
use clipfs::store::{Store, StoreOptions};
use clipfs::vfs::Vfs;
use fixtures::content::Content;
use fixtures::image::{Image, ImageBuilder};
use fixtures::layer::{Compress, Entry};
use fixtures::registry::{Kind as Asked, Registry};
use fixtures::rng::SplitMix64;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// Reads of healthy registries take milliseconds; this is for machines that do much else.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);

/// What an image holds: paths and their bytes.
pub(crate) type Files = Vec<(String, Bytes)>;

/// A file of the fixtures' content.
pub(crate) fn file(path: &str, seed: u64, len: u64) -> (String, Bytes) {
    (path.into(), Content::bytes(seed, usize::try_from(len).unwrap()).into())
}

pub(crate) fn image(files: &Files, how: Compress) -> Image {
    ImageBuilder::new().layer(files.iter().map(|(path, data)| Entry::file(path, data)), how).build()
}

/// Waits of the registry client that suit tests of faults.
pub(crate) fn impatient(credentials: Arc<dyn CredentialProvider>) -> RegistryOptions {
    RegistryOptions {
        credentials,
        plain_http: false,
        hosts_dir: None,
        connect_timeout: Duration::from_secs(1),
        progress_timeout: Duration::from_secs(1),
        attempts: 4,
        reach: Reach::Anywhere,
    }
}

/// An indexed image and where it comes from.
pub(crate) struct World {
    pub(crate) registry: Arc<Registry>,
    pub(crate) files: Files,
    pub(crate) index: Arc<ClipIndex>,
    pub(crate) source: ImageSource,
    vfs: Vfs,
    temp: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(files: Files, how: Compress, chunk: u64) -> Self {
        let image = image(&files, how);
        Self::of(&Arc::new(Registry::plain()), files, &image, chunk).await
    }

    pub(crate) async fn of(registry: &Arc<Registry>, files: Files, image: &Image, chunk: u64) -> Self {
        Self::with(registry, files, image, chunk, Arc::new(Anonymous), tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn logged_in(registry: &Arc<Registry>, files: Files, image: &Image, chunk: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let request = Some(fixtures::secret::login(temp.path(), &registry.addr().to_string(), "u", "p"));
        let login = CredentialSource { request, ..CredentialSource::default() }.open().unwrap();
        Self::with(registry, files, image, chunk, login, temp).await
    }

    async fn with(
        registry: &Arc<Registry>,
        files: Files,
        image: &Image,
        chunk: u64,
        credentials: Arc<dyn CredentialProvider>,
        temp: tempfile::TempDir,
    ) -> Self {
        let spec: ImageSpec = registry.push(image, "app", &image.manifest_digest[7..20]).parse().unwrap();
        let source = ImageSource::open(&spec, impatient(credentials)).await.unwrap();
        let resolved = source.resolve(&Platform::host()).await.unwrap();
        let path = temp.path().join("image.clip");
        let options = BuildOptions { chunk: u32::try_from(chunk).unwrap(), ..BuildOptions::default() };
        index_image(&source, &resolved, &path, options, Arc::new(Silent)).await.unwrap();
        let index = Arc::new(ClipIndex::open(&path).unwrap());
        registry.reset_log();
        let vfs = Vfs::new(Arc::clone(&index), "image");
        Self { registry: Arc::clone(registry), files, index, source, vfs, temp }
    }

    /// A place for a store; the store makes it.
    pub(crate) fn cache(&self) -> std::path::PathBuf {
        self.temp.path().join("cache")
    }

    /// A store of its own, empty.
    pub(crate) fn cold(&self) -> Arc<Store> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        store(&self.temp.path().join(format!("cold{n}")), 1 << 30, 256 * MIB)
    }

    pub(crate) fn reader(&self, store: &Arc<Store>, timeout: Duration) -> Reader {
        self.reader_of(Some(self.source.clone()), store, timeout)
    }

    /// A reader that knows of no registry.
    pub(crate) fn offline(&self, store: &Arc<Store>) -> Reader {
        self.reader_of(None, store, PATIENT)
    }

    fn reader_of(&self, source: Option<ImageSource>, store: &Arc<Store>, timeout: Duration) -> Reader {
        let options = ReadOptions { timeout, ..ReadOptions::default() };
        let runtime = tokio::runtime::Handle::current();
        Reader::new(Arc::clone(&self.index), source, Arc::clone(store), options, runtime)
    }

    pub(crate) fn content(&self, n: usize) -> ContentId {
        let ino = self.vfs.resolve(self.files[n].0.as_bytes(), false).unwrap();
        let Kind::File(Some(id)) = self.vfs.attr(ino).unwrap().kind else { panic!("no content") };
        id
    }

    /// Reads a range of the `n`th file. Whatever happens, wrong bytes do not.
    pub(crate) async fn read(&self, reader: &Reader, n: usize, range: Range<u64>) -> Result<(), ReadError> {
        let len = u32::try_from(range.end - range.start).unwrap();
        let bytes = reader.read(self.content(n), range.start, len).await?;
        self.check(n, &range, &bytes);
        Ok(())
    }

    pub(crate) fn check(&self, n: usize, range: &Range<u64>, bytes: &[u8]) {
        let (path, data) = &self.files[n];
        let at = |offset: u64| usize::try_from(offset).unwrap().min(data.len());
        let want = &data[at(range.start)..at(range.end)];
        assert!(bytes == want, "{path} {range:?}: wrong bytes ({} of {})", bytes.len(), want.len());
    }

    /// Reads the whole of the `n`th file as the kernel does, in requests of 128 KiB.
    pub(crate) async fn read_all(&self, reader: &Reader, n: usize) -> Result<(), ReadError> {
        let size = self.size(n);
        for start in (0..size).step_by(128 << 10) {
            self.read(reader, n, start..(start + 128 * KIB).min(size)).await?;
        }
        Ok(())
    }

    pub(crate) fn size(&self, n: usize) -> u64 {
        u64::try_from(self.files[n].1.len()).unwrap()
    }

    /// A random range of a random file, at most `longest`.
    pub(crate) fn random(&self, rng: &mut SplitMix64, longest: u64) -> (usize, Range<u64>) {
        let n = rng.index(self.files.len());
        let start = rng.below(self.size(n));
        let len = 1 + rng.below(longest);
        (n, start..(start + len).min(self.size(n)))
    }

    /// The chunks of a file of one extent that a range of it touches.
    pub(crate) fn chunks(&self, n: usize, range: &Range<u64>) -> Vec<ChunkRecord> {
        let id = self.content(n);
        let layer = self.index.content(id).unwrap().layer;
        let extent = self.index.extent(id, 0).unwrap();
        assert_eq!(self.index.extent_count(id), 1);
        let first = self.index.chunk_at(layer, extent.stream_offset + range.start).unwrap();
        let last = self.index.chunk_at(layer, extent.stream_offset + range.end - 1).unwrap();
        (first..=last).map(|chunk| self.index.chunk(layer, chunk).unwrap()).collect()
    }

    /// The ranges of layers that were asked for, in order of arrival.
    pub(crate) fn asked(&self) -> Vec<Range<u64>> {
        let blobs = self.registry.log().into_iter().filter(|request| request.kind == Asked::Blob);
        blobs
            .map(|request| {
                let Some(range) = request.range else { return 0..self.layer_size() };
                let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                first.parse().unwrap()..last.parse::<u64>().unwrap() + 1
            })
            .collect()
    }

    /// Sum of [`Self::asked`].
    pub(crate) fn asked_bytes(&self) -> u64 {
        self.asked().iter().map(|range| range.end - range.start).sum()
    }

    pub(crate) fn layer_size(&self) -> u64 {
        self.index.layer(0).unwrap().size
    }

    /// Waits until a reader without a registry can read the whole file: until it is written.
    pub(crate) async fn kept(&self, dir: &Path, n: usize) {
        let since = Instant::now();
        loop {
            let outcome = self.read_all(&self.offline(&store(dir, 1 << 30, 0)), n).await;
            match outcome {
                Ok(()) => return,
                Err(error) => assert!(since.elapsed() < PATIENT, "not kept: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) fn store(dir: &Path, quota: u64, memory: u64) -> Arc<Store> {
    let options = StoreOptions { dir: dir.to_owned(), quota, memory };
    Arc::new(Store::open(options).unwrap())
}
