//! Deflate blocks that are longer than chunks: chunks then start inside of them.

use super::*;
use crate::decode::MAX_CHUNK;
use crate::decode::block::BlockHeader;

/// A chunk ends inside a block with the first symbol behind the place where it should, but for the few that were read already.
const SYMBOLS: usize = 8 * 258;

/// How much longer than asked for a chunk may be before it ends inside a block.
const SLACK: usize = (256 << 10) + SYMBOLS;

/// Writes deflate streams bit by bit (RFC 1951 section 3.1.1).
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// The low `len` bits, least significant first.
    fn put(&mut self, value: u32, len: u32) {
        for bit in 0..len {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().unwrap();
            *last |= u8::from(value >> bit & 1 == 1) << (self.used % 8);
            self.used += 1;
        }
    }

    /// A Huffman code: most significant bit first.
    fn code(&mut self, code: u32, len: u32) {
        self.put(code.reverse_bits() >> (32 - len), len);
    }

    /// A stored block (section 3.2.4).
    fn stored(&mut self, bytes: &[u8]) {
        self.put(0, 3);
        self.used = self.used.next_multiple_of(8);
        let len = u32::try_from(bytes.len()).unwrap();
        self.put(len, 16);
        self.put(!len, 16);
        self.bytes.extend_from_slice(bytes);
    }
}

/// What a block holds.
#[derive(Debug, Clone)]
enum Symbol {
    Literal(u8),
    /// Length 3, distance 1 to 32 768.
    Short(u16),
    /// Length 258, distance 1 to 32 768.
    Long(u16),
}

/// Distance code, extra bits and their value (section 3.2.5).
fn distance(distance: u16) -> (u32, u32, u32) {
    let from_zero = u32::from(distance) - 1;
    if from_zero < 4 {
        return (from_zero, 0, 0);
    }
    let extra = from_zero.ilog2() - 1;
    (2 * (extra + 1) + (from_zero >> extra & 1), extra, from_zero & ((1 << extra) - 1))
}

/// A block of fixed or dynamic codes.
fn block(bits: &mut Bits, symbols: &[Symbol], last: bool, dynamic: bool, plain: &mut Vec<u8>) {
    let (lens, distance_lens) = if dynamic { dynamic_lens() } else { fixed_lens() };
    bits.put(u32::from(last), 1);
    bits.put(if dynamic { 2 } else { 1 }, 2);
    if dynamic {
        // HLIT, HDIST, HCLEN; then 19 lengths for the code lengths 0 to 15, 4 bits each, in the order of section 3.2.7.
        bits.put(286 - 257, 5);
        bits.put(30 - 1, 5);
        bits.put(19 - 4, 4);
        for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] {
            bits.put(if symbol < 16 { 4 } else { 0 }, 3);
        }
        for len in lens.iter().chain(&distance_lens) {
            bits.code(*len, 4);
        }
    }
    let (codes, distance_codes) = (canonical(&lens), canonical(&distance_lens));
    let literal = |bits: &mut Bits, symbol: usize| bits.code(codes[symbol], lens[symbol]);
    for symbol in symbols {
        let (len, far) = match symbol {
            Symbol::Literal(byte) => {
                literal(bits, usize::from(*byte));
                plain.push(*byte);
                continue;
            }
            Symbol::Short(far) => (3, *far),
            Symbol::Long(far) => (258, *far),
        };
        let far = far.min(u16::try_from(plain.len().min(32_768)).unwrap());
        literal(bits, if len == 3 { 257 } else { 285 });
        let (code, extra, value) = distance(far);
        bits.code(distance_codes[idx(code)], distance_lens[idx(code)]);
        bits.put(value, extra);
        for _ in 0..len {
            plain.push(plain[plain.len() - usize::from(far)]);
        }
    }
    literal(bits, 256);
}

/// Code lengths of literals and lengths, and of distances (section 3.2.6).
fn fixed_lens() -> (Vec<u32>, Vec<u32>) {
    ([vec![8; 144], vec![9; 112], vec![7; 24], vec![8; 8]].concat(), vec![5; 30])
}

/// Complete codes: 1/4 for length 285, 1/8 for length 257, and 5/8 for the other 257 symbols, 63 of which get 8 bits and the others
/// 9; two distances with 4 bits and 28 with 5.
fn dynamic_lens() -> (Vec<u32>, Vec<u32>) {
    let mut lens = [vec![8; 63], vec![9; 257 - 63], vec![0; 29]].concat();
    (lens[285], lens[257]) = (2, 3);
    (lens, [vec![4; 2], vec![5; 28]].concat())
}

