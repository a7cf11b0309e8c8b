//! Follows the framing of HTTP/1 requests on a connection and refuses what RFC 9112 calls ambiguous, strictly: a message
//! that two parsers could split in two ways is how one request is smuggled inside another. Reads no meaning beyond that;
//! hyper parses the same bytes again. Pure.

/// Longest head: also what hyper is told.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest chunk size line, extensions included.
const CHUNK_LINE_BYTES_MAX: usize = 1024;

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambiguity {
    /// Content-Length and Transfer-Encoding together.
    TwoFramings,
    /// More than one Content-Length, or one that is no plain number.
    Length,
    /// A Transfer-Encoding that is not exactly `chunked`.
    Coding,
    /// A line that continues the one before it.
    Folding,
    /// A CR without LF, or a NUL.
    BareControl,
    /// White space before the colon, or none of it.
    Header,
    /// A chunk size that is none.
    Chunk,
    /// A head or chunk line without end.
    TooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// In a head, in line number so and so.
    Head,
    /// So many bytes of body are left.
    Sized(u64),
    /// In a chunk size line.
    ChunkLine,
    /// In a chunk; its CRLF is counted.
    Chunk(u64),
    /// In the trailers.
    Trailers,
    /// Not HTTP/1 any more: upgraded, or never checked.
    Opaque,
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    mode: Mode,
    line: Vec<u8>,
    lines: u32,
    head_bytes: usize,
    length: Option<u64>,
    chunked: bool,
    opaque_next: bool,
}

impl Framing {
    /// At the start of a connection.
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Head,
            line: Vec::new(),
            lines: 0,
            head_bytes: 0,
            length: None,
            chunked: false,
            opaque_next: false,
        }
    }

    /// For connections that do not carry HTTP/1.
    pub(crate) fn opaque() -> Self {
        Self {
            mode: Mode::Opaque,
            ..Self::new()
        }
    }

    /// Follows the next bytes; their split into calls does not matter.
    ///
    /// # Errors
    /// With the number of leading bytes of `bytes` that are still good.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), (usize, Ambiguity)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.mode {
                Mode::Opaque => return Ok(()),
                Mode::Sized(left) => at += self.skip(left, rest.len(), Mode::Sized, Mode::Head),
                Mode::Chunk(left) => at += self.skip(left, rest.len(), Mode::Chunk, Mode::ChunkLine),
                Mode::Head | Mode::ChunkLine | Mode::Trailers => {
                    let end = rest.iter().position(|byte| *byte == b'\n');
                    let taken = end.map_or(rest.len(), |end| end + 1);
                    self.head_bytes += taken;
                    let bytes_max = if self.mode == Mode::ChunkLine {
                        CHUNK_LINE_BYTES_MAX
                    } else {
                        HEAD_BYTES_MAX
                    };
                    if self.head_bytes > bytes_max {
                        return Err((at, Ambiguity::TooLong));
                    }
                    self.line.extend_from_slice(&rest[..taken]);
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.line_done(trim_end(&line)).map_err(|fault| (at, fault))?;
                        // Keeps the allocation for the next line.
                        self.line = line;
                        self.line.clear();
                    }
                    at += taken;
                }
            }
        }
        Ok(())
    }

    fn skip(&mut self, left: u64, available: usize, same: fn(u64) -> Mode, then: Mode) -> usize {
        let taken = left.min(available as u64);
        self.mode = if taken == left { then } else { same(left - taken) };
        if self.mode == then {
            self.head_bytes = 0;
        }
        usize::try_from(taken).unwrap_or(available)
    }

    fn line_done(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return Err(Ambiguity::BareControl);
        }
        match self.mode {
            Mode::Head if self.lines == 0 => {
                // Empty lines before a request are allowed (RFC 9112, 2.2).
                if !line.is_empty() {
                    self.lines = 1;
                    self.opaque_next = line.starts_with(b"CONNECT ");
                }
                Ok(())
            }
            Mode::Head if line.is_empty() => {
                self.head_done();
                Ok(())
            }
            Mode::Head => self.header(line),
            Mode::Trailers if line.is_empty() => {
                self.next_head();
                Ok(())
            }
            Mode::Trailers => split_header(line).map(drop),
            Mode::ChunkLine => self.chunk(line),
            Mode::Sized(_) | Mode::Chunk(_) | Mode::Opaque => Ok(()),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        let (name, value) = split_header(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Ambiguity::Length);
            }
            if self.chunked {
                return Err(Ambiguity::TwoFramings);
            }
            self.length = Some(number(value, 10).ok_or(Ambiguity::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.length.is_some() {
                return Err(Ambiguity::TwoFramings);
            }
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguity::Coding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.opaque_next = true;
        }
        Ok(())
    }

    fn head_done(&mut self) {
        self.head_bytes = 0;
        if self.opaque_next {
            self.mode = Mode::Opaque;
        } else if self.chunked {
            self.mode = Mode::ChunkLine;
        } else {
            match self.length {
                None | Some(0) => self.next_head(),
                Some(length) => self.mode = Mode::Sized(length),
            }
        }
        (self.lines, self.length, self.chunked) = (0, None, false);
    }

    fn next_head(&mut self) {
        self.mode = Mode::Head;
        self.head_bytes = 0;
        self.lines = 0;
    }

    fn chunk(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = number(trim_spaces(size), 16).ok_or(Ambiguity::Chunk)?;
        self.head_bytes = 0;
        self.mode = match size.checked_add(2) {
            _ if size == 0 => Mode::Trailers,
            Some(with_end) => Mode::Chunk(with_end),
            None => return Err(Ambiguity::Chunk),
        };
        Ok(())
    }
}

