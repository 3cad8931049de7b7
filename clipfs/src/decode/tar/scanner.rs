//! The scanner: a state machine over portions of any length.

use super::fault::{Fault, show};
use super::header::{BLOCK, Block, Header, ZERO_BLOCK, c_string, kind, padding};
use super::member::{self, File, Member, Pending, Sparse};
use super::{ContentHasher, DecodeError, Entry, EntryKind, FileData, OnEntry, TarLimits, pax};
use crate::num::to_u64;

/// Push-style scanner: bytes in any portions, entries out when their data has passed.
///
/// Memory: one extended header or sparse map at a time, both bounded by [`TarLimits::max_header`]; data are
/// hashed where they lie. After an error the scanner is dead: every further call fails.
#[derive(Debug)]
pub struct TarScanner {
    limits: TarLimits,
    state: State,
    /// Plain offset of the next byte.
    offset: u64,
    /// Plain offset of the last header block.
    header_at: u64,
    /// Bytes to pass over before the next block.
    skip: u64,
    /// A block of which only the first `filled` bytes have come.
    block: Block,
    filled: usize,
    /// Body of a special member.
    body: Vec<u8>,
    pending: Pending,
    entries: u64,
}

#[derive(Debug)]
enum State {
    /// A header block comes next, or the end.
    Header,
    /// A zero block has come: another one, or the end.
    SecondZero,
    /// The body of a special member of type `flag`, `left` bytes of it.
    Special { flag: u8, left: u64 },
    /// A block of a sparse map.
    Map(Box<Sparse>),
    /// A file's data.
    Data(Box<Open>),
    /// Behind the end-of-archive marker.
    End,
    /// Behind an error.
    Dead,
}

/// A file whose data are passing.
#[derive(Debug)]
struct Open {
    file: File,
    left: u64,
    hasher: ContentHasher,
}

impl TarScanner {
    /// A scanner at the beginning of a stream.
    #[must_use]
    pub fn new(limits: TarLimits) -> Self {
        Self {
            limits,
            state: State::Header,
            offset: 0,
            header_at: 0,
            skip: 0,
            block: ZERO_BLOCK,
            filled: 0,
            body: Vec::new(),
            pending: Pending::default(),
            entries: 0,
        }
    }

    /// The next bytes of the plain stream.
    ///
    /// # Errors
    /// A header that Go's reader refuses or that no Linux file could have, a limit, and what `on_entry` fails with.
    pub fn push(&mut self, bytes: &[u8], on_entry: &mut OnEntry<'_>) -> Result<(), DecodeError> {
        let mut rest = bytes;
        let result = self.advance(&mut rest, on_entry);
        if result.is_err() {
            self.state = State::Dead;
        }
        result
    }

