//! Bytes to [`Value`]s (RFC 8259), in one pass.

use zeroize::Zeroizing;

use super::{Kind, MAX_DEPTH, MAX_VALUES, Members, Path, Value};
use crate::Error;

/// Parses one document.
///
/// `root` is what errors call it; with an empty name its members stand at the start of their paths.
///
/// # Errors
/// [`crate::Code::BadRequest`]: longer than `cap`, not UTF-8, not JSON, a byte-order mark, a key that stands twice, nested deeper than
/// [`MAX_DEPTH`], more than [`MAX_VALUES`] values, something after the document. With path and position.
pub fn parse(bytes: &[u8], cap: usize, root: &str) -> Result<Value, Error> {
    within(bytes, cap, root, (MAX_DEPTH, MAX_VALUES))
}

/// [`parse`] of an object that holds a document: one level and some values more, so that whatever is a document alone is one in there.
///
/// # Errors
/// See there.
pub(crate) fn parse_envelope(bytes: &[u8], cap: usize, root: &str) -> Result<Value, Error> {
    within(bytes, cap, root, (MAX_DEPTH + 1, MAX_VALUES + ENVELOPE_VALUES))
}

/// More than any envelope of ours has.
const ENVELOPE_VALUES: usize = 32;

fn within(
    bytes: &[u8],
    cap: usize,
    root: &str,
    (max_depth, max_values): (usize, usize),
) -> Result<Value, Error> {
    let path = Path::root(root);
    if bytes.len() > cap || u32::try_from(bytes.len()).is_err() {
        return Err(path.error(&format!("it is longer than {cap} bytes")));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") || bytes.starts_with(b"\xfe\xff") || bytes.starts_with(b"\xff\xfe")
    {
        return Err(path.error("it starts with a byte-order mark; save it as UTF-8 without one"));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| path.error(&format!("it is not UTF-8 (at byte {})", error.valid_up_to())))?;
    let mut parser = Parser { text, at: 0, values: 0, max_depth, max_values };
    parser.skip_spaces();
    if parser.at == text.len() {
        return Err(path.error("it is empty; expected a JSON document"));
    }
    let value = parser.value(&path, 0)?;
    parser.skip_spaces();
    if parser.at < text.len() {
        return Err(parser.error(&path, "something follows the JSON document"));
    }
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    values: usize,
    max_depth: usize,
    max_values: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        if there {
            self.at += 1;
        }
        there
    }

    fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, path: &Path<'_>, reason: &str) -> Error {
        path.error(&format!("{reason} (at byte {})", self.at))
    }

    /// `expected` what, or the document ends too early.
    fn expected(&self, path: &Path<'_>, what: &str) -> Error {
        match self.peek() {
            Some(_) => self.error(path, &format!("expected {what}")),
            None => self.error(path, &format!("it ends where {what} is expected")),
        }
    }

    fn value(&mut self, path: &Path<'_>, depth: usize) -> Result<Value, Error> {
        self.values += 1;
        if self.values > self.max_values {
            return Err(self.error(path, &format!("it has more than {MAX_VALUES} values")));
        }
        // The length of the document is one of a u32.
        let at = u32::try_from(self.at).unwrap_or(u32::MAX);
        let kind = match self.peek() {
            Some(b'{') => self.object(path, depth + 1)?,
            Some(b'[') => self.array(path, depth + 1)?,
            Some(b'"') => Kind::String(self.string(path)?),
            Some(b'-' | b'0'..=b'9') => self.number(path)?,
            _ if self.word("null") => Kind::Null,
            _ if self.word("true") => Kind::Bool(true),
            _ if self.word("false") => Kind::Bool(false),
            _ => return Err(self.expected(path, "a value")),
        };
        Ok(Value { at, kind })
    }

    fn word(&mut self, word: &str) -> bool {
        let there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if there {
            self.at += word.len();
        }
        there
    }

    fn nest(&self, path: &Path<'_>, depth: usize) -> Result<(), Error> {
        if depth <= self.max_depth {
            return Ok(());
        }
        // The path would be as long as the nesting: the document is named instead.
        let mut root = *path;
        while let Some(parent) = root.parent() {
            root = *parent;
        }
        Err(self.error(&root, &format!("it is nested deeper than {MAX_DEPTH}")))
    }

    fn array(&mut self, path: &Path<'_>, depth: usize) -> Result<Kind, Error> {
        self.nest(path, depth)?;
        self.at += 1;
        let mut items = Vec::new();
        self.skip_spaces();
        if self.eat(b']') {
            return Ok(Kind::Array(items));
        }
        loop {
            self.skip_spaces();
            items.push(self.value(&path.index(items.len()), depth)?);
            self.skip_spaces();
            if self.eat(b']') {
                items.shrink_to_fit();
                return Ok(Kind::Array(items));
            }
            if !self.eat(b',') {
                return Err(self.expected(path, "a comma or a closing bracket"));
            }
        }
    }

    fn object(&mut self, path: &Path<'_>, depth: usize) -> Result<Kind, Error> {
        self.nest(path, depth)?;
        self.at += 1;
        let mut members = Members::new();
        self.skip_spaces();
        if self.eat(b'}') {
            return Ok(Kind::Object(members));
        }
        loop {
            self.skip_spaces();
            if self.peek() != Some(b'"') {
                return Err(self.expected(path, "a key in quotation marks"));
            }
            let key = self.string(path)?;
            self.skip_spaces();
            if !self.eat(b':') {
                return Err(self.expected(&path.key(&key), "a colon"));
            }
            self.skip_spaces();
            let value = self.value(&path.key(&key), depth)?;
            members.push((key, value));
            self.skip_spaces();
            if self.eat(b'}') {
                break;
            }
            if !self.eat(b',') {
                return Err(self.expected(path, "a comma or a closing brace"));
            }
        }
        members.shrink_to_fit();
        // Stable: of two equal keys the second one is told.
        members.sort_by(|(a, _), (b, _)| a.as_str().cmp(b));
        match members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some([_, (key, value)]) => {
                Err(path.key(key).error(&format!("the key stands twice (at byte {})", value.at)))
            }
            _ => Ok(Kind::Object(members)),
        }
    }

    /// A number, checked against the grammar and kept as it is.
    fn number(&mut self, path: &Path<'_>) -> Result<Kind, Error> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits(path)?;
        } else if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.error(path, "a number does not start with zeros"));
        }
        if self.eat(b'.') {
            self.digits(path)?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits(path)?;
        }
        Ok(Kind::Number(Zeroizing::new(self.text[start..self.at].to_owned())))
    }

    fn digits(&mut self, path: &Path<'_>) -> Result<(), Error> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.expected(path, "a digit")) }
    }

    /// A string. Its buffer never grows, so that no piece of a secret stays behind in freed memory.
    fn string(&mut self, path: &Path<'_>) -> Result<Zeroizing<String>, Error> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        let end = loop {
            match self.peek() {
                Some(b'"') => break self.at,
                Some(b'\\') => {
                    escaped = true;
                    self.at += if self.at + 1 < bytes.len() { 2 } else { 1 };
                }
                Some(0..0x20) => {
                    return Err(self.error(path, "a control character stands in a string unescaped"));
                }
                Some(_) => self.at += 1,
                None => return Err(self.error(path, "a string does not end")),
            }
        };
        let raw = &self.text[start..end];
        let text = if escaped { self.unescape(path, start, raw)? } else { Zeroizing::new(raw.to_owned()) };
        self.at = end + 1;
        Ok(text)
    }

    fn unescape(&mut self, path: &Path<'_>, start: usize, raw: &'a str) -> Result<Zeroizing<String>, Error> {
        // An escape is never shorter than what it stands for.
        let mut text = Zeroizing::new(String::with_capacity(raw.len()));
        let mut rest = raw;
        while let Some(index) = rest.find('\\') {
            text.push_str(&rest[..index]);
            self.at = start + (raw.len() - rest.len()) + index;
            let (character, length) =
                escape(&rest[index + 1..]).ok_or_else(|| self.error(path, "an escape sequence is none"))?;
            text.push(character);
            rest = &rest[index + 1 + length..];
        }
        text.push_str(rest);
        Ok(text)
    }
}

/// What the escape after a backslash stands for, and its length. Half a surrogate pair stands for nothing.
fn escape(rest: &str) -> Option<(char, usize)> {
    let simple = match rest.bytes().next()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = hex(rest.get(1..5)?)?;
            if let Some(character) = char::from_u32(unit) {
                return Some((character, 5));
            }
            let low = hex(rest.get(5..)?.strip_prefix("\\u")?.get(..4)?)?;
            if !(0xd800..0xdc00).contains(&unit) || !(0xdc00..0xe000).contains(&low) {
                return None;
            }
            return char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
                .map(|character| (character, 11));
        }
        _ => return None,
    };
    Some((simple, 1))
}

/// Four hexadecimal digits.
fn hex(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(text, 16).ok())?
}
