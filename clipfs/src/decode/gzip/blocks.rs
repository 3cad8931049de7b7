//! Blocks that are longer than a chunk: knowing the header of the block that the scan is in.
//!
//! A scan does not look at blocks before a chunk has its length, so it does not know where the one that it is in then
//! began. If that block turns out to be long, the scan's way from the last known place is gone once more, at most
//! a chunk and [`SLACK`], block by block this time. From then on the header is known until the block ends: a stream of
//! a single block is decoded once, but for its first chunk.

use crate::decode::block::{BlockHeader, MAX_HEADER_SPAN};
use crate::decode::inflate::{Inflate, Stop};
use crate::decode::pass::Pass;
use crate::num::{to_u64, to_usize};

/// How many plain bytes longer than it should be a chunk may get before it ends inside a block. Blocks of most encoders are
/// shorter (zlib's are 16 383 symbols, libdeflate's and ISA-L's up to 300 KB), and a checkpoint between blocks is cheaper.
const SLACK: u64 = 256 << 10;

/// Plain bytes of the second pass are thrown away in pieces of this size.
const SCRATCH: usize = 64 << 10;

/// What is known about a member's blocks.
pub(super) struct Blocks {
    /// The last place at which decoding can start; `None` when the compressed bytes since then are more than are kept.
    anchor: Option<Anchor>,
    /// Of the block that the scan is in, if it has been in it since the anchor.
    header: Option<BlockHeader>,
}

struct Anchor {
    /// Place in the compressed stream, in bits.
    at: u64,
    /// Plain offset.
    plain: u64,
    window: Vec<u8>,
    header: Option<BlockHeader>,
}

impl Blocks {
    /// At the start of a member's deflate stream.
    pub(super) fn start(pass: &mut Pass<'_>) -> Self {
        let mut blocks = Self { anchor: None, header: None };
        blocks.mark(pass, pass.offset() * 8, &[], None);
        blocks
    }

    /// Decoding can start here, at bit `at` of the compressed stream; inside a block if there is a header.
    pub(super) fn mark(&mut self, pass: &mut Pass<'_>, at: u64, window: &[u8], header: Option<BlockHeader>) {
        pass.keep();
        self.header.clone_from(&header);
        self.anchor = Some(Anchor { at, plain: pass.plain_total(), window: window.to_vec(), header });
    }

    /// A block has ended.
    pub(super) fn boundary(&mut self) {
        self.header = None;
    }

    /// Whether the end of the present block must not pass unseen.
    pub(super) fn watched(&self) -> bool {
        self.header.is_some()
    }

    /// How long the present chunk gets before it ends inside a block; `None`: it cannot.
    pub(super) fn due(&self, chunk: u64) -> Option<u64> {
        match (&self.header, &self.anchor) {
            // This block was too long before.
            (Some(_), _) => Some(chunk),
            (None, Some(_)) => Some(chunk + SLACK),
            (None, None) => None,
        }
    }

    /// The header of the block that the scan is in. If it cannot be found there will be no asking again before the next mark.
    pub(super) fn header(&mut self, pass: &Pass<'_>) -> Option<BlockHeader> {
        if self.header.is_none() {
            self.header = self.anchor.take().and_then(|anchor| find(pass, &anchor));
        }
        self.header.clone()
    }
}

/// Goes from the anchor to where the scan is, and finds the last block that began on the way.
fn find(pass: &Pass<'_>, anchor: &Anchor) -> Option<BlockHeader> {
    let mut inflate = Inflate::new().ok()?;
    inflate.set_window(&anchor.window);
    let mut began = Some(anchor.at);
    if let Some(header) = &anchor.header {
        inflate.enter_block(header).ok()?;
        began = None;
    }
    let mut offset = anchor.at / 8;
    let mut skip = u8::try_from(anchor.at % 8).ok()?;
    let mut scratch = vec![0; SCRATCH];
    let mut left = to_usize(pass.plain_total() - anchor.plain);
    for mut input in pass.kept(offset)? {
        if let Some((first, rest)) = input.split_first().filter(|_| skip > 0) {
            inflate.prime(8 - skip, first >> skip);
            skip = 0;
            offset += 1;
            input = rest;
        }
        while left > 0 {
            let room = left.min(scratch.len());
            let step = inflate.step(input, &mut scratch[..room], Stop::Block).ok()?;
            input = &input[step.consumed..];
            offset += to_u64(step.consumed);
            left -= step.produced;
            match step.boundary {
                // Where the scan is the block has not ended, though it may do so in the bits behind.
                Some(unused) if left > 0 => began = Some(offset * 8 - u64::from(unused)),
                Some(_) => {}
                None if step.ended => return None,
                None if step.consumed == 0 && step.produced == 0 => break,
                None => {}
            }
        }
    }
    let Some(began) = began.filter(|_| left == 0) else {
        return anchor.header.clone().filter(|_| left == 0);
    };
    let span: Vec<u8> = pass.kept(began / 8)?.flatten().copied().take(MAX_HEADER_SPAN).collect();
    BlockHeader::find(&span, u8::try_from(began % 8).ok()?)
}