/// Codes from their lengths (section 3.2.2).
fn canonical(lens: &[u32]) -> Vec<u32> {
    let mut codes = vec![0; lens.len()];
    let mut next = 0;
    for len in 1..=15 {
        next <<= 1;
        for at in (0..lens.len()).filter(|at| lens[*at] == len) {
            codes[at] = next;
            next += 1;
        }
    }
    codes
}

/// Symbols that make about `len` bytes.
fn symbols(rng: &mut fastrand::Rng, len: usize) -> Vec<Symbol> {
    let mut made = 0;
    let mut out = Vec::new();
    // Some parts are all noise, some nearly all matches.
    let mut literals = 50;
    while made < len {
        if rng.u16(..) < 20 {
            literals = [2, 50, 98, 100][rng.usize(..4)];
        }
        let far = rng.u16(1..=32_768);
        let (symbol, n) = match rng.u8(..100) {
            n if n < literals => (Symbol::Literal(rng.u8(..)), 1),
            n if n % 2 == 0 => (Symbol::Short(if rng.bool() { 1 } else { far }), 3),
            _ => (Symbol::Long(far), 258),
        };
        made += n;
        // There must be something to copy.
        out.push(if made == n { Symbol::Literal(7) } else { symbol });
    }
    out
}

/// A gzip member around a deflate stream.
fn wrap(deflate: &[u8], plain: &[u8]) -> Vec<u8> {
    let crc = crate::decode::inflate::crc32(0, plain).to_le_bytes();
    let len = u32::try_from(plain.len()).unwrap().to_le_bytes();
    [b"\x1f\x8b\x08\0\0\0\0\0\0\0", deflate, &crc, &len].concat()
}

/// A member of blocks: their plain length, or stored noise of 5000 bytes, and whether they are dynamic.
fn stream(rng: &mut fastrand::Rng, blocks: &[(usize, bool)], plain: &mut Vec<u8>) -> Vec<u8> {
    let from = plain.len();
    let mut bits = Bits::default();
    let mut own = Vec::new();
    for (n, (len, dynamic)) in blocks.iter().enumerate() {
        if *len == 0 && n + 1 < blocks.len() {
            let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(5000).collect();
            bits.stored(&noise);
            own.extend(noise);
        } else {
            block(&mut bits, &symbols(rng, *len), n + 1 == blocks.len(), *dynamic, &mut own);
        }
    }
    plain.extend(own);
    wrap(&bits.bytes, &plain[from..])
}

fn headers_of(scanned: &Scanned) -> Vec<Option<BlockHeader>> {
    (1..scanned.len()).map(|n| scanned.window(n).and_then(|window| window.header)).collect()
}

#[test]
fn the_writer_writes_deflate() {
    use std::io::Read as _;
    let mut plain = Vec::new();
    let mut rng = fastrand::Rng::with_seed(1);
    let blob = stream(&mut rng, &[(10_000, true), (0, false), (10_000, false), (10_000, true)], &mut plain);
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut out).unwrap();
    assert!(out == plain);
    for far in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 24, 25, 32_767, 32_768] {
        let (code, extra, value) = distance(far);
        let base = if code < 4 { code + 1 } else { ((2 + (code & 1)) << extra) + 1 };
        assert_eq!(base + value, u32::from(far));
        assert!(code < 30 && extra == (code / 2).saturating_sub(1));
    }
}

#[test]
fn one_fixed_block_has_chunks_of_the_right_length() {
    let plain = plain_noise(8 << 20);
    // zlib-rs's level 1 writes a single block of fixed codes.
    let blob = member(&plain, 1, headers(0), 0);
    let chunk = 1 << 20;
    let scanned = check(&blob, &plain, Compression::Gzip, chunk, 60_000);
    let headers = headers_of(&scanned);
    assert_eq!(headers.len(), 7);
    for header in headers {
        assert_eq!(header.map(|header| header.bits()), Some(3));
    }
    assert!((idx(chunk) + SLACK - SYMBOLS..=idx(chunk) + SLACK).contains(&scanned.plain_range(0).len()));
    let middle = 1..scanned.len() - 1;
    assert!(
        middle
            .into_iter()
            .all(|n| (idx(chunk)..idx(chunk) + SYMBOLS).contains(&scanned.plain_range(n).len()))
    );
    let windows: usize = scanned.recorder.windows.iter().map(Vec::len).sum();
    assert!(windows < 8 * (16 << 10), "{windows}");
}

