//! The two SHA-256 digests of a layer, of its compressed and of its plain bytes, computed side by side.
//!
//! SHA-256 is a chain: each step waits for the one before, and with the processor's own instructions half of the
//! execution slots stay empty. Two chains, block about, fill them: 2.9 GB/s in all instead of 2.1 (measured, Zen 5). It
//! needs nothing but updates that are one block long.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};

use crate::num::to_u64;
use crate::oci::Digest;

/// SHA-256's block in bytes (FIPS 180-4 section 1).
const BLOCK: usize = 64;

/// Most compressed bytes that wait for plain ones: a portion comes just before what it decodes to.
const MAX_WAITING: usize = 1 << 20;

/// Both digests of a layer, under way.
#[derive(Debug, Default)]
pub(super) struct Twin {
    compressed: Chain,
    plain: Chain,
    /// Compressed bytes that are to be hashed beside the next plain ones.
    waiting: VecDeque<Bytes>,
    waiting_len: usize,
}

/// Both digests of a layer.
#[derive(Debug)]
pub(super) struct TwinDigests {
    /// SHA-256 of the compressed bytes.
    pub(super) digest: Digest,
    /// How many they were.
    pub(super) size: u64,
    /// SHA-256 of the plain bytes.
    pub(super) diff_id: Digest,
}

impl Twin {
    /// The next compressed bytes: kept, not copied, and hashed soon.
    pub(super) fn compressed(&mut self, portion: Vec<Bytes>) {
        self.waiting_len += portion.iter().map(Bytes::len).sum::<usize>();
        self.waiting.extend(portion);
        while self.waiting_len > MAX_WAITING
            && let Some(bytes) = self.waiting.pop_front()
        {
            self.waiting_len -= bytes.len();
            self.compressed.update(&bytes);
        }
    }

    /// The next plain bytes.
    pub(super) fn plain(&mut self, mut bytes: &[u8]) {
        while let Some(front) = self.waiting.front_mut() {
            let before = front.len();
            // Blocks of the two streams start anywhere in their pieces.
            self.plain.complete_block(&mut bytes);
            self.compressed.complete_block(front);
            let len = bytes.len().min(front.len()) / BLOCK * BLOCK;
            let (blocks, rest) = bytes.split_at(len);
            for (plain, compressed) in blocks.chunks_exact(BLOCK).zip(front.chunks_exact(BLOCK)) {
                self.plain.sha256.update(plain);
                self.compressed.sha256.update(compressed);
            }
            self.plain.len += to_u64(len);
            self.compressed.len += to_u64(len);
            bytes = rest;
            front.advance(len);
            if front.len() < BLOCK {
                self.compressed.update(front);
                front.clear();
            }
            self.waiting_len -= before - front.len();
            if !front.is_empty() {
                break;
            }
            self.waiting.pop_front();
        }
        self.plain.update(bytes);
    }

    /// The digests of all that has come.
    pub(super) fn finish(mut self) -> TwinDigests {
        for bytes in self.waiting {
            self.compressed.update(&bytes);
        }
        TwinDigests {
            size: self.compressed.len,
            digest: self.compressed.finish(),
            diff_id: self.plain.finish(),
        }
    }
}

/// One of the two.
#[derive(Debug, Default)]
struct Chain {
    sha256: Sha256,
    len: u64,
}

impl Chain {
    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.len += to_u64(bytes.len());
    }

    /// Takes bytes off `from` until a block is complete, or there are no more.
    fn complete_block(&mut self, from: &mut impl bytes::Buf) {
        let open = BLOCK - 1 - crate::num::to_usize(self.len.wrapping_sub(1) % to_u64(BLOCK));
        let head = open.min(from.remaining());
        if head > 0 {
            let head = from.copy_to_bytes(head);
            self.update(&head);
        }
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(self.sha256.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `true`: compressed bytes, as so many pieces of that length; `false`: so many plain bytes.
    fn pieces() -> impl Strategy<Value = Vec<(bool, usize)>> {
        proptest::collection::vec((any::<bool>(), prop_oneof![0..200_usize, Just(64), Just(700_000)]), 0..12)
    }

    proptest! {
        #[test]
        fn digests_are_those_of_the_streams(pieces in pieces()) {
            let (mut twin, mut compressed, mut plain) = (Twin::default(), Vec::new(), Vec::new());
            for (n, (is_compressed, len)) in pieces.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..len).map(|i| u8::try_from((i * 7 + n) % 251).expect("small")).collect();
                if is_compressed {
                    compressed.extend_from_slice(&bytes);
                    let at = len / 3;
                    let bytes = Bytes::from(bytes);
                    twin.compressed(vec![bytes.slice(..at), bytes.slice(at..)]);
                } else {
                    plain.extend_from_slice(&bytes);
                    twin.plain(&bytes);
                }
                prop_assert!(twin.waiting_len <= MAX_WAITING);
                prop_assert_eq!(twin.waiting_len, twin.waiting.iter().map(Bytes::len).sum::<usize>());
            }
            let digests = twin.finish();
            prop_assert_eq!(digests.size, to_u64(compressed.len()));
            prop_assert_eq!(digests.digest, Digest::of(&compressed));
            prop_assert_eq!(digests.diff_id, Digest::of(&plain));
        }
    }
}