fn split_header(line: &[u8]) -> Result<(&[u8], &[u8]), Ambiguity> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Ambiguity::Folding);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Ambiguity::Header)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || name.iter().any(|byte| byte.is_ascii_whitespace()) {
        return Err(Ambiguity::Header);
    }
    Ok((name, trim_spaces(value)))
}

/// Digits only: no sign, no space, no underscore.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| char::from(byte).is_digit(radix));
    plain.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn trim_spaces(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> Option<Ambiguity> {
        let whole = Framing::new().feed(text.as_bytes()).err().map(|(_, fault)| fault);
        let mut framing = Framing::new();
        let bytewise = text
            .bytes()
            .find_map(|byte| framing.feed(&[byte]).err().map(|(_, fault)| fault));
        assert_eq!(whole, bytewise, "the split must not matter: {text:?}");
        whole
    }

    #[test]
    fn clear_messages_pass() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\na\rb\0cGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\r\0\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding:\tChunked \r\n\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\n",
            "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\0\r\0 whatever",
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n\0\r\0 whatever",
        ] {
            assert_eq!(verdict(text), None, "{text:?}");
        }
    }

    #[test]
    fn ambiguous_messages_are_refused() {
        for (head, fault) in [
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked",
                Ambiguity::TwoFramings,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 1",
                Ambiguity::TwoFramings,
            ),
            ("Content-Length: 1\r\nContent-Length: 2", Ambiguity::Length),
            ("Content-Length: 1\r\nContent-Length: 1", Ambiguity::Length),
            ("Content-Length: 1, 1", Ambiguity::Length),
            ("Content-Length: +1", Ambiguity::Length),
            ("Content-Length: 0x1", Ambiguity::Length),
            ("Content-Length:", Ambiguity::Length),
            ("Content-Length: 99999999999999999999", Ambiguity::Length),
            ("Transfer-Encoding: gzip, chunked", Ambiguity::Coding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                Ambiguity::Coding,
            ),
            ("Transfer-Encoding: xchunked", Ambiguity::Coding),
            ("X: a\r\n b", Ambiguity::Folding),
            (" X: a", Ambiguity::Folding),
            ("X: a\rb", Ambiguity::BareControl),
            ("X: a\0b", Ambiguity::BareControl),
            ("Content-Length : 1", Ambiguity::Header),
            ("no colon", Ambiguity::Header),
            (": empty", Ambiguity::Header),
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n");
            assert_eq!(verdict(&text), Some(fault), "{head:?}");
        }
        for (chunks, fault) in [
            ("x\r\n", Ambiguity::Chunk),
            ("-1\r\n", Ambiguity::Chunk),
            ("\r\n", Ambiguity::Chunk),
            ("1 1\r\n", Ambiguity::Chunk),
            ("ffffffffffffffff\r\n", Ambiguity::Chunk),
            ("11111111111111111\r\n", Ambiguity::Chunk),
            ("1\rx\n", Ambiguity::BareControl),
            ("0\r\n x: folded\r\n\r\n", Ambiguity::Folding),
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert_eq!(verdict(&text), Some(fault), "{chunks:?}");
        }
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(verdict(&endless), Some(Ambiguity::TooLong));
    }
}