/// Noise with repetitions: compresses to about two thirds.
fn plain_noise(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut out: Vec<u8> = vec![1];
    while out.len() < len {
        let from = out.len() - rng.usize(..out.len().min(30_000)) - 1;
        out.extend_from_within(from..out.len().min(from + 8));
        out.extend(std::iter::repeat_with(|| rng.u8(..)).take(8));
    }
    out.truncate(len);
    out
}

#[test]
fn a_long_block_between_others_is_found() {
    let mut rng = fastrand::Rng::with_seed(2);
    for dynamic in [false, true] {
        let mut plain = Vec::new();
        // Behind other blocks, in the middle of a chunk; then short blocks again; then another member.
        let blocks = [
            (10_000, false),
            (0, false),
            (20_000, true),
            (1_500_000, dynamic),
            (9_000, false),
            (700_000, true),
        ];
        let mut blob = stream(&mut rng, &blocks, &mut plain);
        blob.extend(stream(&mut rng, &[(800_000, dynamic)], &mut plain));
        let scanned = check(&blob, &plain, Compression::Gzip, 50_000, 100_000);
        let inside = headers_of(&scanned).into_iter().flatten().count();
        assert!(inside > 40, "{inside} of {}", scanned.len());
        assert!((0..scanned.len()).all(|n| scanned.plain_range(n).len() <= 50_000 + SLACK));
    }
}

#[test]
fn a_block_may_end_where_a_chunk_does() {
    // Up to three symbols more than make a checkpoint due, and the end of the block at every bit of a byte: it may lie in
    // what was read before the place, or just behind the place in the same byte.
    for (more, shift) in (0..4).flat_map(|more| (0..8).map(move |shift| (more, shift))) {
        // With the fixed codes (section 3.2.6): 9 bits each but for the first ones, which take 8; copies of 3 bytes take 7 for
        // the length, 9 for the distance; the end takes 7.
        let mut symbols = vec![Symbol::Literal(200); 4096 + (256 << 10) - 30];
        symbols[..shift].fill(Symbol::Literal(5));
        symbols.extend(vec![Symbol::Short(40); 10 + more]);
        let mut bits = Bits::default();
        let mut plain = Vec::new();
        block(&mut bits, &symbols, false, false, &mut plain);
        block(&mut bits, &symbols[..1000], true, true, &mut plain);
        let scanned = check(&wrap(&bits.bytes, &plain), &plain, Compression::Gzip, 4096, 5000);
        assert_eq!(scanned.len(), 2);
        let inside = headers_of(&scanned)[0].is_some();
        assert!(if more == 0 { !inside } else { more == 1 || inside }, "{more} {shift}");
    }
}

/// Counts; for streams too long to keep.
#[derive(Default)]
struct Count {
    room: Vec<u8>,
    plain: u64,
    chunks: usize,
}

impl ScanSink for Count {
    fn compressed(&mut self, _: &[u8]) -> Result<(), DecodeError> {
        Ok(())
    }
    fn checkpoint(&mut self, _: Checkpoint) -> Result<(), DecodeError> {
        self.chunks += 1;
        Ok(())
    }
    fn plain(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.filled(bytes.len())
    }
    fn room(&mut self) -> Result<&mut [u8], DecodeError> {
        self.room.resize(MIN_ROOM, 0);
        Ok(&mut self.room)
    }
    fn filled(&mut self, n: usize) -> Result<(), DecodeError> {
        self.plain += to_u64(n);
        Ok(())
    }
    fn member(&mut self, _: MemberMark) -> Result<(), DecodeError> {
        Ok(())
    }
    fn window(&mut self, _: RawWindow) -> Result<(), DecodeError> {
        Ok(())
    }
}