    /// The stream has ended. Bytes behind the end-of-archive marker were ignored; its absence is accepted at an
    /// entry's boundary, as Go does: also where an entry's padding or one of the two zero blocks is missing.
    ///
    /// # Errors
    /// The stream ended inside an entry or a header; or an earlier error.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.state {
            State::Dead => Err(self.refuse(&Fault::Dead)),
            State::End => Ok(()),
            State::Header | State::SecondZero if self.filled == 0 => Ok(()),
            _ => Err(DecodeError::Truncated { format: "tar", offset: self.offset }),
        }
    }

    fn advance(&mut self, rest: &mut &[u8], on_entry: &mut OnEntry<'_>) -> Result<(), DecodeError> {
        let mut joined = ZERO_BLOCK;
        while !rest.is_empty() {
            if self.skip > 0 {
                let skipped = self.take(rest, self.skip);
                self.skip -= to_u64(skipped.len());
                continue;
            }
            match std::mem::replace(&mut self.state, State::Dead) {
                State::Dead => return Err(self.refuse(&Fault::Dead)),
                State::End => {
                    self.take(rest, u64::MAX);
                    self.state = State::End;
                }
                State::Special { flag, left } => {
                    let piece = self.take(rest, left);
                    self.body.extend_from_slice(piece);
                    self.special(flag, left - to_u64(piece.len()))?;
                }
                State::Data(mut open) => {
                    self.feed(&mut open, rest);
                    if open.left == 0 {
                        self.close(*open, on_entry)?;
                    } else {
                        self.state = State::Data(open);
                    }
                }
                state => {
                    let Some(block) = self.next_block(rest, &mut joined) else {
                        self.state = state;
                        break;
                    };
                    self.on_block(state, block, rest, on_entry)?;
                }
            }
        }
        Ok(())
    }

    /// Takes at most `most` bytes off the portion.
    fn take<'a>(&mut self, rest: &mut &'a [u8], most: u64) -> &'a [u8] {
        let len = rest.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let (piece, behind) = rest.split_at(len);
        *rest = behind;
        self.offset += to_u64(len);
        piece
    }

    /// The next whole block: in place if the portion holds it, else in `joined`.
    fn next_block<'b, 'a: 'b>(&mut self, rest: &mut &'a [u8], joined: &'b mut Block) -> Option<&'b Block> {
        if self.filled == 0
            && let Some((block, behind)) = rest.split_first_chunk::<BLOCK>()
        {
            *rest = behind;
            self.offset += to_u64(BLOCK);
            return Some(block);
        }
        let piece = self.take(rest, to_u64(BLOCK - self.filled));
        self.block[self.filled..][..piece.len()].copy_from_slice(piece);
        self.filled += piece.len();
        if self.filled < BLOCK {
            return None;
        }
        self.filled = 0;
        *joined = self.block;
        Some(joined)
    }

    fn on_block(
        &mut self,
        state: State,
        block: &Block,
        rest: &mut &[u8],
        on_entry: &mut OnEntry<'_>,
    ) -> Result<(), DecodeError> {
        match state {
            State::Map(sparse) => self.map(sparse, block, rest, on_entry),
            State::SecondZero if block == &ZERO_BLOCK => {
                self.state = State::End;
                Ok(())
            }
            State::SecondZero => Err(self.refuse(&Fault::LoneZeroBlock)),
            _ if block[0] == 0 && block == &ZERO_BLOCK => {
                self.header_at = self.offset;
                self.state = State::SecondZero;
                Ok(())
            }
            _ => self.header(block, rest, on_entry),
        }
    }

    fn header(
        &mut self,
        block: &Block,
        rest: &mut &[u8],
        on_entry: &mut OnEntry<'_>,
    ) -> Result<(), DecodeError> {
        self.header_at = self.offset - to_u64(BLOCK);
        let header = Header::parse(block).map_err(|fault| self.refuse(&fault))?;
        let what = match header.flag {
            kind::PAX | kind::PAX_GLOBAL => Some("pax header"),
            kind::GNU_LONG_NAME => Some("long name"),
            kind::GNU_LONG_LINK => Some("long link target"),
            _ => None,
        };
        if let Some(what) = what {
            let (len, limit) = (header.size.unsigned_abs(), self.limits.max_header);
            if len > limit {
                return Err(self.refuse(&Fault::HeaderTooLong { what, len, limit }));
            }
            // containerd looks at the name before the type. Nobody means that.
            if header.flag == kind::PAX_GLOBAL {
                let name = member::name(&header, &Pending::default());
                if member::is_whiteout(&name) {
                    return Err(self.refuse_member(&name, &Fault::GlobalWhiteout));
                }
            }
            self.body.clear();
            return self.special(header.flag, len);
        }
        let member = member::read(block, &header, &self.pending, self.offset, self.limits.max_header);
        let member =
            member.map_err(|fault| self.refuse_member(&member::name(&header, &self.pending), &fault))?;
        self.pending.clear();
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(self.refuse(&Fault::TooManyEntries(self.limits.max_entries)));
        }
        match member {
            Member::Plain(entry) => {
                self.state = State::Header;
                emit(entry, on_entry)
            }
            Member::File(file) => self.open(file, rest, on_entry),
            Member::Sparse(sparse) => self.await_map(Box::new(sparse)),
        }
    }

    /// A piece of a special member's body has come, `left` bytes have not.
    fn special(&mut self, flag: u8, left: u64) -> Result<(), DecodeError> {
        if left > 0 {
            self.state = State::Special { flag, left };
            return Ok(());
        }
        match flag {
            kind::GNU_LONG_NAME => set(&mut self.pending.long_name, c_string(&self.body)),
            kind::GNU_LONG_LINK => set(&mut self.pending.long_link, c_string(&self.body)),
            kind::PAX => self.pending.records.parse(&self.body).map_err(|fault| self.refuse(&fault))?,
            // A global header is a member of its own for Go, so what came before it is gone; its records
            // concern nobody: containerd ignores it.
            _ => {
                pax::check(&self.body).map_err(|fault| self.refuse(&fault))?;
                self.pending.clear();
            }
        }
        self.skip = padding(to_u64(self.body.len()));
        self.state = State::Header;
        Ok(())
    }

    fn await_map(&mut self, sparse: Box<Sparse>) -> Result<(), DecodeError> {
        sparse.expects_block().map_err(|fault| self.refuse_member(sparse.name(), &fault))?;
        self.state = State::Map(sparse);
        Ok(())
    }

    fn map(
        &mut self,
        mut sparse: Box<Sparse>,
        block: &Block,
        rest: &mut &[u8],
        on_entry: &mut OnEntry<'_>,
    ) -> Result<(), DecodeError> {
        let extents = sparse.extend(block, self.offset);
        match extents.map_err(|fault| self.refuse_member(sparse.name(), &fault))? {
            None => self.await_map(sparse),
            Some(extents) => self.open(sparse.into_file(extents), rest, on_entry),
        }
    }

    fn open(&mut self, file: File, rest: &mut &[u8], on_entry: &mut OnEntry<'_>) -> Result<(), DecodeError> {
        let extents = file.extents.iter().map(|extent| (extent.file_offset, extent.len));
        let hasher = ContentHasher::new(file.size, extents);
        let mut open = Open { left: file.stored, file, hasher };
        self.feed(&mut open, rest);
        if open.left == 0 {
            return self.close(open, on_entry);
        }
        self.state = State::Data(Box::new(open));
        Ok(())
    }

    /// Passes what the portion has of a file's data.
    fn feed(&mut self, open: &mut Open, rest: &mut &[u8]) {
        let piece = self.take(rest, open.left);
        open.hasher.update(piece);
        open.left -= to_u64(piece.len());
    }

    /// A file's data have passed.
    fn close(&mut self, open: Open, on_entry: &mut OnEntry<'_>) -> Result<(), DecodeError> {
        self.skip = padding(open.file.stored);
        self.state = State::Header;
        let File { mut entry, size, extents, .. } = open.file;
        entry.kind = EntryKind::File(FileData { size, extents, digest: open.hasher.finish() });
        emit(entry, on_entry)
    }

    fn refuse(&self, fault: &Fault) -> DecodeError {
        DecodeError::Tar { offset: self.header_at, reason: fault.to_string() }
    }

    fn refuse_member(&self, name: &[u8], fault: &Fault) -> DecodeError {
        DecodeError::Tar { offset: self.header_at, reason: format!("member {:?}: {fault}", show(name)) }
    }
}

fn set(field: &mut Vec<u8>, value: &[u8]) {
    field.clear();
    field.extend_from_slice(value);
}

/// Hands an entry over, unless it is one that containerd passes over: the root can only be a directory.
fn emit(entry: Entry, on_entry: &mut OnEntry<'_>) -> Result<(), DecodeError> {
    if !matches!(entry.kind, EntryKind::Dir) && member::is_root(&entry.path) {
        return Ok(());
    }
    on_entry(entry)
}
