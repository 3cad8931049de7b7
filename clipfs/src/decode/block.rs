//! A deflate block's header, kept apart from the block: with it, decoding can start inside of the block.
//!
//! zlib-ng's fastest level, zlib-rs's and ISA-L's write one block for a whole stream. Such a block is useless from the middle
//! on without its header: 3 bits for a block of fixed codes; the codes too, some 60 to 100 bytes, for one of dynamic codes (RFC 1951
//! sections 3.2.3, 3.2.6 and 3.2.7). Stored blocks need none of this: they are at most 64 KiB long.

use super::inflate::Inflate;
use crate::num::{to_u64, to_usize};

/// BFINAL and BTYPE.
const TYPE_BITS: u64 = 3;

/// Longest header: type, the three counts, 19 lengths of 3 bits, and 286 + 30 code lengths. A single length takes at most
/// 7 bits; a repetition takes at most 14 and stands for so many that it is shorter.
pub(super) const MAX_HEADER_BITS: u64 = TYPE_BITS + 14 + 19 * 3 + (286 + 30) * 7;

/// So many bytes, from the one with its first bit on, hold every header.
pub(super) const MAX_HEADER_SPAN: usize = to_usize((7 + MAX_HEADER_BITS).div_ceil(8));

/// The header of a block with fixed or dynamic codes: from BFINAL to the last code length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeader {
    bits: u64,
    /// The header starts at the first byte's lowest bit. The last byte's unused bits are 0.
    bytes: Vec<u8>,
}

impl BlockHeader {
    /// The header that starts at the given bit of the first byte. `None`: a stored block, no header, or not all of it.
    pub(super) fn find(bytes: &[u8], bit: u8) -> Option<Self> {
        let bytes = &bytes[..bytes.len().min(MAX_HEADER_SPAN)];
        // Each byte with the low bits of the next one above it.
        let next = bytes.iter().skip(1).chain(&[0]);
        let shift = |(low, high): (&u8, &u8)| u16::from_le_bytes([*low, *high]).checked_shr(u32::from(bit));
        let aligned: Option<Vec<u16>> = bytes.iter().zip(next).map(shift).collect();
        let mut bytes: Vec<u8> = aligned?.into_iter().map(|pair| pair.to_le_bytes()[0]).collect();
        if is_stored(&bytes) {
            return None;
        }
        let bits = Inflate::new().ok()?.read_header(&bytes).ok()??;
        bytes.truncate(to_usize(bits.div_ceil(8)));
        if let Some(last) = bytes.last_mut() {
            *last &= used_mask(bits);
        }
        Self::new(bits, bytes)
    }

    /// A header of `bits` bits in `bytes`, as far as that can be told without decoding it.
    fn new(bits: u64, bytes: Vec<u8>) -> Option<Self> {
        let possible = (TYPE_BITS..=MAX_HEADER_BITS).contains(&bits)
            && to_u64(bytes.len()) == bits.div_ceil(8)
            && bytes.last().is_some_and(|last| last & !used_mask(bits) == 0)
            && !is_stored(&bytes);
        possible.then_some(Self { bits, bytes })
    }

    /// Its length.
    pub(super) fn bits(&self) -> u64 {
        self.bits
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends it to a window's encoded form: its length in bits, two bytes, and its bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bits.to_le_bytes()[..2]);
        out.extend_from_slice(&self.bytes);
    }

    /// Takes one from the front of `encoded`; returns what is behind it. `None` for anything that cannot be a header;
    /// what passes need not be one either: [`Inflate::enter_block`] finds out.
    pub(super) fn decode(encoded: &[u8]) -> Option<(Self, &[u8])> {
        let (bits, rest) = encoded.split_first_chunk::<2>()?;
        let bits = u64::from(u16::from_le_bytes(*bits));
        let (bytes, rest) = rest.split_at_checked(to_usize(bits.div_ceil(8)))?;
        Some((Self::new(bits, bytes.to_vec())?, rest))
    }
}

/// Whether a header, its first bit lowest, is a stored block's (BTYPE 00).
fn is_stored(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|first| first & 0b110 == 0)
}

/// The bits of the last byte that belong to a header of so many bits.
fn used_mask(bits: u64) -> u8 {
    match bits % 8 {
        0 => 0xff,
        used => (1 << used) - 1,
    }
}