#[test]
fn a_long_block_behind_padding_is_refused() {
    let limits = ScanLimits { chunk: 1 << 20, max_plain: u64::MAX };
    let long = vec![Symbol::Long(1); idx(MAX_CHUNK) / 258 + 1000];
    for (padding, refused) in [(100, false), (1 << 20, true)] {
        // More empty blocks than are kept, so that nobody knows where the long one began.
        let mut bits = Bits::default();
        bits.stored(&[0; 100]);
        for _ in 0..padding {
            bits.stored(b"");
        }
        let mut plain = vec![0];
        block(&mut bits, &long, true, false, &mut plain);
        let mut count = Count::default();
        let blob = [b"\x1f\x8b\x08\0\0\0\0\0\0\0", &bits.bytes[..]].concat();
        let result = scan(&mut &blob[..], limits, &mut count);
        if refused {
            assert!(
                matches!(result, Err(DecodeError::ChunkTooLong { format: "gzip", offset: 0 })),
                "{result:?}"
            );
            assert!(count.plain <= u64::from(MAX_CHUNK));
        } else {
            // No trailer.
            assert!(matches!(result, Err(DecodeError::Truncated { .. })), "{result:?}");
            assert_eq!(count.chunks, 64);
        }
    }
}

#[test]
fn headers_are_cut_out_exactly() {
    let mut bits = Bits::default();
    for shift in 0..8 {
        bits.put(0x55, shift - bits.used % 8);
        let start = bits.used;
        block(&mut bits, &[Symbol::Literal(9)], false, true, &mut Vec::new());
        let bytes = &bits.bytes[idx(start / 8)..];
        let bit = u8::try_from(start % 8).unwrap();
        let header = BlockHeader::find(bytes, bit).unwrap();
        assert_eq!(header.bits(), 3 + 14 + 19 * 3 + 316 * 4);
        let end = idx(start) + to_usize(header.bits());
        for cut in 0..end.div_ceil(8) - idx(start / 8) {
            assert_eq!(BlockHeader::find(&bytes[..cut], bit), None);
        }
        let mut encoded = Vec::new();
        header.encode(&mut encoded);
        encoded.push(42);
        assert_eq!(BlockHeader::decode(&encoded), Some((header, &[42_u8][..])));
        bits.used = bits.used.next_multiple_of(8);
    }
    assert_eq!(BlockHeader::find(b"\x00\x02\x00\xfd\xffab", 0), None, "stored");
    assert_eq!(BlockHeader::find(b"\x07\0\0", 0), None, "no type");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn long_blocks_decode_from_every_checkpoint(
        members in prop::collection::vec(
            prop::collection::vec((prop::sample::select(vec![0_usize, 1, 300, 40_000, 400_000, 900_000]), any::<bool>()), 1..5),
            1..3,
        ),
        seed in any::<u64>(),
        chunk in prop::sample::select(vec![1_u32, 33_000, 250_000]),
        piece in 0_usize..100_000,
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plain = Vec::new();
        let mut blob = Vec::new();
        for blocks in &members {
            blob.extend(stream(&mut rng, blocks, &mut plain));
        }
        let scanned = check(&blob, &plain, Compression::Gzip, chunk, piece);
        let most = idx(chunk).max(4 << 10) + SLACK;
        prop_assert!((0..scanned.len()).all(|n| scanned.plain_range(n).len() <= most));
    }

    #[test]
    fn damage_never_panics(
        dynamic in any::<bool>(),
        seed in any::<u64>(),
        chunk in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..200),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plain = Vec::new();
        let blob = stream(&mut rng, &[(600_000, dynamic)], &mut plain);
        let scanned = try_scan(&blob, 40_000, usize::MAX).unwrap();
        let chunk = 1 + chunk.index(scanned.len() - 1);
        let len = u32::try_from(scanned.plain_range(chunk).len()).unwrap();
        let bit = scanned.recorder.checkpoints[chunk].bit;
        let good = &scanned.recorder.windows[chunk];
        let input = &blob[scanned.comp_range(chunk)];
        for (at, flip) in flips {
            // The beginning, where the header is, more often than the rest.
            let mut encoded = good.clone();
            let at = at.index(if flip % 2 == 0 { encoded.len() } else { encoded.len().min(200) });
            encoded[at] ^= 1 << flip;
            if let Ok(window) = window::decode(&encoded) {
                prop_assert!(window.bytes.len() <= window::MAX_WINDOW);
                if let Ok(bytes) = decode_chunk(Compression::Gzip, bit, Some(&window), input, len) {
                    prop_assert_eq!(bytes.len(), idx(len));
                }
            }
            let mut damaged = blob.clone();
            damaged[at * (blob.len() / good.len())] ^= 1 << flip;
            if let Ok(scanned) = try_scan(&damaged, 40_000, usize::MAX) {
                prop_assert!(scanned.recorder.plain == plain, "damage not found");
            }
        }
    }
}
